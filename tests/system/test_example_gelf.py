# SPDX-License-Identifier: MIT
"""examples/gelf, all the way: the router with its broker, a receiver that reads strictly."""

import json

import pytest
from example import Example
from gelf_server import Http, Tcp, Udp
from router import Included


@pytest.fixture
def broker(free_port):
    return Included(free_port())


@pytest.fixture
def tcp():
    made = Tcp(start=False)
    yield made
    made.stop()


@pytest.fixture
def example(broker, build, tmp_path, process):
    def make(receiver, **changes):
        changes = {"port = 1883": f"port = {broker.port}", "port = 12201": f"port = {receiver.port}", **changes}
        return Example("gelf", build, tmp_path, process, changes)

    return make


def wanted(record):
    return {n: v for n, v in record.items() if n not in ("version", "timestamp", "full_message")}


def test_sensors_become_records(tcp, broker, client, example):
    tcp.start()
    router = example(tcp)
    assert router.command("check").wait() == 0
    router.start()
    sensor = client(broker.port)
    payload = json.dumps({"celsius": 31.55, "battery": {"volts": 2.4}, "id": 7, "on": True, "topic": None})
    sensor.publish("sensors/attic/state", payload)
    record = tcp.get()
    assert wanted(record) == {
        "host": "attic",
        "short_message": "attic: 31.6 °C",
        "level": 4,
        "_topic": "sensors/attic/state",
        "_route": "sensors",
        "_site": "home",
        "_device": "attic",
        "_celsius": 31.55,
        "_battery_volts": 2.4,
        "__id": 7,
        "_on": "true",
    }
    assert record["full_message"] == payload

    sensor.publish("sensors/cellar/state", '{"celsius": 8, "battery": {"volts": 3}}')
    record = tcp.get()
    assert (record["host"], record["level"], record["_battery_volts"]) == ("cellar", 6, 3)


def test_odd_payloads_do_no_harm(tcp, broker, client, example):
    tcp.start()
    example(tcp).start()
    sensor = client(broker.port)
    for payload in (b"no json", b"\xff\xfe{", b'{"celsius": "\xff"}', b""):
        sensor.publish("sensors/attic/state", payload)
    sensor.publish("sensors/attic/state", '{"celsius": "warm"}')
    record = tcp.get()  # an alarm with a gap beats no alarm; but no text where a number is wanted
    assert record["host"] == "attic" and record["level"] == 3 and "_celsius" not in record
    sensor.publish("sensors/attic/state", json.dumps({"note": "x" * 99999, "blob": "x" * (10 << 20), "celsius": 1}))
    record = tcp.get()
    assert (record["_celsius"], len(record["_note"])) == (1, 32766)
    assert tcp.records.empty()


def test_a_server_that_is_away_gets_everything_later(tcp, broker, client, example):
    run = example(tcp).start()
    sensor = client(broker.port)
    for i in range(100):
        sensor.publish("sensors/attic/state", json.dumps({"celsius": i}))
    run.wait_line("connect")
    tcp.start()
    assert [tcp.get()["_celsius"] for _ in range(100)] == list(range(100))
    tcp.stop()
    tcp.start()
    sensor.publish("sensors/attic/state", '{"celsius": 100}')
    got = []
    while 100 not in got:  # some may come again: better than that one is missing
        got.append(tcp.get()["_celsius"])


@pytest.mark.parametrize("kind", [Udp, Http])
def test_other_transports(kind, broker, client, example):
    receiver = kind()
    try:
        example(receiver, **{'transport = "tcp"': f'transport = "{kind.__name__.lower()}"'}).start()
        client(broker.port).publish("sensors/attic/state", '{"celsius": 31}')
        assert receiver.get()["_celsius"] == 31
    finally:
        receiver.stop()


def test_one_record_by_hand(tcp, example):
    router = example(tcp)
    assert router.command("send", "graylog:sensors", "a first try").wait() == 75
    tcp.start()
    assert router.command("send", "-s", "critical", "graylog:sensors", "a first try").wait() == 0
    record = tcp.get()
    assert (record["short_message"], record["level"]) == ("a first try", 2)
