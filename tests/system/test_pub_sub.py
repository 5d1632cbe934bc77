# SPDX-License-Identifier: MIT
"""The command-line clients, against Debian's broker, and side by side with its own clients."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading

import pytest
from conftest import TIMEOUT, until
from fake_broker import CONNACK, CONNECT, PUBACK, PUBLISH, SUBACK, SUBSCRIBE, FakeBroker, publish
from test_link_tls import Authority, listener


class Clients:
    """Calls of `tocsin pub` and `tocsin sub` at one broker."""

    def __init__(self, build, process, broker):
        self.program, self.process, self.broker = build / "tocsin", process, broker
        self.address = ("-h", "127.0.0.1", "-p", str(broker.port)) if broker else ()

    def call(self, *args, status=0, data=b"", env=None, address=True):
        name, *rest = map(str, args)
        done = subprocess.run(
            [self.program, name, *(self.address if address else ()), *rest], input=data, capture_output=True,
            timeout=TIMEOUT, env={**os.environ, **(env or {})},
        )
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done

    def pub(self, *args, **more):
        return self.call("pub", *args, **more)

    def sub(self, *args, **more):
        return self.call("sub", *args, **more).stdout.decode()

    def watch(self, *args, program=None):
        """Starts `tocsin sub` (or another program), and returns once the broker has taken its subscriptions."""
        seen = self.broker.process.text().count("Sending SUBACK")
        argv = [program] if program else [self.program, "sub"]
        started = self.process([*argv, *self.address, *map(str, args)])
        until(lambda: self.broker.process.text().count("Sending SUBACK") > seen or not started.alive(), "SUBACK")
        return started


@pytest.fixture
def clients(build, process, mosquitto):
    return Clients(build, process, mosquitto("max_queued_messages 0"))  # it drops nothing for who is slow


def ended(started, status=0):
    """What a program printed, once it has ended."""
    assert started.wait() == status, started.text()
    return started.text("out")


def test_a_message_goes_from_pub_to_sub(clients):
    sub = clients.watch("-t", "a/+", "-v", "-C", "2")
    clients.pub("-t", "a/b", "-m", "hello")
    clients.pub("-t", "a/c", "-m", "-5")
    assert ended(sub) == "a/b hello\na/c -5"


@pytest.mark.parametrize("version", ["31", "mqttv311", "5"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_every_version_and_qos(clients, version, qos):
    sub = clients.watch("-t", "a", "-q", qos, "-V", version, "-F", "%q %p", "-C", 1)
    clients.pub("-t", "a", "-m", "x", "-q", qos, "-V", version)
    assert ended(sub) == f"{qos} x"


def test_payloads_come_from_where_one_wants(clients, tmp_path):
    binary = bytes(range(256)) * 300
    path = tmp_path / "payload"
    path.write_bytes(binary)
    sub = clients.watch("-t", "#", "-F", "%t %l %x", "-C", 7)
    clients.pub("-t", "m", "-m", "é")
    clients.pub("-t", "n", "-n")
    clients.pub("-t", "f", "-f", path)
    clients.pub("-t", "s", "-s", data=binary)
    clients.pub("-t", "l", "-l", data=b"one\n\nthr\0ee")
    assert ended(sub).splitlines() == [
        "m 2 c3a9", "n 0 ", f"f {len(binary)} {binary.hex()}", f"s {len(binary)} {binary.hex()}",
        "l 3 6f6e65", "l 0 ", "l 6 746872006565",
    ]
    assert b"No such file" in clients.pub("-t", "f", "-f", tmp_path / "none", status=1).stderr


@pytest.mark.threads
@pytest.mark.parametrize("qos", [0, 1])
def test_many_lines_keep_their_order(clients, qos):
    sub = clients.watch("-t", "a", "-q", qos, "-C", 5000)
    lines = [f"{i}" + "x" * (i % 300) for i in range(5000)]
    clients.pub("-t", "a", "-l", "-q", qos, data="\n".join(lines).encode() + b"\n")
    assert ended(sub).splitlines() == lines


def test_a_refused_connection_is_told_and_is_status_1(clients, free_port):
    port = free_port()
    for command in (["pub", "-m", "x"], ["sub"]):
        done = clients.call(*command, "-t", "a", "-p", port, status=1)
        assert f"cannot connect to 127.0.0.1:{port}: Connection refused".encode() in done.stderr
        assert not clients.call(*command, "-t", "a", "-p", port, "--quiet", status=1).stderr
    assert b"no such host" in clients.pub("-t", "a", "-m", "x", "-h", "broker.invalid", status=1).stderr


# ---- Side by side with the clients of Debian ------------------------------------------------------------------

PROPERTIES = [
    *("-D", "publish", "content-type", "text/plain"),
    *("-D", "publish", "user-property", "room", "attic"),
    *("-D", "publish", "user-property", "unit", "°C"),
    *("-D", "publish", "response-topic", "r/t"),
    *("-D", "publish", "correlation-data", "c d"),
    *("-D", "PUBLISH", "message-expiry-interval", "100000"),
    *("-D", "publish", "payload-format-indicator", "1"),
]
FORMATS = [
    "%t|%5t|%-5t|%05t|%.1t|%5.1t|%-5.1t|",
    "%p|%40p|%-40p|%040p|%l|%5l|%-5l|%05l|%-05l|",
    "%x|%X|%q|%r|%m|%5m|%%|%5%|%5q|",
    "%C|%15C|%-15C|%.3C|%R|%5R|%.1R|%D|%P|",
    "%F|%5F|%05F|%-5F|%A|%5A|%S|%5S|%05S|%-5S|",
    "@Y-@m-@d@@@%@H \\t\\a\\e\\v\\r\\\\ plain é",
]


@pytest.mark.parametrize("payload", ["hello", '{"a": [1, 2.5, "x/y"], "b": null}'])
def test_formats_print_what_mosquitto_sub_prints(clients, payload):
    clients.pub("-t", "a/b", "-m", payload, "-r", "-V", 5, *PROPERTIES)
    for form in ["-v", "-N", "-F%t", *(f"-F{f}" for f in FORMATS)]:
        flags = [form[:2], form[2:]] if form.startswith("-F") else [form]
        more = ["-t", "a/b", "-V", "5", "-C", "1", "-D", "subscribe", "subscription-identifier", "7", *flags]
        ours = subprocess.run([clients.program, "sub", *clients.address, *more], capture_output=True, timeout=TIMEOUT)
        theirs = subprocess.run(["mosquitto_sub", *clients.address, *more], capture_output=True, timeout=TIMEOUT)
        assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout), form


@pytest.mark.parametrize("payload", ['{"a": [1, 2.5, "x/y\\u00e9"], "b": null}', "7", '"text"', "[]", "true"])
def test_json_means_what_mosquitto_sub_means(clients, payload):
    clients.pub("-t", "a/b", "-m", payload, "-r", "-q", 1, *PROPERTIES)
    for flags in (["-F", "%j"], ["-F", "%J"], ["-F", "%J", "--pretty"], ["-F", "%j", "-q", "1"]):
        more = ["-t", "a/b", "-V", "5", "-C", "1", *flags]
        ours = json.loads(clients.sub(*more))
        theirs = json.loads(subprocess.run(["mosquitto_sub", *clients.address, *more], capture_output=True,
                                           timeout=TIMEOUT).stdout)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}[+-]\d{4}", ours["tst"])
        del ours["tst"], theirs["tst"]
        for answer in (ours, theirs):  # it goes down by the second
            assert 99000 < answer["properties"].pop("message-expiry-interval") <= 100000
        assert ours == theirs and list(ours) == list(theirs)


def test_properties_are_published_as_mosquitto_pub_publishes_them(clients):
    sub = clients.watch("-t", "#", "-V", 5, "-C", 4, "-F", "%t %r %q %C %R %D %F %P %p %E", "-q", 2,
                        program="mosquitto_sub")
    for qos in ("0", "2"):
        more = ["-t", "a/b", "-m", "x", "-V", "5", "-r", "-q", qos, *PROPERTIES]
        clients.pub(*more)
        subprocess.run(["mosquitto_pub", *clients.address, *more], check=True, timeout=TIMEOUT)
    for qos, line in zip((0, 0, 2, 2), ended(sub).splitlines()):
        assert re.fullmatch(f"a/b 0 {qos} text/plain r/t c d 1 room:attic unit:°C x (100000|99[0-9]{{3}})", line)


@pytest.mark.parametrize("payload", [b"", b"x", b"\0\xff\n", b"x" * 70000])
@pytest.mark.parametrize("flags", [[], ["-v"], ["-N"], ["-v", "-N"], ["-F", "[%p]"], ["-N", "-F", "[%t %p]"]])
def test_payloads_are_printed_as_by_mosquitto_sub(clients, payload, flags):
    ours = clients.watch("-t", "a/#", "-C", 2, *flags)
    theirs = clients.watch("-t", "a/#", "-C", 2, *flags, program="mosquitto_sub")
    clients.pub("-t", "a/b", "-s", data=payload)
    clients.pub("-t", "a/c", "-m", "end")
    assert ended(ours) == ended(theirs)


# ---- What is printed, and how it ends -------------------------------------------------------------------------


def test_messages_are_left_out(clients):
    for topic in ("old/1", "old/2", "old/3"):
        clients.pub("-t", topic, "-m", topic, "-r")
    assert sorted(clients.sub("-t", "old/#", "-T", "old/2", "-C", "2").split()) == ["old/1", "old/3"]
    fresh = clients.watch("-t", "#", "-R", "-C", 1)
    clients.pub("-t", "new", "-m", "fresh")
    assert ended(fresh) == "fresh"
    retained = clients.watch("-t", "#", "--retained-only")
    retained.wait_line("old/3")
    clients.pub("-t", "new", "-m", "fresh")
    assert sorted(ended(retained).split()) == ["old/1", "old/2", "old/3"]


def test_retained_messages_are_removed(clients):
    for topic in ("a", "b", "c"):
        clients.pub("-t", topic, "-m", topic, "-r")
    assert clients.sub("-t", "a", "-t", "b", "--remove-retained", "-C", "2").split() == ["a", "b"]
    assert clients.sub("-t", "#", "-C", "1") == "c\n"
    assert clients.sub("-t", "#", "-F", "%t", "-W", "1", status=27) == "c\n"


def test_the_retain_flag_as_it_was_published(clients):
    sub = clients.watch("-t", "a", "--retain-as-published", "-F", "%r", "-C", 1)
    clients.pub("-t", "a", "-m", "x", "-r")
    assert ended(sub) == "1"
    assert b"is of MQTT 5" in clients.call("sub", "-t", "a", "--retain-as-published", "-V", "311", status=2).stderr


def test_a_time_that_is_over_is_status_27(clients):
    done = clients.call("sub", "-t", "a", "-W", "1", status=27)
    assert done.stdout == b"" and b"time of --timeout is over" in done.stderr
    assert not clients.call("sub", "-t", "a", "-W", "1", "--quiet", status=27).stderr


def test_what_is_no_json_is_told_and_not_printed(clients):
    sub = clients.watch("-t", "a", "-F", "%J", "-C", 2)
    clients.pub("-t", "a", "-m", "nonsense")
    clients.pub("-t", "a", "-m", "1")
    assert json.loads(ended(sub))["payload"] == 1
    assert 'a message to "a" is not JSON' in sub.text("err")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_disconnect(clients, number):
    sub = clients.watch("-t", "a", "-i", "watcher")
    assert sub.stop(number) == 0
    clients.broker.process.wait_line("Client watcher disconnected.")


def test_a_signal_ends_it_while_nobody_reads_what_it_prints(clients):
    sub = subprocess.Popen([clients.program, "sub", *clients.address, "-t", "a", "-i", "watcher"],
                           stdout=subprocess.PIPE)
    clients.broker.process.wait_line("Sending SUBACK")
    clients.pub("-t", "a", "-s", data=b"x" * 1000000)
    blocked = pathlib.Path(f"/proc/{sub.pid}/wchan")
    until(lambda: "pipe" in blocked.read_text(), "a full pipe")
    sub.send_signal(signal.SIGINT)
    assert sub.wait(TIMEOUT) == 0
    clients.broker.process.wait_line("Client watcher disconnected.")
    sub.stdout.close()


def test_it_ends_when_nobody_reads_any_more(clients):
    sub = subprocess.Popen([clients.program, "sub", *clients.address, "-t", "a"], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE)
    clients.broker.process.wait_line("Sending SUBACK")
    sub.stdout.close()
    clients.pub("-t", "a", "-m", "x")
    assert sub.wait(TIMEOUT) == 1 and sub.stderr.read() == b""
    sub.stderr.close()


def test_a_message_is_repeated(clients):
    sub = clients.watch("-t", "a", "-C", 3)
    clients.pub("-t", "a", "-m", "x", "--repeat", "3", "--repeat-delay", "0.01", "-q", 2)
    assert ended(sub) == "x\nx\nx"


def test_a_topic_alias_saves_the_topic(clients):
    sub = clients.watch("-t", "a/b", "-C", 3)
    clients.pub("-t", "a/b", "-l", "-D", "publish", "topic-alias", "3", data=b"1\n2\n3\n")
    assert ended(sub) == "1\n2\n3"
    assert "'(null)'" not in clients.broker.process.text()


# ---- Sessions, wills, users -----------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [["-c"], ["-c", "-V", "5"], ["-c", "-x", "100"], ["-c", "-x", "-1"]])
def test_a_session_keeps_messages(clients, more):
    assert clients.sub("-t", "a", "-t", "b", "-i", "keeper", "-q", "1", "-E", *more) == ""
    clients.pub("-t", "a", "-m", "kept", "-q", "1")
    assert clients.sub("-t", "a", "-i", "keeper", "-q", "1", "-C", "1", *more) == "kept\n"
    clients.sub("-U", "b", "-i", "keeper", "-E", *more)
    clients.pub("-t", "b", "-m", "lost", "-q", "1")
    clients.pub("-t", "a", "-m", "kept too", "-q", "1")
    assert clients.sub("-t", "a", "-i", "keeper", "-q", "1", "-C", "1", *more) == "kept too\n"


def test_a_session_that_is_not_kept_ends(clients):
    clients.sub("-t", "a", "-i", "keeper", "-q", "1", "-E", "-c", "-D", "disconnect", "session-expiry-interval", "0")
    clients.pub("-t", "a", "-m", "lost", "-q", "1")
    assert clients.sub("-t", "a", "-i", "keeper", "-q", "1", "-c", "-W", "1", status=27) == ""


def test_a_will_is_sent_when_the_client_vanishes(clients):
    watcher = clients.watch("-t", "will/#", "-q", 1, "-V", 5, "-F", "%t %q %C %p", "-C", 1)
    dying = clients.watch("-t", "a", "--will-topic", "will/x", "--will-payload", "gone", "--will-qos", "1",
                          "--will-retain", "-D", "will", "content-type", "text/x")
    dying.kill()
    assert ended(watcher) == "will/x 1 text/x gone"
    assert clients.sub("-t", "will/#", "-v", "-C", "1") == "will/x gone\n"


def test_users_and_passwords(build, process, mosquitto, tmp_path):
    passwords = tmp_path / "passwords"
    passwords.write_text("ann:secret-1\n")
    subprocess.run(["mosquitto_passwd", "-U", passwords], check=True)
    clients = Clients(build, process, mosquitto(f"password_file {passwords}", "allow_anonymous false"))
    more = ("-t", "a", "-m", "x", "-r")
    (tmp_path / "pw").write_text("secret-1\n")
    clients.pub(*more, "-u", "ann", "-P", "secret-1")
    clients.pub(*more, "-u", "${env:NAME}", "-P", "${env:PW}", env={"NAME": "ann", "PW": "secret-1"})
    clients.pub(*more, "-u", "ann", "-P", f"${{file:{tmp_path}/pw}}")
    url = f"mqtt://ann:secret%2D1@127.0.0.1:{clients.broker.port}/a"
    clients.pub("-L", url, "-m", "by url", "-r", address=False)
    assert clients.sub("-L", url, "-C", "1", address=False) == "by url\n"
    for version, status in (("31", 5), ("311", 5), ("5", 135)):
        done = clients.pub(*more, "-u", "ann", "-P", "wrong-secret", "-d", "-V", version, status=status)
        assert b"refused: " in done.stderr and b"are -u and -P right?" in done.stderr
        assert b"wrong-secret" not in done.stderr + done.stdout
    assert b"the environment has no NOPE" in clients.pub(*more, "-u", "ann", "-P", "${env:NOPE}", status=2).stderr


@pytest.mark.parametrize("option", [["-u", "ann", "-P", "my-secret"], ["-L"], ["-u", "ann", "--pw=my-secret"]])
def test_secrets_are_not_seen_in_the_list_of_processes(clients, option):
    if option == ["-L"]:
        option = ["-L", f"mqtt://ann:my-secret@127.0.0.1:{clients.broker.port}/x"]
        clients.address = ()
    sub = clients.watch("-t", "a", *option)
    line = pathlib.Path(f"/proc/{sub.pid}/cmdline").read_bytes()
    assert b"-t\0a" in line and b"my-secret" not in line
    assert sub.stop() == 0


def test_client_ids(clients):
    clients.pub("-t", "a", "-m", "x", "-i", "my-id", "-k", "77")
    clients.broker.process.wait_line(" as my-id (p2, c1, k77)")
    sub = clients.watch("-t", "a", "-I", "my-prefix-")
    clients.broker.process.wait_line(f" as my-prefix-{sub.pid} ")


# ---- Ways to the broker ---------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "authority")


def goes_round(clients, *more, **options):
    """A retained message goes to the broker and comes back."""
    clients.pub("-t", "a", "-m", "round", "-r", *more, **options)
    assert clients.sub("-t", "a", "-C", "1", *more, **options) == "round\n"


@pytest.mark.threads
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_tls(build, process, mosquitto, authority, free_port, version):
    cert, key = authority.issue("localhost", "DNS:localhost")
    port = free_port()
    broker = mosquitto(*listener(port, cert, key, f"tls_version tlsv{version}"), port=port, listener=False)
    clients = Clients(build, process, broker)
    there = ("-h", "localhost", "-p", port)
    trust = ("--cafile", authority.cert)
    goes_round(clients, *there, *trust, "--tls-version", f"tlsv{version}", "--tls-alpn", "mqtt", address=False)
    goes_round(clients, *trust, "--insecure")
    goes_round(clients, "-L", f"mqtts://localhost:{port}", *trust, address=False)
    big = "x" * 3000000
    sub = clients.watch("-t", "big", "-C", 2, *trust, "--insecure")
    clients.pub("-t", "big", "-l", *trust, "--insecure", data=f"{big}\n{big}\n".encode())
    assert ended(sub) == f"{big}\n{big}"
    for doubtful, reason in (
        ((*there, "-L", f"mqtts://localhost:{port}")[4:], b"certificate verify failed"),
        ((*there, "--tls-use-os-certs"), b"certificate verify failed"),
        (("-h", "127.0.0.1", "-p", port, *trust), b"host name verification failed"),
        ((*there, "--cafile", "/nonexistent"), b"cannot be read: cafile=/nonexistent"),
        (there, b"cannot connect to localhost"),
    ):
        done = clients.pub("-t", "a", "-m", "x", *doubtful, address=False, status=1)
        assert reason in done.stderr, done.stderr


def test_a_certificate_of_our_own(build, process, mosquitto, authority, free_port):
    cert, key = authority.issue("localhost", "DNS:localhost")
    own, own_key = authority.issue("ann")
    port = free_port()
    require = (f"cafile {authority.cert}", "require_certificate true", "use_identity_as_username true")
    clients = Clients(build, process, mosquitto(*listener(port, cert, key, *require), port=port, listener=False))
    trust = ("--cafile", authority.cert, "--insecure")
    goes_round(clients, *trust, "--cert", own, "--key", own_key)
    clients.broker.process.wait_line("u'ann'")
    clients.pub("-t", "a", "-m", "x", *trust, status=1)


def test_a_pre_shared_key(build, process, mosquitto, tmp_path, free_port):
    keys = tmp_path / "psk"
    keys.write_text("ann:0123abcd\n")
    port = free_port()
    lines = (f"listener {port} 127.0.0.1", "allow_anonymous true", "psk_hint x", f"psk_file {keys}")
    clients = Clients(build, process, mosquitto(*lines, port=port, listener=False))
    goes_round(clients, "--psk", "0123abcd", "--psk-identity", "ann")
    goes_round(clients, "--psk", "${env:PSK}", "--psk-identity", "ann", env={"PSK": "0123abcd"})
    clients.pub("-t", "a", "-m", "x", "--psk", "0123abce", "--psk-identity", "ann", status=1)


@pytest.mark.parametrize("options, port", [
    (["-h", "broker.invalid"], 1883),
    (["-h", "broker.invalid", "--tls-use-os-certs"], 8883),
    (["-h", "broker.invalid", "--tls-use-os-certs", "-p", "1883"], 1883),
    (["-h", "broker.invalid", "--psk", "00", "--psk-identity", "x"], 8883),
    (["-L", "mqtt://broker.invalid/a"], 1883),
    (["-L", "mqtt://broker.invalid:7/a"], 7),
    (["-L", "mqtts://broker.invalid/a"], 8883),
    (["-L", "mqtts://broker.invalid/a", "-p", "9"], 9),
])
def test_ports(build, process, options, port):
    done = Clients(build, process, None).call("sub", "-t", "a", *options, status=1)
    assert f"cannot connect to broker.invalid:{port}: there is no such host".encode() in done.stderr


def test_a_unix_socket(build, process, mosquitto, tmp_path, free_port):
    path = tmp_path / "socket"
    clients = Clients(build, process, mosquitto(f"listener 0 {path}"))
    goes_round(clients, "--unix", path, address=False)
    done = clients.pub("-t", "a", "-m", "x", "--unix", tmp_path / "none", status=1, address=False)
    assert b"is the broker's socket there?" in done.stderr


def test_an_address_to_connect_from(clients):
    clients.pub("-t", "a", "-m", "x", "-A", "127.0.0.9", "--nodelay")
    clients.broker.process.wait_line("New client connected from 127.0.0.9")


def pump(source, sink):
    """Copies bytes until there are no more."""
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    sink.close()


def test_a_proxy(clients):
    seen = []

    def serve(server):
        peer = server.accept()[0]
        seen.append(peer.recv(2 + 255))
        peer.sendall(b"\5\2")
        seen.append(peer.recv(513))
        peer.sendall(b"\1\0")
        seen.append(peer.recv(512))
        peer.sendall(b"\5\0\0\1\0\0\0\0\0\0")
        broker = socket.create_connection(("127.0.0.1", clients.broker.port))
        threading.Thread(target=pump, args=(broker, peer), daemon=True).start()
        pump(peer, broker)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        clients.pub("-t", "a", "-m", "x", "-r", "--proxy", f"socks5h://me:s%40cret@127.0.0.1:{server.getsockname()[1]}",
                    "-h", "broker.invalid",
                    env={"ASAN_OPTIONS": "detect_leaks=0"})  # libmosquitto does not give its copies back
        thread.join(TIMEOUT)
    assert seen[1] == b"\1\2me\6s@cret" and b"broker.invalid" in seen[2]
    assert clients.sub("-t", "a", "-C", "1") == "x\n"


# ---- When it goes wrong ---------------------------------------------------------------------------------------


@pytest.fixture
def fake_broker():
    broker = FakeBroker()
    yield broker
    broker.close()


@pytest.mark.threads
def test_sub_connects_again(clients):
    sub = clients.watch("-t", "a", "-t", "b", "-C", 2, "-q", 1)
    clients.pub("-t", "a", "-m", "before")
    sub.wait_line("before")
    clients.broker.kill()
    sub.wait_line("connection lost: ", "err")
    clients.broker.start()
    sub.wait_line("connected again", "err")
    clients.broker.process.wait_line("Sending SUBACK")
    clients.pub("-t", "b", "-m", "after")
    assert ended(sub) == "before\nafter"


@pytest.mark.threads
def test_lines_are_published_again_after_a_loss(clients, process):
    pub = process([clients.program, "pub", *clients.address, "-t", "a", "-l", "-q", "1"], stdin=True)
    sub = clients.watch("-t", "a", "-C", 1, "-q", 1)
    pub.write("one\n")
    assert ended(sub) == "one"
    clients.broker.kill()
    pub.wait_line("connection lost: ", "err")
    clients.broker.start()
    sub = clients.watch("-t", "a", "-C", 2, "-q", 1)
    pub.write("two\nthree")
    pub.close_stdin()
    assert ended(sub) == "two\nthree"
    assert pub.wait() == 0


def test_what_the_broker_refuses_is_a_failure(build, process, mosquitto, tmp_path):
    rules = tmp_path / "acl"
    rules.write_text("topic read #\ntopic write yes\n")
    clients = Clients(build, process, mosquitto(f"acl_file {rules}"))
    clients.pub("-t", "yes", "-m", "x", "-q", "1", "-V", "5")
    for qos in (1, 2):
        done = clients.pub("-t", "no", "-m", "x", "-q", qos, "-V", "5", status=1)
        assert b'refused a message to "no": Not authorized' in done.stderr


def session(fake_broker, answer):
    """Accepts a client of 3.1.1, and answers its first packet after CONNECT."""
    peer = fake_broker.accept()
    peer.expect(CONNECT)
    peer.send(CONNACK, b"\0\0")
    answer(peer)
    return peer


def test_refused_subscriptions(build, process, fake_broker):
    clients = Clients(build, process, None)
    clients.address = ("-p", str(fake_broker.port))
    sub = process([clients.program, "sub", *clients.address, "-t", "a", "-t", "b"])
    session(fake_broker, lambda peer: peer.send(SUBACK, peer.expect(SUBSCRIBE)[:2] + b"\x80\x80"))
    assert sub.wait() == 1
    assert 'refused the subscription to "a"' in sub.text("err") and 'to "b"' in sub.text("err")
    sub = process([clients.program, "sub", *clients.address, "-t", "a", "-t", "b", "-C", "1"])
    peer = session(fake_broker, lambda peer: peer.send(SUBACK, peer.expect(SUBSCRIBE)[:2] + b"\x80\x00"))
    sub.wait_line('refused the subscription to "a"', "err")
    publish(peer, "b", b"x")
    assert ended(sub) == "x"


@pytest.mark.parametrize("answer", [b"", b"\xff" * 50, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\xff\xff\xff\x7f",
                                    b"\x20\x02\0\x63", b"\x30\x05\0\1ahi"])
@pytest.mark.parametrize("version", ["31", "311", "5"])
@pytest.mark.memory
def test_what_is_no_broker(build, process, fake_broker, answer, version):
    for command in (["pub", "-m", "x"], ["sub"]):
        started = process([build / "tocsin", *command, "-p", fake_broker.port, "-t", "a", "-V", version])
        peer = fake_broker.accept()
        peer.expect(CONNECT)
        peer.sock.sendall(answer)
        peer.close()
        assert started.wait() in (1, 0x63)
        assert "cannot connect to 127.0.0.1" in started.text("err")


def test_pub_fails_when_the_connection_is_lost_before_the_answer(build, process, fake_broker):
    pub = process([build / "tocsin", "pub", "-p", fake_broker.port, "-t", "a", "-m", "x", "-q", "1"])
    session(fake_broker, lambda peer: peer.expect(PUBLISH)).close()
    assert pub.wait() == 1
    assert "connection lost before all was sent" in pub.text("err")


def test_a_session_that_is_taken_over_is_left_to_the_other(build, process, broker):
    clients = Clients(build, process, broker())
    sub = process([clients.program, "sub", *clients.address, "-t", "a", "-i", "one", "-V", "5", "-d"])
    sub.wait_line("received SUBACK", "err")
    clients.pub("-t", "a", "-m", "x", "-i", "one", "-V", "5")
    assert sub.wait() == 142
    assert "Session taken over" in sub.text("err") and "trying again" not in sub.text("err")


def test_the_time_is_over_while_there_is_no_broker(clients):
    sub = clients.watch("-t", "a", "-W", "2")
    clients.broker.kill()
    assert sub.wait() == 27
    assert "connection lost" in sub.text("err")


def test_a_line_without_an_answer_is_published_again(build, process, fake_broker):
    pub = process([build / "tocsin", "pub", "-p", fake_broker.port, "-t", "a", "-l", "-q", "1"], stdin=True)
    pub.write("one\n")
    pub.close_stdin()
    session(fake_broker, lambda peer: peer.expect(PUBLISH)).close()
    peer = session(fake_broker, lambda peer: None)
    kind, flags, body = peer.packet()
    assert (kind, flags, body[5:]) == (PUBLISH, 8 | 2, b"one")
    assert peer.silent() and pub.alive()
    peer.send(PUBACK, body[3:5])
    assert pub.wait() == 0


def test_few_messages_are_on_their_way_at_once(build, process, fake_broker):
    pub = process([build / "tocsin", "pub", "-p", fake_broker.port, "-t", "a", "-l", "-q", "1", "-M", "1"], stdin=True)
    pub.write("one\ntwo\n")
    pub.close_stdin()
    peer = session(fake_broker, lambda peer: None)
    for line in (b"one", b"two"):
        body = peer.expect(PUBLISH)
        assert body == b"\0\1a" + body[3:5] + line
        assert peer.silent()
        peer.send(PUBACK, body[3:5])
    assert pub.wait() == 0


def test_some_of_the_messages_by_chance(clients):
    sub = clients.watch("-t", "a", "--random-filter", "50", "-C", "1000")
    clients.pub("-t", "a", "-l", data="".join(f"{i}\n" for i in range(3000)).encode())
    assert 1700 < int(ended(sub).split()[-1]) < 2300  # within six standard deviations


@pytest.mark.parametrize("command, complaint", [
    (["pub", "-t", "a"], "write -m TEXT"),
    (["pub", "-m", "x"], "write -t TOPIC"),
    (["pub", "-t", "a", "-m", "x", "-n"], "exclude each other"),
    (["pub", "-t", "a/#", "-m", "x"], "bad topic name"),
    (["pub", "-t", "a", "-m", "x", "-q", "3"], "--qos is a number from 0 to 2"),
    (["pub", "-t", "a", "-m", "x", "-p", "0"], "--port is a number from 1 to 65535"),
    (["pub", "-t", "a", "-m", "x", "-V", "4"], "--protocol-version is 5, 311 or 31"),
    (["pub", "-t", "a", "-m", "x", "-i", "x", "-I", "y"], "exclude each other"),
    (["pub", "-t", "a", "-m", "x", "-c"], "add --id"),
    (["pub", "-t", "a", "-m", "x", "-P", "secret"], "wants a --username"),
    (["pub", "-t", "a", "-m", "x", "-k", "2"], "--keepalive is 0"),
    (["pub", "-t", "a", "-m", "x", "--will-retain"], "wants a --will-topic"),
    (["pub", "-t", "a", "-m", "x", "--will-topic", "+"], "bad topic name"),
    (["pub", "-t", "a", "-m", "x", "-L", "http://h/t"], "begins with mqtt://"),
    (["pub", "-t", "a", "-m", "x", "-L", "mqtt://h", "-h", "h"], "one of them is enough"),
    (["pub", "-t", "a", "-m", "x", "--cert", "x"], "--cert and --key go together"),
    (["pub", "-t", "a", "-m", "x", "--psk", "00"], "--psk and --psk-identity go together"),
    (["pub", "-t", "a", "-m", "x", "--psk", "xy", "--psk-identity", "x"], "written in hexadecimal"),
    (["pub", "-t", "a", "-m", "x", "--insecure"], "no TLS without"),
    (["pub", "-t", "a", "-m", "x", "--proxy", "http://h"], "begins with socks5h://"),
    (["pub", "-t", "a", "-m", "x", "-D", "publish"], "-D wants a packet"),
    (["pub", "-t", "a", "-m", "x", "-D", "puback", "reason-string", "x"], 'no packet "puback"'),
    (["pub", "-t", "a", "-m", "x", "-D", "publish", "contents", "x"], 'no property "contents"'),
    (["pub", "-t", "a", "-m", "x", "-D", "connect", "content-type", "x"], "connect cannot have the property"),
    (["pub", "-t", "a", "-m", "x", "-D", "publish", "user-property", "x"], "wants a name and a value"),
    (["pub", "-t", "a", "-m", "x", "-D", "publish", "topic-alias", "65536"], "not a number from 0 to 65535"),
    (["pub", "-t", "a", "-m", "x", "-D", "publish", "content-type", "\udcff"], "not UTF-8"),
    (["pub", "-t", "a", "-m", "x", *2 * ["-D", "publish", "content-type", "x"]], "the same property twice"),
    (["pub", "-t", "a", "-m", "x", "-V", "311", "-D", "publish", "content-type", "x"], "is of MQTT 5"),
    (["pub", "-t", "a", "-m", "x", "-x", "-1"], "wants an --id"),
    (["pub", "-t", "a", "-l", "--repeat", "2"], "--repeat is for one message"),
    (["sub"], "write -t FILTER"),
    (["sub", "-t", "a/#/b"], "bad topic filter"),
    (["sub", "-t", "a", "-T", "+x"], "bad topic filter"),
    (["sub", "-t", "a", "-F", "%t %"], '"%" ends in the middle'),
    (["sub", "-t", "a", "-F", "%t %y"], '"%y" has a sequence'),
    (["sub", "-t", "a", "-R", "--retained-only"], "leave nothing to print"),
    (["sub", "-t", "a", "-C", "0"], "--count is a number from 1"),
    (["sub", "-t", "a", "--random-filter", "0"], "from 0.1 to 100"),
    (["sub", "-t", "a", "-D", "publish", "content-type", "x"], "sub sends connect, subscribe"),
    (["sub", "-t"], "-t wants a value"),
])
def test_calls_that_make_no_sense(build, process, command, complaint):
    clients = Clients(build, process, None)
    done = clients.call(*command, status=2)
    assert complaint in done.stderr.decode() and b"--help`" in done.stderr


# ---- With our own broker --------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["31", "311", "5"])
def test_they_work_with_our_broker(build, process, broker, version):
    clients = Clients(build, process, broker())
    for qos in (0, 1, 2):
        clients.pub("-t", f"a/{qos}", "-m", qos, "-q", qos, "-r", "-V", version)
    printed = clients.sub("-t", "a/#", "-q", "2", "-F", "%t %q %r %p", "-C", "3", "-V", version)
    assert sorted(printed.splitlines()) == ["a/0 0 1 0", "a/1 1 1 1", "a/2 2 1 2"]


def test_properties_pass_our_broker(build, process, broker):
    clients = Clients(build, process, broker())
    clients.pub("-t", "a", "-m", "x", "-r", *PROPERTIES)
    printed = clients.sub("-t", "a", "-V", "5", "-F", FORMATS[3], "-C", "1")
    assert printed == "text/plain|     text/plain|text/plain     |tex|r/t|  r/t|r|c d|room:attic unit:°C|\n"
