# SPDX-License-Identifier: MIT
"""What waits on disk, dead letters, and `tocsin queue`."""

import json
import re
import subprocess

import pytest
from conftest import until
from router import Included, Router, config

# A target that fails while its folder is not there.
SERVICES = """
down = {{ plugin = "file"; queue = {{ max_messages = {places}; }}; retry = {{ {waits} {more} }};
          targets = {{ out = {{ path = "{folder}/later/out"; }}; }}; }};
"""
DOWN = '{ topic = "in/#"; targets = "down:out"; }'


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture
def broker(free_port):
    return Included(free_port(), {})


def start(router, broker, places=1000, more="", waits='initial = "20ms"; max = "50ms";', routes=DOWN, services=""):
    services += SERVICES.format(places=places, folder=router.folder, waits=waits, more=more)
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'
    return router.start(store + config(router, broker, routes, services)).ready()


def queue(router, *args, status=0, stderr=False):
    done = subprocess.run([router.build / "tocsin", "queue", *args, "-c", router.config],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode == status, done.stderr
    return done.stderr if stderr else done.stdout


def entries(router, *args):
    return [json.loads(line) for line in queue(router, "list", "--json", *args).splitlines()]


def test_what_was_acknowledged_survives_kill_9_in_order(router, broker, client):
    start(router, broker)
    c = client(broker.port)
    for i in range(20):
        c.publish(f"in/{i % 3}", b"%d" % i, qos=1 + i % 2)
    assert [e["state"] for e in entries(router)] == ["waiting"] * 20
    before = [e["number"] for e in entries(router)]
    router.run.kill()

    router.path("later").mkdir()
    router.start().ready()
    assert sorted(router.lines("later/out", 20), key=int) == [b"%d" % i for i in range(20)]
    by_topic = [[int(line) for line in router.lines("later/out", 20) if int(line) % 3 == topic] for topic in range(3)]
    assert all(lines == sorted(lines) for lines in by_topic)
    assert before == sorted(before)
    until(lambda: not entries(router), "an empty store")
    assert router.run.stop() == 0


def test_a_full_queue_goes_on_on_disk_and_comes_back_in_order(router, broker, client):
    start(router, broker, places=10)
    c = client(broker.port)
    for i in range(300):
        c.publish_soon("in/a", b"%d" % i, 1)
    c.publish("in/a", b"300", 1)
    router.run.wait_line("it goes on on disk")
    assert len(entries(router)) == 301
    router.path("later").mkdir()
    assert router.lines("later/out", 301) == [b"%d" % i for i in range(301)]
    until(lambda: not entries(router), "an empty store")
    assert router.run.stop() == 0


def test_what_is_left_at_a_clean_end_is_kept_also_of_qos_0(router, broker, client):
    start(router, broker)
    c = client(broker.port)
    c.publish("in/a", b"zero", 0)
    c.publish("in/b", b"one", 1)
    router.run.wait_line("will be tried again")
    router.run.stop()
    assert router.run.text().count("kept on disk for the next start") == 1
    router.path("later").mkdir()
    router.start().ready()
    assert sorted(router.lines("later/out", 2)) == [b"one", b"zero"]
    assert router.run.stop() == 0


def test_dead_letters_are_shown_tried_again_and_dropped(router, broker, client):
    start(router, broker, more="max_attempts = 3;")
    c = client(broker.port)
    for i in range(4):
        c.publish(f"in/{i}", b"payload %d" % i, qos=i % 3)
    until(lambda: len(entries(router, "--dead")) == 4, "dead letters")
    dead = {e["topic"]: e for e in entries(router, "--dead")}
    assert all(e["attempts"] == 3 and "No such file" in e["reason"] for e in dead.values())

    queue(router, "show", "987654", status=1)
    shown = json.loads(queue(router, "show", "--json", str(dead["in/2"]["number"])))
    assert [e["attempt"] for e in shown["errors"]] == [1, 2, 3]
    assert {"name": "payload", "value": "payload 2"} in shown["record"]
    assert "payload 2" in queue(router, "show", "--match", "payload 2")
    assert [e["topic"] for e in entries(router, "--topic", "in/3")] == ["in/3"]
    assert entries(router, "--target", "down:other") == []
    assert len(entries(router, "--target", "down", "--since", "1h")) == 4

    queue(router, "drop", "--topic", "in/3", "--dry-run")
    assert len(entries(router)) == 4
    queue(router, "drop", "--topic", "in/3")
    assert len(entries(router)) == 3
    router.path("later").mkdir()
    queue(router, "retry", str(dead["in/2"]["number"]))
    assert router.lines("later/out", 1) == [b"payload 2"]
    queue(router, "retry")
    assert sorted(router.lines("later/out", 3)) == [b"payload 0", b"payload 1", b"payload 2"]
    until(lambda: not entries(router), "an empty store")
    assert router.run.stop() == 0


def test_what_a_person_reads_at_night_leads_on(router, broker, client):
    """Why it waits and until when, what can be done, and why nothing was done with a number."""
    start(router, broker, waits='initial = "1h"; max = "1h";',
          routes='{ topic = "in/#"; targets = "down:out"; }, { topic = "no/#"; targets = "no:it"; }',
          services='no = { plugin = "exec"; targets = { it = { command = [ "/bin/false" ]; }; }; };')
    c = client(broker.port)
    c.publish("in/a", b"1", 1)
    c.publish("no/a", b"1", 1)
    until(lambda: len([e for e in entries(router) if e["reason"]]) == 2, "a failure and a dead letter")
    waits, dead = (str(e["number"]) for e in sorted(entries(router), key=lambda e: e["topic"]))

    def said(*args, status=0):
        done = subprocess.run([router.build / "tocsin", "queue", *args, "-c", router.config], capture_output=True, text=True)
        assert done.returncode == status, done
        return done.stdout + done.stderr

    lines = said("list").splitlines()
    assert lines[0].split() == ["number", "state", "made", "attempts", "target", "topic", "reason"]
    assert re.search(r" waiting  .*  1  down:out  in/a  path=.*: No such file or directory$", lines[1])
    assert re.search(r" dead     .*  1  no:it  no/a  exit status 1$", lines[2])
    assert "number  state" not in said("list", "--target", "nobody")
    shown = said("show", waits)
    assert re.search(r"^next attempt   20\d\d-", shown, re.MULTILINE) and re.search(r"^received       20\d\d-", shown, re.MULTILINE)
    assert f"`tocsin why --queue {waits}`" in shown and "queue retry" not in shown
    shown = said("show", dead)
    assert f"`tocsin queue retry {dead}`" in shown and f"`tocsin queue drop {dead}`" in shown and "next attempt" not in shown

    assert f"{waits} waits, and will be tried again by itself if its target is configured: `tocsin queue show {waits}`" in said("retry", waits, status=1)
    assert f"{waits} waits, and is no dead letter: `tocsin queue drop --waiting {waits}`" in said("drop", waits, status=1)
    assert f"{dead} is dead, which is not what was asked for" in said("list", "--waiting", dead, status=1)
    text = said("show", "4711", dead, status=1)
    assert "4711 is not there, or not any more: `tocsin queue list`" in text and "`tocsin why --queue 4711`" in text and "no/a" in text
    assert "1 would be dropped" in said("drop", "-n", dead)


def test_dead_letters_are_tried_again_by_another_target(router, broker, client):
    start(router, broker, more="max_attempts = 1;")
    c = client(broker.port)
    c.publish("in/a", b'{"room": "attic"}', 1)
    c.publish("in/b", b"no room", 1)
    until(lambda: len(entries(router, "--dead")) == 2, "dead letters")
    a, b = (str(e["number"]) for e in entries(router))

    def retry(*args, status=0):
        done = subprocess.run([router.build / "tocsin", "queue", "retry", *args, "-c", router.config], stderr=subprocess.PIPE, text=True)
        assert done.returncode == status, done.stderr
        return done.stderr

    router.path("rooms").mkdir()
    assert "known are: " in retry("--to", "file:cellar", status=1)
    assert "known are: " in retry("--to", "file", status=1)
    assert "stay as they are written" in retry(b, "--to", "file:room", "--dry-run")
    assert len(entries(router, "--dead", "--target", "down:out")) == 2
    assert "1 will be tried again" in retry(a, "--to", "file:room")
    assert router.lines("rooms/attic", 1) == [b'{"room": "attic"}']
    retry(b, "--to", "file:out")
    assert router.lines("out", 1) == [b"no room"]
    until(lambda: not entries(router), "an empty store")
    queue(router, "list", "--to", "file:out", status=2)
    assert router.run.stop() == 0


def test_a_delivery_has_one_id_whatever_happens(router, broker, client):
    """In each attempt, after kill -9, as a dead letter that is tried again, and by another target."""
    ids = router.path("ids")
    script = f'echo $TOCSIN_ID >>{ids}; test -e {router.path("works")} || exit 75'
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'
    more = " ".join(f"""{name} = {{ plugin = "exec"; retry = {{ initial = "1ms"; max = "1ms"; {rule} }};
                        targets = {{ t = {{ shell = "{script}"; }}; }}; }};"""
                    for name, rule in (("ids", ""), ("few", "max_attempts = 3;")))
    routes = '{ topic = "in/#"; targets = "ids:t"; }, { topic = "few/#"; targets = "few:t"; }'
    router.start(store + config(router, broker, routes, more))
    client(broker.port).publish("in/a", b"1", 1)

    def written(count):
        until(lambda: ids.exists() and len(ids.read_text().split()) >= count, f"{count} attempts")
        return set(ids.read_text().split())

    written(2)
    router.run.kill()
    before = len(ids.read_text().split())
    router.start()
    assert len(written(before + 2)) == 1
    router.path("works").touch()
    until(lambda: not entries(router), "an empty store")

    router.path("works").unlink()
    ids.unlink()
    client(broker.port).publish("few/a", b"1", 1)
    until(lambda: entries(router, "--dead"), "a dead letter")
    queue(router, "retry")
    assert len(written(6)) == 1
    until(lambda: entries(router, "--dead"), "a dead letter")
    router.path("works").touch()
    queue(router, "retry", "--to", "ids:t")
    assert len(written(7)) == 1
    assert router.run.stop() == 0


def test_dead_letters_that_are_to_be_tried_again_wait_for_the_next_start(router, broker, client):
    start(router, broker, more="max_attempts = 1;")
    client(broker.port).publish("in/a", b"again", 1)
    until(lambda: entries(router, "--dead"), "a dead letter")
    router.run.stop()
    queue(router, "retry")
    router.path("later").mkdir()
    router.start().ready()
    assert router.lines("later/out", 1) == [b"again"]
    assert router.run.stop() == 0


def test_what_waits_is_dropped_only_when_the_daemon_is_down(router, broker, client):
    start(router, broker)
    client(broker.port).publish("in/a", b"1", 1)
    until(lambda: entries(router, "--waiting"), "a delivery")
    queue(router, "drop", "--waiting", status=1)
    router.run.kill()
    queue(router, "drop", "--waiting")
    assert entries(router) == []


def test_mistakes_are_explained(router, broker):
    router.write(broker.links())
    done = subprocess.run([router.build / "tocsin", "queue", "list", "-c", router.config],
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "store = { }" in done.stderr
    assert "burn is not list, show, retry or drop" in queue(router, "burn", status=2, stderr=True)
    start(router, broker)
    queue(router, "burn", status=2)
    queue(router, "list", "--topic", "a/#/b", status=2)
    queue(router, "list", "--since", "yesterday", status=2)
    queue(router, "list", "one", status=2)
    queue(router, "list", "--dead", "--waiting", status=2)
    for number in ("0", "", str(2 ** 63), "9" * 20):
        queue(router, "list", number, status=2)
    done = queue(router, "retry", "--waiting", status=2, stderr=True)
    assert "retry is for dead letters" in done and len(done.splitlines()) < 4


def test_one_program_at_a_time_has_the_store(router, broker, process):
    start(router, broker)
    second = process([router.build / "tocsin", "run", "-c", router.config])
    assert second.wait() == 1
    assert "is in use: another tocsin" in second.text()
    assert router.run.stop() == 0
