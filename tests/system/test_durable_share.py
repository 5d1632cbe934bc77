# SPDX-License-Identifier: MIT
"""Shared subscriptions of sessions on disk: who gets what after a restart, and nothing comes twice. And what is promised by
a later connection while an earlier one's promise waits for the disk."""

import contextlib
import sqlite3

import pytest
from durable import payloads, twice

ALL = {"max_queued_messages": 1000000, "max_queued_bytes": "0"}


@twice
@pytest.mark.parametrize("workers", [1, 3])
def test_who_has_not_come_back_gets_nothing_that_another_can_take(durable, how, workers):
    d = durable(how=how, workers=workers)
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        d.wire(name).subscribe("$share/g/t")
    d.committed(workers)
    d.restart()
    back = d.wire("c")
    p = d.wire("p", clean=1)
    for i in range(12):
        p.publish("t", b"%d" % i, qos=1)
    assert payloads(back.take_all(12)) == [b"%d" % i for i in range(12)]


@twice
@pytest.mark.parametrize("workers", [1, 3])
def test_what_waits_for_members_does_not_come_twice_after_the_end(durable, how, workers):
    d = durable(how=how, workers=workers)
    names = ["a", "b", "c", "d"]
    for name in names:
        d.wire(name, props=[("receive-maximum", 1)]).subscribe("$share/g/t")
    p = d.wire("p", clean=1)
    for i in range(40):
        p.publish("t", b"%d" % i, qos=2)
    d.committed(workers)
    d.restart()
    got = []
    for wire in [d.wire(name) for name in names]:
        got += payloads(d.drain(wire))
    assert sorted(got, key=int) == [b"%d" % i for i in range(40)]


def end_of(d, client, end):
    """Ends a session that is away."""
    if end == "clean":
        assert not d.wire(client, clean=1, expiry=0).present
    else:
        d.wire(client, receive_maximum=1).leave(props=[("session-expiry-interval", 0)])


@twice
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("end", ["clean", "leave"])
@pytest.mark.parametrize("restarts", [0, 1, 2])
def test_the_group_gets_all_that_waits_for_one_whose_session_ends(durable, how, workers, end, restarts):
    """Also what a longer queue would have on disk only."""
    d = durable(how=how, workers=workers, **ALL)
    d.wire("a", receive_maximum=1).subscribe("$share/g/t", "own").leave()
    p = d.wire("p", clean=1)
    p.publish_all((("t", "own")[i % 2], b"%d" % i, 1 + i % 3 % 2) for i in range(400))
    if restarts > 0:
        d.restart()
    b = d.wire("b").subscribe("$share/g/t")
    end_of(d, "a", end)
    if restarts > 1:
        d.committed(workers)
        d.restart()
        b = d.wire("b")
        assert b.present
    got = payloads(d.drain(b))
    assert sorted(set(got), key=int) == [b"%d" % i for i in range(0, 400, 2)]
    a = d.wire("a")
    assert not a.present
    a.nothing()


@twice
def test_the_group_gets_all_that_waits_for_one_who_reads_slowly(durable, how):
    """A queue of more than a thousand, of one that is there; and what is its own stays, in order."""
    d = durable(how=how, **ALL)
    a = d.wire("a", receive_maximum=1).subscribe("$share/g/t", "own")
    p = d.wire("p", clean=1)
    p.publish_all((("t", "own")[i % 2], b"%d" % i, 1) for i in range(5000))
    a.send("UNSUBSCRIBE", pid=9, filters=[{"filter": b"$share/g/t"}])
    d.committed()  # nobody is there to take them
    d.restart()
    b = d.wire("b").subscribe("$share/g/t")
    a = d.wire("a")
    got = payloads(d.drain(a))
    assert [i for i in map(int, got) if i % 2] == list(range(1, 5000, 2))
    b.nothing()


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_on_disk_stays_there_when_its_member_leaves(durable, workers):
    """A member whose session ends with its connection would have it in memory only."""
    d = durable(how="killed", workers=workers)
    a = d.wire("a", receive_maximum=1).subscribe("$share/g/t")
    p = d.wire("p", clean=1)
    for i in range(60):
        p.publish("t", b"%d" % i, qos=1)
    for i in range(4):
        d.wire(f"m{i}", clean=1, expiry=0, receive_maximum=1).subscribe("$share/g/t")
    a.leave()
    d.committed(workers)
    d.restart()
    got = payloads(d.drain(d.wire("a")))
    assert sorted(set(got), key=int) == [b"%d" % i for i in range(60)]


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_on_disk_stays_there_when_its_session_ends(durable, workers):
    """It waits for one who keeps it there, though others could have it sooner."""
    d = durable(how="killed", workers=workers)
    d.wire("a", receive_maximum=1).subscribe("$share/g/t").leave()
    d.wire("p", clean=1).publish_all(("t", b"%d" % i, 1) for i in range(60))
    d.wire("b").subscribe("$share/g/t").leave()
    d.wire("m", clean=1, expiry=0, receive_maximum=1).subscribe("$share/g/t")
    end_of(d, "a", "clean")
    d.committed(workers)
    d.restart()
    got = payloads(d.drain(d.wire("b")))
    assert sorted(set(got), key=int) == [b"%d" % i for i in range(60)]


@twice
@pytest.mark.parametrize("workers", [1, 3])
def test_others_get_no_more_than_they_have_room_for(durable, how, workers):
    d = durable(how=how, workers=workers, max_queued_messages=100)
    names = ["a", "b", "c"]
    wires = [d.wire(name, receive_maximum=1).subscribe("$share/g/t") for name in names]
    d.wire("p", clean=1).publish_all(("t", b"%d" % i, 1) for i in range(240))
    wires[0].leave()
    d.wire("p", clean=1).publish_all(("t", b"%d" % i, 1) for i in range(240, 270))  # there is room for these with "a"
    d.committed(workers)
    d.restart()
    got = [payload for name in names for payload in payloads(d.drain(d.wire(name)))]
    assert sorted(set(got), key=int) == [b"%d" % i for i in range(270)]


@twice
def test_what_is_shared_and_what_is_not_are_both_in_order(durable, how):
    """What is not shared is loaded in its order, though what is shared is in memory already."""
    d = durable(how=how, **ALL)
    d.wire("a", receive_maximum=1).subscribe("$share/g/t", "own").leave()
    p = d.wire("p", clean=1)
    p.publish_all((("t", "own")[i % 2], b"%d" % i, 1) for i in range(3000))
    d.restart()
    got = payloads(d.drain(d.wire("a")))
    assert [i for i in map(int, got) if i % 2] == list(range(1, 3000, 2))
    assert [i for i in map(int, got) if i % 2 == 0] == list(range(0, 3000, 2))


def test_an_identifier_that_is_released_again_in_trouble_is_not_free_yet(durable):
    """Else the next message that has it would be taken for the one before, after a kill -9."""
    d = durable(disk=True)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p")
    p.publish("t", "0", qos=2, wait=False, pid=3)
    p.get("PUBREC", pid=3)
    d.mood("full")
    p.send("PUBREL", pid=3)
    p.nothing()
    again = d.wire("p")
    again.send("PUBREL", pid=3)
    again.nothing()  # no PUBCOMP
    d.mood("well")
    again.get("PUBCOMP", pid=3)


def test_one_large_message_of_many_queues_is_in_memory_once(durable):
    d = durable()
    count = 300
    for i in range(count):
        d.wire(f"away-{i}").subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish("t", b"x" * 1024 * 1024, qos=1)
    d.restart()
    pid = d.broker.process.pid
    resident = next(int(line.split()[1]) for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS"))
    assert resident < 150 * 1024
    assert len(d.messages("away-7", 1)[0]["payload"]) == 1024 * 1024


@twice
def test_of_two_sessions_of_one_client_on_disk_the_last_is_the_one(durable, how):
    """The end of the other was not written any more: the next start ends it, and gives what it had to its group."""
    d = durable(how=how, **ALL)
    d.wire("a", will=("will", "no")).subscribe("$share/g/t", "own").leave()
    p = d.wire("p", clean=1)
    p.publish_all((("t", "own")[i % 2], b"%d" % i, 1) for i in range(100))
    b = d.wire("b").subscribe("$share/g/t", "will")
    b.leave()
    d.end()
    d.change("INSERT INTO session SELECT number + 1000000, id, persistent, expiry, left_ms, will, will_delay, "
             "will_expiry, sent FROM session WHERE id = CAST('a' AS BLOB)",
             "UPDATE session SET will_delay = 1000000 WHERE id = CAST('a' AS BLOB) AND number < 1000000")
    d.start()
    a = d.wire("a")
    assert a.present
    a.nothing()
    b = d.wire("b")
    assert sorted(payloads(b.take_all(50)), key=int) == [b"%d" % i for i in range(0, 100, 2)]
    b.nothing()
    d.committed()
    d.restart()
    d.messages("b", 0)
    d.messages("a", 0)
    d.end()
    with contextlib.closing(sqlite3.connect(d.database)) as db:
        assert db.execute("SELECT count(*) FROM session WHERE id = CAST('a' AS BLOB)").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM queued").fetchone() == (0,)
