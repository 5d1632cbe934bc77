# SPDX-License-Identifier: MIT
"""Packets of MQTT 3.1.1 and 5.0 as bytes: as much as the model's clients send and understand."""

import struct

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(8, 15)
NAMES = ["?", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
         "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT"]

# Properties by identifier: how the value is written.
BYTES, PAIR, VARINT = "bytes", "pair", "varint"
PROPERTIES = {
    1: ">B", 2: ">I", 3: BYTES, 8: BYTES, 9: BYTES, 11: VARINT, 17: ">I", 18: BYTES, 19: ">H", 21: BYTES, 22: BYTES,
    23: ">B", 24: ">I", 25: ">B", 26: BYTES, 28: BYTES, 31: BYTES, 33: ">H", 34: ">H", 35: ">H", 36: ">B", 37: ">B",
    38: PAIR, 39: ">I", 40: ">B", 41: ">B", 42: ">B",
}
SUBSCRIPTION_ID, SESSION_EXPIRY, RECEIVE_MAXIMUM, ALIAS_MAXIMUM, ALIAS, USER = 11, 17, 33, 34, 35, 38
SESSION_TAKEN_OVER, UNKNOWN_ID = 0x8E, 0x92


class Malformed(Exception):
    """The broker sent what is no packet."""


def varint(n):
    out = bytearray()
    while True:
        n, byte = n >> 7, n & 127
        out.append(byte | 128 if n else byte)
        if not n:
            return bytes(out)


def text(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack(">H", len(raw)) + raw


def properties(items):
    out = b""
    for number, value in items:
        kind = PROPERTIES[number]
        out += bytes([number])
        if kind == BYTES:
            out += text(value)
        elif kind == PAIR:
            out += text(value[0]) + text(value[1])
        else:
            out += varint(value) if kind == VARINT else struct.pack(kind, value)
    return varint(len(out)) + out


def packet(kind, flags, body):
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


def connect(v5, client, clean, props=(), will=None):
    """`will` is (topic, payload, qos, retain)."""
    flags = 2 if clean else 0
    end = text(client)
    if will:
        topic, payload, qos, retain = will
        flags |= 4 | qos << 3 | (32 if retain else 0)
        end += (properties([]) if v5 else b"") + text(topic) + text(payload)
    head = text("MQTT") + bytes([5 if v5 else 4, flags]) + b"\0\0"
    return packet(CONNECT, 0, head + (properties(props) if v5 else b"") + end)


def publish(v5, topic, payload, qos, retain, dup, pid, props=()):
    head = text(topic) + (struct.pack(">H", pid) if qos else b"")
    return packet(PUBLISH, (8 if dup else 0) | qos << 1 | (1 if retain else 0),
                  head + (properties(props) if v5 else b"") + payload)


def ack(kind, pid):
    return packet(kind, 2 if kind == PUBREL else 0, struct.pack(">H", pid))


def subscribe(v5, pid, filters, sub_id=0):
    """`filters` is pairs of filter and options."""
    props = properties([(SUBSCRIPTION_ID, sub_id)] if sub_id else []) if v5 else b""
    return packet(SUBSCRIBE, 2, struct.pack(">H", pid) + props + b"".join(text(f) + bytes([o]) for f, o in filters))


def unsubscribe(v5, pid, filters):
    return packet(UNSUBSCRIBE, 2,
                  struct.pack(">H", pid) + (properties([]) if v5 else b"") + b"".join(text(f) for f in filters))


def disconnect(v5, reason=0):
    return packet(DISCONNECT, 0, bytes([reason]) if v5 and reason else b"")


PING = packet(PINGREQ, 0, b"")


def split(buffer):
    """Takes the whole packets off a bytearray: a list of (kind, flags, body)."""
    out, at = [], 0
    while True:
        length, shift, i = 0, 0, at + 1
        while True:
            if i >= len(buffer):
                del buffer[:at]
                return out
            byte = buffer[i]
            length |= (byte & 127) << shift
            shift += 7
            i += 1
            if byte < 128:
                break
            if shift > 21:
                raise Malformed("remaining length of more than four bytes")
        if i + length > len(buffer):
            del buffer[:at]
            return out
        out.append((buffer[at] >> 4, buffer[at] & 15, bytes(buffer[i:i + length])))
        at = i + length


class Cursor:
    """Reads a packet's body."""

    def __init__(self, body):
        self.body, self.at = body, 0

    def take(self, n):
        if self.at + n > len(self.body):
            raise Malformed("packet too short")
        self.at += n
        return self.body[self.at - n:self.at]

    def number(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def bytes(self):
        return self.take(self.number(">H"))

    def varint(self):
        n = shift = 0
        while True:
            byte = self.number(">B")
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    def rest(self):
        return self.take(len(self.body) - self.at)

    def properties(self):
        """{identifier: [values]}."""
        end = self.varint() + self.at
        found = {}
        while self.at < end:
            number = self.number(">B")
            kind = PROPERTIES.get(number)
            if kind is None:
                raise Malformed(f"property {number}")
            if kind == BYTES:
                value = self.bytes()
            elif kind == PAIR:
                value = (self.bytes(), self.bytes())
            else:
                value = self.varint() if kind == VARINT else self.number(kind)
            found.setdefault(number, []).append(value)
        return found
