# SPDX-License-Identifier: MIT
"""Shared subscriptions of sessions on disk: who gets what after a restart, and nothing comes twice. And what is promised by
a later connection while an earlier one's promise waits for the disk."""

import pytest
from durable import payloads, twice


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
