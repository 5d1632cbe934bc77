# SPDX-License-Identifier: MIT
"""The plugin republish: what it asks its link to publish, and what it makes of the answer."""

import errno

import pytest
from plugin_host import PluginError, PluginHost

pytestmark = pytest.mark.memory
FAR = 4102444800000  # 2100-01-01 in ms
PROPERTIES = {
    "content_type": "application/json",
    "response_topic": "answers/7",
    "correlation_hex": "00ff07",
    "user": [["a", "1"], ["b", "2"], ["a", "1"]],
    "expires_ms": FAR,
    "payload_utf8": 0,
}


def opened(**more):
    return PluginHost("republish", link="dc2", **more)


def delivery(to="alarms/attic", text="hello", target=None, **more):
    return {"target": {"topic": to, "id": False, **(target or {})}, "text": text, **more}


def published(*args, **more):
    """The one publication that this delivery makes."""
    with opened() as host:
        [result] = host.send(delivery(*args, **more))
        assert result["verdict"] == "sent", result
        [publication] = host.published
    return publication


def test_a_publication_has_all_that_the_target_says():
    got = published("a/b", "hé", {"qos": 2, "retain": True}, hops=3, topic="came/by", qos=0, retain=False)
    assert got == {
        "link": "dc2",
        "topic": "a/b",
        "payload_hex": "hé".encode().hex(),
        "qos": 2,
        "retain": True,
        "hops": 4,
        "timeout_ms": 10000,
        "properties": None,
    }


def test_the_defaults_are_qos_1_and_not_retained():
    got = published()
    assert (got["qos"], got["retain"], got["hops"]) == (1, False, 1)


def test_the_time_limit_is_passed_on():
    with opened(timeout="3s") as host:
        host.send(delivery())
        assert host.published[0]["timeout_ms"] == 3000


PAYLOADS = [
    # what, target, more of the delivery, payload
    ("the text", {}, {"text": "new", "payload": "old"}, b"new"),
    ("the payload", {"payload": "payload"}, {"text": "new", "payload_hex": "00ff"}, b"\x00\xff"),
    ("bytes without a format", {}, {"text": "?", "payload_hex": "00ff", "text_is_payload": True}, b"\x00\xff"),
    ("nothing", {}, {"text": "", "payload": "old"}, b""),
    ("1 MiB", {}, {"text": "x" * (1 << 20)}, b"x" * (1 << 20)),
]


@pytest.mark.parametrize("target, more, payload", [p[1:] for p in PAYLOADS], ids=[p[0] for p in PAYLOADS])
def test_payload(target, more, payload):
    assert published(target=target, **more)["payload_hex"] == payload.hex()


def test_properties_go_along_with_the_payload():
    assert published(target={"payload": "payload"}, properties=PROPERTIES)["properties"] == PROPERTIES


def test_a_new_text_has_no_old_content_type():
    got = published(properties=PROPERTIES)["properties"]
    wanted = {**PROPERTIES, "payload_utf8": 1}
    del wanted["content_type"]
    assert got == wanted


def test_the_content_type_can_be_said():
    target = {"content_type": "text/plain"}
    assert published(target=target, properties=PROPERTIES)["properties"]["content_type"] == "text/plain"
    got = published(target=target)["properties"]
    assert got == {"content_type": "text/plain", "payload_utf8": 1, "expires_ms": 0, "user": []}
    assert published(target={"content_type": ""})["properties"] is None


def test_the_id_is_a_user_property_and_takes_the_place_of_an_older_one():
    came = {**PROPERTIES, "user": [["a", "1"], ["tocsin-id", "older"], ["b", "2"]]}
    got = [published(target={"id": True}, id="x-7", attempt=attempt, properties=came)["properties"]["user"] for attempt in (1, 2)]
    assert got == [[["a", "1"], ["b", "2"], ["tocsin-id", "x-7"]]] * 2
    assert published(target={"id": True, "properties": False}, id="x-8")["properties"]["user"] == [["tocsin-id", "x-8"]]


def test_properties_can_be_left_behind():
    assert published(target={"properties": False}, properties=PROPERTIES)["properties"] is None


def test_what_has_expired_is_rejected():
    with opened() as host:
        results = host.send(
            delivery(properties={"expires_ms": 1}),
            delivery(properties={"expires_ms": FAR}),
            delivery(target={"properties": False}, properties={"expires_ms": 1}),
        )
        assert [r["verdict"] for r in results] == ["reject", "sent", "reject"]
        assert results[0]["reason"] == "expired before it could be published"
        assert len(host.published) == 1


def test_the_last_hop_is_the_255th():
    assert published(hops=254)["hops"] == 255
    with opened() as host:
        [result] = host.send(delivery(hops=255))
        assert (result["verdict"], host.published) == ("reject", [])
        assert "loop" in result["reason"]


TOPICS = [
    # topic, is good
    ("a", True),
    ("/", True),
    ("a//b", True),
    ("a b/é", True),
    ("x" * 65535, True),
    ("x" * 65536, False),
    ("é" * 32768, False),
    ("", False),
    ("a/+", False),
    ("a/#", False),
    ("a#b", False),
    ("$SYS/x", False),
    ("a/$SYS", True),
]


@pytest.mark.parametrize("topic, good", TOPICS, ids=[t[0][:10] or "empty" for t in TOPICS])
def test_only_a_topic_name_is_published(topic, good):
    with opened() as host:
        [result] = host.send({"target": {"topic": "{t}"}, "rendered": {"topic": topic}, "text": "x"})
        assert result["verdict"] == ("sent" if good else "reject")
        assert len(host.published) == good
        if not good:
            assert result["reason"].startswith("topic: ")


def test_dollar_topics_can_be_allowed():
    assert published("$own/x", target={"dollar_topics": True})["topic"] == "$own/x"


TARGETS = [
    # topic as the file has it, what check_target() says
    ("a/{b}/c", None),
    ("a/{value:+.1f}", None),
    ("a/{b?#}", None),
    ("{a}", None),
    ("a/+", "wildcard"),
    ("{a}/#", "wildcard"),
    ("", "empty"),
    ("$SYS/{a}", "dollar_topics"),
]


@pytest.mark.parametrize("topic, reason", TARGETS)
def test_a_target_is_checked(topic, reason):
    with opened() as host:
        error = host.check_target({"topic": topic})
        assert (error is None) if reason is None else (reason in error)


def test_dollar_topics_pass_the_check():
    with opened() as host:
        assert host.check_target({"topic": "$SYS/{a}", "dollar_topics": True}) is None


ANSWERS = [
    # error, reason code, verdict, reason
    (0, 0x00, "sent", ""),
    (0, 0x10, "sent", ""),
    (0, 0x87, "reject", "link=dc2: not authorized (0x87)"),
    (-errno.EAGAIN, 0, "retry", "link=dc2: not connected"),
    (-errno.ETIMEDOUT, 0, "retry", "link=dc2: Connection timed out"),
    (-errno.ENOMEM, 0, "retry", "link=dc2: Cannot allocate memory"),
    (-errno.EACCES, 0, "reject", "link=dc2: Permission denied"),
    (-errno.EINVAL, 0, "reject", "link=dc2: Invalid argument"),
    (-errno.EMSGSIZE, 0, "reject", "link=dc2: Message too long"),
    (-errno.ESTALE, 0, "reject", "expired before it could be published"),
    (-errno.EINVAL, 0x80, "retry", "link=dc2: refused, no reason given (0x80)"),
    (-errno.EACCES, 0x87, "reject", "link=dc2: not authorized (0x87)"),
    (-errno.EINVAL, 0x90, "reject", "link=dc2: topic name refused (0x90)"),
    (-errno.EINVAL, 0x95, "reject", "link=dc2: packet too large for the broker (0x95)"),
    (-errno.EINVAL, 0x97, "retry", "link=dc2: quota exceeded (0x97)"),
    (-errno.EINVAL, 0x99, "reject", "link=dc2: payload is not of the format that it claims (0x99)"),
    (-errno.EINVAL, 0x9A, "reject", "link=dc2: broker keeps no retained messages (0x9A)"),
    (-errno.EINVAL, 0x9B, "reject", "link=dc2: broker does not have this quality of service (0x9B)"),
    (-errno.EINVAL, 0xA2, "reject", "link=dc2: refused (0xA2): Invalid argument"),
]


@pytest.mark.parametrize("error, code, verdict, reason", ANSWERS)
def test_what_the_broker_says_becomes_a_verdict(error, code, verdict, reason):
    with opened() as host:
        [result] = host.send(delivery(), publish_results=[[error, code]])
    assert (result["verdict"], result["reason"]) == (verdict, reason)
    assert result["receipt"] == ("no subscribers" if code == 0x10 else "")
    wait = 30000 if code == 0x97 else 0
    assert (result["retry_after_ms"], result["park_ms"]) == (wait, wait)


def test_every_message_of_a_batch_has_its_own_verdict():
    with opened() as host:
        results = host.send(
            *[delivery(text=str(i)) if i != 1 else delivery("a/+") for i in range(5)],
            publish_results=[0, [-22, 0x99], 0, -errno.EAGAIN],
        )
        assert [r["verdict"] for r in results] == ["sent", "reject", "reject", "sent", "retry"]
        assert [bytes.fromhex(p["payload_hex"]) for p in host.published] == [b"0", b"2", b"3", b"4"]


def test_a_link_that_is_down_is_the_trouble_of_the_first_only():
    with opened() as host:
        answers = [0, -errno.EAGAIN, -errno.EAGAIN, -errno.ETIMEDOUT, [-22, 0x99]]
        results = host.send(*[delivery()] * 5, publish_results=answers)
    assert [(r["verdict"], r["reason"]) for r in results[:4]] == [
        ("sent", ""), ("retry", "link=dc2: not connected"), ("retry", ""), ("retry", "")]
    assert results[4]["verdict"] == "reject"


def test_a_hundred_messages_go_at_once():
    with opened() as host:
        results = host.send(*[delivery(text=str(i), properties=PROPERTIES) for i in range(100)])
        assert {r["verdict"] for r in results} == {"sent"}
        assert [bytes.fromhex(p["payload_hex"]) for p in host.published] == [b"%d" % i for i in range(100)]


def test_a_link_must_be_named():
    with pytest.raises(PluginError, match="link: is required"):
        PluginHost("republish")
