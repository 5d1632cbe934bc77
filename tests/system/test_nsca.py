# SPDX-License-Identifier: MIT
"""The plugin nsca against byte vectors, against Debian's nsca, and against servers that misbehave."""

import json
import pathlib
import re
import socket
import struct

import pytest
from nsca_server import INIT, METHODS, PASSWORD, TIME, Cipher, FakeServer, Nagios, NscaDaemon, Packet, receive
from nsca_server import well_behaved
from plugin_host import PluginError, PluginHost

pytestmark = pytest.mark.memory
VECTORS = json.loads((pathlib.Path(__file__).parent / "data/nsca-vectors.json").read_text())
NUMBERS = [m[0] for m in METHODS]
ROUTER = {"check_host": "router.example", "check_service": "mqtt/temp"}


def opened(port, encryption="0", **more):
    more.setdefault("host", "127.0.0.1")
    more.setdefault("password", PASSWORD)
    return PluginHost("nsca", port=port, encryption=str(encryption), **more)


def result(text="hello", target=None, **more):
    return {"target": ROUTER if target is None else target, "text": text, **more}


def sent_plain(delivery, packet="full", **service):
    """What a server receives when this one delivery is sent unencrypted."""
    with FakeServer() as server, opened(server.port, packet=packet, **service) as host:
        [answer] = host.send(delivery)
        assert answer["verdict"] == "sent", answer
    [data] = server.received
    return Packet(data)


@pytest.fixture
def daemon(tmp_path, process, free_port):
    made = []

    def start(method=0, start=True, **options):
        made.append(NscaDaemon(tmp_path, process, free_port(), method, **options))
        return made[-1].start() if start else made[-1]

    yield start
    for d in made:
        if d.process and d.fork:
            d.stop()


# ---- Bytes ----


def vector(method):
    return next(b for b in VECTORS["builder"] if b["method"] == method)


@pytest.mark.parametrize("method", NUMBERS)
def test_the_reference_cipher_gives_the_vectors(method):
    plain = bytes.fromhex(VECTORS["plain_legacy_hex"])
    cipher = Cipher(method)
    assert cipher.apply(plain, decrypt=False).hex() == vector(method)["legacy_hex"]
    head = vector(method)["second_packet_same_connection_head32_hex"]
    assert cipher.apply(plain, decrypt=False)[:32].hex() == head


@pytest.mark.parametrize("row", VECTORS["send_nsca"], ids=lambda row: f"{row['method']}-{row['bytes']}")
def test_the_reference_reader_reads_what_send_nsca_wrote(row):
    packet = Packet(Cipher(row["method"]).apply(bytes.fromhex(row["hex"])))
    assert (packet.host, packet.service, packet.code) == (b"router.example", b"mqtt/temp", 1)
    assert packet.output.decode() == VECTORS["result"]["output"]


@pytest.mark.parametrize("method", NUMBERS)
@pytest.mark.parametrize("size", ["legacy", "full"])
def test_packets_are_those_of_the_vectors_but_for_random_padding(method, size):
    wanted = VECTORS["result"]
    delivery = result(wanted["output"], severity="warning")
    with FakeServer() as server, opened(server.port, method, packet=size) as host:
        assert host.send(delivery)[0]["verdict"] == "sent"
    [data] = server.received
    assert len(data) == {"legacy": 720, "full": 4304}[size]
    packet = Packet(Cipher(method).apply(data))
    assert (packet.host, packet.service) == (b"router.example", b"mqtt/temp")
    assert (packet.code, packet.time) == (wanted["return_code"], TIME)
    assert packet.output.decode() == wanted["output"]
    again = Cipher(method).apply(packet.without_padding(), decrypt=False)
    if size == "legacy":
        assert again.hex() == vector(method)["legacy_hex"]
    else:
        assert again[:32].hex() == vector(method)["full_head32_hex"]
        assert again[-16:].hex() == vector(method)["full_tail16_hex"]


def test_padding_is_random_and_printable():
    first, second = sent_plain(result()), sent_plain(result())
    assert re.fullmatch(rb"[0-z]+", first.padding)
    assert len(set(first.padding)) > 60
    assert first.padding != second.padding


@pytest.mark.parametrize("name, number", [("none", 0), ("xor", 1), ("aes-256", 14), ("3des", 3), ("safer+", 26)])
def test_methods_have_names(name, number):
    with FakeServer() as server, opened(server.port, name) as host:
        assert host.send(result())[0]["verdict"] == "sent"
    assert Packet(Cipher(number).apply(server.received[0])).output == b"hello"


def test_xor_works_without_a_password():
    with FakeServer() as server, opened(server.port, 1, password="") as host:
        assert host.send(result())[0]["verdict"] == "sent"
    assert Packet(Cipher(1, password="").apply(server.received[0])).output == b"hello"


def test_ipv6():
    with FakeServer(family=socket.AF_INET6) as server, opened(server.port, host="::1") as host:
        assert host.send(result())[0]["verdict"] == "sent"
    assert Packet(server.received[0]).host == b"router.example"


@pytest.mark.parametrize("method", [1, 8, 14])
def test_a_batch_is_one_connection_and_one_run_of_the_cipher(method):
    with FakeServer() as server, opened(server.port, method) as host:
        answers = host.send(*[result(f"number {i}") for i in range(5)])
        assert [a["verdict"] for a in answers] == ["sent"] * 5
    [data] = server.received
    cipher = Cipher(method)
    packets = [Packet(cipher.apply(data[i : i + 4304])) for i in range(0, len(data), 4304)]
    assert [p.output for p in packets] == [b"number %d" % i for i in range(5)]


def test_legacy_packets_have_a_connection_each():
    with FakeServer() as server, opened(server.port, 14, packet="legacy") as host:
        answers = host.send(*[result(f"number {i}") for i in range(3)])
        assert [a["verdict"] for a in answers] == ["sent"] * 3
    assert [Packet(Cipher(14).apply(d)).output for d in server.received] == [b"number 0", b"number 1", b"number 2"]


# ---- What is in a result ----

TEXTS = [
    # what, text, more of the target, more of the delivery, output
    ("plain", "all is well", {}, {}, "all is well"),
    ("UTF-8 goes through", "31 °C 🔥", {}, {}, "31 °C 🔥"),
    ("lines stay lines", "first\nsecond\n\n", {}, {}, "first\nsecond"),
    ("no empty first line", "\n\n first", {}, {}, "first"),
    ("control characters", "a\tb\rc\x01d\x7fe", {}, {}, "a b c d e"),
    ("the title serves for no text", "", {}, {"title": "Title"}, "Title"),
    ("nothing at all", "", {}, {}, ""),
    ("an output of its own", "text", {"output": "own"}, {}, "own"),
    ("perfdata in the text", "31 C | t=31", {}, {}, "31 C | t=31"),
    ("perfdata", "31 C", {"perfdata": "t=31;25;30"}, {}, "31 C|t=31;25;30"),
    ("perfdata before long output", "31 C\nmore", {"perfdata": "t=31"}, {}, "31 C|t=31\nmore"),
    ("no bar but ours", "a|b=1\nc|d", {"perfdata": "t=31|x"}, {}, "a/b=1|t=31/x\nc/d"),
    ("perfdata is one line", "x", {"perfdata": "t=31\ny=2"}, {}, "x|t=31"),
    ("bar without perfdata", "x", {"perfdata": ""}, {}, "x"),
    (
        "perfdata from fields",
        "x",
        {"perfdata_fields": ["celsius", "absent", "where", "hum=air.humidity"], "perfdata": "a=1"},
        {"fields": [["celsius", "31.5", "number"], ["where", "attic", "string"], ["air.humidity", "40", "number"]]},
        "x|a=1 celsius=31.5 hum=40",
    ),
    (
        "all numbers",
        "x",
        {"perfdata_fields": "*"},
        {"fields": [["in doors", "1", "number"], ["b", "true", "bool"], ["it's=|", "-2", "number"], ["", "3", "number"]]},
        "x|'in doors'=1 it_s__=-2",
    ),
]


@pytest.mark.parametrize("text, target, more, output", [t[1:] for t in TEXTS], ids=[t[0] for t in TEXTS])
def test_output(text, target, more, output):
    packet = sent_plain(result(text, {**ROUTER, **target}, **more))
    assert packet.output.decode() == output


def test_fields_are_asked_for_only_when_needed():
    with opened(1) as host:
        assert host.wants(ROUTER) == 0
        assert host.wants({**ROUTER, "perfdata_fields": ["a"]}) == 1


STATES = [
    # severity of the route, option `state`, code of a service, code of a host
    (None, None, 0, 0),
    ("ok", None, 0, 0),
    ("warning", None, 1, 1),
    ("critical", None, 2, 1),
    ("unknown", None, 3, 2),
    ("critical", "OK", 0, 0),
    (None, "critical", 2, 1),
    (None, "down", 2, 1),
    (None, "unreachable", 3, 2),
    (None, "2", 2, 2),
    (None, "3", 3, 2),
    (None, "4", 3, 2),
    (None, "-1", 3, 2),
    (None, "nonsense", 3, 2),
    (None, "", 3, 2),
]


@pytest.mark.parametrize("severity, state, service_code, host_code", STATES)
def test_state(severity, state, service_code, host_code):
    more = {} if severity is None else {"severity": severity}
    target = dict(ROUTER) if state is None else {**ROUTER, "state": state}
    packet = sent_plain(result("x", target, **more))
    assert (packet.service, packet.code) == (b"mqtt/temp", service_code)
    del target["check_service"]
    packet = sent_plain(result("x", target, **more))
    assert (packet.service, packet.code) == (b"", host_code)


@pytest.mark.parametrize("service", ["", None])
def test_no_service_is_a_host_check(service):
    target = {"check_host": "h"} if service is None else {"check_host": "h", "check_service": service}
    assert sent_plain(result("x", target)).service == b""


def test_names_cannot_reach_other_fields():
    packet = sent_plain(result("x", {"check_host": "a;b\nc\x01", "check_service": "d;0;fine\re"}))
    assert (packet.host, packet.service) == (b"a_b c ", b"d_0_fine e")


def test_a_result_without_a_host_is_rejected_and_the_others_go():
    with FakeServer() as server, opened(server.port) as host:
        answers = host.send(result("1"), result("2", {"check_host": " "}), result("3"))
    assert [a["verdict"] for a in answers] == ["sent", "reject", "sent"]
    assert answers[1]["reason"] == "check_host is empty"
    assert len(server.received[0]) == 2 * 4304


def test_only_rejected_results_make_no_connection():
    with opened(1) as host:
        assert host.send(result("2", {"check_host": ""}))[0]["verdict"] == "reject"


@pytest.mark.parametrize("size, most", [("full", 4095), ("legacy", 511)])
def test_what_is_too_long_is_cut_between_characters(size, most):
    target = {"check_host": "h" * 62 + "é", "check_service": "s" * 126 + "é"}
    packet = sent_plain(result("x" + "é" * 5000, target), packet=size)
    assert packet.host == b"h" * 62
    assert packet.service == b"s" * 126
    assert packet.output.decode() == "x" + "é" * ((most - 1) // 2)
    packet = sent_plain(result("y" * most + "z", {"check_host": "h" * 63, "check_service": "s" * 127}), packet=size)
    assert (len(packet.host), len(packet.service)) == (63, 127)
    assert packet.output == b"y" * most


def test_perfdata_survives_a_text_that_is_too_long():
    packet = sent_plain(result("x" * 600 + "\nmore", {**ROUTER, "perfdata": "t=31"}), packet="legacy")
    assert packet.output == b"x" * (511 - 5) + b"|t=31"


def test_perfdata_that_is_too_long_is_cut_between_values():
    target = {**ROUTER, "perfdata": " ".join(f"value{i}=1" for i in range(100)), "perfdata_fields": "*"}
    packet = sent_plain(result("text", target, fields=[["l" * 600, "1", "number"]]), packet="legacy")
    assert len(packet.output) <= 511
    assert re.fullmatch(rb"text\|(value\d+=1 ){40,}value\d+=1", packet.output)
    target = {**ROUTER, "perfdata": "v" * 600}
    packet = sent_plain(result("x" * 600, target), packet="legacy")
    assert packet.output == b"x" * 511
    target = {**ROUTER, "perfdata": "a=1 " * 200}
    packet = sent_plain(result("x" * 600, target), packet="legacy")
    assert re.fullmatch(rb"x{255}\|(a=1 ){63}a=1", packet.output)


def test_ten_mebibytes_are_cut():
    packet = sent_plain(result("0123456789abcdef" * (10 << 16)))
    assert packet.output == b"0123456789abcdef" * 255 + b"0123456789abcde"


def test_a_payload_that_is_not_utf8_sends_its_text():
    packet = sent_plain({"target": ROUTER, "payload_hex": "ff00fe", "text": "���", "text_is_payload": True})
    assert packet.output.decode() == "���"


# ---- Options ----

WRONG = [
    ({"encryption": "7"}, "does not work"),
    ({"encryption": "12"}, "does not work"),
    ({"encryption": "rc6"}, "does not work"),
    ({"encryption": "27"}, "no such method"),
    ({"encryption": ""}, "no such method"),
    ({"encryption": "14 "}, "no such method"),
    ({"encryption": "14", "password": ""}, "is needed"),
    ({"encryption": "1", "password": "p" * 512}, "511"),
    ({"encryption": "1", "packet": "big"}, "packet"),
    ({"encryption": "1", "port": 0}, "port"),
    ({"encryption": "1", "timeout": "0"}, "timeout"),
]


@pytest.mark.parametrize("options, reason", WRONG)
def test_wrong_options_are_refused(options, reason):
    with pytest.raises(PluginError, match=reason):
        PluginHost("nsca", **{"host": "h", "password": "p", **options})


def test_encryption_must_be_said():
    with pytest.raises(PluginError, match="encryption: is required"):
        PluginHost("nsca", host="h")


# ---- Servers that misbehave ----


def reset(connection):
    """Closes so that the client sees a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sends(data):
    def act(connection):
        connection.sendall(data)
        return receive(connection)

    return act


def closes_at_once(connection):
    return b""


def resets_after_one_packet(connection):
    connection.sendall(INIT)
    data = receive(connection, 4304)
    reset(connection)
    return data


def speaks_at_the_end(connection):
    connection.sendall(INIT)
    data = receive(connection)
    connection.sendall(b"thanks")
    return data


MISBEHAVIOUR = [
    ("says nothing", lambda c: receive(c), "no initialisation packet: Connection timed out"),
    ("says too little", sends(b"SSH-2.0-server\r\n"), "no initialisation packet: Connection timed out"),
    ("closes in the initialisation packet", lambda c: c.sendall(INIT[:131]), "in its initialisation packet"),
    ("resets after one packet", resets_after_one_packet, "reset by peer|Broken pipe"),
    ("says more than it should", speaks_at_the_end, "did not take the results: Protocol error"),
]


@pytest.mark.parametrize("act, reason", [m[1:] for m in MISBEHAVIOUR], ids=[m[0] for m in MISBEHAVIOUR])
def test_a_server_that_misbehaves_is_a_retry_for_all_and_the_next_attempt_works(act, reason):
    with FakeServer(act, well_behaved) as server, opened(server.port, 14, timeout="300ms") as host:
        batch = [result(f"number {i}") for i in range(200)]
        answers = host.send(*batch)
        assert {a["verdict"] for a in answers} == {"retry"}
        assert re.search(reason, answers[0]["reason"]), answers[0]
        assert {a["reason"] for a in answers[1:]} == {""}  # not their fault
        host_answers = host.send(*batch[:2])
        assert [a["verdict"] for a in host_answers] == ["sent", "sent"]
    cipher = Cipher(14)
    assert [Packet(cipher.apply(server.received[1][i : i + 4304])).output for i in (0, 4304)] == [b"number 0", b"number 1"]


def test_a_server_that_never_closes_is_a_retry():
    def holds(connection):
        connection.sendall(INIT)
        data = receive(connection)
        server.over.wait()
        return data

    with FakeServer(holds) as server, opened(server.port, timeout="200ms") as host:
        [answer] = host.send(result())
    assert (answer["verdict"], answer["reason"]) == ("retry", "server did not take the results: Connection timed out")


def test_a_server_that_reads_nothing_is_a_retry():
    def holds(connection):
        connection.sendall(INIT)
        server.over.wait()

    with FakeServer(holds) as server, opened(server.port, timeout="200ms") as host:
        answers = host.send(*[result()] * 1000)
    assert {a["verdict"] for a in answers} == {"retry"}


def test_a_slow_server_gets_a_batch_by_several_connections():
    def slow(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        connection.sendall(INIT)
        data = b""
        while piece := connection.recv(16384):
            data += piece
            server.over.wait(0.01)
        return data

    with FakeServer(slow) as server, opened(server.port, timeout="1s") as host:
        answers = host.send(*[result(f"number {i}") for i in range(1000)])
    assert {a["verdict"] for a in answers} == {"sent"}
    assert len(server.received) > 1
    data = b"".join(server.received)
    packets = [Packet(data[i : i + 4304]) for i in range(0, len(data), 4304)]
    assert [p.output for p in packets] == [b"number %d" % i for i in range(1000)]


def test_closing_before_the_initialisation_packet_is_retried_slowly():
    with FakeServer(closes_at_once) as server, opened(server.port) as host:
        [answer] = host.send(result())
    assert answer["verdict"] == "retry"
    assert answer["reason"].startswith("server closed before the initialisation packet")
    assert answer["retry_after_ms"] == answer["park_ms"] == 60000


def test_nobody_listens(free_port):
    with opened(free_port()) as host:
        answers = host.send(result(), result())
    assert [(a["verdict"], a["reason"]) for a in answers] == [("retry", "no connection: Connection refused"), ("retry", "")]


def test_a_name_that_does_not_resolve():
    with opened(5667, host="no-such-host.invalid") as host:
        [answer] = host.send(result())
    assert answer["verdict"] == "retry" and answer["reason"]


def test_a_legacy_batch_keeps_what_was_sent_before_the_trouble():
    with FakeServer(well_behaved, closes_at_once) as server, opened(server.port, packet="legacy") as host:
        answers = host.send(*[result()] * 3)
    assert [a["verdict"] for a in answers] == ["sent", "retry", "retry"]


def test_the_password_is_in_no_log(free_port):
    with opened(free_port(), 14) as host:
        answers = host.send(result())
    assert PASSWORD not in json.dumps([answers, host.logs])


# ---- Debian's server ----


@pytest.mark.parametrize("size", ["full", "legacy"])
@pytest.mark.parametrize("method", NUMBERS)
def test_debians_server_takes_it(method, size, daemon):
    server = daemon(method)
    with opened(server.port, method, packet=size) as host:
        answers = host.send(result("31.5 °C | t=31.5", severity="warning"), result("down", {"check_host": "h"}, severity="critical"))
        assert [a["verdict"] for a in answers] == ["sent", "sent"]
    assert server.wait_lines(2) == [
        "PROCESS_SERVICE_CHECK_RESULT;router.example;mqtt/temp;1;31.5 °C | t=31.5",
        "PROCESS_HOST_CHECK_RESULT;h;1;down",
    ]


@pytest.mark.parametrize("fork", [False, True], ids=["single", "forking"])
@pytest.mark.parametrize("method", [1, 14])
def test_a_thousand_results_on_one_connection(method, fork, daemon):
    server = daemon(method, fork=fork)
    with opened(server.port, method) as host:
        answers = host.send(*[result(f"number {i}") for i in range(1000)])
        assert {a["verdict"] for a in answers} == {"sent"}
    lines = server.wait_lines(1000)
    assert lines == [f"PROCESS_SERVICE_CHECK_RESULT;router.example;mqtt/temp;0;number {i}" for i in range(1000)]


def test_a_server_that_is_away_at_start_and_goes_between_two_results(daemon):
    server = daemon(14, start=False)
    with opened(server.port, 14) as host:
        assert host.send(result("1"))[0]["verdict"] == "retry"
        server.start()
        assert host.send(result("1"))[0]["verdict"] == "sent"
        server.wait_lines(1)
        server.stop()
        server.start()
        assert host.send(result("2"))[0]["verdict"] == "sent"
        server.wait_lines(2)
        server.stop()
        assert host.send(result("3"))[0]["verdict"] == "retry"
    assert [line.rpartition(";")[2] for line in server.lines()] == ["1", "2"]


def test_a_wrong_password_is_a_silent_loss(daemon):
    """The protocol has no sign of it; this holds the manual to its word."""
    server = daemon(14)
    with opened(server.port, 14, password="wrong") as host:
        assert host.send(result("lost"))[0]["verdict"] == "sent"
    with opened(server.port, 14) as host:
        assert host.send(result("found"))[0]["verdict"] == "sent"
    assert [line.rpartition(";")[2] for line in server.wait_lines(1)] == ["found"]


def test_names_reach_the_command_file_as_one_field_each(daemon):
    server = daemon(14)
    target = {"check_host": "a;b\n[0] PROCESS_HOST_CHECK_RESULT;c", "check_service": "d;0"}
    with opened(server.port, 14) as host:
        assert host.send(result("x;y\nz\\", target))[0]["verdict"] == "sent"
    [line] = server.wait_lines(1)
    assert line == "PROCESS_SERVICE_CHECK_RESULT;a_b [0] PROCESS_HOST_CHECK_RESULT_c;d_0;0;x;y\\nz\\\\"


def test_results_arrive_in_nagios(tmp_path, process, daemon):
    nagios = Nagios(tmp_path, process)
    server = daemon(14, command_file=nagios.command_file)
    service = {"check_host": "router", "check_service": "temperature", "perfdata": "celsius=31.5;25;30"}
    with opened(server.port, 14) as host:
        hot = result("31.5 °C; too hot\nfor the attic \\o/", service, severity="critical")
        answers = host.send(hot, result("it burns", {"check_host": "router"}, severity="critical"))
        assert [a["verdict"] for a in answers] == ["sent", "sent"]
        status = nagios.wait_status("servicestatus", "31.5 °C: too hot")  # Nagios turns ";" into ":"
        assert status["current_state"] == "2"
        assert status["long_plugin_output"] == "for the attic \\\\o/"
        assert status["performance_data"] == "celsius=31.5;25;30"
        assert nagios.wait_status("hoststatus", "it burns")["current_state"] == "1"

        assert host.send(result("21 °C", service, severity="ok"))[0]["verdict"] == "sent"
        assert nagios.wait_status("servicestatus", "21 °C")["current_state"] == "0"
