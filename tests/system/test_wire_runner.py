# SPDX-License-Identifier: MIT
"""That the runner of tests/wire notices what a broker does wrong: a broker of fixed answers, and cases against it."""

import pathlib
import socket
import sys
import threading

import pytest

WIRE = pathlib.Path(__file__).resolve().parents[1] / "wire"
sys.path.insert(0, str(WIRE))

import cases  # noqa: E402
import conversation  # noqa: E402

CONNECT = "A> CONNECT\nA< CONNACK\n"
ACCEPTED = "20020000"
PONG = "d000"


class FixedBroker:
    """Answers each packet of the client with the next of its answers; an empty one says nothing, "end" closes."""

    def __init__(self, answers):
        self.answers = answers
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        client, _ = self.listener.accept()
        with client:
            for answer in self.answers:
                head = client.recv(2, socket.MSG_WAITALL)
                if len(head) < 2:
                    return
                client.recv(head[1], socket.MSG_WAITALL)
                if answer == "end":
                    return
                client.sendall(bytes.fromhex(answer))
            while client.recv(4096):
                pass

    def close(self):
        self.thread.join(30)
        self.listener.close()


@pytest.mark.parametrize("name, text, answers, wrong", [
    ("as expected", CONNECT, [ACCEPTED, PONG], None),
    ("another code", CONNECT, ["20020005"], "code is not 0"),
    ("session present", CONNECT, ["20020100"], "session is not 0"),
    ("reserved flags of CONNACK", CONNECT, ["20020200"], "reserved flags"),
    ("reserved flags of the header", CONNECT, ["21020000"], "with flags 1"),
    ("a byte too many", CONNECT, ["2003000000"], "1 bytes too many"),
    ("remaining length in two bytes", CONNECT, ["20820000 00".replace(" ", "")], "longer than needed"),
    ("an end instead", CONNECT, ["end"], "has closed"),
    ("an end later", CONNECT, [ACCEPTED, "end"], "at the end: A: the server has closed"),
    ("more than expected", CONNECT, [ACCEPTED + "30040001" + "7478"], "at the end: A: expected nothing"),
    ("an end expected", "A> CONNECT\nA< closed\n", [ACCEPTED], "expected the end"),
    ("another packet", CONNECT + "A> PINGREQ\nA< PINGRESP\n", [ACCEPTED, "40020001"], "not PINGRESP"),
    ("another identifier", CONNECT + "A> PUBLISH topic=t qos=1 pid=5\nA< PUBACK pid=5\n", [ACCEPTED, "40020006"],
     "pid is not 5"),
    ("codes of SUBACK", CONNECT + "A> SUBSCRIBE pid=1 filter=t qos=1\nA< SUBACK pid=1 codes=1\n",
     [ACCEPTED, "9003000100"], "codes is not 1"),
    ("payload", CONNECT + "A> PINGREQ\nA< PUBLISH topic=t payload=x\n", [ACCEPTED, "300400017479"], "payload is not x"),
    ("retain flag that nobody named", CONNECT + "A> PINGREQ\nA< PUBLISH topic=t payload=x\n", [ACCEPTED, "310400017478"],
     "retain is not 0"),
    ("DUP that nobody named", CONNECT + "A> PINGREQ\nA< PUBLISH topic=t qos=1 payload=x\n",
     [ACCEPTED, "3a060001740001" + "78"], "dup is not 0"),
    ("identifier 0", CONNECT + "A> PINGREQ\nA< PUBLISH topic=t qos=1\n", [ACCEPTED, "32050001740000"],
     "packet identifier 0"),
    ("DUP at QoS 0", CONNECT + "A> PINGREQ\nA< PUBLISH topic=t\n", [ACCEPTED, "3803000174"], "DUP at QoS 0"),
    ("any order", CONNECT + "A> PINGREQ\nA<? PUBLISH topic=t\nA<? PINGRESP\n", [ACCEPTED, PONG + "3003000174", PONG], None),
    ("any order, one missing", CONNECT + "A> PINGREQ\nA<? PUBLISH topic=t\nA<? PINGRESP\nA< nothing\n",
     [ACCEPTED, PONG + PONG], "expected A<? PUBLISH"),
    ("an optional one that comes", CONNECT + "A<opt PUBLISH topic=t\nA< nothing\n", [ACCEPTED, "3003000174" + PONG, PONG], None),
    ("an optional one that does not", CONNECT + "A<opt PUBLISH topic=t\nA< nothing\n", [ACCEPTED, PONG, PONG], None),
    ("an optional one, twice", CONNECT + "A<opt PUBLISH topic=t\nA< nothing\n", [ACCEPTED, "3003000174" * 2 + PONG],
     "expected nothing"),
    ("a variable", CONNECT + "A> PINGREQ\nA< PUBACK pid=$p\nA< PUBACK pid=$p\n", [ACCEPTED, "40020007" + "40020008"],
     "pid is not $p"),
    ("a check", CONNECT + "A> PINGREQ\nA< PUBACK pid=$p\nA< PUBACK pid=$q\ncheck $p != $q\n",
     [ACCEPTED, "40020007" + "40020007"], "expected !="),
    ("a property that nobody named", "level: 5\n" + CONNECT + "A> PINGREQ\nA< PUBLISH topic=t\n",
     ["2003000000", "3006000174020101"], "payload-format-indicator"),
    ("a property twice", "level: 5\n" + CONNECT + "A> PINGREQ\nA< PUBLISH topic=t props=*\n",
     ["2003000000", "30080001740401010101"], "twice"),
    ("an alias", "level: 5\nA> CONNECT +topic-alias-maximum=1\nA< CONNACK\nA> PINGREQ\n" + "A< PUBLISH topic=t\n" * 2,
     ["2003000000", "30070001740323000130060000" "03230001", PONG], None),
    ("an alias that stands for nothing", "level: 5\nA> CONNECT +topic-alias-maximum=1\nA< CONNACK\nA> PINGREQ\nA< PUBLISH topic=t\n",
     ["2003000000", "3006000003230001"], "stands for nothing"),
    ("an alias that is too high", "level: 5\nA> CONNECT +topic-alias-maximum=1\nA< CONNACK\nA> PINGREQ\nA< PUBLISH topic=t\n",
     ["2003000000", "300700017403230002"], "outside of"),
    ("an alias that nobody allowed", "level: 5\n" + CONNECT + "A> PINGREQ\nA< PUBLISH topic=t\n",
     ["2003000000", "300700017403230001"], "outside of"),
    ("a packet that is too large", "level: 5\nA> CONNECT +maximum-packet-size=5\nA< CONNACK\nA> PINGREQ\nA< PUBLISH topic=t\n",
     ["2003000000", "300400017400"], "Maximum Packet Size"),
    ("an identifier that is in use", CONNECT + "A> PINGREQ\n" + "A< PUBLISH topic=t qos=1\n" * 2,
     [ACCEPTED, "32050001740001" * 2], "is in use"),
    ("an identifier that is free again", CONNECT + "A> PINGREQ\nA< PUBLISH topic=t qos=1\nA> PUBACK pid=1\nA< PUBLISH topic=t qos=1\n",
     [ACCEPTED, "32050001740001", "32050001740001", PONG], None),
    ("more than the quota", "level: 5\nA> CONNECT +receive-maximum=1\nA< CONNACK\nA> PINGREQ\n" + "A< PUBLISH topic=t qos=1\n" * 2,
     ["2003000000", "3206000174000100" "3206000174000200"], "Receive Maximum"),
    ("what this broker should have said", "level: 5\nA> CONNECT\nA<! CONNACK code=0x81\nA< closed\n", ["end"], "has closed"),
])
def test_the_runner_notices(tmp_path, name, text, answers, wrong):
    path = tmp_path / "cases.txt"
    path.write_text(f"case one\n{text}")
    case = cases.read_cases(path)[0]
    broker = FixedBroker(answers)
    try:
        if wrong is None:
            conversation.Conversation(case, broker.listener.getsockname(), "x").play()
        else:
            with pytest.raises(conversation.Failed) as failed:
                conversation.Conversation(case, broker.listener.getsockname(), "x").play()
            assert wrong in str(failed.value), name
    finally:
        broker.close()


@pytest.mark.parametrize("list_text, case_text, wrong", [
    ("S-1 x\n    cases: one\n", "tests: S-1", None),
    ("S-1 x\n    cases: one two\n", "tests: S-1", "listed otherwise"),
    ("S-1 x\n    cases: one\nS-2 y\n", "tests: S-1", "S-2 has neither"),
    ("S-1 x\n    untestable:\n", "", "S-1 has neither"),
    ("S-1 x\n    untestable: so\n", "", None),
    ("S-1 x\n    client: so\n", "", None),
    ("S-1 x\n    untestable: so\n", "tests: S-1", "listed as untestable"),
    ("S-1 x\n    cases: one\n", "tests: S-1 S-9", "tests S-9, which"),
    ("S-1 x\n", "tests: S-1", "S-1 has neither"),
])
def test_lists_and_cases_have_to_agree(tmp_path, list_text, case_text, wrong):
    (tmp_path / "mqtt311-x.txt").write_text(f"case one\n{case_text}\nA> CONNECT\n")
    (tmp_path / "statements-311.txt").write_text(list_text)
    all_cases, lists = cases.read_all(tmp_path)
    errors = cases.statement_errors("311", lists["311"], all_cases)
    assert bool(errors) == bool(wrong)
    if wrong:
        assert wrong in errors[0]


@pytest.mark.parametrize("text, wrong", [
    ("A> CONNECT", "before the first case"),
    ("case one\nA> CONNECT client", "expected NAME=VALUE"),
    ("case one\nA> CONNECT +no-such=1", "no such property"),
    ("case one\nA- CONNECT", "not understood"),
    ("case one\nrepeat i 1..2\nA> CONNECT", "repeat without end"),
    ("case one\nA> CONNECT client=\"x", "quote is not closed"),
    ("case one\nlevel: 6", "level 6"),
])
def test_what_is_no_case_is_named(tmp_path, text, wrong):
    path = tmp_path / "cases.txt"
    path.write_text(text)
    with pytest.raises(cases.DataError) as failed:
        cases.read_cases(path)
    assert wrong in str(failed.value)
