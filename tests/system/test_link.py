# SPDX-License-Identifier: MIT
"""Links against a real broker, driven by linkcat instead of a router."""

import socket
import threading

import pytest

from conftest import publish_properties, until
from fake_broker import (
    CONNACK,
    CONNECT,
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    FakeBroker,
    connect_version,
    publish,
)
from link_cat import LinkCat


@pytest.fixture
def link(process, build, tmp_path):
    """link('name = "l"; port = 1;', ...) starts a linkcat with these links."""
    return lambda *links: LinkCat(process, build, tmp_path, links)


class Lab:
    """A link of some kind, and a port where clients reach the broker that it belongs to."""

    def __init__(self, kind, mosquitto, lines, link, process, build, tmp_path, free_port):
        self.kind, self.link = kind, link
        if kind == "embedded":
            self.port = free_port()
            lines = "".join(line for line in lines if line.endswith(";"))
            broker = f'broker = {{ workers = 2; {lines} listeners = ( {{ port = {self.port}; bind = "127.0.0.1"; }} ); }};'
            self.cat = LinkCat(process, build, tmp_path, [], broker, "broker").start([])
        else:
            self.port = mosquitto(*lines).port

    def start(self, filters):
        """The linkcat, with these filters."""
        if self.kind == "embedded":
            self.cat.filters(filters)
            return self.cat
        return self.link(settings(self.port, of_version(self.kind))).start(filters)


@pytest.fixture
def lines():
    """More of the broker's configuration, each in its own language; a test's parameter takes its place."""
    return []


@pytest.fixture(params=["5", "3.1.1", "embedded"])
def lab(request, mosquitto, lines, link, process, build, tmp_path, free_port):
    """A link of kind `mqtt` of either version, or the embedded one."""
    return Lab(request.param, mosquitto, lines, link, process, build, tmp_path, free_port)


def settings(port, more="", name="l"):
    return f'name = "{name}"; host = "127.0.0.1"; port = {port}; reconnect_min = "50ms"; {more}'


BOTH = pytest.mark.parametrize("version", ["5", "3.1.1"])


def of_version(version):
    return f'protocol = "{version}"; '


@pytest.mark.threads
def test_messages_come_and_go(lab, client):
    cat = lab.start([["a/#", 1]])
    other = client(lab.port).subscribe("out/#", "tocsin/cat/status")
    assert other.get().payload == b'{"online":true}'
    other.publish("a/b", "21.5")
    got = cat.next_message()
    assert (got["topic"], got["payload"], got["qos"], got["retain"], got["hops"]) == ("a/b", "21.5", 1, False, 0)
    for qos in (0, 1, 2):
        assert cat.publish({"topic": f"out/{qos}", "payload": "x", "qos": qos}) == [[0, 0]]
        got = other.get()
        assert (got.topic, got.payload) == (f"out/{qos}", b"x")
    stats = cat.stats()
    assert stats["received"] == 1 and stats["published"] == 3 and stats["connected"]
    cat.stop()
    assert other.get().payload == b'{"online":false,"health":"stopped"}'


def test_properties_are_carried_both_ways(lab, client):
    other = client(lab.port).subscribe("out")
    cat = lab.start([["in", 1]])
    other.publish(
        "in",
        b"\xff\x00",
        properties=publish_properties(
            user=[("a", "1"), ("tocsin-hops", "2"), ("a", "2")],
            ContentType="text/plain",
            ResponseTopic="r",
            CorrelationData=b"\x00\x01",
            MessageExpiryInterval=100,
            PayloadFormatIndicator=0,
        ),
    )
    got = cat.next_message()
    assert got["payload_hex"] == "ff00"
    if lab.kind == "3.1.1":
        assert (got["properties"], got["hops"]) == (None, 0)
    else:
        properties = got["properties"]
        assert 90000 < properties.pop("expires_in_ms") <= 100000
        assert properties == {
            "content_type": "text/plain",
            "response_topic": "r",
            "correlation_hex": "0001",
            "payload_utf8": 0,
            "user": [["a", "1"], ["a", "2"]],
        }
        assert got["hops"] == 2

    properties = {
        "content_type": "application/json",
        "response_topic": "r/2",
        "correlation_hex": "00ff",
        "payload_utf8": 1,
        "expires_in_ms": 50000,
        "user": [["k", "1"], ["tocsin-hops", "9"], ["k", "2"]],
    }
    sent = {"topic": "out", "payload": "{}", "qos": 1, "hops": 3, "properties": properties}
    assert cat.publish(sent) == [[0, 0]]
    got = other.get()
    assert got.payload == b"{}"
    if lab.kind != "3.1.1":
        p = got.properties
        assert (p.ContentType, p.ResponseTopic, p.CorrelationData) == ("application/json", "r/2", b"\x00\xff")
        assert p.PayloadFormatIndicator == 1 and 45 <= p.MessageExpiryInterval <= 50
        assert p.UserProperty == [("k", "1"), ("k", "2"), ("tocsin-hops", "3")]
        assert not hasattr(p, "TopicAlias")

    # Too late: not sent at all.
    late = {"topic": "out", "payload": "late", "properties": {"expires_in_ms": -1}}
    assert cat.publish(late, {"topic": "out", "payload": "end"}) == [[-116, 0], [0, 0]]
    assert other.get().payload == b"end"


@BOTH
@pytest.mark.threads
def test_a_broker_that_is_away_is_awaited(mosquitto, client, link, version):
    broker = mosquitto(start=False)
    cat = link(settings(broker.port, of_version(version))).start([["a", 1]], ready=None)
    cat.process.wait_line("cannot connect, will try again side=receiving", "err")
    assert cat.publish({"topic": "x", "payload": "y"}) == [[-11, 0]]
    assert cat.stats()["connected"] is False
    broker.start()
    assert cat.ask(ready=20000)["ready"]
    client(broker.port).publish("a", "1")
    assert cat.next_message()["payload"] == "1"
    cat.stop()


@BOTH
@pytest.mark.threads
def test_a_broker_may_restart_between_two_messages(mosquitto, client, link, tmp_path, version):
    broker = mosquitto("persistence true", f"persistence_location {tmp_path}/")
    cat = link(settings(broker.port, of_version(version))).start([["a", 1]])
    client(broker.port).publish("a", "1")
    assert cat.next_message()["payload"] == "1"
    broker.process.wait_line("Received PUBACK from tocsin-cat")  # or else it comes again
    broker.stop()
    cat.process.wait_line("connection lost side=receiving", "err")
    broker.start()
    other = client(broker.port)
    other.publish("a", "2")
    assert cat.next_message()["payload"] == "2"
    until(lambda: cat.stats()["connected"], "subscriptions")
    until(lambda: cat.publish({"topic": "x", "payload": "y", "qos": 1})[0][0] == 0, "the sending side")
    assert cat.stats()["connects"] == 2
    cat.stop()


@BOTH
def test_what_comes_while_away_is_kept_by_the_broker(mosquitto, client, link, version):
    broker = mosquitto()
    cat = link(settings(broker.port, of_version(version))).start([["a", 1]])
    cat.stop()
    client(broker.port).publish("a", "1")
    cat = link(settings(broker.port, of_version(version))).start([["a", 1]])
    assert cat.next_message()["payload"] == "1"
    cat.stop()
    cat = link(settings(broker.port, of_version(version) + "clean_session = true;")).start([["a", 1]])
    cat.stop()
    client(broker.port).publish("a", "2")
    cat = link(settings(broker.port, of_version(version))).start([["a", 1]])
    client(broker.port).publish("a", "3")
    assert cat.next_message()["payload"] == "3"


@BOTH
def test_what_was_not_taken_over_is_sent_again_after_a_kill(mosquitto, client, link, version):
    broker = mosquitto()
    cat = link(settings(broker.port, of_version(version))).start([["a", 1]])
    cat.ask(hold=True)
    other = client(broker.port)
    for i in range(5):
        other.publish("a", str(i))
    for _ in range(5):
        cat.next_message()
    assert cat.stats()["untaken"] == 5
    cat.process.kill()
    cat = link(settings(broker.port, of_version(version))).start([["a", 1]])
    assert [cat.next_message()["payload"] for _ in range(5)] == ["0", "1", "2", "3", "4"]
    # Now it has been taken over, so it does not come again.
    cat.stop()
    cat = link(settings(broker.port, of_version(version))).start([["a", 1]])
    other.publish("a", "end")
    assert cat.next_message()["payload"] == "end"


def test_a_loss_is_told_when_the_broker_will_send_again(mosquitto, client, link, tmp_path):
    broker = mosquitto("persistence true", f"persistence_location {tmp_path}/")
    cat = link(settings(broker.port)).start([["a", 1]])
    cat.ask(hold=True)
    client(broker.port).publish("a", "1")
    assert cat.next_message()["generation"] == 1
    broker.stop()
    broker.start()
    line, _ = cat.process.wait_line('{"lost"', "out")
    assert line == '{"lost":{"link":"l","generation":1}}'
    again = cat.next_message()
    assert (again["payload"], again["generation"]) == ("1", 2)
    cat.ask(release=True)
    until(lambda: cat.stats()["untaken"] == 0, "release")


def test_no_loss_is_told_when_the_broker_has_forgotten(mosquitto, client, link):
    broker = mosquitto()
    cat = link(settings(broker.port)).start([["a", 1]])
    cat.ask(hold=True)
    client(broker.port).publish("a", "1")
    cat.next_message()
    broker.stop()
    broker.start()
    until(lambda: cat.stats()["connects"] == 2 and cat.stats()["connected"], "the second connection")
    client(broker.port).publish("a", "2")
    assert cat.next_message()["payload"] == "2"
    assert '{"lost"' not in cat.process.text("out")


@pytest.mark.threads
def test_acknowledgements_wait_until_all_is_taken_over(link, fake_broker):
    cat = link(settings(fake_broker.port, of_version("3.1.1"))).start([["a", 1]], ready=None)
    receiving, _ = fake_broker.accept_sides()
    mid = receiving.expect(SUBSCRIBE)[:2]
    receiving.send(SUBACK, mid + b"\x01")
    assert cat.ask(ready=20000)["ready"]
    cat.ask(hold=True)
    publish(receiving, "a", b"1", mid=1)
    cat.next_message()
    assert receiving.silent()
    publish(receiving, "a", b"2", mid=2)
    assert receiving.silent()
    cat.ask(release=True)
    # The first burst, then what came behind it, in order [MQTT-4.6.0-2].
    assert receiving.expect(PUBACK) == b"\0\1"
    assert receiving.expect(PUBACK) == b"\0\2"
    # QoS 0 counts too: what is read before the acknowledgement can go out holds it back.
    cat.ask(hold=True)
    publish(receiving, "a", b"3")
    publish(receiving, "a", b"4", mid=3)
    assert [cat.next_message()["payload"] for _ in range(3)] == ["2", "3", "4"]
    assert receiving.silent()
    cat.ask(release=True)
    assert receiving.expect(PUBACK) == b"\0\3"


@pytest.fixture
def fake_broker():
    broker = FakeBroker()
    yield broker
    broker.close()


def test_a_broker_without_mqtt_5_gets_3_1_1(link, fake_broker):
    """One that says so in the way of 3.1.1."""
    cat = link(settings(fake_broker.port)).start([], ready=None)
    seen = []
    while seen.count(4) < 2:
        assert len(seen) < 20, seen
        peer = fake_broker.accept()
        seen.append(connect_version(peer.expect(CONNECT)))
        peer.send(CONNACK, b"\0\0" if seen[-1] == 4 else b"\0\1")
    assert seen.count(5) == 2
    assert cat.ask(ready=20000)["ready"]


def test_a_broker_that_closes_on_mqtt_5_gets_3_1_1(link, fake_broker):
    cat = link(settings(fake_broker.port)).start([], ready=None)
    seen = []
    while seen.count(4) < 2:
        assert len(seen) < 20, seen
        peer = fake_broker.accept()
        seen.append(connect_version(peer.expect(CONNECT)))
        if seen[-1] == 4:
            peer.send(CONNACK, b"\0\0")
        else:
            peer.close()
    assert cat.ask(ready=20000)["ready"]


def test_a_silent_host_and_an_unknown_name_disturb_nobody(mosquitto, client, link, fake_broker):
    broker = mosquitto()
    cat = link(
        settings(fake_broker.port, 'connect_timeout = "200ms";', name="silent"),
        'name = "unknown"; host = "no-such-host.invalid"; reconnect_min = "50ms";',
        settings(broker.port),
    )
    cat.start([["a", 1]], ready=None)
    until(lambda: cat.stats()["connected"], "the good link")
    client(broker.port).publish("a", "1")
    assert cat.next_message()["payload"] == "1"
    cat.process.wait_line(
        lambda line: "link silent: cannot connect" in line and "does not answer" in line, "err"
    )
    cat.process.wait_line(
        lambda line: "link unknown: cannot connect" in line and "cannot resolve the name" in line, "err"
    )
    cat.stop()


@pytest.mark.parametrize("lines", [["allow_duplicate_messages true"], ["allow_duplicate_messages false"]])
def test_overlapping_filters_bring_a_message_once(lab, client, lines):
    other = client(lab.port)
    filters = [["a/+/c", 1], ["a/b/+", 1], ["+/b/#", 0], ["a/b/c", 1], ["x/+", 0], ["x/y", 1]]
    cat = lab.start(filters)
    topics = ["a/b/c", "a/x/c", "a/b/d", "z/b/c", "x/y", "a/b/c"]
    for qos in (0, 1, 2):
        for topic in topics:
            other.publish(topic, str(qos), qos=qos)
    other.publish("x/end", "end")
    got = []
    while not got or got[-1][0] != "x/end":
        message = cat.next_message()
        # A filter joined from others is wide enough for more, such as the status topic.
        if message["topic"].split("/")[0] in "abzx":
            got.append((message["topic"], message["payload"]))
    wanted = [(topic, str(qos)) for qos in (0, 1, 2) for topic in topics] + [("x/end", "end")]
    assert sorted(got) == sorted(wanted)


@pytest.mark.threads
def test_filters_change_on_a_live_connection(lab, client):
    other = client(lab.port)
    other.publish("r", "retained", retain=True)
    cat = lab.start([["a/+/c", 1], ["r", 1], ["old", 1]])
    assert cat.next_message()["payload"] == "retained"
    cat.filters([["a/+/c", 1], ["a/b/+", 1], ["r", 1]])
    for topic in ("old", "a/b/c", "a/b/x", "a/x/c", "r"):
        other.publish(topic, topic)
    other.publish("r", "end")
    got = [cat.next_message()["payload"] for _ in range(5)]
    # Neither the old filter nor the retained message again.
    assert got == ["a/b/c", "a/b/x", "a/x/c", "r", "end"]
    cat.filters([])
    other.publish("r", "x")
    cat.filters([["r", 1]])
    other.publish("r", "y")
    assert "x" not in [cat.next_message()["payload"] for _ in range(1)]


@BOTH
@pytest.mark.parametrize("retained", ["process", "skip"])
def test_retained_messages_are_processed_or_skipped(mosquitto, client, link, version, retained):
    broker = mosquitto()
    other = client(broker.port)
    other.publish("a", "old", retain=True)
    cat = link(settings(broker.port, of_version(version) + f'retained = "{retained}";')).start([["a", 1]])
    other.publish("a", "new", retain=True)
    got = cat.next_message()
    if retained == "process":
        assert (got["payload"], got["retain"]) == ("old", True)
        got = cat.next_message()
    assert (got["payload"], got["retain"]) == ("new", False)
    if (version, retained) == ("5", "skip"):
        # Not even asked for.
        assert "Sending PUBLISH to tocsin-cat-l (d0, q1, r1" not in broker.process.text()


@pytest.mark.parametrize("lab", ["5", "embedded"], indirect=True)
def test_filters_that_stay_bring_no_retained_messages_again(lab, client):
    """Although they get new identifiers, as a filter is added that overlaps them."""
    other = client(lab.port)
    other.publish("a/x/c", "old", retain=True)
    cat = lab.start([["a/+/c", 1]])
    assert cat.next_message()["payload"] == "old"
    cat.filters([["a/+/c", 1], ["a/b/+", 1]])
    for topic in ("a/b/c", "a/x/c", "a/b/x"):
        other.publish(topic, topic)
    assert [cat.next_message()["payload"] for _ in range(3)] == ["a/b/c", "a/x/c", "a/b/x"]


def test_hops_beyond_the_bound_are_dropped(mosquitto, client, link):
    broker = mosquitto()
    other = client(broker.port)
    cat = link(settings(broker.port, "max_hops = 2;")).start([["a", 1]])
    for hops in ("2", "3", "255", "1000", "x"):
        other.publish("a", hops, properties=publish_properties(user=[("tocsin-hops", hops)]))
    assert [cat.next_message()["payload"] for _ in range(2)] == ["2", "x"]
    assert cat.stats()["loops_stopped"] == 3
    cat.process.wait_line("loop stopped, message dropped topic=a hops=3", "err")


@pytest.mark.parametrize("lab", ["embedded"], indirect=True)
def test_the_embedded_link_drops_hops_beyond_the_bound_too(lab, client):
    cat = lab.start([["a", 1]])
    other = client(lab.port)
    for hops in ("4", "5", "255", "1000", "x"):
        other.publish("a", hops, properties=publish_properties(user=[("tocsin-hops", hops)]))
    assert [cat.next_message()["payload"] for _ in range(2)] == ["4", "x"]
    assert cat.stats()["loops_stopped"] == 3 and cat.stats()["untaken"] == 0
    cat.process.wait_line("loop stopped, message dropped topic=a hops=5", "err")


@pytest.mark.parametrize("lab", ["embedded"], indirect=True)
@pytest.mark.parametrize("lines", [["retain_available = false;"]])
def test_the_embedded_link_refuses_what_a_broker_would(lab, client, lines):
    cat = lab.start([["#", 1], ["$SYS/#", 1]])
    assert cat.publish(
        {"topic": "a/+", "payload": "x"},
        {"topic": "", "payload": "x"},
        {"topic": "$SYS/broker/uptime", "payload": "x"},
        {"topic": "a", "payload": "x", "retain": True},
        {"topic": "a", "payload": "x", "properties": {"response_topic": "b/#"}},
        {"topic": "a", "zeros": 268435455},
        {"topic": "end", "payload": "x"},
    ) == [[-22, 0x90], [-22, 0x90], [-13, 0x87], [-22, 0x9A], [-22, 0], [-22, 0x95], [0, 0]]
    got = until(lambda: [m for m in cat.messages() if m["topic"] == "end"], "the only good one")
    assert len(got) == 1
    assert [m["topic"] for m in cat.messages() if not m["topic"].startswith("$SYS")] == ["end"]
    assert cat.stats()["publish_failed"] == 6


def test_own_messages_that_return_too_often_are_dropped(mosquitto, client, link):
    broker = mosquitto()
    more = of_version("3.1.1") + 'loop_limit = 3; loop_window = "1h";'
    cat = link(settings(broker.port, more)).start([["a", 1]])
    for _ in range(5):
        cat.publish({"topic": "a", "payload": "x", "qos": 1})
    cat.publish({"topic": "a", "payload": "end", "qos": 1})
    assert [cat.next_message()["payload"] for _ in range(4)] == ["x", "x", "x", "end"]
    assert cat.stats()["loops_stopped"] == 2


def test_large_and_odd_payloads_pass(lab, client):
    other = client(lab.port).subscribe("out")
    cat = lab.start([["a", 1]])
    large = bytes(range(256)) * (10 * 1024 * 1024 // 256)
    other.publish("a", large)
    got = cat.next_message()
    assert (got["len"], got["sum"]) == (len(large), sum(large) % 2**32)
    other.publish("a", b"\xc3\x28\x00\xff")
    assert cat.next_message()["payload_hex"] == "c32800ff"
    other.publish("a", b"")
    assert cat.next_message()["payload"] == ""
    assert cat.publish({"topic": "out", "zeros": len(large), "qos": 1}) == [[0, 0]]
    assert other.get().payload == bytes(len(large))


@BOTH
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.threads
def test_memory_is_bounded_while_nothing_is_taken_over(mosquitto, process, client, link, version, qos):
    broker = mosquitto("max_queued_messages 0", "max_inflight_messages 0", "log_type none")
    more = of_version(version) + 'max_untaken = 5000; receive_maximum = 65535; keepalive = "600s";'
    cat = link(settings(broker.port, more)).start([["a", 1]])
    cat.ask(quiet=True)
    cat.ask(hold=True)
    before = cat.process.rss()
    count = 50000 if qos == 0 else 10000  # the broker's time for one grows with those it keeps
    other = client(broker.port).subscribe("end")
    publish_many = ["-t", "a", "-q", qos, "-m", "x" * 1000, "--repeat", count]
    publisher = process(["mosquitto_pub", "-p", broker.port, *publish_many])
    assert publisher.wait() == 0
    other.publish("end", "")
    other.get()
    until(lambda: cat.stats()["untaken"] > 0, "messages")
    untaken = cat.stats()["untaken"]
    # With QoS 1 reading stops after the first burst, since its acknowledgements wait.
    assert untaken <= 5000 + 256
    assert cat.process.rss() - before < 64 * 1024 * 1024
    cat.ask(release=True)
    until(lambda: cat.ask(count=True)["count"] == count, "the rest", timeout=120)
    until(lambda: cat.stats()["untaken"] == 0, "the last one")


@pytest.mark.parametrize("lab", ["embedded"], indirect=True)
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.threads
def test_memory_of_the_embedded_link_is_bounded_while_nothing_is_taken_over(lab, client, build, qos):
    """Beyond 64 MiB QoS 0 is dropped and counted, and publishers of the others are read from no further."""
    cat = lab.start([["a", 2]])
    cat.ask(quiet=True)
    cat.ask(hold=True)
    before, payload = cat.process.rss(), bytes(1 << 20)
    publishers = [client(lab.port) for _ in range(3)]
    for publisher in publishers:
        publisher.paho.max_inflight_messages_set(1000)
    infos = [p.publish_soon("a", payload, qos) for _ in range(60) for p in publishers]
    if qos == 0:
        until(lambda: cat.stats()["received"] + cat.stats()["dropped"] == 180, "all of them")
        assert cat.stats()["dropped"] > 0
    else:
        until(lambda: cat.stats()["untaken"] >= 64, "as many as fit")
        # One more turn of the broker's workers, at least.
        client(lab.port).publish("b")
    assert 64 <= cat.stats()["untaken"] <= 70
    slack = 4 if "san" in str(build) else 1  # a sanitizer's own memory
    assert cat.process.rss() - before < slack * 160 * len(payload)
    assert not any(info.is_published() for info in infos) or qos == 0
    cat.ask(release=True)
    if qos > 0:
        until(lambda: all(info.is_published() for info in infos), "all acknowledgements")
        assert cat.ask(count=True)["count"] == 180 and cat.stats()["dropped"] == 0
    until(lambda: cat.stats()["untaken"] == 0, "the last one")



def test_passwords_are_checked_and_not_shown(mosquitto, client, link, tmp_path, process):
    passwords = tmp_path / "passwords"
    assert process(["mosquitto_passwd", "-c", "-b", passwords, "ann", "s3cret"]).wait() == 0
    broker = mosquitto("allow_anonymous false", f"password_file {passwords}")
    wrong = link(settings(broker.port, 'username = "ann"; password = "wr0ng";')).start([], ready=None)
    line, _ = wrong.process.wait_line("the broker refuses: Not authorized", "err")
    assert "cannot connect" in line
    right = link(settings(broker.port, 'username = "ann"; password = "s3cret"; client_id = "x";')).start([])
    assert "s3cret" not in right.process.text() and "wr0ng" not in wrong.process.text()
    wrong.stop()


def test_what_the_broker_forbids_is_told(mosquitto, client, link, tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("topic read in/#\ntopic write out/#\n")
    broker = mosquitto(f"acl_file {acl}", "message_size_limit 100000")
    cat = link(settings(broker.port, "status = false;")).start([])
    assert cat.publish(
        {"topic": "out/a", "payload": "x", "qos": 1},
        {"topic": "secret", "payload": "x", "qos": 1},
        {"topic": "out/+", "payload": "x"},
        {"topic": "out/b", "zeros": 200000, "qos": 1},
        {"topic": "out/c", "payload": "x", "qos": 1},
    ) == [[0, 16], [-13, 0x87], [-22, 0], [-22, 0x95], [0, 16]]


@BOTH
def test_refused_subscriptions_are_told(link, fake_broker, version):
    v5 = version == "5"
    cat = link(settings(fake_broker.port, of_version(version))).start([["a", 1], ["b", 1]], ready=None)
    receiving, _ = fake_broker.accept_sides()
    mid = receiving.expect(SUBSCRIBE)[:2]
    receiving.send(SUBACK, mid + (b"\0\1\x87" if v5 else b"\1\x80"))
    assert cat.ask(ready=20000)["ready"]
    reason = "Not authorized" if v5 else "the broker gives no reason"
    cat.process.wait_line(f"subscription refused filter=b: {reason}", "err")
    assert cat.stats()["subscriptions_refused"] == 1


def test_the_limits_of_connack_are_kept(mosquitto, client, link):
    broker = mosquitto("max_qos 1", "retain_available false", "max_packet_size 1000")
    other = client(broker.port).subscribe("out")
    cat = link(settings(broker.port)).start([["in", 1]])
    assert cat.publish(
        {"topic": "out", "payload": "r", "retain": True},
        {"topic": "out", "payload": "2", "qos": 2},
        {"topic": "out", "zeros": 991},
        {"topic": "out", "zeros": 992},
    ) == [[-22, 0x9A], [0, 0], [0, 0], [-22, 0x95]]
    assert (other.get().payload, len(other.get().payload)) == (b"2", 991)


def test_a_publication_without_answer_times_out(link, fake_broker):
    cat = link(settings(fake_broker.port, of_version("3.1.1") + "status = false;")).start([], ready=None)
    _, sending = fake_broker.accept_sides()
    assert cat.ask(ready=20000)["ready"]
    assert cat.publish({"topic": "a", "payload": "x", "qos": 1}, timeout_ms=100) == [[-110, 0]]
    kind, _, body = sending.packet()
    assert (kind, body[:3]) == (PUBLISH, b"\0\1a")
    # The late answer belongs to nobody; the next one is found.
    sending.send(PUBACK, body[3:5])
    assert cat.publish({"topic": "a", "payload": "x"}) == [[0, 0]]


@BOTH
def test_filters_of_an_earlier_run_are_taken_back(mosquitto, client, link, tmp_path, version):
    broker = mosquitto()
    other = client(broker.port)
    state = tmp_path / "state"
    more = of_version(version) + f'state_file = "{state}";'
    link(settings(broker.port, more)).start([["a/#", 1], ["gone", 1]]).stop()
    assert b"a/#\0gone\0" in state.read_bytes()
    other.publish("a/b", "while away")

    cat = link(settings(broker.port, more)).start([["a/b", 1]])
    assert cat.next_message()["payload"] == "while away"
    for topic in ("gone", "a/c", "a/b"):
        other.publish(topic, topic)
    other.publish("a/b", "end")
    assert [cat.next_message()["payload"] for _ in range(2)] == ["a/b", "end"]
    cat.stop()
    assert state.read_bytes().endswith(b"\0a/b\0") and b"gone" not in state.read_bytes()

    # A file that is none of ours is left out of account, and said so.
    state.write_bytes(b"something else")
    cat = link(settings(broker.port, more)).start([["a/b", 1]])
    cat.process.wait_line("cannot read what was subscribed before", "err")
    cat.stop()


def test_a_host_that_takes_no_connection_does_not_hold_up_the_end(link):
    """The listener's queue is full, so connect() blocks for minutes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for s in waiting:
            s.setblocking(False)
            s.connect_ex(("127.0.0.1", port))
        cat = link(settings(port, 'connect_timeout = "300ms";')).start([], ready=None)
        cat.process.wait_line("no answer from resolver or host in time", "err")
        cat.stop()
        for s in waiting:
            s.close()


@BOTH
def test_sending_beside_the_daemon_disturbs_nobody(mosquitto, client, link, version):
    broker = mosquitto()
    other = client(broker.port).subscribe("tocsin/#")
    more = of_version(version) + 'client_id = "x";'
    daemon = link(settings(broker.port, more)).start([["a", 1]])
    assert other.get().payload == b'{"online":true}'
    beside = link(settings(broker.port, more))
    assert beside.ask(start_sending=True)["ok"] and beside.ask(ready=20000)["ready"]
    assert beside.publish({"topic": "a", "payload": "1", "qos": 1}) == [[0, 0]]
    assert daemon.next_message()["payload"] == "1"
    beside.stop()
    assert daemon.publish({"topic": "tocsin/end", "payload": "x", "qos": 1}) == [[0, 0]]
    assert other.get().topic == "tocsin/end"
    assert daemon.stats()["connects"] == 1


@pytest.mark.parametrize("lab", ["5", "embedded"], indirect=True)
def test_empty_properties_are_not_absent_ones(lab, client):
    other = client(lab.port).subscribe("out")
    cat = lab.start([["in", 1]])
    empty = publish_properties(user=[("", "")], ContentType="", CorrelationData=b"")
    other.publish("in", b"x", properties=empty)
    properties = cat.next_message()["properties"]
    assert properties == {"content_type": "", "correlation_hex": "", "user": [["", ""]]}
    assert cat.publish({"topic": "out", "payload": "x", "properties": properties}) == [[0, 0]]
    got = other.get().properties
    assert (got.ContentType, got.CorrelationData, got.UserProperty) == ("", b"", [("", "")])


@pytest.mark.threads
def test_what_was_in_flight_when_the_connection_went_has_failed(link, fake_broker):
    cat = link(settings(fake_broker.port, of_version("3.1.1") + "status = false;")).start([], ready=None)
    _, sending = fake_broker.accept_sides()
    assert cat.ask(ready=20000)["ready"]
    answer = threading.Thread(target=lambda: (sending.expect(PUBLISH), sending.close()))
    answer.start()
    assert cat.publish(
        {"topic": "a", "payload": "1", "qos": 1}, {"topic": "a", "payload": "2", "qos": 1}
    ) == [[-11, 0], [-11, 0]]
    answer.join()
    # A new connection knows nothing of them: the caller sends again.
    peer = fake_broker.accept()
    peer.expect(CONNECT)
    peer.send(CONNACK, b"\0\0")
    assert cat.ask(ready=20000)["ready"]
    assert cat.publish({"topic": "b", "payload": "3"}) == [[0, 0]]
    _, _, body = peer.packet()
    assert body == b"\0\1b3"
