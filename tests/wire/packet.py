# SPDX-License-Identifier: MIT
"""MQTT packets of levels 3, 4 and 5: fields to bytes for what a client sends, bytes to fields for what a server
sends.

encode() writes what it is told, sense or nonsense. decode() is strict: a server that sends a reserved bit, a
remaining length in too many bytes, or a byte too many has failed the case, whatever the case expected.
"""

import struct

NAMES = {1: "CONNECT", 2: "CONNACK", 3: "PUBLISH", 4: "PUBACK", 5: "PUBREC", 6: "PUBREL", 7: "PUBCOMP", 8: "SUBSCRIBE",
         9: "SUBACK", 10: "UNSUBSCRIBE", 11: "UNSUBACK", 12: "PINGREQ", 13: "PINGRESP", 14: "DISCONNECT", 15: "AUTH"}
TYPES = {name: number for number, name in NAMES.items()}
ACKS = ("PUBACK", "PUBREC", "PUBREL", "PUBCOMP")

# Number, name, type, as the specification lists them.
PROPERTIES = {
    1: ("payload-format-indicator", "byte"), 2: ("message-expiry-interval", "u32"), 3: ("content-type", "text"),
    8: ("response-topic", "text"), 9: ("correlation-data", "binary"), 11: ("subscription-identifier", "varint"),
    17: ("session-expiry-interval", "u32"), 18: ("assigned-client-identifier", "text"), 19: ("server-keep-alive", "u16"),
    21: ("authentication-method", "text"), 22: ("authentication-data", "binary"),
    23: ("request-problem-information", "byte"), 24: ("will-delay-interval", "u32"),
    25: ("request-response-information", "byte"), 26: ("response-information", "text"), 28: ("server-reference", "text"),
    31: ("reason-string", "text"), 33: ("receive-maximum", "u16"), 34: ("topic-alias-maximum", "u16"),
    35: ("topic-alias", "u16"), 36: ("maximum-qos", "byte"), 37: ("retain-available", "byte"),
    38: ("user-property", "pair"), 39: ("maximum-packet-size", "u32"), 40: ("wildcard-subscription-available", "byte"),
    41: ("subscription-identifier-available", "byte"), 42: ("shared-subscription-available", "byte"),
}
PROPERTY_IDS = {name: (number, kind) for number, (name, kind) in PROPERTIES.items()}

CONNACK_311 = {"accepted": 0, "bad-protocol": 1, "bad-client-id": 2, "unavailable": 3, "bad-credentials": 4,
               "not-authorized": 5}
REASONS = {
    "success": 0x00, "normal": 0x00, "granted-0": 0x00, "granted-1": 0x01, "granted-2": 0x02, "with-will": 0x04,
    "no-matching-subscribers": 0x10, "no-subscription-existed": 0x11, "continue-authentication": 0x18,
    "re-authenticate": 0x19, "unspecified-error": 0x80, "malformed-packet": 0x81, "protocol-error": 0x82,
    "implementation-specific-error": 0x83, "unsupported-protocol-version": 0x84, "client-identifier-not-valid": 0x85,
    "bad-user-name-or-password": 0x86, "not-authorized": 0x87, "server-unavailable": 0x88, "server-busy": 0x89,
    "banned": 0x8a, "server-shutting-down": 0x8b, "bad-authentication-method": 0x8c, "keep-alive-timeout": 0x8d,
    "session-taken-over": 0x8e, "topic-filter-invalid": 0x8f, "topic-name-invalid": 0x90,
    "packet-identifier-in-use": 0x91, "packet-identifier-not-found": 0x92, "receive-maximum-exceeded": 0x93,
    "topic-alias-invalid": 0x94, "packet-too-large": 0x95, "message-rate-too-high": 0x96, "quota-exceeded": 0x97,
    "administrative-action": 0x98, "payload-format-invalid": 0x99, "retain-not-supported": 0x9a,
    "qos-not-supported": 0x9b, "use-another-server": 0x9c, "server-moved": 0x9d,
    "shared-subscriptions-not-supported": 0x9e, "connection-rate-exceeded": 0x9f, "maximum-connect-time": 0xa0,
    "subscription-identifiers-not-supported": 0xa1, "wildcard-subscriptions-not-supported": 0xa2,
}


class Malformed(Exception):
    """The server sent bytes that are no MQTT packet."""


def varint(n):
    out = bytearray()
    while True:
        n, low = divmod(n, 128)
        out.append(low | (0x80 if n else 0))
        if not n:
            return bytes(out)


def u16(n):
    return struct.pack(">H", n)


def string(data):
    return u16(len(data)) + data


def properties(pairs):
    """pairs: (name, value), in the order they are written."""
    out = b""
    for name, value in pairs:
        number, kind = PROPERTY_IDS[name]
        out += varint(number)
        if kind == "byte":
            out += bytes([value])
        elif kind in ("u16", "u32"):
            out += struct.pack(">H" if kind == "u16" else ">I", value)
        elif kind == "varint":
            out += varint(value)
        elif kind == "pair":
            out += string(value[0]) + string(value[1])
        else:
            out += string(value)
    return varint(len(out)) + out


def encode_connect(f, v5):
    flags = f.get("connect-flags")
    will = "will-topic" in f
    if flags is None:
        flags = (2 if f.get("clean", 1) else 0) | (4 if will else 0) | f.get("will-qos", 0) << 3 \
            | f.get("will-retain", 0) << 5 | (0x40 if "password" in f else 0) | (0x80 if "user" in f else 0)
    level = f["level"]
    name = f.get("proto", b"MQIsdp" if level == 3 else b"MQTT")
    body = string(name) + bytes([level, flags]) + u16(f.get("keepalive", 60))
    if v5:
        body += properties(f["props"])
    body += string(f.get("client", b""))
    if will:
        if v5:
            body += properties(f["will-props"])
        body += string(f["will-topic"]) + string(f.get("will-payload", b""))
    if "user" in f:
        body += string(f["user"])
    if "password" in f:
        body += string(f["password"])
    return 0, body


def encode_publish(f, v5):
    qos = f.get("qos", 0)
    body = string(f.get("topic", b""))
    if qos:
        body += u16(f["pid"])
    if v5:
        body += properties(f["props"])
    return f.get("dup", 0) << 3 | qos << 1 | f.get("retain", 0), body + f.get("payload", b"")


def with_code(f, v5):
    """Reason code and properties, as short as they can be written unless `form` asks for more."""
    form = f.get("form", b"short")
    if not v5:
        return b""
    if f["props"] or form == b"long":
        return bytes([f.get("code", 0)]) + properties(f["props"])
    return bytes([f.get("code", 0)]) if f.get("code") or form == b"code" else b""


def encode_subscribe(f, v5):
    body = u16(f["pid"]) + (properties(f["props"]) if v5 else b"")
    for one in f["filters"]:
        options = one.get("qos", 0) | one.get("nl", 0) << 2 | one.get("rap", 0) << 3 | one.get("rh", 0) << 4
        body += string(one["filter"]) + bytes([one.get("options", options)])
    return 2, body


def encode(kind, f, version):
    """The bytes of one packet. Beyond its own fields: flags=, rl=, tail=, cut= to write it wrong on purpose."""
    v5 = version == 5
    if kind == "CONNECT":
        flags, body = encode_connect(f, v5)
    elif kind == "PUBLISH":
        flags, body = encode_publish(f, v5)
    elif kind in ACKS:
        flags, body = 2 if kind == "PUBREL" else 0, u16(f["pid"]) + with_code(f, v5)
    elif kind == "SUBSCRIBE":
        flags, body = encode_subscribe(f, v5)
    elif kind == "UNSUBSCRIBE":
        flags = 2
        body = u16(f["pid"]) + (properties(f["props"]) if v5 else b"") + b"".join(string(x["filter"]) for x in f["filters"])
    elif kind in ("DISCONNECT", "AUTH"):
        flags, body = 0, with_code(f, v5)
    elif kind in ("SUBACK", "UNSUBACK"):
        flags, body = 0, u16(f["pid"]) + (properties(f["props"]) if v5 else b"") + bytes(f.get("codes", []))
    elif kind == "CONNACK":
        flags = 0
        body = bytes([f.get("session", 0), f.get("code", 0)]) + (properties(f["props"]) if v5 else b"")
    else:
        flags, body = 0, b""
    body += f.get("tail", b"")
    length = f["rl-bytes"] if "rl-bytes" in f else varint(f.get("rl", len(body)))
    if f.get("padded"):
        length = bytes(len(body) >> 7 * i & 0x7f | (0x80 if i < 3 else 0) for i in range(4))
    data = bytes([TYPES[kind] << 4 | f.get("flags", flags)]) + length + body
    return data[:len(data) - f["cut"]] if f.get("cut") else data


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def take(self, n):
        if n > self.left():
            raise Malformed(f"ends {n - self.left()} bytes too early")
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    def string(self):
        return self.take(self.number(2))

    def text(self):
        data = self.string()
        try:
            if "\0" in data.decode():
                raise Malformed("text with NUL")
        except UnicodeDecodeError:
            raise Malformed("text that is not UTF-8") from None
        return data

    def varint(self):
        value = 0
        for i in range(4):
            byte = self.number(1)
            value |= (byte & 0x7f) << 7 * i
            if not byte & 0x80:
                if i and not byte:
                    raise Malformed("variable byte integer longer than needed")
                return value
        raise Malformed("variable byte integer of more than 4 bytes")

    def properties(self):
        inner, found = Reader(self.take(self.varint())), []
        while inner.left():
            number = inner.varint()
            if number not in PROPERTIES:
                raise Malformed(f"unknown property {number}")
            name, kind = PROPERTIES[number]
            if name != "user-property" and name != "subscription-identifier" and any(name == n for n, _ in found):
                raise Malformed(f"property {name} twice")
            if kind in ("byte", "u16", "u32"):
                value = inner.number({"byte": 1, "u16": 2, "u32": 4}[kind])
            elif kind == "varint":
                value = inner.varint()
            elif kind == "pair":
                value = (inner.text(), inner.text())
            else:
                value = inner.text() if kind == "text" else inner.string()
            found.append((name, value))
        return found


def decode_publish(r, flags, v5):
    f = {"dup": flags >> 3, "qos": flags >> 1 & 3, "retain": flags & 1, "topic": r.text()}
    if f["qos"] == 3:
        raise Malformed("QoS 3")
    if not f["qos"] and f["dup"]:
        raise Malformed("DUP at QoS 0")
    if f["qos"]:
        f["pid"] = r.number(2)
        if not f["pid"]:
            raise Malformed("packet identifier 0")
    f["props"] = r.properties() if v5 else []
    if b"+" in f["topic"] or b"#" in f["topic"]:
        raise Malformed("wildcard in a topic name")
    f["payload"] = r.take(r.left())
    return f


def decode(first, body, version):
    """The fields of one packet of a server; `first` is its first byte, `body` what the remaining length counts."""
    kind, flags, v5, r = NAMES.get(first >> 4), first & 15, version == 5, Reader(body)
    if kind is None or kind in ("CONNECT", "SUBSCRIBE", "UNSUBSCRIBE", "PINGREQ") or kind == "AUTH" and not v5:
        raise Malformed(f"packet type {first >> 4} from a server")
    if kind != "PUBLISH" and flags != (2 if kind == "PUBREL" else 0):
        raise Malformed(f"{kind} with flags {flags}")
    f = {"props": []}
    if kind == "PUBLISH":
        f = decode_publish(r, flags, v5)
    elif kind == "CONNACK":
        f["session"], f["code"] = r.number(1), r.number(1)
        if f["session"] > 1:
            raise Malformed("CONNACK with reserved flags")
        f["props"] = r.properties() if v5 else []
    elif kind in ACKS:
        f["pid"] = r.number(2)
        f["code"] = r.number(1) if v5 and r.left() else 0
        f["props"] = r.properties() if v5 and r.left() else []
    elif kind in ("SUBACK", "UNSUBACK"):
        f["pid"] = r.number(2)
        f["props"] = r.properties() if v5 else []
        f["codes"] = list(r.take(r.left())) if v5 or kind == "SUBACK" else []
    elif kind in ("DISCONNECT", "AUTH"):
        if kind == "DISCONNECT" and not v5:
            raise Malformed("DISCONNECT from a server before level 5")
        f["code"] = r.number(1) if r.left() else 0
        f["props"] = r.properties() if r.left() else []
    if r.left():
        raise Malformed(f"{kind} with {r.left()} bytes too many")
    return kind, f
