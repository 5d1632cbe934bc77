# SPDX-License-Identifier: MIT
"""The plugin exec with real programs."""

import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest
from plugin_host import PluginError, PluginHost

pytestmark = pytest.mark.memory

# Writes what it was given as JSON to the file that is its first argument.
WITNESS = """
import json, os, signal, sys
descriptors = sorted(int(n) for n in os.listdir("/proc/self/fd"))
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
json.dump({
    "arguments": sys.argv[2:],
    "input": sys.stdin.buffer.read().hex(),
    "environment": dict(os.environ),
    "names": [v.split("=")[0] for v in open("/proc/self/environ", errors="replace").read().split("\\0")[:-1]],
    "descriptors": descriptors,
    "leads_group": os.getpgrp() == os.getpid(),
    "directory": os.getcwd(),
    "blocked": int(status["SigBlk"], 16),
}, open(sys.argv[1], "w"))
"""


@pytest.fixture
def exec_host():
    """exec_host(**options of the service) opens the plugin."""
    opened = []

    def make(env=None, **options):
        opened.append(PluginHost("exec", env=env, **options))
        return opened[-1]

    yield make
    for host in opened:
        host.close()


def run(host, target, **delivery):
    [result] = host.send({"target": target, **delivery})
    return result


@pytest.fixture
def witness(tmp_path):
    """witness(host, argument..., target={...}, **delivery) runs the witness; returns what it saw."""
    script = tmp_path / "witness.py"
    script.write_text(WITNESS)
    report = tmp_path / "report"

    def call(host, *arguments, target=None, **delivery):
        # -S: no site module, so that nothing but the standard descriptors is open.
        command = ["/usr/bin/python3", "-S", str(script), str(report), *arguments]
        result = run(host, {"command": command, **(target or {})}, **delivery)
        assert result["verdict"] == "sent", result
        return json.loads(report.read_text())

    return call


def is_alive(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_it(condition, what):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        threading.Event().wait(0.01)


# ---- What the program gets ----


def test_arguments_input_and_environment(exec_host, witness):
    seen = witness(
        exec_host(),
        "-x", "kitchen; rm -rf $HOME `id`", "a b", "ü", "",
        target={"environment": ["COLOUR=deep blue", "LANG=xx"]},
        topic="home/kitchen", payload="21.5", text="It is 21.5 °C", title="Title", severity="warning", priority=-1,
        route="r1", link="l1", target_name="t1", id="id-1", attempt=3, received_ms=1700000000123,
        fields=[["celsius", "21.5", "number"], ["a.b[0]", "x y", "string"], ["topic", "evil", "string"],
                ["ToPic", "evil", "string"], ["a_b.0.", "second", "string"], ["größe", "g", "string"],
                ["PATH", "evil", "string"], ["x" * 200, "too long", "string"]],
    )  # fmt: skip
    assert seen["arguments"] == ["-x", "kitchen; rm -rf $HOME `id`", "a b", "ü", ""]
    assert bytes.fromhex(seen["input"]).decode() == "It is 21.5 °C"
    assert len(seen["names"]) == len(set(seen["names"])), seen["names"]
    environment = seen["environment"]
    assert {k: v for k, v in environment.items() if k.startswith("TOCSIN_")} == {
        "TOCSIN_TOPIC": "home/kitchen",
        "TOCSIN_PAYLOAD": "21.5",
        "TOCSIN_TEXT": "It is 21.5 °C",
        "TOCSIN_TITLE": "Title",
        "TOCSIN_SEVERITY": "warning",
        "TOCSIN_PRIORITY": "-1",
        "TOCSIN_ROUTE": "r1",
        "TOCSIN_LINK": "l1",
        "TOCSIN_TARGET": "t1",
        "TOCSIN_ID": "id-1",
        "TOCSIN_ATTEMPT": "3",
        "TOCSIN_RECEIVED_MS": "1700000000123",
        "TOCSIN_CELSIUS": "21.5",
        "TOCSIN_A_B_0_": "x y",
        "TOCSIN_GR____E": "g",
        "TOCSIN_PATH": "evil",
    }
    assert environment["COLOUR"] == "deep blue"
    assert environment["LANG"] == "xx"
    assert environment["PATH"] == os.environ["PATH"]


def test_only_few_of_our_own_variables_are_handed_on(exec_host, witness):
    host = exec_host(env={"MAIL_PASSWORD": "secret", "TZ": "Europe/Berlin", "LD_DEBUG_OUTPUT": "/x"})
    environment = witness(host)["environment"]
    assert "MAIL_PASSWORD" not in environment and "LD_DEBUG_OUTPUT" not in environment
    assert environment["TZ"] == "Europe/Berlin"
    assert environment["TOCSIN_SEVERITY"] == environment["TOCSIN_PRIORITY"] == ""


def test_program_has_its_own_group_and_nothing_of_ours(exec_host, witness, tmp_path):
    seen = witness(exec_host(directory=str(tmp_path)))
    assert seen["leads_group"]
    assert seen["directory"] == str(tmp_path)
    assert seen["blocked"] == 0
    assert seen["descriptors"] == [0, 1, 2, 3], "3 is the directory being listed"


def test_descriptors_that_are_open_for_all_are_not_handed_on(witness):
    with open("/dev/null") as null, PluginHost("exec", pass_fds=[null.fileno()]) as host:
        assert witness(host)["descriptors"] == [0, 1, 2, 3]


def test_ignored_signals_are_not_handed_on(exec_host, tmp_path):
    status = tmp_path / "status"
    result = run(exec_host(), {"command": ["/bin/cp", "/proc/self/status", str(status)]})
    assert result["verdict"] == "sent", result
    [ignored] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigIgn:")]
    # plugin-host ignores SIGPIPE. 32 and 33 belong to the C library, which always sets them so.
    assert int(ignored, 16) & 0x7FFFFFFF == 0


@pytest.mark.parametrize(
    "option, more, want",
    [
        ("text", {"payload": "p", "text": "t"}, b"t"),
        ("payload", {"payload": "p", "text": "t"}, b"p"),
        ("none", {"payload": "p", "text": "t"}, b""),
        ("text", {"payload_hex": "ff00fe", "text": "\ufffd\ufffd\ufffd", "text_is_payload": True}, b"\xff\0\xfe"),
        ("payload", {"payload_hex": "ff00fe", "text": "t"}, b"\xff\0\xfe"),
        ("text", {"text": ""}, b""),
    ],
)
def test_standard_input(exec_host, witness, option, more, want):
    assert bytes.fromhex(witness(exec_host(), target={"stdin": option}, **more)["input"]) == want


def test_ten_mebibytes_of_input_are_exact(exec_host, tmp_path):
    payload = random.Random(1).randbytes(10 * 1024 * 1024)
    copy = tmp_path / "copy"
    target = {"shell": f"cat >{copy}", "stdin": "payload"}
    result = run(exec_host(), target, payload_hex=payload.hex(), text="t")
    assert result["verdict"] == "sent", result
    assert copy.read_bytes() == payload


def test_input_that_nobody_reads_does_no_harm(exec_host):
    host = exec_host()
    for command in (["/bin/true"], ["/bin/sh", "-c", "exec <&-; sleep 0.01"]):
        target = {"command": command, "stdin": "payload"}
        result = run(host, target, payload_hex="41" * (1 << 20), text="t")
        assert result["verdict"] == "sent", result


@pytest.mark.parametrize(
    "more, missing",
    [
        ({"payload_hex": "c3", "text": "t"}, ["TOCSIN_PAYLOAD"]),
        ({"payload_hex": "c3", "text": "t", "fields": [["payload", "evil", "string"]]}, ["TOCSIN_PAYLOAD"]),
        ({"payload_hex": "610062", "text": "t"}, ["TOCSIN_PAYLOAD"]),
        ({"payload": "x" * 65537, "text": "y" * 65537}, ["TOCSIN_PAYLOAD", "TOCSIN_TEXT"]),
        ({"payload": "x" * 65536, "text": "y" * 65536}, []),
        ({"payload": "", "text": ""}, []),
    ],
)
def test_what_does_not_fit_the_environment_is_left_out(exec_host, witness, more, missing):
    environment = witness(exec_host(), **more)["environment"]
    assert [n for n in ("TOCSIN_PAYLOAD", "TOCSIN_TEXT") if n not in environment] == missing


def test_too_much_environment_is_rejected(exec_host):
    host = exec_host()
    fields = [[f"f{i}", "x" * 60000, "string"] for i in range(20)]
    result = run(host, {"command": ["/bin/true"]}, fields=fields)
    assert result["verdict"] == "reject", result
    result = run(host, {"command": ["/bin/true", "x" * 200000]})
    assert result["verdict"] == "reject" and "too long" in result["reason"], result


def test_fields_can_be_left_out_and_are_bounded(exec_host, witness):
    host = exec_host()
    assert host.wants({"command": "/bin/true"}) == 1
    assert host.wants({"command": "/bin/true", "fields": False}) == 0
    fields = [[f"f{i}", "x", "string"] for i in range(20000)]
    environment = witness(host, fields=fields)["environment"]
    assert len([n for n in environment if n.startswith("TOCSIN_F")]) == 1000


# ---- Shell ----


def test_shell_sees_the_message_in_its_environment_only(exec_host, tmp_path):
    out = tmp_path / "out"
    evil = '$(touch pwned) `touch pwned` "; touch pwned; \' \\ {topic}'
    target = {"shell": f'printf "%s|%s" "$TOCSIN_TEXT" "{{topic}}" >{out}'}
    result = run(exec_host(directory=str(tmp_path)), target, text=evil, rendered={"shell": evil})
    assert result["verdict"] == "sent", result
    assert out.read_text() == evil + "|{topic}"
    assert not (tmp_path / "pwned").exists()


# ---- Verdicts ----


@pytest.mark.parametrize(
    "script, verdict, reason",
    [
        ("exit 0", "sent", ""),
        ("echo not shown >&2; exit 0", "sent", ""),
        ("exit 75", "retry", "exit status 75"),
        ("exit 1", "reject", "exit status 1"),
        ("exit 255", "reject", "exit status 255"),
        ("echo >&2; echo '  the disk is full' >&2; echo more >&2; exit 75", "retry", "exit status 75: the disk is full"),
        ("printf 'a\\033[31m\\377b' >&2; exit 2", "reject", "exit status 2: a?[31m?b"),
        ("kill -SEGV $$", "reject", "killed by signal 11"),
        ("kill -ABRT $$", "reject", "killed by signal 6"),
        ("kill -TERM $$", "retry", "killed by signal 15"),
        ("kill -KILL $$", "retry", "killed by signal 9"),
        ("echo on standard output; exit 3", "reject", "exit status 3"),
        ("no-such-program-here", "reject", "exit status 127: /bin/sh: 1: no-such-program-here: not found"),
    ],
)
def test_exit_statuses_and_verdicts(exec_host, script, verdict, reason):
    result = run(exec_host(), {"shell": script}, text="x")
    assert (result["verdict"], result["reason"]) == (verdict, reason)


def test_a_flood_of_errors_is_cut(exec_host):
    result = run(exec_host(), {"shell": "head -c 5000000 /dev/zero | tr '\\0' e >&2; exit 1"})
    assert result["verdict"] == "reject"
    assert result["reason"].startswith("exit status 1: eeee") and len(result["reason"]) < 160


@pytest.mark.parametrize("command", ["/nonexistent/program", "no-such-program-here", "/etc", "/etc/passwd"])
def test_program_that_cannot_be_run_is_tried_again(exec_host, command):
    host = exec_host()
    result = run(host, {"command": [command]})
    assert result["verdict"] == "retry" and command in result["reason"], result
    assert run(host, {"command": ["true"]})["verdict"] == "sent", "found in PATH"


def test_directory_that_is_gone_is_tried_again(exec_host, tmp_path):
    host = exec_host(directory=str(tmp_path / "gone"))
    assert run(host, {"command": ["/bin/true"]})["verdict"] == "retry"
    (tmp_path / "gone").mkdir()
    assert run(host, {"command": ["/bin/true"]})["verdict"] == "sent"


# ---- Time limits, and what is left behind ----


def pids(path, count):
    await_it(lambda: path.exists() and len(path.read_text().split()) >= count, "the pids")
    return [int(word) for word in path.read_text().split()]


def test_time_limit_ends_the_whole_group(exec_host, tmp_path):
    file = tmp_path / "pids"
    script = f"sleep 1000 & echo $! >>{file}; sh -c 'echo $$ >>{file}; sleep 1000; true'; wait"
    result = run(exec_host(timeout="300ms"), {"shell": f"echo hanging >&2; {script}"})
    assert result["verdict"] == "retry", result
    assert result["reason"] == "not done in 300 ms: hanging"
    for pid in pids(file, 2):
        await_it(lambda: not is_alive(pid), f"the end of {pid}")


def test_group_that_ends_on_sigterm_may_clean_up(exec_host, tmp_path):
    child = f'trap "echo cleaned >{tmp_path}/note; exit 0" TERM; sleep 1000 & wait'
    script = f"trap : TERM; sh -c '{child}' & wait; wait; exit 0"
    result = run(exec_host(timeout="300ms", grace="20s"), {"shell": script})
    assert result["verdict"] == "retry", result
    assert (tmp_path / "note").read_text() == "cleaned\n"


def test_program_that_ignores_sigterm_is_killed(exec_host, tmp_path):
    file = tmp_path / "pids"
    script = f"trap '' TERM; echo $$ >{file}; while true; do sleep 0.05; done"
    result = run(exec_host(timeout="300ms", grace="100ms"), {"shell": script})
    assert result["verdict"] == "retry", result
    [pid] = pids(file, 1)
    assert not os.path.exists(f"/proc/{pid}"), "reaped as well"


def test_children_left_behind_are_ended(exec_host, tmp_path):
    file = tmp_path / "pids"
    result = run(exec_host(), {"shell": f"trap '' TERM HUP; sleep 1000 & echo $! >{file}; exit 0"})
    assert result["verdict"] == "sent", result
    [pid] = pids(file, 1)
    await_it(lambda: not is_alive(pid), "the end of the child")


def test_nothing_is_left_over_after_many_runs(exec_host):
    host = exec_host(timeout="50ms", grace="0")

    def state():
        me = host.process.pid
        children = open(f"/proc/{me}/task/{me}/children").read().split()
        return len(os.listdir(f"/proc/{me}/fd")), children

    run(host, {"command": ["/bin/true"]})
    before = state()
    for script in ["exit 0", "exit 1", "sleep 1000", "sleep 1000 & exit 0", "kill -9 $$"] * 4:
        run(host, {"shell": script}, text="x")
    run(host, {"command": ["/nonexistent"]})
    assert state() == before and before[1] == []


def test_statuses_count_even_if_sigchld_was_ignored_by_whoever_started_us():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        host = PluginHost("exec")
    finally:
        signal.signal(signal.SIGCHLD, before)
    with host:
        assert run(host, {"shell": "exit 3"})["verdict"] == "reject"


# ---- Checks ----


@pytest.mark.parametrize(
    "target, word",
    [
        ({}, "missing"),
        ({"command": []}, "missing"),
        ({"command": ["/bin/true"], "shell": "true"}, "exclude"),
        ({"command": ["{program}"]}, "choose the program"),
        ({"command": ["/usr/lib/{program}", "x"]}, "choose the program"),
        ({"command": ["bin/true"]}, "absolute"),
        ({"command": ["./true"]}, "absolute"),
        ({"command": [""]}, "absolute"),
        ({"shell": ""}, "empty"),
        ({"command": "/bin/true", "environment": ["X"]}, "NAME=value"),
        ({"command": "/bin/true", "environment": ["=x"]}, "NAME=value"),
        ({"command": "/bin/true", "environment": ["1X=x"]}, "NAME=value"),
        ({"command": "/bin/true", "environment": ["A B=x"]}, "NAME=value"),
        ({"command": "/bin/true", "environment": ["A=1", "TOCSIN_TEXT=x"]}, "TOCSIN_"),
    ],
)
def test_target_that_cannot_work_is_refused(exec_host, target, word):
    assert word in exec_host().check_target(target)


def test_targets_that_work(exec_host):
    host = exec_host()
    for target in ({"command": ["/bin/echo", "{text}", "--{a.b}--"]}, {"command": "logger"}, {"shell": "a {b} ${c}"},
                   {"command": "/bin/true", "environment": ["A=", "_b1=x=y"]}):  # fmt: skip
        assert host.check_target(target) is None, target


def test_service_that_cannot_work_is_refused():
    with pytest.raises(PluginError, match="absolute"):
        PluginHost("exec", directory="tmp")


# ---- By the router's own commands ----


def tocsin(build, tmp_path, target, *command):
    config = tmp_path / "tocsin.conf"
    config.write_text(
        'links = ( { name = "local"; host = "127.0.0.1"; port = 1; } );\n'
        f'services = {{ programs = {{ plugin = "exec"; targets = {{ it = {{ {target} }}; }}; }}; }};\n'
        'routes = ( { topic = "a/{room}"; targets = "programs:it"; } );\n'
    )
    return subprocess.run([build / "tocsin", *command[:1], "-c", config, *command[1:]], capture_output=True, text=True)


def test_check_finds_a_program_that_a_message_would_choose(build, tmp_path):
    found = tocsin(build, tmp_path, 'command = [ "{room}", "x" ];', "check")
    assert found.returncode == 1
    assert "no message may choose the program" in found.stdout + found.stderr
    found = tocsin(build, tmp_path, 'command = [ "/bin/echo", "{room}" ];', "check")
    assert found.returncode == 0, found


def test_send_runs_the_program(build, tmp_path):
    out = tmp_path / "out"
    done = tocsin(build, tmp_path, f'command = [ "/usr/bin/tee", "{out}" ];', "send", "programs:it", "hello, it")
    assert done.returncode == 0, done
    assert out.read_text() == "hello, it"
    failed = tocsin(build, tmp_path, 'shell = "echo no room >&2; exit 75";', "send", "programs:it", "x")
    assert failed.returncode == 75 and "exit status 75: no room" in failed.stdout + failed.stderr, failed


@pytest.mark.threads
def test_workers_run_programs_side_by_side(build, tmp_path, process, mosquitto, client):
    broker = mosquitto()
    config = tmp_path / "tocsin.conf"
    out = tmp_path / "out"
    # Each program waits until four of them have come to the gate, so one worker alone would never get done.
    gate = tmp_path / "gate"
    gate.mkdir()
    script = (
        f"touch {gate}/$TOCSIN_ID; "
        f"while [ $(ls {gate} | wc -l) -lt 4 ]; do sleep 0.05; done; "
        f"echo $TOCSIN_ROOM >>{out}"
    )
    config.write_text(
        f'links = ( {{ name = "local"; host = "127.0.0.1"; port = {broker.port}; }} );\n'
        'services = { programs = { plugin = "exec"; workers = 4; '
        f'targets = {{ it = {{ shell = "{script}"; }}; }}; }}; }};\n'
        'routes = ( { topic = "rooms/{room}"; targets = "programs:it"; } );\n'
    )
    router = process([build / "tocsin", "run", "-c", config])
    router.wait_line("subscribed")
    c = client(broker.port)
    for i in range(24):
        c.publish(f"rooms/{i}", b"x")
    await_it(lambda: out.exists() and len(out.read_text().split()) == 24, "24 lines")
    assert sorted(out.read_text().split(), key=int) == [str(i) for i in range(24)]
    assert router.stop() == 0
