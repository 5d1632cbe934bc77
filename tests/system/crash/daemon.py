# SPDX-License-Identifier: MIT
"""`tocsin run`, to be killed: its lives, and what its services were given in each."""

import collections
import contextlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from account import Account, read_lines  # noqa: E402
from ports import free_port  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[3]
PATIENCE = 60  # seconds that anything may take
DEAD_MOST = 10000  # dead letters that are kept at least


def build_folder():
    path = pathlib.Path(os.environ.get("TOCSIN_BUILD", "build/release"))
    return path if path.is_absolute() else ROOT / path


def until(condition, what, patience=PATIENCE, say=lambda: ""):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what} {say()}"
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

    def account(self, publishers, wanted=None, resent_at=()):
        """See Account."""
        account = Account(self.kills, wanted, resent_at)
        for name, path in self.targets.items():
            seen = read_lines(path, self.ends[name], rich=name == "moody")
            account.add(name, seen, publishers, self.lines_at[name])
        return account

    def has_all(self, wanted):
        """Whether every target was given all of this: (name, number)."""
        return all(wanted <= {(s.name, s.number) for s in read_lines(path, [], rich=name == "moody")}
                   for name, path in self.targets.items())
