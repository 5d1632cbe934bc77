# SPDX-License-Identifier: MIT
"""A subscriber with a session that persists (MQTT 3.1.1): it comes and goes, and writes down what it was given."""

import bisect
import collections
import random
import select
import socket
import threading
import time

from publisher import packet, text


def read_packet(data):
    """(kind and flags, body, rest) of the first packet in `data`; None if it is not whole."""
    length, shift, at = 0, 0, 1
    while at < len(data):
        length |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return (data[0], data[at:at + length], data[at + length:]) if len(data) >= at + length else None
    return None


class Subscriber(threading.Thread):
    """Subscribes `filter`; `got` has (topic, payload, qos, dup, retain, time) in order of arrival, those of QoS 2 when they are
    new by the rules of MQTT; the time is that of the connection's begin, (before, after), which says which process has sent
    it: what is read may have been sent by one that has been killed since. `stay` says how long a connection lasts and `away`
    how long there is none after it: (least, most) seconds, or None for a connection as long as it holds. finish() lets it
    stay. `times` says when each of `got` came, and `history` what became of `ids`, for then()."""

    def __init__(self, name, port, qos, filter="in/#", stay=None, away=(0, 0), seed=0):
        super().__init__(daemon=True)
        self.name, self.port, self.qos, self.filter, self.stay, self.away = name, port, qos, filter, stay, away
        self.rng = random.Random(seed)
        self.got = []
        self.times, self.history = [], []
        self.ids = set()          # of QoS 2, received and not released
        self.subscribed_at = None  # when SUBACK had come
        self.connections = self.lost_sessions = 0
        self.problems = []
        self.staying = threading.Event()
        self.done = threading.Event()
        self.connected = threading.Event()

    def finish(self):
        self.staying.set()

    def then(self, moment, port):
        """One that was at that moment where this one was."""
        other = Subscriber(self.name, port, self.qos, self.filter)
        other.subscribed_at = self.subscribed_at
        count = bisect.bisect_right(self.times, moment)
        other.got, other.times = self.got[:count], self.times[:count]
        for t, mid, there in self.history:
            if t <= moment:
                (other.ids.add if there else other.ids.discard)(mid)
        return other

    def connect(self):
        before = time.monotonic()
        s = socket.create_connection(("127.0.0.1", self.port), timeout=2)
        self.since = before, time.monotonic()
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(packet(0x10, text(b"MQTT") + b"\x04\x00\x00\x00" + text(b"sub-" + self.name.encode())))
        return s

    def on_connack(self, s, body):
        if body[1] != 0:
            self.problems.append(f"CONNACK {body.hex()}")
            raise ConnectionError
        self.connections += 1
        if not body[0] & 1:
            self.ids.clear()
            if self.subscribed_at:
                self.lost_sessions += 1
                self.problems.append("its session is gone, with a subscription that was acknowledged")
        if not self.subscribed_at:
            s.sendall(packet(0x82, b"\x00\x01" + text(self.filter.encode()) + bytes([self.qos])))
        self.connected.set()

    def on_publish(self, flags, body):
        qos, dup, retain = flags >> 1 & 3, flags >> 3 & 1, flags & 1
        topic_len = int.from_bytes(body[:2], "big")
        topic, rest = body[2:2 + topic_len].decode(), body[2 + topic_len:]
        mid, payload = rest[:2] if qos else b"", rest[2:] if qos else rest
        if qos < 2 or mid not in self.ids:
            self.got.append((topic, payload, qos, dup, retain, self.since))
            self.times.append(time.monotonic())
        if qos == 2:
            self.ids.add(mid)
            self.history.append((self.times[-1] if self.times else 0, mid, True))
        return b"" if qos == 0 else packet(0x40 if qos == 1 else 0x50, mid)

    def on_packet(self, s, kind, body):
        if kind >> 4 == 3:
            return self.on_publish(kind & 15, body)
        if kind >> 4 == 6:
            self.ids.discard(body[:2])
            self.history.append((time.monotonic(), body[:2], False))
            return packet(0x70, body[:2])
        if kind >> 4 == 2:
            self.on_connack(s, body)
        elif kind >> 4 == 9:
            if body[2] != self.qos:
                self.problems.append(f"SUBACK {body.hex()}")
            self.subscribed_at = self.subscribed_at or time.monotonic()
        return b""

    def converse(self, s):
        data, end = b"", time.monotonic() + (self.rng.uniform(*self.stay) if self.stay else 1e9)
        while not self.done.is_set() and (self.staying.is_set() or time.monotonic() < end):
            if not select.select([s], [], [], 0.005)[0]:
                continue
            more = s.recv(65536)
            if not more:
                raise ConnectionError
            data += more
            answers = b""
            while data and (one := read_packet(data)):
                kind, body, data = one
                answers += self.on_packet(s, kind, body)
            if answers:
                s.sendall(answers)
        # Half of the time it says goodbye.
        if self.rng.random() < 0.5:
            s.sendall(b"\xe0\x00")

    def run(self):
        while not self.done.is_set():
            try:
                with self.connect() as s:
                    self.converse(s)
                self.staying.wait(self.rng.uniform(*self.away))
            except OSError:
                self.done.wait(0.02)
            self.connected.clear()


class Account:
    """What subscribers were given, against what publishers were told. A message of QoS 1 may come again: when its publisher
    sent it again, when the broker says that it does (DUP), or when the process died in between. So in one life each comes as
    often without DUP as its publisher has sent it, and not more often."""

    def __init__(self, kills, several_workers=False, wills=None):
        self.kills = kills  # times
        self.wills = wills or {}  # how many had which fate
        self.several_workers = several_workers
        self.lost, self.doubled, self.disorder = [], [], []
        self.deliveries = self.again = self.marked = self.by_publisher = self.by_kill = self.crossed = 0

    def life(self, since):
        """The life that a connection belongs to. One that began about the time of a kill may be of either, so it is taken
        for one of its own."""
        before, after = (bisect.bisect(self.kills, t) for t in since)
        return before if before == after else since

    def add(self, subscriber, publishers):
        seen = collections.defaultdict(list)
        for i, (_, payload, _, dup, _, since) in enumerate(subscriber.got):
            name, number, *_ = payload.decode().split(" ")
            seen[name, int(number)].append((i, dup, self.life(since)))
        self.deliveries += len(subscriber.got)
        for p in publishers:
            qos = min(p.qos, subscriber.qos)
            if qos:
                self.lost += [(subscriber.name, p.name, n) for n in p.acked
                              if p.first[n] > subscriber.subscribed_at and (p.name, n) not in seen]
                places = [(seen[p.name, n][0][0], n) for n in range(1, p.number + 1) if (p.name, n) in seen]
                self.disorder += [(subscriber.name, p.name, n, m) for (a, n), (b, m) in zip(places, places[1:]) if b < a]
            for n in range(1, p.number + 1):
                if len(seen.get((p.name, n), ())) > 1:
                    self.explain(subscriber, p, n, seen[p.name, n], qos)

    def explain(self, subscriber, p, n, several, qos):
        if qos == 2 and self.several_workers and p.sent[n] > 1:
            # The message is one worker's to keep, the identifier that it came with another's: they are not committed as one.
            self.crossed += len(several) - 1
            return
        if qos != 1:
            self.doubled.append((subscriber.name, p.name, n, len(several), f"QoS {qos}"))
            return
        self.again += len(several) - 1
        self.marked += sum(dup for _, dup, _ in several[1:])
        fresh = collections.Counter(life for _, dup, life in several if not dup)
        self.by_kill += max(len(fresh) - 1, 0)
        self.by_publisher += sum(fresh.values()) - len(fresh)
        if max(fresh.values(), default=0) > p.sent[n]:
            self.doubled.append((subscriber.name, p.name, n, f"QoS 1, without DUP, sent {p.sent[n]} times",
                                 [(str(life), dup) for _, dup, life in several]))

    def report(self):
        return (f"{self.deliveries} messages to subscribers, {len(self.lost)} lost, {len(self.disorder)} out of order, "
                f"{len(self.doubled)} twice without a reason; QoS 1 again: {self.again} ({self.marked} with DUP, {self.by_kill} "
                f"after a kill, {self.by_publisher} sent again by the publisher)" +
                (f", QoS 2 from one worker to another again: {self.crossed}" if self.several_workers else "") +
                "; wills: " + ", ".join(f"{self.wills.get(fate, 0)} {fate}" for fate in ("must", "never", "may")))

    def check(self):
        assert not self.lost, f"lost: {self.lost[:20]} of {len(self.lost)}"
        assert not self.doubled, f"twice: {self.doubled[:20]} of {len(self.doubled)}"
        assert not self.disorder, f"out of order: {self.disorder[:20]} of {len(self.disorder)}"
