# SPDX-License-Identifier: MIT
"""Kills `tocsin run` again and again while publishers publish, then compares what was acknowledged with what arrived.

    python3 tests/system/crash/run.py [--kills 500] [--seed N] [--link] [--restarts] [--clock] [--faults] [--folder PATH]

SIGKILL comes at random moments; with --faults (needs a build with them: TOCSIN_BUILD=build/asan) every other time at a
named point instead, just before or just after a commit. Meanwhile a service fails, hangs, rejects and recovers at random.
With --link the messages come by a Mosquitto that has a persistent session, else by the included broker; with --restarts
that ends now and then too, and comes back with what it has kept. With --clock the wall clock is set, by hours, forwards and
backwards, while tocsin runs. The number that random begins with is printed.
"""

import argparse
import collections
import contextlib
import os
import pathlib
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from account import Account, read_lines  # noqa: E402
from ports import free_port  # noqa: E402
from preloaded import preloaded  # noqa: E402
from publisher import Publisher  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[3]
PATIENCE = 60  # seconds that anything may take
QOS = [1, 2, 0, 1]  # of the publishers
DEAD_MOST = 10000  # dead letters that are kept at least
MOODS = ["works", "works", "fails", "x", "slow", "rejects", "hangs"]


def build_folder():
    path = pathlib.Path(os.environ.get("TOCSIN_BUILD", "build/release"))
    return path if path.is_absolute() else ROOT / path


def until(condition, what, patience=PATIENCE):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)


class Daemon:
    """`tocsin run` in a folder: its configuration, its database, the files of its services, its lives."""

    def __init__(self, folder, link_port=None, durable_path="state/tocsin.db", services="", places=200000, broker=""):
        self.folder, self.build = folder, build_folder()
        self.database = folder / durable_path
        self.mood = folder / "mood"
        self.log = folder / "log"
        self.process = None
        self.kills, self.ends, self.lines_at = [], {"file": [], "moody": []}, {"moody": [], "file": []}
        self.targets = {"file": folder / "out", "moody": folder / "moody"}
        self.plugins = folder / "plugins"
        self.plugins.mkdir(exist_ok=True)
        for so in (self.build / "plugins/file.so", self.build / "tests/plugin/moody.so"):
            with contextlib.suppress(FileExistsError):
                (self.plugins / so.name).symlink_to(so)
        self.set_mood("works")
        if link_port:
            self.port = link_port
            intake = (f'links = ( {{ name = "local"; host = "127.0.0.1"; port = {link_port}; reconnect_min = "10ms"; '
                      f'reconnect_max = "100ms"; }} );')
        else:
            self.port = free_port()
            intake = f'broker = {{ listeners = ( {{ port = {self.port}; bind = "127.0.0.1"; }} ); {broker} }};'
        self.config = folder / "tocsin.conf"
        self.config.write_text(f"""
            node = "n1"; drain = "2s"; {intake}
            store = {{ path = "{self.database}"; }};
            services = {{
              file = {{ plugin = "file"; targets = {{ out = {{ path = "{folder}/out"; newline = "always"; }}; }}; }};
              moody = {{ plugin = "moody"; deadline = "1s"; queue = {{ max_messages = {places}; }};
                retry = {{ initial = "20ms"; max = "200ms"; max_age = "360d"; }};
                targets = {{ t = {{ path = "{folder}/moody"; mood = "{self.mood}"; }}; }}; }};
              {services}
            }};
            routes = ( {{ topic = "in/#"; qos = {2 if link_port else 1}; targets = [ "file:out", "moody:t" ]; }} );
        """)

    def set_mood(self, mood):
        fresh = self.folder / "mood.new"
        fresh.write_text(mood + "\n")
        fresh.rename(self.mood)

    def start(self, env=None, wait=True):
        with self.log.open("ab") as log:
            start = log.tell()
            self.process = subprocess.Popen([self.build / "tocsin", "run", "-c", self.config], stdout=log, stderr=log,
                                            env={**os.environ, "TOCSIN_PLUGINS": str(self.plugins), **(env or {})})
        if wait:
            until(lambda: b" running " in self.said(start) or self.process.poll() is not None, "the start")
        return start

    def said(self, start=0):
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read()

    def ended(self):
        """Notes where a life ended."""
        self.kills.append(time.monotonic())
        for name, path in self.targets.items():
            data = path.read_bytes() if path.exists() else b""
            self.ends[name].append(len(data))
            self.lines_at[name].append(data.count(b"\n"))

    def kill(self):
        self.process.kill()
        status = self.process.wait()
        self.ended()
        assert status == -signal.SIGKILL, f"it ended by itself, status {status}:\n{self.said()[-3000:].decode()}"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        self.ended()
        return status

    def rows(self, state=0):
        with contextlib.closing(sqlite3.connect(self.database)) as db:
            return db.execute("SELECT count(*) FROM delivery WHERE state = ?", (state,)).fetchone()[0]

    def check_dead_letters(self, publishers):
        """Each delivery that was rejected at last is one; but of a message that had not been acknowledged when the process
        died, or never is, the rejection may be forgotten."""
        last, ids = {}, collections.defaultdict(set)
        for s in read_lines(self.targets["moody"], [], rich=True):
            last[s.id] = s
            ids[s.name, s.number].add(s.id)
        qos = {p.name: p.qos for p in publishers}
        rejected = [s for s in last.values() if s.verdict == "R"]
        forgotten = [s for s in rejected if qos[s.name] == 0 or len(ids[s.name, s.number]) > 1]
        dead = self.rows(1)
        least = min(len(rejected) - len(forgotten), DEAD_MOST)  # of more, the oldest are dropped
        assert least <= dead <= len(rejected), \
            f"{dead} dead letters, {len(rejected)} were rejected, of which {len(forgotten)} may be forgotten"

    def account(self, publishers, by_link=False):
        account = Account()
        for name, path in self.targets.items():
            seen = read_lines(path, self.ends[name], rich=name == "moody")
            account.add(name, seen, publishers, self.kills, self.lines_at[name], by_link)
        return account

    def has_all(self, publishers):
        """Whether every target was given everything that was acknowledged."""
        wanted = {(p.name, n) for p in publishers for n in p.acked}
        return all(wanted <= {(s.name, s.number) for s in read_lines(path, [], rich=name == "moody")}
                   for name, path in self.targets.items())


class Mosquitto:
    """It keeps what it has acknowledged, if it is asked to end. kill -9 would lose some of it, which nobody behind it could help."""

    def __init__(self, folder):
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        self.config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
                               f"max_inflight_messages 100\nlog_dest none\nuser root\npersistence true\n"
                               f"persistence_location {folder}/\nautosave_interval 0\n")
        self.start()

    def start(self):
        self.process = subprocess.Popen(["/usr/sbin/mosquitto", "-c", self.config])

        def listens():
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", self.port)) == 0

        until(listens, "mosquitto")

    def restart(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def live(daemon, rng, fault, clock=False, broker=None):
    """A life, from the start to a violent end. With `broker`, that ends too, and comes back."""
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
        if broker and rng.random() < 0.2:
            broker.restart()
        time.sleep(rng.random() * 0.1)
    daemon.kill()


def harass(folder, kills, seed, by_link=False, faults=False, publishers=4, rate=150, places=200000, restarts=False, clock=False,
           show=lambda *_: None):
    """Returns the account, and what else is worth telling. Asserts what has to be."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Mosquitto(folder)) if by_link else None
        daemon = Daemon(folder, broker and broker.port, places=places)
        clients = []
        try:
            start = daemon.start()  # before anybody publishes: a link has to have its session
            if by_link:
                until(lambda: b"subscribed" in daemon.said(start), "the subscription")
            clients = [Publisher(f"p{i}", daemon.port, QOS[i % len(QOS)], rate=rate) for i in range(publishers)]
            for c in clients:
                c.start()
            for i in range(kills):
                if i > 0:
                    live(daemon, rng, faults and i % 2, clock, broker if restarts else None)
                else:
                    until(lambda: all(c.acked for c in clients if c.qos), "the first acknowledgements")
                    daemon.kill()
                if i % 50 == 49:
                    show(i + 1, sum(len(c.acked) for c in clients))
            daemon.set_mood("works")
            start = daemon.start()
            for c in clients:
                c.finish()
            for c in clients:
                assert c.done.wait(PATIENCE), f"{c.name} has not got all its acknowledgements: {list(c.flying.items())[:5]}"
            until(lambda: daemon.has_all(clients) or daemon.process.poll() is not None, "all deliveries", 2 * PATIENCE)
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
    account = daemon.account(clients, by_link)
    return account, sum(len(c.acked) for c in clients)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--publishers", type=int, default=4)
    parser.add_argument("--rate", type=int, default=150, help="messages/s of each publisher")
    parser.add_argument("--places", type=int, default=200000, help="queue.max_messages of the moody service")
    parser.add_argument("--link", action="store_true")
    parser.add_argument("--restarts", action="store_true")
    parser.add_argument("--clock", action="store_true")
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--folder", type=pathlib.Path, help="where everything is left; else it goes")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = args.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-")))
        folder.mkdir(exist_ok=True, parents=True)
        account, acked = harass(folder, args.kills, args.seed, args.link, args.faults, args.publishers, args.rate,
                                args.places, args.restarts, args.clock, lambda kills, acked: print(f"{kills} kills, {acked} acknowledged", flush=True))
    print(f"{args.kills} kills, {acked} messages acknowledged: {account.report()}")
    account.check()


if __name__ == "__main__":
    main()
