# SPDX-License-Identifier: MIT
"""Publishers and subscribers who never give up, and a broker that is killed again and again: what was acknowledged arrives,
what was published with QoS 2 arrives once, and what came first stays first."""

import collections
import pathlib
import random
import sys
import threading

import pytest
from durable import SANITIZED, Ended, Wire, payloads, twice, until
from preloaded import preloaded

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "crash"))
from account import read_lines  # noqa: E402
from daemon import Daemon  # noqa: E402
from publisher import Publisher  # noqa: E402

pytestmark = pytest.mark.threads

SHUTTING_DOWN = 0x8b  # reason code


class Subscriber(threading.Thread):
    """Takes all messages of in/#, with a connection that it loses now and then. `got` has (name, number) in the order of
    arrival, without what an identifier tells to be a repetition of QoS 2."""

    def __init__(self, name, port, level, rng):
        super().__init__(daemon=True)
        self.name, self.port, self.level, self.rng = name, port, level, rng
        self.got, self.problems = [], []
        self.qos_2 = {}  # identifier -> message: received, and not released
        self.ready, self.ending = threading.Event(), threading.Event()

    def run(self):
        while not self.ending.is_set():
            try:
                self.converse()
            except (OSError, Ended):
                self.ending.wait(0.01)
            except BaseException as e:  # also what pytest.fail() raises
                self.problems.append(f"{self.name}: {e!r}")
                return

    def converse(self):
        w = Wire(self.port, self.name, self.level)
        try:
            if not w.present:
                if self.ready.is_set():
                    self.problems.append("the session is gone")
                self.qos_2.clear()
                w.subscribe("in/#")
                self.ready.set()
            for _ in range(self.rng.randint(50, 2000)):
                self.take(w, *w.receive(timeout=600))
                if self.ending.is_set():
                    break
        finally:
            w.socket.close()

    def take(self, w, kind, f):
        if kind == "PUBREL":
            self.qos_2.pop(f["pid"], None)
            return w.send("PUBCOMP", pid=f["pid"])
        if kind == "DISCONNECT" and f["code"] == SHUTTING_DOWN:
            return None
        if kind != "PUBLISH":
            return self.problems.append(f"{self.name}: {kind} {f}")
        name, number = f["payload"].split()[:2]
        one = name.decode(), int(number)
        if f["qos"] == 2:
            if self.qos_2.get(f["pid"]) != one:
                if f["pid"] in self.qos_2:
                    self.problems.append(f"{self.name}: {f['pid']} was {self.qos_2[f['pid']]} and is {one}")
                self.got.append(one)
                self.qos_2[f["pid"]] = one
            w.send("PUBREC", pid=f["pid"])
        else:
            self.got.append(one)
            if f["qos"]:
                w.send("PUBACK", pid=f["pid"])


def check(publishers, subscribers, workers):
    """With several workers a message can be on disk a moment before its publisher's identifier: if the end comes in
    between, it is published again, and comes twice."""
    for one in (*publishers, *subscribers):
        assert not one.problems, one.problems[:5]
    for s in subscribers:
        count = collections.Counter(s.got)
        for p in publishers:
            missing = [n for n in sorted(p.acked) if (p.name, n) not in count]
            assert not missing, f"{s.name} never got {p.name}'s {missing[:10]}"
            if p.qos == 2:
                doubled = [(n, c) for (name, n), c in count.items()
                           if name == p.name and c > (1 if workers == 1 else p.sent[n])]
                assert not doubled, f"{s.name} got {p.name}'s {doubled[:10]} more than once"
            firsts = [n for name, n in dict.fromkeys(s.got) if name == p.name]
            assert firsts == sorted(firsts), f"{s.name} got {p.name}'s out of order"


def harass(d, rng, ends, levels, disk=False, fault=None, workers=1):
    subscribers = [Subscriber(f"s{i}", d.port, level, rng) for i, level in enumerate(levels)]
    for s in subscribers:
        s.start()
    for s in subscribers:
        assert s.ready.wait(30)
    publishers = [Publisher(f"p{i}", d.port, qos, rate=400) for i, qos in enumerate((1, 2, 1, 2))]
    try:
        for p in publishers:
            p.start()
        for i in range(ends):
            before = [len(p.acked) for p in publishers]
            wanted = rng.randint(1, 150)
            until(lambda: not d.broker.process.alive()
                  or all(len(p.acked) >= n + wanted for p, n in zip(publishers, before)), "acknowledgements")
            d.end()
            d.start(disk, fault(i) if fault else None)
        for p in publishers:
            p.finish()
        for p in publishers:
            assert p.done.wait(60), f"{p.name} waits for {list(p.flying.items())[:5]}; {p.problems}"
        until(lambda: all({(p.name, n) for p in publishers for n in p.acked} <= set(s.got) for s in subscribers)
              or any(s.problems for s in subscribers), "all messages")
    finally:
        for one in publishers:
            one.finish()
            one.done.set()
        for s in subscribers:
            s.ending.set()
    check(publishers, subscribers, workers)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_or_doubled_by_kill_9(durable, workers, seed):
    d = durable(workers=workers, max_queued_messages=0, max_queued_bytes="0")
    harass(d, random.Random(seed), 4 if SANITIZED else 10, [4, 5, 5], workers=workers)


def test_nothing_is_lost_or_doubled_by_clean_ends(durable):
    d = durable(how="ended", max_queued_messages=0, max_queued_bytes="0")
    harass(d, random.Random(3), 6, [4, 5])


@pytest.mark.parametrize("seed", [4, 5])
def test_disk_trouble_in_between(durable, seed):
    d = durable(disk=True, max_queued_messages=0, max_queued_bytes="0")
    rng = random.Random(seed)
    moods = threading.Event()

    def change():
        while not moods.wait(rng.random()):
            d.mood(rng.choice(["full", "torn", "broken", "unsynced"]))
            moods.wait(rng.random() / 5)
            d.mood("well")

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    try:
        harass(d, rng, 3, [4, 5], disk=True)
    finally:
        moods.set()
        thread.join()


@twice
def test_router_and_subscriber_have_the_same_message(tmp_path, how):
    """A message of QoS 1 or 2 for a route and for somebody who is away: it is acknowledged when both have it on disk."""
    d = Daemon(tmp_path, broker='durability = "commit";')
    d.set_mood("fails")
    d.start()
    try:
        Wire(d.port, "away").subscribe("in/#").leave()
        p = Wire(d.port, "p").subscribe("nothing")
        for i in range(50):
            p.publish("in/x", f"p {i}", qos=1 + i % 2)
        p.publish("in/x", "p 50", qos=2, wait=False, pid=77)
        p.get("PUBREC", pid=77)
        if how == "killed":
            d.kill()
        else:
            assert d.stop() == 0
        d.set_mood("works")
        d.start()
        p = Wire(d.port, "p")
        assert p.present == 1
        p.publish("in/x", "p 50", qos=2, wait=False, pid=77, dup=1)
        p.get("PUBREC", pid=77)
        p.release(77)
        a = Wire(d.port, "away")
        assert payloads(a.take_all(51)) == [b"p %d" % i for i in range(51)]
        a.nothing()
        until(lambda: delivered(d) == list(range(51)), "the deliveries")
        assert d.stop() == 0
        assert d.rows() == 0
    finally:
        if d.process.poll() is None:
            d.process.kill()
            d.process.wait()


def delivered(d):
    """Numbers that the moody service has taken."""
    return sorted({s.number for s in read_lines(d.targets["moody"], [], rich=True) if s.verdict == "S"})


def test_a_message_for_a_route_waits_for_the_subscriber_in_disk_trouble(tmp_path, build):
    """The route's delivery is done at once, so the store does not need it; the subscriber's place is what is waited for."""
    d = Daemon(tmp_path, broker='durability = "commit";')
    mood = tmp_path / "disk"
    mood.write_text("well")
    d.start(preloaded(build, "disk", DISK_PATH=str(d.database), DISK_MOOD=str(mood)))
    try:
        Wire(d.port, "away").subscribe("in/1").leave()
        p = Wire(d.port, "p", clean=1, expiry=0)
        mood.write_text("full")
        p.publish("in/1", "p 1", qos=1, wait=False)
        until(lambda: delivered(d) == [1], "the delivery")
        p.nothing()
        mood.write_text("well")
        p.get("PUBACK")
        d.kill()
        d.start()
        Wire(d.port, "away").take(payload="p 1")
        assert d.stop() == 0
    finally:
        if d.process.poll() is None:
            d.process.kill()
            d.process.wait()


FAULTS = pytest.mark.parametrize("point", ["before-commit", "after-commit"])


@FAULTS
def test_nothing_is_lost_where_a_commit_begins_or_ends(durable, point):
    """In builds with such points the program ends there by itself; in others it is killed."""
    d = durable(max_queued_messages=0)
    rng = random.Random(6)

    def fault(i):
        return {"TOCSIN_FAULT": f"{point}:{rng.randint(20, 60)}"} if SANITIZED and i < 3 else None

    harass(d, rng, 4, [4, 5], fault=fault)



HUGE = 2 ** 63 - 1


@pytest.mark.parametrize("lost, statements", [
    ({299}, ["UPDATE queued SET number = HUGE WHERE number = (SELECT max(number) FROM queued)"]),
    ({0}, ["UPDATE queued SET number = HUGE WHERE number = (SELECT min(number) FROM queued)"]),
    ({299}, ["UPDATE queued SET message = HUGE WHERE message = (SELECT max(number) FROM message)",
             "UPDATE message SET number = HUGE WHERE number = (SELECT max(number) FROM message)"]),
    (set(), ["INSERT INTO session SELECT HUGE, id, persistent, expiry, left_ms, will, will_delay, will_expiry, sent "
             "FROM session WHERE id = CAST('a' AS BLOB)"]),
    (set(), ["INSERT INTO ended VALUES (HUGE)"]),
])
def test_numbers_that_nobody_gave_do_no_harm(durable, lost, statements):
    """What comes later would have numbers that are too large for the file."""
    d = durable(max_queued_messages=0)
    d.wire("a").subscribe("t").leave()
    d.wire("p", clean=1).publish_all(("t", b"%d" % i, 1) for i in range(300))
    d.end()
    d.change(*[s.replace("HUGE", str(HUGE)) for s in statements])
    d.start()
    d.wire("p", clean=1).publish_all(("t", b"%d" % i, 1) for i in range(300, 400))
    d.restart()
    got = [int(m["payload"]) for m in d.drain(d.wire("a"))]
    assert got == [i for i in range(400) if i not in lost]
