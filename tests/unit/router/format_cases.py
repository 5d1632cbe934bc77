# SPDX-License-Identifier: MIT
"""Writes format_cases.inc: what CPython makes of values and format specifications.

    python3 tests/unit/router/format_cases.py >tests/unit/router/format_cases.inc

What Python refuses is left out, and so are whole numbers beyond 64 bits, which are floats for us.
"""

import json
import random

INTEGERS = ["0", "1", "-1", "7", "21", "-42", "999", "1000", "-1000", "1234567", "255", "65535", "1234567890123",
            "9223372036854775807", "-9223372036854775808"]
FLOATS = ["0.0", "-0.0", "3.0", "21.5", "-21.45", "0.5", "1.5", "2.5", "0.1", "1e22", "1e16", "1e15",
          "123456789012345680.0", "0.0001", "0.00001", "1.25e-7", "1234567.891", "-1234.5", "999999.5", "0.30000000000000004",
          "1.7976931348623157e308", "5e-324", "2.675", "1.005", "99.995", "9.5", "100.0", "1e100", "1e999", "-1e999"]
TEXTS = ['""', '"a"', '"attic"', '"K\u00fcche \u20ac"', '"\U0001F514 bell"', '"abcdefghijklmnop"']

COMMON = ["", ">8", "<8", "^8", "*>8", "\u20ac^9", "?>6", "08", "<08", "^08", " <08", "0>8", "x<12", "1", "0"]
NUMERIC = ["=8", "0=8", "*=+9", "+", "-", " ", "+8", "+08", "-08", " 08", "=+08", "#", ",", "_", "+,", "012,", "013,",
           "014,", "020_", "0=12,", "*>14,", "*=14,", "^+14,", ">020,", "#010"]
INTEGER_TYPES = ["d", "+d", "08d", ",d", "_d", "b", "#b", "o", "#o", "x", "#x", "X", "#X", "_x", "_b", "#_b", "#012x",
                 "#012_x", "012_b", "+#x", "#>12x", "^#12X", "-^#14o", " d", "*=#12x", "020,d", "n>6d"]
CHARACTERS = ["c", "5c", "<5c", "^5c", "05c", "=5c", "*^7c"]
FLOAT_TYPES = [flags + precision + type
               for type in "eEfFgG%"
               for flags, precision in (("", ""), ("", ".0"), ("", ".1"), ("", ".2"), ("+", ".3"), ("#", ".0"), ("#", ".3"), ("012", ".1"),
                                        (",", ".2"), ("_", ".0"), ("*^20,", ".2"), ("=+20", ".2"), ("030,", ".4"), ("", ".17"),
                                        ("<12", ""), (" ", ".9"), ("", ".25"))]
GENERAL = [".0", ".1", ".2", ".3", ".6", ".15", ".17", ".20", "#.3", "#.0", "+.4", ",.6", "010.3", "_.8", "*^15.4", ".60"]
TEXT_TYPES = ["s", "8s", ">8s", "^9s", ".3", ".0", ".3s", ">8.3", "\U0001F514^8.2s", "08s", "<08.1", ".100"]


def rows():
    for value in INTEGERS:
        yield from ((value, spec) for spec in COMMON + NUMERIC + INTEGER_TYPES + FLOAT_TYPES[::7])
    for value in ("65", "8364", "128276", "10", "1114111"):
        yield from ((value, spec) for spec in CHARACTERS)
    for value in FLOATS:
        yield from ((value, spec) for spec in COMMON + NUMERIC + FLOAT_TYPES + GENERAL)
    for value in TEXTS:
        yield from ((value, spec) for spec in COMMON + TEXT_TYPES)
    chance = random.Random(1)
    for _ in range(400):
        value = repr(chance.choice((chance.uniform(-100, 100), chance.random() * 10 ** chance.randint(-20, 30),
                                    float(2.0 ** chance.randint(-80, 80)), chance.randint(0, 20000) / 8)))
        yield value, chance.choice(["", ".%d" % chance.randint(0, 20), ".%df" % chance.randint(0, 12),
                                    ".%dg" % chance.randint(0, 20), ".%de" % chance.randint(0, 20)])


def c_string(text):
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\?' else "\\%03o" % b for b in text.encode()) + '"'


print("/* Made by format_cases.py: value as JSON, specification, what CPython makes of it. */")
kept = sorted(random.Random(2).sample(sorted(set(rows())), 1500))
for value, spec in kept:
    try:
        print("{ %s, %s, %s }," % (c_string(value), c_string(spec), c_string(format(json.loads(value), spec))))
    except ValueError:
        pass
