# SPDX-License-Identifier: MIT
"""Brokers that a link is connected to: they are ended or killed, and come back; and one who watches what they say."""

import os
import socket
import subprocess
import threading
import time

from daemon import PATIENCE, Daemon, build_folder, until
from ports import free_port
from subscriber import read_packet


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


class Upstream:
    """What both have in common. `kills`: when it was killed; `port`: for publishers, `link_port`: for the link."""

    def __init__(self, argv, log):
        self.argv, self.log, self.kills = argv, log, []
        self.link_port = self.port
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log)
        until(lambda: listens(self.port) or self.process.poll() is not None, "the link's broker")
        assert self.process.poll() is None, self.log.read_text()[-2000:]

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.kills.append(time.monotonic())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Mosquitto(Upstream):
    """It keeps what it has acknowledged, if it is asked to end. kill -9 loses what it has not saved in this second, sessions
    too, which nobody behind it can help: but what it has given to the link is the link's. `watch` says what that is."""

    lossy = True

    def __init__(self, folder):
        self.port = free_port()
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
                          f"max_inflight_messages 100\nlog_dest none\nuser root\npersistence true\n"
                          f"persistence_location {folder}/\nautosave_interval 1\n")
        super().__init__(["/usr/sbin/mosquitto", "-c", config], folder / "mosquitto.log")
        self.watch = Watch(self.port)
        self.link_port = self.watch.port

    def __exit__(self, *_):
        super().__exit__()
        self.watch.close()


class Tocsin(Upstream):
    """Another one of ours, with a store: it loses nothing."""

    lossy = False
    watch = None

    def __init__(self, folder):
        self.port = free_port()
        config = folder / "broker.conf"
        config.write_text(f"""
            node = "upstream"; drain = "2s";
            broker = {{ listeners = ( {{ port = {self.port}; bind = "127.0.0.1"; }} ); durability = "commit";
              max_queued_messages = 0; max_queued_bytes = "0"; }};
            store = {{ path = "{folder}/broker/tocsin.db"; }};
        """)
        super().__init__([build_folder() / "tocsin", "run", "-c", config], folder / "broker.log")


class Watch:
    """Between the link and its broker: passes bytes on, and notes what the link has acknowledged, before the broker hears of
    it. `acked` has (name, number)."""

    def __init__(self, broker_port):
        self.broker_port, self.acked, self.all = broker_port, set(), []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.listen, daemon=True).start()

    @property
    def ready_at(self):
        """When the link had its subscription, by SUBACK or a session that was there; None while there is none. (It has another
        connection, to publish.)"""
        return max(filter(None, [one.ready_at for one in self.all]), default=None)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def listen(self):
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self.broker_port))
            except OSError:
                link.close()
                continue
            one = Watched(self)
            self.all = [other for other in self.all if not other.ended] + [one]
            for source, sink, look in ((link, broker, one.from_link), (broker, link, one.from_broker)):
                threading.Thread(target=self.carry, args=(one, source, sink, look), daemon=True).start()

    def carry(self, one, source, sink, look):
        data = b""
        try:
            while more := source.recv(65536):
                data += more
                while data and (found := read_packet(data)):
                    look(found[0], found[1])
                    data = found[2]
                sink.sendall(more)
        except OSError:
            pass
        one.ready_at, one.ended = None, True
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Watched:
    """One connection that is watched."""

    def __init__(self, watch):
        self.watch, self.level, self.flying = watch, 4, {}
        self.ready_at, self.ended = None, False

    def from_link(self, kind, body):
        if kind >> 4 == 1:
            self.level = body[6]
        elif kind >> 4 in (4, 5) and (len(body) < 3 or body[2] < 0x80) and body[:2] in self.flying:
            self.watch.acked.add(self.flying[body[:2]])

    def from_broker(self, kind, body):
        if kind >> 4 == 9 or (kind >> 4 == 2 and body[0] & 1):
            self.ready_at = None if self.ended else time.monotonic()
        elif kind >> 4 == 3 and kind & 6:
            at = 2 + int.from_bytes(body[:2], "big")
            payload = body[at + 2:]
            if self.level == 5:
                payload = payload[1 + payload[0]:]  # properties, fewer than 128 bytes
            name, number, *_ = payload.decode().split(" ")
            self.flying[body[at:at + 2]] = name, int(number)
