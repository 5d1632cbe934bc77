# SPDX-License-Identifier: MIT
"""The plugin pushover against a stand-in for the API that enforces the vendor's rules."""

import base64
import subprocess
import time

import pytest
from plugin_host import PluginError, PluginHost
from pushover_server import OTHER_USER, RECEIPT, TOKEN, USER, PushoverServer, decrypt

pytestmark = pytest.mark.memory
KEY = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4 + b"\r\n--\r\n"


@pytest.fixture
def server():
    """A stand-in that found nothing to complain of in the client's ways at the end."""
    made = PushoverServer()
    yield made
    made.stop()
    assert made.violations == []


@pytest.fixture
def host(server):
    """host(options) opens the plugin against the stand-in."""
    made = []

    def make(**options):
        options = {"token": TOKEN, "api_url": server.url, "retry_after": "1s", **options}
        made.append(PluginHost("pushover", **options))
        return made[-1]

    yield make
    for h in made:
        h.close()


def delivery(target=None, **more):
    return {"target": {"user": USER, **(target or {})}, "topic": "room1/temp", "text": "31.5 °C", **more}


def sent(server, host, *deliveries):
    """Sends one after the other; returns the fields that arrived."""
    before = len(server.messages())
    for d in deliveries:
        [result] = host.send(d)
        assert result["verdict"] == "sent", (result, server.requests)
    return server.messages()[before:]


def test_the_request_vector_arrives(server, host):
    [fields] = sent(
        server,
        host(),
        delivery(
            {"priority": 2, "repeat": "60s", "expire": "1h", "tags": "{room}-temp"},
            rendered={"tags": "room1-temp"},
            title="Temp high",
            received_ms=1700000000999,
        ),
    )
    assert fields == {
        "token": TOKEN,
        "user": USER,
        "title": "Temp high",
        "message": "31.5 °C",
        "priority": "2",
        "retry": "60",
        "expire": "3600",
        "tags": "room1-temp",
        "timestamp": "1700000000",
    }


def test_every_parameter_arrives(server, host):
    cases = [
        # target options, rest of the delivery, what arrives of it (None: is absent)
        ({"user": [USER, OTHER_USER]}, {}, {"user": f"{USER},{OTHER_USER}"}),
        ({"device": ["phone", "tab_1"]}, {}, {"device": "phone,tab_1"}),
        ({"title": "T"}, {"title": "route's"}, {"title": "T"}),
        ({"title": "{x}"}, {"rendered": {"title": " "}, "title": "route's"}, {"title": "route's"}),
        ({}, {"title": ""}, {"title": None}),
        ({"url": "https://a.example/?q=1&b=%20", "url_title": "see"}, {}, {"url_title": "see"}),
        ({"url": "https://a.example/?q=1&b=%20"}, {}, {"url": "https://a.example/?q=1&b=%20", "url_title": None}),
        ({"url_title": "alone"}, {}, {"url": None, "url_title": None}),
        ({"sound": "siren"}, {}, {"sound": "siren"}),
        ({"sound": "{s}"}, {"rendered": {"sound": "no name!"}}, {"sound": None}),
        ({"sound": "{s}"}, {"rendered": {"sound": ""}}, {"sound": None}),
        ({"html": True}, {"html": "<b>a &lt; b</b>"}, {"message": "<b>a &lt; b</b>", "html": "1"}),
        ({"monospace": True}, {}, {"monospace": "1", "html": None}),
        ({"timestamp": False}, {}, {"timestamp": None}),
        ({"ttl": "90s"}, {}, {"ttl": "90"}),
        ({"ttl": "90s", "priority": 2}, {}, {"ttl": None}),
        ({"ttl": "1ms"}, {}, {"ttl": "1"}),
        ({"priority": 2, "callback": "https://cb.example/"}, {}, {"callback": "https://cb.example/"}),
        ({"priority": 1, "callback": "https://cb.example/", "tags": "t"}, {}, {"callback": None, "tags": None}),
        ({"priority": 2}, {}, {"retry": "60", "expire": "3600"}),
        ({}, {"text": "a+b&c=d%20\n\t\"€😀"}, {"message": "a+b&c=d%20\n\t\"€😀"}),
        ({}, {"text": " \n"}, {"message": "room1/temp"}),
        ({}, {"text": ""}, {"message": "room1/temp"}),
        ({"token": TOKEN}, {}, {"token": TOKEN}),
    ]
    h = host()
    for options, more, wanted in cases:
        [fields] = sent(server, h, delivery(options, **more))
        assert {name: fields.get(name) for name in wanted} == wanted, (options, more)
    assert server.accepted_connections == 1


def test_priority_is_the_targets_or_the_routes_or_the_severitys(server, host):
    cases = [
        ({}, {}, None),
        ({}, {"severity": "ok"}, "-1"),
        ({}, {"severity": "warning"}, None),
        ({}, {"severity": "critical"}, "1"),
        ({}, {"severity": "unknown"}, None),
        ({}, {"severity": "critical", "priority": -2}, "-2"),
        ({}, {"severity": "critical", "priority": 0}, None),
        ({}, {"priority": 9}, "2"),
        ({}, {"priority": -9}, "-2"),
        ({"priority": 0}, {"priority": 2, "severity": "critical"}, None),
        ({"priority": -2}, {"priority": 2}, "-2"),
    ]
    h = host()
    for options, more, wanted in cases:
        [fields] = sent(server, h, delivery(options, **more))
        assert fields.get("priority") == wanted, (options, more)


def test_long_texts_are_cut_by_characters_and_say_so(server, host):
    cases = [
        # name, delivery, what arrives
        ("message", {"text": "😀" * 1024}, "😀" * 1024),
        ("message", {"text": "😀" * 1025}, "😀" * 1023 + "…"),
        ("title", {"title": "ä" * 250}, "ä" * 250),
        ("title", {"title": "ä" * 251}, "ä" * 249 + "…"),
        ("url_title", {"rendered": {"url": "u", "url_title": "z" * 101}}, "z" * 99 + "…"),
        ("url", {"rendered": {"url": "ü" * 512, "url_title": ""}}, "ü" * 512),
        ("url", {"rendered": {"url": "ü" * 513, "url_title": ""}}, None),
    ]
    h = host()
    for name, more, wanted in cases:
        [fields] = sent(server, h, delivery({"url": "{u}", "url_title": "{t}"}, **{"rendered": {"url": ""}, **more}))
        assert fields.get(name) == wanted, name
    assert any("url left out" in text for _, text in h.logs)


def test_cut_html_has_no_half_tags_and_none_left_open(server, host):
    cases = [
        ("<b>" + "x" * 2000 + "</b>", "<b>" + "x" * 1016 + "…</b>"),
        ("x" * 1019 + "&amp;" + "y" * 50, "x" * 1019 + "…"),
        ("x" * 1018 + "&amp;" + "y" * 50, "x" * 1018 + "&amp;…"),
        ("x" * 1020 + "<b>y</b>" + "z" * 9, "x" * 1020 + "…"),
        ('<a href="https://a.example/">' + "<i>" + "ä" * 2000, '<a href="https://a.example/"><i>' + "ä" * 983 + "…</i></a>"),
        ("<b>" * 9 + "x" * 1000, "<b>" * 8 + "…" + "</b>" * 8),
        ("a < b & c " * 200, ("a < b & c " * 200)[:1023] + "…"),
        ("<" * 2000, "<" * 1023 + "…"),
    ]
    h = host()
    for html, wanted in cases:
        [fields] = sent(server, h, delivery({"html": True}, html=html))
        assert fields["message"] == wanted, html[:40]


def test_an_image_is_attached_and_other_payloads_are_not(server, host):
    h = host()
    cases = [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0" + PNG, "image/jpeg"),
        (b"GIF89a" + PNG, "image/gif"),
        (b"RIFF\0\0\0\0WEBP" + PNG, "image/webp"),
        (b"", None),
        (b"\x89PN", None),
        (b"<svg/>", None),
        (b"\xff\xfe\x00invalid", None),
        (PNG + bytes(5242880 - len(PNG)), "image/png"),
        (PNG + bytes(5242881 - len(PNG)), None),
    ]
    for payload, kind in cases:
        d = delivery({"attachment": True}, payload_hex=payload.hex(), title="door")
        [result] = h.send(d)
        assert result["verdict"] == "sent", payload[:9]
        request = server.requests[-1]
        assert request.fields["message"] == "31.5 °C"
        if kind is None:
            assert request.files == {}, payload[:9]
        else:
            assert request.files["attachment"][1:] == (kind, payload)
    assert any("image left out" in text for _, text in h.logs)

    # The picture itself is no text.
    [fields] = sent(
        server, h, delivery({"attachment": True}, payload_hex=PNG.hex(), text="\ufffdPNG", text_is_payload=True)
    )
    assert fields["message"] == "room1/temp"
    # Unless asked for, nothing is attached.
    sent(server, h, delivery(payload_hex=PNG.hex()))
    assert server.requests[-1].files == {}


def test_encrypted_fields_decrypt_and_nothing_goes_in_the_clear(server, host):
    vector = (
        "AAECAwQFBgcICQoLDA0OD06CdujJ5ZXRhtemLK2oahqaGzYs8pBrIF2jIJxW7HudapvQ5/Uiivqd56Y1ULlYw8HdiKwqhdBTzWWoISE"
        "CoBYlbfcLUdbArAY+6DuoP3e9"
    )
    assert decrypt(vector, KEY) == "Temp 31.5 °C"
    options = {"encryption_key": KEY.upper(), "url": "https://a.example/", "url_title": "see"}
    h = host()
    [fields] = sent(server, h, delivery(options, title="Hot", text="Temp 31.5 °C"))
    plain = {"message": "Temp 31.5 °C", "title": "Hot", "url": "https://a.example/", "url_title": "see"}
    assert fields["encrypted"] == "1"
    assert {name: decrypt(fields[name], KEY) for name in plain} == plain
    [again] = sent(server, h, delivery(options, title="Hot", text="Temp 31.5 °C"))
    assert base64.b64decode(again["title"])[:16] != base64.b64decode(fields["title"])[:16]
    server.encryption_key = KEY
    [fields] = sent(server, h, delivery(options, text="ä" * 3000))
    assert fields["message"] == "ä" * 1023 + "…"


def test_the_receipt_is_kept(server, host):
    h = host()
    [emergency] = h.send(delivery({"priority": 2}))
    [normal] = h.send(delivery())
    assert emergency["receipt"] == RECEIPT
    assert normal["receipt"].startswith("647d2300-702c-4b38-8b2f-")


def test_ok_ends_the_repeating_of_the_alarm(server, host):
    h = host()
    options = {"tags": "{t}", "cancel": True}
    d = delivery(options, rendered={"tags": "room 1/temp,other"}, severity="ok")
    sent(server, h, d)
    assert [r.path for r in server.requests] == [
        "/1/receipts/cancel_by_tag/room%201%2Ftemp.json",
        "/1/messages.json",
    ]
    sent(server, h, delivery(options, severity="critical"), delivery({"tags": "t"}, severity="ok"))
    assert [r.path for r in server.requests[2:]] == ["/1/messages.json"] * 2

    # Refused, it does not hold the all-clear up; unanswered, it is tried again first.
    server.script = [(400, {})]
    sent(server, h, {**d, "rendered": {"tags": "a"}})
    server.script = [(500, {})]
    [result] = h.send({**d, "rendered": {"tags": "b"}})
    assert (result["verdict"], len(server.requests)) == ("retry", 7)
    sent(server, h, {**d, "rendered": {"tags": "b"}})
    assert server.requests[-2].path == "/1/receipts/cancel_by_tag/b.json"


def test_a_wrong_token_or_user_rejects_and_parks(server, host):
    h = host(park="7m")
    wrong = "x" * 30
    cases = [({"token": wrong}, "token is invalid"), ({"user": wrong}, "user identifier")]
    for options, reason in cases:
        [result] = h.send(delivery(options))
        assert (result["verdict"], result["park_ms"]) == ("reject", 420000)
        assert reason in result["reason"] and "400" in result["reason"]
    assert len([1 for level, text in h.logs if level == "error" and "parked" in text]) == 2
    assert wrong not in str(h.logs) and TOKEN not in str(h.logs)


def test_the_third_refusal_in_a_row_parks(server, host):
    h = host(park="7m")
    verdicts = []
    for i, status in enumerate([400, 413, 200, 400, 404, 400, 400]):
        server.script = [(status, {})] if status != 200 else []
        [result] = h.send(delivery(text=f"message {i}"))
        verdicts.append((result["verdict"], result["park_ms"]))
    assert verdicts == [
        ("reject", 0),
        ("reject", 0),
        ("sent", 0),
        ("reject", 0),
        ("reject", 0),
        ("reject", 420000),
        ("reject", 420000),
    ]


def test_a_status_other_than_1_is_a_refusal(server, host):
    server.script = ["refuse"]
    [result] = host().send(delivery())
    assert result["verdict"] == "reject" and "as told" in result["reason"]


def test_a_used_up_quota_parks_until_it_is_filled_again(server, host):
    h = host()
    now = int(time.time())
    server.script = [(429, {"X-Limit-App-Reset": str(now + 864000)})]
    [result] = h.send(delivery())
    assert result["verdict"] == "retry"
    assert 863000_000 < result["park_ms"] <= 864000_000
    assert result["retry_after_ms"] == result["park_ms"]
    cases = [
        ({}, 3600_000),
        ({"X-Limit-App-Reset": "0"}, 1000),
        ({"X-Limit-App-Reset": "soon"}, 3600_000),
        ({"X-Limit-App-Reset": "9" * 60}, 3600_000),
        ({"X-Limit-App-Reset": "9" * 15}, 32 * 86400_000),
        ({"Retry-After": "20"}, 20_000),
    ]
    for headers, wanted in cases:
        server.script = [(429, headers)]
        [result] = h.send(delivery())
        assert (result["verdict"], result["park_ms"]) == ("retry", wanted), headers


def test_the_quota_is_watched(server, host):
    server.remaining = 501
    h = host()
    sent(server, h, delivery(), delivery(), delivery())
    warnings = [text for level, text in h.logs if level == "warning"]
    assert len(warnings) == 1 and "remaining=499 limit=10000" in warnings[0]


def test_trouble_of_the_service_is_retried_ever_later(server, host):
    h = host(timeout="500ms")
    for attempt, wanted in [(1, 1000), (2, 2000), (3, 4000), (7, 64000), (100, 64000)]:
        server.script = [(500, {})]
        [result] = h.send(delivery(attempt=attempt))
        assert (result["verdict"], result["retry_after_ms"], result["park_ms"]) == ("retry", wanted, wanted)
    for act, reason in [
        ((503, {"Retry-After": "11"}), "503"),
        ((599, {}), "599"),
        ("redirect", "302"),
        ("close", "no answer"),
        ("half", "no answer"),
        ("silence", "no answer"),
        ("garbage", "not an answer"),
        ("endless", "not an answer"),
    ]:
        # On a kept connection, a close before the answer is mostly just that: libcurl tries once more.
        server.script = [act] * (2 if act == "close" else 1)
        [result] = h.send(delivery())
        assert result["verdict"] == "retry" and reason in result["reason"], (act, result)
        assert result["retry_after_ms"] == (11000 if "503" in reason else 1000), act
    assert {r.path for r in server.requests} == {"/1/messages.json"}
    sent(server, h, delivery())


def test_each_attempt_has_the_same_key(server, host):
    h = host()
    server.script = [(500, {})]
    for attempt in (1, 2):
        h.send(delivery(id="x-7", attempt=attempt))
    sent(server, h, delivery(id="x-8"))
    assert [r.key for r in server.requests] == ["x-7", "x-7", "x-8"]


def test_default_wait_is_what_the_vendor_asks_for(server):
    server.script = [(500, {})]
    with PluginHost("pushover", token=TOKEN, api_url=server.url) as h:
        [result] = h.send(delivery())
    assert result["retry_after_ms"] == 5000


def test_a_service_that_is_away_at_start_and_comes_back(server, host):
    server.stop()
    h = host()
    [result] = h.send(delivery())
    assert result["verdict"] == "retry" and result["retry_after_ms"] == 1000
    server.start()
    sent(server, h, delivery(attempt=2))


def test_a_restart_between_two_messages_loses_and_doubles_nothing(server, host):
    h = host()
    sent(server, h, delivery(text="before"))
    server.stop()
    server.start()
    sent(server, h, delivery(text="after"))
    assert [m["message"] for m in server.messages()] == ["before", "after"]


def test_large_and_undecodable_payloads_arrive_cut_and_repaired(server, host):
    h = host()
    [fields] = sent(server, h, delivery(payload_hex="61" * (10 << 20), text="a" * (10 << 20)))
    assert fields["message"] == "a" * 1023 + "…"
    [fields] = sent(
        server, h, delivery(payload_hex="fffe00c3", text="\ufffd\ufffd\ufffd\ufffd", text_is_payload=True)
    )
    assert fields["message"] == "\ufffd" * 4


def test_tls_is_verified(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    server = PushoverServer(tls=(cert, key))
    try:
        with PluginHost("pushover", token=TOKEN, api_url=server.url) as h:
            [result] = h.send(delivery())
            assert result["verdict"] == "retry" and "certificate" in result["reason"]
        with PluginHost("pushover", token=TOKEN, api_url=server.url, ca=str(cert)) as h:
            sent(server, h, delivery())
    finally:
        server.stop()
    assert server.violations == []


def test_wrong_options_are_named(server, host):
    for options, wanted in [({"token": "short"}, "token"), ({"api_url": "ftp://x"}, "api_url")]:
        with pytest.raises(PluginError, match=wanted):
            host(**options)
    h = host()
    cases = [
        ({"user": []}, "user"),
        ({"user": "me"}, "user"),
        ({"user": USER[:-1] + "-"}, "user"),
        ({"user": [USER] * 51}, "user"),
        ({"token": "t"}, "token"),
        ({"user": [USER, OTHER_USER], "device": "phone"}, "device"),
        ({"device": "my phone"}, "device"),
        ({"device": "x" * 26}, "device"),
        ({"html": True, "monospace": True}, "monospace"),
        ({"callback": "me@a.example"}, "callback"),
        ({"cancel": True}, "cancel"),
        ({"encryption_key": KEY[1:]}, "encryption_key"),
        ({"encryption_key": "g" * 64}, "encryption_key"),
        ({"encryption_key": KEY, "attachment": True}, "attachment"),
        ({"repeat": "29s"}, "repeat"),
        ({"expire": "3h1s"}, "expire"),
        ({"priority": 3}, "priority"),
    ]
    for options, wanted in cases:
        assert wanted in (h.check_target({"user": USER, **options}) or ""), options
    assert h.check_target({"user": [USER] * 50}) is None
    with PluginHost("pushover", api_url=server.url) as bare:
        assert "token" in bare.check_target({"user": USER})
        assert bare.check_target({"user": USER, "token": TOKEN}) is None


def test_only_html_asks_for_html(host):
    h = host()
    assert h.wants({"user": USER}) == 0
    assert h.wants({"user": USER, "html": True}) == 2
