# SPDX-License-Identifier: MIT
"""One run of the model: clients that do what chance says, and at the end the question whether all was right.

What is done depends on the seed alone, not on what comes when; so a seed repeats a run, up to the timing.
"""

import random
import select
import time
from dataclasses import dataclass

from . import wire
from .peer import CONNECTING, DOWN, UP, Peer
from .truth import NEVER, NO, Message, Truth

TOPICS = ["t/a", "t/a/x", "t/a/y", "t/b/x", "t/b/y"]
FILTERS = ["t/#", "t/+/x", "t/a/#", "t/a/x", "t/b/y", "+/a", "t/+/+", "t/+/#", "#/t/a/x"]
SHARED_TOPICS = ["s/1", "s/2"]
SHARES = [("g1", "s/#"), ("g1", "s/+"), ("g2", "s/#")]
FOREVER = 0xFFFFFFFF
TIMEOUT = 60  # seconds in which a broker that works answers; never a measure of speed


class Stuck(Exception):
    """An answer that must come does not."""


@dataclass
class Knows:
    """What to expect of a broker where the specification leaves a choice, or where it is known to be wrong."""

    copies: str = "one"
    share: str = "moves"
    loose: bool = False
    receive_maximum: bool = True
    take_over_reason: bool = True
    shared_retained: bool = False
    no_local: bool = True  # else it is not asked for
    take_over_will: bool = True  # whether the will of a connection that is taken over is published


class World:
    def __init__(self, port, seed, clients=6, steps=150, knows=None, run=None, trace=None, disk=None):
        self.disk = disk  # of a broker that keeps sessions there
        self.port, self.seed, self.knows = port, seed, knows or Knows()
        self.run = f"{seed}" if run is None else run
        self.random = random.Random(seed)
        self.steps, self.now, self.number = steps, 0, 0
        self.truth = Truth(self.knows.copies, self.knows.loose, self.knows.share, self.knows.shared_retained)
        self.log = trace
        self.big = self.random.random() < 0.2  # payloads that fill socket buffers
        # The kinds of client are part of the seed.
        self.peers = [Peer(self, f"c{self.run}-{i}", self.random.random() < 0.6) for i in range(clients)]
        self.ever = {p: 0 if self.random.random() < 0.25 else FOREVER for p in self.peers}  # expiry that is preferred

    def tick(self):
        self.now += 1
        return self.now

    def trace(self, peer, what):
        if self.log is not None:
            self.log.append(f"{self.now:6} {peer.name} {what}")

    # ---- Names

    def topic(self, text):
        return f"+{text[1:]}" if text.startswith("#/") else f"r{self.run}/{text}"

    def message(self, peer, topic, qos, retain, empty=False, will=False):
        """A message that is about to be published, and its payload."""
        self.number += 1
        m = Message(self.number, peer.name, self.topic(topic), qos, retain, empty, will=will)
        fill = self.random.choice([0, 0, 3000, 9000]) if self.big else self.random.choice([0, 0, 0, 200])
        payload = b"" if empty else f"{self.run}/{m.number}/".encode() + b"." * fill
        return m, payload

    def number_of(self, payload, props):
        """The number of a message that came, None if it tells none."""
        user = dict(props.get(wire.USER, ()))
        run, number, _ = (payload.split(b"/", 2) + [b"", b""])[:3]
        if run != self.run.encode() or not number.isdigit():
            return None
        if b"n" in user and user[b"n"] != number:
            self.truth.error(f"user property {user[b'n']} with the payload {payload[:20]}")
        return int(number)

    def clearing(self, topic):
        """A message without payload tells no number; somebody must have published it."""
        if topic.startswith(f"r{self.run}/") and not any(
                m.empty and m.topic == topic and m.begin < NEVER for m in self.truth.messages.values()):
            self.truth.error(f"an empty message at {topic} that nobody published")

    # ---- The network

    def pump(self, wait=0.0):
        """Handles what has come; waits for something if there is nothing. Returns whether anything came."""
        watched = {}
        for p in self.peers:
            for sock, *_ in p.old[:1]:
                watched[sock.fileno()] = (p, select.POLLIN)
            if p.sock and not p.old:
                events = 0 if p.paused else select.POLLIN
                watched[p.sock.fileno()] = (p, events | (select.POLLOUT if p.output else 0))
            elif p.sock and p.output:
                watched[p.sock.fileno()] = (p, select.POLLOUT)
        poll = select.poll()
        for fd, (_, events) in watched.items():
            poll.register(fd, events)
        came = False
        for fd, events in poll.poll(wait * 1000):
            p = watched[fd][0]
            if events & select.POLLOUT and p.sock and p.sock.fileno() == fd:
                p.flush()
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                came |= p.read()
        return came

    def until(self, condition, what):
        end = time.monotonic() + TIMEOUT
        while not condition():
            self.pump(0.5)
            if time.monotonic() > end:
                raise Stuck(f"waited in vain for {what} (tick {self.now})")
            if self.truth.errors and any(p.state == DOWN for p in self.peers):
                raise Stuck(f"{what}: a connection was lost (tick {self.now})")

    def await_up(self, peer):
        peer.paused = False
        self.until(lambda: peer.state == UP, f"the CONNACK of {peer.name}")

    def quiet(self):
        """Awaits that everything has come that is on its way: two rounds of pings without anything new."""
        up = [p for p in self.peers if p.state != DOWN]
        for p in up:
            self.await_up(p)
            p.eager = True
            p.acknowledge()
        rounds = 0
        while rounds < (3 if self.disk else 2):
            if self.disk:
                self.disk.wait()
            before = sum(len(s.receptions) for s in self.truth.sessions), sum(len(p.outgoing) for p in up)
            for p in up:
                p.ping()
            self.until(lambda: not any(p.pings for p in up), "the answers to pings")
            after = sum(len(s.receptions) for s in self.truth.sessions), sum(len(p.outgoing) for p in up)
            busy = any(p.outgoing or p.requests or p.window or p.incoming for p in up)
            rounds = rounds + 1 if before == after and not busy else 0
            if busy:
                self.until(lambda: not any(p.outgoing or p.requests for p in up), "acknowledgements")
        return self.tick()

    def barrier(self):
        begin = self.quiet()
        self.quiet()
        self.truth.barriers.append((begin, self.tick()))

    # ---- What clients do

    def step(self):
        r = self.random
        p = r.choice(self.peers)
        if p.state == DOWN:
            if r.random() < 0.5:
                self.connect(p)
            return
        doing = r.random()
        if doing < 0.45:
            self.publish(p)
        elif doing < 0.58:
            self.subscribe(p)
        elif doing < 0.63:
            self.unsubscribe(p)
        elif doing < 0.68:
            self.drop(p)
        elif doing < 0.71:
            self.await_up(p)
            p.leave(r.random() < 0.3)
            self.until(lambda: p.state == DOWN, f"the end of {p.name}'s connection")
        elif doing < 0.74:
            self.connect(p)  # takes itself over
        elif doing < 0.79:
            p.eager = not p.eager
        elif doing < 0.86:
            p.acknowledge(r.randint(1, 5))
        elif doing < 0.90:
            self.await_up(p)
            p.ping()
        elif doing < 0.93:
            p.paused = not p.paused and p.state == UP
        elif doing < 0.935:
            self.barrier()
        else:
            for _ in range(r.randint(1, 20)):
                self.pump(0.001)

    def connect(self, p):
        r = self.random
        if self.knows.loose and p.state == CONNECTING:
            self.await_up(p)  # two connections of a client may become known in any order
        expiry = self.ever[p] if r.random() < 0.8 else FOREVER - self.ever[p]
        will = None
        if r.random() < 0.4:
            will = self.message(p, r.choice(TOPICS + SHARED_TOPICS), r.randint(0, 2), r.random() < 0.3, will=True)
            self.truth.messages[will[0].number] = will[0]
        p.connect(r.random() < 0.15, expiry, will, r.choice([1, 2, 5, 20, 100, 65535]), r.choice([0, 0, 3]),
                  r.choice([None, 4096]))
        if r.random() < 0.05 and not self.knows.loose:
            p.drop()
        elif r.random() < 0.7:
            self.await_up(p)

    def drop(self, p):
        r = self.random
        tail = b""
        if self.knows.loose:
            self.await_session(p)
        if p.state == UP and r.random() < 0.3:  # in the middle of a packet
            m, payload = self.message(p, r.choice(TOPICS), r.randint(0, 2), False)
            whole = wire.publish(p.v5, m.topic, payload, m.qos, False, False, 77)
            tail = whole[:r.randint(1, len(whole) - 1)]
            m.begin, m.fate = self.now, NO
            self.truth.messages[m.number] = m
        p.drop(tail)

    def publish(self, p):
        r = self.random
        self.await_session(p)
        for _ in range(r.choice([1, 1, 1, 2, 4, 8])):
            qos = r.randint(0, 2)
            if qos and len(p.outgoing) >= p.their_maximum:
                p.paused = False
                self.until(lambda: len(p.outgoing) < p.their_maximum, "acknowledgements")
            retain = r.random() < 0.2
            topic = r.choice(TOPICS) if r.random() < 0.75 else r.choice(SHARED_TOPICS)
            m, payload = self.message(p, topic, qos, retain, empty=retain and r.random() < 0.3)
            p.publish(m, payload, r.random() < 0.3)

    def await_session(self, p):
        if p.state == CONNECTING:
            self.await_up(p)

    def subscribe(self, p):
        r = self.random
        self.await_session(p)
        if r.random() < 0.3:
            share, text = SHARES[self.peers.index(p) % 3]
            wanted = [dict(filter=self.topic(text), share=share, qos=r.randint(0, 2), no_local=False, rap=False, rh=0)]
        else:
            wanted = [dict(filter=self.topic(text), share="", qos=r.randint(0, 2),
                           no_local=p.v5 and r.random() < 0.2 and self.knows.no_local,
                           rap=p.v5 and r.random() < 0.3, rh=r.choice([0, 0, 1, 2]) if p.v5 else 0)
                      for text in r.sample(FILTERS, r.choice([1, 1, 2, 3]))]
        p.subscribe(wanted)

    def unsubscribe(self, p):
        self.await_session(p)
        keys = sorted(key for key, versions in p.session.subscriptions.items()
                      if any(s.leave == NEVER for s in versions))
        chosen = self.random.random()
        if keys:
            p.unsubscribe(keys[int(chosen * len(keys))])

    # ---- The whole

    def play(self):
        """Returns what was wrong."""
        try:
            for _ in range(self.steps):
                self.step()
                self.pump()
                if self.truth.errors:
                    break
            if not self.truth.errors:
                self.finish()
                self.truth.check()
        except Stuck as e:
            self.truth.error(str(e))
        finally:
            for p in self.peers:
                for sock in [s for s, *_ in p.old] + ([p.sock] if p.sock else []):
                    sock.close()
        return self.truth.errors

    def finish(self):
        """All come back, tell each other the end, and have everything; one that is new asks what is retained."""
        for p in self.peers:
            if p.state == DOWN:
                p.connect(False, FOREVER, None, 65535, 0)
            self.await_up(p)
            p.eager = True
            p.acknowledge()
        self.quiet()
        for p in self.peers:
            p.subscribe([dict(filter=self.topic("end"), share="", qos=1, no_local=False, rap=False, rh=2)])
        self.quiet()
        for p in self.peers:
            m, payload = self.message(p, "end", 1, False)
            p.publish(m, payload, False)
        self.barrier()
        asker = Peer(self, f"c{self.run}-asker", True)
        self.peers.append(asker)
        asker.connect(True, 0, None, 65535, 0)
        self.await_up(asker)
        asker.subscribe([dict(filter=self.topic("#"), share="", qos=2, no_local=False, rap=True, rh=0)])
        self.quiet()
        kept = {r.topic: r.message for r in asker.session.receptions if r.retain}
        self.truth.check_kept(kept)
        self.truth.sessions.remove(asker.session)
        self.clear(asker, kept)

    def clear(self, asker, kept):
        """Leaves nothing behind for the next run."""
        asker.unsubscribe(self.topic("#"))
        for p in self.peers[:-1]:
            p.leave(False)
        self.until(lambda: all(p.state == DOWN for p in self.peers[:-1]), "the end of connections")
        for topic in kept:
            asker.publish(Message(0, asker.name, topic, 1, True, True), b"", False)
        for p in self.peers[:-1]:
            if p.expiry:
                p.connect(True, 0, None, 65535, 0)
        self.until(lambda: not asker.outgoing and all(p.state != CONNECTING for p in self.peers), "the last answers")
        self.truth.messages.pop(0, None)
