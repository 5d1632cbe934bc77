# SPDX-License-Identifier: MIT
"""Routes on the included broker: what is peculiar to it. What all links have in common is in test_router.py and
test_link.py."""

import signal
import subprocess

import pytest
from conftest import until
from router import ALL, Included, Router, config

pytestmark = pytest.mark.threads


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture
def included(free_port):
    """included(workers=2, ...) is the router's own broker with these options."""
    return lambda **options: Included(free_port(), options)


def full(router, places):
    """A service that has places for so many deliveries, and delivers nothing before there is a folder `missing`."""
    return (f'full = {{ plugin = "file"; queue = {{ max_messages = {places}; }}; retry = {{ initial = "20ms"; max = "100ms"; }}; '
            f'targets = {{ out = {{ path = "{router.folder}/missing/out"; }}; }}; }};')


FULL = '{ topic = "in/#"; targets = "full:out"; }'


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("v5", [True, False])
def test_acknowledgements_wait_for_a_place_and_come_in_order(router, included, client, workers, qos, v5):
    broker = included(workers=workers)
    router.start(config(router, broker, FULL, full(router, 3))).ready()
    c = client(broker.port, v5=v5)
    first = [c.publish_soon("in/a", b"%d" % i, qos) for i in range(3)]
    for info in first:
        c._await("publish", info.mid)
    later = [c.publish_soon("in/a", b"%d" % i, qos) for i in range(3, 13)]
    router.run.wait_line("queue is full")
    # An answer that has nothing to wait for: what came before it has been looked at.
    other = client(broker.port, v5=v5)
    other.publish("other", b"", qos)
    assert not any(("publish", info.mid) in c.acks for info in later)
    router.path("missing").mkdir()
    for info in later:
        c._await("publish", info.mid)
    mids = [mid for kind, mid in c.acks if kind == "publish"]
    assert mids == [info.mid for info in first + later]
    assert router.lines("missing/out", 13) == [b"%d" % i for i in range(13)]
    assert router.run.stop() == 0


def again(router):
    return 'again = { plugin = "republish"; link = "broker"; targets = { out = { topic = "out/{topic}"; }; }; };'


def test_what_a_service_publishes_comes_in_that_order_to_subscribers_of_all_workers(router, included, client):
    """Although each topic is the business of another worker."""
    broker = included(workers=3)
    router.start(config(router, broker, '{ topic = "in/+"; targets = "again:out"; }', again(router))).ready()
    subscribers = [client(broker.port).subscribe("out/#") for _ in range(6)]
    c = client(broker.port)
    for i in range(600):
        c.publish_soon(f"in/{i % 8}", b"%d" % i, 1)
    for s in subscribers:
        assert [int(s.get().payload) for _ in range(600)] == list(range(600))
    assert router.run.stop() == 0


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
def test_send_reaches_the_broker_that_runs(router, free_port, client, build, bind):
    port = free_port()
    broker = Included(port, {"listeners": [{"port": port, "bind": bind}]})
    router.start(config(router, broker, ALL, again(router))).ready()
    c = client(port).subscribe("out/#")
    sent = subprocess.run([build / "tocsin", "send", "-c", router.config, "again:out", "hello"], capture_output=True, text=True)
    assert (sent.returncode, sent.stdout) == (0, "again:out: sent\n"), sent.stderr
    assert c.get().payload == b"hello"


def test_without_any_links_there_is_the_broker(build, tmp_path):
    (tmp_path / "tocsin.conf").write_text('services = { log = { plugin = "log"; }; };\n'
                                          'routes = ( { topic = "a"; link = "broker"; targets = "log"; } );')
    check = subprocess.run([build / "tocsin", "check", "-c", tmp_path / "tocsin.conf"], capture_output=True, text=True)
    assert "fine: a broker, 0 links" in check.stdout
    explain = subprocess.run([build / "tocsin", "explain", "-c", tmp_path / "tocsin.conf", "a", "1"], capture_output=True, text=True)
    assert ": dispatched" in explain.stdout, explain.stdout + explain.stderr
    (tmp_path / "tocsin.conf").write_text('links = ( { name = "broker"; } );')
    check = subprocess.run([build / "tocsin", "check", "-c", tmp_path / "tocsin.conf"], capture_output=True, text=True)
    assert 'links[0].name: "broker" is the broker in this process: choose another name' in check.stdout


@pytest.mark.parametrize("qos", [1, 2])
def test_what_has_no_place_at_the_end_is_not_acknowledged(router, included, client, qos):
    """So its publisher sends it again, to the next process; what had a place was acknowledged, in order."""
    broker = included(workers=2)
    router.start('drain = "200ms";' + config(router, broker, FULL, full(router, 3))).ready()
    c = client(broker.port)
    infos = [c.publish_soon("in/a", b"%d" % i, qos) for i in range(10)]
    router.run.wait_line("queue is full")
    until(lambda: all(info.is_published() for info in infos[:3]), "those with a place")
    assert router.run.stop() == 2
    assert not any(info.is_published() for info in infos[3:])
    router.path("missing").mkdir()
    router.start().ready()
    for info in infos[3:]:
        c._await("publish", info.mid)
    assert router.lines("missing/out", 7) == [b"%d" % i for i in range(3, 10)]


@pytest.mark.parametrize("qos", [1, 2])
def test_killed_nothing_is_lost_that_was_not_acknowledged(router, included, client, qos):
    broker = included(workers=2)
    router.start(config(router, broker, FULL, full(router, 5))).ready()
    c = client(broker.port)
    infos = [c.publish_soon("in/a", b"%d" % i, qos) for i in range(200)]
    router.run.wait_line("queue is full")
    router.run.kill()
    done = [i for i, info in enumerate(infos) if info.is_published()]
    assert done == list(range(len(done))) and len(done) <= 5
    router.path("missing").mkdir()
    router.start().ready()
    for info in infos:
        c._await("publish", info.mid)
    got = [int(line) for line in router.lines("missing/out", 195)]
    assert set(got) >= set(range(5, 200))


def test_messages_under_way_at_the_end_are_delivered_and_acknowledged(router, included, client):
    broker = included(workers=2)
    route = '{ topic = "in/+"; format = "{topic} {payload}"; targets = "file:out"; }'
    router.start(config(router, broker, route)).ready()
    publishers = {f"in/{i}": client(broker.port) for i in range(4)}
    infos = {f"{topic} {i}".encode(): p.publish_soon(topic, b"%d" % i, 1)
             for i in range(500) for topic, p in publishers.items()}
    router.lines("out", 100)
    assert router.run.stop() == 0
    lines = router.path("out").read_bytes().split(b"\n")[:-1]
    assert {line for line, info in infos.items() if info.is_published()} <= set(lines)
    for topic in publishers:
        numbers = [int(line.split()[1]) for line in lines if line.startswith(topic.encode())]
        assert numbers == list(range(len(numbers)))
    router.start().ready()
    until(lambda: all(info.is_published() for info in infos.values()), "the rest")
    assert set(router.lines("out", 2000)) == set(infos)


def test_a_repeated_qos_2_message_is_taken_once_while_its_acknowledgement_waits(router, included, client):
    """The publisher loses its connection before PUBREC, and sends the same packet again."""
    broker = included(workers=2)
    route = '{ topic = "in/#"; qos = 2; targets = [ "file:out", "full:out" ]; }'
    router.start(config(router, broker, route, full(router, 1))).ready()
    c = client(broker.port, "publisher", v5=False, clean=False)
    infos = [c.publish_soon("in/a", b"%d" % i, 2) for i in range(3)]
    assert router.lines("out", 3) == [b"0", b"1", b"2"]
    router.run.wait_line("queue is full")
    c.paho._sock_close()
    router.run.wait_line("client connected id=publisher", start=len(router.run.lines))
    router.path("missing").mkdir()
    for info in infos:
        c._await("publish", info.mid)
    assert router.lines("missing/out", 3) == [b"0", b"1", b"2"]
    assert router.lines("out", 3) == [b"0", b"1", b"2"]


def test_a_changed_broker_waits_for_a_restart(router, included, client):
    broker = included(workers=1)
    router.start(config(router, broker, ALL)).ready()
    broker.options["workers"] = 2
    router.write(config(router, broker, ALL))
    router.run.send_signal(signal.SIGHUP)
    router.run.wait_line("the broker has changed, which takes a restart; the old one stays")
    router.run.send_signal(signal.SIGUSR1)
    router.run.wait_line("broker clients=0")
    router.run.wait_line("link broker connected=1")


def test_nothing_is_lost_between_two_routes_at_the_end(router, included, client):
    """The first route publishes for the second; what the second cannot get any more is left for the next start."""
    broker = included(workers=2)
    service = ('again = { plugin = "republish"; link = "broker"; targets = { out = { topic = "out/{topic}"; '
               'rate_limit = 5; rate_per = "500ms"; }; }; };')
    routes = '{ topic = "in/#"; targets = "again:out"; }, { topic = "out/#"; targets = "file:out"; }'
    head = f'drain = "1s"; store = {{ path = "{router.path("store")}"; }};\n'
    router.start(head + config(router, broker, routes, service)).ready()
    c = client(broker.port)
    for i in range(30):
        c.publish("in/a", b"%d" % i)
    router.lines("out", 1)
    assert router.run.stop() in (0, 2)
    assert len(router.lines("out", 1)) < 30
    router.start().ready()
    assert router.lines("out", 30) == [b"%d" % i for i in range(30)]
