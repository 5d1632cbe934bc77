# SPDX-License-Identifier: MIT
"""What the tests of the broker's memory on disk share: a broker that ends in one way or another and starts again on the
same port, and clients who speak packets by hand, since what a library hides is what matters here.

Two more ways to run them show whether a test itself is right: DURABLE_BROKER=mosquitto, Debian's broker, always ended
cleanly; and DURABLE_BROKER=lasting, a broker that keeps nothing, but is not ended either: it only loses its connections.
"""

import contextlib
import os
import pathlib
import socket
import sqlite3
import struct
import sys
import time

import pytest
from conftest import TIMEOUT, until
from preloaded import preloaded

WIRE = pathlib.Path(__file__).resolve().parents[1] / "wire"
sys.path.insert(0, str(WIRE))

import packet  # noqa: E402

BY_MOSQUITTO = os.environ.get("DURABLE_BROKER") == "mosquitto"
LASTING = os.environ.get("DURABLE_BROKER") == "lasting"
SANITIZED = any(name in os.environ.get("TOCSIN_BUILD", "") for name in ("asan", "tsan"))
DAY = 86400
PINGREQ = b"\xc0\x00"

# Twice each: what SIGKILL must not lose, a clean end must not lose either.
twice = pytest.mark.parametrize("how", ["killed", "ended"])


def by(text):
    return text.encode() if isinstance(text, str) else text


class Ended(Exception):
    """The server has closed the connection."""


class Wire:
    """One connection, from CONNECT to its end. Session Expiry Interval of a day unless `expiry` says else; on level 4, a
    session that stays unless `clean`. `present` is what CONNACK said. `will` is (topic, payload) or a dict of the
    fields of CONNECT and `props`. Each packet that comes is checked as strictly as packet.decode() does."""

    def __init__(self, port, client, level=5, clean=0, expiry=DAY, will=None, props=(), connect=True, **fields):
        self.client, self.level = client, level
        self.data, self.at, self.last_pid = bytearray(), 0, 0
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(will, tuple):
            will = {"topic": will[0], "payload": will[1]}
        will = dict(will or {})
        f = {"client": by(client), "clean": clean, "level": level, "keepalive": 0, "props": list(props),
             "will-props": will.pop("props", []), **fields,
             **{f"will-{name}": by(value) for name, value in will.items()}}
        if level == 5:
            f["props"].append(("session-expiry-interval", expiry))
        self.write(packet.encode("CONNECT", f, level))
        if connect:
            self.connected()

    def connected(self):
        connack = self.get("CONNACK", code=0)
        self.present = connack["session"]
        self.properties = dict(connack["props"])
        return self

    # ---- Bytes

    def write(self, data):
        self.socket.sendall(data)

    def send(self, kind, **f):
        f.setdefault("props", [])
        self.write(packet.encode(kind, f, self.level))

    def read_more(self, timeout):
        self.socket.settimeout(timeout)
        try:
            more = self.socket.recv(1 << 18)
        except ConnectionResetError:
            more = b""
        except TimeoutError:
            pytest.fail(f"{self.client}: nothing came for {timeout} s")
        if not more:
            raise Ended(f"{self.client}: closed")
        if self.at > 1 << 20:
            del self.data[:self.at]
            self.at = 0
        self.data += more

    def one(self):
        """(kind, fields) of a packet that is there as a whole, else None."""
        length, shift, at = 0, 0, self.at + 1
        while True:
            if at >= len(self.data):
                return None
            byte = self.data[at]
            at += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if len(self.data) < at + length:
            return None
        first, body = self.data[self.at], bytes(self.data[at:at + length])
        self.at = at + length
        return packet.decode(first, body, self.level)

    def receive(self, timeout=TIMEOUT):
        """(kind, fields) of the next packet; Ended at the end."""
        while not (got := self.one()):
            self.read_more(timeout)
        return got

    # ---- Packets

    def get(self, kind, **expected):
        """The next packet must be this one, with these fields. Returns its fields, and the properties in a dict too."""
        came, f = self.receive()
        wrong = {k: f.get(k) for k, v in expected.items() if f.get(k) != by(v)}
        assert came == kind and not wrong, f"{self.client}: expected {kind} {expected}, got {came} {str(f)[:300]}"
        f["properties"] = dict(f["props"])
        return f

    def nothing(self):
        """The server has no more for this connection (its worker has not): PINGRESP comes next."""
        self.write(PINGREQ)
        self.get("PINGRESP")

    def silent(self, *kinds):
        """Reads up to a PINGRESP. None of these kinds may have come; returns what has."""
        self.write(PINGREQ)
        got = []
        while (one := self.receive())[0] != "PINGRESP":
            got.append(one)
        assert not [one for one in got if one[0] in kinds], f"{self.client}: {str(got)[:300]}"
        return got

    def next_pid(self):
        self.last_pid = self.last_pid % 65535 + 1
        return self.last_pid

    def subscribe(self, *filters, identifier=None, wait=True, pid=None, **options):
        pid = pid or self.next_pid()
        options.setdefault("qos", 2)
        props = [("subscription-identifier", identifier)] if identifier else []
        self.send("SUBSCRIBE", pid=pid, props=props, filters=[{"filter": by(f), **options} for f in filters])
        if wait:
            self.get("SUBACK", pid=pid, codes=[options["qos"]] * len(filters))
        return self

    def unsubscribe(self, *filters, wait=True):
        pid = self.next_pid()
        self.send("UNSUBSCRIBE", pid=pid, filters=[{"filter": by(f)} for f in filters])
        if wait:
            self.get("UNSUBACK", pid=pid)

    def publish(self, topic, payload=b"", qos=1, wait=True, pid=None, props=(), **f):
        """Publishes; waits until it is acknowledged to the end. Returns the packet identifier."""
        pid = (pid or self.next_pid()) if qos else None
        self.send("PUBLISH", topic=by(topic), payload=by(payload), qos=qos, pid=pid, props=list(props), **f)
        if wait and qos == 1:
            assert self.get("PUBACK", pid=pid)["code"] < 0x80
        elif wait and qos == 2:
            assert self.get("PUBREC", pid=pid)["code"] < 0x80
            self.release(pid)
        return pid

    def release(self, pid):
        self.send("PUBREL", pid=pid)
        self.get("PUBCOMP", pid=pid)

    def publish_all(self, messages, window=500):
        """Publishes (topic, payload, qos) or (topic, payload, qos, props), many at a time, and waits for all
        acknowledgements to the end."""
        messages, open_ends, ended = iter(messages), set(), False
        window = min(window, self.properties.get("receive-maximum", window))
        while open_ends or not ended:
            burst = b""
            while not ended and len(open_ends) < window:
                one = next(messages, None)
                if one is None:
                    ended = True
                    break
                pid = self.next_pid()
                open_ends.add(pid)
                burst += packet.encode("PUBLISH", {"topic": by(one[0]), "payload": by(one[1]), "qos": one[2], "pid": pid,
                                                   "props": list(one[3]) if len(one) > 3 else []}, self.level)
            self.write(burst)
            answers = b""
            while open_ends:
                got = self.one()
                if not got:
                    if answers or (not ended and len(open_ends) < window):
                        break
                    self.read_more(TIMEOUT)
                    continue
                kind, f = got
                assert kind in ("PUBACK", "PUBREC", "PUBCOMP") and f["pid"] in open_ends, str(got)[:200]
                if kind == "PUBREC":
                    answers += packet.encode("PUBREL", {"pid": f["pid"], "props": []}, self.level)
                else:
                    open_ends.remove(f["pid"])
            if answers:
                self.write(answers)

    def take(self, **expected):
        """The next message, which is acknowledged to the end."""
        f = self.get("PUBLISH", **expected)
        if f["qos"] == 1:
            self.send("PUBACK", pid=f["pid"])
        elif f["qos"] == 2:
            self.send("PUBREC", pid=f["pid"])
            self.get("PUBREL", pid=f["pid"])
            self.send("PUBCOMP", pid=f["pid"])
        return f

    def answer(self, kind, f, released, messages):
        """The acknowledgement for a packet of the way here."""
        if kind == "PUBLISH":
            messages.append(f)
            if f["qos"] == 2:
                released.add(f["pid"])
            reply = {0: None, 1: "PUBACK", 2: "PUBREC"}[f["qos"]]
        else:  # perhaps of a connection before this one
            assert kind == "PUBREL", f"{self.client}: {kind} {f}"
            released.discard(f["pid"])
            reply = "PUBCOMP"
        return packet.encode(reply, {"pid": f["pid"], "props": []}, self.level) if reply else b""

    def take_all(self, count, more=False):
        """So many messages, acknowledged as they come; packets of several messages may mix. There may be `more`, which are
        not acknowledged."""
        messages, released, over = [], set(), 0
        while len(messages) < count or released:
            got, answers = self.receive(), b""
            while got:
                if len(messages) == count and got[0] == "PUBLISH":
                    over += 1
                else:
                    answers += self.answer(*got, released, messages)
                got = self.one()
            self.write(answers)
        assert more or not over, f"{over} messages more than {count}"
        return messages

    def pick(self):
        """All messages that are there for it now, acknowledged."""
        messages, released, more = [], set(), True
        while more or released:  # acknowledgements may bring more
            self.write(PINGREQ)
            more = False
            while (got := self.receive())[0] != "PINGRESP":
                self.write(self.answer(*got, released, messages))
                more = True
        return messages

    # ---- The end

    def drop(self):
        """Ends without DISCONNECT, and waits until the server has noticed."""
        self.socket.shutdown(socket.SHUT_WR)
        self.closed()

    def reset(self):
        """Ends at once, and does not wait."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def leave(self, **fields):
        """DISCONNECT, and waits until the server has closed."""
        self.send("DISCONNECT", **fields)
        self.closed()

    def closed(self):
        """Waits for the end of the connection. Returns what came before."""
        got = []
        try:
            while True:
                got.append(self.receive())
        except Ended:
            self.socket.close()
        return got


class Durable:
    """A broker that keeps things on disk. `mood` is that of its disk: well, full, broken, unsynced, torn."""

    def __init__(self, broker, build, folder, how):
        self.broker, self.how, self.folder = broker, how, folder
        self.mood_file = folder / "mood"
        self.mood("well")
        self.database = folder / "state" / "tocsin.db"
        self.env = preloaded(build, "disk", DISK_PATH=str(self.database), DISK_MOOD=str(self.mood_file))
        self.made, self.all = 0, []

    @property
    def port(self):
        return self.broker.port

    def start(self, disk=False, env=None):
        """With `disk`, on one that can fail. `env`: more of the environment."""
        if BY_MOSQUITTO:
            self.broker.start()
        elif not (LASTING and self.broker.process):
            self.broker.start(env={**(self.env if disk else {}), **(env or {})})
        return self

    def end(self):
        if LASTING:
            for wire in self.all:
                if wire.socket.fileno() >= 0:
                    wire.drop()
        elif self.how == "killed" and not BY_MOSQUITTO:
            self.broker.kill()
        elif BY_MOSQUITTO:
            self.broker.stop()
        else:
            assert self.broker.stop() == 0, self.said()
        for wire in self.all:
            wire.socket.close()
        self.all.clear()

    def restart(self, disk=False):
        self.end()
        return self.start(disk)

    def said(self):
        return self.broker.process.text()

    def mood(self, word):
        fresh = self.folder / "mood.new"
        fresh.write_text(word)
        fresh.rename(self.mood_file)

    def wire(self, client, *args, **options):
        self.all.append(Wire(self.port, client, *args, **options))
        return self.all[-1]

    def committed(self, workers=1):
        """Waits until all that has happened so far is on disk, if it has to be: SUBACK comes behind it. (With several
        workers, for enough client identifiers that each has one.)"""
        for _ in range(1 if workers == 1 else 8 * workers):
            self.made += 1
            w = Wire(self.port, f"committed-{self.made}")
            w.subscribe(f"nothing/{self.made}")
            w.leave(props=[("session-expiry-interval", 0)])

    def messages(self, client, count, level=5, **options):
        """Connects for the messages that wait, takes so many, makes sure that there are no more, and goes."""
        w = self.wire(client, level, **options)
        assert w.present == 1
        got = w.take_all(count)
        w.nothing()
        w.leave()
        self.committed()
        return got

    def change(self, *statements):
        """Changes the file while nobody has it open."""
        with contextlib.closing(sqlite3.connect(self.database)) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    def drain(self, wire):
        """All messages that wait for it, on disk too, acknowledged."""
        got, quiet = [], 0
        while quiet < 2:
            more = wire.pick()
            got += more
            quiet = 0 if more else quiet + 1
            self.committed()
        return got


def make(broker, mosquitto, build, folder, how="killed", store=True, start=True, disk=False, extra="", **options):
    """What the fixture `durable` gives."""
    if BY_MOSQUITTO:
        allowed = {name: value for name, value in options.items() if name.startswith("max_")}
        allowed.setdefault("max_queued_messages", 1000)
        lines = ["persistence true", f"persistence_location {folder}/", *(f"{k} {v}" for k, v in allowed.items())]
        made = Durable(mosquitto(*lines, start=False), build, folder, how)
    else:
        options = {"durability": "commit", **options}
        unused = ("durability", "will_grace") if LASTING else ()
        options = {name: value for name, value in options.items() if value is not None and name not in unused}
        state = folder / "state"
        state.mkdir(exist_ok=True)
        kept = f'store = {{ path = "{state}/tocsin.db"; }};\n' if store else ""
        made = Durable(broker(start=False, extra=kept + extra, **options), build, folder, how)
    return made.start(disk) if start else made


def payloads(messages):
    return [m["payload"] for m in messages]


def wait_seconds(seconds):
    """Only where the specification speaks of time, and nothing can tell that it has passed."""
    time.sleep(seconds)


__all__ = ["BY_MOSQUITTO", "DAY", "Durable", "Ended", "SANITIZED", "Wire", "make", "packet", "payloads", "twice", "until",
           "wait_seconds"]
