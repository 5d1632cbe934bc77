# SPDX-License-Identifier: MIT
"""Knows when what a broker has noted for its disk is there: SUBACK of a persistent session comes after that."""

import socket
import struct


def text(s):
    return struct.pack(">H", len(s)) + s.encode()


class Disk:
    """Clients enough that each worker of a broker has some of them, in all likelihood."""

    def __init__(self, port, run, count=12):
        self.socks = []
        for i in range(count):
            s = socket.create_connection(("127.0.0.1", port))
            s.settimeout(60)
            body = text("MQTT") + b"\x04\x00" + struct.pack(">H", 0) + text(f"disk{run}-{i}")
            s.sendall(b"\x10" + bytes([len(body)]) + body)
            self.expect(s, b"\x20\x02\x00\x00")
            self.socks.append(s)

    @staticmethod
    def expect(s, wanted):
        got = b""
        while len(got) < len(wanted):
            more = s.recv(len(wanted) - len(got))
            if not more:
                raise ConnectionError("the broker has closed the connection of a client of its disk")
            got += more
        if got != wanted:
            raise AssertionError(f"{got!r}, not {wanted!r}")

    def wait(self):
        """Returns when all is on disk that any worker has noted by now."""
        body = b"\x00\x01" + text("disk") + b"\x01"
        for s in self.socks:
            s.sendall(b"\x82" + bytes([len(body)]) + body)
        for s in self.socks:
            self.expect(s, b"\x90\x03\x00\x01\x01")

    def close(self):
        for s in self.socks:
            s.sendall(b"\xe0\x00")
            s.close()
