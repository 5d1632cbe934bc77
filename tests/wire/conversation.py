# SPDX-License-Identifier: MIT
"""Plays a case against a broker: sends, reads, compares. One thread plays one case."""

import re
import select
import socket
import struct
import time

import packet
import values
from cases import DataError

OWN_TOPIC = re.compile(rb"tocsin/[^/]+/status$")
TIMEOUT = 60.0  # for what must come; what must not come is proven by a PINGRESP that comes first


class Failed(Exception):
    pass


def show(kind, f):
    text = []
    for key, value in f.items():
        if key == "props":
            text += [f"+{name}={value!r}" for name, value in value]
        elif isinstance(value, bytes) and len(value) > 80:
            text.append(f"{key}={value[:60]!r}...({len(value)} bytes)")
        else:
            text.append(f"{key}={value!r}")
    return " ".join([kind, *text])


class Peer:
    """One connection of a case: "A"."""

    def __init__(self, name, address, level, timeout):
        self.name, self.level, self.timeout = name, level, timeout
        self.socket = socket.create_connection(address, timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data, self.ended = b"", False
        self.optional = []        # what `A<opt` lines allow until the next expectation is met
        self.held = b""           # what `A>+` keeps back
        self.accepted = False     # a CONNACK of success came, and no DISCONNECT went
        self.limits = {}          # properties of the CONNECT that bind the server
        self.aliases = {}         # topic alias -> topic, from the server
        self.open = set()         # identifiers of the server's PUBLISH packets that are not acknowledged

    def send(self, data, split):
        try:
            for at in range(0, len(data), split or max(len(data), 1)):
                self.socket.sendall(data[at:at + split] if split else data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # closed already: what is expected next will tell whether it may

    def fill(self, deadline):
        """Reads some bytes. False at the end of the connection."""
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            more = self.socket.recv(1 << 20)
        except ConnectionResetError:
            more = b""
        except TimeoutError:
            raise Failed(f"{self.name}: nothing came for {self.timeout:.0f} s" + (f" after {self.data!r}" if self.data else "")) from None
        self.data += more
        self.ended = self.ended or not more
        return bool(more)

    def header(self):
        """(length of the fixed header, remaining length), None while it is not whole."""
        value = 0
        for i in range(1, min(len(self.data), 5)):
            value |= (self.data[i] & 0x7f) << 7 * (i - 1)
            if not self.data[i] & 0x80:
                if i > 1 and not self.data[i]:
                    raise packet.Malformed("remaining length longer than needed")
                return i + 1, value
        if len(self.data) >= 5:
            raise packet.Malformed("remaining length of more than 4 bytes")
        return None

    def receive(self):
        """(kind, fields) of the next packet, None when the server has closed. What the broker says of itself, which
        "#" brings along, is left out."""
        while (got := self.next_packet()) and got[0] == "PUBLISH" and OWN_TOPIC.match(got[1]["topic"]) \
                and not got[1]["qos"]:
            pass
        return got

    def next_packet(self):
        deadline = time.monotonic() + self.timeout
        while True:
            head = self.header()
            if head and len(self.data) >= sum(head):
                break
            if not self.fill(deadline):
                if self.data:
                    raise Failed(f"{self.name}: closed within a packet: {self.data[:40]!r}")
                return None
        first, body, self.data = self.data[0], self.data[head[0]:sum(head)], self.data[sum(head):]
        try:
            if sum(head) > (self.limits.get("maximum-packet-size") or sum(head)):  # 0 is no limit, but an error
                raise packet.Malformed(f"{sum(head)} bytes, more than the Maximum Packet Size")
            kind, f = packet.decode(first, body, self.level)
            if kind == "PUBLISH":
                self.take_alias(f)
            if kind in ("PUBLISH", "PUBREL") and f.get("pid"):
                self.take_identifier(kind, f["pid"])
            return kind, f
        except packet.Malformed as e:
            raise Failed(f"{self.name}: malformed: {e}: {bytes([first]).hex()} {body[:60].hex(' ')}") from None

    def take_alias(self, f):
        """Puts the topic in where the server gave only its alias."""
        alias = dict(f["props"]).get("topic-alias")
        if alias is None:
            if not f["topic"]:
                raise packet.Malformed("neither topic nor alias")
            return
        if not 0 < alias <= self.limits.get("topic-alias-maximum", 0):
            raise packet.Malformed(f"topic alias {alias}, outside of the Topic Alias Maximum")
        if not f["topic"] and alias not in self.aliases:
            raise packet.Malformed(f"topic alias {alias} stands for nothing")
        f["topic"] = self.aliases[alias] = f["topic"] or self.aliases[alias]

    def take_identifier(self, kind, pid):
        if kind == "PUBLISH" and pid in self.open:
            raise packet.Malformed(f"packet identifier {pid} is in use")
        self.open.add(pid)
        if len(self.open) > self.limits.get("receive-maximum", 65535):
            raise packet.Malformed("more messages than the Receive Maximum")

    def acknowledged(self, kind, f):
        """The client sends something; perhaps it ends a delivery of the server."""
        if kind in ("PUBACK", "PUBCOMP") or kind == "PUBREC" and f.get("code", 0) >= 0x80:
            self.open.discard(f["pid"])

    def close(self):
        self.socket.close()

    def shut(self):
        """Ends without DISCONNECT, and waits until the server has noticed."""
        deadline = time.monotonic() + self.timeout
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        while not self.ended:
            self.fill(deadline)
        self.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Conversation:
    def __init__(self, case, address, prefix, timeout=TIMEOUT, memory=lambda: None, strict=True):
        self.case, self.address, self.timeout, self.strict = case, address, timeout, strict
        self.scope = values.Scope(prefix)
        self.peers = {}
        self.memory, self.memory_before = memory, memory()  # MiB of the broker, None if it is not ours
        self.names = {}  # given by `either`: X -> A

    def peer(self, name):
        name = self.names.get(name, name)
        if name not in self.peers:
            self.peers[name] = Peer(name, self.address, self.case.level, self.timeout)
        return self.peers[name]

    def forget(self, peer):
        del self.peers[peer.name]

    def send(self, step):
        if step.verb in ("close", "reset", "open", "shut"):
            peer = self.peer(step.who)
            if step.verb == "close":
                peer.shut()
            elif step.verb == "reset":
                peer.reset()
            elif step.verb == "shut":
                peer.socket.shutdown(socket.SHUT_WR)
            if step.verb in ("close", "reset"):
                self.forget(peer)
            return
        peer, split = self.peer(step.who), 0
        if step.verb == "hex":
            data = self.scope.hex(step.rest)
        elif step.verb in packet.TYPES:
            fields = values.to_send(step, self.scope, peer.level)
            if step.verb == "CONNECT" and fields["level"] in (3, 4, 5):
                peer.level = fields["level"]
            if step.verb == "CONNECT":
                peer.limits = dict(fields["props"])
            if step.verb == "DISCONNECT":
                peer.accepted = False
            peer.acknowledged(step.verb, fields)
            split = fields.get("split", 0)
            data = packet.encode(step.verb, fields, peer.level)
        else:
            raise DataError(f"{step.verb}: no such packet")
        peer.held += data
        if step.mark != "+":
            peer.send(peer.held, split)
            peer.held = b""

    def expect_end(self, step):
        peer = self.peer(step.who)
        while (got := peer.receive()) is not None:
            if not self.allowed(peer, got):
                raise Failed(f"{step.who}: expected the end, got {show(*got)}")
        peer.close()
        self.forget(peer)

    def expect(self, steps):
        """One packet, or as many as there are in an unordered group, in whatever order."""
        peer, open_steps = self.peer(steps[0].who), list(steps)
        while open_steps:
            got = peer.receive()
            if got is None:
                raise Failed(f"{peer.name}: the server has closed, expected {open_steps[0].text}")
            reasons = []
            for step in open_steps:
                try:
                    if step.verb != got[0]:
                        raise values.Mismatch(f"not {step.verb}")
                    values.match(step, self.scope, peer.level, got[1])
                except values.Mismatch as e:
                    reasons.append(str(e))
                    continue
                open_steps.remove(step)
                break
            else:
                if self.allowed(peer, got):
                    continue
                raise Failed(f"{peer.name}: expected {' or '.join(s.text for s in open_steps[:3])}\n"
                             f"      got {show(*got)}\n      {'; '.join(reasons[:3])}")
            if got[0] == "CONNACK" and not got[1]["code"]:
                peer.accepted = True

    def allowed(self, peer, got):
        """Whether an `opt` line before this one covers what came."""
        for step in peer.optional:
            try:
                if step.verb != got[0]:
                    continue
                values.match(step, self.scope, peer.level, got[1])
            except values.Mismatch:
                continue
            peer.optional.remove(step)
            return True
        return False

    def nothing(self, peer):
        """The server has nothing more for this connection: the next thing it says is the answer to a ping."""
        peer.send(b"\xc0\x00", 0)
        while True:
            got = peer.receive()
            if got is None:
                raise Failed(f"{peer.name}: the server has closed")
            if got[0] == "PINGRESP":
                return
            if not self.allowed(peer, got):
                raise Failed(f"{peer.name}: expected nothing, got {show(*got)}")

    def check(self, name, sign, text):
        left = self.scope.variable(name)
        right = self.scope.variable(text[1:]) if text.startswith("$") else \
            int(text, 0) if isinstance(left, int) else self.scope.bytes(text)
        if (left == right) != (sign == "=="):
            raise Failed(f"${name} is {left!r}, expected {sign} {right!r}")

    def grown(self, limit):
        if self.memory_before is not None and (growth := self.memory() - self.memory_before) > limit:
            raise Failed(f"the broker has grown by {growth} MiB")

    def either(self, taker, other, one, two):
        """Waits until one of two connections has something to read, and names that one and the other."""
        peers = [self.peer(one), self.peer(two)]
        found = [peer for peer in peers if peer.data]
        if not found:
            ready = select.select([peer.socket for peer in peers], [], [], self.timeout)[0]
            found = [peer for peer in peers if peer.socket in ready]
        if not found:
            raise Failed(f"neither {one} nor {two} got anything for {self.timeout:.0f} s")
        self.names[taker], self.names[other] = (one, two) if found[0] is peers[0] else (two, one)

    def group(self, at):
        """How many steps from `at` are one unordered group."""
        steps, first, end = self.case.steps, self.case.steps[at], at + 1
        while first.mark == "?" and end < len(steps) and not isinstance(steps[end], tuple) \
                and (steps[end].who, steps[end].way, steps[end].mark) == (first.who, "<", "?"):
            end += 1
        return end - at

    def step(self, at):
        """Plays one step, or the whole unordered group that begins with it; returns how many that were."""
        step = self.case.steps[at]
        if isinstance(step, tuple):
            if step[0] == "wait":
                time.sleep(step[2])
            elif step[0] == "check":
                self.check(*step[2:])
            elif step[0] == "memory":
                self.grown(step[2])
            else:
                self.either(*step[2:])
            return 1
        if step.way == ">":
            self.send(step)
            return 1
        peer = self.peer(step.who)
        if step.mark == "opt" or step.mark == "!" and not self.strict:
            peer.optional.append(step)
            return 1
        count = 1
        if step.verb == "closed":
            self.expect_end(step)
        elif step.verb == "nothing":
            self.nothing(peer)
        elif step.verb in packet.TYPES:
            count = self.group(at)
            self.expect(self.case.steps[at:at + count])
        else:
            raise DataError(f"{step.verb}: no such packet")
        peer.optional.clear()
        return count

    def run(self):
        at = 0
        while at < len(self.case.steps):
            step = self.case.steps[at]
            where = step[1] if isinstance(step, tuple) else step.where
            try:
                at += self.step(at)
            except (Failed, packet.Malformed) as e:
                raise Failed(f"{where}: {'' if isinstance(step, tuple) else step.text}\n      {e}") from None
            except (DataError, OSError) as e:
                raise DataError(f"{where}: {e}") from None

    def play(self):
        """Plays all steps. At the end nobody may be left with something to read."""
        try:
            self.run()
            for peer in self.peers.values():
                if peer.accepted:
                    try:
                        self.nothing(peer)
                    except Failed as e:
                        raise Failed(f"at the end: {e}") from None
        finally:
            for peer in self.peers.values():
                peer.close()
