# SPDX-License-Identifier: MIT
"""Kills a broker with sessions that persist again and again, then compares what was acknowledged with what subscribers got.

    python3 tests/system/crash/sessions.py [--kills 300] [--seed N] [--faults] [--workers 2] [--folder PATH]

Publishers of all QoS publish numbered messages; subscribers of QoS 1 and 2 stay, come and go, or are away for the whole run; a
publisher of retained messages sets and clears a few topics. QoS 1 must arrive at least once, QoS 2 exactly once, each in order;
sessions and their subscriptions must be there after each start, retained messages be the last that were acknowledged. Clients
that die leave wills (wills.py).
"""

import argparse
import contextlib
import pathlib
import random
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from daemon import PATIENCE, Daemon, until  # noqa: E402
from ports import free_port  # noqa: E402
from publisher import Publisher, packet, text  # noqa: E402
from subscriber import Account, Subscriber  # noqa: E402
from wills import FILTER, Wills  # noqa: E402

QOS = [1, 2, 2, 1, 0]  # of the publishers


class Broker(Daemon):
    """`tocsin run` with nothing but a broker and a store."""

    def __init__(self, folder, workers=1, more=""):
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        self.targets = {}
        self.ends, self.lines_at = {}, {}
        self.port = free_port()
        self.config.write_text(f"""
            node = "n1"; drain = "2s";
            broker = {{ listeners = ( {{ port = {self.port}; bind = "127.0.0.1"; }} ); workers = {workers};
              durability = "commit"; max_queued_messages = 0; max_queued_bytes = "0"; {more} }};
            store = {{ path = "{self.database}"; }};
        """)


class Keeper(Publisher):
    """A publisher of retained messages, one at a time: sets topics of `keep/` and clears them."""

    def __init__(self, port, topics=7):
        super().__init__("keeper", port, 1, window=1, rate=200)
        self.topics = topics
        self.pad = b""

    def topic_of(self, number):
        return f"keep/{number * 5 % self.topics}"

    def payload(self, number):
        return b"" if number % 4 == 0 else b"%d" % number

    def publish_packet(self, mid, number, dup):
        self.sent[number] += 1
        body = text(self.topic_of(number).encode()) + mid.to_bytes(2, "big") + self.payload(number)
        return packet(0x31 | dup << 3 | self.qos << 1, body)

    def expected(self):
        """{topic: what may be retained, the acknowledged one first}; b"" for nothing."""
        out = {}
        for n in range(1, self.number + 1):
            topic = self.topic_of(n)
            out[topic] = [self.payload(n)] if n in self.acked else out.get(topic, [b""]) + [self.payload(n)]
        return out


def check_retained(port, keeper):
    """With a fresh session: what is retained, against what was acknowledged. The keeper rests meanwhile."""
    until(lambda: keeper.paused and not keeper.flying, "the keeper's rest")
    got = read_retained(port, "keep/#", "keep/end")
    wrong = {topic: (got.get(topic, b""), may) for topic, may in keeper.expected().items() if got.get(topic, b"") not in may}
    assert not wrong, f"retained: (is, may be): {wrong}"


def read_retained(port, filter, end_topic):
    """{topic: payload}, as a fresh session is given them; `end_topic` is of no other use."""
    reader = Subscriber(f"reader-{time.monotonic_ns()}", port, 1, filter=filter)
    reader.start()
    until(lambda: reader.subscribed_at, "the reader's SUBACK")
    end = Publisher(f"end-{time.monotonic_ns()}", port, 1)
    end.publish_packet = lambda mid, number, dup: packet(0x32, text(end_topic.encode()) + mid.to_bytes(2, "big") + b"armed 0")
    end.start()
    until(lambda: any(topic == end_topic for topic, *_ in list(reader.got)), "the message behind the retained ones")
    end.finish()
    until(end.done.is_set, "the end's acknowledgement")
    reader.done.set()
    return {topic: payload for topic, payload, _, _, retain, _ in reader.got if retain}


def harass(folder, kills, seed, faults=False, workers=1, rate=150, show=lambda *_: None):
    """Returns the account, and how many messages were acknowledged. Asserts what has to be."""
    rng = random.Random(seed)
    broker = Broker(folder, workers, f'will_grace = "{rng.choice([0, 1])}s";')
    clients, subscribers = [], []
    wills = Wills(broker.port, workers, seed)
    try:
        broker.start()
        port = broker.port
        subscribers = [Subscriber("stays-1", port, 1, seed=seed), Subscriber("stays-2", port, 2, seed=seed + 1),
                       Subscriber("moves-1", port, 1, stay=(0, 0.4), away=(0, 0.5), seed=seed + 2),
                       Subscriber("moves-2", port, 2, stay=(0, 0.4), away=(0, 0.5), seed=seed + 3),
                       Subscriber("away-1", port, 1, stay=(0.5, 0.5), away=(1e6, 1e6), seed=seed + 4),
                       Subscriber("away-2", port, 2, stay=(0.5, 0.5), away=(1e6, 1e6), seed=seed + 5)]
        for s in subscribers + wills.watches:
            s.start()
        until(lambda: all(s.subscribed_at for s in subscribers + wills.watches), "the subscriptions")
        clients = [Publisher(f"p{i}", port, qos, rate=rate) for i, qos in enumerate(QOS)]
        keeper = Keeper(port)
        for c in clients + [keeper] + wills.mortals:
            c.start()
        until(lambda: all(c.acked for c in clients if c.qos), "the first acknowledgements")
        for i in range(kills):
            live(broker, rng, faults and i % 2)
            if i % 25 == 24:
                keeper.paused = True
                broker.start()
                check_retained(port, keeper)
                keeper.paused = False
                broker.kill()
                show(i + 1, sum(len(c.acked) for c in clients))
        start = broker.start()
        for one in clients + subscribers + wills.mortals:
            one.finish()
        for c in clients:
            assert c.done.wait(PATIENCE), f"{c.name} has not got all its acknowledgements: {list(c.flying.items())[:5]}"
        keeper.paused = True
        check_retained(port, keeper)
        keeper.finish()
        await_all(subscribers, clients)
        until(lambda: all(m.done.is_set() for m in wills.mortals) and not wills.unheard(), "wills", say=wills.unheard)
        fates = wills.check(read_retained(port, FILTER, "will/end"))
        for s in subscribers + wills.watches:
            s.done.set()
            s.join()
        status = broker.stop()
        assert status == 0, f"status {status}:\n{broker.said(start)[-3000:].decode()}"
    finally:
        if broker.process and broker.process.poll() is None:
            broker.process.kill()
            broker.process.wait()
        for c in clients + subscribers + wills.watches + wills.mortals:
            c.finish()
            c.done.set()
    problems = [f"{one.name}: {problem}" for one in clients + subscribers + wills.watches for problem in one.problems]
    assert not problems, problems[:10]
    account = Account(broker.kills, several_workers=workers > 1, wills=fates)
    for s in subscribers:
        account.add(s, clients)
    return account, sum(len(c.acked) for c in clients)


def missing(subscribers, publishers):
    out = []
    for s in subscribers:
        got = {tuple(payload.split(b" ")[:2]) for _, payload, *_ in list(s.got)}
        out += [(s.name, p.name, n) for p in publishers if p.qos for n in sorted(p.acked)
                if p.first[n] > s.subscribed_at and (p.name.encode(), b"%d" % n) not in got]
    return out


def await_all(subscribers, publishers):
    """As long as more come it is waited for them."""
    before, end = -1, time.monotonic() + PATIENCE
    while left := missing(subscribers, publishers):
        count = sum(len(s.got) for s in subscribers)
        if count > before:
            before, end = count, time.monotonic() + PATIENCE
        assert time.monotonic() < end, f"lost: {left[:20]} of {len(left)}"
        threading.Event().wait(0.2)


def live(broker, rng, fault):
    """What is left of one life, or a new one, to a violent end."""
    env = {"TOCSIN_FAULT": f"{rng.choice(['before-commit', 'after-commit'])}:{rng.randint(1, 60)}"} if fault else {}
    if broker.process.poll() is not None:
        broker.start(env, wait=rng.random() < 0.9)
    end = time.monotonic() + rng.choice([0.02, 0.1, 0.3, 0.6, 0.02, 0.1, 0.3, 2]) * (0.5 + rng.random())  # wills need two seconds
    while time.monotonic() < end and broker.process.poll() is None:
        threading.Event().wait(0.01)
    broker.kill()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--rate", type=int, default=150, help="messages/s of each publisher")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--folder", type=pathlib.Path, help="where everything is left; else it goes")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = args.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sessions-")))
        folder.mkdir(exist_ok=True, parents=True)
        account, acked = harass(folder, args.kills, args.seed, args.faults, args.workers, args.rate,
                                lambda kills, acked: print(f"{kills} kills, {acked} acknowledged", flush=True))
    print(f"{args.kills} kills, {acked} messages acknowledged: {account.report()}")
    account.check()


if __name__ == "__main__":
    main()
