# SPDX-License-Identifier: MIT
"""Clients that ask for very much at once: it costs no time out of proportion, and others go on."""

import itertools
import pathlib
import socket
import sys

import pytest

WIRE = pathlib.Path(__file__).resolve().parents[1] / "wire"
sys.path.insert(0, str(WIRE))

import packet  # noqa: E402
import server  # noqa: E402

PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"


def framed(first, body):
    return bytes([first]) + packet.varint(len(body)) + body


def subscribe(number, filters, identifier=None):
    """With an identifier of MQTT 5, else before 5."""
    properties = b""
    if identifier:
        body = b"\x0b" + packet.varint(identifier)
        properties = packet.varint(len(body)) + body
    wanted = b"".join(packet.string(text.encode()) + b"\x00" for text in filters)
    return framed(0x82, packet.u16(number) + properties + wanted)


class Client:
    def __init__(self, broker, name, level=4):
        self.socket = socket.socket()
        self.socket.settimeout(60)
        self.socket.connect(broker.address)
        # Of MQTT 5, the session stays when the connection ends.
        properties = b"\x05\x11\xff\xff\xff\xff" if level == 5 else b""
        start = packet.string(b"MQTT") + bytes([level, 2]) + packet.u16(0)
        self.send(framed(0x10, start + properties + packet.string(name.encode())))
        assert self.read()[0] == 0x20

    def send(self, data):
        self.socket.sendall(data)

    def bytes(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            assert more, "closed"
            data += more
        return data

    def read(self):
        first = self.bytes(1)[0]
        length = shift = 0
        while True:
            byte = self.bytes(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first, self.bytes(length)

    def ping(self):
        self.send(PINGREQ)
        assert self.bytes(2) == PINGRESP

    def close(self):
        self.socket.close()


@pytest.fixture
def start():
    brokers = []

    def start(**options):
        brokers.append(server.Server("tocsin", options))
        return brokers[-1]

    yield start
    for broker in brokers:
        assert broker.stop() is None


@pytest.mark.parametrize("name", ["name", "$share"])
def test_many_filters_in_one_packet(start, name):
    broker = start(workers="1")
    other = Client(broker, "other")
    client = Client(broker, "client")
    filters = [f"{name}/{i}/topic" for i in range(100000)]
    client.send(subscribe(1, filters))
    other.ping()
    assert client.read()[0] == 0x90
    client.ping()
    client.close()
    other.ping()


def overlapping(levels):
    """Filters that match every topic below a/a/a..., each with its identifier."""
    combinations = itertools.product("a+", repeat=levels)
    return [subscribe(n, ["/".join(names) + "/#"], n) for n, names in enumerate(combinations, 1)]


def test_all_of_many_subscription_identifiers_come(start):
    client = Client(start(), "client", level=5)
    packets = overlapping(11)
    client.send(b"".join(packets))
    for _ in packets:
        client.read()
    topic = "/".join("a" * 11)
    client.send(framed(0x30, packet.string(topic.encode()) + b"\x00" + b"payload"))
    first, body = client.read()
    expected = sorted(b"\x0b" + packet.varint(n) for n in range(1, len(packets) + 1))
    start_of_properties = 2 + len(topic)
    reader = packet.Reader(body[start_of_properties:])
    found = reader.properties()
    assert sorted(b"\x0b" + packet.varint(value) for _, value in found) == expected
    assert body.endswith(b"payload")
