# SPDX-License-Identifier: MIT
"""What it costs that the broker keeps sessions and their messages on disk.

    tests/bench/durable.py [--count N] [--rounds R] [--folder PATH] [--workers N]

QoS 1 from one publisher with 1,000 messages under way, for a subscriber that is connected, with a session that stays or one that
does not, and for one that is away; each without a store, with durability "memory", and with "commit", in turn, several
times; the median counts. The folder decides which disk; by default it is below build/. Nothing here passes or fails.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TOCSIN_BUILD", "build/release")
KINDS = ["no store", "memory", "commit"]
ROWS = [("connected, session ends", []), ("connected, session stays", ["--persistent"]), ("away", ["--away"])]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Broker:
    def __init__(self, folder, kind, workers):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.port, self.log = folder, free_port(), folder / "log"
        durability = "" if kind == "no store" else f'durability = "{kind}";'
        store = "" if kind == "no store" else f'store = {{ path = "{folder}/tocsin.db"; }};'
        (folder / "tocsin.conf").write_text(f"""
            broker = {{ listeners = ( {{ port = {self.port}; bind = "127.0.0.1"; }} ); workers = {workers}; {durability}
                       max_inflight_messages = 20000; max_queued_messages = 0; max_queued_bytes = "0"; }};
            {store}""")

    def __enter__(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([BUILD / "tocsin", "run", "-c", self.folder / "tocsin.conf"], stdout=log, stderr=log)
        while b"running" not in self.log.read_bytes():
            if self.process.poll() is not None:
                sys.exit(self.log.read_text())
            time.sleep(0.005)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def run(folder, kind, extra, count, workers):
    """(messages/s, CPU us a message, MiB grown), messages counted as delivered, or as acknowledged if nobody is there."""
    with Broker(folder, kind, workers) as broker:
        command = [BUILD / "bench/mqttload", "--port", str(broker.port), "--pid", str(broker.process.pid), "--qos", "1",
                   "--window", "1000", "--cap", "0", "--count", str(count), *extra]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr + done.stdout + broker.log.read_text())
    result = json.loads(done.stdout)
    lost = result["unacknowledged"] or result["lost"] or result["protocol_errors"]
    if lost:
        sys.exit(f"{kind} {extra}: {lost} lost")
    return (count / result["duration_s"], result["broker_cpu_us_per_op"],
            (result["rss_after_kb"] - result["rss_before_kb"]) / 1024)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench/durable")
    args = parser.parse_args()
    table = {}
    for title, extra in ROWS:
        runs = {kind: [] for kind in KINDS}
        for _ in range(args.rounds):
            for kind in KINDS:
                runs[kind].append(run(args.folder, kind, extra, args.count, args.workers))
        table[title] = {kind: [statistics.median(column) for column in zip(*runs[kind])] for kind in KINDS}
    print("| subscriber | durability | messages/s | CPU a message | to no store | grown |\n| --- | --- | ---: | ---: | ---: | ---: |")
    for title, kinds in table.items():
        for kind, (speed, cpu, grown) in kinds.items():
            print(f"| {title} | {kind} | {speed:,.0f} | {cpu:.2f} us | {cpu / kinds['no store'][1]:.2f} | {grown:.0f} MiB |")
    (ROOT / "build/bench").mkdir(exist_ok=True)
    (ROOT / "build/bench/durable.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
