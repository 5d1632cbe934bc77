# SPDX-License-Identifier: MIT
"""Servers that speak NSCA for tests: Debian's own, and one that does as it is told; and libmcrypt to
look into packets with."""

import ctypes
import os
import pwd
import grp
import socket
import struct
import threading
import zlib

from conftest import TIMEOUT, port_is_open, until

IV = bytes(range(128))
TIME = 1700000000
INIT = IV + struct.pack(">I", TIME)
PASSWORD = "S3cret-passw0rd"

# What works with Debian's server: number, libmcrypt's name, bytes of key, bytes of vector.
METHODS = [
    (0, "none", 0, 0),
    (1, "xor", 0, 128),
    (2, "des", 8, 8),
    (3, "tripledes", 24, 8),
    (4, "cast-128", 16, 8),
    (5, "cast-256", 32, 16),
    (6, "xtea", 16, 8),
    (8, "blowfish", 56, 8),
    (9, "twofish", 32, 16),
    (10, "loki97", 32, 16),
    (11, "rc2", 128, 8),
    (14, "rijndael-128", 32, 16),
    (15, "rijndael-192", 32, 24),
    (16, "rijndael-256", 32, 32),
    (20, "serpent", 32, 16),
    (23, "gost", 32, 8),
    (26, "saferplus", 32, 16),
]


class Cipher:
    """The stream of one connection; `apply` continues where it ended."""

    def __init__(self, number, password=PASSWORD, iv=IV):
        _, name, key_len, _ = next(m for m in METHODS if m[0] == number)
        self.number = number
        self.password = password.encode()
        self.iv = iv
        if number < 2:
            return
        self.mcrypt = ctypes.CDLL("libmcrypt.so.4")
        self.mcrypt.mcrypt_module_open.restype = ctypes.c_void_p
        self.module = ctypes.c_void_p(self.mcrypt.mcrypt_module_open(name.encode(), None, b"cfb", None))
        key = self.password[:key_len].ljust(key_len, b"\0")
        assert self.mcrypt.mcrypt_generic_init(self.module, key, key_len, iv) >= 0

    def xor(self, data):
        out = bytearray()
        for i, byte in enumerate(data):
            byte ^= self.iv[i % 128]
            if self.password:
                byte ^= self.password[i % len(self.password)]
            out.append(byte)
        return bytes(out)

    def apply(self, packet, decrypt=True):
        if self.number == 0:
            return packet
        if self.number == 1:
            return self.xor(packet)
        data = ctypes.create_string_buffer(packet, len(packet))
        work = self.mcrypt.mdecrypt_generic if decrypt else self.mcrypt.mcrypt_generic
        assert work(self.module, data, len(packet)) >= 0
        return data.raw


def text_at(packet, start, end):
    """A field of a plain packet, and the bytes after its NUL."""
    text, nul, rest = packet[start:end].partition(b"\0")
    assert nul, "not terminated"
    return text, rest


class Packet:
    """What is in a plain packet, whose version and CRC are right."""

    def __init__(self, plain):
        self.plain = plain
        version, self.crc, self.time, self.code = struct.unpack(">hxxIIh", plain[:14])
        assert version == 3
        assert zlib.crc32(plain[:4] + bytes(4) + plain[8:]) == self.crc
        self.host, host_rest = text_at(plain, 14, 78)
        self.service, service_rest = text_at(plain, 78, 206)
        self.output, output_rest = text_at(plain, 206, len(plain) - 2)
        self.padding = plain[2:4] + host_rest + service_rest + output_rest + plain[-2:]

    def without_padding(self):
        """The same packet with zeros where the padding is."""
        size = len(self.plain)
        head = struct.pack(">hxxIIh", 3, 0, self.time, self.code)
        fields = self.host.ljust(64, b"\0") + self.service.ljust(128, b"\0")
        plain = (head + fields + self.output).ljust(size, b"\0")
        return plain[:4] + struct.pack(">I", zlib.crc32(plain)) + plain[8:]


def receive(connection, count=None):
    """So many bytes, or all until the client is done."""
    data = b""
    while count is None or len(data) < count:
        piece = connection.recv(65536 if count is None else count - len(data))
        if not piece:
            break
        data += piece
    return data


def well_behaved(connection):
    connection.sendall(INIT)
    return receive(connection)


class FakeServer:
    """Does with each connection what the next of `acts` says, the last one for all that follow. An act is
    given the connection and returns what it has received. `received` has it all."""

    def __init__(self, *acts, family=socket.AF_INET):
        self.acts = list(acts) or [well_behaved]
        self.received = []
        self.listener = socket.socket(family)
        self.listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self.listener.listen(100)
        self.port = self.listener.getsockname()[1]
        self.over = threading.Event()  # for acts that wait
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
            with connection:
                connection.settimeout(TIMEOUT)
                try:
                    self.received.append(act(connection))
                except OSError as error:
                    self.received.append(error)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(TIMEOUT)


class NscaDaemon:
    """Debian's nsca. Each result that it accepts is a line in a file, or goes to `command_file`."""

    def __init__(self, directory, process, port, method, password=PASSWORD, command_file=None, fork=False):
        self.port = port
        self.start_process = process
        self.process = None
        self.fork = fork
        self.file = command_file or directory / f"results-{port}"
        self.pid_file = directory / f"nsca-{port}.pid"
        self.config = directory / f"nsca-{port}.cfg"
        user = pwd.getpwuid(os.getuid()).pw_name
        group = grp.getgrgid(os.getgid()).gr_name
        self.config.write_text(
            f"server_address=127.0.0.1\nserver_port={port}\npid_file={self.pid_file}\n"
            f"nsca_user={user}\nnsca_group={group}\ncommand_file={self.file}\n"
            f"append_to_file={0 if command_file else 1}\npassword={password}\n"
            f"decryption_method={method}\ndebug=1\n"
        )

    def start(self):
        if not self.process and not self.file.exists():
            self.file.write_text("")
        mode = ["--daemon"] if self.fork else ["-f"]
        self.process = self.start_process(["/usr/sbin/nsca", "-c", self.config, *mode])
        until(lambda: port_is_open(self.port), "nsca")
        return self

    def stop(self):
        if self.fork:
            pid = int(self.pid_file.read_text())
            os.kill(pid, 15)
            until(lambda: not port_is_open(self.port), "the end of nsca")
        else:
            self.process.kill()

    def lines(self):
        """What was accepted so far, without the time."""
        return [line.partition("] ")[2] for line in self.file.read_text("utf-8", "surrogateescape").splitlines()]

    def wait_lines(self, count):
        until(lambda: len(self.lines()) >= count, f"{count} results; there are {len(self.lines())}")
        return self.lines()


class Nagios:
    """nagios4 with the host `router` and its service `temperature`, which wait for passive results."""

    OBJECTS = """
define command {
    command_name none
    command_line /bin/true
}
define timeperiod {
    timeperiod_name always
    alias always
}
define contact {
    contact_name nobody
    host_notification_commands none
    service_notification_commands none
    host_notification_period always
    service_notification_period always
}
define host {
    host_name router
    address 127.0.0.1
    contacts nobody
    max_check_attempts 1
    active_checks_enabled 0
    passive_checks_enabled 1
    check_period always
    notification_period always
}
define service {
    host_name router
    service_description temperature
    contacts nobody
    check_command none
    max_check_attempts 1
    active_checks_enabled 0
    passive_checks_enabled 1
    check_period always
    notification_period always
    check_interval 1
    retry_interval 1
}
"""

    def __init__(self, directory, process):
        self.directory = directory
        self.command_file = directory / "nagios.cmd"
        user = pwd.getpwuid(os.getuid()).pw_name
        group = grp.getgrgid(os.getgid()).gr_name
        for name in ("archive", "results"):
            (directory / name).mkdir()
        (directory / "objects.cfg").write_text(self.OBJECTS)
        config = directory / "nagios.cfg"
        config.write_text(
            f"cfg_file={directory}/objects.cfg\nlog_file={directory}/nagios.log\n"
            f"object_cache_file={directory}/cache\nprecached_object_file={directory}/precache\n"
            f"status_file={directory}/status.dat\nstatus_update_interval=1\n"
            f"nagios_user={user}\nnagios_group={group}\ncheck_external_commands=1\n"
            f"command_file={self.command_file}\nquery_socket={directory}/qh\nlock_file={directory}/lock\n"
            f"temp_file={directory}/tmp\ntemp_path={directory}\nlog_archive_path={directory}/archive\n"
            f"check_result_path={directory}/results\nstate_retention_file={directory}/retention\n"
            "log_passive_checks=1\nuse_syslog=0\n"
        )
        self.process = process(["/usr/sbin/nagios4", config])
        until(lambda: self.command_file.is_fifo() and (directory / "status.dat").exists(), "nagios4")

    def status(self, kind):
        """The block `servicestatus` or `hoststatus` of status.dat."""
        text = (self.directory / "status.dat").read_text("utf-8", "surrogateescape")
        block = text.partition(kind + " {\n")[2].partition("\n\t}")[0]
        return dict(line.strip().partition("=")[::2] for line in block.splitlines())

    def wait_status(self, kind, output):
        """Awaits a result that says `output`, and returns its block."""
        until(lambda: self.status(kind).get("plugin_output") == output, f"{output!r} in {kind}")
        return self.status(kind)
