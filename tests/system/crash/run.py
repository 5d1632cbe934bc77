# SPDX-License-Identifier: MIT
"""Kills `tocsin run` again and again while publishers publish, then compares what was acknowledged with what arrived.

    python3 tests/system/crash/run.py [--kills 500] [--seed N] [--link BROKER] [--restarts] [--broker-kills] [--clock] [--faults]
                                      [--folder PATH]

SIGKILL comes at random moments; with --faults (needs a build with them: TOCSIN_BUILD=build/asan) every other time at a
named point instead, just before or just after a commit. Meanwhile a service fails, hangs, rejects and recovers at random.
With --link the messages come by a broker that has a persistent session, mosquitto or another tocsin, else by the included
broker; with --restarts that ends now and then too, and comes back with what it has kept; with --broker-kills it is killed.
With --clock the wall clock is set, by hours, forwards and backwards, while tocsin runs. The number that random begins with
is printed.
"""

import argparse
import contextlib
import pathlib
import random
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from brokers import Mosquitto, Tocsin  # noqa: E402
from daemon import PATIENCE, Daemon, until  # noqa: E402
from preloaded import preloaded  # noqa: E402
from publisher import Publisher  # noqa: E402

QOS = [1, 2, 0, 1]  # of the publishers
MOODS = ["works", "works", "fails", "x", "slow", "rejects", "hangs"]
BROKERS = {"mosquitto": Mosquitto, "tocsin": Tocsin}


def disturb(broker, trouble, rng):
    """The link's broker ends, or is killed, and comes back."""
    broker.stop() if trouble == "restarts" else broker.kill()
    if rng.random() < 0.3:
        time.sleep(rng.random() * 0.2)
    broker.start()


def live(daemon, rng, fault, clock=False, broker=None, trouble=None):
    """A life, from the start to a violent end. With `trouble`, of the link's broker too."""
    env = {}
    if clock:
        env = preloaded(daemon.build, "clock", CLOCK_STEP=str(daemon.folder / "clock"))
    if fault:
        env["TOCSIN_FAULT"] = f"{rng.choice(['before-commit', 'after-commit'])}:{rng.randint(1, 40)}"
    daemon.start(env, wait=rng.random() < 0.9)
    end = time.monotonic() + rng.choice([0.02, 0.1, 0.3, 0.6]) * (0.5 + rng.random())
    while time.monotonic() < end and daemon.process.poll() is None:
        daemon.set_mood(rng.choice(MOODS))
        if clock:
            # Not so far apart that dead letters are over age.
            (daemon.folder / "clock").write_text(str(rng.choice([0, -3600, 3600, -80 * 86400, 80 * 86400])))
        if trouble and rng.random() < 0.2:
            disturb(broker, trouble, rng)
        time.sleep(rng.random() * 0.1)
    daemon.kill()


def recover(daemon, broker, clients):
    """The broker is killed once more while tocsin lives: its link comes back by itself, and messages by it."""
    broker.kill()
    broker.start()
    until(lambda: not broker.watch or broker.watch.ready_at, "the link's return")
    since = broker.watch.ready_at if broker.watch else broker.kills[-1]
    new = [lambda c=c: len([n for n in list(c.acked) if c.first[n] > since]) > 20 for c in clients if c.qos]
    until(lambda: all(enough() for enough in new), "more acknowledgements")
    return since


def wanted_of(broker, clients, since):
    """(name, number) of all that has to arrive. A broker that loses can be held to what it has passed on, and to what came when
    nobody was killed any more."""
    acked = {(c.name, n): c.first[n] for c in clients for n in c.acked}
    return broker.watch.acked | {one for one, first in acked.items() if first > since} if broker and broker.lossy else set(acked)


def harass(folder, kills, seed, link=None, faults=False, publishers=4, rate=150, places=200000, trouble=None, clock=False,
           show=lambda *_: None):
    """Returns the account, and how many messages were acknowledged. Asserts what has to be. `link`: a name of BROKERS; `trouble`:
    "restarts" or "kills" of that."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(BROKERS[link](folder)) if link else None
        daemon = Daemon(folder, broker and broker.link_port, places=places)
        clients, since = [], 0
        try:
            start = daemon.start()  # before anybody publishes: a link has to have its session
            if broker:
                until(lambda: b"subscribed" in daemon.said(start), "the subscription")
            clients = [Publisher(f"p{i}", broker.port if broker else daemon.port, QOS[i % len(QOS)], rate=rate)
                       for i in range(publishers)]
            for c in clients:
                c.start()
            for i in range(kills):
                if i > 0:
                    live(daemon, rng, faults and i % 2, clock, broker, trouble)
                else:
                    until(lambda: all(c.acked for c in clients if c.qos), "the first acknowledgements")
                    daemon.kill()
                if i % 50 == 49:
                    show(i + 1, sum(len(c.acked) for c in clients))
            daemon.set_mood("works")
            start = daemon.start()
            if trouble == "kills":
                since = recover(daemon, broker, clients)
            for c in clients:
                c.finish()
            for c in clients:
                assert c.done.wait(PATIENCE), f"{c.name} has not got all its acknowledgements: {list(c.flying.items())[:5]}"
            wanted = wanted_of(broker if trouble == "kills" else None, clients, since)
            until(lambda: daemon.has_all(wanted) or daemon.process.poll() is not None, "all deliveries", 2 * PATIENCE)
            status = daemon.stop()
            assert status == 0, f"status {status}:\n{daemon.said(start)[-3000:].decode()}"
        finally:
            if daemon.process and daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
            for c in clients:
                c.finish()
                c.done.set()
    assert daemon.rows() == 0, f"{daemon.rows()} deliveries are still on disk"
    daemon.check_dead_letters(clients)
    problems = [problem for c in clients for problem in c.problems]
    assert not problems, problems[:10]
    account = daemon.account(clients, wanted, sorted(daemon.kills + broker.kills) if broker else ())
    return account, len(wanted)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--publishers", type=int, default=4)
    parser.add_argument("--rate", type=int, default=150, help="messages/s of each publisher")
    parser.add_argument("--places", type=int, default=200000, help="queue.max_messages of the moody service")
    parser.add_argument("--link", choices=BROKERS)
    parser.add_argument("--restarts", dest="trouble", action="store_const", const="restarts")
    parser.add_argument("--broker-kills", dest="trouble", action="store_const", const="kills")
    parser.add_argument("--clock", action="store_true")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--folder", type=pathlib.Path, help="where everything is left; else it goes")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = args.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-")))
        folder.mkdir(exist_ok=True, parents=True)
        account, acked = harass(folder, args.kills, args.seed, args.link, args.faults, args.publishers, args.rate,
                                args.places, args.trouble, args.clock,
                                lambda kills, acked: print(f"{kills} kills, {acked} acknowledged", flush=True))
    print(f"{len(account.kills)} kills, {acked} messages acknowledged: {account.report()}")
    account.check()


if __name__ == "__main__":
    main()
