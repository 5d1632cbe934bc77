# SPDX-License-Identifier: MIT
"""Wills survive the end of the broker: each is published once, when its client has not come back in time, and never if it
has or has left by DISCONNECT."""

import pytest
from durable import DAY, payloads, twice, until, wait_seconds

pytestmark = pytest.mark.memory


def will(payload, delay=0, topic="will", **more):
    props = [("will-delay-interval", delay)] if delay else []
    return {"topic": topic, "payload": payload, "qos": 1, "props": props + more.pop("props", []), **more}


def watcher(d):
    """Somebody who is told of all wills, whenever they come."""
    d.wire("watch").subscribe("will").leave()


def seen(d, count):
    return sorted(payloads(watch(d, count)))


def watch(d, count):
    w = d.wire("watch")
    got = w.take_all(count)
    w.nothing()
    d.committed()
    return got


@twice
def test_a_delayed_will_of_one_who_is_away(durable, how):
    d = durable(how=how, will_grace="0s")
    watcher(d)
    d.wire("a", will=will("a", 2)).drop()
    d.committed()
    for _ in range(2):
        d.restart()
    assert seen(d, 1) == [b"a"]
    d.restart()
    d.wire("b", will=will("b", 1)).drop()
    assert seen(d, 1) == [b"b"]  # that of `a` would have come before


@twice
def test_a_delay_does_not_begin_anew(durable, how):
    d = durable(how=how, will_grace="0s")
    watcher(d)
    d.wire("a", will=will("a", 3)).drop()
    d.committed()
    for _ in range(200):
        d.restart()
        wait_seconds(0.05)
        if d.wire("watch").pick():
            break
    else:
        pytest.fail("the will never came")


@twice
def test_a_delayed_will_of_one_who_comes_back(durable, how):
    d = durable(how=how, will_grace="0s")
    watcher(d)
    d.wire("a", will=will("a", 3)).drop()
    d.wire("b", will=will("b", 4)).drop()
    d.committed()
    d.restart()
    a = d.wire("a")
    assert a.present == 1
    assert seen(d, 1) == [b"b"]
    d.restart()
    d.wire("c", will=will("c", 1)).drop()
    assert seen(d, 1) == [b"c"]


@twice
def test_one_who_was_connected_and_does_not_come_back(durable, how):
    d = durable(how=how, will_grace="1s")
    watcher(d)
    wills = {
        "persistent": d.wire("persistent", will=will("persistent")),
        "old": d.wire("old", level=4, will=will("old")),
        "not persistent": d.wire("not persistent", clean=1, expiry=0, will=will("not persistent")),
        "old and clean": d.wire("old and clean", level=4, clean=1, will=will("old and clean")),
    }
    d.committed()
    d.restart()
    assert seen(d, 4) == sorted(name.encode() for name in wills)
    d.restart()  # and none again
    d.wire("x", will=will("x")).drop()
    assert seen(d, 1) == [b"x"]


@twice
def test_the_longer_of_grace_and_delay_counts(durable, how):
    d = durable(how=how, will_grace="1s")
    watcher(d)
    d.wire("later", will=will("later", 4))
    d.wire("first", will=will("first"))
    d.committed()
    d.restart()
    assert payloads(watch(d, 2)) == [b"first", b"later"]


@twice
@pytest.mark.parametrize("level", [4, 5])
def test_one_who_comes_back_in_time_has_no_will(durable, how, level):
    d = durable(how=how, will_grace="2s")
    watcher(d)
    d.wire("back", level, will=will("back"))
    d.wire("other", level, will=will("other"))
    d.committed()
    d.restart()
    back = d.wire("back", level)
    assert back.present == 1
    assert seen(d, 1) == [b"other"]
    back.leave()
    d.restart()
    d.wire("last", will=will("last")).drop()
    assert seen(d, 1) == [b"last"]


@twice
def test_a_will_given_anew_replaces_the_old_one(durable, how):
    d = durable(how=how, will_grace="1s")
    watcher(d)
    d.wire("a", will=will("old"))
    d.committed()
    d.restart()
    d.wire("a", will=will("new"))
    d.committed()
    d.restart()
    assert seen(d, 1) == [b"new"]


@twice
def test_who_left_by_disconnect_has_no_will(durable, how):
    d = durable(how=how, will_grace="0s")
    watcher(d)
    d.wire("a", will=will("a")).leave()
    d.wire("b", level=4, will=will("b")).leave()
    d.wire("c", will=will("c", 1)).leave()
    d.wire("asked for", will=will("asked for", 1)).leave(code=4)
    d.committed()
    d.restart()
    d.wire("last", will=will("last", 2)).drop()
    assert payloads(watch(d, 2)) == [b"asked for", b"last"]


@twice
def test_one_that_was_published_is_not_published_again(durable, how):
    d = durable(how=how, will_grace="0s")
    watcher(d)
    d.wire("a", will=will("a", qos=2)).drop()
    d.wire("b", level=4, will=will("b")).drop()
    d.wire("c", expiry=0, clean=1, will=will("c", qos=0)).drop()  # QoS 0: not for one who is away
    assert seen(d, 2) == [b"a", b"b"]
    d.restart()
    d.wire("last", will=will("last", 1)).drop()
    assert seen(d, 1) == [b"last"]


@twice
def test_all_of_a_will_survives(durable, how):
    d = durable(how=how, will_grace="0s")
    d.wire("watch").subscribe("t/#", rap=1).leave()
    props = [("content-type", b"c"), ("response-topic", b"r"), ("correlation-data", b"\0\1"),
             ("user-property", (b"k", b"1")), ("user-property", (b"k", b"2")), ("payload-format-indicator", 1),
             ("message-expiry-interval", 3600)]
    d.wire("a", will=will("text", 1, topic="t/\u00e4", qos=2, retain=1, props=props)).drop()
    d.wire("b", will=will(b"\xff" * 65535, 1, topic="t/" + "x" * 1000)).drop()
    d.committed()
    d.restart()
    got = {m["topic"].decode(): m for m in watch(d, 2)}
    a, b = got["t/\u00e4"], got["t/" + "x" * 1000]
    assert (a["payload"], a["qos"], a["retain"]) == (b"text", 2, 1)
    left = dict(a["props"])["message-expiry-interval"]
    assert 3500 <= left <= 3600
    assert sorted(map(str, a["props"])) == sorted(map(str, [*props[:-1], ("message-expiry-interval", left)]))
    assert (b["payload"], b["qos"], b["retain"], b["props"]) == (b"\xff" * 65535, 1, 0, [])
    d.restart()
    d.wire("new", clean=1).subscribe("t/\u00e4").take(payload="text", retain=1)


@twice
def test_the_end_of_a_session_publishes_its_will(durable, how):
    """Also if the session has ended while the broker was away."""
    d = durable(how=how, will_grace="0s")
    watcher(d)
    d.wire("a", expiry=1, will=will("a", DAY)).drop()
    d.wire("b", expiry=DAY, will=will("b", DAY)).drop()
    d.committed()
    d.restart()
    assert seen(d, 1) == [b"a"]
    assert d.wire("a").present == 0
    assert d.wire("b").present == 1


@twice
@pytest.mark.parametrize("workers", [2, 3])
def test_wills_of_many(durable, how, workers):
    d = durable(how=how, workers=workers, will_grace="1s", max_queued_messages=0)
    watcher(d)
    names = [f"c{i}" for i in range(100)]
    for name in names:
        d.wire(name, will=will(name)).subscribe("nothing")
    d.restart()
    wires = [d.wire(name) for name in names[::4]]
    assert all(w.present for w in wires)
    expected = sorted(name.encode() for i, name in enumerate(names) if i % 4)
    assert seen(d, len(expected)) == expected


def test_no_will_is_lost_on_its_way_to_another_worker(durable):
    """The worker of who has died forgets the will, that of who listens has it to keep: they are not committed as one."""
    d = durable(workers=4, will_grace="0s")
    watcher(d)
    due, came = set(), set()

    def pick():
        w = d.wire("watch")
        came.update(payloads(d.drain(w)))
        w.leave()
        return due <= came

    for i in range(6):
        some = [f"{i}-{n}" for n in range(120)]
        wires = [d.wire(name, clean=1, expiry=0, will=will(name)) for name in some]
        d.committed(workers=4)
        due.update(name.encode() for name in some)
        for w in wires:
            w.reset()
        d.restart()
    until(pick, "all wills")
    # And none of them stays on disk.
    d.restart()
    d.drain(d.wire("watch"))
    d.committed(workers=4)
    d.restart()
    assert not [p for p in d.drain(d.wire("watch")) if p in due]
