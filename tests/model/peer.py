# SPDX-License-Identifier: MIT
"""A client of the model: speaks MQTT over a plain socket, and tells the truth what it did and what it got.

It never waits by itself: bytes to send are queued, what came is handled when the world pumps. So it can be dropped
in the middle of anything. It acknowledges in order, but when it is told to.
"""

import collections
import socket

from . import wire
from .truth import MAYBE, NEVER, NO, YES, Message, Reception, Session, Subscription

DOWN, CONNECTING, UP, LEAVING = "down", "connecting", "up", "leaving"


class Out:
    """A publication of ours that is not acknowledged yet."""

    def __init__(self, message, payload, props):
        self.message, self.payload, self.props = message, payload, props
        self.released = self.again = False


class Peer:
    def __init__(self, world, name, v5):
        self.world, self.name, self.v5 = world, name, v5
        self.state, self.sock, self.old = DOWN, None, []
        self.session = None
        self.start_fresh = False  # the broker may or may not have ended our session
        self.incoming = {}  # QoS 2 received and not released: packet id -> message
        self.outgoing = {}  # packet id -> Out
        self.pid = self.sub_id = 0
        self.eager, self.paused = True, False
        self.open_ends = []  # messages whose routing ends at the latest when we are connected again
        self.will = self.old_reason = None
        self.reset()

    def reset(self):
        """What belongs to a connection."""
        self.buffer, self.output = bytearray(), bytearray()
        self.due = collections.deque()  # acknowledgements to be sent: (kind, packet id, reception)
        self.window = set()  # packet ids received and not finally acknowledged
        self.aliases, self.their_aliases = {}, {}
        self.requests = {}  # packet id -> subscriptions, or function to call when it is answered
        self.pings, self.unproven = collections.deque(), []
        self.their_maximum, self.their_alias_maximum, self.maximum = 65535, 0, 65535
        self.reason = None

    def trace(self, what):
        self.world.trace(self, what)

    def error(self, what):
        self.world.truth.error(f"{self.name}: {what} (tick {self.world.now})")

    # ---- Connecting

    def connect(self, clean, expiry, will, maximum, alias_maximum, buffer_size=None):
        """`will`: a Message and its payload, or None. On 3.1.1 `expiry` of 0 makes the session clean."""
        now = self.world.tick()
        if self.state != DOWN:
            self.taken_over(now)
        self.reset()
        if not self.v5:
            expiry = 0 if self.start_fresh else expiry
            clean = expiry == 0
        clean = clean or self.start_fresh
        self.clean, self.expiry, self.maximum = clean, expiry, maximum
        if clean:
            if self.session:
                self.session.ending = min(self.session.ending, now)
            self.incoming.clear()
            self.forget_outgoing()
            self.expect = False
        else:
            self.expect = self.session is not None and self.session.ending == NEVER
        if self.session:
            self.session.attempts += 1
        self.will = will
        self.sock = socket.socket()
        if buffer_size:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
        self.sock.connect(("127.0.0.1", self.world.port))
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.state, self.paused = CONNECTING, False
        props = [(wire.SESSION_EXPIRY, expiry), (wire.RECEIVE_MAXIMUM, maximum), (wire.ALIAS_MAXIMUM, alias_maximum)]
        self.trace(f"connect clean={clean} expiry={expiry} maximum={maximum} will={will and will[0]}")
        self.send(wire.connect(self.v5, self.name, clean, props,
                               will and (will[0].topic, will[1], will[0].qos, will[0].retain)))

    def taken_over(self, now):
        """The broker ends the old connection; what it still tells comes before what the new one tells."""
        self.trace("take over")
        if self.will:
            self.will[0].begin = now
            self.will[0].fate = YES if self.state == UP and self.world.knows.take_over_will else MAYBE
            self.open_ends.append(self.will[0])
            self.will = None
        self.old.append((self.sock, self.buffer, self.aliases))
        self.closed(now)

    def closed(self, now):
        """The connection is over."""
        kept = self.session and self.session.ending == NEVER and not self.clean and self.expiry
        if self.state == CONNECTING and not kept:
            self.start_fresh = True
        self.sock, self.state = None, DOWN
        if self.session and self.session.connections and self.session.connections[-1][1] == NEVER:
            self.session.connections[-1][1] = now
        if self.session and self.expiry == 0:
            self.session.ending = min(self.session.ending, now)
        self.open_ends += [m for m in self.unproven if isinstance(m, Message)]
        self.unproven = []
        for pings in self.pings:
            self.open_ends += [m for m in pings if isinstance(m, Message)]
        self.pings.clear()

    def forget_outgoing(self):
        self.open_ends += [out.message for out in self.outgoing.values()]
        self.outgoing.clear()

    def connack(self, body):
        now = self.world.tick()
        cursor = wire.Cursor(body)
        present, code = cursor.number(">B"), cursor.number(">B")
        if code:
            return self.error(f"CONNACK {code}")
        if self.v5:
            props = cursor.properties()
            self.their_maximum = props.get(wire.RECEIVE_MAXIMUM, [65535])[0]
            self.their_alias_maximum = props.get(wire.ALIAS_MAXIMUM, [0])[0]
        self.trace(f"connected present={present}")
        for m in self.open_ends:
            m.end = now
        self.open_ends = []
        if present and self.clean:
            self.error("CONNACK tells a session after a clean start")
        elif present and self.session is None:
            self.error("CONNACK tells a session that never was")
        elif present and self.session.ending < NEVER:
            self.error("CONNACK tells a session that has ended")
        elif not present and self.expect:
            self.error("CONNACK tells no session, and it was to stay")
        if not present or self.session is None:
            if self.session:
                self.session.ending = min(self.session.ending, now)
                self.session.ended = now
            self.session = Session(self.name, self.v5)
            self.world.truth.sessions.append(self.session)
            self.incoming.clear()
            for out in self.outgoing.values():
                out.message.end = now
            self.outgoing.clear()
        self.start_fresh = False
        self.session.connections.append([now, NEVER])
        self.state = UP
        for pid, out in self.outgoing.items():
            out.again = True
            if out.released:
                self.send(wire.ack(wire.PUBREL, pid))
            else:
                out.message.resends += out.message.qos == 1
                m = out.message
                self.send(wire.publish(self.v5, m.topic, out.payload, m.qos, m.retain, True, pid, out.props))

    # ---- Leaving

    def drop(self, tail=b""):
        """Closes the connection; `tail` is part of a packet that is never finished."""
        now = self.world.tick()
        self.trace(f"drop in state {self.state}")
        try:
            self.sock.send(bytes(self.output) + tail)
        except OSError:
            pass
        self.sock.close()
        if self.will:
            self.will[0].begin = now
            # The broker can only know of the will what has got through.
            self.will[0].fate = YES if self.state == UP else MAYBE
            self.open_ends.append(self.will[0])
            self.will = None
        self.closed(now)

    def leave(self, with_will):
        """DISCONNECT; the broker closes."""
        now = self.world.tick()
        with_will = with_will and self.v5
        self.trace(f"leave with_will={with_will}")
        self.send(wire.disconnect(self.v5, 4 if with_will else 0))
        if self.session and self.expiry == 0:
            self.session.ending = min(self.session.ending, now)
        if self.session.connections[-1][1] == NEVER:
            self.session.connections[-1][1] = now
        if self.will and with_will:
            self.will[0].begin, self.will[0].fate = now, YES
            self.open_ends.append(self.will[0])
        elif self.will:
            self.will[0].begin, self.will[0].fate = now, NO
        self.will = None
        self.state = LEAVING

    # ---- Requests

    def send(self, data):
        self.output += data
        self.flush()

    def flush(self):
        try:
            while self.output:
                n = self.sock.send(self.output)
                del self.output[:n]
        except BlockingIOError:
            pass
        except OSError:
            self.output.clear()  # reading tells why

    def next_pid(self):
        while True:
            self.pid = self.pid % 65535 + 1
            if self.pid not in self.outgoing and self.pid not in self.requests:
                return self.pid

    def publish(self, m, payload, use_alias):
        m.begin = self.world.tick()
        self.world.truth.messages[m.number] = m
        props = [(wire.USER, ("n", str(m.number)))]
        topic, more = m.topic, []
        room = m.topic in self.their_aliases or len(self.their_aliases) < self.their_alias_maximum
        if self.v5 and use_alias and room:
            topic = "" if m.topic in self.their_aliases else m.topic
            more = [(wire.ALIAS, self.their_aliases.setdefault(m.topic, len(self.their_aliases) + 1))]
        pid = 0
        if m.qos:
            pid = self.next_pid()
            self.outgoing[pid] = Out(m, payload, props)
        else:
            self.unproven.append(m)
        self.trace(f"publish {m} pid={pid} alias={bool(more)}")
        self.send(wire.publish(self.v5, topic, payload, m.qos, m.retain, False, pid, props + more))

    def subscribe(self, filters):
        """`filters`: dicts of what Subscription has."""
        now, pid, made, wanted = self.world.tick(), self.next_pid(), [], []
        self.sub_id += 1
        for f in filters:
            s = Subscription(**f, id=self.sub_id, begin=now)
            key = f"$share/{s.share}/{s.filter}" if s.share else s.filter
            self.session.subscriptions.setdefault(key, []).append(s)
            made.append((key, s))
            options = s.qos
            if self.v5:
                options |= (4 if s.no_local else 0) | (8 if s.rap else 0) | s.rh << 4
            wanted.append((key, options))
        self.requests[pid] = made
        self.trace(f"subscribe pid={pid} {wanted} id={self.sub_id}")
        self.send(wire.subscribe(self.v5, pid, wanted, self.sub_id))

    def unsubscribe(self, key):
        now, pid = self.world.tick(), self.next_pid()
        versions = [s for s in self.session.subscriptions.get(key, ()) if s.leave == NEVER]
        for s in versions:
            s.leave = now
        self.requests[pid] = versions
        self.trace(f"unsubscribe pid={pid} {key}")
        self.send(wire.unsubscribe(self.v5, pid, [key]))

    def ping(self):
        self.pings.append(self.unproven)
        self.unproven = []
        self.send(wire.PING)

    def acknowledge(self, limit=None):
        """Sends acknowledgements that are due, the oldest first."""
        data = b""
        while self.due and (limit is None or limit > 0) and self.state == UP:
            kind, pid, reception = self.due.popleft()
            data += wire.ack(kind, pid)
            self.trace(f"send {wire.NAMES[kind]} {pid}")
            if kind != wire.PUBREC:
                self.window.discard(pid)
            if kind == wire.PUBACK:
                self.unproven.append(reception)
            limit = limit and limit - 1
        if data:
            self.send(data)

    # ---- What comes

    def read(self):
        """Reads what is there, old connections first. Returns whether anything came."""
        while self.old:
            if not self.read_socket(*self.old[0], True):
                return False
        if self.sock is None or self.paused:
            return False
        return self.read_socket(self.sock, self.buffer, self.aliases, False)

    def read_socket(self, sock, buffer, aliases, old):
        try:
            data = sock.recv(1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            sock.close()
            if old:
                self.end_of_old()
            else:
                self.end_of_connection()
            return True
        buffer += data
        try:
            for kind, flags, body in wire.split(buffer):
                self.handle(kind, flags, body, aliases, old)
        except wire.Malformed as e:
            self.error(f"malformed: {e}")
        return True

    def end_of_old(self):
        self.old.pop(0)
        if self.v5 and self.old_reason != wire.SESSION_TAKEN_OVER and self.world.knows.take_over_reason:
            self.error(f"taken over, but the old connection was told {self.old_reason}")
        self.old_reason = None

    def end_of_connection(self):
        now = self.world.tick()
        if self.state == LEAVING:
            self.trace("left")
        else:
            self.error(f"the broker closed the connection in state {self.state}, reason {self.reason}")
            if self.will:
                self.will[0].begin, self.will = now, None
        self.closed(now)

    def handle(self, kind, flags, body, aliases, old):
        cursor = wire.Cursor(body)
        if kind == wire.PUBLISH:
            return self.got_publish(flags, cursor, aliases, old)
        self.trace(f"got {wire.NAMES[kind]} {body[:8].hex()}{' on the old connection' if old else ''}")
        if kind == wire.DISCONNECT:
            reason = body[0] if body else 0
            if old:
                self.old_reason = reason
            else:
                self.reason = reason
        elif kind == wire.CONNACK and not old:
            self.connack(body)
        elif old:
            pass  # the new connection will tell it again, or it does not matter any more
        elif kind == wire.PINGRESP:
            self.proven()
        elif kind in (wire.PUBACK, wire.PUBREC, wire.PUBREL, wire.PUBCOMP):
            self.got_ack(kind, cursor)
        elif kind == wire.SUBACK:
            self.got_suback(cursor)
        elif kind == wire.UNSUBACK:
            for s in self.requests.pop(cursor.number(">H")):
                s.left = min(s.left, self.world.tick())
        else:
            self.error(f"got {wire.NAMES[kind]}")

    def proven(self):
        now = self.world.tick()
        for thing in self.pings.popleft():
            if isinstance(thing, Message):
                thing.end, thing.fate = now, YES
            else:
                thing.acked = now

    def got_suback(self, cursor):
        now, made = self.world.tick(), self.requests.pop(cursor.number(">H"))
        if self.v5:
            cursor.properties()
        granted = cursor.rest()
        if list(granted) != [s.qos for _, s in made]:
            return self.error(f"SUBACK {granted.hex()} for {made}")
        for key, s in made:
            s.acked = now
            for other in self.session.subscriptions[key]:
                if other is s:
                    break
                other.left = min(other.left, now)

    def got_ack(self, kind, cursor):
        pid = cursor.number(">H")
        reason = cursor.number(">B") if self.v5 and cursor.at < len(cursor.body) else 0
        now = self.world.tick()
        if kind == wire.PUBREL:
            self.incoming.pop(pid, None)
            self.due.append((wire.PUBCOMP, pid, None))
            return self.acknowledge() if self.eager else None
        out = self.outgoing.get(pid)
        if out is None:
            return self.error(f"{wire.NAMES[kind]} {pid} for nothing")
        if kind == wire.PUBCOMP and reason == wire.UNKNOWN_ID and out.again:
            reason = 0  # the one before got lost
        if reason >= 0x80:
            return self.error(f"{wire.NAMES[kind]} {pid} with reason {reason} for {out.message}")
        if kind == wire.PUBREC and out.message.qos == 2 and not out.released:
            out.released = True
            out.message.fate = YES
            return self.send(wire.ack(wire.PUBREL, pid))
        if kind == (wire.PUBACK if out.message.qos == 1 else wire.PUBCOMP) and (out.message.qos == 1 or out.released):
            out.message.end, out.message.fate = now, YES
            del self.outgoing[pid]
            return None
        return self.error(f"{wire.NAMES[kind]} {pid} for {out.message}")

    def got_publish(self, flags, cursor, aliases, old):
        qos, dup, retain = flags >> 1 & 3, bool(flags & 8), bool(flags & 1)
        topic, pid = cursor.bytes(), cursor.number(">H") if qos else 0
        props = cursor.properties() if self.v5 else {}
        if wire.ALIAS in props:
            topic = aliases.setdefault(props[wire.ALIAS][0], topic) if not topic else topic
            aliases[props[wire.ALIAS][0]] = topic
        topic, payload = topic.decode(), cursor.rest()
        number = self.world.number_of(payload, props)
        what = f"PUBLISH pid={pid} qos={qos} dup={dup} retain={retain} {topic} {number}"
        self.trace(f"got {what}{' on the old connection' if old else ''}")
        if number is None and not payload:
            self.world.clearing(topic)
        if qos == 2 and pid in self.incoming:
            if self.incoming[pid] != (number or topic):
                self.error(f"{what}: this id is still used by {self.incoming[pid]}")
            elif not dup or pid in self.window:
                self.error(f"{what}: sent twice")
        elif pid and pid in self.window:
            self.error(f"{what}: this id is still in use")
        else:
            r = Reception(number, topic, qos, retain, dup, tuple(props.get(wire.SUBSCRIPTION_ID, ())),
                          self.world.tick(), v5=self.v5)
            if number is not None and self.session:  # else it is of another run, by a filter that matches that too
                self.session.receptions.append(r)
            if qos == 2:
                self.incoming[pid] = number or topic
            if qos == 1 and not old:
                self.due.append((wire.PUBACK, pid, r))
        if old or not qos:
            return
        if qos == 2:
            self.due.append((wire.PUBREC, pid, None))
        self.window.add(pid)
        if self.v5 and len(self.window) > self.maximum and self.world.knows.receive_maximum:
            self.error(f"{what}: more than our Receive Maximum of {self.maximum}")
        if self.eager:
            self.acknowledge()
