# SPDX-License-Identifier: MIT
"""The broker under test: started on a free loopback port with the options a case needs, ended by its process id."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cases import DataError

ROOT = Path(__file__).resolve().parents[2]
START = 30.0  # seconds until it has to listen; never a measure of speed

# What Mosquitto takes below a `listener`, and this program's listener groups too.
OF_LISTENERS = ("max_connections", "max_qos", "max_topic_alias", "mount_point")
NOT_MOSQUITTOS = ("connect_timeout", "max_topic_levels", "workers")
IN_SECONDS = ("connect_timeout", "sys_interval", "persistent_client_expiration")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    """Whether something on loopback listens. A connection would tell too, but count as one."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1] == f"0100007F:{port:04X}" and row.split()[3] == "0A" for row in rows)


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


def tocsin_config(port, options):
    def rows(names):
        return "".join(f" {name} = {tocsin_value(name, options[name])};" for name in names)

    listener = rows(name for name in options if name in OF_LISTENERS)
    return f'broker = {{ listeners = ( {{ port = {port}; bind = "127.0.0.1";{listener} }} );' \
           f"{rows(name for name in options if name not in OF_LISTENERS)} }};\n"


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
        self.address = "127.0.0.1", free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="wire-")
        config = Path(self.folder.name, "broker.conf")
        self.log = Path(self.folder.name, "log").open("w+b")
        if broker == "mosquitto":
            config.write_text(mosquitto_config(self.address[1], options))
            argv = ["/usr/sbin/mosquitto", "-c", config]
        else:
            config.write_text(tocsin_config(self.address[1], options))
            argv = [ROOT / os.environ.get("TOCSIN_BUILD", "build/release") / "tocsin", "run", "-c", config]
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
                                      cwd=self.folder.name)
        self.await_listening()

    def await_listening(self):
        end = time.monotonic() + START
        while True:
            if listens(self.address[1]):
                return
            if self.child.poll() is not None or time.monotonic() > end:
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
