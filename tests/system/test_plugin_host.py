# SPDX-License-Identifier: MIT
"""The tool that tests drive plugins with: what it refuses, and that a mistake changes nothing."""

import pytest
from plugin_host import PluginError, PluginHost

pytestmark = pytest.mark.memory
GOOD = {"target": {"topic": "a"}, "text": "x"}

WRONG = [
    # request, what the answer says
    ({"send": []}, "1 to 100"),
    ({"send": [GOOD] * 101}, "1 to 100"),
    ({"send": [{**GOOD, "txt": "x"}]}, 'delivery: unknown member "txt"'),
    ({"send": [{**GOOD, "text": 1}]}, "text: wrong type"),
    ({"send": [{**GOOD, "severity": "bad"}]}, "severity"),
    ({"send": [{**GOOD, "payload_hex": "0"}]}, "hex"),
    ({"send": [{**GOOD, "payload_hex": "zz"}]}, "hex"),
    ({"send": [{**GOOD, "fields": [["a", "b"]]}]}, "fields"),
    ({"send": [{**GOOD, "fields": [["a", "b", "int"]]}]}, "fields"),
    ({"send": [{**GOOD, "properties": {"usr": []}}]}, "properties"),
    ({"send": [{"text": "x"}]}, "topic: is required"),
    ({"send": [{"target": {"topic": "a", "qos": 3}}]}, "qos"),
    ({"send": [{"target": {"topic": "a", "qos": "1"}}]}, "qos"),
    ({"send": [{"target": {"topic": "a", "retain": 1}}]}, "retain"),
    ({"send": [{"target": {"topic": "a", "payload": "x"}}]}, "text|payload"),
    ({"send": [{"target": {"topic": "a", "quos": 1}}]}, "quos: unknown option"),
    ({"send": [GOOD], "more": 1}, 'unknown member "more"'),
    ({"open": {"link": "l"}}, "already open"),
    ({"nothing": 1}, "no such request"),
]


@pytest.mark.parametrize("request_, reason", WRONG)
def test_a_wrong_request_is_refused_and_the_next_is_served(request_, reason):
    with PluginHost("republish", link="l") as host:
        with pytest.raises(PluginError) as error:
            host.ask(request_)
        assert reason in str(error.value)
        assert host.send(GOOD)[0]["verdict"] == "sent"


def test_nothing_is_sent_before_open_or_after_close():
    with PluginHost("republish", open_now=False) as host:
        with pytest.raises(PluginError, match="not open"):
            host.send(GOOD)
        host.open(link="l", timeout="1m")
        assert host.send(GOOD)[0]["verdict"] == "sent"
        assert host.published[0]["timeout_ms"] == 60000
        host.ask({"close": True})
        with pytest.raises(PluginError, match="not open"):
            host.send(GOOD)
        host.open(link="l")
        host.reopen()


def test_the_payload_is_the_text_and_the_text_the_payload_unless_said():
    with PluginHost("republish", link="l") as host:
        for target in ({"topic": "a"}, {"topic": "a", "payload": "payload"}):
            host.send({"target": target, "text": "x"}, {"target": target, "payload": "y"})
            assert [p["payload_hex"] for p in host.published] == ["78", "79"]
