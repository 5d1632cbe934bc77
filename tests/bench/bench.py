# SPDX-License-Identifier: MIT
"""What a message costs: the engine alone, and from a socket to lines in a file.

    tests/bench/bench.py [MESSAGES]     default 1,000,000

The source of messages is tests/bench/source.c, which costs less than any broker, so that the router is what is
measured. CPU is user and system time of the whole process, from the kernel; nothing here passes or fails.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TOCSIN_BUILD", "build/release")
MESSAGES = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
TICK = os.sysconf("SC_CLK_TCK")

ROUTE = """{ topic = "sensors/{room}/climate"; qos = %d; decode = "json"; when = "celsius > 30";
    format = "{sequence} {celsius:.1f} in {room} at {battery.volt:.2f} V %s"; targets = "file:out"; }"""
OTHER = """, { topic = "sensors/{room}/other%d/+"; when = "value > 3"; targets = "file:out"; }"""


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def lines_in(path, offset, count):
    """Counts the lines of a growing file from `offset`; returns (new offset, count)."""
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read()
    return offset + len(data), count + data.count(b"\n")


def run(messages, qos, others=0, rate=0, latency=False):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = subprocess.Popen([BUILD / "bench/source", str(messages), str(qos), "1000", str(rate)],
                                  stdout=subprocess.PIPE, text=True)
        port = int(source.stdout.readline().split()[1])
        out = folder / "out.log"
        out.touch()
        routes = ROUTE % (qos, "{sent}" if latency else "") + "".join(OTHER % i for i in range(others))
        (folder / "tocsin.conf").write_text(
            f'links = ( {{ name = "source"; host = "127.0.0.1"; port = {port}; }} );\n'
            f'services = {{ file = {{ plugin = "file"; targets = {{ out = {{ path = "{out}"; }}; }}; }}; }};\n'
            f"routes = ( {routes} );\n")
        router = subprocess.Popen([BUILD / "tocsin", "run", "-c", folder / "tocsin.conf"],
                                  stderr=subprocess.DEVNULL)
        offset = count = 0
        pause = threading.Event()
        started = 0.0
        idle = 0
        import time
        while count < messages:
            if router.poll() is not None or source.poll() is not None:
                sys.exit("a process has ended too early")
            pause.wait(0.002)
            before = count
            offset, count = lines_in(out, offset, count)
            if before == 0 and count > 0:
                started = time.monotonic()
                first = count
                cpu_before = cpu_seconds(router.pid)
                idle = resident_kib(router.pid)
        elapsed = time.monotonic() - started
        cpu = cpu_seconds(router.pid) - cpu_before
        resident = resident_kib(router.pid)
        router.send_signal(signal.SIGTERM)
        router.wait()
        source.kill()
        source.wait()
        counted = messages - first
        result = {"rate": counted / elapsed, "cpu_us": cpu / counted * 1e6, "first_kib": idle, "last_kib": resident}
        return result


def main():
    print("engine alone: ns a message, CPU")
    subprocess.run([BUILD / "bench/engine"], check=True)
    for name in ("values", "script", "delivery", "packets"):
        if (BUILD / "bench" / name).exists():
            print(f"\n{name}: ns an operation")
            subprocess.run([BUILD / "bench" / name], check=True)
    print(f"\nsocket to file, JSON decode, when, format; {MESSAGES:,} messages; CPU of the whole process")
    print(f"{'':34}{'messages/s':>12}{'us CPU each':>13}{'KiB at start':>14}{'KiB at end':>12}")
    for name, arguments in (
        ("QoS 0", dict(qos=0)),
        ("QoS 0, 10 other routes", dict(qos=0, others=10)),
        ("QoS 0, 10,000 other routes", dict(qos=0, others=10_000)),
        ("QoS 1, window 1000", dict(qos=1)),
    ):
        r = run(MESSAGES, **arguments)
        print(f"{name:34}{r['rate']:12,.0f}{r['cpu_us']:13.2f}{r['first_kib']:14,}{r['last_kib']:12,}")


main()
