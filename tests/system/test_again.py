# SPDX-License-Identifier: MIT
"""A message that comes again, because its acknowledgement was lost, notifies once; with both links, kill -9 and restarts."""

import os
import re
import socket
import struct

import pytest
from conftest import until
from fake_broker import CONNACK, CONNECT, PUBACK, PUBLISH, SUBACK, SUBSCRIBE, FakeBroker, Peer, connect_client_id, publish
from router import ALL, Included, Router, config

FAULTS = any(name in os.environ.get("TOCSIN_BUILD", "") for name in ("asan", "tsan"))

# A target that fails while its folder is not there, so that all of it is committed first.
SERVICES = 'down = {{ plugin = "file"; retry = {{ initial = "20ms"; max = "50ms"; }}; targets = {{ out = {{ path = "{}/later/out"; }}; }}; }};'
DOWN = '{ topic = "in/#"; qos = 1; targets = "down:out"; }'


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture
def included(free_port):
    return Included(free_port())


@pytest.fixture
def fake_broker():
    broker = FakeBroker()
    yield broker
    broker.close()


def start(router, broker, routes=DOWN, store=True, env=None):
    text = 'drain = "500ms";\n' + config(router, broker, routes, SERVICES.format(router.folder))
    if store:
        text = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n' + text
    return router.start(text, env)


def counted(router, suppressed):
    """Whether the counters at the end say so."""
    return re.search(r"targets in all.* suppressed=(\d+)", router.run.text()).group(1) == str(suppressed)


def open_target(router):
    router.path("later").mkdir()


class Publisher:
    """A client of MQTT 3.1.1 with a session, that does what the test says."""

    def __init__(self, port, client_id="pub"):
        self.peer = Peer(socket.create_connection(("127.0.0.1", port)))
        name = client_id.encode()
        self.peer.send(CONNECT, b"\0\4MQTT\4\0\0\x3c" + struct.pack(">H", len(name)) + name)
        self.peer.expect(CONNACK)

    def publish(self, topic, payload, mid, dup=False, answer=PUBACK):
        publish(self.peer, topic, payload, mid, dup)
        if answer:
            assert self.peer.expect(answer) == struct.pack(">H", mid)

    def close(self):
        self.peer.close()


@pytest.mark.threads
@pytest.mark.parametrize("store", [True, False])
def test_a_publisher_that_sends_again_notifies_once(router, included, store):
    start(router, included, ALL, store)
    p = Publisher(included.port)
    p.publish("in/a", b"one", 7)
    p.close()
    p = Publisher(included.port)
    p.publish("in/a", b"one", 7, dup=True)
    p.publish("in/a", b"two", 7, dup=True)  # another one, that did not arrive the first time
    Publisher(included.port, "other").publish("in/a", b"one", 7, dup=True)
    p.publish("in/a", b"three", 8)
    p.publish("in/a", b"three", 9)  # published twice
    p.publish("in/a", b"end", 10)
    assert router.lines("out", 6) == [b"one", b"two", b"one", b"three", b"three", b"end"]
    assert router.run.stop() == 0
    assert counted(router, 1)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_publisher_that_sends_again_after_our_end_notifies_once(router, included, end):
    start(router, included)
    p = Publisher(included.port)
    for i in range(1, 20):
        p.publish("in/a", b"%d" % i, i)
    getattr(router.run, end)()
    open_target(router)
    router.start()
    p = Publisher(included.port)
    for i in range(1, 20):
        p.publish("in/a", b"%d" % i, i, dup=True)
    p.publish("in/a", b"new", 20)
    assert router.lines("later/out", 20) == [b"%d" % i for i in range(1, 20)] + [b"new"]
    assert router.run.stop() == 0
    assert counted(router, 19)


def test_what_was_delivered_before_a_clean_end_is_not_delivered_again(router, included):
    """Nothing of it was written, as there was no need to."""
    start(router, included, ALL)
    Publisher(included.port).publish("in/a", b"one", 7)
    router.lines("out", 1)
    assert router.run.stop() == 0
    router.start()
    p = Publisher(included.port)
    p.publish("in/a", b"one", 7, dup=True)
    p.publish("in/a", b"two", 8)
    assert router.lines("out", 2) == [b"one", b"two"]
    assert router.run.stop() == 0


@pytest.mark.skipif(not FAULTS, reason="needs a build with faults")
def test_a_crash_between_the_commit_and_the_acknowledgement(router, included):
    start(router, included, env={"TOCSIN_FAULT": "after-commit:3"})
    p = Publisher(included.port)
    acked = 0
    try:
        for i in range(1, 10):
            p.publish("in/a", b"%d" % i, i)
            acked = i
    except (EOFError, OSError):
        pass
    router.run.wait()
    assert acked < 9
    open_target(router)
    router.start()
    p = Publisher(included.port)
    p.publish("in/a", b"%d" % (acked + 1), acked + 1, dup=True)  # committed, and never acknowledged
    p.publish("in/a", b"end", 30)
    assert router.lines("later/out", acked + 2) == [b"%d" % i for i in range(1, acked + 2)] + [b"end"]
    assert router.run.stop() == 0


# ---- The link to another broker ----


def accept_receiving(broker, present):
    """Accepts both connections of a link, one of which has a session if `present`. Returns the receiving one, subscribed."""
    while True:
        peer = broker.accept()
        connect = peer.expect(CONNECT)
        sending = connect_client_id(connect).endswith("-send")
        peer.send(CONNACK, b"\0\0" if sending or not present else b"\1\0")
        if not sending:
            break
    if not present:
        body = peer.expect(SUBSCRIBE)
        peer.send(SUBACK, body[:2] + b"\1")
    return peer


def acked(peer, *mids):
    for mid in mids:
        while True:
            kind, _, body = peer.packet()
            if kind == SUBSCRIBE:  # it does not remember that it has
                peer.send(SUBACK, body[:2] + b"\1")
                continue
            assert (kind, body) == (PUBACK, struct.pack(">H", mid))
            break


@pytest.mark.threads
@pytest.mark.parametrize("store", [True, False])
def test_what_a_links_broker_sends_again_notifies_once(router, fake_broker, store):
    text = config(router, fake_broker, ALL, SERVICES.format(router.folder), protocol='"3.1.1"', reconnect_min='"10ms"',
                  reconnect_max='"50ms"')
    if store:
        text = f'store = {{ path = "{router.folder}/tocsin.db"; }};\n' + text
    router.start(text)
    peer = accept_receiving(fake_broker, False)
    publish(peer, "in/a", b"one", 5)
    publish(peer, "in/a", b"two", 6)
    acked(peer, 5, 6)
    peer.close()
    peer = accept_receiving(fake_broker, True)
    publish(peer, "in/a", b"one", 5, dup=True)
    publish(peer, "in/a", b"two", 6, dup=True)
    publish(peer, "in/a", b"three", 7, dup=True)  # never arrived
    publish(peer, "in/a", b"zero")  # in between, of QoS 0
    publish(peer, "in/a", b"three", 8)
    publish(peer, "in/a", b"two", 6)  # a new one
    acked(peer, 5, 6, 7, 8, 6)
    assert router.lines("out", 6) == [b"one", b"two", b"three", b"zero", b"three", b"two"]
    fake_broker.close()
    assert router.run.stop() == 0
    assert counted(router, 2)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_restart_of_the_links_broker_and_of_the_router(router, mosquitto, client, end, tmp_path):
    """Messages wait in Mosquitto; it, and then the router, end in the middle of handing them over."""
    broker = mosquitto("persistence true", f"persistence_location {tmp_path}/", "max_queued_messages 0", "max_inflight_messages 50")
    start(router, broker)
    router.ready()
    assert router.run.stop() == 0
    count = 3000
    c = client(broker.port)
    for i in range(count - 1):
        c.publish_soon("in/a", b"%d" % i, 1)
    c.publish("in/a", b"%d" % (count - 1), 1)
    c.stop()

    def committed():
        return router.run.text().count("\n") and (tmp_path / "store/tocsin.db-wal").exists()

    router.start()
    router.ready()
    until(committed, "a beginning")
    broker.stop()
    broker.start()
    router.run.wait_line("subscribed", start=router.run.wait_line("lost")[1])
    getattr(router.run, end)()
    open_target(router)
    router.start()
    lines = router.lines("later/out", count)
    assert sorted(map(int, lines)) == list(range(count))
    c = client(broker.port)
    c.publish("in/a", b"end", 1)
    lines = router.lines("later/out", count + 1)
    assert lines[-1] == b"end" and len(lines) == count + 1
    assert router.run.stop() == 0
