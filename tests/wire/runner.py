#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Plays the conversations of this folder against a broker, and counts which statements of MQTT that has tested.

    tests/wire/runner.py [--broker mosquitto|tocsin|HOST:PORT] [-v] [PATTERN...]

A PATTERN is the name of a case, of a file, or of a statement, with * and ?. See README.md for the files.
"""

import argparse
import fnmatch
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True
import cases as data  # noqa: E402
from conversation import Conversation, Failed, TIMEOUT  # noqa: E402
from server import Server  # noqa: E402

FOLDER = Path(__file__).resolve().parent
TITLES = {"311": "MQTT 3.1.1", "5": "MQTT 5.0"}


class Group:
    """The cases that share a server."""

    def __init__(self, broker, options):
        self.broker, self.options = broker, options
        self.lock, self.server, self.wrong = threading.Lock(), None, []
        self.broken = None  # why it did not start: it is not tried again

    def running(self):
        with self.lock:
            if self.server and self.server.died():
                self.wrong.append(self.server.stop() or "the broker ended by itself")
                self.server = None
            if self.broken:
                raise self.broken
            if not self.server:
                try:
                    self.server = Server(self.broker, self.options)
                except data.DataError as e:
                    self.broken = e
                    raise
            return self.server

    def died(self):
        with self.lock:
            return bool(self.server and self.server.died())

    def stop(self):
        if self.server and (wrong := self.server.stop()):
            self.wrong.append(wrong)
        self.server = None


def play(case, group, prefix):
    """None, or why the case failed."""
    try:
        expected = group.broker != "mosquitto" or not case.mosquitto_fails
        server, strict = group.running(), group.broker == "tocsin"
        Conversation(case, server.address, prefix, TIMEOUT if expected else 2.0, server.memory, strict).play()
    except (Failed, OSError) as e:
        return str(e) + ("\n      the broker has died" if group.died() else "")
    except data.DataError as e:
        return f"the case itself is wrong: {e}"
    if group.died():
        return "the broker has died"
    return None


def chosen(all_cases, patterns):
    def wanted(case):
        names = [case.name, case.where.partition(":")[0], *case.tests]
        return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)

    return [case for case in all_cases if not patterns or wanted(case)]


def coverage(table, statements, all_cases):
    ids = [s for s in statements.values() if s.how != "client"]
    tested = sum(s.how == "cases" for s in ids)
    cannot = sum(s.how == "untestable" for s in ids)
    count = sum(case.table() == table and bool(case.tests) for case in all_cases)
    return f"{TITLES[table]}: {tested} of {len(ids)} server statements tested by {count} conversations, " \
           f"{cannot} cannot be (reasons in statements-{table}.txt)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="tocsin")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="for every broker that is started")
    parser.add_argument("-v", action="store_true", help="name each case")
    parser.add_argument("--jobs", type=int, default=16, help="conversations at a time")
    parser.add_argument("--write-lists", action="store_true", help="bring the lists of statements up to date, play nothing")
    parser.add_argument("patterns", nargs="*")
    args = parser.parse_args()
    start = time.monotonic()
    try:
        all_cases, lists = data.read_all(FOLDER)
    except data.DataError as e:
        print(e)
        return 1
    if args.write_lists:
        for table in lists:
            data.write_lists(FOLDER / f"statements-{table}.txt", [c for c in all_cases if c.table() == table])
        return 0
    errors = [] if args.patterns else [e for table in lists for e in data.statement_errors(
        table, lists[table], [c for c in all_cases if c.table() == table])]
    todo = chosen(all_cases, args.patterns)
    always = dict(option.split("=", 1) for option in args.option)
    groups = {case.key(): Group(args.broker, always | case.options) for case in todo}
    run = f"w{os.getpid() % 46656:x}"
    # Those that wait come first, so that the others run meanwhile.
    order = sorted(todo, key=lambda c: not any(isinstance(s, tuple) and s[0] == "wait" for s in c.steps))
    with ThreadPoolExecutor(args.jobs) as pool:
        results = {case.name: pool.submit(play, case, groups[case.key()], f"{run}x{n}")
                   for n, case in enumerate(order)}
    passed = failed = 0
    for case in todo:
        why = results[case.name].result()
        if args.broker == "mosquitto" and case.mosquitto_fails:
            why = None if why else f"passes, though Mosquitto is said to fail: {case.mosquitto_fails}"
        passed, failed = passed + (not why), failed + bool(why)
        if why:
            print(f"FAILED {case.name} ({' '.join(case.tests) or 'no statement'})\n    {why}")
        elif args.v:
            print(f"ok     {case.name}")
    for group in groups.values():
        group.stop()
        errors += group.wrong
    for error in errors:
        print(f"ERROR  {error}")
    failed += len(errors)
    for table in lists:
        print(coverage(table, lists[table], all_cases))
    print(f"{passed} passed" + (f", {failed} failed" if failed else "") + f" in {time.monotonic() - start:.1f}s")
    return 1 if failed or not passed else 0


sys.exit(main())
