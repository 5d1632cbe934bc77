# SPDX-License-Identifier: MIT
"""The plugin mail against real SMTP servers: aiosmtpd, which answers as each test wants, and exim."""

import asyncio
import email
import email.policy
import os
import pwd
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from email.utils import parsedate_to_datetime

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from conftest import ROOT
from plugin_host import PluginError, PluginHost

pytestmark = pytest.mark.memory

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
USER, PASSWORD = "router", "correct horse"


class Handler:
    """Takes mails. `answers` has for an address (RCPT) or for "DATA" or "MAIL" what to say, one after the
    other; what it has no answer for is taken."""

    def __init__(self):
        self.mails = []  # (sender, recipient, parsed mail, raw bytes)
        self.answers = {}
        self.connections = 0
        self.mails_on_connection = 0
        self.per_connection = None
        self.ehlo = None
        self.commands = []
        self.hang = None  # an asyncio event that never comes
        self.close_after_data = False

    def answer(self, key):
        left = self.answers.get(key, [])
        return left.pop(0) if left else None

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        self.ehlo = hostname
        return responses

    async def handle_MAIL(self, server, session, envelope, address, options):
        self.commands.append(f"MAIL {address}")
        session.mails = getattr(session, "mails", 0) + 1
        if self.per_connection and session.mails > self.per_connection:
            asyncio.get_event_loop().call_soon(server.transport.close)
            return "421 4.7.0 too many mails on this connection"
        answer = self.answer("MAIL")
        if answer:
            return answer
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        self.commands.append(f"RCPT {address}")
        answer = self.answer(address)
        if answer:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        answer = self.answer("DATA")
        if answer:
            return answer
        assert len(envelope.rcpt_tos) == 1
        raw = envelope.original_content
        mail = email.message_from_bytes(raw, policy=email.policy.default)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos[0], mail, raw))
        if self.close_after_data:
            server.transport.abort()
        return "250 taken as 4711"


class CountingController(Controller):
    def factory(self):
        self.handler.connections += 1
        return super().factory()


class Server:
    """An aiosmtpd on a fixed port, which can be stopped and started again."""

    def __init__(self, port, **options):
        self.port = port
        self.options = options
        self.handler = Handler()
        self.controller = None

    def start(self):
        self.controller = CountingController(
            self.handler, hostname="127.0.0.1", port=self.port, decode_data=False, **self.options
        )
        self.controller.start()
        self.handler.connections = 0  # the controller tries itself once
        return self

    def stop(self):
        if self.controller:
            self.controller.stop()
            self.controller = None

    @property
    def mails(self):
        return self.handler.mails


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A CA and a certificate of it for 127.0.0.1, and another CA that has nothing to do with them."""
    d = tmp_path_factory.mktemp("tls")

    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, cwd=d, capture_output=True)

    for ca in ("ca", "stranger"):
        openssl("req", "-x509", *KEY, "-nodes", "-days", "2", "-subj", f"/CN={ca}",
                "-keyout", f"{ca}.key", "-out", f"{ca}.pem")  # fmt: skip
    openssl("req", *KEY, "-nodes", "-subj", "/CN=127.0.0.1",
            "-keyout", "server.key", "-out", "server.csr")  # fmt: skip
    (d / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "ext", "-out", "server.pem")  # fmt: skip
    return d


@pytest.fixture
def tls(certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    return context


def port_new():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def smtp():
    """smtp(**options of aiosmtpd) starts a server."""
    started = []

    def make(start=True, **options):
        server = Server(port_new(), **options)
        started.append(server)
        return server.start() if start else server

    yield make
    for server in started:
        server.stop()


@pytest.fixture
def mail():
    """mail(server or port, **options of the service) opens the plugin."""
    opened = []

    def make(server, **options):
        port = getattr(server, "port", server)
        options = {"tls": "none", "from": "tocsin@example.org", **options}
        opened.append(PluginHost("mail", host="127.0.0.1", port=port, **options))
        return opened[-1]

    yield make
    for host in opened:
        host.close()


def delivery(to="ann@example.org", **more):
    target = {"to": to, **more.pop("target", {})}
    return {"target": target, "text": "It is 31 °C.", "title": "Alarm", **more}


def send_one(host, *args, **more):
    [result] = host.send(delivery(*args, **more))
    return result


def arrived(server):
    """The one mail that has arrived."""
    assert len(server.mails) == 1, [m[:2] for m in server.mails]
    return server.mails[0][2]


def text_of(part):
    return part.get_content().replace("\r\n", "\n")


def check_form(raw):
    """What every mail must obey: lines end in CR LF and are short, and all of it is ASCII."""
    assert raw.endswith(b"\r\n")
    for line in raw[:-2].split(b"\r\n"):
        assert b"\r" not in line and b"\n" not in line, line
        assert not line.startswith((b".", b"From ")), "what others on the way would change"
        assert len(line) <= 78 or b"boundary=" in line or b"filename" in line, line
        assert all(c == 9 or 32 <= c < 127 for c in line), line


# ---- The way there ----


def test_mail_arrives_with_all_headers(smtp, mail):
    server = smtp()
    host = mail(server, ehlo="router.example.org", **{"from": "Röuter <tocsin@example.org>"})
    result = send_one(
        host,
        to=["Ann Ärger <ann@example.org>", "bob@example.org"],
        target={"cc": "Carl <carl@example.org>", "bcc": "dora@example.org", "reply_to": "ops@example.org"},
        id="abc-42",
        received_ms=1700000000000,
    )
    assert result["verdict"] == "sent" and "4711" in result["receipt"], result

    to = [m[1] for m in server.mails]
    assert to == ["ann@example.org", "bob@example.org", "carl@example.org", "dora@example.org"]
    assert {m[0] for m in server.mails} == {"tocsin@example.org"}
    assert server.handler.ehlo == "router.example.org"
    assert len({m[3] for m in server.mails}) == 1, "all recipients get the same mail"

    message, raw = server.mails[0][2:]
    check_form(raw)
    assert b"From: =?UTF-8?Q?R=C3=B6uter?= <tocsin@example.org>\r\n" in raw
    assert [(a.display_name, a.addr_spec) for a in message["To"].addresses] == [
        ("Ann Ärger", "ann@example.org"),
        ("", "bob@example.org"),
    ]
    assert [(a.display_name, a.addr_spec) for a in message["Cc"].addresses] == [("Carl", "carl@example.org")]
    assert b"dora" not in raw
    assert message["Reply-To"] == "ops@example.org"
    assert message["Subject"] == "Alarm"
    assert message["Message-ID"] == "<abc-42@example.org>"
    assert message["Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert parsedate_to_datetime(message["Date"]).timestamp() == 1700000000
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["MIME-Version"] == "1.0"
    assert message.get_content_type() == "text/plain"
    assert text_of(message) == "It is 31 °C.\n"
    assert server.handler.connections == 1


def test_without_visible_recipients_there_is_a_to_header(smtp, mail):
    server = smtp()
    [result] = mail(server).send({"target": {"bcc": "ann@example.org"}, "text": "x"})
    assert result["verdict"] == "sent"
    assert b"To: undisclosed-recipients:;\r\n" in server.mails[0][3]


def test_recipient_given_twice_gets_one_mail(smtp, mail):
    server = smtp()
    host = mail(server)
    assert send_one(host, target={"cc": "Ann <ANN@example.org>"})["verdict"] == "sent"
    assert len(server.mails) == 1


@pytest.mark.parametrize(
    "envelope, sender", [(None, "other@example.net"), ("bounce@example.org", "bounce@example.org"), ("<>", "<>")]
)
def test_return_path(smtp, mail, envelope, sender):
    server = smtp()
    host = mail(server, **({"envelope_from": envelope} if envelope else {}))
    result = send_one(host, target={"from": "Other <other@example.net>"})
    assert result["verdict"] == "sent", result
    assert server.mails[0][0] == sender
    assert server.mails[0][2]["From"] == "Other <other@example.net>"
    assert server.mails[0][2]["Message-ID"].endswith("@example.net>")


def test_connection_is_kept(smtp, mail):
    server = smtp()
    host = mail(server)
    for _ in range(5):
        assert send_one(host)["verdict"] == "sent"
    assert len(server.mails) == 5
    assert server.handler.connections == 1


# ---- TLS and login ----


class Login:
    def __call__(self, server, session, envelope, mechanism, data):
        if mechanism in ("PLAIN", "LOGIN"):
            good = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
            return AuthResult(success=good, handled=False)
        return AuthResult(success=False, handled=False)


def test_starttls(smtp, mail, tls, certificates):
    server = smtp(tls_context=tls, require_starttls=True)
    host = mail(server, tls="starttls", ca=str(certificates / "ca.pem"))
    assert send_one(host)["verdict"] == "sent"
    assert arrived(server)["Subject"] == "Alarm"


def test_smtps(smtp, mail, tls, certificates):
    server = smtp(ssl_context=tls)
    host = mail(server, tls="smtps", ca=str(certificates / "ca.pem"))
    assert send_one(host)["verdict"] == "sent"
    assert send_one(host)["verdict"] == "sent"
    assert len(server.mails) == 2
    assert server.handler.connections == 1


@pytest.mark.parametrize("way", ["starttls", "smtps"])
def test_strange_certificate_gets_no_mail_unless_allowed(smtp, mail, tls, certificates, way):
    server = smtp(**({"ssl_context": tls} if way == "smtps" else {"tls_context": tls}))
    host = mail(server, tls=way, ca=str(certificates / "stranger.pem"))
    result = send_one(host)
    assert result["verdict"] == "retry" and "certificate" in result["reason"].lower(), result
    assert not server.mails and not server.handler.commands

    host = mail(server, tls=way, ca=str(certificates / "stranger.pem"), verify=False)
    assert send_one(host)["verdict"] == "sent"


def test_starttls_that_is_not_offered_gets_no_mail(smtp, mail):
    server = smtp()
    result = send_one(mail(server, tls="starttls"))
    assert result["verdict"] == "retry" and "STARTTLS" in result["reason"], result
    assert not server.mails and not server.handler.commands


@pytest.mark.parametrize("auth", ["auto", "plain", "login"])
def test_login(smtp, mail, tls, certificates, auth):
    server = smtp(tls_context=tls, authenticator=Login(), auth_required=True)
    login = {"tls": "starttls", "ca": str(certificates / "ca.pem"), "username": USER, "auth": auth}
    assert send_one(mail(server, password=PASSWORD, **login))["verdict"] == "sent"
    assert arrived(server)["Subject"] == "Alarm"


def test_wrong_password_parks_the_target(smtp, mail, tls, certificates):
    server = smtp(tls_context=tls, authenticator=Login(), auth_required=True)
    host = mail(server, tls="starttls", ca=str(certificates / "ca.pem"), username=USER,
                password="wrong-secret-7", park="7m")  # fmt: skip
    result = send_one(host, to=["a@example.org", "b@example.org"])
    assert result["verdict"] == "retry" and result["park_ms"] == 7 * 60 * 1000, result
    assert "535" in result["reason"]
    assert "wrong-secret-7" not in str(result) + str(host.logs)
    assert not server.mails
    assert server.handler.connections == 1, "one wrong login is enough"


def test_server_that_wants_a_login_we_do_not_have_parks_the_target(smtp, mail, tls):
    server = smtp(tls_context=tls, authenticator=Login(), auth_required=True, auth_require_tls=False)
    result = send_one(mail(server))
    assert result["verdict"] == "retry" and result["park_ms"] == 300000, result
    assert "530" in result["reason"]


@pytest.mark.parametrize("auth", ["auto", "xoauth2"])
def test_bearer_token(smtp, mail, tls, certificates, auth):
    seen = []

    class Bearer(Handler):
        async def auth_XOAUTH2(self, server, args):
            blob = args[1].encode() if len(args) > 1 else await server.challenge_auth("")
            seen.append(blob)
            return AuthResult(success=True, auth_data=blob)

    server = smtp(start=False, tls_context=tls, authenticator=Login(), auth_required=True)
    server.handler = Bearer()
    server.start()
    host = mail(server, tls="starttls", ca=str(certificates / "ca.pem"), username=USER, token="t0ken", auth=auth)
    assert send_one(host)["verdict"] == "sent"
    assert seen == [f"user={USER}\1auth=Bearer t0ken\1\1".encode()]


# ---- Refusals ----


def test_greylisted_mail_is_sent_again_as_the_same_mail(smtp, mail):
    server = smtp()
    server.handler.answers["ann@example.org"] = ["451 4.7.1 greylisted, come back"] * 2
    host = mail(server)
    for attempt, wait in ((1, 60000), (2, 120000)):
        result = send_one(host, id="m-1", attempt=attempt)
        assert result["verdict"] == "retry" and result["retry_after_ms"] == wait, result
        assert result["reason"] == "ann@example.org: 451 4.7.1 greylisted, come back"
    assert not server.mails
    assert send_one(host, id="m-1", attempt=3)["verdict"] == "sent"
    assert arrived(server)["Message-ID"] == "<m-1@example.org>"


def test_wait_after_4xx_is_an_option_and_bounded(smtp, mail):
    server = smtp()
    server.handler.answers["ann@example.org"] = ["450 later"] * 3
    host = mail(server, retry_after="3s")
    waits = [send_one(host, id="m-1", attempt=a)["retry_after_ms"] for a in (1, 3, 99)]
    assert waits == [3000, 12000, 48000]


def test_refusal_of_one_of_three_does_not_touch_the_others(smtp, mail):
    server = smtp()
    server.handler.answers["bob@example.org"] = ["550 5.1.1 no such user"]
    host = mail(server)
    result = send_one(host, to=["ann@example.org", "bob@example.org", "carl@example.org"])
    assert [m[1] for m in server.mails] == ["ann@example.org", "carl@example.org"]
    assert result["verdict"] == "reject"
    assert result["reason"] == "bob@example.org: 550 5.1.1 no such user (taken for 2 of 3)"
    assert ["warning", "recipient refused target=t to=bob@example.org: 550 5.1.1 no such user"] in host.logs


def test_only_the_deferred_recipient_is_tried_again(smtp, mail):
    server = smtp()
    server.handler.answers = {"bob@example.org": ["451 later"], "carl@example.org": ["550 nobody"]}
    host = mail(server)
    all_of_them = ["ann@example.org", "bob@example.org", "carl@example.org", "dora@example.org"]
    first = send_one(host, to=all_of_them, id="m-7")
    assert first["verdict"] == "retry" and first["reason"].startswith("bob@example.org: 451"), first
    assert [m[1] for m in server.mails] == ["ann@example.org", "dora@example.org"]

    assert send_one(host, id="other")["verdict"] == "sent"  # another delivery in between
    server.handler.commands.clear()
    second = send_one(host, to=all_of_them, id="m-7", attempt=2)
    assert [c for c in server.handler.commands if c.startswith("RCPT")] == ["RCPT bob@example.org"]
    assert second["verdict"] == "reject"
    assert second["reason"] == "carl@example.org: 550 nobody (taken for 3 of 4)"
    assert second["retry_after_ms"] == 0


@pytest.mark.parametrize(
    "key, answer, verdict, tried",
    [
        ("DATA", "554 5.7.1 looks like spam", "reject", 2),
        ("DATA", "452 4.3.1 disk full", "retry", 2),
        ("MAIL", "550 5.7.1 sender not allowed", "reject", 1),
        ("MAIL", "452 4.3.1 disk full", "retry", 1),
        ("a@example.org", "421 4.3.2 going down", "retry", 1),
    ],
)
def test_answers_and_verdicts(smtp, mail, key, answer, verdict, tried):
    server = smtp()
    server.handler.answers[key] = [answer] * 5
    result = send_one(mail(server), to=["a@example.org", "b@example.org"])
    assert (result["verdict"], answer[:3] in result["reason"]) == (verdict, True), result
    assert len([c for c in server.handler.commands if c.startswith("MAIL")]) == tried
    assert result["retry_after_ms"] == (60000 if verdict == "retry" else 0)


# ---- Servers that come and go ----


def test_server_away_at_the_start_and_back_later(smtp, mail):
    server = smtp(start=False)
    host = mail(server)
    result = send_one(host)
    assert result["verdict"] == "retry" and "127.0.0.1" in result["reason"], result
    assert result["retry_after_ms"] == 0, "the router's own backoff"
    server.start()
    assert send_one(host, attempt=2)["verdict"] == "sent"


def test_server_restarted_between_two_mails(smtp, mail):
    server = smtp()
    host = mail(server)
    assert send_one(host)["verdict"] == "sent"
    server.stop()
    server.start()
    assert send_one(host)["verdict"] == "sent"
    assert len(server.mails) == 2


def test_server_that_has_enough_of_a_connection_gets_a_new_one(smtp, mail):
    server = smtp()
    server.handler.per_connection = 2
    host = mail(server)
    for _ in range(5):
        assert send_one(host)["verdict"] == "sent"
    assert len(server.mails) == 5
    assert server.handler.connections == 3


def test_server_that_says_nothing_is_given_up(mail):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = send_one(mail(listener.getsockname()[1], timeout="300ms"))
    assert result["verdict"] == "retry" and "timed out" in result["reason"].lower(), result


def test_server_that_falls_silent_is_given_up_and_not_waited_for_at_the_end(smtp, mail):
    class Silent(Handler):
        async def handle_RCPT(self, *args):
            if len(self.mails) > 0:
                await asyncio.sleep(3600)
            return await super().handle_RCPT(*args)

        async def handle_QUIT(self, *args):
            await asyncio.sleep(3600)

    server = smtp(start=False)
    server.handler = Silent()
    server.start()
    host = mail(server, timeout="500ms")
    assert send_one(host)["verdict"] == "sent"
    result = send_one(host, to=["ann@example.org", "bob@example.org"])
    assert result["verdict"] == "retry", result
    assert server.handler.commands.count("MAIL tocsin@example.org") == 2, "no use trying the next one"

    server.mails.clear()
    assert send_one(host)["verdict"] == "sent"  # and a connection stays open, to a server that hangs
    closing = threading.Thread(target=host.close)
    closing.start()
    closing.join(60)  # libcurl alone would wait for 120
    assert not closing.is_alive()


def test_mail_whose_answer_is_lost_is_not_sent_twice_at_once(smtp, mail):
    server = smtp()
    host = mail(server)
    assert send_one(host)["verdict"] == "sent"
    server.handler.close_after_data = True
    assert send_one(host, id="m-9")["verdict"] == "retry"
    assert len(server.mails) == 2
    server.handler.close_after_data = False
    assert send_one(host, id="m-9", attempt=2)["verdict"] == "sent"
    assert server.mails[1][3] == server.mails[2][3], "the same bytes, so that the reader can tell"


# ---- What is in the mail ----

SUBJECTS = [
    "plain",
    "Temp 31.5 °C",
    "x" * 67,
    "x" * 68,
    "y" * 400,
    "ü" * 200,
    "日本語" * 50,
    "𝄞 clef " * 30,
    "=?UTF-8?B?not one?=",
    "  blanks at the ends  ",
    "a?=b =? c",
    "tab\there",
    "e\u0301" * 60,
    "quote \" backslash \\ <angle> (comment) ;,:",
]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_subjects(smtp, mail, subject):
    server = smtp()
    assert send_one(mail(server), title=subject)["verdict"] == "sent"
    check_form(server.mails[0][3])
    assert arrived(server)["Subject"] == subject.replace("\t", " ")
    for word in re.findall(rb"=\?UTF-8\?.*?\?.*?\?=", server.mails[0][3]):
        assert len(word) <= 75
        email.header.decode_header(word.decode())[0][0].decode("utf-8")  # no character is split


def test_subject_of_the_vectors(smtp, mail):
    server = smtp()
    assert send_one(mail(server), title="Temp 31.5 °C")["verdict"] == "sent"
    assert b"Subject: =?UTF-8?B?VGVtcCAzMS41IMKwQw==?=\r\n" in server.mails[0][3]


@pytest.mark.parametrize(
    "more, subject",
    [
        ({"target": {"subject": "from the target"}}, "from the target"),
        ({}, "Alarm"),
        ({"title": ""}, "It is 31 °C."),
        ({"title": "", "text": "\r\n\n first\r\nsecond"}, "first"),
        ({"title": "", "text": "", "topic": "a/b"}, "a/b"),
        ({"title": "", "payload_hex": "ff00", "text": "\ufffd\ufffd", "text_is_payload": True, "topic": "a/b"}, "a/b"),
        ({"title": "z" * 2000}, "z" * 500),
        ({"title": "ü" * 2000}, "ü" * 250),
        ({"title": "aü" + "ü" * 2000}, "a" + "ü" * 249),
    ],
)
def test_where_the_subject_comes_from(smtp, mail, more, subject):
    server = smtp()
    assert send_one(mail(server), **more)["verdict"] == "sent"
    assert arrived(server)["Subject"] == subject


TEXTS = [
    "",
    "one line",
    "ends with a line\n",
    "\n\nblank lines before\n\n\nand after\n\n",
    ".\n..\n.leading dot\nFrom here\n>From there\n",
    "trailing blanks  \ntrailing tab\t\n \n\t\n",
    "x" * 5000,
    "long words " * 500,
    "ü" * 3000,
    "=3D = == =\n=\n",
    "tab\tinside, control \x01 \x7f, nothing \x00 at all",
    "𝄞日本語\u2028line separator\u00a0nbsp",
    "x" * 74 + " \n" + "x" * 75 + " \n" + "x" * 76 + ".\n" + "x" * 75 + ".F\n",
    "--=_mixed\n--=_mixed--\n--=_alternative\n",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts_arrive_as_they_are(smtp, mail, text):
    server = smtp()
    assert send_one(mail(server), text=text)["verdict"] == "sent"
    check_form(server.mails[0][3])
    assert text_of(arrived(server)) == text + "\n"
    assert arrived(server)["Content-Transfer-Encoding"] == "quoted-printable"


def test_random_texts_and_titles_arrive_as_they_are(smtp, mail):
    server = smtp()
    host = mail(server)
    rng = random.Random(4)
    alphabet = ["\n", "\r\n", " ", ".", "=", "F", "a", "ß", "€", "\U0001f514", "\t", "--", "=_", "\r"]
    for case in range(60):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 400)))
        title = "s" + "".join(rng.choice(alphabet[2:12]) for _ in range(rng.randrange(0, 90))) + "e"
        assert send_one(host, text=text, title=title, target={"attachment": "payload"})["verdict"] == "sent"
        message, raw = server.mails[-1][2:]
        check_form(raw)
        body, attachment = message.iter_parts()
        assert body.get_payload(decode=True).decode() == text.replace("\r\n", "\n").replace("\n", "\r\n"), case
        assert attachment.get_payload(decode=True).decode() == text, case
        assert message["Subject"] == title.replace("\t", " "), case


def test_line_ends_of_all_kinds(smtp, mail):
    server = smtp()
    assert send_one(mail(server), text="a\nb\r\nc\rd")["verdict"] == "sent"
    assert server.mails[0][3].endswith(b"\r\n\r\na\r\nb\r\nc=0Dd\r\n")


def test_html_and_both(smtp, mail):
    server = smtp()
    host = mail(server)
    html = "<p>31&nbsp;°C &lt;hot&gt;</p>"
    assert host.wants({"to": "a@example.org"}) == 0
    assert host.wants({"to": "a@example.org", "body": "html"}) == 2
    assert host.wants({"to": "a@example.org", "body": "both"}) == 2

    assert send_one(host, html=html, target={"body": "html"})["verdict"] == "sent"
    message = server.mails[0][2]
    assert message.get_content_type() == "text/html"
    assert html in text_of(message) and "<meta charset" in text_of(message)

    assert send_one(host, html=html, target={"body": "both"})["verdict"] == "sent"
    message = server.mails[1][2]
    assert message.get_content_type() == "multipart/alternative"
    assert [p.get_content_type() for p in message.iter_parts()] == ["text/plain", "text/html"]
    assert text_of(message.get_body(("plain",))) == "It is 31 °C."
    assert html in text_of(message.get_body(("html",)))
    check_form(server.mails[1][3])

    page = "<!DOCTYPE html>\n<html><body>mine</body></html>"
    assert send_one(host, html=page, target={"body": "html"})["verdict"] == "sent"
    assert text_of(server.mails[2][2]) == page + "\n"

    assert send_one(host, html="a &lt;b\nc", target={"body": "html"})["verdict"] == "sent"
    assert '<p style="white-space: pre-wrap">a &lt;b\nc</p>' in text_of(server.mails[3][2])


@pytest.mark.parametrize(
    "payload, kind, target, more, want",
    [
        (PNG, "image", {}, {}, ("image/png", "payload.png", "inline")),
        (b"\xff\xd8\xff\xe0jpeg", "image", {}, {}, ("image/jpeg", "payload.jpg", "inline")),
        (b"GIF89a\0\1", "image", {}, {}, ("image/gif", "payload.gif", "inline")),
        (b"RIFF\0\1\2\3WEBPVP8 ", "image", {}, {}, ("image/webp", "payload.webp", "inline")),
        (b"RIFF\0\1\2\3WAVE", "image", {}, {}, None),
        (b"", "image", {}, {}, None),
        (PNG, "none", {}, {}, None),
        (PNG, "payload", {}, {}, ("image/png", "payload.png", "attachment")),
        (b"\0\1\2", "payload", {}, {}, ("application/octet-stream", "payload.bin", "attachment")),
        (b"", "payload", {}, {}, ("text/plain", "payload.txt", "attachment")),
        ("grün\n".encode(), "payload", {}, {}, ("text/plain", "payload.txt", "attachment")),
        (b"{}", "payload", {}, {"properties": {"content_type": "application/json"}},
         ("application/json", "payload.json", "attachment")),
        (b"{}", "payload", {}, {"properties": {"content_type": "text/html\r\nBcc: x@example.org"}},
         ("text/plain", "payload.txt", "attachment")),
        (b"{}", "payload", {}, {"properties": {"content_type": "multipart/mixed"}},
         ("text/plain", "payload.txt", "attachment")),
        (b"1,2", "payload", {"attachment_type": "text/csv", "attachment_name": "x"},
         {"rendered": {"attachment_name": "Küche \"1\".csv"}}, ("text/csv", "Küche _1_.csv", "attachment")),
        (b"1,2", "payload", {"attachment_name": "x"},
         {"rendered": {"attachment_name": "../a\r\nBcc: x@example.org\\b"}},
         ("text/plain", ".._a  Bcc: x@example.org_b", "attachment")),
        (b"1,2", "payload", {"attachment_name": "x"}, {"rendered": {"attachment_name": ""}},
         ("text/plain", "attachment", "attachment")),
        (b"1,2", "payload", {"attachment_name": "x"}, {"rendered": {"attachment_name": "ü" * 999}},
         ("text/plain", "ü" * 60, "attachment")),
    ],
)  # fmt: skip
def test_attachments(smtp, mail, payload, kind, target, more, want):
    server = smtp()
    result = send_one(mail(server), payload_hex=payload.hex(), target={"attachment": kind, **target}, **more)
    assert result["verdict"] == "sent", result
    message, raw = server.mails[0][2:]
    assert "Bcc" not in message
    if want is None:
        assert message.get_content_type() == "text/plain"
        return
    for line in raw.split(b"\r\n"):
        assert len(line) <= 998
    assert message.get_content_type() == "multipart/mixed"
    body, attachment = message.iter_parts()
    assert text_of(body) == "It is 31 °C."
    got = attachment.get_content_type(), attachment.get_filename(), attachment.get_content_disposition()
    assert got == want
    assert attachment.get_payload(decode=True) == payload
    assert "Bcc" not in attachment


@pytest.mark.parametrize("size", [0, 1, 2, 3, 56, 57, 58, 10 * 1024 * 1024])
def test_attachments_are_exact_to_the_byte(smtp, mail, size):
    server = smtp(data_size_limit=None)
    payload = random.Random(size).randbytes(size)
    result = send_one(mail(server), payload_hex=payload.hex(), target={"attachment": "payload"})
    assert result["verdict"] == "sent", result
    _, attachment = arrived(server).iter_parts()
    assert attachment.get_payload(decode=True) == payload


def test_text_that_is_an_unreadable_payload_is_attached_only(smtp, mail):
    server = smtp()
    payload = b"\xff\xfe caf\xe9 \0 \x80"
    unreadable = {"payload_hex": payload.hex(), "text": "\ufffd caf\ufffd", "text_is_payload": True}
    host = mail(server)
    assert send_one(host, target={"attachment": "payload"}, **unreadable)["verdict"] == "sent"
    body, attachment = server.mails[0][2].iter_parts()
    assert text_of(body) == "Alarm"
    assert attachment.get_payload(decode=True) == payload

    assert send_one(host, **unreadable)["verdict"] == "sent"
    assert text_of(server.mails[1][2]) == "\ufffd caf\ufffd\n"
    check_form(server.mails[1][3])


def test_mail_that_is_too_long_is_rejected_here(smtp, mail):
    server = smtp()
    host = mail(server, max_size="64KiB")
    result = send_one(host, text="x" * 70000)
    assert result["verdict"] == "reject" and "max_size" in result["reason"], result
    assert send_one(host, text="x" * 60000)["verdict"] == "sent"
    assert len(server.mails) == 1


def test_mail_that_is_too_long_for_the_server_is_rejected(smtp, mail):
    server = smtp(data_size_limit=10000)
    result = send_one(mail(server), text="x" * 20000)
    assert result["verdict"] == "reject" and "552" in result["reason"], result


INJECTIONS = ["a\r\nBcc: eve@example.org", "a\nBcc: eve@example.org", "a\rBcc: eve@example.org", "a\r\n\r\nbody",
              "a\u0085b", "\x00\x01\x1b[31m", "a\r\n.\r\nMAIL FROM:<eve@example.org>\r\n"]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_nothing_of_a_message_becomes_a_header(smtp, mail, text):
    server = smtp()
    host = mail(server)
    for more in ({"title": text}, {"target": {"subject": "x"}, "rendered": {"subject": text}},
                 {"title": "", "text": text}, {"title": "", "text": "", "topic": text},
                 {"target": {"thread": "x"}, "rendered": {"thread": text}}):  # fmt: skip
        if "\0" in text and "text" not in more:
            continue  # the ABI's strings end there
        result = send_one(host, **more)
        assert result["verdict"] == "sent", result
        sender, to, message, raw = server.mails[-1]
        check_form(raw)
        assert (sender, to) == ("tocsin@example.org", "ann@example.org")
        assert set(k.lower() for k in message.keys()) <= {
            "date", "from", "to", "subject", "message-id", "auto-submitted", "mime-version", "content-type",
            "content-transfer-encoding", "in-reply-to", "references"}  # fmt: skip
    assert all("eve@" not in c for c in server.handler.commands)


@pytest.mark.parametrize(
    "more, importance",
    [
        ({}, None),
        ({"severity": "critical"}, "high"),
        ({"severity": "warning"}, None),
        ({"priority": 2}, "high"),
        ({"priority": -1}, "low"),
        ({"priority": 0, "severity": "critical"}, None),
        ({"severity": "critical", "target": {"importance": "low"}}, "low"),
        ({"severity": "critical", "target": {"importance": "normal"}}, None),
        ({"target": {"importance": "high"}}, "high"),
    ],
)
def test_importance(smtp, mail, more, importance):
    server = smtp()
    assert send_one(mail(server), **more)["verdict"] == "sent"
    assert arrived(server)["Importance"] == importance
    priority = arrived(server)["X-Priority"]
    assert (priority or "").startswith({"high": "1", "low": "5", None: ""}[importance])


def test_thread(smtp, mail):
    server = smtp()
    host = mail(server)
    for key in ("attic", "attic", "cellar"):
        assert send_one(host, target={"thread": "{room}"}, rendered={"thread": key})["verdict"] == "sent"
    first, second, third = (m[2] for m in server.mails)
    assert first["References"] == first["In-Reply-To"] == second["References"] != third["References"]
    assert re.fullmatch(r"<thread-[0-9a-f]{16}@example\.org>", first["References"])
    assert first["Message-ID"] != second["Message-ID"]


# ---- Checks ----


@pytest.mark.parametrize(
    "options, word",
    [
        ({"username": "u", "password": "p"}, "allow_plaintext_auth"),
        ({"username": "u", "password": "p", "tls": "starttls", "token": "t"}, "exclude"),
        ({"password": "p", "tls": "starttls"}, "username"),
        ({"username": "u", "tls": "starttls"}, "password"),
        ({"from": "nobody"}, "from"),
        ({"from": "a@b\r\nBcc: c@d"}, "from"),
        ({"from": "a b@example.org"}, "from"),
        ({"from": "Eve\r\nBcc: x <a@example.org>"}, "from"),
        ({"from": "a@b>\r\nRCPT TO:<c@d>"}, "from"),
        ({"envelope_from": "Ann <a@example.org>"}, "envelope_from"),
        ({"host": "smtp://mail.example.org"}, "host"),
        ({"host": ""}, "host"),
        ({"ehlo": "a b"}, "ehlo"),
        ({"key": "/k"}, "cert"),
        ({"ca": "/c"}, "TLS"),
    ],
)
def test_service_that_cannot_work_is_refused(options, word):
    options = {"host": "127.0.0.1", "tls": "none", "from": "tocsin@example.org", **options}
    with pytest.raises(PluginError, match=word):
        PluginHost("mail", **options)


@pytest.mark.parametrize(
    "target, word",
    [
        ({}, "recipient"),
        ({"to": []}, "recipient"),
        ({"to": ["a@example.org"] * 101}, "100"),
        ({"to": "a"}, "ann@example.org"),
        ({"to": "@example.org"}, "ann@example.org"),
        ({"to": "a@"}, "ann@example.org"),
        ({"to": "a@b@c"}, "ann@example.org"),
        ({"to": "a..b@example.org"}, "ann@example.org"),
        ({"to": "ü@example.org"}, "ann@example.org"),
        ({"to": "a@example.org, b@example.org"}, "ann@example.org"),
        ({"cc": "a@example.org\n"}, "ann@example.org"),
        ({"bcc": "<a@example.org"}, "ann@example.org"),
        ({"to": "a@[127.0.0.1"}, "ann@example.org"),
        ({"to": "a@example.org", "from": "x"}, "from"),
        ({"to": "a@example.org", "reply_to": "x"}, "reply_to"),
        ({"to": "a@example.org", "attachment_type": "text"}, "attachment_type"),
        ({"to": "a@example.org", "attachment_type": "text/a;b"}, "attachment_type"),
    ],
)
def test_target_that_cannot_work_is_refused(mail, target, word):
    assert word in mail(1).check_target(target)


def test_targets_that_work(mail):
    host = mail(1)
    for to in ("a@example.org", "root@localhost", "a+b.c@[127.0.0.1]", "<a@example.org>", '"Q, Q" <q@example.org>',
               "Zoë <z@example.org>", "a@[IPv6:::1]"):  # fmt: skip
        assert host.check_target({"to": to}) is None, to


# ---- exim ----

EXIM = """
daemon_smtp_ports = {starttls} : {smtps}
tls_on_connect_ports = {smtps}
local_interfaces = 127.0.0.1
spool_directory = {dir}/spool
log_file_path = {dir}/log-%s
pid_file_path = {dir}/exim.pid
exim_user = Debian-exim
exim_group = Debian-exim
never_users = root
primary_hostname = mail.example.org
domainlist local = example.org
tls_advertise_hosts = *
tls_certificate = {dir}/server.pem
tls_privatekey = {dir}/server.key
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
smtp_accept_queue_per_connection = 0
acl_smtp_rcpt = rcpt
acl_smtp_data = accept_all
begin acl
rcpt:
  deny    local_parts = ^nouser
          message = no such user
  defer   local_parts = ^grey
          condition = ${{if !exists{{{dir}/known}}}}
          message = greylisted
  deny    !authenticated = *
          message = log in first
  accept
accept_all:
  accept
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{{{eq{{$auth2}}{{router}}}}{{eq{{$auth3}}{{correct horse}}}}}}}}
  server_set_id = $auth2
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${{if eq{{$auth1}}{{router}}{{correct horse}}fail}}
  server_set_id = $auth1
begin routers
all:
  driver = accept
  transport = store
begin transports
store:
  driver = appendfile
  directory = {dir}/Maildir
  maildir_format
  create_directory
  user = Debian-exim
  delivery_date_add
  envelope_to_add
"""


@pytest.fixture
def exim(tmp_path_factory, certificates):
    """A real mail server: STARTTLS and SMTPS, login required, 550 for nouser*, 451 for grey*."""
    # Not below the root-only directory of the test: exim runs as a user of its own.
    d = tmp_path_factory.mktemp("exim")
    for folder in (d, *d.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            os.chmod(folder, 0o755)
    for name in ("server.pem", "server.key"):
        shutil.copy(certificates / name, d)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
    server = type("Exim", (), {"dir": d, "starttls": ports[0], "smtps": ports[1]})
    config = d / "exim.conf"
    config.write_text(EXIM.format(dir=d, starttls=server.starttls, smtps=server.smtps))
    (d / "spool").mkdir()
    uid = pwd.getpwnam("Debian-exim")
    for path in [d, *d.iterdir()]:
        os.chown(path, uid.pw_uid, uid.pw_gid)
    os.chown(config, 0, 0)
    log = open(d / "stderr", "wb")
    process = subprocess.Popen(["/usr/sbin/exim4", "-C", str(config), "-bdf"], stdout=log, stderr=log)
    log.close()

    def ready():
        for port in ports:
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return True

    await_it(lambda: ready() or process.poll() is not None, "exim")
    assert process.poll() is None, (d / "stderr").read_text()
    try:
        yield server
    finally:
        process.terminate()
        process.wait(30)


def await_it(condition, what):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        threading.Event().wait(0.02)


def maildir(exim, count):
    new = exim.dir / "Maildir" / "new"
    await_it(lambda: new.exists() and len(list(new.iterdir())) >= count, f"{count} mails")
    mails = [email.message_from_bytes(p.read_bytes(), policy=email.policy.default) for p in new.iterdir()]
    assert len(mails) == count
    return {m["Envelope-to"]: m for m in mails}


@pytest.mark.parametrize("way, auth", [("starttls", "auto"), ("starttls", "plain"), ("smtps", "cram-md5")])
def test_exim_takes_mails(exim, mail, certificates, way, auth):
    host = mail(getattr(exim, way), tls=way, ca=str(certificates / "ca.pem"), username=USER, password=PASSWORD,
                auth=auth)  # fmt: skip
    result = send_one(host, to=["ann@example.org", "bob@example.org"])
    assert result["verdict"] == "sent", result
    attachment = random.Random(1).randbytes(100000)
    target = {"attachment": "payload", "body": "both"}
    more = {"text": ".\n..\nFrom me\n", "html": "<b>ü</b>", "payload_hex": attachment.hex()}
    result = send_one(host, to="carl@example.org", target=target, title="Grüße", **more)
    assert result["verdict"] == "sent" and "OK id=" in result["receipt"], result
    mails = maildir(exim, 3)
    assert sorted(mails) == ["ann@example.org", "bob@example.org", "carl@example.org"]
    mail_to_carl = mails["carl@example.org"]
    assert mail_to_carl["Subject"] == "Grüße"
    assert text_of(mail_to_carl.get_body(("plain",))) == ".\n..\nFrom me\n"
    assert [a.get_payload(decode=True) for a in mail_to_carl.iter_attachments()] == [attachment]


def test_exim_refuses_defers_and_denies(exim, mail, certificates):
    options = {"tls": "starttls", "ca": str(certificates / "ca.pem"), "username": USER}
    denied = send_one(mail(exim.starttls, password="wrong", **options))
    assert denied["verdict"] == "retry" and "535" in denied["reason"] and denied["park_ms"], denied

    host = mail(exim.starttls, password=PASSWORD, retry_after="10ms", **options)
    to = ["ann@example.org", "nouser@example.org", "grey@example.org"]
    first = send_one(host, to=to, id="m-1")
    assert first["verdict"] == "retry" and "451" in first["reason"] and first["retry_after_ms"] == 10, first
    assert sorted(maildir(exim, 1)) == ["ann@example.org"]

    (exim.dir / "known").touch()
    second = send_one(host, to=to, id="m-1", attempt=2)
    assert second["verdict"] == "reject", second
    assert "nouser@example.org: 550 no such user (taken for 2 of 3)" == second["reason"]
    mails = maildir(exim, 2)
    assert sorted(mails) == ["ann@example.org", "grey@example.org"]
    assert {m["Message-ID"] for m in mails.values()} == {"<m-1@example.org>"}


# ---- The whole way ----


@pytest.fixture
def example(tmp_path, process, free_port, client, build):
    """example(smtp port) runs the router with the example's own file, other ports in it; gives a client of
    the broker, and the router."""

    def start(port):
        own = free_port()
        text = (ROOT / "examples/mail/tocsin.conf").read_text()
        for old, new in (("port = 1883;", f"port = {own};"), ("port = 25;", f"port = {port};")):
            assert text.count(old) == 1
            text = text.replace(old, new)
        config = tmp_path / "tocsin.conf"
        config.write_text(text)
        router = process([build / "tocsin", "run", "-c", config])
        router.wait_line("subscribed")
        return client(own), router

    return start


@pytest.mark.threads
def test_example_sends_alarms_and_pictures(smtp, example):
    server = smtp()
    c, router = example(server.port)
    c.publish("sensors/attic/celsius", b"26.9")
    c.publish("sensors/attic/celsius", b"too warm")
    c.publish("sensors/größe/celsius", b"31.5")
    await_it(lambda: len(server.mails) >= 2, "the alarm")
    c.publish("cameras/door/picture", PNG)
    await_it(lambda: len(server.mails) >= 3, "the picture")

    alarms = {m[1]: m[2] for m in server.mails[:2]}
    assert sorted(alarms) == ["ann@example.org", "bob@example.org"]
    alarm = alarms["ann@example.org"]
    assert alarm["Subject"] == "critical: größe is too warm"
    assert alarm["Importance"] == "high"
    assert re.fullmatch(r"31\.5 °C in größe at \d\d:\d\d", text_of(alarm.get_body(("plain",))))
    assert "31.5 °C in größe" in text_of(alarm.get_body(("html",)))
    assert alarm["Message-ID"] == alarms["bob@example.org"]["Message-ID"]
    assert abs(parsedate_to_datetime(alarm["Date"]).timestamp() - time.time()) < 3600

    to, picture, raw = server.mails[2][1:]
    assert (to, picture["Subject"]) == ("ann@example.org", "Motion at the door")
    [attachment] = picture.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content_type()) == ("door.jpg", "image/png")
    assert attachment.get_payload(decode=True) == PNG
    for message in server.mails:
        check_form(message[3])
    assert router.stop() == 0


def test_example_delivers_what_came_while_the_server_was_away(smtp, example):
    server = smtp(start=False)
    c, router = example(server.port)
    c.publish("sensors/attic/celsius", b"31.5")
    router.wait_line("Failed to connect")
    server.start()
    await_it(lambda: len(server.mails) >= 2, "the alarm")
    assert [m[1] for m in server.mails] == ["ann@example.org", "bob@example.org"]
