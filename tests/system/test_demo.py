# SPDX-License-Identifier: MIT
"""What a new user does first: the demo, and the installation."""

import os
import shutil
import signal
import subprocess

import pytest
from conftest import ROOT, Process

pytestmark = pytest.mark.xdist_group("demo")  # one at a time, for left_running()


def left_running(port):
    found = subprocess.run(["pgrep", "-f", f"tocsin pub -p {port}|tocsin run -c tocsin.conf"], capture_output=True)
    return found.stdout.decode()


def test_demo_shows_alarms_and_ends_by_itself(process, build):
    demo = process(["examples/first-steps/demo"], env={"BUILD": str(build), "DEMO_SECONDS": "12"}, cwd=ROOT)
    line, _ = demo.wait_line("tocsin pub -p")
    port = line.split("-p ")[1].split()[0]
    demo.wait_line("server-room is too warm")
    assert demo.wait() == 0
    assert "°C in server-room" in demo.text().split("The alarms in the file:")[1]
    assert "connection lost" not in demo.text()
    assert left_running(port) == ""


def test_demo_ends_with_interrupt_and_leaves_nothing_running(build):
    demo = Process(["setsid", "examples/first-steps/demo"], env={"BUILD": str(build)}, cwd=ROOT)
    line, _ = demo.wait_line("tocsin pub -p")
    port = line.split("-p ")[1].split()[0]
    demo.wait_line("running")
    os.killpg(demo.pid, signal.SIGINT)
    demo.wait()
    assert "second signal" not in demo.text() and "connection lost" not in demo.text()
    assert ": ended" in demo.text()
    assert left_running(port) == ""


def test_installed_program_finds_its_plugins(tmp_path, build):
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "TOCSIN_PLUGINS")}
    own = tmp_path / "build"  # it is built for another place, and others use the build
    shutil.copytree(build, own, ignore=shutil.ignore_patterns("tests", "bench", "unit", "*.log"))
    subprocess.run(["make", "-s", "install", f"B={own}", f"DESTDIR={tmp_path}/root", "PREFIX=/usr"], cwd=ROOT, check=True,
                   env=environment, capture_output=True)
    root = tmp_path / "root"
    for path in ("usr/bin/tocsin", "usr/lib/tocsin/plugins/log.so", "usr/include/tocsin/plugin.h",
                 "etc/tocsin/tocsin.conf", "usr/share/man/man1/tocsin.1", "usr/share/man/man5/tocsin.conf.5",
                 "usr/share/man/man1/tocsin-queue.1", "usr/share/doc/tocsin/examples/first-steps/tocsin.conf"):
        assert (root / path).exists(), path
    unit = (root / "usr/lib/systemd/system/tocsin.service").read_text()
    assert "ExecStart=/usr/bin/tocsin run" in unit and "/usr/local" not in unit
    assert (root / "etc/tocsin/tocsin.conf").stat().st_mode & 0o004, "the unit's user reads it"
    done = subprocess.run([root / "usr/bin/tocsin", "plugins", "--dir", root / "usr/lib/tocsin/plugins"],
                          capture_output=True, text=True)
    assert done.returncode == 0 and "log" in done.stdout
