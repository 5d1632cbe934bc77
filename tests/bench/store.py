# SPDX-License-Identifier: MIT
"""What it costs to keep things on disk: from publishers by the included broker to records in a file, and a start with much to do.

    tests/bench/store.py [--seconds S] [--waiting N] [--urgent N] [--folder PATH]

First QoS 1 as fast as it goes, with the store, without one, then at half of the store's rate and at FIXED_RATE for the latency
from publish to record, as a reader of the file sees it who looks every half millisecond. Then a start with --waiting deliveries on disk. The
folder decides which disk; by default it is below build/. Nothing here passes or fails.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TOCSIN_BUILD", "build/release")
SIZE = 64  # bytes of a payload, which begins with the time in ns
PUBLISHERS = 8
FIXED_RATE = 30_000  # messages/s, half of the goal


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Daemon:
    def __init__(self, folder, store, ledger="all"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.out, self.database = folder, folder / "out", folder / "tocsin.db"
        self.port = free_port()
        self.log = folder / "log"
        (folder / "tocsin.conf").write_text(f"""
            node = "n1"; drain = "1s";
            broker = {{ listeners = ( {{ port = {self.port}; bind = "127.0.0.1"; }} ); max_inflight_messages = 20000; }};
            {'store = { path = "%s"; };' % self.database if store else ""}
            ledger = {{ keep = "{ledger}"; }};
            services = {{ file = {{ plugin = "file"; targets = {{ out = {{ path = "{self.out}"; newline = "never"; }}; }}; }}; }};
            routes = ( {{ topic = "#"; qos = 1; targets = "file:out"; }} );""")

    def start(self):
        log = self.log.open("wb")
        self.began = time.monotonic()
        self.process = subprocess.Popen([BUILD / "tocsin", "run", "-c", self.folder / "tocsin.conf"], stdout=log,
                                        stderr=log)

    def wait(self):
        while b"running" not in self.log.read_bytes():
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.005)

    def status(self, name):
        return int(re.search(name + r":\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        store = re.search(r"store changes=(\d+) commits=(\d+)", self.log.read_text())
        return int(store[2]) if store else 0


def flow(folder, store, seconds, rate=0, window=1000, ledger="all"):
    """Returns messages/s, sorted latencies in ms if there is a rate, commits, CPU us a message."""
    d = Daemon(folder, store, ledger)
    d.start()
    d.wait()
    d.out.touch()
    command = [BUILD / "bench/mqttload", "--port", str(d.port), "--pubs", str(PUBLISHERS), "--subs", "0", "--qos", "1",
               "--size", str(SIZE), "--window", str(window), "--duration", str(seconds)]
    if rate:
        command += ["--rate", str(rate / PUBLISHERS)]
    latencies, rest, count, quiet = [], b"", 0, 0
    first = last = None
    with d.out.open("rb") as out:
        load = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while load.poll() is None or quiet < 200:
            data = out.read()
            now = time.monotonic_ns()
            quiet = 0 if data else quiet + 1
            if data:
                first, last = first or now, now
                if rate:
                    data = rest + data
                    whole = len(data) // SIZE * SIZE
                    rest = data[whole:]
                    latencies += [(now - stamp) / 1e6 for stamp, _ in struct.iter_unpack(f"<Q{SIZE - 8}s", data[:whole])]
                    count += whole // SIZE
                else:
                    count += len(data) / SIZE
            time.sleep(0.0005)
    fields = Path(f"/proc/{d.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    commits = d.stop()
    if not count:
        sys.exit(load.stderr.read() + d.log.read_text())
    span = (last - first) / 1e9
    return count / span, sorted(latencies), commits, cpu / count * 1e6


def field(tag, data):
    return bytes([tag, len(data)]) + data


def waiting(folder, number, urgent_every):
    """Starts with so many deliveries on disk, of which each has a topic of 1000; one in so many (0: none) is urgent, of 50 others."""
    d = Daemon(folder, True)
    d.start()
    d.wait()
    d.stop()
    payload = bytes(SIZE)

    def row(i):
        urgent = bool(urgent_every) and i % urgent_every == urgent_every // 2
        topic = b"u/%d" % (i // urgent_every % 50) if urgent else b"t/%d" % (i % 1000)
        parts = ((1, b"id-%d" % i), (2, topic), (3, b"U" * SIZE if urgent else payload), (5, b"r"), (15, bytes(str(d.out), "utf-8")),
                 *([(10, b"\x02")] if urgent else []), (11, b"\x01"), (14, b"\x01"))
        record = b"\x01" + b"".join(field(*part) for part in parts)
        return int(time.time() * 1000), record, urgent

    with contextlib.closing(sqlite3.connect(d.database)) as db, db:
        db.executemany("INSERT INTO delivery (service, target, state, created_ms, attempts, due_ms, record, urgent) "
                       "VALUES ('file', 'out', 0, ?, 0, 0, ?, ?)", map(row, range(number)))
    size = d.database.stat().st_size / 1e6
    d.start()
    while not d.out.exists() or d.out.stat().st_size < SIZE:
        if d.process.poll() is not None:
            sys.exit(d.log.read_text())
        time.sleep(0.001)
    first = time.monotonic() - d.began
    while d.out.stat().st_size < number * SIZE:
        time.sleep(0.01)
    all_done = time.monotonic() - d.began
    peak = d.status("VmHWM")
    d.stop()
    passed_by = d.out.read_bytes().rfind(b"U") // SIZE + 1
    return size, first, all_done, peak, passed_by


def ledger_rows(folder, seconds, turns):
    """What the ledger costs: all three ways in turn, several times; returns the medians."""
    runs = {"none": [], "deliveries": [], "all": []}
    for _ in range(turns):
        for keep, row in runs.items():
            speed, _, commits, cpu = flow(folder, True, seconds, ledger=keep)
            row.append((speed, cpu, commits))
    return {keep: [statistics.median(values) for values in zip(*row)] for keep, row in runs.items()}


def start(folder, number, urgent_every):
    size, first, done, peak, passed_by = waiting(folder, number, urgent_every)
    print(f"\nStart with {number:,} waiting deliveries ({size:.0f} MB): first record after {first:.2f} s, all after {done:.1f} s "
          f"({number / done:,.0f}/s), at most {peak:.0f} MiB resident.")
    if urgent_every:
        print(f"One in {urgent_every:,} is urgent: all of these are among the first {passed_by:,} records.")
    return first, done, peak


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ledger", type=int, metavar="TURNS", help="only the ledger's cost, that often")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--waiting", type=int, default=1_000_000)
    parser.add_argument("--urgent", type=int, default=0, metavar="N", help="only the start, with one in N urgent")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench/store")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    if args.urgent:
        start(args.folder, args.waiting, args.urgent)
        return
    print("| ledger.keep | messages/s | CPU a message | commits |\n| --- | ---: | ---: | ---: |")
    ledger = ledger_rows(args.folder, args.seconds, args.ledger or 3)
    for keep, (speed, cpu, commits) in ledger.items():
        print(f"| {keep} | {speed:,.0f} | {cpu:.1f} us | {commits:.0f} |", flush=True)
    if args.ledger:
        return
    result: dict = {"ledger": ledger}
    print("\n| | messages/s | CPU a message | commits |\n| --- | ---: | ---: | ---: |")
    for title, store in (("QoS 1, every acknowledgement after the commit or the delivery", True), ("the same without a store", False)):
        speed, _, commits, cpu = flow(args.folder, store, args.seconds)
        result["store" if store else "memory"] = speed
        print(f"| {title} | {speed:,.0f} | {cpu:.1f} us | {commits or '-'} |", flush=True)
    latencies = {}
    print()
    for rate in (result["store"] / 2, FIXED_RATE):
        _, ms, commits, cpu = flow(args.folder, True, args.seconds, rate=rate)
        latencies[round(rate)] = {"p50_ms": ms[len(ms) // 2], "p99_ms": ms[len(ms) * 99 // 100]}
        print(f"At {rate:,.0f} messages/s from publish to record: p50 {ms[len(ms) // 2]:.1f} ms, p99 {ms[len(ms) * 99 // 100]:.1f} ms, "
              f"most {ms[-1]:.1f} ms; {commits} commits, CPU {cpu:.1f} us a message.", flush=True)
    first, done, peak = start(args.folder, args.waiting, 0)
    result.update(latencies=latencies, first_s=first, all_s=done, peak_mib=peak)
    (ROOT / "build/bench").mkdir(exist_ok=True)
    (ROOT / "build/bench/store.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
