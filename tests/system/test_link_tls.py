# SPDX-License-Identifier: MIT
"""Links over TLS: whom they trust, and who they say they are."""

import subprocess

import pytest

from link_cat import LinkCat


@pytest.fixture
def link(process, build, tmp_path):
    return lambda *links: LinkCat(process, build, tmp_path, links)


class Authority:
    """A certificate authority for one test."""

    def __init__(self, directory, name):
        self.directory = directory
        self.name = name
        self.cert, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        self._openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-keyout", self.key, "-out", self.cert),
        )

    @staticmethod
    def _openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def issue(self, name, alternative=None, password=None):
        """Returns the paths of a certificate and its key."""
        cert, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        request, extension = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extension.write_text(f"subjectAltName={alternative}\n" if alternative else "\n")
        protect = ["-passout", f"pass:{password}"] if password else ["-nodes"]
        self._openssl(
            *("req", "-newkey", "rsa:2048", *protect, "-subj", f"/CN={name}"),
            *("-keyout", key, "-out", request),
        )
        self._openssl(
            *("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extension, "-out", cert),
        )
        return cert, key


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "authority")


def listener(port, cert, key, *more):
    return [f"listener {port} 127.0.0.1", f"certfile {cert}", f"keyfile {key}", "allow_anonymous true", *more]


def settings(port, tls, more="", host="localhost"):
    return f'name = "l"; host = "{host}"; port = {port}; reconnect_min = "50ms"; tls = {{ {tls} }}; {more}'


def works(cat):
    """A message goes round by the link itself."""
    cat.start([["a", 1]])
    assert cat.publish({"topic": "a", "payload": "x", "qos": 1}) == [[0, 0]]
    assert cat.next_message()["payload"] == "x"
    cat.stop()


def refused(cat, reason):
    cat.start([], ready=None)
    cat.process.wait_line(
        lambda line: "cannot connect, will try again side=receiving" in line and reason in line, "err"
    )
    cat.stop()


@pytest.mark.threads
@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_certificate_of_the_authority_is_trusted(mosquitto, link, authority, free_port, version):
    cert, key = authority.issue("localhost", "DNS:localhost")
    port = free_port()
    mosquitto(*listener(port, cert, key, f"tls_version tlsv{version}"), port=port, listener=False)
    works(link(settings(port, f'ca = "{authority.cert}"; version = "{version}"; alpn = "mqtt";')))


def test_bursts_and_large_messages_pass_tls(mosquitto, link, authority, free_port, client):
    cert, key = authority.issue("localhost", "DNS:localhost")
    port, plain = free_port(), free_port()
    broker_lines = listener(port, cert, key) + [f"listener {plain} 127.0.0.1", "max_queued_messages 0"]
    mosquitto(*broker_lines, port=port, listener=False)
    cat = link(settings(port, f'ca = "{authority.cert}";')).start([["a", 1]])
    other = client(plain)
    for i in range(3000):
        other.publish_soon("a", str(i), qos=i % 2)
    got = [int(cat.next_message()["payload"]) for _ in range(3000)]
    assert sorted(got) == list(range(3000))
    other.publish("a", bytes(3 * 1024 * 1024))
    assert cat.next_message()["len"] == 3 * 1024 * 1024
    assert cat.publish(*[{"topic": "a", "payload": str(i), "qos": 1} for i in range(500)]) == [[0, 0]] * 500
    assert [cat.next_message()["payload"] for _ in range(500)] == [str(i) for i in range(500)]
    cat.stop()


def test_strangers_are_not_trusted(mosquitto, link, authority, free_port, tmp_path):
    cert, key = authority.issue("localhost", "DNS:localhost")
    other = Authority(tmp_path, "stranger")
    port = free_port()
    mosquitto(*listener(port, cert, key), port=port, listener=False)
    refused(link(settings(port, f'ca = "{other.cert}";')), "certificate verify failed")
    # Without ca the system's authorities count, and ours is none of them.
    refused(link(settings(port, "")), "certificate verify failed")
    refused(link(settings(port, 'ca = "/nonexistent";')), "cannot read one of the files of tls: ca=/nonexistent")


def test_the_host_name_is_checked(mosquitto, link, authority, free_port):
    cert, key = authority.issue("elsewhere", "DNS:elsewhere.example")
    port = free_port()
    mosquitto(*listener(port, cert, key), port=port, listener=False)
    refused(link(settings(port, f'ca = "{authority.cert}";')), "host name verification failed")
    works(link(settings(port, f'ca = "{authority.cert}"; insecure = true;')))


@pytest.mark.parametrize("password", [None, "open sesame"])
def test_a_client_certificate_is_shown(mosquitto, link, authority, free_port, password):
    cert, key = authority.issue("localhost", "DNS:localhost")
    own, own_key = authority.issue("router", password=password)
    port = free_port()
    more = ["require_certificate true", f"cafile {authority.cert}"]
    mosquitto(*listener(port, cert, key, *more), port=port, listener=False)
    tls = f'ca = "{authority.cert}"; cert = "{own}"; key = "{own_key}";'
    if password:
        cat = link(settings(port, tls + 'key_password = "wrong";'))
        refused(cat, "Unable to load client key")
        assert "wrong" not in cat.process.text()
        tls += f'key_password = "{password}";'
    works(link(settings(port, tls)))
    refused(link(settings(port, f'ca = "{authority.cert}";')), "")


def test_a_pre_shared_key_is_used(mosquitto, link, free_port, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("router:1f2e3d4c5b6a\n")
    port = free_port()
    mosquitto(
        *(f"listener {port} 127.0.0.1", "psk_hint tocsin", f"psk_file {keys}", "allow_anonymous true"),
        port=port,
        listener=False,
    )
    works(link(settings(port, 'psk = "1f2e3d4c5b6a"; psk_identity = "router";')))
    refused(link(settings(port, 'psk = "00"; psk_identity = "router";')), "")


def test_tls_to_a_port_without_it_is_given_up(mosquitto, link, authority):
    broker = mosquitto()
    refused(link(settings(broker.port, f'ca = "{authority.cert}";')), "")


def test_a_unix_socket_is_a_way_too(mosquitto, link, free_port, tmp_path):
    path = tmp_path / "socket"
    port = free_port()
    mosquitto(f"listener 0 {path}", "allow_anonymous true", f"listener {port} 127.0.0.1", port=port, listener=False)
    cat = link(f'name = "l"; host = "{path}";')
    works(cat)
