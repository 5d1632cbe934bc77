# SPDX-License-Identifier: MIT
"""Clients that die, and whose wills have to be heard of, or must not be.

The rule, of a connection with a will that the broker is known to have on disk (something was acknowledged to its client that
waits for the commit, and came behind CONNECT):

  must    It ended without DISCONNECT, by the client's own hand or because the broker was killed, and the client stays away:
          the will is published, when its delay is over, and after a kill not before `will_grace` after a start either. It comes
          to every session that is subscribed, in order, and with one worker once at QoS 2.
  never   The client has said DISCONNECT, and what came behind that in its worker was acknowledged: so its end was on disk.
          Or it always comes back before the delay is over.
  may     All else: nobody was told whether the broker knew.

The retained message of a topic of wills is the last one that came.
"""

import collections
import random
import socket
import threading
import time

from publisher import packet, text
from subscriber import Subscriber, read_packet

DAY, HOUR = 86400, 3600
FILTER = "will/#"

# name: level, whether the session stays, delay in seconds, QoS, whether the will is retained. Those with an hour come back.
KINDS = {
    "old": (4, True, 0, 1, False),
    "old-clean": (4, False, 0, 1, True),
    "at-once": (5, True, 0, 2, True),
    "clean": (5, False, 0, 2, False),
    "later": (5, True, 1, 1, True),
    "clean-later": (5, False, 2, 2, False),
    "back": (5, True, HOUR, 1, False),
    "back-2": (5, True, HOUR, 2, True),
}


class Mortal(threading.Thread):
    """`fates` has the fate of each of its connections; a will says "NAME CONNECTION". finish() makes it stay away."""

    def __init__(self, name, port, watch, workers=1, seed=0):
        super().__init__(daemon=True)
        self.name, self.port, self.watch, self.workers = name, port, watch, workers
        self.level, self.stays, self.delay, self.qos, self.retain = KINDS[name]
        self.rng = random.Random(f"{name} {seed}")
        self.number, self.fates, self.data = 0, {}, b""
        self.ending, self.done, self.problems = threading.Event(), threading.Event(), []

    def finish(self):
        self.ending.set()

    # ---- Packets

    def connect(self, client, number=0):
        """With a will, if there is a number."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.data = b""
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        flags = (0 if self.stays or not number else 2) | (number > 0 and 4 | self.qos << 3 | self.retain << 5)
        body = text(b"MQTT") + bytes([self.level, flags, 0, 0])
        if self.level == 5:
            body += b"\x05\x11" + (DAY if self.stays or not number else 0).to_bytes(4, "big")
        body += text(client.encode())
        if number:
            if self.level == 5:
                body += b"\x05\x18" + self.delay.to_bytes(4, "big")
            body += text(b"will/" + self.name.encode()) + text(b"%s %d" % (self.name.encode(), number))
        s.sendall(packet(0x10, body))
        if (code := self.answer(s, 2)[1]) != 0:
            self.problems.append(f"CONNACK {code}")
        return s

    def answer(self, s, kind):
        """The body of the next packet of this kind; others are for nobody."""
        while True:
            while not (found := read_packet(self.data)):
                more = s.recv(65536)
                if not more:
                    raise ConnectionError
                self.data += more
            first, body, self.data = found
            if first >> 4 == kind:
                return body

    def properties(self):
        return b"\x00" if self.level == 5 else b""

    def commit(self, s, stays):
        """Returns when what this connection's worker has noted so far is on disk."""
        if stays:
            s.sendall(packet(0x82, b"\x00\x01" + self.properties() + text(b"nothing/" + self.name.encode()) + b"\x00"))
            self.answer(s, 9)
        else:  # nothing of its own waits, but what it says to those who listen to wills does
            s.sendall(packet(0x32, text(b"will/armed") + b"\x00\x01" + self.properties() + b"armed 0"))
            self.answer(s, 4)

    # ---- Its lives

    def live(self):
        self.number += 1
        number = self.number
        self.fates[number] = "never" if self.delay == HOUR else "may"
        with self.connect(f"mortal-{self.name}", number) as s:
            self.commit(s, self.stays)
            if self.delay == HOUR:
                self.linger(s)
                return  # at times with a half-closed connection, at times not
            self.fates[number] = "must"
            if not self.linger(s) or self.rng.random() < 0.5:
                return
            self.fates[number] = "may"
            s.sendall(b"\xe0\x00")
            self.data = b""
            while s.recv(65536):
                pass
        # The server has closed, so it has read DISCONNECT. Others of the same worker wait for the same disk.
        for i in range(1 if self.workers == 1 else 8 * self.workers):
            with self.connect(f"proof-{self.name}-{i}") as s:
                self.commit(s, True)
        self.fates[number] = "never"

    def linger(self, s):
        """Stays for a while. Returns whether the connection has."""
        s.settimeout(self.rng.uniform(0.001, 1))
        try:
            while s.recv(65536):
                pass
        except TimeoutError:
            s.settimeout(20)
            return True
        except OSError:
            pass
        return False

    def run(self):
        while not self.ending.is_set():
            try:
                self.live()
            except OSError:
                self.done.wait(0.02)
            while self.fates[self.number] == "must" and not self.done.is_set() and (self.name, self.number) not in heard(self.watch):
                self.done.wait(0.05)
        self.done.set()


def heard(watch):
    """{(name, number): how often} of the wills that came."""
    words = (payload.decode().split(" ") for _, payload, *_ in list(watch.got))
    return collections.Counter((name, int(number)) for name, number in words if name != "armed")


class Wills:
    """All of them, and those who listen."""

    def __init__(self, port, workers, seed):
        self.port, self.workers = port, workers
        self.watches = [Subscriber(f"watch-{qos}", port, qos, filter=FILTER) for qos in (2, 1)]
        self.mortals = [Mortal(name, port, self.watches[0], workers, seed) for name in KINDS]

    def unheard(self):
        """What must be heard of and is not, with who has not."""
        counts = [(w.name, heard(w)) for w in self.watches]
        return [(who, m.name, n) for who, count in counts for m in self.mortals
                for n, fate in list(m.fates.items()) if fate == "must" and (m.name, n) not in count]

    def check(self, retained):
        """`retained`: {topic: payload}. Returns how many wills had which fate."""
        fates = collections.Counter(fate for m in self.mortals for fate in m.fates.values())
        for watch in self.watches:
            count = heard(watch)
            false = [(watch.name, *one) for one in count for m in self.mortals if m.name == one[0] and m.fates[one[1]] == "never"]
            assert not false, f"wills of those who live, or have said goodbye: {false[:20]} of {len(false)}"
            firsts = list(count)  # in order of their first arrival
            for m in self.mortals:
                numbers = [n for name, n in firsts if name == m.name]
                assert numbers == sorted(numbers), f"wills out of order: {m.name} {numbers}"
                last = b"%s %d" % (m.name.encode(), numbers[-1]) if m.retain and numbers else None
                assert retained.get(f"will/{m.name}") == last, f"{m.name}: {retained.get(f'will/{m.name}')} retained, not {last}"
            if watch.qos == 2 and self.workers == 1:
                twice = [one for one, n in count.items() if n > 1 and KINDS[one[0]][3] == 2]
                assert not twice, f"wills of QoS 2 twice: {twice[:20]} of {len(twice)}"
        problems = [f"{m.name}: {p}" for m in self.mortals for p in m.problems]
        assert not problems, problems[:10]
        return fates
