# SPDX-License-Identifier: MIT
"""What the router tells of itself: the status topic, its health, dead letters as messages, `tocsin status`."""

import errno
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import TIMEOUT, until
from preloaded import preloaded
from router import ALL, Included, Router, config, file_service, links


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture(params=["broker", "mosquitto"])
def source(request, mosquitto, free_port):
    def make():
        return mosquitto() if request.param == "mosquitto" else Included(free_port())

    return make


class Watcher:
    """A client that follows the status."""

    def __init__(self, client, topic="tocsin/n1/status"):
        self.client = client.subscribe(topic)

    def until(self, condition, what="the status"):
        seen = []

        def found():
            seen.append(json.loads(self.client.get().payload))
            return condition(seen[-1])

        until(found, f"{what}, seen {[s.get('reasons') for s in seen]}")
        return seen[-1]

    def health(self, word):
        return self.until(lambda s: s.get("health") == word, word)


def ask(build, router, *options, **more):
    return subprocess.run([build / "tocsin", "status", "-c", router.config, *options], capture_output=True, text=True,
                          timeout=TIMEOUT, **more)


BROKEN = 'bad = { plugin = "exec"; targets = { x = { command = [ "/bin/false" ]; }; }; retry = { max_attempts = 1; }; };'
FAST = 'admin = { status_interval = "1s"; };\n'


@pytest.mark.threads
def test_status_is_retained_and_says_at_the_end_that_it_has_stopped(router, source, client, build):
    broker = source()
    router.start(FAST + config(router, broker, ALL)).ready()
    c = client(broker.port)
    status = Watcher(c)
    first = status.health("ok")
    assert (first["online"], first["node"], first["reasons"], first["store"]) == (True, "n1", [], {"durable": False})
    assert first["accounts"] == {"hold": True, "why": ""}
    c.publish("in/a", b"1")
    done = status.until(lambda s: s["router"]["received"] == 1 and s["deliveries"]["sent"] == 1)
    assert done["targets"]["file:out"] == {"created": 1, "sent": 1}
    assert done["links"]["broker" if isinstance(broker, Included) else "local"]["connected"]
    assert ask(build, router, "--check").stdout.startswith("TOCSIN OK - n1 is ok | received=1c ")
    assert router.run.stop() == 0
    last = status.health("stopped")
    assert not last["online"]
    assert last["deliveries"]["sent"] == 1 and last["deliveries"]["left"] == 0


def test_the_counters_of_the_log_have_the_names_of_the_status(router, source, client):
    broker = source()
    router.start(config(router, broker, ALL)).ready()
    status = Watcher(client(broker.port)).health("ok")
    router.run.send_signal(signal.SIGUSR1)
    line = router.run.wait_line("router received=")[0]
    assert re.findall(r"(\w+)=", line) == list(status["router"])
    line = router.run.wait_line("link ", start=0)[0]
    line = router.run.wait_line(" connected=1 ")[0]
    assert re.findall(r"(\w+)=", line) == list(*status["links"].values())


def test_own_status_is_no_message_for_routes(router, source, client):
    broker = source()
    router.start(FAST + config(router, broker, '{ topic = "#"; format = "{topic}"; targets = "file:out"; }')).ready()
    c = client(broker.port)
    status = Watcher(c)
    for _ in range(3):
        status.health("ok")
    c.publish("in/a", b"1")
    assert router.lines("out", 1) == [b"in/a"]


def test_topic_can_be_chosen_and_status_left_out(router, source, client):
    broker = source()
    router.start('admin = { topic = "home/bell"; };\n' + config(router, broker, ALL)).ready()
    Watcher(client(broker.port), "home/bell/status").health("ok")
    router.run.stop()
    router.start('admin = { enabled = false; };\n' + config(router, broker, ALL)).ready()
    c = client(broker.port).subscribe("tocsin/n1/status")
    assert c.get().payload == b'{"online":true}'
    c.publish("in/a", b"1")
    router.lines("out", 1)
    assert router.run.stop() == 0
    assert json.loads(c.get().payload) == {"online": False, "health": "stopped"}


def test_the_will_says_that_it_has_stopped(router, mosquitto, client, build):
    broker = mosquitto()
    router.start(config(router, broker, ALL)).ready()
    status = Watcher(client(broker.port))
    status.health("ok")
    router.run.kill()
    assert status.health("stopped")["reasons"] == ["the connection to the broker was lost"]
    said = ask(build, router, "--check")
    assert said.returncode == 2 and said.stdout.startswith("TOCSIN CRITICAL - it is stopped: the connection")


@pytest.mark.threads
def test_a_dead_letter_is_a_message_for_routes_and_subscribers(router, source, client):
    broker = source()
    routes = ('{ topic = "in/{what}"; targets = "bad:x"; }, '
              '{ topic = "tocsin/{node}/dead-letter/#"; format = "{service}:{target} {reason}: {json.text} {link}"; '
              'targets = [ "file:out", "bad:x" ]; }')
    router.start(config(router, broker, routes, BROKEN)).ready()
    c = client(broker.port)
    other = client(broker.port).subscribe("tocsin/n1/dead-letter/#")
    for i in range(3):
        c.publish("in/a", "ä" * 150 if i == 0 else f"{i}")
    lines = router.lines("out", 3)
    assert lines[1:] == [b"bad:x exit status 1: 1 internal", b"bad:x exit status 1: 2 internal"]
    assert lines[0].decode() == f"bad:x exit status 1: {'ä' * 100}… internal"
    # Subscribers see them, in the included broker or in that of the link; by which routes get none of them a second time.
    seen = [other.get() for _ in range(3)]
    assert {m.topic for m in seen} == {"tocsin/n1/dead-letter/bad/x"}
    letter = json.loads(seen[1].payload)
    assert (letter["topic"], letter["text"], letter["attempts"], letter["route"]) == ("in/a", "1", 1, "in/{what}")
    c.publish("in/a", b"3")  # behind which none of them can still be on its way
    router.lines("out", 4)
    # The letters' own deliveries to what rejects them make no further ones.
    until(lambda: router.run.text("err").count("delivery rejected") >= 1, "rejections")
    router.run.send_signal(signal.SIGUSR1)
    line = router.run.wait_line("router received=")[0]
    assert "received=8 internal=4 " in line
    assert len(router.lines("out", 4)) == 4
    assert router.run.stop() == 0


def test_two_routers_that_route_each_others_dead_letters_end(router, mosquitto, client, process, build, tmp_path):
    """A letter about a letter would be answered with another one, without end."""
    broker = mosquitto()
    (tmp_path / "two").mkdir()
    both = (router, Router(process, build, tmp_path / "two"))
    routes = '{ topic = "in/%s"; targets = "bad:x"; }, { topic = "home/+/dead-letter/#"; format = "{topic}"; targets = [ "bad:x", "file:out" ]; }'
    for r, name in zip(both, ("n1", "n2")):
        r.start(f'admin = {{ status_interval = "1s"; topic = "home/{name}"; }};\n' + config(r, broker, routes % name, BROKEN).replace('node = "n1"', f'node = "{name}"')).ready()
    c = client(broker.port)
    told = [Watcher(client(broker.port), f"home/{name}/status") for name in ("n1", "n2")]
    letters = client(broker.port).subscribe("home/+/dead-letter/#")
    c.publish("in/n1", b"1", 1)
    assert letters.get().topic == "home/n1/dead-letter/bad/x"
    assert router.lines("out", 1) == both[1].lines("out", 1) == [b"home/n1/dead-letter/bad/x"]
    c.publish("in/n2", b"1", 1)
    assert letters.get().topic == "home/n2/dead-letter/bad/x"
    for r in both:
        assert r.lines("out", 2)[1:] == [b"home/n2/dead-letter/bad/x"]
    for watcher in told:
        watcher.until(lambda s: s["deliveries"].get("rejected", 0) >= 3, "two letters and a message rejected")
    for r, watcher in zip(both, told):
        assert r.run.stop() == 0
        assert watcher.health("stopped")["deliveries"]["rejected"] == 3
    assert [len(r.lines("out", 2)) for r in both] == [2, 2]
    assert letters.messages.empty()


def test_dead_letters_wait_for_a_broker_that_is_away(router, mosquitto, client, tmp_path):
    here, there = mosquitto(), mosquitto("persistence true", f"persistence_location {tmp_path}/")
    router.start(f'''node = "n1"; links = ( {{ name = "first"; host = "127.0.0.1"; port = {there.port}; reconnect_min = "50ms";
        reconnect_max = "100ms"; }}, {{ name = "here"; host = "127.0.0.1"; port = {here.port}; }} );
        services = {{ {file_service(router.folder)} {BROKEN} }}; routes = ( {{ topic = "in/#"; link = "here"; targets = "bad:x"; }},
        {{ topic = "tocsin/{{node}}/dead-letter/#"; format = "{{json.text}}"; targets = "file:out"; }} );''')
    for link in ("first", "here"):
        router.run.wait_line(f"link {link}: subscribed")
    letters = client(there.port, "watch", v5=False, clean=False).subscribe("tocsin/n1/dead-letter/#")
    there.stop()
    router.run.wait_line("link first: connection lost side=sending")
    c = client(here.port)
    for i in range(50):
        c.publish("in/a", b"%d" % i, 1)
    assert len(router.lines("out", 50)) == 50
    there.start()
    assert [json.loads(letters.get().payload)["text"] for _ in range(50)] == [str(i) for i in range(50)]
    assert router.run.stop() == 0
    assert len(router.lines("out", 50)) == 50


def test_dead_letters_wait_for_a_connection_that_is_gone_in_between(router, mosquitto, client, build, tmp_path):
    broker, away = mosquitto(), tmp_path / "away"
    away.touch()
    router.start(config(router, broker, '{ topic = "in/#"; targets = "bad:x"; }, { topic = "tocsin/{node}/dead-letter/#"; '
                        'format = "{json.text}"; targets = "file:out"; }', BROKEN),
                 env=preloaded(build, "publish", PUBLISH_AWAY=str(away))).ready()
    c = client(broker.port)
    letters = client(broker.port).subscribe("tocsin/n1/dead-letter/#")
    for i in range(50):
        c.publish("in/a", b"%d" % i, 1)
    assert len(router.lines("out", 50)) == 50  # each has been handed to the link by then, but the last
    away.unlink()
    assert [json.loads(letters.get().payload)["text"] for _ in range(50)] == [str(i) for i in range(50)]
    assert router.run.stop() == 0
    assert letters.messages.empty()


def has_thread(run, name):
    return any(path.read_text().strip() == name for path in Path(f"/proc/{run.pid}/task").glob("*/comm"))


def writable(fifo):
    """Awaits that somebody reads there, and returns the descriptor."""
    found = []

    def opened():
        try:
            found.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as e:
            assert e.errno == errno.ENXIO
        return found

    until(opened, f"a reader of {fifo}")
    return found[0]


def test_a_dead_letter_of_the_end_is_told_once_by_the_next_start(router, source, client, tmp_path):
    broker = source()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    slow = BROKEN.replace("bad =", "slow =").replace('"/bin/false"', f'"/bin/sh", "-c", "read x < {fifo}; exit 1"')
    routes = ('{ topic = "in/slow"; targets = "slow:x"; }, { topic = "in/bad"; targets = "bad:x"; }, '
              '{ topic = "tocsin/{node}/dead-letter/#"; format = "{service} {json.text} {json.attempts} {reason}"; targets = "file:out"; }')
    router.start(f'store = {{ path = "{tmp_path}/db"; }};\n' + config(router, broker, routes, BROKEN + slow)).ready()
    letters = None
    if not isinstance(broker, Included):  # whose clients are not there yet when it has started
        letters = client(broker.port).subscribe("tocsin/n1/dead-letter/#")
    c = client(broker.port)
    c.publish("in/slow", b"late", 1)
    gate = writable(fifo)
    router.run.send_signal(signal.SIGTERM)
    until(lambda: not has_thread(router.run, "admin"), "that nobody can be told")
    os.close(gate)
    assert router.run.wait() == 0
    assert "dead letters at the end, of which the next start will tell: 1" in router.run.text("err")

    late = b"slow late 1 exit status 1"
    for expected in ([late, b"bad 1 1 exit status 1"], [late, b"bad 1 1 exit status 1", b"bad 2 1 exit status 1"]):
        router.start().ready()
        c = client(broker.port)
        router.lines("out", len(expected) - 1)
        c.publish("in/bad", b"%d" % (len(expected) - 1), 1)  # what would be told again is told by then
        assert router.lines("out", len(expected)) == expected
        assert router.run.stop() == 0
        assert router.lines("out", len(expected)) == expected
    if letters:
        assert [json.loads(letters.get().payload)["text"] for _ in range(3)] == ["late", "1", "2"]
        assert letters.messages.empty()


def test_dead_letters_are_told_until_they_are_dropped(router, source, client, build, tmp_path):
    broker = source()
    router.start(FAST + f'store = {{ path = "{tmp_path}/db"; }};\n' +
                 config(router, broker, '{ topic = "in/#"; targets = "bad:x"; }', BROKEN)).ready()
    c = client(broker.port)
    status = Watcher(c)
    assert status.health("ok")["store"]["durable"]
    c.publish("in/a", b"1")
    warned = status.health("warning")
    assert warned["reasons"] == ["dead letters wait for a person: 1 (tocsin queue list --dead)"]
    router.run.wait_line("health: warning: dead letters wait")
    said = ask(build, router, "--check")
    assert said.returncode == 1 and said.stdout.startswith("TOCSIN WARNING - n1: dead letters wait for a person: 1 (tocsin queue")
    subprocess.run([build / "tocsin", "queue", "drop", "-c", router.config], check=True, timeout=TIMEOUT)
    assert status.health("ok")["store"]["dead_letters"] == 0
    router.run.wait_line("health: ok")
    assert router.run.stop() == 0


@pytest.mark.threads
def test_the_table_leads_on_to_what_waits(router, source, client, build, tmp_path):
    broker = source()
    router.start(FAST + f'store = {{ path = "{tmp_path}/db"; }};\n' +
                 config(router, broker, '{ topic = "in/#"; targets = [ "bad:x", "down:out" ]; }',
                        BROKEN + f'down = {{ plugin = "file"; targets = {{ out = {{ path = "{tmp_path}/no/out"; }}; }}; '
                        'retry = { initial = "1h"; max = "1h"; }; };')).ready()
    c = client(broker.port)
    status = Watcher(c)
    status.health("ok")
    c.publish("in/a", b"1")
    status.until(lambda s: len(s["reasons"]) == 2)
    lines = ask(build, router).stdout.splitlines()
    at = next((i for i, line in enumerate(lines) if line.startswith("health      warning")), None)
    assert at is not None, lines
    assert all(re.match(r" {12}\S", line) for line in lines[at + 1:at + 3]) and lines[at + 3].startswith("messages ")
    assert lines[-1] == "`tocsin queue list --target down:out` shows what waits there, and why."
    assert "`tocsin" not in "".join(lines[at + 3:-1])


def test_a_full_disk_is_critical_until_there_is_room(router, source, client, build, tmp_path):
    broker = source()
    mood = tmp_path / "disk"
    mood.write_text("works")
    env = preloaded(build, "disk", DISK_PATH=str(tmp_path / "db"), DISK_MOOD=str(mood))
    router.start(FAST + f'store = {{ path = "{tmp_path}/db"; }};\n' +
                 config(router, broker, '{ topic = "in/#"; targets = "bad:x"; }', BROKEN.replace("max_attempts = 1",
                                                                                               'initial = "1m"')),
                 env=env).ready()
    c = client(broker.port)
    status = Watcher(c)
    status.health("ok")
    mood.write_text("full")
    c.publish("in/a", b"1", qos=0)
    critical = status.health("critical")
    assert "the store cannot be written" in critical["reasons"][0] and critical["store"]["in_trouble"]
    assert ask(build, router, "--check").returncode == 2
    size = sum(path.stat().st_size for path in (tmp_path / "db", tmp_path / "db-wal"))
    status.until(lambda s: s["store"]["bytes"] == size)
    assert f"CANNOT BE WRITTEN, {size // 1024} KiB with its log," in ask(build, router).stdout
    mood.write_text("works")
    assert status.until(lambda s: not s["store"]["in_trouble"])["health"] != "critical"


def test_a_link_that_is_not_connected_and_a_target_that_fails_are_told(router, mosquitto, client, build, free_port):
    broker, away = mosquitto(), mosquitto()
    router.start(FAST + f'''node = "n1"; links = ( {{ name = "here"; host = "127.0.0.1"; port = {broker.port}; }},
        {{ name = "there"; host = "127.0.0.1"; port = {away.port}; reconnect_min = "50ms"; reconnect_max = "100ms"; }} );
        services = {{ {file_service(router.folder)} nobody = {{ plugin = "republish"; link = "there";
          targets = {{ out = {{ topic = "out"; }}; }}; retry = {{ initial = "10ms"; max = "20ms"; }}; }}; }};
        routes = ( {{ topic = "in/#"; link = "here"; targets = "nobody:out"; }} );''').ready()
    c = client(broker.port)
    status = Watcher(c)
    status.health("ok")
    away.kill()
    assert status.health("critical")["reasons"] == ["link there is not connected"]
    c.publish("in/a", b"1")
    status.until(lambda s: "target nobody:out does not work, deliveries that wait: 1" in s["reasons"])
    table = ask(build, router).stdout
    assert "NOT CONNECTED" in table and re.search(r"nobody:out .* 1 .* does not work", table)
    away.start()
    status.health("ok")
    assert router.run.stop() == 0


def test_status_command_says_what_is_wrong(router, build, free_port, mosquitto):
    router.write(links(Included(free_port())))
    said = ask(build, router)
    assert said.returncode == 1 and "the daemon does not run, start it" in said.stderr
    said = ask(build, router, "--check")
    assert said.returncode == 2 and said.stdout.startswith("TOCSIN CRITICAL - the daemon does not run")
    router.write(links(free_port()))
    said = ask(build, router, "--check")
    assert said.returncode == 3 and said.stdout.startswith("TOCSIN UNKNOWN - the broker at 127.0.0.1 cannot be reached")
    router.write(links(mosquitto().port))
    said = ask(build, router, "--check", "--timeout", "1")
    assert said.returncode == 3 and "has nothing in the topic tocsin/n1/status" in said.stdout
    router.write("nonsense = ;")
    assert ask(build, router, "--check").returncode == 3
    assert ask(build, router, "--check", "--timeout", "x").returncode == 3
    assert ask(build, router, "--json", "--timeout", "0").returncode == 2
