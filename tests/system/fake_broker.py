# SPDX-License-Identifier: MIT
"""A broker of a few lines that does what the test says, packet by packet, over plain sockets."""

import socket
import struct

CONNECT, CONNACK, PUBLISH, PUBACK = 1, 2, 3, 4
SUBSCRIBE, SUBACK, PINGREQ, DISCONNECT = 8, 9, 12, 14


class Peer:
    """One connection of a client."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(120)

    def exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.sock.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def packet(self):
        """The next packet: (type, flags, body)."""
        head = self.exactly(1)[0]
        length = shift = 0
        while True:
            byte = self.exactly(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return head >> 4, head & 15, self.exactly(length)

    def expect(self, kind):
        got, _, body = self.packet()
        assert got == kind, f"packet type {got}, not {kind}"
        return body

    def send(self, kind, body, flags=0):
        length, head = len(body), bytes([kind << 4 | flags])
        while True:
            head += bytes([length % 128 | (128 if length > 127 else 0)])
            length //= 128
            if not length:
                break
        self.sock.sendall(head + body)

    def silent(self, seconds=0.3):
        """Nothing comes for a while. (To show that something does not happen, one has to wait.)"""
        self.sock.settimeout(seconds)
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except socket.timeout:
            return True
        finally:
            self.sock.settimeout(120)

    def close(self):
        self.sock.close()


def connect_version(body):
    """The protocol level in a CONNECT."""
    return body[6]


def connect_client_id(body):
    at = 10
    if connect_version(body) == 5:
        at += 1 + body[10]
    length = struct.unpack(">H", body[at : at + 2])[0]
    return body[at + 2 : at + 2 + length].decode()


def publish(peer, topic, payload, mid=0, dup=False):
    """A QoS 1 PUBLISH of MQTT 3.1.1; QoS 0 without a packet identifier."""
    body = struct.pack(">H", len(topic)) + topic.encode()
    if mid:
        body += struct.pack(">H", mid)
    peer.send(PUBLISH, body + payload, (2 if mid else 0) | (8 if dup else 0))


class FakeBroker:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(120)
        self.port = self.listener.getsockname()[1]
        self.peers = []

    def accept(self):
        self.peers.append(Peer(self.listener.accept()[0]))
        return self.peers[-1]

    def accept_sides(self):
        """Accepts both connections of a link. Returns the receiving and the sending one."""
        sides = {}
        while len(sides) < 2:
            peer = self.accept()
            connect = peer.expect(CONNECT)
            client_id = connect_client_id(connect)
            peer.send(CONNACK, b"\0\0\0" if connect_version(connect) == 5 else b"\0\0")
            sides[client_id.endswith("-send")] = peer
        return sides[False], sides[True]

    def close(self):
        for peer in self.peers:
            peer.close()
        self.listener.close()
