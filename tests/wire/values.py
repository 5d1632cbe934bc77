# SPDX-License-Identifier: MIT
"""What stands after the `=` of a field: text, numbers, variables for what is sent, patterns for what is expected."""

import re

import packet
from cases import DataError

NUMBERS = {"level", "clean", "keepalive", "will-qos", "will-retain", "connect-flags", "session", "code", "dup", "qos",
           "retain", "pid", "options", "nl", "rap", "rh", "flags", "rl", "cut", "split"}
FILTER_FIELDS = ("qos", "nl", "rap", "rh", "options")
FIELDS = {
    "CONNECT": {"level", "proto", "clean", "keepalive", "client", "will-topic", "will-payload", "will-qos", "will-retain",
                "user", "password", "connect-flags"},
    "CONNACK": {"session", "code"}, "PUBLISH": {"dup", "qos", "retain", "pid", "topic", "payload"},
    **{ack: {"pid", "code", "form"} for ack in packet.ACKS},
    "SUBSCRIBE": {"pid", "filter", *FILTER_FIELDS}, "UNSUBSCRIBE": {"pid", "filter"},
    "SUBACK": {"pid", "codes"}, "UNSUBACK": {"pid", "codes"}, "PINGREQ": set(), "PINGRESP": set(),
    "DISCONNECT": {"code", "form"}, "AUTH": {"code", "form"},
}
WRONG = {"flags", "rl", "rl-bytes", "tail", "cut", "split"}  # only when sending
ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0"}


class Scope:
    """A case's prefix and variables."""

    def __init__(self, prefix):
        self.prefix, self.variables = prefix.encode(), {}

    def bytes(self, text):
        """Bare and quoted pieces, one after the other; a quoted piece can be repeated: "ab"*1000."""
        if text.startswith("hex:"):
            return bytes.fromhex(text[4:])
        out, i = b"", 0
        while i < len(text):
            if text[i] == '"':
                piece, i = self.quoted(text, i + 1)
                if m := re.match(r"\*(\d+)", text[i:]):
                    piece *= int(m[1])
                    i += m.end()
                out += piece
            else:
                piece, i = self.one(text, i)
                out += piece
        return out

    def one(self, text, i):
        if text[i] == "@":
            return self.prefix, i + 1
        if m := re.match(r"\$(\w+)", text[i:]):
            value = self.variable(m[1])
            return value if isinstance(value, bytes) else str(value).encode(), i + m.end()
        return text[i].encode(), i + 1

    def quoted(self, text, i):
        out = b""
        while text[i] != '"':
            if text[i] != "\\":
                piece, i = self.one(text, i)
                out += piece
                continue
            c = text[i + 1]
            if c == "x":
                out += bytes.fromhex(text[i + 2:i + 4])
                i += 4
            elif c == "u":
                out += chr(int(text[i + 2:i + 6], 16)).encode()
                i += 6
            else:
                out += ESCAPES.get(c, c.encode())
                i += 2
        return out, i + 1

    def variable(self, name):
        if name not in self.variables:
            raise DataError(f"${name} has no value yet")
        return self.variables[name]

    def number(self, text, names):
        if text.startswith("$"):
            return self.variable(text[1:])
        try:
            return names[text] if text in names else int(text, 0)
        except ValueError:
            raise DataError(f"{text}: not a number, nor a known name") from None

    def property(self, name, text):
        kind = packet.PROPERTY_IDS[name][1]
        if kind in ("byte", "u16", "u32", "varint"):
            return self.number(text, {})
        if kind == "pair":
            key, value = split_pair(text)
            return self.bytes(key), self.bytes(value)
        return self.bytes(text)

    def hex(self, tokens):
        """Hex digits, "text", s"text" (with its length in front), and ( ... ) with its remaining length in front."""
        stack = [b""]
        for token in tokens:
            if token == "(":
                stack.append(b"")
            elif token == ")" and len(stack) > 1:
                inner = stack.pop()
                stack[-1] += packet.varint(len(inner)) + inner
            elif token.startswith('s"'):
                stack[-1] += packet.string(self.bytes(token[1:]))
            elif token.startswith('"'):
                stack[-1] += self.bytes(token)
            elif m := re.fullmatch(r"([0-9a-fA-F]{2})\*(\d+)", token):
                stack[-1] += bytes.fromhex(m[1]) * int(m[2])
            else:
                try:
                    stack[-1] += bytes.fromhex(token)
                except ValueError:
                    raise DataError(f"{token}: not hex") from None
        if len(stack) != 1:
            raise DataError("( without )")
        return stack[0]


def split_pair(text):
    """"key":"value" of a user property, at the first colon outside of quotes."""
    quoted = False
    for i, c in enumerate(text):
        if c == '"' and text[i - 1:i] != "\\":
            quoted = not quoted
        elif c == ":" and not quoted:
            return text[:i], text[i + 1:]
    raise DataError(f"{text}: expected NAME:VALUE")


def code_names(kind, version):
    return packet.CONNACK_311 if kind == "CONNACK" and version < 5 else packet.REASONS


def check_field(kind, key, sending):
    if key not in FIELDS[kind] and not (sending and key in WRONG) and key not in ("props", "will-props"):
        raise DataError(f"{kind} has no field {key}")


def to_send(step, scope, level):
    """The fields for packet.encode()."""
    kind, f = step.verb, {"props": [], "will-props": [], "filters": []}
    for key, text in step.words:
        if "+" in key:
            where = "will-props" if key.startswith("will") else "props"
            name = key.partition("+")[2]
            f[where].append((name, scope.property(name, text)))
            continue
        check_field(kind, key, True)
        if key == "rl" and text.startswith("hex:"):
            key, value = "rl-bytes", scope.bytes(text)
        elif key == "rl" and text == "padded":
            key, value = "padded", True
        elif key in NUMBERS:
            value = scope.number(text, code_names(kind, level) if key == "code" else {})
        elif key == "codes":
            value = [scope.number(one, packet.REASONS) for one in text.split(",")]
        else:
            value = scope.bytes(text)
        if key == "filter":
            f["filters"].append({"filter": value})
        elif key in FILTER_FIELDS and kind == "SUBSCRIBE":
            if not f["filters"]:
                raise DataError(f"{key} before the filter")
            f["filters"][-1][key] = value
        else:
            f[key] = value
    if kind == "CONNECT":
        f.setdefault("level", level)
        f.setdefault("client", scope.prefix + step.who.encode())
    if "pid" in FIELDS[kind] and (kind != "PUBLISH" or f.get("qos")) and "pid" not in f:
        raise DataError(f"{kind} without pid")
    return f


# ---- What is expected -----------------------------------------------------------------------------

DEFAULTS = {"CONNACK": {"session": "0", "code": "0"},
            "PUBLISH": {"dup": "0", "qos": "0", "retain": "0", "payload": ""},
            "DISCONNECT": {"code": "0"}, "AUTH": {"code": "0"}, **{ack: {"code": "0"} for ack in packet.ACKS}}
REMARKS = ("reason-string", "user-property")  # what a server may add to any answer


class Mismatch(Exception):
    pass


def same_number(scope, text, value, names, bound):
    for one in text.split("|"):
        if one == "*":
            return True
        if one.startswith("$") and one[1:] not in scope.variables and one[1:] not in bound:
            bound[one[1:]] = value
            return True
        if m := re.fullmatch(r"(\w+)\.\.(\w+)", one):
            if int(m[1], 0) <= value <= int(m[2], 0):
                return True
        elif (bound[one[1:]] if one[1:] in bound and one.startswith("$") else scope.number(one, names)) == value:
            return True
    return False


def same_bytes(scope, text, value, bound):
    if text == "*":
        return True
    if re.fullmatch(r"\$\w+", text) and text[1:] not in scope.variables:
        bound[text[1:]] = value
        return True
    return scope.bytes(text) == value


def same_property(scope, name, text, value, bound):
    kind = packet.PROPERTY_IDS[name][1]
    if kind in ("byte", "u16", "u32", "varint"):
        return same_number(scope, text, value, {}, bound)
    if kind == "pair":
        return text == "*" or scope.property(name, text) == value
    return same_bytes(scope, text, value, bound)


def match_properties(scope, kind, wanted, got, rest, bound):
    got = list(got)
    for name, text in wanted:
        at = next((i for i, (n, _) in enumerate(got) if n == name), None)
        if name == "subscription-identifier" and text != "none":  # their order says nothing
            at = next((i for i, (n, v) in enumerate(got) if n == name and same_property(scope, n, text, v, {})), at)
        if text == "none":
            if at is not None:
                raise Mismatch(f"{name} is there")
        elif at is None:
            raise Mismatch(f"{name} is missing")
        elif not same_property(scope, name, text, got.pop(at)[1], bound):
            raise Mismatch(f"{name} is not {text}")
    named = {name for name, _ in wanted}
    for name, value in got:
        free = rest == "*" or kind == "CONNACK" and rest is None or kind != "PUBLISH" and name in REMARKS \
            or name == "topic-alias"  # conversation.py has put the topic in
        if not free or (name in named and name == "user-property" and kind == "PUBLISH"):
            raise Mismatch(f"{name}={value!r} was not expected")


def match(step, scope, level, got):
    """Compares an expectation with the decoded fields; raises Mismatch, or binds the variables it names."""
    kind, bound, wanted = step.verb, {}, []
    fields = dict(DEFAULTS.get(kind, {}))
    if kind in ("SUBACK", "UNSUBACK") and (level == 5 or kind == "SUBACK"):
        fields["codes"] = "*"
    for key, text in step.words:
        if "+" in key:
            wanted.append((key[1:], text))
        else:
            check_field(kind, key, False)
            fields[key] = text
    rest = fields.pop("props", None)
    must = "topic" if kind == "PUBLISH" else "pid"
    if must in FIELDS[kind] and must not in fields:
        raise DataError(f"{kind} expected without {must}")
    for key, text in fields.items():
        if key not in got:
            raise Mismatch(f"{key} is missing")
        if key == "codes":
            codes = text.split(",")
            same = text == "*" or len(codes) == len(got[key]) and all(
                same_number(scope, one, value, packet.REASONS, bound) for one, value in zip(codes, got[key]))
        elif key in NUMBERS:
            same = same_number(scope, text, got[key], code_names(kind, level) if key == "code" else {}, bound)
        else:
            same = same_bytes(scope, text, got[key], bound)
        if not same:
            raise Mismatch(f"{key} is not {text}")
    match_properties(scope, kind, wanted, got["props"], rest, bound)
    scope.variables.update(bound)
