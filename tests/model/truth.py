# SPDX-License-Identifier: MIT
"""What the broker must, may and must not have delivered, by what the clients asked and were answered.

The clients do not wait for each other, and connections are dropped with requests in them, so much is known only by
an interval: a request takes effect somewhere between its `begin`, when it was sent, and its `end`, when it was
answered. Times are ticks: the number of the event. What has no answer has no end. From that follows for each
message and each session whether it must have come, whether it may, and how often.

A barrier is a time at which all is quiet: every open connection has answered and has nothing more to tell.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import lru_cache

NEVER = float("inf")
YES, MAYBE, NO = "yes", "maybe", "no"


@lru_cache(maxsize=100000)
def matches(pattern, topic):
    if topic.startswith("$") and pattern[0] in "+#":
        return False
    have, want = topic.split("/"), pattern.split("/")
    for i, level in enumerate(want):
        if level == "#":
            return True
        if i >= len(have) or level not in ("+", have[i]):
            return False
    return len(have) == len(want)


@dataclass
class Message:
    number: int
    publisher: str
    topic: str
    qos: int
    retain: bool
    empty: bool = False
    begin: float = NEVER
    end: float = NEVER  # when it certainly has been routed, or never will be
    fate: str = MAYBE  # whether the broker has it
    resends: int = 0  # at QoS 0 and 1: further copies that are as good as the first
    will: bool = False

    def __repr__(self):
        kind = "will" if self.will else "message"
        return (f"<{kind} {self.number} by {self.publisher} to {self.topic}, qos {self.qos}{', retain' * self.retain}"
                f"{', empty' * self.empty}, {self.begin}-{self.end}, {self.fate}, {self.resends} resends>")


@dataclass
class Reception:
    message: int
    topic: str
    qos: int
    retain: bool
    dup: bool
    ids: tuple
    time: float
    acked: float = NEVER  # when the broker certainly has our acknowledgement
    v5: bool = False

    def __repr__(self):
        return (f"<{self.message} at {self.time}, qos {self.qos}{', retain' * self.retain}{', dup' * self.dup}, "
                f"ids {list(self.ids)}, acked {self.acked}>")


@dataclass
class Subscription:
    """One SUBSCRIBE of a filter. The next of the same filter replaces it."""

    filter: str
    qos: int
    no_local: bool
    rap: bool
    rh: int
    id: int
    share: str
    begin: float
    acked: float = NEVER
    leave: float = NEVER  # UNSUBSCRIBE was sent
    left: float = NEVER  # UNSUBSCRIBE, or the SUBSCRIBE that replaces it, was answered

    def __repr__(self):
        share = f"$share/{self.share}/" if self.share else ""
        return (f"<{share}{self.filter} id {self.id}, qos {self.qos}{', no local' * self.no_local}{', rap' * self.rap}, "
                f"rh {self.rh}, {self.begin}-{self.acked} to {self.leave}-{self.left}>")


@dataclass
class Session:
    client: str
    v5: bool
    subscriptions: dict = field(default_factory=dict)  # filter with $share: [Subscription]
    receptions: list = field(default_factory=list)
    connections: list = field(default_factory=list)  # [since, until]
    attempts: int = 1  # connections, and those that we did not wait for
    ending: float = NEVER  # what ends it has begun
    ended: float = NEVER

    def connected(self, since, until):
        return any(up <= since and down > until for up, down in self.connections)


class Truth:
    def __init__(self, copies="one", loose=False, share="stays", shared_retained=False):
        """`copies`: one for a message that matches several filters of a session, or `each` filter one (both
        are allowed). `loose`: an acknowledged message may still be on its way to the sessions. `share`: a message for a
        member that is gone `moves` to another one, or `stays` lost (5.0 only recommends the former). `shared_retained`: shared
        subscriptions bring retained messages, against 5.0, 4.8.2."""
        self.shared_retained = shared_retained
        self.copies, self.loose, self.share = copies, loose, share
        self.messages, self.sessions, self.barriers, self.errors = {}, [], [], []

    def error(self, what):
        self.errors.append(what)

    # ---- Intervals

    def after(self, time):
        """The first barrier that began then or later: (begin, end)."""
        i = bisect_left(self.barriers, (time, 0))
        return self.barriers[i] if i < len(self.barriers) else (NEVER, NEVER)

    def routed(self, message):
        """When the message certainly was routed."""
        return self.after(message.end)[1] if self.loose else message.end

    def possible(self, session, message):
        """The subscriptions by which it may have come, by filter."""
        until, found = self.routed(message), {}
        for versions in session.subscriptions.values():
            if not matches(versions[0].filter, message.topic):
                continue
            for s in versions:
                # From a member that is gone, those that have come since may get it.
                late = s.share and self.share == "moves"
                if (late or s.begin <= until) and min(s.left, session.ended) >= message.begin:
                    if not (s.no_local and message.publisher == session.client and not message.will):
                        found.setdefault((s.share, s.filter), []).append(s)
        return found

    def definite(self, session, message):
        """The QoS at which it certainly matched, or None; the same by shared subscription."""
        until, best, shares = self.routed(message), None, {}
        if session.ending <= until:
            return None, shares
        for versions in session.subscriptions.values():
            if not matches(versions[0].filter, message.topic):
                continue
            if not any(s.acked <= message.begin and s.leave > until for s in versions):
                continue
            open_ = [s for s in versions if s.begin <= until and s.left >= message.begin]
            if any(s.no_local and message.publisher == session.client for s in open_):
                continue
            qos = min(message.qos, min(s.qos for s in open_))
            if versions[0].share:
                shares[versions[0].share, versions[0].filter] = qos
            else:
                best = qos if best is None else max(best, qos)
        return best, shares

    def settled(self, session, message):
        """Whether the session lived and was connected at a barrier after the message."""
        for begin, _ in self.barriers[bisect_left(self.barriers, (message.end, 0)):]:
            if session.ending > begin and session.connected(begin, begin):
                return True
        return False

    def through(self, session, message):
        """Whether one connection was there before the message and at the barrier after it."""
        begin, _ = self.after(message.end)
        return begin < NEVER and session.connected(message.begin, begin)

    # ---- Checks

    def check(self):
        everything = [m for m in self.messages.values() if m.begin < NEVER]
        for session in self.sessions:
            self.check_receptions(session)
            self.check_order(session)
            self.check_subscribed(session)
            by_message = {}
            for r in session.receptions:
                by_message.setdefault(r.message, []).append(r)
            for m in everything:
                self.check_message(session, m, by_message.get(m.number, ()))
        self.check_shared(everything)
        return self.errors

    def check_receptions(self, session):
        """Nothing comes that was not published, or not subscribed to, or not so."""
        for r in session.receptions:
            what = f"{session.client} got {r}"
            m = self.messages.get(r.message)
            if m is None or m.topic != r.topic:
                self.error(f"{what}: nobody published that")
                continue
            if m.begin > r.time:
                self.error(f"{what}: before {m} was published")
            if m.fate == NO:
                self.error(f"{what}: {m} must not have been published")
            live = [s for versions in self.possible(session, m).values() for s in versions]
            kept = self.retained_by(session, m, r.time) if r.retain else []
            as_published = [s for s in live if (s.rap and m.retain) == r.retain]
            causes = kept + as_published
            if not live and not kept:
                self.error(f"{what}: not subscribed to, {m}")
            elif not causes:
                self.error(f"{what}: the retain flag is wrong, {m}")
            elif r.qos not in {min(m.qos, s.qos) for s in kept + live}:  # one copy has the best of all that match
                self.error(f"{what}: the QoS is wrong, {m} by {kept + live}")
            elif r.v5 and not (r.ids and set(r.ids) <= {s.id for s in kept + live}):
                self.error(f"{what}: the subscription identifiers are wrong, {m} by {causes}")
            if r.dup and session.attempts < 2:
                self.error(f"{what}: sent again on the first connection")

    def retained_by(self, session, m, time=NEVER):
        """The SUBSCRIBEs that may have brought a retained message."""
        if not m.retain or m.empty:
            return []
        return [s for versions in session.subscriptions.values() for i, s in enumerate(versions)
                if (not s.share or self.shared_retained) and s.rh < 2 and s.begin <= time and matches(s.filter, m.topic)
                and m.begin <= s.acked and not self.overwritten(m, s.begin)
                and not (s.rh == 1 and any(v.acked <= s.begin and v.leave > s.acked for v in versions[:i]))]

    def overwritten(self, m, before):
        """Whether another retained message certainly replaced it by then."""
        return any(o.fate == YES and o.begin > self.routed(m) and self.routed(o) < before
                   for o in self.retained_to(m.topic) if o is not m)

    def retained_to(self, topic):
        if not hasattr(self, "_retained"):
            self._retained = {}
            for m in self.messages.values():
                if m.retain and m.begin < NEVER:
                    self._retained.setdefault(m.topic, []).append(m)
        return self._retained.get(topic, ())

    def check_order(self, session):
        last, seen = {}, set()
        for r in session.receptions:
            m = self.messages.get(r.message)
            # What a publisher sent again may have been too early for this session the first time.
            if m is None or r.retain or r.message in seen or m.will or m.resends or "/s/" in m.topic:
                continue
            seen.add(r.message)
            key = (m.publisher, m.topic, m.qos, r.qos)
            if last.get(key, -1) > m.number:
                self.error(f"{session.client} got {m} after {self.messages[last[key]]}")
            last[key] = m.number

    def check_message(self, session, m, receptions):
        """Each comes often enough, and not too often."""
        possible = self.possible(session, m)
        shared = any(share for share, _ in possible)
        live = sum(1 for share, _ in possible if not share)
        most = (min(live, 1) if self.copies == "one" else live) * (1 + m.resends)
        most += sum(1 + m.resends for share, _ in possible if share)
        most += len(self.retained_by(session, m))
        fresh = sum(1 for r in receptions if not r.dup)
        # What came again after the broker had our acknowledgement is another copy.
        copies = sum(1 for r in receptions if r.qos != 1 or r.acked < NEVER)
        copies += 1 if receptions and receptions[-1].qos == 1 and receptions[-1].acked == NEVER else 0
        if not shared and max(fresh, copies) > most:
            self.error(f"{session.client} got {m} {max(fresh, copies)} times, not {most}: {list(receptions)}")
        if m.fate != YES or m.empty or receptions:
            return
        qos, _ = self.definite(session, m)
        if qos is None:
            return
        if self.settled(session, m) if qos else self.through(session, m):
            self.error(f"{session.client} never got {m}, by {possible}")

    def check_subscribed(self, session):
        """A subscription brings the message that certainly is retained."""
        topics = {m.topic for m in self.messages.values() if m.retain}
        for versions in session.subscriptions.values():
            for i, s in enumerate(versions):
                before = versions[:i]
                fresh = all(v.left < s.begin for v in before)
                if s.share or s.acked == NEVER or s.leave < s.acked or s.rh == 2 or (s.rh == 1 and not fresh):
                    continue
                for topic in topics:
                    if matches(s.filter, topic):
                        self.check_retained_came(session, s, topic)

    def check_retained_came(self, session, s, topic):
        left = [m for m in self.retained_to(topic)
                if m.fate != NO and m.begin <= s.acked and not self.overwritten(m, s.begin)]
        if len(left) != 1 or left[0].empty or left[0].fate != YES or self.routed(left[0]) >= s.begin:
            return
        m, (barrier, _) = left[0], self.after(s.acked)
        if s.no_local and m.publisher == session.client:
            return
        if barrier == NEVER or session.ending <= barrier or not session.connected(s.begin, barrier):
            return
        if not any(r.message == m.number and r.retain and r.time > s.begin for r in session.receptions):
            self.error(f"{session.client} never got the retained {m} by {s}")

    def check_shared(self, everything):
        """One member gets each message; at QoS 2 no other does."""
        keys = {(s.share, s.filter) for session in self.sessions for versions in session.subscriptions.values()
                for s in versions if s.share}
        for key in keys:
            for m in everything:
                if matches(key[1], m.topic):
                    self.check_share(key, m)

    def check_share(self, key, m):
        members, sure, got, gone = [], None, [], 0
        for session in self.sessions:
            versions = self.possible(session, m).get(key)
            if not versions:
                continue
            if any(s.begin <= self.routed(m) for s in versions):
                members.append((session, versions))
            _, shares = self.definite(session, m)
            if key in shares:
                sure = shares[key] if sure is None else max(sure, shares[key])
            got += [r for r in session.receptions if r.message == m.number]
            gone += sum(1 for _, down in session.connections if down >= m.begin)
            gone += sum(1 for s in versions if s.leave < NEVER)
        qos = {min(m.qos, s.qos) for _, versions in members for s in versions}
        most = 1 + m.resends + sum(len(self.retained_by(session, m)) for session, _ in members)
        most += gone if qos not in ({0}, {2}) else 0
        fresh = sum(1 for r in got if not r.dup)
        if fresh > most:
            self.error(f"shared {key}: {m} came {fresh} times, not {most}: {got}")
        if got or sure is None or m.fate != YES or m.empty:
            return
        settled = self.through if 0 in qos else self.settled
        stayed = [settled(session, m) and all(s.leave > self.after(m.end)[0] for s in versions)
                  for session, versions in members]
        if all(stayed) or (self.share == "moves" and qos == {1} and any(stayed)):
            self.error(f"shared {key}: {m} never came to any of {[s.client for s, _ in members]}")

    def check_kept(self, kept):
        """`kept`: what is retained at the end, {topic: message number, or None for one that is empty}."""
        topics = {m.topic for m in self.messages.values() if m.retain}
        for topic in kept.keys() - topics:
            self.error(f"retained at {topic}: nobody published that")
        for topic in topics:
            left = [m for m in self.retained_to(topic) if m.fate != NO and not self.overwritten(m, NEVER)]
            sure = any(m.fate == YES for m in self.retained_to(topic))
            if topic in kept:
                if kept[topic] not in {m.number for m in left if not m.empty}:
                    self.error(f"retained at {topic}: {kept[topic]}, not one of {left}")
            elif sure and not any(m.empty for m in left):
                self.error(f"retained at {topic}: nothing, not one of {left}")
