# SPDX-License-Identifier: MIT
"""What waits for a client that is away survives the end of the broker: whole, in order, within its limits, and without
memory for what is on disk."""

import hashlib
import random

import pytest
from durable import BY_MOSQUITTO, SANITIZED, twice, wait_seconds

pytestmark = pytest.mark.memory

ALL = {"max_queued_messages": 1000000, "max_queued_bytes": "0"}
KiB, MiB = 1024, 1024 * 1024


def numbers(messages, qos=None):
    return [int(m["payload"].split()[0]) for m in messages if qos in (None, m["qos"])]


def take_rest(wire, got, count):
    """Takes messages until all `count` numbers have been there; those of QoS 1 that were acknowledged just before the end may
    come twice, and are left out the second time."""
    seen = set(numbers(got))
    while len(seen) < count:
        for m in wire.pick():
            number = numbers([m])[0]
            assert number not in seen or m["qos"] == 1, f"{number} came twice"
            if number not in seen:
                seen.add(number)
                got.append(m)
    return got


@twice
@pytest.mark.parametrize("level", [4, 5])
def test_messages_for_one_who_is_away(durable, how, level):
    d = durable(how=how)
    d.wire("a", level).subscribe("t/#").leave()
    p = d.wire("p", clean=1)
    p.publish("t/0", "lost", qos=0)
    for i in range(10):
        p.publish(f"t/{i}", f"{i}", qos=1 + i % 2)
    d.restart()
    got = d.messages("a", 10, level)
    assert [(m["topic"], m["payload"], m["qos"], m["retain"], m["dup"]) for m in got] == \
        [(b"t/%d" % i, b"%d" % i, 1 + i % 2, 0, 0) for i in range(10)]
    d.restart()
    d.messages("a", 0, level)


@twice
def test_messages_of_qos_0_wait_if_the_settings_say_so(durable, how):
    d = durable(how=how, queue_qos0_messages=True)
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    for i in range(30):
        p.publish("t", f"{i}", qos=0)
    p.publish("t", "30", qos=1)
    d.restart()
    got = d.messages("a", 31)
    assert numbers(got) == list(range(31)) and [m["qos"] for m in got] == [0] * 30 + [1]


@twice
def test_all_of_a_message_survives(durable, how):
    d = durable(how=how)
    d.wire("a", props=[("topic-alias-maximum", 0)]).subscribe("t/#", identifier=5).leave()
    d.wire("old", level=4).subscribe("t/#").leave()
    rows = [
        [("content-type", b"text/plain"), ("payload-format-indicator", 1), ("response-topic", "r/\u00e4".encode()),
         ("correlation-data", bytes(range(256))), ("user-property", (b"k", b"1")), ("user-property", (b"k", b"2")),
         ("user-property", (b"", b""))],
        [],
        [("user-property", (b"n%d" % i, b"x" * i)) for i in range(300)],
        [("correlation-data", b"")],
    ]
    bodies = ["text", "", "\u00e4" * 1000, b"x" * 300]
    p = d.wire("p", clean=1)
    for qos in (1, 2):
        for props, payload in zip(rows, bodies):
            p.publish("t/\u00e4", payload, qos=qos, props=props)
    d.restart()
    got, old = d.messages("a", 8), d.messages("old", 8, level=4)
    for m, o, (props, payload) in zip(got, old, list(zip(rows, bodies)) * 2):
        payload = payload.encode() if isinstance(payload, str) else payload
        rest = [pair for pair in m["props"] if pair != ("subscription-identifier", 5)]
        assert ("subscription-identifier", 5) in m["props"]
        assert sorted(rest, key=lambda p: p[0]) == sorted(props, key=lambda p: p[0])  # those of users in their order
        assert m["topic"] == o["topic"] == "t/\u00e4".encode()
        assert m["payload"] == o["payload"] == payload


@twice
def test_messages_expire_while_the_broker_is_away(durable, how):
    d = durable(how=how)
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    for i in range(200):
        props = [("message-expiry-interval", 1)] if i % 2 else [("message-expiry-interval", 3600)] if i % 4 else []
        p.publish("t", f"{i}", qos=1 + i % 3 % 2, props=props)
    d.end()
    wait_seconds(2.5)
    d.start()
    got = d.messages("a", 100)
    assert numbers(got) == list(range(0, 200, 2))
    for m in got:
        left = dict(m["props"]).get("message-expiry-interval")
        assert left is None if int(m["payload"]) % 4 == 0 else 3500 <= left <= 3598


@twice
def test_messages_expire_after_a_restart(durable, how):
    d = durable(how=how)
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    for i in range(100):
        p.publish("t", f"{i}", props=[("message-expiry-interval", 1)] if i % 2 else [])
    d.restart()
    wait_seconds(2.5)
    assert numbers(d.messages("a", 50)) == list(range(0, 100, 2))


@twice
@pytest.mark.parametrize("limit", ["max_queued_messages", "max_queued_bytes"])
def test_what_has_expired_on_disk_counts_no_more(durable, how, limit):
    """Only what waits in memory is looked at when it is asked for; what is on disk has to be taken away in its time."""
    d = durable(how=how, sys_interval="1s", max_queued_messages=400 if limit == "max_queued_messages" else 0,
                max_queued_bytes="500KiB")
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    text = b"." * (10 if limit == "max_queued_messages" else 1024)
    p.publish_all(("t", b"%d %s" % (i, text), 1, [("message-expiry-interval", 1 if i % 10 else 3600)]) for i in range(400))
    d.restart()
    watcher = d.wire("watcher", clean=1, expiry=0).subscribe("$SYS/broker/messages/stored", qos=0)
    while int(watcher.get("PUBLISH")["payload"]) > 200:  # retained messages of $SYS are in it too
        pass
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d %s" % (i, text), 1) for i in range(400, 900))
    got = numbers(d.drain(d.wire("a")))
    assert [i for i in got if i < 400] == list(range(0, 400, 10))
    later = [i for i in got if i >= 400]
    assert later == list(range(400, 400 + len(later)))
    assert 300 <= len(later) <= 470


@twice
@pytest.mark.parametrize("size", [10, 3000])
def test_order_is_kept_in_a_long_queue(durable, how, size):
    d = durable(how=how, **ALL)
    d.wire("a").subscribe("t/#").leave()
    p = d.wire("p", clean=1)
    count = 3000 if size == 10 else 2000
    p.publish_all(("t/x", b"%d %s" % (i, b"." * size), 1 + i // 3 % 2) for i in range(count))
    d.restart()
    first = d.wire("a").take_all(count // 3, more=True)  # and more have been sent
    d.restart()
    rest = d.wire("a")
    take_rest(rest, first, count)
    for qos in (1, 2):
        got = numbers(first, qos)
        assert got == sorted(got)
        assert got == [i for i in range(count) if 1 + i // 3 % 2 == qos]
    rest.nothing()


@twice
def test_messages_go_on_behind_those_on_disk(durable, how):
    """A queue grows while it is read from: the new messages come last."""
    d = durable(how=how, **ALL)
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d" % i, 1) for i in range(1500))
    a = d.wire("a")
    got = a.take_all(700, more=True)
    p.publish_all(("t", b"%d" % i, 1) for i in range(1500, 3500))
    got += a.take_all(700, more=True)
    a.leave()
    p.publish_all(("t", b"%d" % i, 1) for i in range(3500, 4000))
    a = d.wire("a")
    got += a.take_all(600, more=True)
    p.publish_all(("t", b"%d" % i, 1) for i in range(4000, 4100))
    a.leave()
    d.restart()
    take_rest(d.wire("a"), got, 4100)
    assert numbers(got) == list(range(4100))


@twice
def test_large_payloads(durable, how):
    d = durable(how=how, **ALL)
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    rng = random.Random(1)
    digests = []
    for i in range(24):
        payload = rng.randbytes(MiB + i)
        digests.append(hashlib.sha256(payload).digest())
        p.publish("t", payload, qos=1 + i % 2)
    d.restart()
    got = d.messages("a", 24)
    assert [hashlib.sha256(m["payload"]).digest() for m in got] == digests


@twice
@pytest.mark.parametrize("limit, count", [(10, 30), (100, 150), (1500, 2500)])
def test_the_limit_of_messages_holds_on_disk_too(durable, how, limit, count):
    d = durable(how=how, max_queued_messages=limit, max_inflight_messages=1)
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d" % i, 1) for i in range(count))
    d.restart()
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d" % i, 1) for i in range(count, count + 10))
    a = d.wire("a")
    got = numbers(d.drain(a))
    assert len(got) == limit + BY_MOSQUITTO  # which counts the one on its way besides
    assert got == list(range(len(got)))
    p.publish_all(("t", b"%d" % i, 1) for i in range(5))  # and there is room again
    assert numbers(a.take_all(5)) == list(range(5))


@twice
def test_the_limit_of_bytes_holds_on_disk_too(durable, how):
    d = durable(how=how, max_queued_bytes=256 * KiB if BY_MOSQUITTO else "256KiB", max_queued_messages=100000)
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d %s" % (i, b"." * KiB), 1) for i in range(400))
    d.restart()
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d %s" % (i, b"." * KiB), 1) for i in range(400, 410))
    a = d.wire("a")
    got = numbers(d.drain(a))
    assert 200 <= len(got) <= 256
    assert got == list(range(len(got)))
    p.publish("t", b"%d %s" % (1, b"." * KiB))
    a.take_all(1)


def test_a_hundred_thousand_messages_need_no_memory(durable):
    count = 10000 if SANITIZED else 100000
    d = durable(**ALL)
    d.wire("a").subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish_all((("t", b"%d %s" % (i, b"." * 1000), 1) for i in range(1000)))
    before = d.broker.rss()
    p.publish_all((("t", b"%d %s" % (i, b"." * 1000), 1) for i in range(1000, count)))
    full = d.broker.rss()
    d.restart()
    after = d.broker.rss()
    if not SANITIZED and not BY_MOSQUITTO:
        assert full - before < 24 * MiB, f"{full - before} bytes more for {count} messages on disk"
        assert after < before + 24 * MiB, f"{after - before} bytes more after the restart"
    got = d.wire("a").take_all(count)
    assert numbers(got) == list(range(count))
    if not SANITIZED and not BY_MOSQUITTO:
        assert d.broker.rss() < before + 24 * MiB


@twice
def test_many_clients_who_are_away_share_a_message(durable, how):
    d = durable(how=how)
    for i in range(200):
        d.wire(f"c{i}").subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d %s" % (i, b"." * 2000), 1 + i % 2) for i in range(100))
    d.restart()
    for i in range(0, 200, 19):
        assert numbers(d.messages(f"c{i}", 100)) == list(range(100))


@twice
def test_messages_of_a_session_go_with_it(durable, how):
    d = durable(how=how, **ALL)
    d.wire("a").subscribe("t").leave()
    d.wire("b").subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d" % i, 1) for i in range(1200))
    d.restart()
    a = d.wire("a", clean=1)
    assert a.present == 0
    a.nothing()
    assert numbers(d.messages("b", 1200)) == list(range(1200))


@twice
def test_shared_messages_that_wait(durable, how):
    d = durable(how=how, **ALL)
    d.wire("a").subscribe("$share/g/t").leave()
    d.wire("b").subscribe("$share/g/t").leave()
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d" % i, 1 + i % 2) for i in range(300))
    d.restart()
    a, b = d.wire("a"), d.wire("b")
    assert a.present and b.present
    got = numbers(d.drain(a)) + numbers(d.drain(b))
    assert sorted(got) == list(range(300))


@twice
def test_messages_stay_after_their_subscription_has_ended(durable, how):
    d = durable(how=how)
    a = d.wire("a", receive_maximum=1).subscribe("t")
    p = d.wire("p", clean=1)
    p.publish_all(("t", b"%d" % i, 1) for i in range(100))
    a.send("UNSUBSCRIBE", pid=9, filters=[{"filter": b"t"}])
    d.committed()
    d.restart()
    a = d.wire("a")
    got = a.take_all(100)
    assert sorted(numbers(got)) == list(range(100))
    p = d.wire("p", clean=1)
    p.publish("t", "no more")
    a.nothing()


def test_what_was_read_is_gone_from_disk(durable):
    """A queue that is long ago read leaves no file that grows and grows."""
    d = durable(**ALL)
    d.wire("a").subscribe("t").leave()
    sizes = []
    for _ in range(8):
        p = d.wire("p", clean=1)
        p.publish_all(("t", b"%d %s" % (i, b"." * 1000), 1) for i in range(3000))
        d.messages("a", 3000)
        sizes.append(sum(f.stat().st_size for f in d.database.parent.iterdir()))
    assert sizes[-1] <= 1.2 * sizes[3], sizes
