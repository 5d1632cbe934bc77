# SPDX-License-Identifier: MIT
"""Receivers of GELF for the tests: UDP, TCP (with TLS or without), HTTP. They read strictly, and can misbehave.

What came in is in a queue: get() awaits the next record.
"""

import gzip
import http.server
import json
import queue
import socket
import ssl
import struct
import threading
import zlib

TIMEOUT = 120


def inflate(data):
    """A payload as the vendor's server tells its compression: by the first bytes."""
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:1] == b"\x78" and int.from_bytes(data[:2], "big") % 31 == 0:
        return zlib.decompress(data)
    assert data[:1] == b"{", data[:20]
    return data


def parse(text):
    """A record that keeps the rules of GELF 1.1, as a dict."""

    def unique(pairs):
        assert len(dict(pairs)) == len(pairs), f"a name twice: {pairs}"
        return dict(pairs)

    record = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    assert record["version"] == "1.1"
    assert isinstance(record["host"], str) and record["host"]
    assert isinstance(record["short_message"], str) and record["short_message"]
    assert type(record.get("timestamp", 0)) in (int, float)
    assert type(record["level"]) is int and 0 <= record["level"] <= 7
    for name, value in record.items():
        if name in ("version", "host", "short_message", "full_message", "timestamp", "level"):
            continue
        assert name.isascii() and name[0] == "_" and len(name) > 1 and name != "_id", name
        assert name.replace("_", "").replace(".", "").replace("-", "").isalnum() or set(name) <= set("_.-"), name
        assert type(value) in (str, int, float), (name, value)
        assert len(str(value).encode()) <= 32766, name
    return record


class Udp:
    def __init__(self, port=0):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind(("127.0.0.1", port))
        self.socket.settimeout(TIMEOUT)
        self.port = self.socket.getsockname()[1]
        self.datagrams = []  # of the last get()

    def get_text(self):
        """The next message: put together, inflated."""
        self.datagrams = [self.socket.recv(65536)]
        if self.datagrams[0][:2] != b"\x1e\x0f":
            return inflate(self.datagrams[0])
        parts = {}
        while True:
            data = self.datagrams[-1]
            ident, number, count = data[2:10], data[10], data[11]
            assert data[:2] == b"\x1e\x0f" and ident == self.datagrams[0][2:10] and count <= 128 and number < count
            assert number not in parts
            parts[number] = data[12:]
            if len(parts) == count:
                break
            self.datagrams.append(self.socket.recv(65536))
        return inflate(b"".join(parts[i] for i in range(count)))

    def get(self):
        return parse(self.get_text())

    def is_empty(self):
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(65536)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT)

    def stop(self):
        self.socket.close()


class Tcp:
    """Connections are served one after the other, each as the next word of `script` says: "read" (when there
    is none), "close" (at once, with a reset), "deaf" (reads nothing), "once" (reads one record, then closes), "reset" (closes with a reset as soon as there is
    something to read)."""

    def __init__(self, tls=None, start=True, window=None):
        self.tls = tls
        self.window = window  # bytes that are taken before they are read
        self.records = queue.Queue()
        self.script = []
        self.connections = 0
        self.listener = None
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        if start:
            self.start()

    def start(self):
        self.stopping = threading.Event()
        self.connection = None
        self.listener = socket.create_server(("127.0.0.1", self.port))
        if self.window:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        self.thread = threading.Thread(target=self._run, args=(self.listener,), daemon=True)
        self.thread.start()

    def hang_up(self):
        """Ends the connection, of which everything has been read."""
        self.connection.shutdown(socket.SHUT_RDWR)

    def stop(self):
        """Ends as a process does: what has not been read makes it a reset."""
        if not self.listener:
            return
        self.stopping.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.listener = None
        while self.thread.is_alive():
            try:
                self.connection.shutdown(socket.SHUT_RDWR)
            except (AttributeError, OSError):
                pass
            self.thread.join(0.05)
        self.script.clear()

    def _run(self, listener):
        while not self.stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self.connection = connection
            act = self.script.pop(0) if self.script else "read"
            try:
                if self.tls:
                    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                    context.load_cert_chain(*self.tls)
                    connection = self.connection = context.wrap_socket(connection, server_side=True)
                self._serve(connection, act)
            except OSError:
                pass
            finally:
                connection.close()
                self.connection = None

    def _serve(self, connection, act):
        if act == "close":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if act == "reset":
            connection.recv(1, socket.MSG_PEEK)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if act == "deaf":
            self.stopping.wait()
            return
        rest = b""
        while True:
            data = connection.recv(65536)
            if not data:
                assert rest == b"" or self.stopping.is_set(), rest
                return
            *frames, rest = (rest + data).split(b"\0")
            for frame in frames:
                self.records.put(frame)
            if act == "once" and frames:
                return

    def get(self):
        return parse(self.records.get(timeout=TIMEOUT))


class Http:
    """Answers 202, or what `script` says next: (status, {header: text}), "close", "silence", "endless"."""

    def __init__(self, tls=None, start=True):
        self.tls = tls
        self.requests = queue.Queue()  # (headers, record)
        self.script = []
        self.connections = 0
        self.server = None
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        if start:
            self.start()

    def start(self):
        owner = self
        owner.stopping = threading.Event()
        owner.sockets = set()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                owner.connections += 1
                owner.sockets.add(self.request)
                super().setup()

            def handle(self):
                try:
                    super().handle()
                except OSError:
                    pass

            def log_message(self, *args):
                pass

            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                act = owner.script.pop(0) if owner.script else (202, {})
                if self.path != "/gelf" or self.headers["Content-Type"] != "application/json":
                    act = (415, {})
                coding = self.headers["Content-Encoding"]
                data = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[coding](data)
                owner.requests.put((self.headers, data))
                if act == "silence":
                    owner.stopping.wait()
                if isinstance(act, str) and act != "endless":
                    self.close_connection = True
                    return
                status, headers = act if isinstance(act, tuple) else (202, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if act == "endless":
                    self.end_headers()
                    while True:
                        self.wfile.write(b" " * 65536)
                self.send_header("Content-Length", "0")
                self.end_headers()

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", self.port), Handler)
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        if not self.server:
            return
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.server = None
        for s in self.sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def get(self):
        self.headers, data = self.requests.get(timeout=TIMEOUT)
        return parse(data)
