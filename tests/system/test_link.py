# SPDX-License-Identifier: MIT
"""Links against a real broker, driven by linkcat instead of a router."""

import pytest

from conftest import publish_properties, until
from link_cat import LinkCat


@pytest.fixture
def link(process, build, tmp_path):
    """link('name = "l"; port = 1;', ...) starts a linkcat with these links."""
    return lambda *links: LinkCat(process, build, tmp_path, links)


def settings(port, more="", name="l"):
    return f'name = "{name}"; host = "127.0.0.1"; port = {port}; reconnect_min = "50ms"; {more}'


BOTH = pytest.mark.parametrize("version", ["5", "3.1.1"])


def of_version(version):
    return f'protocol = "{version}"; '


@BOTH
@pytest.mark.threads
def test_messages_come_and_go(mosquitto, client, link, version):
    broker = mosquitto()
    cat = link(settings(broker.port, of_version(version))).start([["a/#", 1]])
    other = client(broker.port).subscribe("out/#", "tocsin/cat/status")
    assert other.get().payload == b"online"
    other.publish("a/b", "21.5")
    got = cat.next_message()
    assert (got["topic"], got["payload"], got["qos"], got["retain"], got["hops"]) == ("a/b", "21.5", 1, False, 0)
    for qos in (0, 1, 2):
        assert cat.publish({"topic": f"out/{qos}", "payload": "x", "qos": qos}) == [[0, 0]]
        got = other.get()
        assert (got.topic, got.payload) == (f"out/{qos}", b"x")
    stats = cat.stats()
    assert stats["received"] == 1 and stats["published"] == 3 and stats["connected"]
    cat.stop()
    assert other.get().payload == b"offline"
