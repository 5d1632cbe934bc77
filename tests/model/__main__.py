# SPDX-License-Identifier: MIT
"""Runs of the model against a broker on 127.0.0.1.

    python3 -m tests.model --port 1883 --seeds 1000           seeds 1 to 1000
    python3 -m tests.model --port 1883 --first 17 --trace     seed 17, with all that happened if it fails
    python3 -m tests.model --tocsin build/release/tocsin --workers 2 --seeds 100
    python3 -m tests.model --mosquitto --seeds 100
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import time

from .disk import Disk
from .play import Knows, World

# mosquitto 2.0.11: each matching filter brings a copy; a group's lost member takes its messages with it. The rest
# is against the specification. Half of its runs fail even so: QoS 2 publications that it has acknowledged do not
# come to all who subscribed to them.
MOSQUITTO = Knows(copies="each", share="stays", receive_maximum=False, take_over_reason=False,
                  shared_retained=True, no_local=False, take_over_will=False)


@contextlib.contextmanager
def started(argv, configuration, port):
    """A broker of our own, while it is needed."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(configuration)
        file.flush()
        child = subprocess.Popen([*argv, file.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                with socket.socket() as s:
                    if s.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if child.poll() is not None:
                    sys.exit("the broker did not start")
                time.sleep(0.01)
            yield
        finally:
            child.terminate()
            if child.wait(60):
                print(f"the broker ended with {child.returncode}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(prog="python3 -m tests.model", description="Random clients against a broker.")
    parser.add_argument("--port", type=int)
    parser.add_argument("--tocsin", metavar="PROGRAM")
    parser.add_argument("--workers", type=int, default=1, help="with more than one, what is acknowledged may still be "
                        "on its way, and connections become known in any order")
    parser.add_argument("--store", action="store_true", help="sessions are kept on disk")
    parser.add_argument("--mosquitto", action="store_true")
    parser.add_argument("--first", type=int, default=1, metavar="SEED")
    parser.add_argument("--seeds", type=int, default=1, metavar="COUNT")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--keep-going", action="store_true", help="do not end with the first seed that fails")
    parser.add_argument("--trace", action="store_true", help="tell all that happened in a run that fails")
    parser.add_argument("--errors", type=int, default=5, metavar="COUNT", help="tell so many of a run")
    given = parser.parse_args()
    knows = MOSQUITTO if given.mosquitto else Knows(loose=given.workers > 1)
    port = given.port or free_port()
    broker = contextlib.nullcontext()
    folder = tempfile.TemporaryDirectory(prefix="model-")
    if given.tocsin:
        store = 'store = { path = "%s/store.db"; };\n' % folder.name if given.store else ""
        broker = started([given.tocsin, "run", "-c"], 'broker = { workers = %d; listeners = ( { port = %d; '
                         'bind = "127.0.0.1"; } ); };\n%s' % (given.workers, port, store), port)
    elif given.mosquitto and not given.port:
        broker = started(["/usr/sbin/mosquitto", "-c"],
                         f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nlog_dest none\n", port)
    failed, begin, received = [], time.monotonic(), 0
    with folder, broker:
        disk = Disk(port, time.time_ns()) if given.store else None
        for seed in range(given.first, given.first + given.seeds):
            trace = [] if given.trace else None
            world = World(port, seed, given.clients, given.steps, knows, f"{seed}.{time.time_ns() % 10**9}", trace,
                          disk)
            errors = world.play()
            received += sum(len(s.receptions) for s in world.truth.sessions)
            if errors:
                failed.append(seed)
                if trace:
                    print("\n".join(trace))
                print(f"seed {seed}:")
                for error in errors[:given.errors]:
                    print(f"  {error}")
                if not given.keep_going:
                    break
    print(f"{given.seeds} seeds, {received} messages received, {time.monotonic() - begin:.1f} s; "
          f"{len(failed)} failed {failed or ''}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
