# SPDX-License-Identifier: MIT
"""A publisher that never gives up: numbered messages, those of QoS 1 and 2 sent again after each lost connection, as MQTT
3.1.1 wants it, and a list of what was acknowledged."""

import collections
import select
import socket
import threading
import time


def text(s):
    return len(s).to_bytes(2, "big") + s


def packet(kind, body):
    head, n = bytearray([kind]), len(body)
    while True:
        n, low = divmod(n, 128)
        head.append(low | (128 if n else 0))
        if not n:
            return bytes(head) + body


class Publisher(threading.Thread):
    """Publishes b"NAME NUMBER" to the topic in/NAME, until finish(). What has been acknowledged (QoS 2: by PUBREC) is in
    `acked`, with the time; `sent` counts how often each number was put on the wire, `first` when it was first. `history` has
    what became of `flying`, so that then() can begin again as it was at a moment."""

    def __init__(self, name, port, qos, window=20, rate=300, pad=0):
        super().__init__(daemon=True)
        self.name, self.port, self.qos, self.window, self.rate = name, port, qos, window, rate
        self.pad = b"." * pad
        self.acked, self.sent, self.first = {}, collections.Counter(), {}
        self.order = []           # numbers in order of their acknowledgement, for each connection that lasted
        self.flying = collections.OrderedDict()  # packet identifier -> (number, whether it has been released)
        self.history = []         # (time, packet identifier, what it is in `flying`, None for nothing)
        self.number = 0
        self.last_mid = 0
        self.paused = self.ending = False
        self.problems = []
        self.done = threading.Event()

    def payload(self, number):
        return b"%s %d%s" % (self.name.encode(), number, b" " + self.pad if self.pad else b"")

    def finish(self):
        """Publishes nothing new; `done` is set when all is acknowledged."""
        self.ending = True

    def fly(self, mid, what):
        self.history.append((time.monotonic(), mid, what))
        if what:
            self.flying[mid] = what
        else:
            del self.flying[mid]

    def then(self, moment, port):
        """One that was at that moment where this one was, and only brings to an end what it had begun."""
        other = Publisher(self.name, port, self.qos)
        for t, mid, what in self.history:
            if t <= moment:
                other.fly(mid, what)
        other.ending = True
        return other

    def publish_packet(self, mid, number, dup):
        self.sent[number] += 1
        identifier = mid.to_bytes(2, "big") if self.qos else b""
        body = text(b"in/" + self.name.encode()) + identifier + self.payload(number)
        return packet(0x30 | dup << 3 | self.qos << 1, body)

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=2)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(packet(0x10, text(b"MQTT") + b"\x04\x00\x00\x00" + text(b"pub-" + self.name.encode())))
        got = b""
        while len(got) < 4:
            more = s.recv(4 - len(got))
            if not more:
                raise ConnectionError
            got += more
        if got[3] != 0:
            self.problems.append(f"CONNACK {got.hex()}")
            raise ConnectionError
        s.settimeout(20)
        again = b"".join(packet(0x62, mid.to_bytes(2, "big")) if released else self.publish_packet(mid, number, 1)
                         for mid, (number, released) in self.flying.items())
        s.sendall(again)
        return s

    def take(self, kind, mid):
        if mid not in self.flying:
            if kind != 7:
                self.problems.append(f"an answer of type {kind} to {mid}, which is not under way")
            return b""
        number, released = self.flying[mid]
        if kind in (4, 5) and not released:
            self.acked[number] = time.monotonic()
            self.order.append(number)
        if kind == 5:
            self.fly(mid, (number, True))
            return packet(0x62, mid.to_bytes(2, "big"))
        self.fly(mid, None)
        return b""

    def new_packets(self, now):
        out = b""
        while not self.ending and not self.paused and len(self.flying) < self.window and self.next_at <= now:
            self.last_mid = self.last_mid % 65535 + 1
            if self.last_mid in self.flying:
                break
            self.number += 1
            self.first[self.number] = now
            if self.qos:
                self.fly(self.last_mid, (self.number, False))
            out += self.publish_packet(self.last_mid, self.number, 0)
            self.next_at = max(self.next_at, now - 0.1) + 1 / self.rate
        return out

    def converse(self, s):
        data = b""
        while not (self.ending and not self.flying):
            out = self.new_packets(time.monotonic())
            if out:
                s.sendall(out)
            if not select.select([s], [], [], 0.005)[0]:
                continue
            more = s.recv(65536)
            if not more:
                raise ConnectionError
            data += more
            answers = b""
            while len(data) >= 4:  # every answer has four bytes
                answers += self.take(data[0] >> 4, int.from_bytes(data[2:4], "big"))
                data = data[4:]
            if answers:
                s.sendall(answers)
        s.sendall(b"\xe0\x00")

    def run(self):
        self.next_at = time.monotonic()
        while not self.done.is_set():
            try:
                with self.connect() as s:
                    self.converse(s)
                    self.done.set()
            except OSError:
                self.done.wait(0.02)
