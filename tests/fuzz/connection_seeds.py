#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes what the wire conversations send as inputs of the fuzz target `connection`: connection_seeds.py FOLDER

Only the sending half is of use there. What a line would take from the broker's answer (`$pid`) is taken as 1. Merge the
outcome into the corpus: build/fuzz/fuzzers/connection -merge=1 tests/fuzz/corpus/connection FOLDER
"""

import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "wire"))
import cases    # noqa: E402
import packet   # noqa: E402
import values   # noqa: E402

SEND, DROP, SHUT, FINISH, TIME = 0, 10, 15, 14, 13
LONGEST = 3000  # bytes of an input


class Ones(dict):
    def __contains__(self, key):
        return True

    def __missing__(self, key):
        return 1


def order(peer, what, *rest):
    return bytes([peer | what << 2, *rest])


def sent(peer, data):
    out = b""
    for at in range(0, len(data), 255):
        piece = data[at:at + 255]
        last = at + 255 >= len(data)
        out += bytes([peer | SEND << 2 | (0 if last else 0x80), len(piece)]) + piece
    return out


def seed(case, first):
    scope = values.Scope("t")
    scope.variables = Ones()
    peers, levels, held, out = {}, {}, {}, bytes([first])
    for step in case.steps:
        if isinstance(step, tuple):
            if step[0] == "wait":
                out += order(0, TIME, 2)
            continue
        if step.way != ">":
            if step.verb in ("PUBACK", "PUBREC"):
                out += order(0, FINISH, 1)
            continue
        n = peers.setdefault(step.who, len(peers) % 4)
        if step.verb in ("close", "reset"):
            out += order(n, DROP)
        elif step.verb == "shut":
            out += order(n, SHUT)
        elif step.verb == "hex" or step.verb in packet.TYPES:
            if step.verb == "hex":
                data = scope.hex(step.rest)
            else:
                level = levels.setdefault(step.who, case.level)
                fields = values.to_send(step, scope, level)
                if step.verb == "CONNECT" and fields["level"] in (3, 4, 5):
                    levels[step.who] = level = fields["level"]
                data = packet.encode(step.verb, fields, level)
            data = held.pop(step.who, b"") + data
            if step.mark == "+":
                held[step.who] = data
            else:
                out += sent(n, data)
    return out + order(0, TIME, 2) + order(0, FINISH, 100)


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    found, _ = cases.read_all(Path(__file__).resolve().parent.parent / "wire")
    for case in found:
        first = zlib.crc32(case.name.encode()) & 0x7f
        try:
            data = seed(case, first)
        except (cases.DataError, KeyError, TypeError, ValueError) as e:
            print(f"{case.name}: left out: {e}")
            continue
        if len(data) <= LONGEST:
            (folder / f"wire-{case.level}-{case.name}").write_bytes(data)


if __name__ == "__main__":
    main()
