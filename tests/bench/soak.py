# SPDX-License-Identifier: MIT
"""A soak: some thousand clients that publish, vanish, return, take each other over, and at the end are all gone.

    tests/bench/soak.py [--minutes M] [--clients N] [--cycles C] [--broker tocsin|mosquitto] [--workers W] [--seed S]

Each cycle builds up N connections (half MQTT 3.1.1, half 5.0; half with sessions that outlive them), lets them
churn, then takes everything down: sessions, retained messages, subscriptions. After it
  - every message of QoS 1 or 2 that was acknowledged has arrived at the sessions that persist, QoS 2 once;
  - the counts below $SYS are what they were at the start;
  - resident memory is near that of the start, and does not grow from cycle to cycle.
Ends with status 1 where one of these does not hold.
"""

import argparse
import collections
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from broker import BUILD, connectable, free_port

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK = range(1, 10)
UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(10, 15)

COUNTS = ["clients/total", "clients/connected", "subscriptions/count"]  # must come back exactly
LOOSE = ["retained messages/count", "store/messages/count"]            # $SYS itself is among them
LOOSE_BY = 100
GROUPS, RETAINED = 100, 1000
PUBLISH_RATE = 3000  # a second, at most
GIVEN_BACK = 28      # seconds after which a broker has given back what nobody uses
PENDING = 2000       # publishes without their acknowledgement, at most


def variable(n):
    out = bytearray()
    while True:
        n, low = n >> 7, n & 127
        out.append(low | (128 if n else 0))
        if not n:
            return bytes(out)


def packet(head, body):
    return bytes([head]) + variable(len(body)) + body


def text(s):
    return len(s).to_bytes(2, "big") + s


class Client:
    """One client id, connected or not. What it keeps over connections is its session, if that persists."""

    def __init__(self, soak, index):
        self.soak, self.index = soak, index
        self.name = b"soak-%05d" % index
        self.v5 = index % 2 == 1
        self.persistent = index % 4 >= 2
        self.socket = None
        self.wanted = False       # a connection is to be there, now or soon
        self.connected = False    # CONNACK has come
        self.subscribed = False
        self.ever = False         # a session of this name is kept by the broker
        self.clean = False        # the last CONNECT asked for a new one
        self.next_id = 1
        self.inflight = {}        # packet id -> [bytes to send again, number of the message, where to]
        self.received = set()     # ids of QoS 2 messages not released
        self.inbox = b""
        self.outbox = b""

    # -- connections

    def connect(self, clean=None):
        self.close()
        self.clean = clean = not self.persistent if clean is None else clean
        if clean:
            self.forget()
        flags = (2 if clean else 0) | (0 if self.persistent else 0x0C)  # a will of QoS 1
        body = text(b"MQTT") + bytes([5 if self.v5 else 4, flags]) + b"\x0e\x10"
        if self.v5:
            body += b"\x05\x11\x00\x00\x0e\x10" if self.persistent and not clean else b"\x00"
        body += text(self.name)
        if not self.persistent:
            body += (b"\x00" if self.v5 else b"") + text(b"soak/will/%d" % self.index) + text(b"gone")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", self.soak.port))
        self.socket.setblocking(False)
        self.soak.watch(self)
        self.wanted = True
        self.soak.handshakes += 1
        self.send(packet(CONNECT << 4, body))

    def close(self):
        if self.socket:
            self.soak.unwatch(self)
            self.socket.close()
            if not self.connected:
                self.soak.handshakes -= 1
        self.socket = None
        self.connected = self.subscribed = False
        self.inbox = self.outbox = b""

    def disconnect(self):
        self.send(packet(DISCONNECT << 4, b""))
        self.close()
        self.wanted = False

    def forget(self):
        self.soak.pending -= len(self.inflight)
        self.inflight.clear()
        self.received.clear()

    def send(self, data):
        if self.outbox:
            self.outbox += data
            return
        try:
            n = self.socket.send(data)
        except BlockingIOError:
            n = 0
        except OSError:
            return  # its end is read later
        if n < len(data):
            self.outbox = data[n:]
            self.soak.watch(self, out=True)

    def writable(self):
        data, self.outbox = self.outbox, b""
        self.soak.watch(self)
        self.send(data)

    # -- packets out

    def take_id(self):
        while self.next_id in self.inflight:
            self.next_id = self.next_id % 65535 + 1
        taken, self.next_id = self.next_id, self.next_id % 65535 + 1
        return taken

    def subscribe(self):
        body = self.take_id().to_bytes(2, "big") + (b"\x00" if self.v5 else b"")
        qos = 2 if self.persistent else self.index % 3
        for name in (b"soak/to/%d/+" % self.index, b"soak/group/%d/#" % (self.index % GROUPS),
                     b"soak/will/%d" % (self.index + 1)):
            body += text(name) + bytes([qos])
        self.send(packet(SUBSCRIBE << 4 | 2, body))

    def unsubscribe(self):
        body = self.take_id().to_bytes(2, "big") + (b"\x00" if self.v5 else b"")
        self.send(packet(UNSUBSCRIBE << 4 | 2, body + text(b"soak/will/%d" % (self.index + 1))))

    def publish(self, topic, qos, payload, retain=0, number=0, to=None):
        head = PUBLISH << 4 | qos << 1 | retain
        body = text(topic)
        if qos:
            taken = self.take_id()
            body += taken.to_bytes(2, "big")
        body += (b"\x00" if self.v5 else b"") + payload
        data = packet(head, body)
        if qos:
            self.inflight[taken] = [packet(head | 8, body), number, to]
            self.soak.pending += 1
        self.send(data)

    # -- packets in

    def readable(self):
        try:
            data = self.socket.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self.soak.closed(self)
            return
        self.inbox += data
        data, at = self.inbox, 0
        while self.socket and len(data) - at >= 2:
            length, shift, body = 0, 0, at + 1
            while body < len(data):
                length |= (data[body] & 127) << shift
                shift += 7
                body += 1
                if not data[body - 1] & 128:
                    break
            else:
                break
            if len(data) - body < length:
                break
            self.handle(data[at], data[body:body + length])
            at = body + length
        if self.socket:
            self.inbox = data[at:]

    def handle(self, head, body):
        kind = head >> 4
        if kind == PUBLISH:
            self.got_publish(head, body)
        elif kind in (PUBACK, PUBREC, PUBCOMP):
            self.got_ack(kind, int.from_bytes(body[:2], "big"), len(body) > 2 and body[2] >= 0x80)
        elif kind == PUBREL:
            self.received.discard(int.from_bytes(body[:2], "big"))
            self.send(packet(PUBCOMP << 4, body[:2]))
        elif kind == CONNACK:
            if body[1]:
                self.soak.fail(f"{self.name.decode()}: CONNACK {body[1]:#x}")
            self.connected = True
            self.soak.handshakes -= 1
            if not body[0]:
                if self.persistent and self.ever:
                    self.soak.fail(f"{self.name.decode()}: the session is gone")
                self.forget()
                self.subscribe()
            else:
                self.subscribed = True
            self.ever = self.persistent and not self.clean
            for again, _, _ in self.inflight.values():
                self.send(again)
        elif kind == SUBACK:
            self.subscribed = True
            if any(code >= 0x80 for code in body[-3:]):
                self.soak.fail(f"{self.name.decode()}: subscription refused")
        elif kind == DISCONNECT:
            self.soak.count["DISCONNECT received"] += 1
        elif kind not in (UNSUBACK, PINGRESP):
            self.soak.fail(f"{self.name.decode()}: packet {head:#x}")

    def got_publish(self, head, body):
        n = int.from_bytes(body[:2], "big")
        topic, at, qos = body[2:2 + n], 2 + n, head >> 1 & 3
        if qos:
            taken = body[at:at + 2]
            at += 2
        if self.v5:
            at += 1 + body[at]
        if qos == 1:
            self.send(packet(PUBACK << 4, taken))
        elif qos == 2:
            self.send(packet(PUBREC << 4, taken))
            key = int.from_bytes(taken, "big")
            if key in self.received:
                self.soak.count["QoS 2 sent again"] += 1
                return
            self.received.add(key)
        self.soak.arrived(self, topic, body[at:], qos)

    def got_ack(self, kind, taken, refused):
        held = self.inflight.get(taken)
        if held is None:
            if kind == PUBREC:
                self.send(packet(PUBREL << 4 | 2, taken.to_bytes(2, "big")))
            return
        if kind == PUBREC and not refused:
            held[0] = packet(PUBREL << 4 | 2, taken.to_bytes(2, "big"))
            self.soak.acknowledged(held)
            self.send(held[0])
            return
        if kind == PUBACK and not refused:
            self.soak.acknowledged(held)
        if refused and kind != PUBCOMP:  # a PUBREL may come twice
            self.soak.count["refused"] += 1
        del self.inflight[taken]
        self.soak.pending -= 1


class Monitor(Client):
    """Watches $SYS; not one of the clients that are counted up and down."""

    def __init__(self, soak):
        super().__init__(soak, 0)
        self.name, self.v5, self.persistent, self.values = b"monitor", False, False, {}

    def subscribe(self):
        self.send(packet(SUBSCRIBE << 4 | 2, b"\x00\x01" + text(b"$SYS/broker/#") + b"\x00"))

    def got_publish(self, head, body):
        n = int.from_bytes(body[:2], "big")
        self.values[body[2:2 + n].decode().removeprefix("$SYS/broker/")] = body[2 + n:].decode()

    def counts(self, names):
        return {k: self.values.get(k) for k in names}


class Soak:
    def __init__(self, options, port, pid):
        self.options, self.port, self.pid = options, port, pid
        self.epoll = select.epoll()
        self.watched = {}
        self.handshakes = self.pending = 0
        self.count = collections.Counter()
        self.failures = []
        self.random = random.Random(options.seed)
        self.clients = []
        self.returns = []         # (when, client) of those that come back
        self.number = 0
        self.due = {}             # number of an acknowledged message -> the client that it has to reach
        self.seen = set()         # numbers of the QoS 2 messages that have arrived
        self.early = set()        # arrived before the acknowledgement

    # -- what clients tell

    def fail(self, what):
        self.failures.append(what)
        if len(self.failures) <= 10:
            print(f"  wrong: {what}", flush=True)

    def watch(self, client, out=False):
        fd = client.socket.fileno()
        events = select.EPOLLIN | (select.EPOLLOUT if out else 0)
        if self.watched.get(fd) is client:
            self.epoll.modify(fd, events)
        else:
            self.watched[fd] = client
            self.epoll.register(fd, events)

    def unwatch(self, client):
        fd = client.socket.fileno()
        self.epoll.unregister(fd)
        del self.watched[fd]

    def closed(self, client):
        self.count["closed by the broker"] += 1
        if client.wanted:
            self.fail(f"{client.name.decode()}: closed by the broker")

    def acknowledged(self, held):
        _, number, to = held
        self.count["acknowledged"] += 1
        held[2] = None
        if to is not None and number not in self.early:
            self.due[number] = to
        self.early.discard(number)

    def arrived(self, client, topic, payload, qos):
        self.count["arrived"] += 1
        if not topic.startswith(b"soak/to/") or not client.persistent or qos == 0:
            return
        number = int(payload.split()[0])
        if qos == 2:
            if number in self.seen:
                self.fail(f"QoS 2 message {number} came twice to {client.name.decode()}")
            self.seen.add(number)
        if self.due.pop(number, None) is None:
            self.early.add(number)

    # -- the loop

    def turn(self, timeout=0.0):
        for fd, events in self.epoll.poll(timeout, 1000):
            client = self.watched.get(fd)
            if client is None:
                continue
            if events & select.EPOLLOUT:
                client.writable()
            if events & ~select.EPOLLOUT and client.socket:
                client.readable()

    def until(self, condition, what, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            self.turn(0.05)
            if time.monotonic() > end:
                self.fail(f"waited {seconds} s in vain: {what}")
                return False
        return True

    def resident(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def operate(self):
        client = self.random.choice(self.clients)
        if not client.subscribed:
            return
        dice = self.random.random()
        if dice < 0.90:
            self.publish_from(client)
        elif dice < 0.93:         # vanish, and return later
            client.close()
            client.wanted = False
            self.returns.append((time.monotonic() + self.random.random() * 3, client))
            self.count["vanished"] += 1
        elif dice < 0.96:
            client.disconnect()
            self.returns.append((time.monotonic() + self.random.random() * 3, client))
            self.count["disconnected"] += 1
        elif dice < 0.985:
            self.take_over(client)
        else:
            client.unsubscribe()
            client.subscribe()
            self.count["subscribed anew"] += 1

    def take_over(self, client):
        """A second connection with the same client id; the broker must close the first."""
        old = client.socket
        self.unwatch(client)
        client.socket, client.connected, client.inbox, client.outbox = None, False, b"", b""
        client.connect()
        self.until(lambda: client.connected or not client.socket, "CONNACK of a take-over", 20)
        old.settimeout(10)
        try:
            while old.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            self.fail("a connection was taken over and not closed")
        old.close()
        self.count["taken over"] += 1

    def publish_from(self, client):
        dice = self.random.random()
        size = self.random.choice((0, 10, 100, 1000, 1000, 20000 if dice < 0.02 else 50))
        self.number += 1
        payload = b"%d " % self.number + b"x" * size
        qos = self.random.randrange(3)
        self.count["published"] += 1
        if dice < 0.002:
            client.publish(b"soak/group/%d/all" % self.random.randrange(GROUPS), qos, payload)
        elif dice < 0.03:
            client.publish(b"soak/r/%d" % self.random.randrange(RETAINED), qos, payload, retain=1)
        else:
            to = self.random.choice(self.clients)
            must = to.index if to.persistent and to.ever and qos else None
            client.publish(b"soak/to/%d/x" % to.index, qos, payload, number=self.number, to=must)

    # -- phases

    def build_up(self):
        for client in self.clients:
            client.connect()
            while self.handshakes > 200:
                self.turn(0.01)
        self.until(lambda: all(c.subscribed for c in self.clients), "all subscribed")

    def churn(self, seconds):
        end = time.monotonic() + seconds
        began, operations = time.monotonic(), 0
        while time.monotonic() < end:
            self.turn(0.001)
            now = time.monotonic()
            while self.returns and self.returns[0][0] < now and self.handshakes < 200:
                self.returns.pop(0)[1].connect()
            for _ in range(50):
                if operations / PUBLISH_RATE < now - began and self.pending < PENDING:
                    operations += 1
                    self.operate()
        self.peak = max(self.peak, self.resident())

    def take_down(self):
        for client in self.clients:
            if not client.socket:
                client.connect()
            while self.handshakes > 200:
                self.turn(0.01)
        self.returns.clear()
        self.until(lambda: all(c.subscribed for c in self.clients), "all back")
        self.until(lambda: not self.due and not self.pending, "all acknowledged messages have arrived", 60)
        for number, to in list(self.due.items())[:5]:
            self.fail(f"message {number} to soak-{to:05d} was acknowledged and never came")
        if self.pending:
            self.fail(f"{self.pending} publishes were never acknowledged")
        first = self.clients[0]
        for i in range(RETAINED):
            first.publish(b"soak/r/%d" % i, 1, b"", retain=1)
        self.until(lambda: not self.pending, "retained messages deleted")
        for client in self.clients:
            if client.persistent:  # end the session, not only the connection
                client.wanted = False
                client.disconnect()
                client.ever = False
                client.connect(clean=True)
            while self.handshakes > 200:
                self.turn(0.01)
        self.until(lambda: all(c.connected for c in self.clients), "all clean")
        for client in self.clients:
            client.disconnect()
            client.forget()
        self.due.clear()
        self.seen.clear()
        self.early.clear()

    def run(self):
        options = self.options
        monitor = Monitor(self)
        monitor.connect()
        have = lambda: all(v is not None for v in monitor.counts(COUNTS).values())
        if not self.until(have, "counts below $SYS", 30):
            return
        self.settle(3)
        before, loose_before, start = monitor.counts(COUNTS), monitor.counts(LOOSE), self.resident()
        print(f"start: {start / 1024:.1f} MiB, {before | loose_before}", flush=True)
        self.clients = [Client(self, i) for i in range(options.clients)]
        after = []
        for cycle in range(options.cycles):
            self.peak = 0
            self.build_up()
            built = self.resident()
            self.churn(options.minutes * 60 / options.cycles)
            self.take_down()
            self.until(lambda: monitor.counts(COUNTS) == before, "counts as at the start", 30)
            self.settle(GIVEN_BACK)
            after.append(self.resident())
            if not self.is_small(start):
                self.fail(f"{after[-1]} KiB are left, of {self.peak} at the most and {start} at the start")
            print(f"cycle {cycle + 1}: {built / 1024:.1f} MiB with all connected, {self.peak / 1024:.1f} churning, "
                  f"{after[-1] / 1024:.1f} after; {monitor.counts(COUNTS) | monitor.counts(LOOSE)}", flush=True)
        if monitor.counts(COUNTS) != before:
            self.fail(f"counts {monitor.counts(COUNTS)}, at the start {before}")
        for name, value in monitor.counts(LOOSE).items():
            if value is not None and int(value) - int(loose_before[name] or 0) > LOOSE_BY:
                self.fail(f"{name} is {value}, was {loose_before[name]}")
        if after[-1] > after[0] * 1.1 + 1024:
            self.fail(f"memory grows from cycle to cycle: {after} KiB")
        print("  ".join(f"{k}: {v:,}" for k, v in sorted(self.count.items())))

    def is_small(self, start):
        """Whether memory is near what it was; what one worker keeps of its output buffers and caches is little."""
        return self.resident() < start + 2048 * self.options.workers + 0.1 * (self.peak - start)

    def settle(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn(0.1)


def start_broker(options, folder, port):
    conf = folder / "broker.conf"
    if options.broker == "mosquitto":
        conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest none\n"
                        "max_queued_messages 0\nsys_interval 1\nconnection_messages false\n")
        command = ["mosquitto", "-c", conf]
    else:
        conf.write_text(f'broker = {{ listeners = ( {{ port = {port}; bind = "127.0.0.1"; }} );\n'
                        f'  workers = {options.workers}; max_queued_messages = 0; sys_interval = "1s"; '
                        "connection_messages = false; };\n")
        command = [BUILD / "tocsin", "run", "-c", conf]
    log = open(folder / "broker.log", "wb")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    while not connectable(port):
        if process.poll() is not None:
            sys.exit(f"the broker does not start:\n{(folder / 'broker.log').read_text()}")
        time.sleep(0.01)
    return process


def main():
    parser = argparse.ArgumentParser(description="Clients that come and go for some minutes.")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--clients", type=int, default=10000)
    parser.add_argument("--cycles", type=int, default=3)
    parser.add_argument("--broker", choices=("tocsin", "mosquitto"), default="tocsin")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"{options.broker}, {options.clients:,} clients, seed {options.seed}", flush=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        process = start_broker(options, Path(folder), port)
        try:
            soak = Soak(options, port, process.pid)
            soak.run()
        except OSError as error:
            soak.fail(f"{error}")
        if process.poll() is not None:
            soak.fail(f"the broker has ended with status {process.returncode}")
            print((Path(folder) / "broker.log").read_text()[-8000:])
        else:
            process.send_signal(signal.SIGTERM)
            try:
                if process.wait(30):
                    soak.fail(f"the broker ended with status {process.returncode}")
                    print((Path(folder) / "broker.log").read_text()[-8000:])
            except subprocess.TimeoutExpired:
                process.kill()
                soak.fail("the broker did not end within 30 s")
    print("good" if not soak.failures else f"{len(soak.failures)} things went wrong")
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
