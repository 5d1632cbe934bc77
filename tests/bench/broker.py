# SPDX-License-Identifier: MIT
"""The broker side by side with mosquitto and with the least a broker could do: CPU and memory for the same load.

    tests/bench/broker.py [--long] [--row NAME]... [--brokers NAME,NAME...] [--repeats N] [--seconds S]

All brokers of a row run at the same time, idle but for the one that is measured; the load goes to them in turn, as
many times as --repeats says, and the median counts (with several workers sometimes the worst run: see figure_of()).
CPU is user and system time of the whole broker process for each message delivered, from the kernel's clock of that process. A run that lost or doubled a message, broke the protocol
or was closed is shown as such: its figures count for nothing.

Prints a table of Markdown and writes all figures to build/bench/broker.json. Nothing here passes or fails.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TOCSIN_BUILD", "build/release")
LOAD = BUILD / "bench/mqttload"
SAVED = ROOT / "build/bench/broker.json"

# What both brokers are told, by the names that both know: nothing is dropped, nothing written, no waiting for more.
OPTIONS = {"max_inflight_messages": 20000, "max_queued_messages": 0, "max_queued_bytes": 0, "set_tcp_nodelay": "true",
           "connection_messages": "false"}

# Deliveries outstanding at most, where no acknowledgement holds publishers back, or that of a broker that has not
# delivered yet; the same for every broker.
CAP = ["--cap", "20000"]

QUICK, LONG = 0, 1


class Row:
    """A load, what it is measured by, and what must come out. Values are smaller-is-better unless `higher`."""

    def __init__(self, key, title, load, value, unit, must, limit=None, relay="parse", fresh=False, higher=False,
                 seconds=(0.5, 4), digits=2, ratio=True):
        self.key, self.title, self.load, self.value, self.unit = key, title, load, value, unit
        self.must, self.limit = must, limit  # a ratio to mosquitto, or a number where `ratio` is False
        self.relay = relay                   # mode of the null relay, None where it cannot do that
        self.fresh = fresh                   # a new process for each run: what is measured is its memory
        self.higher, self.seconds, self.digits, self.ratio = higher, seconds, digits, ratio


CPU = "broker_cpu_us_per_op"


def flow(key, title, load, must, limit, **more):
    return Row(key, title, load, CPU, "us CPU a message", must, limit, **more)


ROWS = [
    flow("qos0", "QoS 0, 1 to 1, 64 B", ["--qos", "0", *CAP], 37, 340),
    flow("qos1", "QoS 1, 1 to 1, window 100", ["--qos", "1", "--window", "100"], 25, 40),
    flow("qos2", "QoS 2, 1 to 1, window 100", ["--qos", "2", "--window", "100"], 30, 40),
    flow("fanout", "QoS 0, 1 to 100", ["--qos", "0", "--topics", "fan-out", "--subs", "100", *CAP], 50, 160),
    flow("fanin", "QoS 1, 100 to 1", ["--qos", "1", "--topics", "fan-in", "--pubs", "100", *CAP], 28, 54),
    flow("pairs", "QoS 0, 1000 pairs, bursts of 20",
         ["--qos", "0", "--pubs", "1000", "--subs", "1000", "--burst", "20", *CAP], 18, 24),
    flow("large", "1 MiB payloads, QoS 0", ["--qos", "0", "--size", "1048576", "--cap", "8"], 2, 3.4, relay="bare",
         digits=0),
    Row("large-rate", "the same, MiB/s", None, "delivered_mib_s", "MiB/s", None, higher=True, digits=0),
    Row("connects", "connections, 50 in parallel", ["--connects", ("3000", "20000"), "--parallel", "50"], CPU,
        "us CPU each", 1.5, 1.5, digits=1),
    Row("connect-rate", "the same, connections/s", None, "connects_per_s", "a second", None, higher=True, digits=0),
    Row("latency", "latency at 1,000 messages/s, p50", ["--qos", "0", "--rate", "1000"], "lat_p50_us", "us", None,
        seconds=(1.5, 10), digits=0),
    Row("latency-99", "the same, p99", None, "lat_p99_us", "us", None, digits=0),
    Row("latency-cpu", "the same, CPU a message", None, CPU, "us", None, digits=1),
    Row("idle", "memory of an idle connection", ["--conns", "19000", "--touch"], "bytes_per_conn", "bytes", 375, 160,
        fresh=True, ratio=False, relay="parse", digits=0),
    Row("touched", "the same after traffic", None, "bytes_per_touched_conn", "bytes", 600, 258, ratio=False, digits=0),
    Row("subscription", "memory of a subscription", ["--conns", "100", "--filters", "1000"], "bytes_per_filter",
        "bytes", 120, fresh=True, ratio=False, relay=None, digits=0),
    Row("retained", "memory of a retained 64 B message", ["--retain", "100000"], "bytes_per_retained", "bytes", 210,
        fresh=True, ratio=False, relay=None, digits=0),
    Row("start", "start to first message", [], "start_ms", "ms", 50, fresh=True, ratio=False, digits=1),
    Row("daemon", "resident, nothing connected", None, "rss_mib", "MiB", 16, ratio=False, digits=1),
]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def connectable(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    except ConnectionRefusedError:
        return False


class Broker:
    def __init__(self, kind, folder, relay="parse"):
        self.kind, self.port = kind, free_port()
        out = open(folder / f"{kind}-{self.port}.log", "wb")
        self.began = time.monotonic()
        self.process = subprocess.Popen(self.command(folder, relay), stdout=out, stderr=out)

    def command(self, folder, relay):
        conf = folder / f"{self.kind}-{self.port}.conf"
        if self.kind == "relay":
            return [BUILD / "bench/nullrelay", str(self.port), relay]
        if self.kind == "mosquitto":
            lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence false", "log_dest none"]
            conf.write_text("\n".join(lines + [f"{k} {v}" for k, v in OPTIONS.items()]) + "\n")
            return ["mosquitto", "-c", conf]
        workers = self.kind.removeprefix("tocsin-")
        options = " ".join(f"{k} = {v};" for k, v in OPTIONS.items())
        conf.write_text(f'broker = {{ listeners = ( {{ port = {self.port}; bind = "127.0.0.1"; }} );\n'
                        f"  workers = {workers}; {options} }};\n")
        return [BUILD / "tocsin", "run", "-c", conf]

    def wait(self):
        while not connectable(self.port):
            if self.process.poll() is not None or time.monotonic() > self.began + 20:
                raise RuntimeError(f"{self.kind} does not listen")
            time.sleep(0.001)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def start_to_first_message(broker):
    """A subscriber and a publisher in one connection; the time from the process's start to the message's arrival."""
    def packet(kind, body):
        return bytes([kind, len(body)]) + body

    def text(s):
        return len(s).to_bytes(2, "big") + s

    while True:
        try:
            s = socket.create_connection(("127.0.0.1", broker.port), timeout=5)
            break
        except ConnectionRefusedError:
            if broker.process.poll() is not None:
                raise RuntimeError(f"{broker.kind} has ended") from None
            time.sleep(0.0002)
    with s:
        s.sendall(packet(0x10, text(b"MQTT") + b"\x04\x02\x00\x3c" + text(b"first")))
        wanted = 4
        got = b""
        for send, more in ((packet(0x82, b"\x00\x01" + text(b"a") + b"\x00"), 5), (packet(0x30, text(b"a") + b"x"), 6)):
            while len(got) < wanted:
                got += s.recv(100)
            s.sendall(send)
            wanted += more
        while len(got) < wanted:
            got += s.recv(100)
        arrived = time.monotonic()
    status = Path(f"/proc/{broker.process.pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return {"start_ms": (arrived - broker.began) * 1e3, "rss_mib": rss / 1024}


def measure(row, broker, seconds, size, number):
    if row.key == "start":
        return start_to_first_message(broker)
    broker.wait()
    load = [a[size] if isinstance(a, tuple) else a for a in row.load]
    if broker.kind == "relay":  # it knows no subscriptions in such numbers
        load = [a for a in load if a != "--touch"]
    # Other client ids each time: which of several workers owns a client is a matter of its id.
    command = [LOAD, "--port", str(broker.port), "--pid", str(broker.process.pid), "--ids", f"l{number:03d}", *load]
    if "--qos" in load:
        command += ["--duration", str(seconds)]
        if "--rate" not in load and "--size" not in load:
            command += ["--warmup", "100"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if not done.stdout:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"}
    result = json.loads(done.stdout)
    if "--touch" not in load:
        result.pop("bytes_per_touched_conn", None)
    return result


@contextlib.contextmanager
def profiled(row, broker):
    """Profiles a broker with perf, and prints the functions that take more than one in a hundred of its time."""
    data = ROOT / f"build/bench/{row.key}-{broker.kind}.perf"
    data.parent.mkdir(parents=True, exist_ok=True)
    perf = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "2999", "-g", "-o", data,
                             "-p", str(broker.process.pid)], stderr=subprocess.DEVNULL)
    try:
        while not any("perf_event" in os.readlink(fd) for fd in Path(f"/proc/{perf.pid}/fd").iterdir()):
            time.sleep(0.05)
        time.sleep(0.2)  # it does not say when it has begun
        yield
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()
    report = subprocess.run(["perf", "report", "-i", data, "--no-children", "--stdio", "-g", "none",
                             "--percent-limit", "1", "--sort", "dso,symbol"], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, text=True).stdout
    print(f"\n{row.title}, {broker.kind}")
    print("\n".join(line for line in report.splitlines() if line.strip() and not line.startswith("#")), flush=True)


def trouble(row, result):
    """What makes a run's figures worthless, or an empty string."""
    if "error" in result:
        return result["error"]
    counts = {k: result.get(k, 0) for k in ("lost", "late_or_dup", "unacknowledged", "protocol_errors", "closed")}
    if result.get("mode") == "connects":
        counts["failed"] = result["failed"]
    if result.get("mode") == "retain":
        counts["lost"] = result["retained"] - result["read_back"]
    if "--touch" in (row.load or ()) and "bytes_per_touched_conn" in result:
        counts["lost"] = result["conns"] - result["touch_delivered"]
    return ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in counts.items() if v)


def run_row(row, kinds, folder, args):
    """Returns {kind: [result, ...]}, the repeats interleaved."""
    results = {kind: [] for kind in kinds}
    size = LONG if args.long else QUICK
    seconds = args.seconds or row.seconds[size]
    repeats = args.repeats or (5 if args.long else 3)
    if row.fresh and row.key != "start":
        repeats = min(repeats, 3 if args.long else 1)
    with contextlib.ExitStack() as stack:
        running = {}
        for number in range(repeats):
            for kind in kinds:
                if row.fresh or kind not in running:
                    running[kind] = Broker(kind, folder, row.relay or "parse")
                    stack.callback(running[kind].stop)
                if running[kind].process.poll() is not None:
                    results[kind].append({"error": "the broker has ended"})
                    continue
                profile = args.profile and kind != "relay" and row.key != "start"
                try:
                    with profiled(row, running[kind]) if profile else contextlib.nullcontext():
                        results[kind].append(measure(row, running[kind], seconds, size, number))
                except RuntimeError as error:
                    results[kind].append({"error": str(error)})
                if row.fresh:
                    running[kind].stop()
    return results


# One sender and one receiver: with several workers it is chance whether they share one.
OF_TWO = {"qos0", "qos1", "qos2", "large", "large-rate"}


def figure_of(row, results, kind):
    """The median; where chance has a say the worst."""
    values = [r[row.value] for r in results if row.value in r]
    if values and row.key in OF_TWO and kind.startswith("tocsin-") and kind != "tocsin-1":
        return min(values) if row.higher else max(values)
    return statistics.median(values) if values else None


def ratio_of(row, ours, mosquitto):
    if not ours or not mosquitto:
        return ""
    r = ours / mosquitto if row.higher else mosquitto / ours
    if row.higher:
        return f"{r:.2g} times"
    return f"1/{r:.0f}" if r >= 10 else f"1/{r:.1f}" if r >= 1 else f"{1 / r:.2f}"


def verdict(row, ours, mosquitto):
    if not row.must or ours is None or (row.ratio and not mosquitto):
        return ""
    met = ours <= row.must if not row.ratio else mosquitto / ours >= row.must
    return " yes" if met else " **no**"


def must_text(row):
    if not row.must:
        return ""
    return f"{row.must}" if not row.ratio else "2/3" if row.must == 1.5 else f"1/{row.must}"


def print_row(row, results, kinds, able):
    mosquitto = figure_of(row, results["mosquitto"], "mosquitto") if "mosquitto" in results else None
    cells = [row.title, row.unit, must_text(row)]
    for kind in kinds:
        ours = figure_of(row, results[kind], kind)
        if ours is None:
            cell = "failed" if kind in able and not results[kind] else ""
        else:
            cell = f"{ours:,.{row.digits + (1 if ours < 1 else 0)}f}"
        if kind != "mosquitto" and ours is not None:
            cell += f" ({ratio_of(row, ours, mosquitto)})" if mosquitto else ""
            cell += verdict(row, ours, mosquitto) if kind.startswith("tocsin") else ""
        cells.append(cell)
    print("| " + " | ".join(cells) + " |", flush=True)


def show(rows, results, kinds):
    """Prints the rows that one load gives. Returns what went wrong in its runs."""
    troubles = []
    good = {kind: [] for kind in kinds}
    for kind, runs in results.items():
        for run in runs:
            if text := trouble(rows[0], run):
                troubles.append(f"{rows[0].title}: {kind}: {text}")
            else:
                good[kind].append(run)
    for row in rows:
        print_row(row, good, kinds, results.keys())
    return troubles


def print_head(head, kinds):
    gauge = head["gauge"]
    print(f"{head['date']}, {os.cpu_count()} cores, load {head['load']:.1f}; a TCP write and read "
          f"{gauge['tcp_write_read_ns'] / 1e3:.1f} us, a system call {gauge['syscall_ns']:.0f} ns\n")
    print("| what | unit | must | " + " | ".join(kinds) + " |")
    print("| --- | --- | ---: | " + " | ".join("---:" for _ in kinds) + " |", flush=True)


def with_followers(keys):
    """Rows in the file's order; a row without a load of its own shows another figure of the run before it."""
    groups = []
    for row in ROWS:
        if row.load is not None:
            groups.append([row])
        else:
            groups[-1].append(row)
    return [g for g in groups if not keys or any(r.key in keys for r in g)]


def main():
    parser = argparse.ArgumentParser(description="Brokers side by side.")
    parser.add_argument("--long", action="store_true", help="five repeats of some seconds each (twenty minutes)")
    parser.add_argument("--row", action="append", choices=[r.key for r in ROWS], help="only this row (repeatable)")
    parser.add_argument("--brokers", default="mosquitto,tocsin-1,tocsin-2,relay", help="of mosquitto, tocsin-N, relay")
    parser.add_argument("--repeats", type=int, help="runs of each")
    parser.add_argument("--seconds", type=float, help="length of a run")
    parser.add_argument("--again", action="store_true", help="print the table of the last run once more")
    parser.add_argument("--profile", action="store_true", help="with perf; the figures are then those of a slower run")
    args = parser.parse_args()
    kinds = args.brokers.split(",")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    if args.again:
        saved = json.loads(SAVED.read_text())
        print_head(saved, saved["kinds"])
        for rows in with_followers(args.row):
            if rows[0].key in saved["rows"]:
                show(rows, saved["rows"][rows[0].key], saved["kinds"])
        return 0

    gauge = json.loads(subprocess.run([LOAD, "--gauge"], check=True, stdout=subprocess.PIPE).stdout)
    head = {"date": time.strftime("%Y-%m-%d"), "load": os.getloadavg()[0], "gauge": gauge, "kinds": kinds}
    print_head(head, kinds)
    everything, troubles, began = {}, [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for rows in with_followers(args.row):
            able = [k for k in kinds if k != "relay" or rows[0].relay]
            results = run_row(rows[0], able, Path(folder), args)
            everything[rows[0].key] = results
            troubles += show(rows, results, kinds)
    print("\n" + ("\n".join(troubles) if troubles else "No message lost, doubled or out of order in any run."))
    print(f"{time.monotonic() - began:.0f} s")
    SAVED.parent.mkdir(parents=True, exist_ok=True)
    SAVED.write_text(json.dumps(head | {"rows": everything}, indent=1))
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
