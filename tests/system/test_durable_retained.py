# SPDX-License-Identifier: MIT
"""Retained messages survive the end of the broker, those that were cleared stay cleared."""

import re
import time

import pytest
from conftest import TIMEOUT
from durable import packet, twice, wait_seconds

pytestmark = pytest.mark.memory

MiB = 1024 * 1024
OWN_TOPIC = re.compile(b"tocsin/[^/]+/status")


def retained(d, *filters, count, level=5):
    """What a new subscriber is given, by topic."""
    w = d.wire("new", level, clean=1, **({"expiry": 0} if level == 5 else {}))
    w.subscribe(*filters, **({"rap": 1} if level == 5 else {}))
    got = {}
    end = time.monotonic() + TIMEOUT
    while len(got) < count and time.monotonic() < end:
        for m in w.pick():
            if OWN_TOPIC.fullmatch(m["topic"]):
                continue
            assert m["retain"] == 1 and m["dup"] == 0 and m["topic"] not in got
            got[m["topic"].decode()] = m
    w.nothing()
    w.leave()
    assert len(got) == count, list(got)[:20]
    return got


@twice
@pytest.mark.parametrize("level", [4, 5])
def test_set_replaced_and_cleared(durable, how, level):
    d = durable(how=how)
    p = d.wire("p", level, clean=1)
    for qos in (0, 1, 2):
        for topic in ("set", "replaced", "cleared", "cleared and set"):
            p.publish(f"{topic}/{qos}", "first", qos=qos, retain=1)
        p.publish(f"replaced/{qos}", "second", qos=(qos + 1) % 3, retain=1)
        p.publish(f"cleared/{qos}", "", qos=qos, retain=1)
        p.publish(f"cleared and set/{qos}", "", qos=qos, retain=1)
        p.publish(f"cleared and set/{qos}", "again", qos=qos, retain=1)
        p.publish(f"not retained/{qos}", "x", qos=qos)
    p.nothing()
    d.committed()
    for _ in range(2):
        d.restart()
        got = retained(d, "+/+", count=9, level=level)
        for qos in (0, 1, 2):
            assert [(got[f"{t}/{q}"]["payload"], got[f"{t}/{q}"]["qos"]) for t, q in
                    (("set", qos), ("replaced", qos), ("cleared and set", qos))] == \
                [(b"first", qos), (b"second", (qos + 1) % 3), (b"again", qos)]
    p = d.wire("p", level, clean=1)
    for topic in got:
        p.publish(topic, "", qos=got[topic]["qos"], retain=1)
    p.nothing()
    d.committed()
    d.restart()
    retained(d, "+/+", count=0, level=level)


@twice
def test_an_acknowledged_one_is_safe_at_once(durable, how):
    d = durable(how=how)
    p = d.wire("p", clean=1, expiry=0)
    for i in range(10):
        p.publish("t", f"{i}", retain=1, qos=1)
        p.publish("u", "x", retain=1, qos=1)
        p.publish("u", "", retain=1, qos=1)
        p.publish("v", f"{i}", retain=1, qos=2, wait=False)
        p.get("PUBREC")
        d.restart()
        got = retained(d, "t", "u", "v", count=2)
        assert got["t"]["payload"] == got["v"]["payload"] == b"%d" % i
        p = d.wire("p", clean=1, expiry=0)


@twice
def test_all_of_it_survives(durable, how):
    d = durable(how=how)
    props = [("payload-format-indicator", 0), ("content-type", b"a/b"), ("response-topic", b"r"),
             ("correlation-data", b"\0\1"), ("user-property", (b"k", b"1")), ("user-property", (b"k", b"2"))]
    p = d.wire("p", clean=1)
    p.publish("t/\u00e4", b"\0\xff" * 500, retain=1, qos=2, props=props)
    p.publish("$mine/x", "y", retain=1, qos=1)
    p.publish("/", "slash", retain=1, qos=1)
    p.publish("x" * 60000, "long", retain=1, qos=1)
    d.restart()
    got = retained(d, "#", "$mine/#", count=4)
    assert sorted(got["t/\u00e4"]["props"]) == sorted(props)
    assert got["t/\u00e4"]["payload"] == b"\0\xff" * 500
    assert got["$mine/x"]["payload"] == b"y" and got["/"]["payload"] == b"slash" and got["x" * 60000]["payload"] == b"long"


@twice
def test_expiry_goes_on(durable, how):
    d = durable(how=how)
    p = d.wire("p", clean=1)
    for qos in (0, 1, 2):
        p.publish(f"short/{qos}", "x", retain=1, qos=qos, props=[("message-expiry-interval", 1)])
        p.publish(f"long/{qos}", "x", retain=1, qos=qos, props=[("message-expiry-interval", 3600)])
        p.publish(f"ever/{qos}", "x", retain=1, qos=qos)
    p.nothing()
    d.committed()
    d.end()
    wait_seconds(2.5)
    d.start()
    got = retained(d, "#", count=6)
    assert not [t for t in got if t.startswith("short")]
    for qos in (0, 1, 2):
        assert 3500 <= dict(got[f"long/{qos}"]["props"])["message-expiry-interval"] <= 3598
        assert got[f"ever/{qos}"]["props"] == []
    p = d.wire("p", clean=1)
    p.publish("after", "x", retain=1, props=[("message-expiry-interval", 1)])
    d.restart()
    wait_seconds(2.5)
    assert "after" not in retained(d, "#", count=6)


@twice
def test_many_and_large_ones(durable, how):
    d = durable(how=how)
    p = d.wire("p", clean=1)
    p.write(b"".join(retained_packet(p, f"t/{i % 7}/{i}", b"%d" % i) for i in range(10000)))
    p.nothing()
    p.publish("large", b"\xa5" * MiB, retain=1, qos=1)
    d.committed()
    d.restart()
    got = retained(d, "t/#", "large", count=10001)
    assert got.pop("large")["payload"] == b"\xa5" * MiB
    assert all(m["payload"] == topic.split("/")[2].encode() for topic, m in got.items())


def retained_packet(wire, topic, payload):
    return packet.encode("PUBLISH", {"topic": topic.encode(), "payload": payload, "qos": 0, "retain": 1, "props": []},
                         wire.level)


@twice
def test_one_that_changes_very_often(durable, how):
    """Only the last one counts, and only it is kept."""
    d = durable(how=how)
    p = d.wire("p", clean=1)
    for i in range(3000):
        p.publish("t", b"%d %s" % (i, b"." * 1000), retain=1, qos=0)
    p.publish("t", "last", retain=1, qos=1)
    d.restart()
    assert retained(d, "#", count=1)["t"]["payload"] == b"last"


@twice
@pytest.mark.parametrize("workers", [2, 3])
def test_set_by_one_worker_and_replaced_by_another(durable, how, workers):
    d = durable(how=how, workers=workers)
    for i in range(8):
        p = d.wire(f"p{i}", clean=1, expiry=0)
        p.publish("t", f"{i}", retain=1, qos=1)
        p.publish(f"own/{i}", f"{i}", retain=1, qos=2)
        p.publish("gone", "" if i == 7 else "x", retain=1, qos=1)
    d.restart()
    got = retained(d, "t", "own/#", "gone", count=9)
    assert got["t"]["payload"] == b"7"
    assert [got[f"own/{i}"]["payload"] for i in range(8)] == [b"%d" % i for i in range(8)]


@twice
def test_also_for_one_who_was_away(durable, how):
    """Somebody who is away is sent it as a message, and a later subscriber as the retained one."""
    d = durable(how=how)
    d.wire("a").subscribe("t", rap=1).leave()
    d.wire("b").subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish("t", "1", retain=1, qos=2)
    d.restart()
    assert [(m["payload"], m["retain"]) for m in d.messages("a", 1)] == [(b"1", 1)]
    assert [(m["payload"], m["retain"]) for m in d.messages("b", 1)] == [(b"1", 0)]
    assert retained(d, "t", count=1)["t"]["payload"] == b"1"


@twice
def test_retained_ones_sent_by_a_subscription_survive_in_flight(durable, how):
    d = durable(how=how)
    p = d.wire("p", clean=1)
    for i in range(50):
        p.publish(f"t/{i}", f"{i}", retain=1, qos=1 + i % 2)
    a = d.wire("a").subscribe("t/#")
    assert a.silent()
    d.committed()
    d.restart()
    a = d.wire("a")
    got = d.drain(a)
    assert all(m["retain"] for m in got)
    assert sorted(int(m["payload"]) for m in got) == list(range(50))
    a.leave()
    d.committed()
    d.restart()
    d.messages("a", 0)


def test_none_where_none_may_be(durable):
    d = durable(how="ended")
    d.wire("p", clean=1).publish("t", "x", retain=1, qos=1)
    d.end()
    d.broker.config.write_text(d.broker.config.read_text().replace("durability", "retain_available = false; durability"))
    d.start()
    w = d.wire("w", clean=1)
    w.subscribe("t/#")
    w.nothing()
