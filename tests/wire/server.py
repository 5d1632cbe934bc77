# SPDX-License-Identifier: MIT
"""The broker under test: started on a free loopback port with the options a case needs, ended by its process id."""

import os
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from cases import DataError

ROOT = Path(__file__).resolve().parents[2]
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, TCP_LISTEN = 4, 20, 10
NLM_F_REQUEST, NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 1, 0x300, 2, 3
START = 30.0  # seconds until it has to listen; never a measure of speed

# What Mosquitto takes below a `listener`, and this program's listener groups too.
OF_LISTENERS = ("max_connections", "max_qos", "max_topic_alias", "mount_point")
NOT_MOSQUITTOS = ("connect_timeout", "max_topic_levels", "workers")
IN_SECONDS = ("connect_timeout", "sys_interval", "persistent_client_expiration")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def is_taken(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def has_socket(pid, inode):
    try:
        return any(os.readlink(fd) == f"socket:[{inode}]" for fd in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # it has ended, or closed something meanwhile: to be asked again


def listens(pid, port):
    """Whether that process listens there. A connection would tell too, but count as one, and /proc/net/tcp takes seconds
    while the machine has very many of them; so the kernel is asked for its listening sockets (sock_diag(7))."""
    request = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 1 << TCP_LISTEN) + bytes(48)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as s:
        s.send(struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + request)
        while True:
            data, at = s.recv(1 << 16), 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return False
                if struct.unpack_from(">H", data, at + 20)[0] == port:
                    inode, = struct.unpack_from("=I", data, at + 84)
                    return has_socket(pid, inode)
                at += (length + 3) & ~3


def mosquitto_config(port, options):
    lines = ["allow_anonymous true", "persistence false", "log_dest none", f"listener {port} 127.0.0.1"]
    for name, value in options.items():
        name = {"receive_maximum": "max_inflight_messages"}.get(name, name)  # one option for both ways there
        if name in NOT_MOSQUITTOS:
            continue
        if name in OF_LISTENERS:
            lines.append(f"{name} {value}")
        else:
            lines.insert(0, f"{name} {value}")
    return "\n".join(lines) + "\n"


def tocsin_value(name, text):
    if name in IN_SECONDS and text.isdigit():
        text += "s"
    if text in ("true", "false") or text.lstrip("-").isdigit():
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def tocsin_config(port, options, store):
    def rows(names):
        return "".join(f" {name} = {tocsin_value(name, options[name])};" for name in names)

    listener = rows(name for name in options if name in OF_LISTENERS)
    return f'broker = {{ listeners = ( {{ port = {port}; bind = "127.0.0.1";{listener} }} );' \
           f"{rows(name for name in options if name not in OF_LISTENERS)} }};\n" \
           + (f'store = {{ path = "{store}"; }};\n' if store else "")


class Server:
    """A broker of our own, or `host:port` of somebody's."""

    def __init__(self, broker, options):
        self.child, self.address, self.folder = None, None, None
        if ":" in broker:
            host, _, port = broker.rpartition(":")
            self.address = host, int(port)
            if options:
                raise DataError(f"needs a broker of its own, with {options}")
            return
        self.folder = tempfile.TemporaryDirectory(prefix="wire-")
        while not self.start(broker, options):
            pass  # somebody else took the port meanwhile

    def start(self, broker, options):
        self.address = "127.0.0.1", free_port()
        config = Path(self.folder.name, "broker.conf")
        self.log = Path(self.folder.name, "log").open("w+b")
        if broker == "mosquitto":
            config.write_text(mosquitto_config(self.address[1], options))
            argv = ["/usr/sbin/mosquitto", "-c", config]
        else:
            store = Path(self.folder.name, "store.db") if os.environ.get("TOCSIN_STORE") else None
            config.write_text(tocsin_config(self.address[1], options, store))
            argv = [ROOT / os.environ.get("TOCSIN_BUILD", "build/release") / "tocsin", "run", "-c", config]
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
                                      cwd=self.folder.name)
        return self.await_listening()

    def await_listening(self):
        """False if the port is somebody else's."""
        end = time.monotonic() + START
        while True:
            ended = self.child.poll() is not None
            if ended and is_taken(self.address[1]):
                self.log.close()
                return False
            if not ended and listens(self.child.pid, self.address[1]):
                return True
            if ended or time.monotonic() > end:
                raise DataError(f"the broker does not listen: {self.said() or 'without a word'}")
            time.sleep(0.01)

    def said(self):
        """The end of what it wrote."""
        self.log.seek(0)
        return self.log.read()[-4000:].decode(errors="replace").strip()

    def memory(self):
        """MiB of private memory it may write to, which is what grows when it reserves what a packet announces. None
        where that says nothing: under a sanitizer it is many TiB, and what was freed is kept."""
        if self.child is None:
            return None
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        size = int(status.partition("VmData:")[2].split()[0]) // 1024 if "VmData:" in status else 0
        return size if size < 1 << 20 else None

    def died(self):
        return self.child is not None and self.child.poll() is not None

    def stop(self):
        """None, or what was wrong with its end."""
        if self.child is None:
            return None
        wrong = None
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            status = self.child.wait(START)
        except subprocess.TimeoutExpired:
            self.child.kill()
            status = self.child.wait()
        if status:
            wrong = f"the broker ended with status {status}:\n{self.said()}"
        self.log.close()
        self.folder.cleanup()
        return wrong
