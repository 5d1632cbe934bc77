# SPDX-License-Identifier: MIT
"""Reads files of cases and the lists of statements; README.md describes both.

What is read here is only text: values are worked out when a case is played, since they hold the case's own
prefix and what earlier packets have bound.
"""

import re
from pathlib import Path

import packet

HEADERS = ("tests", "level", "options", "server", "mosquitto-fails", "note")
STEP = re.compile(r"([A-Za-z]\w*)([<>])(\?|opt|!|\+)?\s+(.*)$")


class DataError(Exception):
    """A file of cases or statements says something that means nothing."""


class Case:
    def __init__(self, name, where, level):
        self.name, self.where, self.level = name, where, level
        self.tests, self.options, self.own_server, self.mosquitto_fails = [], {}, False, None
        self.steps = []

    def key(self):
        """Cases with the same key share a server."""
        return tuple(sorted(self.options.items())), self.name if self.own_server else None

    def table(self):
        return "5" if self.level == 5 else "311"


class Step:
    """`A> PUBLISH ...`: who "A", way ">", mark "", verb "PUBLISH", words [(key, text)...]."""

    def __init__(self, where, text, who, way, mark, rest):
        self.where, self.text, self.who, self.way, self.mark = where, text, who, way, mark
        tokens = split_words(rest, where)
        if not tokens:
            raise DataError(f"{where}: nothing to do")
        self.verb, self.rest = tokens[0], tokens[1:]
        self.words = [] if self.verb == "hex" else [split_key(token, where) for token in self.rest]


def split_words(text, where):
    """Words between blanks; a blank inside quotes does not count."""
    words, word, quoted, i = [], "", False, 0
    while i < len(text):
        c = text[i]
        if quoted and c == "\\":
            word += text[i:i + 2]
            i += 1
        elif c == '"':
            quoted = not quoted
            word += c
        elif not quoted and c.isspace():
            if word:
                words.append(word)
            word = ""
        elif not quoted and c == "#" and not word:
            break
        else:
            word += c
        i += 1
    if quoted:
        raise DataError(f"{where}: a quote is not closed")
    return words + [word] if word else words


def split_key(word, where):
    key, sign, value = word.partition("=")
    if not sign or not re.fullmatch(r"(will)?\+?[a-z][a-z0-9-]*", key):
        raise DataError(f"{where}: {word}: expected NAME=VALUE")
    if "+" in key and key.partition("+")[2] not in packet.PROPERTY_IDS:
        raise DataError(f"{where}: {key}: no such property")
    return key, value


def expand_repeats(lines):
    """`repeat i 1..20` ... `end`: the lines between, with {i} replaced, twenty times over. They nest."""
    out, i = [], 0
    while i < len(lines):
        where, text = lines[i]
        m = re.fullmatch(r"\s*repeat\s+(\w+)\s+(\d+)\.\.(\d+)\s*", text)
        if not m:
            out.append(lines[i])
            i += 1
            continue
        depth, start = 1, i + 1
        while depth:
            i += 1
            if i == len(lines):
                raise DataError(f"{where}: repeat without end")
            if re.match(r"\s*repeat\s", lines[i][1]):
                depth += 1
            elif lines[i][1].strip() == "end":
                depth -= 1
        for n in range(int(m[2]), int(m[3]) + 1):
            out += expand_repeats([(w, t.replace("{" + m[1] + "}", str(n))) for w, t in lines[start:i]])
        i += 1
    return out


def read_header(case, key, value, where):
    if key == "tests":
        case.tests += value.split()
    elif key == "level":
        if value not in ("3", "4", "5"):
            raise DataError(f"{where}: level {value}")
        case.level = int(value)
    elif key == "options":
        for word in value.split():
            name, sign, setting = word.partition("=")
            if not sign:
                raise DataError(f"{where}: {word}: expected OPTION=VALUE")
            case.options[name] = setting
    elif key == "server":
        if value != "own":
            raise DataError(f"{where}: server: own, or no such line")
        case.own_server = True
    elif key == "mosquitto-fails":
        case.mosquitto_fails = value


def read_step(case, where, text):
    if m := STEP.match(text):
        case.steps.append(Step(where, text, m[1], m[2], m[3] or "", m[4]))
    elif m := re.fullmatch(r"wait\s+([\d.]+)", text):
        case.steps.append(("wait", where, float(m[1])))
    elif m := re.fullmatch(r"check\s+\$(\w+)\s+(==|!=)\s+(\S+)", text):
        case.steps.append(("check", where, m[1], m[2], m[3]))
    elif m := re.fullmatch(r"memory\s+\+(\d+)", text):
        case.steps.append(("memory", where, int(m[1])))
    elif m := re.fullmatch(r"either\s+(\w+)\s+(\w+)\s+of\s+(\w+)\s+(\w+)", text):
        case.steps.append(("either", where, *m.groups()))
    else:
        raise DataError(f"{where}: not understood: {text}")


def read_cases(path):
    lines = [(f"{path.name}:{n}", text) for n, text in enumerate(path.read_text().splitlines(), 1)]
    cases, level = [], 5 if path.name.startswith("mqtt5") else 3 if path.name == "mqtt31.txt" else 4
    for where, line in expand_repeats(lines):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if m := re.fullmatch(r"case\s+([a-z0-9][a-z0-9-]*)", text):
            cases.append(Case(m[1], where, level))
        elif not cases:
            raise DataError(f"{where}: before the first case")
        elif (m := re.match(r"([a-z-]+):\s*(.*)$", text)) and m[1] in HEADERS:
            read_header(cases[-1], m[1], m[2], where)
        else:
            read_step(cases[-1], where, text)
    return cases


class Statement:
    def __init__(self, name, text):
        self.name, self.text, self.how, self.detail = name, text, None, ""


def read_statements(path):
    """{id: Statement}: an unindented line `ID text`, then an indented `cases:`, `untestable:` or `client:`."""
    found, last = {}, None
    for n, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not line[0].isspace():
            name, _, text = line.partition(" ")
            if name in found:
                raise DataError(f"{path.name}:{n}: {name} twice")
            last = found[name] = Statement(name, text.strip())
            continue
        m = re.fullmatch(r"\s+(cases|untestable|client):\s*(.*)", line)
        if not m or not last or last.how:
            raise DataError(f"{path.name}:{n}: expected cases:, untestable: or client:, once for each statement")
        last.how, last.detail = m[1], m[2]
    return found


def statement_errors(table, statements, cases):
    """What is wrong between one list and the cases of its levels."""
    errors, tested = [], {}
    for case in cases:
        for name in case.tests:
            tested.setdefault(name, []).append(case.name)
            if name not in statements:
                errors.append(f"{case.where}: {case.name} tests {name}, which statements-{table}.txt does not list")
    for name, s in statements.items():
        if s.how == "cases":
            if sorted(s.detail.split()) != sorted(set(tested.get(name, []))) or not s.detail:
                errors.append(f"statements-{table}.txt: {name} is tested by {' '.join(sorted(set(tested.get(name, [])))) or 'nothing'}, "
                              "but listed otherwise (--write-lists corrects that)")
        elif s.how in ("untestable", "client") and name in tested and s.how == "untestable":
            errors.append(f"statements-{table}.txt: {name} is tested, but listed as {s.how}")
        elif not s.how or s.how == "untestable" and not s.detail:
            errors.append(f"statements-{table}.txt: {name} has neither a case nor a reason")
    return errors


def write_lists(path, cases):
    """Brings the `cases:` lines of a list up to date with what the cases say."""
    tested = {}
    for case in cases:
        for name in case.tests:
            tested.setdefault(name, set()).add(case.name)
    out, name, done = [], None, True

    def close():
        if name in tested and not done:
            out.append(f"    cases: {' '.join(sorted(tested[name]))}")

    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#") and not line[0].isspace():
            close()
            name, done = line.partition(" ")[0], False
        elif name and re.match(r"\s+(cases|untestable|client):", line):
            if line.strip().startswith("cases:"):
                if name not in tested:
                    continue
                line = f"    cases: {' '.join(sorted(tested[name]))}"
            done = True
        out.append(line)
    close()
    path.write_text("\n".join(out) + "\n")


def read_all(folder):
    folder = Path(folder)
    cases = [case for path in sorted(folder.glob("*.txt")) if not path.name.startswith("statements-")
             for case in read_cases(path)]
    names = set()
    for case in cases:
        if case.name in names:
            raise DataError(f"{case.where}: a second case {case.name}")
        if not case.steps:
            raise DataError(f"{case.where}: {case.name} does nothing")
        names.add(case.name)
    lists = {path.stem.partition("-")[2]: read_statements(path) for path in sorted(folder.glob("statements-*.txt"))}
    return cases, lists
