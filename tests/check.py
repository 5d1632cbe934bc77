# SPDX-License-Identifier: MIT
"""All tests, one stage after the other; ends with a line that counts them.

    tests/check.py [STAGE...]     all stages, or those named

A stage that cannot run is a failure, not a skip. The output of each goes to build/check/STAGE.log; when it fails the
end of that is shown, and the very last lines name each test that failed. What needs processors and no patience runs
beside the stages that mostly wait, behind them in rank; if it fails, its output comes at the end.
"""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "check"
JOBS = str(os.cpu_count() or 2)
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(2 * int(JOBS)),
          "--dist", "loadgroup", "--tb=short", "--durations=20", "tests/system"]
# What a failed assertion compared is cut short, other than pytest does it under CI; the names of failed tests are not.
PLAIN = {"CI": None, "BUILD_NUMBER": None, "COLUMNS": "200"}

SHOWN = 100  # lines of a failed stage
WIDTH = 200  # characters of a line of it, or of one that names a failed test

WIRE = [sys.executable, "tests/wire/runner.py"]


def make(*args, **variables):
    return ["make", "--no-print-directory", "-j", JOBS, *(f"{k}={v}" for k, v in variables.items()), *args]


THREADED = "services* link* log delivery* mailbox loop acceptor"  # the unit suites in which more than one thread runs

# Name, commands, environment. What a stage builds, later ones use.
STAGES = [
    ("build", [make("compile", "tools")], {}),
    ("format", [make("format-check")], {}),
    ("unit", [make("run-unit")], {}),
    ("unit-asan", [make("run-unit", VARIANT="asan")], {}),
    ("unit-tsan", [make("run-unit", VARIANT="tsan", TESTS=THREADED)], {}),
    ("fuzz-corpora", [make("fuzz-replay")], {}),
    ("tidy", [["nice", "-n", "10", *make("tidy")]], {}),
    ("system", [PYTEST], {}),
    # The conversations are data, and Mosquitto shows that they are right.
    ("wire-data", [WIRE + ["--broker", "mosquitto"]], {}),
    ("wire", [WIRE], {}),
    # The same with all of it on disk, and clients that do what chance says.
    ("wire-store", [WIRE], {"TOCSIN_STORE": "1"}),
    ("model-store", [[sys.executable, "-m", "tests.model", "--tocsin", "build/release/tocsin", "--store", "--keep-going",
                      "--seeds", "30", "--workers", workers] for workers in ("1", "3")], {}),
    ("wire-asan", [make("compile", VARIANT="asan"), WIRE + ["--option", "workers=3"]], {"TOCSIN_BUILD": "build/asan"}),
    ("wire-tsan", [make("compile", VARIANT="tsan"), WIRE + ["--option", "workers=3"]], {"TOCSIN_BUILD": "build/tsan"}),
    ("system-asan", [make("compile", "tools", VARIANT="asan"), PYTEST + ["-m", "threads or memory"]],
     {"TOCSIN_BUILD": "build/asan"}),
    ("system-tsan", [make("compile", "tools", VARIANT="tsan"), PYTEST + ["-m", "threads"]],
     {"TOCSIN_BUILD": "build/tsan"}),
]

BESIDE = {"tidy"}  # stages that run beside those that follow


def tests_in(output):
    """(passed, failed, skipped) by the closing lines of cmocka and pytest; None where there are none."""
    passed = failed = skipped = 0
    found = False
    for line in output.splitlines():
        if m := re.match(r"\[  (PASSED|FAILED|SKIPPED) +\] (?:.*: )?(\d+) test\(s\)", line):
            found = True
            count = int(m[2])
            passed += count if m[1] == "PASSED" else 0
            failed += count if m[1] == "FAILED" else 0
            skipped += count if m[1] == "SKIPPED" else 0
        elif re.match(r"(\d+ \w+, )*\d+ \w+(, \d+ \w+)* in [\d.]+s", line.strip("= ")):
            found = True
            for count, word in re.findall(r"(\d+) (\w+)", line):
                passed += int(count) if word == "passed" else 0
                failed += int(count) if word in ("failed", "error", "errors") else 0
                skipped += int(count) if word == "skipped" else 0
    return (passed, failed, skipped) if found else None


def failures_in(output):
    """What failed and why, a line for each: cmocka's, pytest's, the wire runner's, the compilers'."""
    found, why = [], ""
    lines = output.splitlines()
    for line, following in zip(lines, lines[1:] + [""]):
        if m := re.match(r"(?:FAILED|ERROR) +(\S.*)", line):
            found.append(m[1] if "::" in m[1] else f"{m[1]} - {following.strip()}")
        elif re.match(r"\[ +RUN +\]", line):
            why = ""
        elif m := re.match(r"\[ +ERROR +\] --- (.*)", line):
            why = why or m[1]
        elif (m := re.match(r"\[ +FAILED +\] (\S+)$", line)) and why:
            found.append(f"{m[1]} - {why}")
        elif re.match(r"\S+:\d+:\d+: (?:fatal )?error: ", line):
            found.append(line)
    return list(dict.fromkeys(found)) or [line for line in lines if line.strip()][-1:] or ["no output"]


def run_stage(name, commands, environment):
    """(passed, failed, skipped), what is to be shown, and the names of what failed."""
    environment = {k: v for k, v in (os.environ | PLAIN | environment).items() if v is not None}
    log = LOGS / f"{name}.log"
    start = time.monotonic()
    status = 0
    with log.open("wb") as out:
        for command in commands:
            status = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                                    stdout=out, stderr=subprocess.STDOUT).returncode
            if status != 0:
                break
    output = log.read_text(errors="replace")
    passed, failed, skipped = tests_in(output) or (int(status == 0), 0, 0)
    if status != 0 and failed == 0:
        failed = 1
    word = "ok" if failed == 0 else "FAILED"
    beside = "  (beside others)" if name in BESIDE else ""
    lines = [f"{name:14} {word:7} {passed:5} passed {failed:3} failed {skipped:3} skipped "
             f"{time.monotonic() - start:6.0f} s{beside}"]
    lines += [f"{'':14} {line}" for line in re.findall(r"^MQTT [\d.]+: .* statements tested .*", output, re.M)]
    if failed:
        lines += [line[:WIDTH] for line in output.splitlines()[-SHOWN:]]
    names = [f"{name}: {what}"[:WIDTH] for what in failures_in(output)] if failed else []
    return (passed, failed, skipped), "\n".join(lines), names


class Beside(threading.Thread):
    """A stage that runs while others do."""

    def __init__(self, *stage):
        super().__init__()
        self.stage, self.counts, self.text = stage, (0, 1, 0), f"{stage[0]:14} did not come to its end"
        self.names = [f"{stage[0]}: did not come to its end"]
        self.start()

    def run(self):
        self.counts, self.text, self.names = run_stage(*self.stage)


def main():
    LOGS.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[1:] or [name for name, _, _ in STAGES]
    unknown = set(wanted) - {name for name, _, _ in STAGES}
    if unknown:
        sys.exit(f"no such stage: {', '.join(sorted(unknown))}")
    counts, beside, failures = [], [], []
    start = time.monotonic()
    for stage in STAGES:
        if stage[0] in wanted and stage[0] in BESIDE:
            beside.append(Beside(*stage))
        elif stage[0] in wanted:
            count, text, names = run_stage(*stage)
            counts.append(count)
            failures += names
            print(text, flush=True)
    for one in beside:
        one.join()
        counts.append(one.counts)
        failures += one.names
        print(one.text, flush=True)
    passed, failed, skipped = (sum(column) for column in zip(*counts))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else "") +
          f", {time.monotonic() - start:.0f} s")
    for name in failures:
        print(f"FAILED {name}")
    return 1 if failed or not passed else 0


sys.exit(main())
