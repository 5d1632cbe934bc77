# SPDX-License-Identifier: MIT
"""examples/pushover, all the way: the router with its broker, a stand-in for the service."""

import time

import pytest
from conftest import until
from example import Example
from pushover_server import RECEIPT, TOKEN, USER, PushoverServer
from router import Included

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 16


@pytest.fixture
def server():
    made = PushoverServer()
    yield made
    made.stop()
    assert made.violations == []


@pytest.fixture
def broker(free_port):
    return Included(free_port())


@pytest.fixture
def example(server, broker, build, tmp_path, process):
    def make(**changes):
        where = f'api_url = "{server.url}"; retry_after = "100ms"; token = "{TOKEN}"'
        return Example(
            "pushover",
            build,
            tmp_path,
            process,
            {"port = 1883": f"port = {broker.port}", f'token = "{TOKEN}"': where, **changes},
        )

    return make


def test_the_house_reaches_the_phone(server, broker, client, example):
    router = example()
    assert router.command("check").wait() == 0
    router.start()
    house = client(broker.port)

    house.publish("house/freezer/celsius", "-18")  # nothing to tell
    house.publish("house/freezer/celsius", "-12.34")
    house.publish("house/freezer/celsius", "-9.5")
    house.publish("house/freezer/celsius", "cold")  # no number
    house.publish("house/freezer/celsius", "-8")
    until(lambda: len(server.messages()) >= 3, "three messages")
    seen = [{n: m.get(n) for n in ("title", "message", "priority")} for m in server.messages()]
    seen = [m for m in seen if "-" in m["message"]]
    assert seen == [
        {"title": "Freezer: warning", "message": "-12.3 °C", "priority": None},
        {"title": "Freezer: critical", "message": "-9.5 °C", "priority": "1"},
        {"title": "Freezer: critical", "message": "-8.0 °C", "priority": "1"},
    ]
    assert abs(int(server.messages()[-1]["timestamp"]) - time.time()) < 3600

    before = len(server.requests)
    house.publish("house/cellar/water", "wet")
    house.publish("house/cellar/water", "dry")
    wet, cancel, dry = server.wait_requests(before + 3)[before:]
    assert wet.fields | {"timestamp": ""} == {
        "token": TOKEN,
        "user": USER,
        "title": "Water in the cellar",
        "message": "The floor is wet.",
        "priority": "2",
        "retry": "60",
        "expire": "7200",
        "tags": "water-cellar",
        "sound": "siren",
        "timestamp": "",
    }
    assert cancel.path == "/1/receipts/cancel_by_tag/water-cellar.json"
    assert (dry.fields["message"], dry.fields.get("priority")) == ("The floor is dry.", None)

    house.publish("house/door/picture", PNG)
    [picture] = server.wait_requests(before + 4)[before + 3 :]
    assert picture.files["attachment"][1:] == ("image/png", PNG)
    assert (picture.fields["title"], picture.fields["message"]) == ("Somebody rang", "house/door/picture")
    assert picture.fields["ttl"] == "86400"


def test_large_and_invalid_payloads_do_no_harm(server, broker, client, example):
    example().start()
    house = client(broker.port)
    house.publish("house/door/picture", b"x" * (10 << 20))
    house.publish("house/door/picture", b"\xff\xfe\x00")
    house.publish("house/cellar/water", b"\xff")
    house.publish("house/freezer/celsius", "-1")
    messages = [r.fields["message"] for r in server.wait_requests(4) if "message" in r.fields]
    until(lambda: {"x" * 1023 + "…", "-1.0 °C"} <= {m["message"] for m in server.messages()}, "both")
    assert not any("\0" in m for m in messages)


def test_a_service_that_is_away_gets_everything_later(server, broker, client, example):
    server.stop()
    run = example().start()
    house = client(broker.port)
    for celsius in (-5, -4):
        house.publish("house/freezer/celsius", str(celsius))
    run.wait_line("no answer")
    server.start()
    until(lambda: len(server.messages()) == 2, "both messages")
    server.stop()
    house.publish("house/freezer/celsius", "-3")
    server.start()
    until(lambda: len(server.messages()) == 3, "the third message")
    assert [m["message"] for m in server.messages()] == ["-5.0 °C", "-4.0 °C", "-3.0 °C"]


def test_a_used_up_quota_holds_all_back_until_it_is_filled(server, broker, client, example):
    run = example().start()
    house = client(broker.port)
    server.script = [(429, {"X-Limit-App-Reset": str(int(time.time()) + 3)})]
    house.publish("house/freezer/celsius", "-5")
    run.wait_line("quota")
    house.publish("house/freezer/celsius", "-4")
    until(lambda: len(server.messages()) == 2, "both messages")
    assert [r.status for r in server.requests] == [429, 200, 200]


def test_a_refused_user_parks_only_its_own_target(server, broker, client, example):
    run = example(**{f'door   = {{ user = "{USER}"': f'door   = {{ user = "{"x" * 30}"'}).start()
    house = client(broker.port)
    for i in range(5):
        house.publish("house/door/picture", f"{i}")
    run.wait_line("target parked")
    for i in range(5):
        house.publish("house/freezer/celsius", f"-{i + 1}")
    until(lambda: len(server.messages()) == 5, "the other target's messages")
    assert [r.fields["message"] for r in server.requests if r.status == 400] == ["0"]
    assert TOKEN not in run.text()


def test_many_at_once_use_two_connections(server, broker, client, example):
    example().start()
    house = client(broker.port)
    for i in range(30):
        house.publish_soon(f"house/room{i}/water", "dry")
        house.publish_soon("house/freezer/celsius", f"-{i % 9}")
    until(lambda: len(server.messages()) == 60, "all messages")
    assert len([r for r in server.requests if "cancel_by_tag" in r.path]) == 30


def test_one_message_by_hand(server, example):
    router = example()
    sent = router.command("send", "phone:family", "a first try")
    assert sent.wait() == 0
    assert server.messages()[0]["message"] == "a first try"
    sent = router.command("send", "--json", "-p", "2", "phone:family", "help")
    assert sent.wait() == 0 and RECEIPT in sent.text("out")
    server.script = [(400, {}), (500, {})]
    assert router.command("send", "phone:family", "refused").wait() == 1
    assert router.command("send", "phone:family", "later").wait() == 75
