# SPDX-License-Identifier: MIT
"""`first_of`: from a target that fails on to the next one, also through kill -9."""

import json
import random
import subprocess

import pytest
from conftest import until
from router import Included, Router, config

# Each fails while its folder is not there.
SERVICES = """
a = {{ plugin = "file"; {quick} {of_a} targets = {{ out = {{ path = "{folder}/a/out"; newline = "always"; }}; }}; }};
b = {{ plugin = "file"; {quick} targets = {{ out = {{ path = "{folder}/b/out"; newline = "always"; }}; }}; }};
"""
ROUTE = '{ name = "r"; topic = "in/#"; targets = ( { first_of = [ "a:out", "b:out" ]; } ); }'
QUICK = 'retry = { initial = "5ms"; max = "50ms"; };'
GIVES_UP = 'retry = { initial = "5ms"; max = "50ms"; max_attempts = 2; };'
NEVER_OPENS = "breaker = { failures = 0; };"


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture
def broker(free_port):
    return Included(free_port(), {})


def write(router, broker, quick=QUICK, of_a=""):
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'
    router.write(store + config(router, broker, ROUTE, SERVICES.format(folder=router.folder, quick=quick, of_a=of_a)))


def waiting(router):
    done = subprocess.run([router.build / "tocsin", "queue", "list", "--json", "-c", router.config],
                          stdout=subprocess.PIPE, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_fails_goes_on_to_the_next_and_comes_back_when_it_works(router, broker, client):
    router.path("b").mkdir()
    write(router, broker)
    router.start().ready()
    c = client(broker.port)
    for i in range(10):
        c.publish("in/x", b"%d" % i, qos=1)
    assert router.lines("b/out", 10) == [b"%d" % i for i in range(10)]
    assert "breaker open" in router.run.text()
    until(lambda: not waiting(router), "an empty store")
    router.path("a").mkdir()
    for i in range(10, 1000):  # one of them is the probe
        c.publish("in/x", b"%d" % i, qos=1)
        if router.path("a/out").exists():
            break
    assert router.lines("a/out", 1)[0] in (b"%d" % i, b"%d" % (i - 1))
    router.run.wait_line("breaker closed")
    assert router.run.stop() == 0


def test_where_it_has_moved_to_survives_kill_9(router, broker, client):
    write(router, broker)
    router.start().ready()
    c = client(broker.port)
    for i in range(20):
        c.publish("in/%d" % (i % 3), b"%d" % i, qos=1 + i % 2)
    until(lambda: [e["service"] for e in waiting(router)] == ["b"] * 20, "all of them at b")
    router.run.kill()
    router.path("a").mkdir()
    router.path("b").mkdir()
    router.start().ready()
    lines = [int(line) for line in router.lines("b/out", 20)]
    assert sorted(lines) == list(range(20))
    for topic in range(3):
        of_topic = [i for i in lines if i % 3 == topic]
        assert of_topic == sorted(of_topic)
    assert not router.path("a/out").exists()
    until(lambda: not waiting(router), "an empty store")
    assert router.run.stop() == 0


def test_where_it_can_go_on_to_survives_kill_9(router, broker, client):
    router.path("b").mkdir()
    write(router, broker, of_a=NEVER_OPENS)
    router.start().ready()
    c = client(broker.port)
    for i in range(20):
        c.publish("in/x", b"%d" % i, qos=1)
    assert [e["service"] for e in waiting(router)] == ["a"] * 20
    router.run.kill()
    write(router, broker, quick=GIVES_UP)
    router.start().ready()
    assert router.lines("b/out", 20) == [b"%d" % i for i in range(20)]
    until(lambda: not waiting(router), "an empty store")
    assert router.run.stop() == 0


@pytest.mark.parametrize("seed", range(2))
def test_kill_9_in_the_middle_of_moves_loses_nothing(router, broker, client, seed):
    chance = random.Random(seed)
    write(router, broker, quick=GIVES_UP.replace("max_attempts = 2", "max_attempts = 1") + NEVER_OPENS)
    router.path("b").mkdir()
    sent = 0
    for _ in range(5):
        router.start().ready()
        c = client(broker.port)
        for _ in range(chance.randrange(1, 60)):
            c.publish(f"in/{sent % 4}", b"%d" % sent, qos=1)
            sent += 1
        router.run.kill()
        c.stop()
    router.start().ready()
    until(lambda: not waiting(router), "an empty store")
    assert {int(line) for line in router.lines("b/out", 1)} == set(range(sent))
    assert router.run.stop() == 0


def test_the_last_one_leaves_the_dead_letter(router, broker, client):
    write(router, broker, quick=GIVES_UP)
    router.start().ready()
    client(broker.port).publish("in/x", b"1", qos=1)
    until(lambda: [e["state"] for e in waiting(router)] == ["dead"], "the dead letter")
    assert [(e["service"], e["target"]) for e in waiting(router)] == [("b", "out")]
    assert router.run.stop() == 0


def test_explain_shows_where_it_falls_back_to(router, broker):
    write(router, broker)
    explain = [router.build / "tocsin", "explain", "-c", router.config]
    text = subprocess.run([*explain, "in/x", "1"], stdout=subprocess.PIPE, check=True, text=True).stdout
    assert "would go to a:out" in text
    assert "or, where that fails, to b:out" in text
    answer = json.loads(subprocess.run([*explain, "--json", "in/x", "1"], stdout=subprocess.PIPE, check=True).stdout)
    assert len(answer["deliveries"]) == 1
    assert answer["deliveries"][0]["else"]["service"] == "b"


def test_a_mistake_in_a_service_is_no_mistake_of_first_of(process, build, tmp_path):
    """While a service has mistakes its targets are known by name only, and none of them is another one twice."""
    config = tmp_path / "tocsin.conf"
    config.write_text('''node = "n1"; links = ( { host = "127.0.0.1"; } );
        services = { a = { plugin = "log"; targets = { x = { }; }; }; b = { targets = { x = { }; }; }; };
        routes = ( { topic = "in/#"; targets = ( { first_of = [ "a:x", "b:x" ]; } ); } );''')
    done = subprocess.run([build / "tocsin", "check", "-c", config], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 1 and "services.b: plugin is missing" in done.stdout
    assert "twice" not in done.stdout
