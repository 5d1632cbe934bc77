# SPDX-License-Identifier: MIT
"""What is acknowledged survives: kill -9, a disk that fails, a power failure. The machinery is in crash/."""

import collections
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests/system/crash"))
import power  # noqa: E402
import sessions  # noqa: E402
from account import read_lines  # noqa: E402
from daemon import Daemon, until  # noqa: E402
from preloaded import preloaded  # noqa: E402
from publisher import Publisher  # noqa: E402
from run import harass  # noqa: E402

FAULTS = "asan" in os.environ.get("TOCSIN_BUILD", "") or "tsan" in os.environ.get("TOCSIN_BUILD", "")


@pytest.mark.threads
@pytest.mark.parametrize("link", [None, "mosquitto"])
@pytest.mark.parametrize("places", [20, 200000])
def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path, link, places):
    account, acked = harass(tmp_path, 6, seed=1, link=link, faults=FAULTS, places=places)
    assert acked > 0
    account.check()


@pytest.mark.parametrize("more", [{"clock": True}, {"link": "mosquitto", "trouble": "restarts"},
                                  {"link": "mosquitto", "trouble": "kills"}, {"link": "tocsin", "trouble": "kills"}],
                         ids=["clock", "restarts", "mosquitto-killed", "broker-killed"])
def test_nothing_is_lost_when_also_the_clock_is_set_or_the_broker_ends(tmp_path, more):
    account, acked = harass(tmp_path, 6, seed=2, **more)
    assert acked > 0
    account.check()


@pytest.mark.threads
@pytest.mark.parametrize("workers", [1, 2])
def test_sessions_and_what_they_are_owed_survive_kill_9(tmp_path, workers):
    account, acked = sessions.harass(tmp_path, 8, seed=1, faults=FAULTS, workers=workers)
    assert acked > 0
    account.check()


@pytest.mark.parametrize("sent, lives, explained", [
    (1, "00", False), (2, "00", True), (1, "0D", True), (1, "01", True), (1, "0D1D", True), (1, "011", False),
    # Two that are the same message to who reads it, each of them delivered again after a kill.
    (2, "00D1D", True), (2, "001D1", True), (2, "00111", False), (1, "0??", True), (1, "0????", True)])
def test_what_comes_again_is_explained_life_by_life(sent, lives, explained):
    """`lives`: in which each copy came, D for one with DUP in the life before it, ? if the connection began about a kill."""
    publisher, subscriber = Publisher("p", 0, 1), sessions.Subscriber("s", 0, 1)
    publisher.number, publisher.sent[1], publisher.first[1], subscriber.subscribed_at = 1, sent, 0, 0
    life = 0
    for i, c in enumerate(lives):
        life = int(c) if c.isdigit() else life
        since = (9.9, 10.1 + i / 100) if c == "?" else (1 + 10 * life,) * 2
        subscriber.got.append(("in/p", b"p 1", 1, c == "D", False, since))
    account = sessions.Account([10])
    account.add(subscriber, [publisher])
    assert not account.doubled == explained, account.doubled


def disk(daemon, build, trace=False):
    """What daemon.start() needs for a disk that can fail and, with `trace`, remembers. Its mood is a file `disk`."""
    env = preloaded(build, "disk", DISK_PATH=str(daemon.database), DISK_MOOD=str(daemon.folder / "disk"))
    return {**env, "DISK_TRACE": str(daemon.folder / "trace")} if trace else env


@pytest.fixture
def publishers():
    """publishers(port, QoS...) starts some; they end with the test."""
    started = []

    def start(port, *qos, **more):
        for q in qos:
            started.append(Publisher(f"p{len(started)}", port, q, **more))
            started[-1].start()
        return started

    yield start
    for p in started:
        p.finish()
        p.done.set()


@pytest.fixture
def daemon(tmp_path):
    made = []

    def make(folder=tmp_path, **more):
        folder.mkdir(exist_ok=True)
        made.append(Daemon(folder, **more))
        return made[-1]

    yield make
    for d in made:
        if d.process and d.process.poll() is None:
            d.process.kill()
            d.process.wait()


def acked(clients):
    return {(c.name, n) for c in clients for n in c.acked}


def finish(daemon, clients):
    """Lets the publishers end, awaits all deliveries, and compares."""
    for c in clients:
        c.finish()
    for c in clients:
        assert c.done.wait(60), f"{c.name} waits for {list(c.flying.values())[:5]}"
    until(lambda: daemon.has_all(acked(clients)), "all deliveries")
    assert daemon.stop() == 0, daemon.said()[-3000:].decode()
    assert daemon.rows() == 0
    account = daemon.account(clients)
    account.check()
    return account


@pytest.mark.parametrize("trouble, says", [("full", b"disk is full"), ("torn", b"disk is full"), ("broken", b"disk I/O error"),
                                           ("unsynced", b"disk I/O error")])
def test_disk_trouble_stops_intake_and_passes(daemon, publishers, build, trouble, says):
    d = daemon()
    mood = d.folder / "disk"
    d.start(disk(d, build))
    clients = publishers(d.port, 1, 2, window=10)
    until(lambda: all(c.acked for c in clients), "acknowledgements")
    d.set_mood("fails")  # or what is delivered need not be written
    mood.write_text(trouble)
    until(lambda: b"nothing more is acknowledged until that is over" in d.said(), "the log to say so")
    assert says in d.said(), d.said()[-1000:].decode()
    until(lambda: all(len(c.flying) == c.window for c in clients), "full windows")
    before = [len(c.acked) for c in clients]
    d.process.send_signal(signal.SIGUSR1)  # counters, for which it has to be alive
    until(lambda: b"in_trouble=1" in d.said(), "the counters")
    assert [len(c.acked) for c in clients] == before
    mood.write_text("well")
    until(lambda: b"can be written again" in d.said(), "the end of the trouble")
    until(lambda: all(len(c.acked) > n for c, n in zip(clients, before)), "more acknowledgements")
    d.kill()
    d.set_mood("works")
    d.start(disk(d, build))
    finish(d, clients)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_stops_intake_until_there_is_room(daemon, publishers, small_disk):
    d = daemon(durable_path=small_disk / "tocsin.db")
    d.set_mood("fails")
    d.start()
    clients = publishers(d.port, 1, 2, window=10, pad=2000)
    until(lambda: b"disk is full" in d.said(), "the disk to be full")
    assert all(c.acked for c in clients)
    d.kill()
    d.start(wait=False)  # it may need room even to start
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    if d.process.poll() is not None:
        d.start()
    d.set_mood("works")
    before = [len(c.acked) for c in clients]
    until(lambda: all(len(c.acked) > n + 20 for c, n in zip(clients, before)), "more acknowledgements")
    finish(d, clients)


def test_what_was_delivered_during_disk_trouble_is_acknowledged(daemon, publishers, build):
    d = daemon()
    mood = d.folder / "disk"
    mood.write_text("full")
    d.start(disk(d, build), wait=False)
    assert d.process.wait(60) != 0  # it cannot even make its file
    mood.write_text("well")
    d.start(disk(d, build))
    clients = publishers(d.port, 1, 2, window=10)
    until(lambda: all(c.acked for c in clients), "acknowledgements")
    mood.write_text("full")
    before = len(clients[0].acked)  # those of QoS 2 wait: their identifiers have to be on disk
    until(lambda: len(clients[0].acked) > before + 50, "acknowledgements of what is delivered")
    mood.write_text("well")
    finish(d, clients)


def store(build, *args):
    return subprocess.run([build / "tocsin", "store", *map(str, args)], capture_output=True, text=True)


@pytest.mark.parametrize("spoil, is_store", [(lambda good: b"no database" * 1000, False), (lambda good: b"Z" * 4096 + good[4096:], True)],
                         ids=["a letter", "the first page is gone"])
def test_a_damaged_file_is_not_started_with(daemon, build, spoil, is_store):
    d = daemon()
    d.start()
    assert d.stop() == 0
    spoilt = spoil(d.database.read_bytes())
    d.database.write_bytes(spoilt)
    d.start(wait=False)
    assert d.process.wait(60) == 1
    checked = store(build, "check", d.database)
    assert checked.returncode == 1
    for said in (d.said().decode(), checked.stderr):  # what does not help is not recommended
        assert ("is damaged" in said, "tocsin store rescue" in said, "is no store" in said) == (is_store, is_store, not is_store), said
    rescued = store(build, "rescue", d.database)
    assert rescued.returncode == (0 if is_store else 1), rescued.stderr
    if not is_store:
        assert "is no store, or nothing is left of it" in rescued.stderr
        assert d.database.read_bytes() == spoilt


def test_what_is_left_of_a_damaged_file_is_rescued_and_delivered(daemon, publishers, build):
    d = daemon()
    d.set_mood("fails")
    d.start()
    clients = publishers(d.port, 1, 2, pad=300)
    until(lambda: all(len(c.acked) > 100 for c in clients), "acknowledgements")
    assert "end it" in store(build, "rescue", d.database).stderr  # not while it runs
    assert store(build, "check", d.database).returncode == 0
    for c in clients:
        c.finish()
        c.done.set()
    d.kill()
    with contextlib.closing(sqlite3.connect(d.database)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'delivery'").fetchone()[0]
    damaged = bytearray(d.database.read_bytes())
    damaged[(root - 1) * 4096:root * 4096] = b"Z" * 4096  # what leads to all deliveries
    d.database.write_bytes(damaged)

    d.set_mood("works")
    d.start(wait=False)
    assert d.process.wait(60) == 1
    assert b"tocsin store rescue" in d.said()
    checked = store(build, "check", d.database)
    assert checked.returncode == 1 and "is damaged" in checked.stderr
    rescued = store(build, "rescue", d.database)
    assert rescued.returncode == 0, rescued.stderr
    assert "delivery: " in rescued.stdout and "could not be read" in rescued.stdout
    assert d.database.with_name("tocsin.db.damaged").read_bytes() == damaged
    assert store(build, "check", d.database).stdout.endswith("whole\n")
    assert "already" in store(build, "rescue", d.database).stderr  # the damaged one is not overwritten
    d.start()
    until(lambda: d.has_all(acked(clients)), "all deliveries")
    assert d.stop() == 0
    assert d.rows() == 0


@pytest.mark.parametrize("args, says", [([], "store: "), (["mend"], "not check or rescue"), (["check", "/nowhere/db"], "No such file"),
                                        (["check", "--to", "x"], "--to belongs to rescue"), (["check", "/tmp"], "/tmp: is a folder"),
                                        (["check", "/dev/null"], "/dev/null: is no regular file"), (["rescue", "/tmp"], "/tmp: is a folder"),
                                        (["rescue", "/dev/null", "--to", "/tmp/x"], "is no regular file")])
def test_calls_of_store_that_make_no_sense(build, args, says):
    done = store(build, *args)
    assert done.returncode != 0 and says in done.stderr


@pytest.mark.parametrize("seed", [1, 2])
def test_a_power_failure_loses_nothing_acknowledged(daemon, publishers, build, tmp_path, seed):
    rng = random.Random(seed)
    d = daemon(tmp_path / "first")
    d.set_mood("x")
    d.start(disk(d, build, trace=True))
    clients = publishers(d.port, 1, 2, window=20)
    until(lambda: all(len(c.acked) > 200 for c in clients), "acknowledgements")
    for mood in ("fails", "works", "fails"):
        d.set_mood(mood)
        before = [len(c.acked) for c in clients]
        until(lambda: all(len(c.acked) > n + 60 for c, n in zip(clients, before)), "more")
    d.kill()
    trace = power.read_trace(d.folder / "trace")
    acked = [(t, c.name, n) for c in clients for n, t in c.acked.items()]
    assert sum(c.kind == "S" for c in trace) > 20
    checked = 0
    for i in range(12):
        moment = rng.uniform(min(t for t, _, _ in acked), d.kills[-1])
        later = daemon(tmp_path / f"after-{i}")
        later.database.parent.mkdir()
        power.after_power_failure(trace, moment, rng, later.database)
        start = later.start()
        assert later.process.poll() is None, later.said(start).decode()
        # The moody service says when it took each.
        had = {(s.name, s.number) for s in read_lines(d.targets["moody"], [], True) if s.time <= moment}
        wanted = {(who, n) for t, who, n in acked if t <= moment}
        checked += len(wanted - had)
        until(lambda: wanted <= had | {(s.name, s.number) for s in read_lines(later.targets["moody"], [], True)},
              f"what was acknowledged before {moment}", 20)
        assert later.stop() == 0
    assert checked > 50, "most was delivered at once, so this has shown little"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_power_failure_loses_nothing_of_sessions(build, tmp_path, seed):
    """The clients too are put back to where they were at that moment. Then what they had begun comes to its end, what was
    acknowledged is there, and what is of QoS 2 on both ways comes once."""
    rng = random.Random(seed)
    broker, started = sessions.Broker(tmp_path / "first"), []

    def start(*some):
        started.extend(some)
        for one in some:
            one.start()

    (broker.folder / "disk").write_text("well")
    try:
        broker.start(disk(broker, build, trace=True))
        subscribers = [sessions.Subscriber(f"{stay}-{qos}", broker.port, qos, stay=stays, away=away, seed=seed)
                       for qos in (1, 2) for stay, stays, away in (("stays", None, (0, 0)), ("moves", (0, 0.2), (0, 0.2)),
                                                                   ("away", (0.2, 0.2), (1e6, 1e6)))]
        start(*subscribers)
        until(lambda: all(s.subscribed_at for s in subscribers), "the subscriptions")
        clients = [Publisher(f"p{i}", broker.port, qos, rate=200) for i, qos in enumerate([1, 2, 2])]
        keeper = sessions.Keeper(broker.port)
        start(*clients, keeper)
        begin = time.monotonic()
        until(lambda: all(len(c.acked) > 300 for c in clients + [keeper]), "acknowledgements")
        broker.kill()
        end_all(started)
        trace = power.read_trace(broker.folder / "trace")
        for i in range(6):
            power_failure_of_sessions(tmp_path / f"after-{i}", trace, rng.uniform(begin + 0.2, broker.kills[-1]), rng, subscribers,
                                      clients, keeper, start)
            end_all(started)
    finally:
        end_all(started)
        if broker.process.poll() is None:
            broker.process.kill()
            broker.process.wait()


def end_all(clients):
    for one in clients:
        one.finish()
        one.done.set()
    for one in clients:
        one.join()
    clients.clear()


def power_failure_of_sessions(folder, trace, moment, rng, subscribers, clients, keeper, start):
    later = sessions.Broker(folder)
    later.database.parent.mkdir(parents=True)
    power.after_power_failure(trace, moment, rng, later.database)
    try:
        said = later.start()
        assert later.process.poll() is None, later.said(said).decode()
        known = sessions.Keeper(0)
        known.acked = {n: t for n, t in keeper.acked.items() if t <= moment}
        known.number = sum(first <= moment for first in keeper.first.values())
        known.paused = True
        sessions.check_retained(later.port, known)
        publishers, listeners = ([one.then(moment, later.port) for one in some] for some in (clients, subscribers))
        start(*publishers, *listeners)
        wanted = {(c.name.encode(), b"%d" % n) for c in clients for n, t in c.acked.items() if t <= moment}
        for p in publishers:
            until(p.done.is_set, f"what {p.name} had begun")
            wanted |= {(p.name.encode(), b"%d" % n) for n in p.acked}
        for s in listeners:
            had = lambda s=s: [tuple(payload.split(b" ")[:2]) for _, payload, *_ in list(s.got)]  # noqa: E731
            until(lambda: wanted <= set(had()), f"all for {s.name}", say=lambda: sorted(wanted - set(had()))[:10])
            twice = [one for one, n in collections.Counter(had()).items() if n > 1 and s.qos == 2 and one[0] in (b"p1", b"p2")]
            assert not twice, f"{s.name} got twice: {twice[:10]} of {len(twice)}"
            assert not s.problems, s.problems
        assert later.stop() == 0
    finally:
        if later.process and later.process.poll() is None:
            later.process.kill()
            later.process.wait()


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_a_clock_that_was_set_does_not_stop_deliveries(daemon, publishers, hours):
    d = daemon()
    d.set_mood("fails")
    d.start()
    clients = publishers(d.port, 1)
    until(lambda: clients[0].acked, "acknowledgements")
    d.kill()
    with contextlib.closing(sqlite3.connect(d.database)) as db, db:
        # As if it had been written by another clock.
        db.execute("UPDATE delivery SET due_ms = due_ms + ?, created_ms = created_ms + ? WHERE attempts > 0",
                   (hours * 3600000,) * 2)
        db.execute("UPDATE delivery SET created_ms = created_ms + ? WHERE attempts = 0", (hours * 3600000,))
    d.set_mood("works")
    d.start()
    finish(d, clients)


def test_what_cannot_be_read_does_not_stop_what_comes_behind(daemon, publishers):
    d = daemon()
    d.start()
    assert d.stop() == 0
    with contextlib.closing(sqlite3.connect(d.database)) as db, db:
        db.executemany("INSERT INTO delivery (service, target, state, created_ms, attempts, due_ms, record) "
                       "VALUES ('moody', 't', 0, 0, 0, 0, x'')", [()] * 2500)  # more than are loaded at a time
    d.start()
    clients = publishers(d.port, 1, 2)
    until(lambda: all(len(c.acked) > 20 for c in clients), "acknowledgements")
    for c in clients:
        c.finish()
        assert c.done.wait(60)
    until(lambda: d.has_all(acked(clients)), "all deliveries")
    assert d.stop() == 0
    assert d.rows() == 2500
    assert b"stay on disk" in d.said()
