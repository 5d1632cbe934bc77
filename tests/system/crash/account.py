# SPDX-License-Identifier: MIT
"""Compares what publishers were told with what services were given.

Nothing acknowledged may be missing, what one publisher sent must begin in order at each target, and each duplicate must
have a reason:

  again    the publisher (or the broker behind a link) sent the message again, because the acknowledgement was lost with
           the process: another delivery, with another id;
  window   the process died between the service's answer and the commit of it: the same delivery, same id, in a later life.
"""

import bisect
import collections


class Seen:
    """One line of a target: the publisher's name and number, in which life, and if the target says so, id and time."""

    def __init__(self, name, number, life, position, id=None, time=None, verdict="S"):
        self.name, self.number, self.life, self.position = name, number, life, position
        self.id, self.time, self.verdict = id, time, verdict


def read_lines(path, ends, rich):
    """Yields what a target was given; `ends` are the sizes that its file had at the end of each life."""
    data = path.read_bytes() if path.exists() else b""
    offset, count = 0, 0
    for line in data.split(b"\n")[:-1]:
        life = bisect.bisect_right(ends, offset)
        offset += len(line) + 1
        count += 1
        words = line.decode().split(" ")
        if rich:
            verdict, micros, id, _, name, number, *_ = words
            yield Seen(name, int(number), life, count, id, int(micros) / 1e6, verdict)
        else:
            name, number, *_ = words
            yield Seen(name, int(number), life, count)
    assert offset == len(data), f"{path} ends within a line"


class Account:
    """`kills`: times of the ends of all lives. `wanted`: (name, number) of what has to be there; None: all that is acknowledged.
    `resent_at`: times at which a broker in between may have begun to send again what it had sent: a kill of it, or of who it
    sends to."""

    def __init__(self, kills, wanted=None, resent_at=()):
        self.kills, self.wanted, self.resent_at = kills, wanted, resent_at
        self.lost, self.disorder, self.unexplained = [], [], []
        self.deliveries = self.again = self.window = 0
        self.window_ms, self.window_lines = [], []

    def add(self, target, seen, publishers, ends_at):
        """`ends_at`: lines of this target at the kills."""
        by_number = collections.defaultdict(list)
        for one in seen:
            self.deliveries += 1
            by_number[one.name, one.number].append(one)
        wanted = self.wanted if self.wanted is not None else {(p.name, n) for p in publishers for n in p.acked}
        self.lost += [(target, *one) for one in sorted(wanted - by_number.keys())]
        for p in publishers:
            firsts = [(by_number[p.name, n][0].position, n) for n in range(1, p.number + 1) if (p.name, n) in by_number]
            for (a, n), (b, m) in zip(firsts, firsts[1:]):
                if b < a:
                    self.disorder.append((target, p.name, n, m))
            for n in range(1, p.number + 1):
                if len(by_number.get((p.name, n), ())) > 1:
                    self.explain(target, p, n, by_number[p.name, n], ends_at)

    def explain(self, target, p, n, seen, ends_at):
        ids = collections.defaultdict(list)
        for one in seen:
            ids[one.id].append(one)
        killed_since = any(k > p.first[n] for k in (self.kills[-1:] or []) + list(self.resent_at)[-1:])
        sent = p.sent[n] + sum(k > p.first[n] for k in self.resent_at)
        if seen[0].id is None:  # the target does not tell deliveries apart
            lives = len({one.life for one in seen})
            if not killed_since or len(seen) > lives + sent - 1:
                self.unexplained.append((target, p.name, n, [one.life for one in seen]))
            return
        if len(ids) > 1:
            self.again += len(ids) - 1
            if len(ids) > sent or not killed_since:
                self.unexplained.append((target, p.name, n, "more deliveries than were sent", list(ids)))
        for id, several in ids.items():
            for one, other in zip(several, several[1:]):
                self.window += 1
                if one.life == other.life:
                    self.unexplained.append((target, p.name, n, "twice in one life", id))
                    continue
                self.window_ms.append(1000 * (self.kills[one.life] - one.time))
                self.window_lines.append(ends_at[one.life] - one.position)

    def report(self):
        def spread(values, digits=0):
            values = sorted(values)
            return "none" if not values else (f"median {values[len(values) // 2]:.{digits}f}, "
                                              f"most {values[-1]:.{digits}f}")

        return (f"{self.deliveries} deliveries, {len(self.lost)} lost, {len(self.disorder)} out of order; twice: "
                f"{self.again} sent again, {self.window} in the window (ms before the kill: {spread(self.window_ms, 1)}; "
                f"lines: {spread(self.window_lines)}), {len(self.unexplained)} unexplained")

    def check(self):
        assert not self.lost, f"lost: {self.lost[:20]} of {len(self.lost)}"
        assert not self.unexplained, f"twice without a reason: {self.unexplained[:20]} of {len(self.unexplained)}"
        assert not self.disorder, f"out of order: {self.disorder[:20]} of {len(self.disorder)}"
