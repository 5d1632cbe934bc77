# SPDX-License-Identifier: MIT
"""What goes from one worker of the broker to another. Of eight subscribers some belong to another worker than the
publisher does, whatever their client ids hash to in this run (but for one run in hundreds)."""

import socket

import pytest
from conftest import publish_properties

pytestmark = pytest.mark.threads

SUBSCRIBERS, MESSAGES = 8, 300


def packet(head, body):
    length = bytes([len(body)]) if len(body) < 128 else bytes([len(body) % 128 | 128, len(body) // 128])
    return bytes([head]) + length + body


def payloads():
    """Short and long ones in turn: the long ones do not go the way of the short ones."""
    return [b"%d " % i + b"x" * (5000 if i % 7 == 3 else i) for i in range(MESSAGES)]


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("qos", [0, 1])
def test_short_and_long_messages_keep_their_order_across_workers(broker, client, workers, qos):
    port = broker(workers=workers).port
    subscribers = [client(port, f"s{i}", v5=i % 2 == 0).subscribe("a/#", qos=qos) for i in range(SUBSCRIBERS)]
    burst = b""
    for i, payload in enumerate(payloads()):
        number = (i + 1).to_bytes(2, "big") if qos else b""
        burst += packet(0x30 | qos << 1, b"\x00\x03a/b" + number + payload)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        s.sendall(packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01p"))
        assert s.recv(4) == b"\x20\x02\x00\x00"
        s.sendall(burst)
        for i, c in enumerate(subscribers):
            got = [c.get() for _ in range(MESSAGES)]
            assert [m.payload.split()[0] for m in got] == [b"%d" % n for n in range(MESSAGES)], f"subscriber {i}"
            assert [m.payload for m in got] == payloads(), f"subscriber {i}"


def test_all_parts_of_a_message_come_across_workers(broker, client):
    port = broker(workers=3).port
    subscribers = [client(port, f"s{i}").subscribe("a/#", qos=2) for i in range(SUBSCRIBERS)]
    properties = publish_properties(user=[("who", "me"), ("what", "this")], ContentType="text/plain",
                                    ResponseTopic="answers/here", CorrelationData=b"\x00\x01", MessageExpiryInterval=1000)
    rows = [(b"short", properties), (b"", properties), (b"", None), (b"long" * 500, properties)]
    publisher = client(port, "p")
    for qos in (0, 1, 2):
        for payload, props in rows:
            publisher.publish("a/b/\u00e4", payload, qos=qos, properties=props)
    for i, c in enumerate(subscribers):
        for qos in (0, 1, 2):
            for payload, props in rows:
                m = c.get()
                assert (m.topic, m.payload, m.qos, m.retain) == ("a/b/\u00e4", payload, qos, False), f"subscriber {i}"
                if props is None:
                    assert not hasattr(m.properties, "ContentType") and not hasattr(m.properties, "UserProperty")
                    continue
                assert m.properties.ContentType == "text/plain"
                assert m.properties.UserProperty == [("who", "me"), ("what", "this")]
                assert (m.properties.ResponseTopic, m.properties.CorrelationData) == ("answers/here", b"\x00\x01")
                assert 990 <= m.properties.MessageExpiryInterval <= 1000
