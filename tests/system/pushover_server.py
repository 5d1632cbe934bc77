# SPDX-License-Identifier: MIT
"""A stand-in for the Pushover API that enforces what the vendor says of its requests, and can misbehave.

Requests that break a rule get the 400 that the vendor would answer. What a well-behaved client never does,
whatever it is told to send, is collected in `violations`: repeating a refused request, a third connection,
a method or path that does not exist.
"""

import base64
import email.message
import gzip
import hashlib
import hmac
import http.server
import json
import re
import socket
import ssl
import subprocess
import threading
import urllib.parse

TOKEN = "azGDORePK8gMaC0QOYAMyEEuzJnyUi"
USER = "uQiRzpo4DXghDmr9QzzfQu27cmVRsG"
OTHER_USER = "gznej3rKEVAvPUxu9vvNnqpmZpokzF"
RECEIPT = "rLqVuqTRh62UzxtmqiaLzQmVcPgiCy"
IMAGE_BYTES = 5242880

PLAIN = (
    "token user message title url url_title device priority retry expire callback tags sound timestamp html "
    "monospace ttl attachment_base64 attachment_type encrypted"
).split()
CHARS = {"message": 1024, "title": 250, "url": 512, "url_title": 100}


def decrypt(text, key):
    """The text of an encrypted field; ValueError if it is not genuine."""
    data = base64.b64decode(text, validate=True)
    signed, mac = data[:-32], data[-32:]
    key = bytes.fromhex(key)
    if not hmac.compare_digest(hmac.new(key, signed, hashlib.sha256).digest(), mac):
        raise ValueError("wrong MAC")
    command = ["openssl", "enc", "-d", "-aes-256-cbc", "-K", key.hex(), "-iv", signed[:16].hex()]
    return gzip.decompress(subprocess.run(command, input=signed[16:], capture_output=True, check=True).stdout).decode()


def parse_multipart(body, content_type):
    """(fields, {name: (filename, type, bytes)})"""
    head = email.message.Message()
    head["Content-Type"] = content_type
    border = b"\r\n--" + head.get_param("boundary").encode()
    fields, files = {}, {}
    parts = (b"\r\n" + body).split(border)
    if parts[0] != b"" or not parts[-1].startswith(b"--"):
        raise ValueError("not multipart")
    for part in parts[1:-1]:
        raw, _, data = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        lines = email.message_from_bytes(raw + b"\r\n\r\n")
        name = lines.get_param("name", header="Content-Disposition")
        if name in fields or name in files:
            raise ValueError(f"{name} twice")
        if lines.get_filename():
            files[name] = (lines.get_filename(), lines.get_content_type(), data)
        else:
            fields[name] = data.decode("utf-8")
    return fields, files


class Request:
    """One request as it came in: `fields` are decrypted where the server has the key."""

    def __init__(self, path, fields, files):
        self.path = path
        self.fields = fields
        self.files = files
        self.status = None
        self.key = None  # Idempotency-Key

    def __repr__(self):
        return f"<{self.path} {self.fields} {list(self.files)} -> {self.status}>"


class PushoverServer:
    """Listens from start() to stop(), and again on the same port. Answers are taken from `script` first:
    "close" (before an answer), "half" (in the midst of it), "silence", "garbage", "endless", "refuse" (200
    with status 0), "redirect", or (HTTP status, {header: text})."""

    def __init__(self, tls=None, encryption_key=None, start=True):
        self.tls = tls  # (certificate, key)
        self.encryption_key = encryption_key
        self.tokens = {TOKEN}
        self.users = {USER, OTHER_USER}
        self.requests = []
        self.script = []
        self.violations = []
        self.accepted_connections = 0
        self.refused = set()
        self.remaining = 10000
        self.news = threading.Condition()
        self.sockets = set()
        self.server = None
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        if start:
            self.start()

    @property
    def url(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/1"

    def start(self):
        self.stopping = threading.Event()
        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.owner = self
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        if not self.server:
            return
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.server = None
        with self.news:
            for s in self.sockets:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            assert self.news.wait_for(lambda: not self.sockets, 30)

    def wait_requests(self, n, timeout=120):
        with self.news:
            assert self.news.wait_for(lambda: len(self.requests) >= n, timeout), self.requests
            return list(self.requests)

    def messages(self):
        """The fields of what was accepted."""
        with self.news:
            return [r.fields for r in self.requests if r.status == 200 and r.path == "/1/messages.json"]

    def errors(self, fields, files):
        """What the API would say against a message: a list of (parameter, text)."""
        said = [(name, "is unknown") for name in fields if name not in PLAIN]
        said += [(name, "is unknown") for name in files if name != "attachment"]

        if fields.get("token") not in self.tokens:
            said.append(("token", "application token is invalid"))
        users = fields.get("user", "").split(",")
        if len(users) > 50 or any(u not in self.users for u in users):
            said.append(("user", "user identifier is not a valid user, group, or subscribed user key"))
        for name, limit in CHARS.items():
            # The limits are those of the text; sealed, the shortest title of a link is over 100 characters.
            sealed = "encrypted" in fields and not self.encryption_key
            if len(fields.get(name, "")) > limit and not sealed:
                said.append((name, f"is over {limit} characters"))
        if not fields.get("message", "").strip():
            said.append(("message", "cannot be blank"))
        if "device" in fields and not all(
            re.fullmatch(r"[A-Za-z0-9_-]{1,25}", d) for d in fields["device"].split(",")
        ):
            said.append(("device", "is not valid"))

        def number(name, low, high):
            if not re.fullmatch(r"-?\d{1,12}", fields.get(name, "")) or not low <= int(fields[name]) <= high:
                said.append((name, f"is not a number from {low} to {high}"))

        if "priority" in fields:
            number("priority", -2, 2)
        emergency = fields.get("priority") == "2"
        if emergency:
            number("retry", 30, 10800)
            number("expire", 1, 10800)
        for name in ("retry", "expire", "callback", "tags"):
            if name in fields and not emergency:
                said.append((name, "goes with priority 2 only"))
        if "timestamp" in fields:
            number("timestamp", 1, 99999999999)
        if "ttl" in fields:
            number("ttl", 1, 31536000)
        for name in ("html", "monospace", "encrypted"):
            if fields.get(name, "1") != "1":
                said.append((name, "is 1 or absent"))
        if "html" in fields and "monospace" in fields:
            said.append(("monospace", "excludes html"))
        if "sound" in fields and not re.fullmatch(r"[A-Za-z0-9_-]+", fields["sound"]):
            said.append(("sound", "is invalid"))
        for filename, kind, data in files.values():
            if not kind.startswith("image/") or len(data) > IMAGE_BYTES:
                said.append(("attachment", "is invalid"))
        return said


NOTICE = 5  # seconds


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        self.owner = self.server.owner
        self.raw = self.request
        if self.owner.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.owner.tls)
            try:
                self.request = context.wrap_socket(self.request, server_side=True)
            except OSError:
                self.request = self.raw
        with self.owner.news:
            self.owner.sockets.add(self.request)
            self.owner.accepted_connections += 1
            # One that the client has closed counts until its thread has noticed.
            if not self.owner.news.wait_for(lambda: len(self.owner.sockets) <= 2, NOTICE):
                self.owner.violations.append("more than 2 connections")
        super().setup()

    def finish(self):
        try:
            super().finish()
        except OSError:
            pass
        try:
            self.request.close()
        finally:
            with self.owner.news:
                self.owner.sockets.discard(self.request)
                self.owner.news.notify_all()

    def handle(self):
        try:
            super().handle()
        except OSError:
            pass

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.owner.violations.append(f"{self.command} {self.path}")
        self.send_error(404)

    do_PUT = do_GET

    def do_POST(self):
        owner = self.owner
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        files = {}
        if kind == "application/x-www-form-urlencoded":
            pairs = urllib.parse.parse_qsl(body.decode("ascii"), True, True, "utf-8", "strict")
            fields = dict(pairs)
            if len(fields) < len(pairs):
                owner.violations.append(f"a parameter twice: {pairs}")
        elif kind.startswith("multipart/form-data"):
            fields, files = parse_multipart(body, kind)
        else:
            owner.violations.append(f"Content-Type {kind}")
            return self.send_error(400)
        if self.headers["Expect"]:
            owner.violations.append("waits for 100 Continue")

        digest = hashlib.sha256(self.path.encode() + body.split(b"\r\n", 1)[-1]).digest()
        if digest in owner.refused:
            owner.violations.append(f"repeats a refused request: {fields}")
        if fields.get("encrypted") and owner.encryption_key:
            for name in CHARS:
                if name in fields:
                    fields[name] = decrypt(fields[name], owner.encryption_key)

        request = Request(self.path, fields, files)
        request.key = self.headers["Idempotency-Key"]
        with owner.news:
            act = owner.script.pop(0) if owner.script else None
        if act is None:
            status, headers, answer = self.judge(request)
        elif isinstance(act, tuple):
            status, headers = act
            answer = {"status": 0, "errors": ["as told"], "request": "r-0"}
        else:
            status, headers, answer = 200, {}, {"status": 0, "errors": ["as told"], "request": "r-0"}
            if act == "redirect":
                status, headers = 302, {"Location": "/1/elsewhere.json"}
            elif act == "close":
                status = None
            elif act == "silence":
                status = None
            elif act == "garbage":
                answer = None
        if status and (400 <= status < 500 or act == "refuse") and status != 429:
            owner.refused.add(digest)
        request.status = status if act != "refuse" else 0
        with owner.news:
            owner.requests.append(request)
            owner.news.notify_all()
        if act == "silence":
            owner.stopping.wait()
        if status is None:
            self.close_connection = True
            return
        text = b"<html>\x00\xff" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if act == "endless":
            self.end_headers()
            while True:
                self.wfile.write(b" " * 65536)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[:5] if act == "half" else text)
        if act == "half":
            self.close_connection = True

    def judge(self, request):
        """(status, headers, answer)"""
        owner = self.owner
        if re.fullmatch(r"/1/receipts/cancel_by_tag/[^/]+\.json", request.path):
            if request.fields != {"token": TOKEN} or request.files:
                return 400, {}, {"status": 0, "token": "invalid", "errors": ["application token is invalid"]}
            return 200, {}, {"status": 1, "canceled": 1, "request": "r-1"}
        if request.path != "/1/messages.json":
            owner.violations.append(f"POST {request.path}")
            return 404, {}, {"status": 0, "errors": ["no such call"]}
        said = owner.errors(request.fields, request.files)
        answer = {"status": 0 if said else 1, "request": f"647d2300-702c-4b38-8b2f-{len(owner.requests):012x}"}
        if said:
            answer["errors"] = [text for _, text in said]
            answer.update({name: "invalid" for name, _ in said})
            return 400, {}, answer
        if request.fields.get("priority") == "2":
            answer["receipt"] = RECEIPT
        owner.remaining -= len(request.fields["user"].split(","))
        quota = {"Limit": 10000, "Remaining": owner.remaining, "Reset": 1893477600}
        return 200, {f"X-Limit-App-{k}": str(v) for k, v in quota.items()}, answer
