# SPDX-License-Identifier: MIT
"""What is acknowledged is on disk: while the disk is in trouble nothing is acknowledged that has to be, and all other
traffic goes on."""

import pytest
from durable import Wire, payloads, twice

pytestmark = [pytest.mark.memory, pytest.mark.threads]

TROUBLE = pytest.mark.parametrize("mood", ["full", "broken", "unsynced", "torn"])
WORKERS = pytest.mark.parametrize("workers", [1, 2, 3])


def trouble(d, mood="full"):
    """The disk goes wrong; the log is awaited, which takes a change that has to be written."""
    d.mood(mood)
    before = len(d.broker.process.lines)
    d.made += 1
    Wire(d.port, f"unlucky-{d.made}", clean=1).reset()
    d.broker.process.wait_line("nothing more is acknowledged until that is over", start=before)


def well(d):
    before = len(d.broker.process.lines)
    d.mood("well")
    d.broker.process.wait_line("can be written again", start=before)


@TROUBLE
def test_no_acknowledgement_before_the_commit(durable, mood):
    d = durable(disk=True)
    away = d.wire("away").subscribe("t")
    away.leave()
    a = d.wire("a").subscribe("mine", "theirs")
    q = d.wire("q", clean=1, expiry=0)
    r = d.wire("r", level=4)
    r.publish("t", "before", qos=2, wait=False, pid=7)
    r.get("PUBREC", pid=7)
    trouble(d, mood)

    q.publish("t", "1", qos=1, wait=False)
    q.publish("t", "2", qos=2, wait=False)
    r.publish("t", "3", qos=1, wait=False)
    r.publish("t", "4", qos=2, wait=False, pid=8)
    r.send("PUBREL", pid=7)
    a.subscribe("more", wait=False)
    a.unsubscribe("mine", wait=False)
    q.publish("r", "kept", qos=1, retain=1, wait=False)
    for w in (q, r, a):
        w.nothing()
    well(d)
    assert [q.receive()[0] for _ in range(3)] == ["PUBACK", "PUBREC", "PUBACK"]
    assert sorted(r.receive()[0] for _ in range(3)) == ["PUBACK", "PUBCOMP", "PUBREC"]
    assert [a.receive()[0] for _ in range(2)] == ["SUBACK", "UNSUBACK"]
    d.restart()
    assert payloads(d.messages("away", 5)) == [b"before", b"1", b"2", b"3", b"4"]
    a = d.wire("a")
    p = d.wire("p", clean=1)
    for topic in ("mine", "more", "theirs"):
        p.publish(topic, topic)
    assert payloads([a.take(), a.take()]) == [b"more", b"theirs"]
    d.wire("new", clean=1).subscribe("r").take(payload="kept", retain=1)


@TROUBLE
def test_what_was_not_acknowledged_in_trouble_may_be_lost_only_then(durable, mood):
    """Killed in the middle of it: what was acknowledged before is there, and publishing again brings the rest."""
    d = durable(disk=True)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p")
    p.publish("t", "1", qos=1)
    p.publish("t", "2", qos=2, wait=False, pid=5)
    p.get("PUBREC", pid=5)
    trouble(d, mood)
    p.publish("t", "3", qos=1, wait=False, pid=6)
    p.publish("t", "4", qos=2, wait=False, pid=7)
    p.nothing()
    d.broker.kill()
    d.mood("well")
    d.all.clear()
    d.start(disk=True)
    p = d.wire("p")
    assert p.present == 1
    p.publish("t", "2", qos=2, wait=False, pid=5, dup=1)
    p.get("PUBREC", pid=5)
    p.release(5)
    p.publish("t", "3", qos=1, pid=6, dup=1)
    p.publish("t", "4", qos=2, pid=7, dup=1)
    assert sorted(payloads(d.messages("away", 4))) == [b"1", b"2", b"3", b"4"]


def test_who_keeps_nothing_is_served_in_trouble(durable):
    d = durable(disk=True)
    d.wire("away").subscribe("t").leave()
    durable_one = d.wire("a").subscribe("t")
    b = d.wire("b", clean=1, expiry=0).subscribe("t", "u")
    c = d.wire("c", level=4, clean=1).subscribe("u")
    p = d.wire("p", clean=1, expiry=0)
    trouble(d)
    waiting = d.wire("waiting", clean=1, expiry=0)
    waiting.publish("t", "waits", qos=2, wait=False)
    b.take(payload="waits")
    for i in range(20):
        p.publish("u", f"{i}", qos=i % 3)
        b.take(payload=f"{i}", qos=i % 3)
        c.take(payload=f"{i}", qos=i % 3)
        p.publish("t", f"qos 0, {i}", qos=0)
        b.take(payload=f"qos 0, {i}")
        durable_one.get("PUBLISH", payload=f"qos 0, {i}", qos=0)
    late = d.wire("late", clean=1, expiry=0).subscribe("v")  # a new one, and its SUBACK
    p.publish("v", "for late", qos=1)
    late.take(payload="for late")
    late.unsubscribe("v")
    late.leave()
    waiting.nothing()
    well(d)
    waiting.get("PUBREC")


def test_qos_1_is_delivered_at_once_and_qos_2_after_the_commit(durable):
    d = durable(disk=True)
    a = d.wire("a").subscribe("t")
    p = d.wire("p", clean=1, expiry=0)
    trouble(d)
    p.publish("t", "1", qos=1, wait=False)
    p.publish("t", "2", qos=2, wait=False)
    one = a.get("PUBLISH", payload="1", qos=1, dup=0)
    a.nothing()
    p.nothing()
    well(d)
    two = a.get("PUBLISH", payload="2", qos=2, dup=0)
    assert one["pid"] != two["pid"]
    assert [p.receive()[0] for _ in range(2)] == ["PUBACK", "PUBREC"]
    d.restart()
    a = d.wire("a")
    got = [a.get("PUBLISH", dup=1) for _ in range(2)]
    assert {(m["payload"], m["qos"]) for m in got} == {(b"1", 1), (b"2", 2)}
    assert [m["pid"] for m in got if m["qos"] == 2] == [two["pid"]]


def test_pubrel_waits_for_the_commit(durable):
    d = durable(disk=True)
    a = d.wire("a").subscribe("t")
    p = d.wire("p", clean=1, expiry=0)
    p.publish("t", "1", qos=2)
    pid = a.get("PUBLISH", payload="1")["pid"]
    trouble(d)
    a.send("PUBREC", pid=pid)
    a.nothing()
    well(d)
    a.get("PUBREL", pid=pid)
    d.restart()
    a = d.wire("a")
    a.get("PUBREL", pid=pid)
    a.nothing()


def test_what_the_subscriber_acknowledged_in_trouble_is_done(durable):
    """Nobody needs the disk for it any more."""
    d = durable(disk=True)
    a = d.wire("a").subscribe("t")
    p = d.wire("p", clean=1, expiry=0)
    trouble(d)
    p.publish("t", "1", qos=1, wait=False)
    a.take(payload="1")
    well(d)
    p.get("PUBACK")
    d.committed()
    d.restart()
    d.messages("a", 0)


@WORKERS
@pytest.mark.parametrize("qos", [1, 2])
def test_subscribers_of_other_workers_are_waited_for(durable, workers, qos):
    """Of eight, some belong to another worker than the publisher does."""
    d = durable(disk=True, workers=workers)
    names = [f"c{i}" for i in range(8)]
    for name in names:
        d.wire(name).subscribe(f"t/{name}").leave()
    p = d.wire("p", clean=1, expiry=0)
    trouble(d)
    for name in names:
        p.publish(f"t/{name}", name, qos=qos, wait=False)
    p.publish("nobody", "", qos=0)
    p.nothing()
    well(d)
    for i in range(8):
        p.get("PUBACK" if qos == 1 else "PUBREC", pid=1 + i)
    d.restart()
    for name in names:
        assert payloads(d.messages(name, 1)) == [name.encode()]


@WORKERS
def test_one_message_for_many_workers_waits_for_all(durable, workers):
    d = durable(disk=True, workers=workers)
    names = [f"c{i}" for i in range(8)]
    for name in names:
        d.wire(name).subscribe("t").leave()
    p = d.wire("p")
    for i in range(100):
        p.publish("t", f"{i}", qos=1 + i % 2)
    trouble(d)
    p.publish("t", "100", qos=2, wait=False)
    p.nothing()
    well(d)
    p.get("PUBREC")
    d.restart()
    for name in names:
        assert payloads(d.messages(name, 101)) == [b"%d" % i for i in range(101)]


def test_publishers_are_held_back_and_not_cut_off(durable):
    """Who publishes much while the disk is in trouble waits; memory does not grow without end, and all comes at last."""
    d = durable(disk=True, max_queued_messages=0, max_queued_bytes="0")
    d.wire("away").subscribe("t").leave()
    writers = [d.wire(f"p{i}", level=4) for i in range(4)]
    trouble(d)
    burst = 800
    for w in writers:
        for i in range(burst):
            w.publish("t", b"%d %s" % (i, b"." * 100), qos=1 + i % 2, wait=False)
    other = d.wire("other", clean=1, expiry=0).subscribe("u")
    other.publish("u", "goes on", qos=0)
    other.take(payload="goes on")
    well(d)
    for w in writers:
        got = [w.receive()[0] for _ in range(burst)]
        assert got.count("PUBACK") == got.count("PUBREC") == burst // 2
    d.restart()
    assert len(d.messages("away", 4 * burst)) == 4 * burst


def test_a_take_over_in_trouble(durable):
    """What waits for the disk on behalf of an old connection is not told to the new one."""
    d = durable(disk=True)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p")
    p.publish("t", "0", qos=2, wait=False, pid=3)
    p.get("PUBREC", pid=3)
    trouble(d)
    p.publish("t", "1", qos=1, wait=False, pid=1)
    p.publish("t", "2", qos=2, wait=False, pid=2)
    p.send("PUBREL", pid=3)
    p.subscribe("x", pid=9, wait=False)
    p.nothing()
    again = d.wire("p")
    assert again.present == 1
    again.nothing()
    assert [kind for kind, _ in p.closed()] == ["DISCONNECT"]
    well(d)
    d.committed()
    again.nothing()
    again.publish("t", "1", qos=1, wait=False, pid=1, dup=1)
    again.get("PUBACK", pid=1)
    again.publish("t", "2", qos=2, wait=False, pid=2, dup=1)
    again.get("PUBREC", pid=2)
    again.release(2)
    again.send("PUBREL", pid=3)
    again.get("PUBCOMP", pid=3)
    again.publish("t", "3", qos=2, pid=3)
    d.restart()
    got = d.messages("away", 5)
    assert sorted(payloads(got)) == [b"0", b"1", b"1", b"2", b"3"]


def test_publishing_again_by_a_new_connection_in_trouble(durable):
    d = durable(disk=True)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p")
    trouble(d)
    p.publish("t", "1", qos=2, wait=False, pid=2)
    p.nothing()
    for _ in range(5):
        p = d.wire("p")
        p.publish("t", "1", qos=2, wait=False, pid=2, dup=1)
        p.nothing()
    well(d)
    p.get("PUBREC", pid=2)
    p.nothing()
    p.release(2)
    d.restart()
    assert payloads(d.messages("away", 1)) == [b"1"]


def test_a_session_that_comes_and_goes_in_trouble(durable):
    d = durable(disk=True)
    d.wire("old").subscribe("t").leave()
    trouble(d)
    wires = []
    for i in range(20):  # CONNACK waits where one before has ended, or is told that it has
        w = d.wire(f"new{i % 5}", clean=i % 2, connect=False)
        w.subscribe("t", wait=False)
        if i % 3 == 0:
            w.send("DISCONNECT", props=[("session-expiry-interval", 0)])
        wires.append(w)
    old = d.wire("old", clean=1, connect=False)
    well(d)
    for i, w in enumerate(wires[15:], 15):
        if i % 3 == 0:
            w.closed()
        else:
            w.silent()
    assert not old.connected().present
    d.committed()
    d.restart()
    assert d.wire("old").present == 1  # the one that was made in the trouble
    # The last of each: 15 and 18 have ended.
    assert [d.wire(f"new{i}").present for i in range(5)] == [0, 1, 1, 0, 1]


def test_the_end_in_trouble_is_clean(durable):
    d = durable(how="ended", disk=True)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p")
    d.committed()
    trouble(d)
    p.publish("t", "1", qos=1, wait=False)
    p.publish("t", "2", qos=2, wait=False)
    p.nothing()
    d.broker.stop()  # with whatever status: not all that it was given is on disk
    assert not [kind for kind, _ in p.closed() if kind in ("PUBACK", "PUBREC")]
    d.mood("well")
    d.all.clear()
    d.start(disk=True)
    assert d.wire("p").present == 1


@twice
def test_a_start_with_what_was_torn_away(durable, how):
    """Trouble and recovery again and again, with traffic in between: nothing acknowledged is lost or doubled."""
    d = durable(how=how, disk=True, max_queued_messages=0)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p")
    count = 0
    for mood in ("full", "torn", "broken", "unsynced"):
        p = d.wire("p")
        for _ in range(20):
            p.publish("t", f"{count}", qos=2)
            count += 1
        trouble(d, mood)
        for _ in range(20):
            p.publish("t", f"{count}", qos=2, wait=False)
            count += 1
        p.nothing()
        well(d)
        got = [p.get("PUBREC")["pid"] for _ in range(20)]
        for pid in got:
            p.release(pid)
        d.restart(disk=True)
    assert payloads(d.messages("away", count)) == [b"%d" % i for i in range(count)]


def is_silent(wire, other):
    """Nothing has come, though the worker has gone round several times."""
    for _ in range(10):
        other.nothing()
    wire.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.socket.recv(1)


ENDS = pytest.mark.parametrize("level, end", [(4, "clean"), (5, "clean"), (5, "expiry")])


def end_session(d, level, end):
    """Ends the session of "a", and connects again; CONNACK, which says that there is none, has not been read."""
    if end == "expiry":
        d.wire("a").send("DISCONNECT", props=[("session-expiry-interval", 0)])
        return d.wire("a", expiry=0, connect=False)
    return d.wire("a", level, clean=1, expiry=0, connect=False)


@ENDS
def test_connack_waits_for_the_end_of_the_session_before(durable, level, end):
    d = durable(disk=True)
    d.wire("a", level).subscribe("t").leave()
    other = d.wire("other", clean=1, expiry=0)
    trouble(d)
    a = end_session(d, level, end)
    a.subscribe("u", wait=False)
    a.publish("u", "1", qos=1, wait=False)
    is_silent(a, other)
    other.publish("t", "0", qos=1)  # whose session is gone
    other.publish("u", "0", qos=1)
    well(d)
    assert not a.connected().present
    a.get("SUBACK")
    assert sorted(a.receive()[0] for _ in range(2)) == ["PUBACK", "PUBLISH"]
    a.nothing()


@ENDS
def test_a_session_whose_end_was_told_does_not_come_back(durable, level, end):
    """Killed as soon as the client knows."""
    d = durable()
    for _ in range(5):
        d.wire("a", level).subscribe("t").leave()
        d.wire("p", clean=1).publish("t", "old")
        assert not end_session(d, level, end).connected().present
        d.restart()
        a = d.wire("a", level)
        assert not a.present
        a.nothing()


def test_a_connection_that_ends_before_its_connack(durable):
    d = durable(disk=True)
    d.wire("a").subscribe("t").leave()
    other = d.wire("other", clean=1, expiry=0)
    trouble(d)
    a = end_session(d, 5, "clean")
    is_silent(a, other)
    b = end_session(d, 5, "clean")
    a.closed()  # taken over: and nothing is said before CONNACK
    is_silent(b, other)
    b.reset()
    is_silent(end_session(d, 5, "clean"), other)
    well(d)
    assert not d.wire("a", clean=1).present
    other.nothing()
