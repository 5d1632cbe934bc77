# SPDX-License-Identifier: MIT
"""examples/republish, and republishing as a whole: broker, router, broker; and loops."""

import pytest
from conftest import publish_properties
from example import Example
from router import Included, links

pytestmark = pytest.mark.threads


def example(plant, office, build, tmp_path, process):
    changes = {"port = 1883": f"port = {plant.port}", "port = 1884": f"port = {office.port}"}
    return Example("republish", build, tmp_path, process, changes)


def test_from_one_broker_to_another(free_port, mosquitto, client, build, tmp_path, process):
    plant, office = Included(free_port()), mosquitto()
    router = example(plant, office, build, tmp_path, process)
    assert router.command("check").wait() == 0
    router.start()
    sensor, reader = client(plant.port), client(office.port).subscribe("plant/#")
    properties = publish_properties(user=[("a", "1"), ("b", "2"), ("a", "1")], ContentType="text/plain")
    sensor.publish("sensors/kitchen/celsius", "31.5", properties=properties)
    got = reader.get()
    assert (got.topic, got.payload) == ("plant/sensors/kitchen/celsius", b"31.5")
    assert got.properties.ContentType == "text/plain"
    users = got.properties.UserProperty
    assert users[:3] == [("a", "1"), ("b", "2"), ("a", "1")]
    assert [value for name, value in users[3:] if name != "tocsin-id"] == ["1"]  # one hop
    assert "tocsin-id" in dict(users[3:])

    late = client(office.port).subscribe("alarms/#")
    got = late.get()
    assert (got.topic, got.payload.decode()) == ("alarms/kitchen", "kitchen is too warm: 31.5 °C")

    sensor.publish("sensors/kitchen/raw", b"\x00\xff")
    assert reader.get().payload == b"\x00\xff"


def test_a_broker_that_is_away_gets_everything_in_order(free_port, mosquitto, client, build, tmp_path, process):
    plant = Included(free_port())
    office = mosquitto("persistence true", f"persistence_location {tmp_path}/", "max_queued_messages 0")
    reader = client(office.port, "reader", v5=False, clean=False).subscribe("plant/#")
    router = example(plant, office, build, tmp_path, process).start()
    sensor = client(plant.port)
    sensor.publish("sensors/kitchen/count", "0")
    assert reader.get().payload == b"0"
    office.stop()
    for i in range(1, 200):
        sensor.publish("sensors/kitchen/count", str(i))
    router.wait_line("not connected")
    office.start()
    got = [reader.get().payload for _ in range(1, 200)]
    if got[0] == b"0":  # its acknowledgement, the router's or the reader's, was on its way when the broker ended
        got = [*got[1:], reader.get().payload]
    assert got == [b"%d" % i for i in range(1, 200)]


def test_an_expiry_goes_on_running(free_port, mosquitto, client, build, tmp_path, process):
    plant, office = Included(free_port()), mosquitto()
    router = example(plant, office, build, tmp_path, process).start()
    sensor, reader = client(plant.port), client(office.port).subscribe("plant/#")
    sensor.publish("sensors/a/b", "fresh", properties=publish_properties(MessageExpiryInterval=1000))
    assert 0 < reader.get().properties.MessageExpiryInterval <= 1000
    office.stop()
    sensor.publish("sensors/a/b", "stale", properties=publish_properties(MessageExpiryInterval=1))
    router.wait_line("expired before it could be published")


LOOP = """
services = {{ again = {{ plugin = "republish"; link = "{link}"; targets = {{ to = {{ topic = "{{other}}"; }}; }}; }}; }};
routes = (
    {{ name = "there"; topic = "a"; set = {{ other = "'b'"; }}; targets = "again:to"; }},
    {{ name = "back"; topic = "b"; set = {{ other = "'a'"; }}; targets = "again:to"; }}
);
"""


@pytest.mark.parametrize("protocol", ["5", "3.1.1", "embedded"])
def test_a_loop_is_stopped_counted_and_said(protocol, free_port, mosquitto, client, build, tmp_path, process):
    embedded = protocol == "embedded"
    broker = Included(free_port(), {"workers": 2}) if embedded else mosquitto()
    config = tmp_path / "tocsin.conf"
    config.write_text(links(broker, protocol=f'"{protocol}"', loop_limit=5) + LOOP.format(link="broker" if embedded else "local"))
    router = process([build / "tocsin", "run", "-c", config])
    router.wait_line("subscribed")
    observer, starter = client(broker.port).subscribe("#"), client(broker.port)
    starter.publish("a", "round and round")
    router.wait_line("loop stopped")
    topics = []

    def rounds():
        return [t for t in topics if t in ("a", "b")]

    # As it was published, and hops 1 to 5, the last of which is dropped. With workers of its own for each connection the
    # broker keeps no order between publishers: what comes last is awaited before the end is published.
    while protocol != "3.1.1" and len(rounds()) < 6:
        topics.append(observer.get().topic)
    starter.publish("end")
    while not topics or topics[-1] != "end":
        topics.append(observer.get().topic)
    assert rounds() == ["a", "b"] * (len(rounds()) // 2)
    assert len(rounds()) == 6 if protocol != "3.1.1" else len(rounds()) <= 20
