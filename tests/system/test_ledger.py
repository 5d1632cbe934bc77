# SPDX-License-Identifier: MIT
"""What became of messages: the ledger, `tocsin why` and `tocsin ledger`."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess

import pytest
from conftest import until
from router import Included, Router, config

SERVICES = """
down = {{ plugin = "file"; retry = {{ initial = "20ms"; max = "50ms"; {retry} }};
          targets = {{ out = {{ path = "{folder}/later/out"; }}; }}; }};
run = {{ plugin = "exec"; targets = {{ it = {{ command = [ "/bin/sh", "-c", "exit 75" ]; }}; }}; retry = {{ max_attempts = 2; initial = "10ms"; max = "20ms"; }}; }};
no = {{ plugin = "exec"; targets = {{ it = {{ command = [ "/bin/false" ]; }}; }}; }};
"""
ROUTES = """
{ name = "hot"; topic = "in/#"; when = "value > 20"; targets = "file:out"; },
{ name = "doc"; topic = "in/json"; decode = "json"; targets = "file:out"; },
{ name = "wrong"; topic = "in/wrong"; when = "value.x.y > 1"; targets = "file:out"; },
{ name = "lost"; topic = "in/lost"; targets = "file:{nothing?nowhere}"; },
{ name = "first"; topic = "stop/#"; stop = true; targets = "file:out"; },
{ name = "second"; topic = "stop/#"; targets = "file:out"; },
{ name = "once"; topic = "kept/#"; retained = "skip"; targets = "file:out"; },
{ name = "down"; topic = "down/#"; targets = "down:out"; },
{ name = "quiet"; topic = "quiet/#"; ledger = "none"; targets = "file:out"; },
{ name = "sent"; topic = "sent/#"; ledger = "deliveries"; when = "value > 20"; targets = "file:out"; }
"""


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture
def broker(free_port):
    return Included(free_port(), {})


def start(router, broker, ledger="", retry="", routes=ROUTES):
    services = SERVICES.format(folder=router.folder, retry=retry)
    head = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\nledger = {{ {ledger} }};\nlog_level = "debug"; drain = "200ms";\n'
    return router.start(head + config(router, broker, routes, services)).ready()


def tocsin(router, *args, status=0):
    done = subprocess.run([router.build / "tocsin", *args, "-c", router.config], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    assert done.returncode == status, done.stderr
    return done.stdout.decode() if status == 0 else done.stderr.decode()


def entries(router, *args):
    return [json.loads(line) for line in tocsin(router, "ledger", "--json", *args).splitlines()]


def awaited(router, topic, state=None, count=1):
    """Awaits that messages of a topic are noted, and all their deliveries stand so."""
    def look():
        found = entries(router, "--topic", topic, "--last", "10000")
        done = all(d["state"] == state for e in found for d in e["deliveries"])
        return found if len(found) == count and (state is None or done) else None
    return until(look, f"{count} entries of {topic}")


def events(delivery):
    return [e["event"] for e in delivery["events"]]


def verdicts(entry):
    return {d["route"]: d["verdict"] for d in entry["decisions"]}


def test_decisions_are_told_with_their_reasons(router, broker, client):
    start(router, broker)
    c = client(broker.port)
    for topic, payload in (("in/a", b"10"), ("in/b", b"30"), ("in/json", b"30 {"), ("in/wrong", b"7"), ("in/lost", b"1"),
                           ("stop/a", b"x")):
        c.publish(topic, payload, 1)

    assert verdicts(awaited(router, "in/a")[0]) == {"hot": "`when` was false"}
    text = tocsin(router, "why", "--topic", "in/a")
    assert 'topic in/a' in text and "by link broker with QoS 1 and 2 bytes" in text
    assert 'route "hot": `when` was false: value > 20' in text and "So nothing was sent." in text

    entry = awaited(router, "in/b", "done")[0]
    assert (entry["link"], entry["qos"], entry["size"]) == ("broker", 1, 2)
    assert [events(d) for d in entry["deliveries"]] == [["sent"]]
    text = tocsin(router, "why", str(entry["number"]))
    assert 'To file:out (route "hot", id' in text and "attempt 1: sent" in text

    assert verdicts(awaited(router, "in/json")[0])["doc"] == "the payload does not decode"
    assert 'route "doc": the payload does not decode: ' in tocsin(router, "why", "--topic", "in/json")
    assert verdicts(awaited(router, "in/wrong")[0])["wrong"] == "an expression failed"
    assert {"route": "lost", "verdict": "there is no such target", "target": "file:nowhere"} in awaited(
        router, "in/lost")[0]["decisions"]
    assert 'there is no target "file:nowhere"' in tocsin(router, "why", "--topic", "in/lost")
    assert verdicts(awaited(router, "stop/a")[0]) == {"first": "dispatched", "second": "a route before it said stop"}
    assert router.run.stop() == 0


def test_the_id_in_the_log_leads_to_the_message(router, broker, client):
    start(router, broker)
    client(broker.port).publish("in/b", b"30", 1)
    line, _ = router.run.wait_line("delivery sent target=out")
    delivery = re.search(r" id=(\S+)", line)[1]
    awaited(router, "in/b", "done")
    assert "topic in/b" in tocsin(router, "why", delivery)
    assert json.loads(tocsin(router, "why", delivery, "--json"))["deliveries"][0]["id"] == delivery
    assert "topic in/b" in tocsin(router, "why")


def test_routes_that_do_not_match_are_named(router, broker, client):
    """By the configuration as it is when one asks; the nearest, or all of them."""
    many = "".join(f', {{ name = "far{i}"; topic = "far/{i}"; targets = "file:out"; }}' for i in range(20))
    near = ', { name = "near"; topic = [ "x/y", "in/+/c" ]; targets = "file:out"; }'
    start(router, broker, routes=ROUTES + near + many)
    c = client(broker.port)
    c.publish("in/b", b"10", 1)
    c.publish("in/json", b"10", 1)
    awaited(router, "in/json")
    text = tocsin(router, "why", "--topic", "in/b")
    lines = text.splitlines()
    assert lines[1:4] == ["Of 31 routes, this one matched its topic:", '  route "hot": `when` was false: value > 20',
                          "Routes that do not match it, by the configuration as it is now:"]
    assert lines[4] == '  route "near": does not match, its topic is x/y, in/+/c'
    assert lines[5:] == ['  route "doc": does not match, its topic is in/json', '  route "wrong": does not match, its topic is in/wrong',
                         '  route "lost": does not match, its topic is in/lost', "  26 more: --all names them", "So nothing was sent."]
    assert tocsin(router, "why", "--topic", "in/b", "--all").count(": does not match") == 30
    found = json.loads(tocsin(router, "why", "--topic", "in/b", "--json"))
    assert len(found["other_routes_now"]) == 30
    assert found["other_routes_now"][0] == {"route": "near", "verdict": "the topic does not match", "filters": ["x/y", "in/+/c"]}
    assert 'route "doc"' not in tocsin(router, "why", "--topic", "in/json", "--all").split("Routes that")[1].split("delivery:")[0]

    # Another configuration: it is told that it is another one, and a route that matches now is no lie about then.
    config = router.config.read_text()
    router.write(config.replace('topic = "far/0"; ', 'topic = "in/#"; ').replace('topic = "far/1"; ', 'topic = "in/b"; link = "internal"; ')
                 .replace('topic = "far/2"; ', 'topic = "in/b"; ledger = "none"; '))
    lines = tocsin(router, "why", "--topic", "in/b").splitlines()
    assert lines[3:7] == ["Other routes, by the configuration as it is now, which was changed since then:",
                          '  route "far2": matches, and may have run: its option `ledger`, or the group\'s, says that this is not noted',
                          '  route "far0": matches now, so it was added or changed since', '  route "far1": listens to link internal only']
    # What cannot be used is no reason to tell nothing.
    router.write(config.replace('targets = "down:out"', 'targets = "nobody"'))
    assert "cannot be used as it is now; `tocsin check` says why" in tocsin(router, "why", "--topic", "in/b")
    assert "other_routes_now" not in json.loads(tocsin(router, "why", "--topic", "in/b", "--json"))


def test_a_topic_without_a_record_is_looked_up_in_the_routes(router, broker):
    start(router, broker)
    text = tocsin(router, "why", "--topic", "in", status=1)
    assert ('By the configuration as it is now, it matches:\n  route "hot": its topic is in/#\nIt may be that:\n- It never came: '
            "`tocsin sub -t 'in'` shows what comes") in text
    text = tocsin(router, "why", "--topic", "in/json", status=1)
    assert 'it matches:\n  route "doc": its topic is in/json\n  route "hot": its topic is in/#\nIt may be' in text
    assert ('it matches:\n  route "quiet": its topic is quiet/#; its option `ledger`, or the group\'s, leaves messages out\n'
            in tocsin(router, "why", "--topic", "quiet/x", status=1))
    text = tocsin(router, "why", "--topic", "far/away", status=1)
    assert ("it matches none of 10 routes:\n  10 of topics not like it: --all names them\nIt may be that:\n- It matched no route, and "
            "ledger.unmatched is false. `tocsin explain 'far/away' PAYLOAD`") in text
    text = tocsin(router, "why", "--topic", "far/away", "--all", status=1)
    assert text.count(": does not match, its topic is ") == 10
    assert "By the configuration" not in tocsin(router, "why", "--topic", "in/+", status=1)


def test_a_number_of_the_queue_leads_to_the_message(router, broker, client):
    """As long as it is there, and afterwards."""
    start(router, broker, routes=ROUTES + ', { name = "cmd"; topic = "run/#"; targets = "run"; }')
    c = client(broker.port)
    for i in range(3):
        c.publish(f"run/{i}", b"1", 1)
    c.publish("down/a", b"1", 1)
    awaited(router, "run/+", "dead", 3)
    listed = [json.loads(line) for line in tocsin(router, "queue", "list", "--json").splitlines()]
    assert {e["topic"] for e in listed} == {"run/0", "run/1", "run/2", "down/a"}
    for e in listed:
        found = json.loads(tocsin(router, "why", "--queue", str(e["number"]), "--json"))
        assert (found["topic"], found["deliveries"][0]["number"]) == (e["topic"], e["number"])
    # Who gives such a number as that of a message is told, but only if there is one.
    with contextlib.closing(sqlite3.connect(router.path("store/tocsin.db"))) as db, db:
        db.execute("UPDATE delivery SET number = 4712 WHERE number = ?", [listed[0]["number"]])
    said = tocsin(router, "why", "4712", status=1)
    assert "there is no message 4712 in the ledger, whose last number is " in said and "`tocsin why --queue 4712`" in said
    assert "--queue" not in tocsin(router, "why", "4713", status=1)
    dropped = next(e["number"] for e in listed if e["topic"] == "run/1")
    tocsin(router, "queue", "drop", str(dropped))
    assert "topic run/1" in tocsin(router, "why", "-q", str(dropped))
    assert "neither the queue nor the ledger knows a delivery 4711" in tocsin(router, "why", "--queue", "4711", status=1)
    for wrong in (["--queue", "0"], ["--queue", "x"], ["--queue", "1", "2"], ["--queue", "1", "--last"], ["--queue"]):
        tocsin(router, "why", *wrong, status=2)


def test_last_without_a_number_is_one(router, broker, client):
    start(router, broker)
    c = client(broker.port)
    for i in range(3):
        c.publish(f"in/{i}", b"1", 1)
    awaited(router, "in/+", count=3)
    def told(*args):
        return re.findall(r"^Message .* topic (\S+),", tocsin(router, "why", *args), re.MULTILINE)
    for args in (["--last"], ["-n"], ["--last", "1"], []):
        assert told(*args) == ["in/2"]
    assert told("--last", "--topic", "in/1") == ["in/1"]
    for args in (["--last", "2"], ["--last=2"], ["-n", "2"], ["-n2"]):
        assert told(*args) == ["in/1", "in/2"]
    tocsin(router, "why", "--last", "-2", status=2)


def test_what_is_not_found_is_explained(router, broker, client):
    start(router, broker)
    until(lambda: "is empty" not in tocsin(router, "why", status=1), "the daemon's beginning in the ledger")
    text = tocsin(router, "why", "--topic", "else/a", status=1)
    assert "It matched no route, and ledger.unmatched is false. `tocsin explain 'else/a' PAYLOAD`" in text
    assert "Try again" in text
    assert "no delivery 123-4" in tocsin(router, "why", "123-4", status=1)
    assert "no message 4711 in the ledger, whose last number is 1 so far" in tocsin(router, "why", "4711", status=1)
    def listed(*args):
        return subprocess.run([router.build / "tocsin", "ledger", *args, "-c", router.config], capture_output=True, text=True)
    assert "there is nothing like that in it; `tocsin why --topic TOPIC`" in listed("--topic", "else/a").stderr
    assert listed("--topic", "else/a").returncode == 0 and listed("--topic", "else/a", "--json").stderr == ""
    for args in (["--topic", "a/#/b"], ["--last", "0"], ["--last", "x"], ["12", "--topic", "a"], ["0"], [""]):
        tocsin(router, "why", *args, status=2)
    for args in (["--topic", "a/#/b"], ["--last", "0"], ["--since", "yesterday"]):
        tocsin(router, "ledger", *args, status=2)
    router.write(config(router, broker, ROUTES, SERVICES.format(folder=router.folder, retry="")))
    for command in ("why", "ledger"):
        assert "there is no ledger: write store = { }" in tocsin(router, command, status=1)


def test_routes_say_what_is_kept(router, broker, client):
    start(router, broker)
    c = client(broker.port)
    for topic, payload in (("quiet/a", b"1"), ("sent/no", b"1"), ("sent/yes", b"30"), ("in/b", b"30")):
        c.publish(topic, payload, 1)
    awaited(router, "in/b", "done")
    assert [e["topic"] for e in entries(router)] == ["sent/yes", "in/b"]
    assert [e["topic"] for e in entries(router, "--route", "sent")] == ["sent/yes"]
    assert [e["topic"] for e in entries(router, "--target", "file:out", "--since", "1h")] == ["sent/yes", "in/b"]
    assert entries(router, "--target", "file:other") == [] and entries(router, "--target", "down") == []
    assert [e["topic"] for e in entries(router, "--last", "1")] == ["in/b"]


def test_the_group_says_what_is_kept_and_a_reload_changes_it(router, broker, client):
    start(router, broker, ledger='keep = "none";')
    c = client(broker.port)
    c.publish("in/b", b"30", 1)
    c.publish("sent/yes", b"30", 1)
    awaited(router, "sent/yes", "done")
    assert entries(router, "--topic", "in/#") == []
    assert 'ledger.keep = "none"' in tocsin(router, "why", "--topic", "in/b", status=1)
    router.write(router.config.read_text().replace('keep = "none";', 'keep = "all"; max_age = "2d";'))
    router.run.child.send_signal(signal.SIGHUP)
    router.run.wait_line("reloaded")
    c.publish("in/c", b"3", 1)
    assert verdicts(awaited(router, "in/c")[0]) == {"hot": "`when` was false"}


def test_retries_dead_letters_and_what_to_do_are_told(router, broker, client):
    routes = ROUTES + ', { name = "cmd"; topic = "run"; targets = "run"; }'
    start(router, broker, routes=routes)
    c = client(broker.port)
    c.publish("down/a", b"1", 1)
    c.publish("run", b"1", 1)
    entry = until(lambda: next((e for e in entries(router, "--topic", "down/a") if len(e["deliveries"][0]["events"]) > 3), None),
                  "some attempts")
    assert entry["deliveries"][0]["state"] == "waiting" and set(events(entry["deliveries"][0])) == {"retry"}
    text = tocsin(router, "why", "--topic", "down/a")
    assert "attempt 1: failed, to be tried again: path=" in text and "failed the same way" in text
    assert f"`tocsin queue show {entry['deliveries'][0]['number']}`" in text

    dead = awaited(router, "run", "dead")[0]["deliveries"][0]
    assert events(dead) == ["retry", "given up"]
    text = tocsin(router, "why", "--topic", "run")
    assert f"It is a dead letter: `tocsin queue retry {dead['number']}`" in text
    subprocess.run([router.build / "tocsin", "queue", "drop", str(dead["number"]), "-c", router.config], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert "not kept any more" in tocsin(router, "why", "--topic", "run")

    router.path("later").mkdir()
    sent = awaited(router, "down/a", "done")[0]["deliveries"][0]
    assert events(sent)[-1] == "sent" and sent["events"][-1]["attempt"] > 4
    assert router.run.stop() == 0


def test_the_ledger_goes_on_after_a_restart(router, broker, client):
    start(router, broker)
    c = client(broker.port)
    c.publish("down/a", b"1", 1)
    router.run.wait_line("will be tried again")
    assert router.run.stop() in (0, 2)
    before = awaited(router, "down/a")[0]
    assert before["deliveries"][0]["state"] == "waiting"

    router.path("later").mkdir()
    router.start().ready()
    after = awaited(router, "down/a", "done")[0]
    assert after["number"] == before["number"] and events(after["deliveries"][0])[-1] == "sent"
    client(broker.port).publish("in/b", b"30", 1)
    assert awaited(router, "in/b", "done")[0]["number"] > after["number"]


@pytest.mark.threads
def test_after_kill_9_the_ledger_agrees_with_the_deliveries(router, broker, client):
    """Whatever is on disk is in the ledger, with as many attempts; what the ledger says was sent is in the file."""
    start(router, broker)
    c = client(broker.port)
    for i in range(300):
        c.publish_soon(f"down/{i % 7}", b"%d" % i, 1)
        c.publish_soon(f"in/{i % 7}", b"%d" % (i + 100), 1)
    c.publish("down/7", b"300", 1)
    router.run.kill()
    router.run.wait()

    found = entries(router, "--last", "10000")
    with contextlib.closing(sqlite3.connect(router.path("store/tocsin.db"))) as db:
        rows = db.execute("SELECT number, attempts, record FROM delivery").fetchall()
    deliveries = {d["id"].encode(): d for e in found for d in e["deliveries"]}
    assert len(rows) >= 301
    for number, attempts, record in rows:
        d = deliveries[re.search(rb"^\x01\x01.([0-9a-f-]+)", record)[1]]
        assert (d["number"], len(d["events"])) == (number, attempts) and d["state"] == "waiting" or d["service"] == "file"
    lines = router.path("out").read_bytes().split(b"\n")[:-1]
    sent = sum(events(d).count("sent") for d in deliveries.values())
    assert 0 <= sent <= len(lines)
    text = tocsin(router, "why", "--topic", "down/7")
    assert "It waits on disk" in text

    router.path("later").mkdir()
    router.start().ready()
    for entry in awaited(router, "down/#", "done", 301):
        assert events(entry["deliveries"][0])[-1] == "sent"
    assert router.run.stop() == 0


@pytest.mark.threads
@pytest.mark.parametrize("topic", ["down/a", "run/a", "both/a"])
def test_what_is_on_disk_is_in_the_ledger_right_after_its_acknowledgement(router, broker, client, topic):
    """What waits, what is dead at once, and what is sent and waits: the acknowledgement waited for a commit, and in that it was."""
    routes = ROUTES + (', { name = "cmd"; topic = "run/#"; targets = "no"; }'
                       ', { name = "both"; topic = "both/#"; targets = [ "file:out", "down:out" ]; }')
    start(router, broker, routes=routes)
    router.run.stop()
    for i in range(8):
        router.start().ready()
        client(broker.port).publish(f"{topic}/{i}", b"1", 1)
        router.run.kill()
        router.run.wait()
        entry = json.loads(tocsin(router, "why", "--last", "--json"))
        assert entry["topic"] == f"{topic}/{i}"
        waiting = entry["deliveries"][-1]
        assert waiting["state"] in ("waiting", "dead") and waiting["number"] > 0
        assert "rejected" in events(waiting) or waiting["state"] == "waiting"
        text = tocsin(router, "why", "--queue", str(waiting["number"]))
        assert f"topic {topic}/{i}" in text and f"`tocsin queue show {waiting['number']}`" in text


def test_what_was_in_memory_only_is_told_to_be_lost(router, broker, client):
    start(router, broker)
    c = client(broker.port)
    c.publish("in/b", b"30", 1)
    awaited(router, "in/b", "done")
    # As if the daemon had been killed with something of QoS 0 in a queue.
    router.run.kill()
    router.run.wait()
    with contextlib.closing(sqlite3.connect(router.path("store/tocsin.db"))) as db, db:
        db.execute("DELETE FROM ledger WHERE number > (SELECT min(number) FROM ledger WHERE entries > 0)")
        sheets = db.execute("SELECT sheets FROM ledger WHERE entries > 0").fetchone()[0]
        length = 5 + int.from_bytes(sheets[1:5], "little")
        db.execute("UPDATE ledger SET sheets = ? WHERE entries > 0", (sheets[:length],))
    assert "the daemon that had it in memory has ended" in tocsin(router, "why", "--topic", "in/b")


def test_old_entries_go_in_small_steps(router, broker, client):
    start(router, broker, ledger='max_size = "64KiB";')
    c = client(broker.port)
    for i in range(40):
        for j in range(50):
            c.publish_soon(f"in/{'x' * 80}/{j}", b"30", 1)
        c.publish("in/b", b"%d" % i, 1)

    def size():
        with contextlib.closing(sqlite3.connect(router.path("store/tocsin.db"))) as db:
            return db.execute("SELECT ifnull(sum(bytes), 0), min(number), max(number) FROM ledger").fetchone()

    until(lambda: size()[0] <= 65536 and size()[1] > 1, "a small ledger")
    assert "message 1 in the ledger: it is older than what is kept, which goes back to 20" in tocsin(router, "why", "1", status=1)
    c.publish("in/b", b"30", 1)  # what was kept last may be attempts only
    until(lambda: entries(router, "--last", "1"), "an entry")
    assert router.run.stop() == 0
    assert size()[0] <= 65536


def test_age_ends_what_is_kept_without_traffic(router, broker, client):
    start(router, broker, ledger='max_age = "4s";')
    client(broker.port).publish("in/b", b"30", 1)
    router.lines("out", 1)
    until(lambda: entries(router), "an entry")
    until(lambda: not entries(router), "no entry")

    def says():
        return subprocess.run([router.build / "tocsin", "why", "-c", router.config], capture_output=True).stderr
    until(lambda: b"the ledger is empty" in says(), "an empty ledger")
    assert router.run.stop() == 0


def test_following_tells_what_comes_and_ends_cleanly(router, broker, client, process):
    start(router, broker)
    c = client(broker.port)
    c.publish("in/before", b"30", 1)
    awaited(router, "in/before", "done")
    command = [router.build / "tocsin", "ledger", "--follow", "-c", router.config]
    all_of_it = process([*command, "--json"])
    some = process([*command, "--topic", "down/#"])
    all_of_it.wait_line('"topic":"in/before"')
    c.publish("in/after", b"30", 1)
    c.publish("down/a", b"1", 1)
    all_of_it.wait_line('"topic":"in/after"')
    all_of_it.wait_line('"event":"sent"')
    some.wait_line("down/a")
    some.wait_line("retry  attempt 2")
    router.path("later").mkdir()
    some.wait_line("down:out  sent")
    assert not any("in/" in text for _, text in some.lines)
    for follower, number in ((all_of_it, signal.SIGTERM), (some, signal.SIGINT)):
        os.kill(follower.pid, number)
        assert follower.wait() == 0

    # Nobody reads what it prints any more.
    with subprocess.Popen(command, stdout=subprocess.PIPE) as piped:
        assert piped.stdout.readline()
        piped.stdout.close()
        assert piped.wait() == 0


def test_what_strangers_write_is_no_terminal_command(router, broker, client):
    start(router, broker)
    topic = "in/\x1b[31m\u009b2J\u202eabc"
    client(broker.port).publish(topic, b"30", 1)
    awaited(router, "in/#", "done")
    for text in (tocsin(router, "why"), tocsin(router, "ledger")):
        assert "\\x1b[31m\\xc2\\x9b2J\\xe2\\x80\\xaeabc" in text
        assert not any(c in text for c in "\x1b\u009b\u202e")
    assert entries(router)[0]["topic"] == topic


def test_unmatched_messages_are_kept_when_asked_for(router, process, build, tmp_path, broker, client):
    """A link brings what its filters match, so what matches none has to come by another route's link."""
    routes = '{ topic = "a/#"; targets = "file:out"; }, { name = "r"; topic = "a/b/#"; link = "broker"; targets = "file:out"; }'
    start(router, broker, ledger="unmatched = true;", routes=routes)
    client(broker.port).publish("a/b", b"1", 1)
    assert verdicts(awaited(router, "a/b", "done")[0]) == {"a/#": "dispatched", "r": "dispatched"}


def test_mistakes_in_the_configuration_are_told(router, broker, build):
    for ledger, said in (('keep = "some";', "ledger.keep"), ('max_age = "soon";', "ledger.max_age"), ("size = 1;", "ledger.size")):
        router.write(f'ledger = {{ {ledger} }};\n' + config(router, broker, ROUTES, SERVICES.format(folder=router.folder, retry="")))
        done = subprocess.run([build / "tocsin", "check", "-c", router.config], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 1 and said in done.stdout
