# SPDX-License-Identifier: MIT
"""Messages in flight, in both directions and in each state, when the broker ends; and clients who take sessions over."""

import pytest
from durable import payloads, twice

pytestmark = pytest.mark.memory

LEVELS = pytest.mark.parametrize("level", [4, 5])


def numbers(messages):
    return [int(m["payload"]) for m in messages]


# ---- To the client


@twice
@LEVELS
def test_qos_1_that_is_not_acknowledged_comes_again(durable, how, level):
    d = durable(how=how)
    a = d.wire("a", level).subscribe("t")
    d.wire("p", clean=1).publish("t", "1")
    a.get("PUBLISH", payload="1", qos=1, dup=0)
    for leaves in (False, True, False):
        if leaves:
            a.leave()
            d.committed()
        d.restart()
        a = d.wire("a", level)
        assert a.present == 1
        pid = a.get("PUBLISH", topic="t", payload="1", qos=1, dup=1)["pid"]
    a.send("PUBACK", pid=pid)
    a.nothing()
    a.leave()
    d.committed()
    d.restart()
    d.messages("a", 0, level)


@twice
@LEVELS
def test_qos_1_that_is_acknowledged_does_not_come_again(durable, how, level):
    d = durable(how=how)
    a = d.wire("a", level).subscribe("t")
    p = d.wire("p", clean=1)
    for i in range(5):
        p.publish("t", f"{i}")
        a.get("PUBLISH", payload=f"{i}")
    a.send("PUBACK", pid=2)
    a.send("PUBACK", pid=4)
    a.nothing()
    d.committed()
    d.restart()
    assert payloads(d.messages("a", 3, level)) == [b"0", b"2", b"4"]


@twice
@LEVELS
def test_qos_2_published_comes_again_with_its_identifier(durable, how, level):
    d = durable(how=how)
    a = d.wire("a", level).subscribe("t")
    p = d.wire("p", clean=1)
    pids = []
    for i in range(3):
        p.publish("t", f"{i}", qos=2)
        pids.append(a.get("PUBLISH", payload=f"{i}", qos=2, dup=0)["pid"])
    assert len(set(pids)) == 3
    for _ in range(2):
        d.restart()
        a = d.wire("a", level)
        for i, pid in enumerate(pids):
            a.get("PUBLISH", topic="t", payload=f"{i}", qos=2, dup=1, pid=pid)
        a.nothing()
    for pid in reversed(pids):
        a.send("PUBREC", pid=pid)
        a.get("PUBREL", pid=pid)
        a.send("PUBCOMP", pid=pid)
    a.nothing()
    d.committed()
    d.restart()
    d.messages("a", 0, level)


@twice
@LEVELS
def test_qos_2_received_is_released_again_and_never_published(durable, how, level):
    d = durable(how=how)
    a = d.wire("a", level).subscribe("t")
    d.wire("p", clean=1).publish("t", "1", qos=2)
    pid = a.get("PUBLISH", payload="1", qos=2)["pid"]
    a.send("PUBREC", pid=pid)
    a.get("PUBREL", pid=pid)
    for _ in range(3):
        d.restart()
        a = d.wire("a", level)
        a.get("PUBREL", pid=pid)
        a.nothing()
    a.send("PUBCOMP", pid=pid)
    a.nothing()
    d.committed()
    d.restart()
    d.messages("a", 0, level)


@twice
@LEVELS
def test_all_states_at_once(durable, how, level):
    d = durable(how=how)
    a = d.wire("a", level).subscribe("t")
    p = d.wire("p", clean=1)
    pids = {}
    for i in range(12):
        p.publish("t", f"{i}", qos=1 if i % 4 == 0 else 2)
        pids[i] = a.get("PUBLISH", payload=f"{i}")["pid"]
    for i in (1, 5, 9, 2, 6, 10):
        a.send("PUBREC", pid=pids[i])
        a.get("PUBREL", pid=pids[i])
    for i in (2, 10):
        a.send("PUBCOMP", pid=pids[i])
    a.nothing()
    d.committed()
    d.restart()
    a = d.wire("a", level)
    got = [a.receive() for _ in range(10)]
    a.nothing()
    published = {int(f["payload"]): f for kind, f in got if kind == "PUBLISH"}
    assert sorted(published) == [0, 3, 4, 7, 8, 11]
    assert all(f["dup"] for f in published.values())
    assert all(f["pid"] == pids[i] for i, f in published.items() if f["qos"] == 2)
    assert sorted(f["pid"] for kind, f in got if kind == "PUBREL") == sorted(pids[i] for i in (1, 5, 6, 9))
    assert len({f["pid"] for _, f in got}) == 10


@twice
@LEVELS
def test_identifiers_in_flight_are_not_given_again(durable, how, level):
    d = durable(how=how)
    a = d.wire("a", level).subscribe("t")
    p = d.wire("p", clean=1)
    for i in range(6):
        p.publish("t", f"{i}", qos=2)
    pids = [a.get("PUBLISH", payload=f"{i}")["pid"] for i in range(6)]
    for pid in pids[:3]:
        a.send("PUBREC", pid=pid)
        a.get("PUBREL", pid=pid)
    d.restart()
    a = d.wire("a", level)
    again = [a.receive()[1]["pid"] for _ in range(6)]
    assert sorted(again) == sorted(pids)
    p = d.wire("p", clean=1)
    for i in range(6, 12):
        p.publish("t", f"{i}", qos=1 + i % 2)
        assert a.get("PUBLISH", payload=f"{i}", dup=0)["pid"] not in pids


@twice
def test_the_window_holds_after_a_restart(durable, how):
    d = durable(how=how)
    a = d.wire("a", props=[("receive-maximum", 5)]).subscribe("t")
    p = d.wire("p", clean=1)
    for i in range(40):
        p.publish("t", f"{i}", qos=1 + i % 2)
    first = [a.get("PUBLISH", payload=f"{i}") for i in range(5)]
    a.nothing()
    d.restart()
    a = d.wire("a", props=[("receive-maximum", 3)])
    again = [a.get("PUBLISH", dup=1) for _ in range(3)]
    a.nothing()
    assert {int(f["payload"]): f["pid"] for f in first if f["qos"] == 2}.items() >= \
        {int(f["payload"]): f["pid"] for f in again if f["qos"] == 2}.items()
    a.drop()
    a = d.wire("a")
    got = d.drain(a)
    for qos in (1, 2):
        assert numbers(m for m in got if m["qos"] == qos) == list(range(qos - 1, 40, 2))


@twice
@LEVELS
def test_no_message_is_released_before_it_was_received(durable, how, level):
    """PUBREC and the end of the broker at once: it comes again in one of two ways, and counts once."""
    d = durable(how=how)
    for i in range(10):
        a = d.wire("a", level, clean=i == 0).subscribe("t")
        if level == 4 and i == 0:
            a.leave()
            a = d.wire("a", level).subscribe("t")
        d.wire("p", clean=1).publish("t", f"{i}", qos=2)
        pid = a.get("PUBLISH", payload=f"{i}", qos=2)["pid"]
        a.send("PUBREC", pid=pid)
        d.restart()
        a = d.wire("a", level)
        kind, f = a.receive()
        assert f["pid"] == pid
        if kind == "PUBLISH":
            assert f["dup"] and int(f["payload"]) == i
            a.send("PUBREC", pid=pid)
            a.get("PUBREL", pid=pid)
        else:
            assert kind == "PUBREL"
        a.send("PUBCOMP", pid=pid)
        a.nothing()


@twice
def test_a_refusal_by_the_client_ends_a_message(durable, how):
    d = durable(how=how)
    a = d.wire("a").subscribe("t")
    p = d.wire("p", clean=1)
    p.publish("t", "1", qos=2)
    a.send("PUBREC", pid=a.get("PUBLISH", payload="1")["pid"], code=0x83)
    p.publish("t", "2", qos=1)
    a.send("PUBACK", pid=a.get("PUBLISH", payload="2")["pid"], code=0x83)
    a.nothing()
    d.committed()
    d.restart()
    d.messages("a", 0)


# ---- From the client


@twice
@LEVELS
def test_qos_2_published_again_is_delivered_once(durable, how, level):
    d = durable(how=how)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p", level)
    p.publish("t", "1", qos=2, wait=False, pid=5)
    p.get("PUBREC", pid=5)
    for _ in range(2):
        d.restart()
        p = d.wire("p", level)
        assert p.present == 1
        p.publish("t", "1", qos=2, wait=False, pid=5, dup=1)
        p.get("PUBREC", pid=5)
    p.send("PUBREL", pid=5)
    p.get("PUBCOMP", pid=5, code=0)
    p.nothing()
    assert payloads(d.messages("away", 1)) == [b"1"]


@twice
@LEVELS
def test_qos_2_received_can_be_released_after_a_restart(durable, how, level):
    d = durable(how=how)
    b = d.wire("b").subscribe("t")
    p = d.wire("p", level)
    for pid in (1, 300, 65535):
        p.publish("t", f"{pid}", qos=2, wait=False, pid=pid)
        p.get("PUBREC", pid=pid)
        b.take(payload=f"{pid}")
    d.committed()
    d.restart()
    p = d.wire("p", level)
    p.nothing()
    for pid in (65535, 1, 300):
        p.send("PUBREL", pid=pid)
        p.get("PUBCOMP", pid=pid, code=0)
    d.messages("b", 0)


@twice
@LEVELS
def test_an_identifier_is_free_after_pubcomp(durable, how, level):
    d = durable(how=how)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p", level)
    p.publish("t", "0", qos=2, pid=5)
    for i in range(1, 4):
        d.restart()
        p = d.wire("p", level)
        p.publish("t", f"{i}", qos=2, pid=5)
    d.restart()
    assert numbers(d.messages("away", 4)) == [0, 1, 2, 3]


@twice
def test_identifiers_of_a_session_that_ended_are_free(durable, how):
    d = durable(how=how)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p")
    p.publish("t", "1", qos=2, wait=False, pid=5)
    p.get("PUBREC", pid=5)
    d.restart()
    p = d.wire("p", clean=1)
    p.publish("t", "2", qos=2, wait=False, pid=5)
    p.get("PUBREC", pid=5)
    d.restart()
    p = d.wire("p")
    p.send("PUBREL", pid=5)
    p.get("PUBCOMP", pid=5, code=0)
    assert payloads(d.messages("away", 2)) == [b"1", b"2"]


@twice
@LEVELS
def test_many_identifiers(durable, how, level):
    d = durable(how=how, receive_maximum=65535, max_queued_messages=0)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p", level)
    pids = list(range(1, 3001))
    for pid in pids:
        p.publish("t", f"{pid}", qos=2, wait=False, pid=pid)
    for pid in pids:
        p.get("PUBREC", pid=pid)
    d.restart()
    p = d.wire("p", level)
    for pid in pids[::2]:
        p.send("PUBREL", pid=pid)
    for pid in pids[::2]:
        p.get("PUBCOMP", pid=pid, code=0)
    for pid in pids[1::2]:
        p.publish("t", f"{pid}", qos=2, wait=False, pid=pid, dup=1)
    for pid in pids[1::2]:
        p.get("PUBREC", pid=pid)
    assert numbers(d.messages("away", 3000)) == pids


@twice
def test_a_publisher_who_does_not_come_again_has_published(durable, how):
    d = durable(how=how)
    d.wire("away").subscribe("t").leave()
    p = d.wire("p")
    p.publish("t", "1", qos=2, wait=False)
    p.get("PUBREC")
    d.restart()
    assert payloads(d.messages("away", 1)) == [b"1"]


# ---- Taking over


@twice
def test_a_second_client_takes_the_flight_over(durable, how):
    d = durable(how=how)
    a = d.wire("a").subscribe("t")
    p = d.wire("p", clean=1)
    p.publish("t", "1", qos=1)
    p.publish("t", "2", qos=2)
    p.publish("t", "3", qos=2)
    f = [a.get("PUBLISH", payload=f"{n}") for n in (1, 2, 3)]
    a.send("PUBREC", pid=f[2]["pid"])
    a.get("PUBREL", pid=f[2]["pid"])
    d.restart()
    first = d.wire("a")
    second = d.wire("a")
    first.closed()
    got = [second.receive() for _ in range(3)]
    assert {(kind, g["pid"], g.get("dup")) for kind, g in got if g.get("qos") != 1} == \
        {("PUBLISH", f[1]["pid"], 1), ("PUBREL", f[2]["pid"], None)}
    d.restart()
    third = d.wire("a")
    assert len({(kind, g["pid"]) for kind, g in (third.receive() for _ in range(3))}) == 3
    third.nothing()


@twice
def test_reconnects_in_a_row(durable, how):
    """Each connection takes the one before over while its messages are on their way to the disk."""
    d = durable(how=how, max_queued_messages=0)
    a = d.wire("a").subscribe("t")
    p = d.wire("p")
    count, seen, known = 0, [], set()
    for i in range(60):
        for _ in range(10):
            count += 1
            p.publish("t", f"{count}", qos=1 + count % 2, wait=False)
        a = d.wire("a")
        assert a.present == 1
        if i % 3 == 2:
            seen += numbers(m for m in d.drain(a) if once(m, known))
    while (got := p.silent()):
        for kind, f in got:
            if kind == "PUBREC":
                p.send("PUBREL", pid=f["pid"])
    d.committed()
    d.restart()
    seen += numbers(m for m in d.drain(d.wire("a")) if once(m, known))
    assert sorted(seen) == list(range(1, count + 1))


def once(message, known):
    """Whether it is there for the first time. A message of QoS 2 must not come twice."""
    number = int(message["payload"])
    if number not in known:
        known.add(number)
        return True
    assert message["qos"] == 1
    return False


@twice
def test_a_clean_session_in_between_takes_all_away(durable, how):
    d = durable(how=how)
    a = d.wire("a", level=4).subscribe("t")
    p = d.wire("p", clean=1)
    p.publish("t", "1", qos=2)
    a.get("PUBLISH", payload="1")
    b = d.wire("a", level=4, clean=1)
    assert b.present == 0
    b.subscribe("u")
    d.committed()
    d.restart()
    c = d.wire("a", level=4)
    assert c.present == 0
    p = d.wire("p", clean=1)
    p.publish("t", "2", qos=1)
    p.publish("u", "3", qos=1)
    c.nothing()


@twice
def test_a_client_may_change_its_protocol(durable, how):
    d = durable(how=how)
    d.wire("a", level=4).subscribe("t").leave()
    p = d.wire("p", clean=1)
    p.publish("t", "1", qos=1, props=[("content-type", b"x")])
    d.restart()
    a = d.wire("a", level=5)
    assert a.present == 1
    assert a.get("PUBLISH", payload="1")["props"] == [("content-type", b"x")]
    d.committed()
    d.restart()
    a = d.wire("a", level=4)
    assert a.present == 1
    a.take(payload="1", dup=1)
    a.nothing()
