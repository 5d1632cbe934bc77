# SPDX-License-Identifier: MIT
"""The plugin gelf against receivers that read strictly, the sheet's vectors, and Wireshark's dissector."""

import base64
import hashlib
import json
import pathlib
import socket
import struct
import subprocess
import time

import pytest
from conftest import until
from gelf_server import Http, Tcp, Udp, parse
from plugin_host import PluginError, PluginHost

pytestmark = pytest.mark.memory
VECTORS = json.loads((pathlib.Path(__file__).parent / "data" / "gelf-vectors.json").read_text())


@pytest.fixture
def opened():
    """opened(receiver, options) opens the plugin for it."""
    made = []

    def make(receiver, **options):
        options = {"host": "127.0.0.1", "port": receiver.port, **options}
        options.setdefault("transport", type(receiver).__name__.lower())
        made.append(PluginHost("gelf", **options))
        return made[-1]

    yield make
    for h in made:
        h.close()


@pytest.fixture
def receiver():
    """receiver(Kind, ...) starts one that is stopped at the end."""
    made = []

    def make(kind, *args, **options):
        made.append(kind(*args, **options))
        return made[-1]

    yield make
    for r in made:
        r.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return str(cert), str(key)


def send(host, *deliveries):
    for d in deliveries:
        [result] = host.send(d)
        assert result["verdict"] == "sent", result


# ---- The record ------------------------------------------------------------------------------------------------


PLAIN = {
    "target": {"source": "router.example", "add": ["topic", "qos"], "level": "warning"},
    "topic": "sensors/room1/temp",
    "text": "WARN temp 31.5 °C",
    "received_ms": 1700000000123,
    "qos": 1,
    "fields": [["temp", "31.5", "number"]],
}


def test_the_plain_vector(receiver, opened):
    udp = receiver(Udp)
    h = opened(udp)
    wanted = json.loads(bytes.fromhex(VECTORS["plain_hex"]))
    send(h, PLAIN)
    assert json.loads(udp.get_text()) == wanted
    # Byte for byte, without the field that the vector has at another place.
    target = {**PLAIN["target"], "add": ["topic"], "fields": ["qos=1"], "as_number": ["qos"]}
    send(h, {**PLAIN, "target": {**target, "fields": []}})
    assert udp.get_text() == bytes.fromhex(VECTORS["plain_hex"]).replace(b',"_qos":1', b"")


def test_compressed_vectors(receiver, opened):
    udp = receiver(Udp)
    for compression, first in [("zlib", b"\x78"), ("gzip", b"\x1f\x8b")]:
        send(opened(udp, compression=compression), PLAIN)
        record = udp.get()
        assert len(udp.datagrams) == 1 and udp.datagrams[0].startswith(first)
        assert record == json.loads(bytes.fromhex(VECTORS["plain_hex"]))


def test_the_chunked_vector_byte_for_byte(receiver, opened):
    udp = receiver(Udp)
    d = {
        "target": {"source": "router.example", "add": "topic"},
        "topic": "a/b",
        "title": "big",
        "text": "x" * 3000,
        "received_ms": 1700000000000,
        "severity": "ok",
    }
    h = opened(udp, datagram=str(VECTORS["chunk_limit"]))
    send(h, d)
    text = udp.get_text()
    assert len(text) == VECTORS["chunk_message_len"]
    assert hashlib.sha256(text).hexdigest() == VECTORS["chunk_message_sha256"]
    ident = udp.datagrams[0][2:10]
    for got, wanted in zip(udp.datagrams, VECTORS["chunks"], strict=True):
        got = got[:2] + bytes(range(8)) + got[10:]
        assert len(got) == wanted["len"] and got.hex().startswith(wanted["head_hex"])
        assert hashlib.sha256(got).hexdigest() == wanted["sha256"]
    send(h, d)
    udp.get_text()
    assert udp.datagrams[0][2:8] != ident[:6]  # an implementation goes by six bytes


def test_the_tcp_vector(receiver, opened):
    tcp = receiver(Tcp)
    target = {"source": "h", "add": "none"}
    results = opened(tcp).send(*[{"target": target, "text": t, "severity": "ok"} for t in "ab"])
    assert [r["verdict"] for r in results] == ["sent", "sent"]
    wanted = [json.loads(f) for f in bytes.fromhex(VECTORS["tcp_hex"]).split(b"\0")[:-1]]
    for expected in wanted:
        record = tcp.get()
        assert {name: record[name] for name in expected} == expected


def test_texts(receiver, opened):
    hostname = socket.gethostname()
    lines = "line 1\nline 2\n"
    cases = [
        # delivery, what arrives of it (None: is absent)
        ({"text": "hello"}, {"short_message": "hello", "full_message": None, "host": hostname}),
        ({"text": " hello\n"}, {"short_message": "hello", "full_message": None}),
        ({"text": lines}, {"short_message": "line 1", "full_message": lines}),
        ({"text": "\n \n" + lines}, {"short_message": "line 1", "full_message": "\n \n" + lines}),
        ({"text": "31", "title": "hot"}, {"short_message": "hot", "full_message": "31"}),
        ({"text": "hot", "title": "hot"}, {"short_message": "hot", "full_message": None}),
        ({"text": "", "title": ""}, {"short_message": "t/1", "full_message": None}),
        ({"text": " \r\n", "title": " "}, {"short_message": "t/1", "full_message": None}),
        ({"text": "x" * 1024}, {"short_message": "x" * 1024, "full_message": None}),
        ({"text": "ä" * 1025}, {"short_message": "ä" * 1023 + "…", "full_message": "ä" * 1025}),
        ({"text": "a", "title": "b", "target": {"short_message": "c"}}, {"short_message": "c", "full_message": "a"}),
        ({"text": "a", "target": {"short_message": "{x}"}, "rendered": {"short_message": " "}}, {"short_message": "a"}),
        ({"target": {"source": "{d}"}, "rendered": {"source": "dev 1"}}, {"host": "dev 1"}),
        ({"target": {"source": "{d}"}, "rendered": {"source": " "}}, {"host": hostname}),
        ({"text": 'q"b\\s/\b\f\r\x00\x1f\x7f€😀'}, {"short_message": 'q"b\\s/\b\f\r\x00\x1f\x7f€😀'}),
        ({"received_ms": 1700000000007}, {"timestamp": 1700000000.007}),
        ({"received_ms": 1700000000000}, {"timestamp": 1700000000}),
        ({"received_ms": 0}, {"timestamp": None}),
        ({}, {"level": 6}),
        ({"severity": "ok"}, {"level": 6}),
        ({"severity": "warning"}, {"level": 4}),
        ({"severity": "critical"}, {"level": 2}),
        ({"severity": "unknown"}, {"level": 3}),
        ({"severity": "critical", "target": {"level": "debug"}}, {"level": 7}),
        ({"target": {"level": "emergency"}}, {"level": 0}),
    ]
    udp = receiver(Udp)
    h = opened(udp, datagram="8192")
    for d, wanted in cases:
        if "\x00" in d.get("text", ""):
            d = {**d, "text": d["text"].replace("\x00", "")}
            wanted = {"short_message": wanted["short_message"].replace("\x00", "")}
        send(h, {"topic": "t/1", "text": "x", **d})
        record = udp.get()
        assert {name: record.get(name) for name in wanted} == wanted, d


def test_additional_fields(receiver, opened):
    long = "ä" * 20000
    cases = [
        # target options, decoded fields, the additional fields that arrive
        ({}, [], {}),
        ({}, [["a", "x", "string"]], {"_a": "x"}),
        ({}, [["a", "1e3", "number"]], {"_a": 1000.0}),
        ({}, [["a", "-0.5", "number"]], {"_a": -0.5}),
        ({}, [["a", "1e999", "number"]], {"_a": "1e999"}),
        ({}, [["a", "12345678901234567890123", "number"]], {"_a": 12345678901234567890123}),
        ({}, [["a", "true", "bool"], ["b", "false", "bool"]], {"_a": "true", "_b": "false"}),
        ({"booleans": "number"}, [["a", "true", "bool"], ["b", "false", "bool"]], {"_a": 1, "_b": 0}),
        ({}, [["a", "null", "null"]], {}),
        ({}, [["a", '[1,"x"]', "json"]], {"_a": '[1,"x"]'}),
        ({}, [["a.b.c", "x", "string"]], {"_a_b_c": "x"}),
        ({"separator": "."}, [["a.b.c", "x", "string"]], {"_a.b.c": "x"}),
        ({}, [["Größe in m²/\n", "x", "string"]], {"_Gr__e_in_m___": "x"}),
        ({}, [["id", "x", "string"]], {"__id": "x"}),
        ({}, [["", "x", "string"]], {"__": "x"}),
        ({}, [["n" * 5000, "x", "string"]], {"_" + "n" * 247: "x"}),
        ({}, [["a.b", "1", "string"], ["a_b", "2", "string"]], {"_a_b": "1", "_json_a_b": "2"}),
        ({}, [["a", "1", "string"], ["a", "2", "string"], ["a", "3", "string"]], {"_a": "1", "_json_a": "2"}),
        ({}, [["topic", "mine", "string"], ["route", "9", "number"]], {"_json_topic": "mine", "_json_route": 9}),
        ({}, [["a", long, "string"]], {"_a": "ä" * 16383}),
        ({"as_text": ["a.b"]}, [["a.b", "5", "number"]], {"_a_b": "5"}),
        ({"as_number": "a"}, [["a", "5.5", "string"]], {"_a": 5.5}),
        ({"as_number": "a"}, [["a", "five", "string"]], {}),
        ({"as_number": "a"}, [["a", "0x5", "string"]], {}),
        ({"as_number": "a"}, [["a", "05", "string"]], {}),
        ({"as_number": "a"}, [["a", "nan", "string"]], {}),
        ({"decoded": False}, [["a", "x", "string"]], {}),
        ({"fields": ["site=attic", "n=5", "e="]}, [["n", "x", "string"]], {"_site": "attic", "_n": "5", "_e": "", "_json_n": "x"}),
        ({"fields": ["n=5"], "as_number": ["n"]}, [], {"_n": 5}),
    ]
    udp = receiver(Udp)
    h = opened(udp)
    for options, fields, wanted in cases:
        send(h, {"target": options, "topic": "t/1", "route": "r", "text": "x", "fields": fields})
        record = udp.get()
        more = {name: value for name, value in record.items() if name[0] == "_"}
        assert more == {"_topic": "t/1", "_route": "r", **wanted}, (options, fields)


def test_what_is_added_of_the_message(receiver, opened):
    udp = receiver(Udp)
    h = opened(udp)
    d = {"topic": "t", "route": "r", "link": "l", "id": "i-1", "severity": "warning", "qos": 2, "retain": True}
    send(h, {**d, "target": {"add": ["topic", "route", "link", "severity", "qos", "retain", "message_id"]}})
    record = udp.get()
    assert {name: value for name, value in record.items() if name[0] == "_"} == {
        "_topic": "t",
        "_route": "r",
        "_link": "l",
        "_severity": "warning",
        "_message_id": "i-1",
        "_qos": 2,
        "_retain": 1,
    }


def test_fields_beyond_all_measure_are_left_out(receiver, opened):
    udp = receiver(Udp)
    h = opened(udp)
    send(h, {"text": "x", "fields": [[f"f{i}", "1", "number"] for i in range(5000)]})
    assert len([name for name in udp.get() if name.startswith("_")]) == 256
    send(h, {"text": "x", "fields": [[f"f{i}", "\x01" * 32766, "string"] for i in range(20)] + [["g", "1", "number"]]})
    assert udp.get()["_g"] == 1


# ---- UDP -------------------------------------------------------------------------------------------------------


def test_128_chunks_are_the_limit_and_full_message_gives_way(receiver, opened):
    udp = receiver(Udp)
    limit = 128 * (256 - 12)
    h = opened(udp, datagram="256")
    for n in (limit // 2, limit, 1 << 20):
        send(h, {"title": "short", "text": "ä" * (n // 2), "topic": "t"})
        record = udp.get()
        assert record["short_message"] == "short" and record["_topic"] == "t"
        assert max(len(d) for d in udp.datagrams) <= 256
        if n < limit:
            assert record["full_message"] == "ä" * (n // 2)
        else:
            assert len(udp.datagrams) == 128
            assert record["full_message"].strip("ä") == "…"


def test_compressed_records_are_cut_to_128_chunks_too(receiver, opened):
    udp = receiver(Udp)
    noise = "".join(hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000))
    h = opened(udp, datagram="256", compression="gzip")
    send(h, {"title": "short", "text": noise})
    record = udp.get()
    assert 64 <= len(udp.datagrams) <= 128
    assert record["full_message"][-1] == "…" and noise.startswith(record["full_message"][:-1])
    fields = [[f"f{i}", noise[i * 4000 : i * 4000 + 4000], "string"] for i in range(60)]
    send(h, {"title": "short", "text": noise, "fields": fields})
    assert udp.get()["short_message"] == "short"


def test_udp_without_a_listener_is_retried(receiver, opened):
    udp = receiver(Udp)
    h = opened(udp)
    udp.stop()
    results = h.send({"text": "a"}, {"text": "b"})
    assert [r["verdict"] for r in results] == ["retry", "retry"]
    assert "refused" in results[0]["reason"] and results[1]["reason"] == ""
    again = receiver(Udp, udp.port)
    send(h, {"text": "c"})
    assert again.get()["short_message"] == "c"
    assert again.is_empty()


def test_an_unknown_host_is_retried(receiver, opened):
    udp = receiver(Udp)
    for transport in ("udp", "tcp", "http"):
        [result] = opened(udp, transport=transport, host="no-such-host.invalid").send({"text": "a"})
        assert result["verdict"] == "retry" and "resolve" in result["reason"].lower(), result


def test_the_dissector_of_wireshark_reads_the_datagrams(receiver, opened, tmp_path):
    udp = receiver(Udp)
    datagrams = []
    texts = []
    for compression, d in [
        ("none", PLAIN),
        ("zlib", PLAIN),
        ("gzip", PLAIN),
        ("none", {"title": "chunked", "text": "long " * 1000}),
        ("gzip", {"title": "packed and chunked", "text": base64.b64encode(bytes(range(256)) * 8).decode()}),
    ]:
        send(opened(udp, compression=compression, datagram="500"), d)
        texts.append(udp.get_text())
        datagrams += udp.datagrams

    pcap = tmp_path / "gelf.pcap"
    with pcap.open("wb") as f:
        f.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))  # raw IP
        for i, data in enumerate(datagrams):
            udp_head = struct.pack(">HHHH", 40000, 12201, 8 + len(data), 0)
            ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(data), i, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\0\1")
            packet = ip + udp_head + data
            f.write(struct.pack("<IIII", 1700000000, i, len(packet), len(packet)) + packet)
    out = subprocess.run(
        ["tshark", "-r", pcap, "-d", "udp.port==12201,gelf", "-T", "fields", "-E", "aggregator=|"]
        + ["-e", "frame.protocols", "-e", "gelf.broken_compression", "-e", "gelf.invalid_header"]
        + ["-e", "json.path_with_value"],
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
    ).stdout.decode()
    rows = [line.split("\t") for line in out.splitlines()]
    assert len(rows) == len(datagrams)
    assert not any("malformed" in protocols or broken or invalid for protocols, broken, invalid, _ in rows)
    read = [set(values.split("|")) for _, _, _, values in rows if values]
    assert read == [{f"/{name}:{value}" for name, value in json.loads(text).items()} for text in texts]


# ---- TCP and TLS -----------------------------------------------------------------------------------------------


def test_one_connection_carries_all(receiver, opened):
    tcp = receiver(Tcp)
    h = opened(tcp)
    for batch in range(5):
        results = h.send(*[{"text": f"{batch}-{i}\0\n".replace("\0", "")} for i in range(64)])
        assert {r["verdict"] for r in results} == {"sent"}
    got = [tcp.get()["short_message"] for _ in range(320)]
    assert got == [f"{batch}-{i}" for batch in range(5) for i in range(64)]
    assert tcp.connections == 1


def test_large_records_over_tcp(receiver, opened):
    tcp = receiver(Tcp)
    h = opened(tcp)
    results = h.send(*[{"title": f"{i}", "text": "x" * (3 << 20)} for i in range(3)])
    assert {r["verdict"] for r in results} == {"sent"}
    for i in range(3):
        text = tcp.records.get(timeout=120)
        assert len(text) <= 2 << 20
        record = parse(text)
        assert record["short_message"] == f"{i}" and record["full_message"].strip("x") == "…"


def test_tcp_away_at_start_and_back_later(receiver, opened):
    tcp = receiver(Tcp, start=False)
    h = opened(tcp)
    results = h.send({"text": "a"}, {"text": "b"})
    assert [r["verdict"] for r in results] == ["retry", "retry"]
    assert "connect" in results[0]["reason"].lower() and results[1]["reason"] == ""
    tcp.start()
    send(h, {"text": "a"})
    assert tcp.get()["short_message"] == "a"


@pytest.mark.parametrize("resend", ["0s", "1ms"])
def test_a_restart_of_the_server_loses_nothing(receiver, opened, resend):
    tcp = receiver(Tcp)
    h = opened(tcp, resend=resend)
    send(h, {"text": "before"})
    assert tcp.get()["short_message"] == "before"
    tcp.stop()
    time.sleep(0.01)  # until that is long ago
    tcp.start()
    send(h, {"text": "after"})
    assert tcp.get()["short_message"] == "after"
    assert tcp.records.empty()


def test_what_was_just_written_is_written_again_after_the_end_of_a_connection(receiver, opened):
    tcp = receiver(Tcp)
    tcp.script = ["deaf"]
    h = opened(tcp, resend="60s")
    send(h, {"text": "unread 1"}, {"text": "unread 2"})  # the host has them, the program never reads them
    assert tcp.records.empty()
    tcp.stop()
    tcp.start()
    send(h, {"text": "after"}, {"text": "later"})
    assert [tcp.get()["short_message"] for _ in range(4)] == ["unread 1", "unread 2", "after", "later"]
    assert tcp.records.empty()


def test_what_was_just_written_is_kept_until_the_server_is_back(receiver, opened):
    tcp = receiver(Tcp)
    h = opened(tcp, resend="3s")
    begin = -3
    while time.monotonic() - begin > 3:  # on a machine that has much to do it may be old when the end is noticed
        tcp.stop()
        tcp.start()
        tcp.script = ["deaf"]
        begin = time.monotonic()
        send(h, {"text": "unread"})
        tcp.stop()
        [result] = h.send({"text": "after"})
        assert result["verdict"] == "retry"
    time.sleep(3.2)  # longer than `resend`
    tcp.start()
    send(h, {"text": "after"})
    assert [tcp.get()["short_message"] for _ in range(2)] == ["unread", "after"]


def test_a_server_that_ends_each_connection_soon_is_not_given_a_record_for_ever(receiver, opened):
    tcp = receiver(Tcp)
    h = opened(tcp, resend="200ms")
    got = ["0"]
    for i in range(40):  # each of which begins while the one before is young
        got = []
        send(h, {"text": f"{i}"})
        while f"{i}" not in got:
            got.append(tcp.get()["short_message"])
        if i > 0 and "0" not in got:
            break
        tcp.hang_up()
        time.sleep(0.05)
    assert "0" not in got
    assert tcp.connections > 1


def test_a_connection_that_is_reset_is_retried_and_nothing_is_lost(receiver, opened):
    """A server that resets a connection late has lost what its host had taken: the next record finds that out."""
    tcp = receiver(Tcp)
    tcp.script = ["close", "close", "once", "close"]
    h = opened(tcp, resend="60s")

    def send_it(text):
        for _ in range(20):
            [result] = h.send({"text": text})
            if result["verdict"] == "sent":
                return
            assert result["verdict"] == "retry" and result["reason"]
        assert result["verdict"] == "sent"

    for i in range(8):
        send_it(f"{i}")
    until(lambda: send_it("more") or tcp.connections > 4, "the connection that stays")
    send(h, {"text": "end"})
    got = []
    while "end" not in got:
        got.append(tcp.get()["short_message"])
    assert set(got) - {"more"} == {str(i) for i in range(8)} | {"end"}


def test_what_a_reset_threw_away_was_not_sent(receiver, opened):
    tcp = receiver(Tcp, window=4096)
    tcp.script = ["reset"]
    h = opened(tcp, resend="0s")
    [result] = h.send({"title": "x", "text": "x" * 12000})
    assert result["verdict"] == "retry" and result["reason"]
    send(h, {"text": "y"})
    assert tcp.get()["short_message"] == "y"


def test_a_server_that_reads_nothing_is_a_timeout(receiver, opened):
    tcp = receiver(Tcp)
    tcp.script = ["deaf"]
    h = opened(tcp, timeout="300ms", max_message="64MiB")
    results = h.send({"title": "x", "text": "x" * (16 << 20)}, {"text": "y"})
    assert [r["verdict"] for r in results] == ["retry", "retry"]
    assert "timeout" in results[0]["reason"]


def test_tls(receiver, opened, certificate):
    cert, key = certificate
    tcp = receiver(Tcp, tls=(cert, key))
    h = opened(tcp, transport="tls", ca=cert, resend="60s")
    results = h.send(*[{"text": f"{i}"} for i in range(64)])
    assert {r["verdict"] for r in results} == {"sent"}
    assert [tcp.get()["short_message"] for _ in range(64)] == [f"{i}" for i in range(64)]
    tcp.stop()
    tcp.start()
    send(h, {"title": "after", "text": "x" * (1 << 20)})
    assert "after" in [tcp.get()["short_message"] for _ in range(65)]


def test_tls_is_verified(receiver, opened, certificate):
    cert, key = certificate
    tcp = receiver(Tcp, tls=(cert, key))
    [result] = opened(tcp, transport="tls").send({"text": "a"})
    assert result["verdict"] == "retry" and "certificate" in result["reason"]
    [result] = opened(tcp, transport="tls", ca=cert, host="localhost").send({"text": "a"})
    assert result["verdict"] == "retry" and "localhost" in result["reason"]
    send(opened(tcp, transport="tls", verify=False), {"text": "a"})
    assert tcp.get()["short_message"] == "a"
    plain = receiver(Tcp)
    [result] = opened(plain, transport="tls", ca=cert, connect_timeout="500ms").send({"text": "a"})
    assert result["verdict"] == "retry" and result["reason"]


# ---- HTTP ------------------------------------------------------------------------------------------------------


def test_http_keeps_its_connection(receiver, opened):
    http = receiver(Http)
    h = opened(http, username="me", password="secret: ä")
    results = h.send(*[{"text": f"{i}"} for i in range(5)])
    assert {r["verdict"] for r in results} == {"sent"}
    assert [http.get()["short_message"] for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert http.connections == 1
    assert base64.b64decode(http.headers["Authorization"].removeprefix("Basic ")).decode() == "me:secret: ä"


def test_http_compression(receiver, opened):
    http = receiver(Http)
    for compression, coding in [("none", None), ("gzip", "gzip"), ("zlib", "deflate")]:
        send(opened(http, compression=compression), {"title": "t", "text": "long " * 9999})
        assert http.get()["full_message"] == "long " * 9999
        assert http.headers["Content-Encoding"] == coding


def test_http_statuses(receiver, opened):
    http = receiver(Http)
    h = opened(http, timeout="500ms", park="7s")
    cases = [
        # what the server does, verdict, retry_after_ms, park_ms
        ((202, {}), "sent", 0, 0),
        ((200, {}), "sent", 0, 0),
        ("endless", "sent", 0, 0),
        ((302, {"Location": "/gelf"}), "retry", 0, 0),
        ((400, {}), "reject", 0, 0),
        ((413, {}), "reject", 0, 0),
        ((401, {}), "reject", 0, 7000),
        ((403, {}), "reject", 0, 7000),
        ((404, {}), "reject", 0, 7000),
        ((408, {}), "retry", 0, 0),
        ((429, {"Retry-After": "3"}), "retry", 3000, 3000),
        ((429, {"Retry-After": "-3"}), "retry", 0, 0),
        ((429, {"Retry-After": "9" * 18}), "retry", 86400000, 86400000),
        ((500, {}), "retry", 0, 0),
        ((503, {"Retry-After": "120"}), "retry", 120000, 120000),
        ("silence", "retry", 0, 0),
    ]
    for act, *wanted in cases:
        http.script = [act]
        [result] = h.send({"text": "x"})
        assert [result["verdict"], result["retry_after_ms"], result["park_ms"]] == wanted, (act, result)
        assert bool(result["reason"]) == (wanted[0] != "sent")
        http.get()
    http.script = ["close", "close"]
    [result] = h.send({"text": "x"})
    assert result["verdict"] == "retry" and "no answer" in result["reason"]


def test_an_http_batch_stops_at_the_first_that_must_wait(receiver, opened):
    http = receiver(Http)
    http.script = [(202, {}), (400, {}), (503, {})]
    results = opened(http).send(*[{"text": f"{i}"} for i in range(5)])
    assert [r["verdict"] for r in results] == ["sent", "reject", "retry", "retry", "retry"]
    assert http.requests.qsize() == 3


def test_http_away_at_start_and_a_restart(receiver, opened):
    http = receiver(Http, start=False)
    h = opened(http)
    [result] = h.send({"text": "a"})
    assert result["verdict"] == "retry"
    for text in ("b", "c"):
        http.start()
        send(h, {"text": text})
        assert http.get()["short_message"] == text
        http.stop()


def test_https(receiver, opened, certificate):
    cert, key = certificate
    http = receiver(Http, tls=(cert, key))
    send(opened(http, transport="https", ca=cert), {"text": "a"})
    assert http.get()["short_message"] == "a"
    [result] = opened(http, transport="https").send({"text": "a"})
    assert result["verdict"] == "retry" and "certificate" in result["reason"]


# ---- Payloads and options --------------------------------------------------------------------------------------


def test_large_and_undecodable_payloads(receiver, opened):
    udp, tcp, http = receiver(Udp), receiver(Tcp), receiver(Http)
    for kind in (udp, tcp, http):
        h = opened(kind)
        send(h, {"payload_hex": "fffe00", "text": "\ufffd\ufffd\ufffd", "text_is_payload": True})
        assert kind.get()["short_message"] == "\ufffd" * 3
        send(h, {"text": "\x01" * (1 << 20), "title": "controls"}, {"text": "x" * (10 << 20)})
        assert kind.get()["short_message"] == "controls"
        assert kind.get()["full_message"].strip("x") == "…"
        send(h, {"text": "next"})
        assert kind.get()["short_message"] == "next"


def test_wrong_options_are_named(receiver, opened):
    udp = receiver(Udp)
    cases = [
        ({"transport": "tcp", "compression": "gzip"}, "compression"),
        ({"transport": "quic"}, "transport"),
        ({"host": ""}, "host"),
        ({"host": "a.example/x"}, "host"),
        ({"transport": "http", "path": "gelf"}, "path"),
        ({"transport": "tls", "cert": "/x"}, "cert"),
        ({"transport": "http", "username": "x"}, "username"),
        ({"datagram": "100"}, "datagram"),
        ({"datagram": "9000"}, "datagram"),
    ]
    for options, wanted in cases:
        with pytest.raises(PluginError, match=wanted):
            opened(udp, **options)
    h = opened(udp)
    cases = [
        ({"add": ["topic", "colour"]}, "add"),
        ({"fields": ["site"]}, "fields"),
        ({"fields": ["=x"]}, "fields"),
        ({"fields": ["a b=x"]}, "fields"),
        ({"fields": ["{n}=x"]}, "fields"),
        ({"fields": ["id=x"]}, "fields"),
        ({"level": "loud"}, "level"),
        ({"separator": "-"}, "separator"),
    ]
    for options, wanted in cases:
        assert wanted in (h.check_target(options) or ""), options
    assert h.check_target({"fields": ["site=attic {x}", "a.b-c_1="], "add": "none"}) is None


def test_fields_are_asked_for_only_if_they_are_sent(receiver, opened):
    h = opened(receiver(Udp))
    assert h.wants({}) == 1
    assert h.wants({"decoded": False}) == 0
