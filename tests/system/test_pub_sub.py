# SPDX-License-Identifier: MIT
"""The command-line clients, against Debian's broker, and side by side with its own clients."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest
from conftest import TIMEOUT, until
from test_link_tls import Authority, listener


class Clients:
    """Calls of `tocsin pub` and `tocsin sub` at one broker."""

    def __init__(self, build, process, broker):
        self.program, self.process, self.broker = build / "tocsin", process, broker
        self.address = ("-h", "127.0.0.1", "-p", str(broker.port)) if broker else ()

    def call(self, *args, status=0, data=b"", env=None, address=True):
        name, *rest = map(str, args)
        done = subprocess.run(
            [self.program, name, *(self.address if address else ()), *rest], input=data, capture_output=True,
            timeout=TIMEOUT, env={**os.environ, **(env or {})},
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done

    def pub(self, *args, **more):
        return self.call("pub", *args, **more)

    def sub(self, *args, **more):
        return self.call("sub", *args, **more).stdout.decode()

    def watch(self, *args, program=None):
        """Starts `tocsin sub` (or another program), and returns once the broker has taken its subscriptions."""
        seen = self.broker.process.text().count("Sending SUBACK")
        argv = [program] if program else [self.program, "sub"]
        started = self.process([*argv, *self.address, *map(str, args)])
        until(lambda: self.broker.process.text().count("Sending SUBACK") > seen or not started.alive(), "SUBACK")
        return started


@pytest.fixture
def clients(build, process, mosquitto):
    return Clients(build, process, mosquitto())


def ended(started, status=0):
    """What a program printed, once it has ended."""
    assert started.wait() == status, started.text()
    return started.text("out")


def test_a_message_goes_from_pub_to_sub(clients):
    sub = clients.watch("-t", "a/+", "-v", "-C", "2")
    clients.pub("-t", "a/b", "-m", "hello")
    clients.pub("-t", "a/c", "-m", "-5")
    assert ended(sub) == "a/b hello\na/c -5"


@pytest.mark.parametrize("version", ["31", "mqttv311", "5"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_every_version_and_qos(clients, version, qos):
    sub = clients.watch("-t", "a", "-q", qos, "-V", version, "-F", "%q %p", "-C", 1)
    clients.pub("-t", "a", "-m", "x", "-q", qos, "-V", version)
    assert ended(sub) == f"{qos} x"


def test_payloads_come_from_where_one_wants(clients, tmp_path):
    binary = bytes(range(256)) * 300
    path = tmp_path / "payload"
    path.write_bytes(binary)
    sub = clients.watch("-t", "#", "-F", "%t %l %x", "-C", 7)
    clients.pub("-t", "m", "-m", "é")
    clients.pub("-t", "n", "-n")
    clients.pub("-t", "f", "-f", path)
    clients.pub("-t", "s", "-s", data=binary)
    clients.pub("-t", "l", "-l", data=b"one\n\nthr\0ee")
    assert ended(sub).splitlines() == [
        "m 2 c3a9", "n 0 ", f"f {len(binary)} {binary.hex()}", f"s {len(binary)} {binary.hex()}",
        "l 3 6f6e65", "l 0 ", "l 6 746872006565",
    ]
    assert b"No such file" in clients.pub("-t", "f", "-f", tmp_path / "none", status=1).stderr


@pytest.mark.threads
@pytest.mark.parametrize("qos", [0, 1])
def test_many_lines_keep_their_order(clients, qos):
    sub = clients.watch("-t", "a", "-q", qos, "-C", 5000)
    lines = [f"{i}" + "x" * (i % 300) for i in range(5000)]
    clients.pub("-t", "a", "-l", "-q", qos, data="\n".join(lines).encode() + b"\n")
    assert ended(sub).splitlines() == lines


def test_a_refused_connection_is_told_and_is_status_1(clients, free_port):
    port = free_port()
    for command in (["pub", "-m", "x"], ["sub"]):
        done = clients.call(*command, "-t", "a", "-p", port, status=1)
        assert f"cannot connect to 127.0.0.1:{port}: Connection refused".encode() in done.stderr
        assert not clients.call(*command, "-t", "a", "-p", port, "--quiet", status=1).stderr
    assert b"no such host" in clients.pub("-t", "a", "-m", "x", "-h", "broker.invalid", status=1).stderr
