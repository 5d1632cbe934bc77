# SPDX-License-Identifier: MIT
"""What the system tests share: programs under test, real brokers, MQTT clients.

Everything is on 127.0.0.1 and on free ports, lives below the test's tmp_path, is awaited by events and
not by sleeping, and is ended by the process id that was saved.
"""

import os
import pathlib
import queue
import signal
import socket
import subprocess
import threading
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

import ports

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT = 120  # seconds that anything may take before the test fails; never a measure of speed


def pytest_configure(config):
    config.addinivalue_line("markers", "threads: worth running under the thread sanitizer, and the address sanitizer")
    config.addinivalue_line("markers", "memory: worth running under the address sanitizer")


def until(condition, what, timeout=TIMEOUT):
    """Awaits a state that nobody announces: asks again until it is true. Returns what it returned."""
    end = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            pytest.fail(f"waited in vain for {what}")
        threading.Event().wait(0.01)


def port_is_open(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A program that runs beside the test. Its output is collected line by line."""

    def __init__(self, argv, stdin=False, env=None, cwd=None):
        self.lines = []  # (stream, text) of both streams, in order of arrival
        self.news = threading.Condition()
        self.child = subprocess.Popen(
            [str(a) for a in argv],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
        self.pid = self.child.pid
        self.readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self.child.stdout), ("err", self.child.stderr))
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, name, stream):
        for raw in stream:
            with self.news:
                self.lines.append((name, raw.decode("utf-8", "replace").rstrip("\n")))
                self.news.notify_all()
        with self.news:
            self.news.notify_all()

    def text(self, stream=None):
        with self.news:
            return "\n".join(line for name, line in self.lines if stream in (None, name))

    def wait_line(self, wanted, stream=None, start=0, timeout=TIMEOUT):
        """Awaits a line that contains `wanted` (or for which it is true). Returns (line, index of the next)."""
        test = wanted if callable(wanted) else lambda line: wanted in line
        end = time.monotonic() + timeout
        with self.news:
            while True:
                for i in range(start, len(self.lines)):
                    name, line = self.lines[i]
                    if stream in (None, name) and test(line):
                        return line, i + 1
                start = len(self.lines)
                if not any(r.is_alive() for r in self.readers):
                    pytest.fail(f"{wanted!r} never came; it ended after:\n{self._tail()}")
                left = end - time.monotonic()
                if left <= 0:
                    pytest.fail(f"{wanted!r} did not come in time; so far:\n{self._tail()}")
                self.news.wait(min(left, 1))

    def _tail(self):
        return "\n".join(line for _, line in self.lines[-40:])

    def write(self, text):
        self.child.stdin.write(text.encode())
        self.child.stdin.flush()

    def close_stdin(self):
        self.child.stdin.close()

    def alive(self):
        return self.child.poll() is None

    def send_signal(self, number):
        if self.alive():
            self.child.send_signal(number)

    def wait(self, timeout=TIMEOUT):
        """Awaits the end of the program and of its output. Returns the exit status."""
        try:
            status = self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.child.args[0]} did not end; so far:\n{self._tail()}")
        for reader in self.readers:
            reader.join(TIMEOUT)
        return status

    def stop(self, number=signal.SIGTERM):
        self.send_signal(number)
        return self.wait()

    def kill(self):
        return self.stop(signal.SIGKILL)

    def rss(self):
        """Resident memory in bytes."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


class Mosquitto:
    """Debian's broker. stop() and start() again keep port and configuration."""

    def __init__(self, directory, port, lines, listener):
        self.port = port
        self.process = None
        self.config = directory / f"mosquitto-{port}.conf"
        head = [f"listener {port} 127.0.0.1", "allow_anonymous true"] if listener else []
        self.config.write_text(
            "\n".join(["user root", "log_dest stderr", "log_type all", *head, *lines]) + "\n"
        )

    def start(self):
        self.process = Process(["/usr/sbin/mosquitto", "-c", self.config])
        until(lambda: port_is_open(self.port) or not self.process.alive(), "mosquitto")
        assert self.process.alive(), self.process.text()
        return self

    def stop(self):
        self.process.stop()

    def kill(self):
        self.process.kill()


def conf_value(value):
    """A value as libconfig writes it; a dict is a group, a list of dicts a list."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}L" if abs(value) >= 1 << 31 else str(value)
    if isinstance(value, dict):
        return "{ " + "".join(f"{k} = {conf_value(v)}; " for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "( " + ", ".join(conf_value(v) for v in value) + " )"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


class Broker:
    """`tocsin run` with a `broker` group that listens on 127.0.0.1:port. stop() and start() again keep both."""

    name = "tocsin"

    def __init__(self, process, program, directory, port, options, extra):
        self.run, self.program, self.port = process, program, port
        self.process = None
        self.config = directory / f"broker-{port}.conf"
        group = {"listeners": [{"port": port, "bind": "127.0.0.1"}], **options}
        self.config.write_text(f"broker = {conf_value(group)};\n{extra}\n")

    def start(self, env=None):
        end = time.monotonic() + TIMEOUT
        while True:  # a client of somebody may have been given the port while this was not running
            self.process = self.run([self.program, "run", "-c", self.config], env=env)
            line, _ = self.process.wait_line(lambda line: "running" in line or "Address already in use" in line)
            if "running" in line or time.monotonic() > end:
                break
            self.process.wait()
        until(lambda: port_is_open(self.port) or not self.process.alive(), "the broker's listener")
        assert self.process.alive(), self.process.text()
        return self

    def stop(self):
        """Asks it to end and returns its exit status; a sanitizer's complaint makes that another than 0."""
        return self.process.stop()

    def kill(self):
        self.process.kill()

    def rss(self):
        return self.process.rss()


class Client:
    """A paho client on a thread of its own; `messages` is a queue of paho's messages."""

    def __init__(self, port, client_id="", v5=True, username=None, password=None, clean=True, **more):
        self.messages = queue.Queue()
        version = paho.MQTTv5 if v5 else paho.MQTTv311
        options = {} if v5 else {"clean_session": clean}
        self.paho = paho.Client(client_id=client_id, protocol=version, **options)
        if username is not None:
            self.paho.username_pw_set(username, password)
        up = threading.Event()
        self.reason = None

        def connected(client, context, flags, reason, properties=None):
            self.reason = reason
            up.set()

        self.acks = {}
        self.news = threading.Condition()

        def acknowledged(kind):
            def callback(client, context, mid, *rest):
                with self.news:
                    self.acks[kind, mid] = rest
                    self.news.notify_all()

            return callback

        self.paho.on_connect = connected
        self.paho.on_message = lambda client, context, message: self.messages.put(message)
        self.paho.on_publish = acknowledged("publish")
        self.paho.on_subscribe = acknowledged("subscribe")
        if v5:
            more.setdefault("clean_start", clean)
        self.paho.connect("127.0.0.1", port, **more)
        self.paho.loop_start()
        assert up.wait(TIMEOUT), "no CONNACK"

    def _await(self, kind, mid):
        with self.news:
            assert self.news.wait_for(lambda: (kind, mid) in self.acks, TIMEOUT), f"no answer to {kind}"

    def subscribe(self, *filters, qos=1):
        for text in filters:
            _, mid = self.paho.subscribe(text, qos)
            self._await("subscribe", mid)
        return self

    def publish(self, topic, payload=b"", qos=1, retain=False, properties=None):
        """Publishes and awaits the acknowledgement (QoS 0: the write)."""
        info = self.publish_soon(topic, payload, qos, retain, properties)
        self._await("publish", info.mid)

    def publish_soon(self, topic, payload=b"", qos=1, retain=False, properties=None):
        return self.paho.publish(topic, payload, qos, retain, properties)

    def get(self, timeout=TIMEOUT):
        try:
            return self.messages.get(timeout=timeout)
        except queue.Empty:
            pytest.fail("no message came")

    def stop(self):
        self.paho.disconnect()
        self.paho.loop_stop()


def publish_properties(user=(), **values):
    """Properties of a PUBLISH: publish_properties(ContentType="text/plain", user=[("a", "b")])."""
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        setattr(properties, name, value)
    if user:
        properties.UserProperty = list(user)
    return properties


@pytest.fixture(scope="session")
def build():
    """The directory that the programs under test were built to."""
    path = pathlib.Path(os.environ.get("TOCSIN_BUILD", "build/release"))
    return path if path.is_absolute() else ROOT / path


def port_for_now():
    return ports.free_port()


@pytest.fixture
def free_port():
    """free_port() gives a TCP port on which nobody listens."""
    return port_for_now


@pytest.fixture
def process():
    """process(argv, stdin=False, env=None) starts a program; what still runs at the end is ended."""
    started = []

    def start(argv, **options):
        started.append(Process(argv, **options))
        return started[-1]

    yield start
    for p in reversed(started):
        p.kill()


@pytest.fixture
def mosquitto(tmp_path, free_port):
    """mosquitto("line", ..., port=None, listener=True, start=True) starts a broker with these lines of
    configuration; without `listener` they must hold one for `port` themselves."""
    made = []

    def make(*lines, port=None, listener=True, start=True):
        broker = Mosquitto(tmp_path, port or free_port(), lines, listener)
        made.append(broker)
        return broker.start() if start else broker

    yield make
    for broker in made:
        if broker.process:
            broker.kill()


@pytest.fixture
def broker(process, build, tmp_path, free_port):
    """broker(workers=2, max_queued_messages=10, ...) starts tocsin as a broker with these options, on one port of
    127.0.0.1 unless `listeners` says more, and `extra` as further text of its configuration. It must end with
    status 0 when the test is over, if it still runs."""
    made = []

    def make(port=None, extra="", start=True, **options):
        made.append(Broker(process, build / "tocsin", tmp_path, port or free_port(), options, extra))
        return made[-1].start() if start else made[-1]

    yield make
    for b in made:
        if b.process and b.process.alive():
            assert b.stop() == 0, b.process.text()


@pytest.fixture
def durable(broker, mosquitto, build, tmp_path):
    """durable(how="killed", store=True, start=True, disk=False, max_queued_messages=10, ...) starts a broker that keeps what it
    has on disk; see durable.py."""
    from durable import make  # which needs this file

    return lambda **options: make(broker, mosquitto, build, tmp_path, **options)


@pytest.fixture
def client():
    """client(port, ...) connects a paho client; see Client."""
    made = []

    def connect(port, *args, **options):
        made.append(Client(port, *args, **options))
        return made[-1]

    yield connect
    for c in made:
        c.stop()
