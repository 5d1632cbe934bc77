# SPDX-License-Identifier: MIT
"""MQTT clients of several makes behind one interface, so that a scenario is written once.

A driver is a process that holds clients; it is spoken with in lines of JSON, and so are most of them written:
paho_client.py, mqttjs_client.js, ../../tools/interop-client.c (libmosquitto). The commands mosquitto_sub and
mosquitto_pub are driven by cli.py, which offers the same methods. No client connects again by itself.

To a driver: {"n": 1, "verb": "connect", "client": "a", ...}; the answer has the same `n`, and `error` if it went
wrong. Verbs: connect, publish, unsubscribe, disconnect (with DISCONNECT), drop (without). What happens by itself
is an event: {"event": "message", "client": "a", "topic": ..., "payload": base64, "qos", "retain", "dup", "props"}, and
{"event": "down", "client": "a", "reason": n} when the broker ended the connection.
"""

import base64
import itertools
import json
import queue
import subprocess
import threading
from dataclasses import dataclass, field

TIMEOUT = 60  # seconds that anything may take before the test fails; never a measure of speed


class Refused(Exception):
    """The client says that it did not work."""


@dataclass
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool = False
    props: dict = field(default_factory=dict)


@dataclass
class Filter:
    filter: str
    qos: int = 0
    no_local: bool = False
    rap: bool = False
    rh: int = 0
    id: int = 0


def publication(payload, props, **more):
    """A message to publish (or a will) as drivers take it."""
    return {"payload": base64.b64encode(payload).decode(), "props": props, **more}


class Client:
    """A connected client. get() gives its messages in order."""

    def __init__(self, driver, name, port, version):
        self.driver, self.name, self.port, self.version = driver, name, port, version
        self.messages, self.downs = queue.Queue(), queue.Queue()
        self.present = self.assigned = None
        self.granted = []

    def publish(self, topic, payload=b"", qos=0, retain=False, alias=0, repeat=1, **props):
        """Publishes `repeat` times and awaits the acknowledgements. With a topic alias, only the first has the topic."""
        self.driver.ask(self, "publish", topic=topic, qos=qos, retain=retain, alias=alias, repeat=repeat,
                        **publication(payload, props))

    def unsubscribe(self, text):
        self.driver.ask(self, "unsubscribe", filter=text)

    def disconnect(self):
        self.driver.ask(self, "disconnect")

    def drop(self):
        """Closes the connection without a DISCONNECT."""
        self.driver.ask(self, "drop")

    def get(self):
        try:
            return self.messages.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"no message came to {self.name}") from None

    def down(self):
        """Awaits that the broker ends the connection. Returns the reason of its DISCONNECT, 0 if there was none."""
        try:
            return self.downs.get(timeout=TIMEOUT)
        except queue.Empty:
            raise AssertionError(f"{self.name} was not disconnected") from None


class Driver:
    """A program that holds clients."""

    tells_session = True  # whether Client.present is known
    tells_down = True  # whether Client.down() works

    def __init__(self, name, argv, cwd=None):
        self.name, self.numbers, self.clients, self.answers = name, itertools.count(1), {}, {}
        self.news = threading.Condition()
        self.child = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for raw in self.child.stdout:
            line = json.loads(raw)
            event = line.pop("event", None)
            client = self.clients.get(line.pop("client", None))
            if event == "message":
                line["payload"] = base64.b64decode(line["payload"])
                line["props"]["user"] = [tuple(p) for p in line["props"].get("user", [])]
                client.messages.put(Message(**line))
            elif event == "down":
                client.downs.put(line["reason"])
            else:
                with self.news:
                    self.answers[line["n"]] = line
                    self.news.notify_all()
        with self.news:
            self.answers[None] = {"error": f"{self.name} ended"}
            self.news.notify_all()

    def ask(self, client, verb, **request):
        n = next(self.numbers)
        line = json.dumps({"n": n, "verb": verb, "client": client.name, **request}) + "\n"
        self.child.stdin.write(line.encode())
        self.child.stdin.flush()
        with self.news:
            assert self.news.wait_for(lambda: n in self.answers or None in self.answers, TIMEOUT), \
                f"{self.name}: no answer to {verb}"
            answer = self.answers.pop(n, None) or self.answers[None]
        if "error" in answer:
            raise Refused(f"{self.name}: {verb}: {answer['error']}")
        return answer

    def connect(self, port, client_id, *filters, version=5, clean=True, expiry=0, will=None, alias_max=0):
        """Connects and subscribes. `will` is what will() returns. On 3.1.1 a session outlives its connection
        unless it is clean, on 5 for `expiry` seconds."""
        client = Client(self, f"{client_id}#{next(self.numbers)}", port, version)
        self.clients[client.name] = client
        answer = self.ask(client, "connect", port=port, id=client_id, version=version, clean=clean, expiry=expiry,
                          filters=[vars(f) for f in filters], will=will, alias_max=alias_max)
        client.present, client.assigned = answer["present"], answer.get("assigned")
        client.granted = answer["granted"]
        return client

    def stop(self):
        self.child.stdin.close()
        try:
            self.child.wait(TIMEOUT)
        finally:
            self.child.kill()
        self.reader.join(TIMEOUT)


def will(topic, payload=b"", qos=0, retain=False, delay=0, **props):
    return publication(payload, props, topic=topic, qos=qos, retain=retain, delay=delay)
