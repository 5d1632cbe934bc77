# SPDX-License-Identifier: MIT
"""The router as a whole: a real broker, `tocsin run`, and files as the end of the way."""

import fcntl
import json
import os
import pathlib
import queue
import signal
import socket
import ssl
import subprocess
import threading

import pytest
from conftest import port_is_open, until
from router import ALL, Included, Router, config, file_service, links

pytestmark = pytest.mark.threads


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture(params=["mqtt", "embedded"])
def source(request, mosquitto, free_port):
    """source("line", ...) is where messages come from, by each kind of link: a Mosquitto with these lines, or the
    included broker, in two workers."""
    if request.param == "mqtt":
        return mosquitto
    return lambda *lines: Included(free_port(), {"workers": 2})


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_message_becomes_a_line(router, source, client, protocol):
    broker = source()
    route = ('{ topic = "in/{room}/celsius"; decode = "json"; when = "celsius > 30"; '
             'severity = "celsius > 35 and \'critical\' or \'warning\'"; title = "{room}"; '
             'format = "{severity} {celsius:.1f} {room}"; targets = "file:out"; }')
    router.start(config(router, broker, route, protocol=f'"{protocol}"')).ready()
    c = client(broker.port, v5=protocol == "5")
    c.publish("in/attic/celsius", b'{"celsius": 30}')
    c.publish("in/attic/celsius", b'{"celsius": 31.25}')
    c.publish("in/cellar/celsius", b'{"celsius": 36}', qos=2)
    assert sorted(router.lines("out", 2)) == [b"critical 36.0 cellar", b"warning 31.2 attic"]  # which may go first
    assert router.run.stop() == 0
    assert "ended" in router.run.text()


def test_overlapping_routes_see_a_message_once(router, source, client):
    broker = source("allow_duplicate_messages true")
    routes = ", ".join('{ name = "%s"; topic = "%s"; format = "{route} {payload}"; targets = "file:out"; }' % r
                       for r in (("a", "in/#"), ("b", "in/+/x"), ("c", "in/1/+"), ("d", "+/1/x")))
    router.start(config(router, broker, routes)).ready()
    client(broker.port).publish("in/1/x", b"1")
    client(broker.port).publish("in/end", b"2")
    assert router.lines("out", 5) == [b"a 1", b"b 1", b"c 1", b"d 1", b"a 2"]


def test_payload_that_does_not_decode_stops_nothing_else(router, source, client):
    broker = source()
    routes = '{ name = "j"; topic = "in/#"; decode = "json"; format = "j"; targets = "file:out"; }, ' + ALL
    router.start(config(router, broker, routes)).ready()
    c = client(broker.port)
    c.publish("in/a", b"{oops")
    c.publish("in/a", b"\xff\x00\xfe")
    c.publish("in/a", b"{}")
    until(lambda: router.path("out").exists() and router.path("out").read_bytes().endswith(b"j\n{}\n"), "all")
    assert router.path("out").read_bytes() == b"{oops\n\xff\x00\xfe\nj\n{}\n"
    router.run.wait_line("route trouble route=j")


def test_one_trouble_does_not_hide_another(router, mosquitto, client):
    broker = mosquitto()
    route = '{ name = "r"; topic = "in/#"; decode = "number"; when = "nosuch.x > 1"; targets = "file:out"; }'
    router.start(config(router, broker.port, route)).ready()
    c = client(broker.port)
    for payload in (b"1", b"2", b"warm"):
        c.publish("in/a", payload)
    router.run.wait_line("the payload does not decode")
    assert router.run.text().count("route trouble route=r") == 2


def test_ten_mebibytes_go_through_untouched(router, source, client):
    broker = source()
    router.start(config(router, broker, ALL)).ready()
    payload = os.urandom(10 * 1024 * 1024).replace(b"\n", b"x")
    client(broker.port).publish("in/big", payload)
    until(lambda: router.path("out").exists() and router.path("out").stat().st_size == len(payload) + 1, "it")
    assert router.path("out").read_bytes() == payload + b"\n"


def test_levels_cannot_leave_the_folder(router, mosquitto, client):
    broker = mosquitto()
    router.path("rooms").mkdir()
    route = '{ topic = "in/{room#}"; targets = "file:room"; }'
    router.start(config(router, broker.port, route)).ready()
    c = client(broker.port)
    c.publish("in/../../etc/passwd", b"1")
    c.publish("in/..", b"2")
    c.publish("in/attic", b"3")
    until(lambda: len(list(router.path("rooms").iterdir())) == 3, "three files")
    for path in router.folder.rglob("*"):
        assert path.resolve().is_relative_to(router.folder)
    assert router.path("rooms/attic").read_bytes() == b"3\n"


def test_broker_away_at_the_start_and_back_later(router, mosquitto, client):
    broker = mosquitto(start=False)
    router.start(config(router, broker.port, ALL, reconnect_min='"50ms"', reconnect_max='"200ms"'))
    router.run.wait_line("cannot connect")
    broker.start()
    router.ready()
    client(broker.port).publish("in/a", b"1")
    assert router.lines("out", 1) == [b"1"]
    broker.stop()
    router.run.wait_line("connection lost")
    seen = len(router.run.lines)
    broker.start()
    router.run.wait_line("subscribed", start=seen)
    client(broker.port).publish("in/a", b"2")
    assert router.lines("out", 2) == [b"1", b"2"]


def test_what_was_published_while_the_router_was_away_comes_later(router, mosquitto, client):
    broker = mosquitto()
    router.start(config(router, broker.port, ALL)).ready()
    assert router.run.stop() == 0
    client(broker.port).publish("in/a", b"1")
    router.start()
    assert router.lines("out", 1) == [b"1"]


def test_killed_before_delivery_nothing_acknowledged_is_lost(router, mosquitto, client):
    """A service that cannot deliver with a full queue holds acknowledgements: the broker keeps the rest."""
    broker = mosquitto("max_queued_messages 0")
    stuck = (f'stuck = {{ plugin = "file"; queue = {{ max_messages = 5; }}; '
             f'targets = {{ out = {{ path = "{router.folder}/missing/out"; }}; }}; }};')
    route = '{ topic = "in/#"; targets = "stuck:out"; }'
    router.start(config(router, broker.port, route, stuck)).ready()
    c = client(broker.port)
    for i in range(200):
        c.publish("in/a", b"%d" % i)
    router.run.wait_line("queue is full")
    router.run.kill()
    router.path("missing").mkdir()
    router.start()
    # The five that had a place are gone with the process (no store yet); what was held comes again, in order.
    until(lambda: router.path("missing/out").exists() and b"199\n" in router.path("missing/out").read_bytes(), "199")
    got = [int(line) for line in router.path("missing/out").read_bytes().split()]
    assert got == sorted(got)
    assert set(got) >= set(range(5, 200))


def test_connection_outlasts_acknowledgements_that_are_held_back(router, mosquitto, client):
    """Or else the broker would send all that is not acknowledged again and again, to the targets that work, too."""
    broker = mosquitto()
    full = (f'full = {{ plugin = "file"; queue = {{ max_messages = 1; }}; '
            f'targets = {{ out = {{ path = "{router.folder}/missing/out"; }}; }}; }};')
    route = '{ topic = "in/#"; targets = [ "full:out", "file:out" ]; }'
    router.start(config(router, broker.port, route, full, keepalive='"5s"')).ready()
    c = client(broker.port)
    for i in range(3):
        c.publish("in/a", b"%d" % i)
    router.run.wait_line("queue is full")
    at = 0
    for _ in range(5):  # 10 s; the broker's patience is 7.5 s
        _, at = broker.process.wait_line("Received PINGREQ from tocsin-n1-local", start=at)
    router.path("missing").mkdir()
    assert len(router.path("out").read_bytes().split()) == 3
    until(lambda: router.path("missing/out").exists() and router.path("missing/out").read_bytes().count(b"\n") == 3, "3")
    assert "connection lost" not in router.run.text()


def test_what_comes_together_with_connack_is_not_acknowledged_sooner(router, tmp_path):
    """A broker that answers with CONNACK and two messages in one TLS record; the second finds no place."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    first, over = queue.Queue(), threading.Event()

    def serve(raw):
        with context.wrap_socket(raw, server_side=True) as s:
            receives = b"local-send" not in s.recv(4096)
            publish = b"\x32\x09\x00\x04in/a\x00%c1"
            s.sendall(b"\x20\x02\x00\x00" + (publish % 1 + publish % 2 if receives else b""))
            if receives:
                first.put(s.recv(4096)[:1])
            over.wait(30)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        full = (f'full = {{ plugin = "file"; queue = {{ max_messages = 1; }}; '
                f'targets = {{ out = {{ path = "{router.folder}/missing/out"; }}; }}; }};')
        router.start(f'node = "n1"; drain = "50ms"; links = ( {{ name = "local"; host = "127.0.0.1"; '
                     f'port = {listener.getsockname()[1]}; protocol = "3.1.1"; keepalive = "5s"; tls = {{ ca = "{cert}"; }}; }} );\n'
                     f'services = {{ {full} }};\nroutes = ( {{ topic = "in/#"; targets = "full:out"; }} );')
        for _ in range(2):
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
        assert first.get(timeout=30) == b"\xc0", "a PINGREQ, not a PUBACK"
        over.set()
        assert router.run.stop() == 2


def test_new_subscription_does_not_meet_the_old_routes(router, source, client):
    """A shard that is busy takes the new routes later than others; what is retained comes at once."""
    broker = source("max_queued_messages 0")
    router.path("f.lua").write_text("function slow(m) local x = 0 for i = 1, 20000000 do x = x + i end return false end")
    head = 'router = { shards = 4; functions = "f.lua"; instructions = 1000000000; };\n'
    routes = ['{ topic = "slow"; function = "slow"; targets = "file:out"; }']
    router.start(head + config(router, broker, ", ".join(routes))).ready()
    c = client(broker.port)
    for i in range(5):
        for j in range(20):
            c.publish(f"new/{i}/{j}", b"%d" % i, retain=True)
        c.publish("slow")
        routes.append('{ topic = "new/%d/#"; targets = "file:out"; }' % i)
        router.write(head + config(router, broker, ", ".join(routes)))
        router.run.send_signal(signal.SIGHUP)
        assert len(router.lines("out", 20 * (i + 1))) == 20 * (i + 1)


def test_publication_under_way_at_the_end_is_left_behind(router, mosquitto, client):
    here, there = mosquitto(), mosquitto()
    router.start(f'node = "n1"; drain = "50ms"; links = ( {{ name = "here"; host = "127.0.0.1"; port = {here.port}; }},'
                 f' {{ name = "there"; host = "127.0.0.1"; port = {there.port}; }} );\n'
                 'services = { again = { plugin = "republish"; link = "there"; timeout = "10m"; '
                 'targets = { out = { topic = "out/{topic}"; }; }; }; };\n'
                 'routes = ( { topic = "in/#"; link = "here"; targets = "again:out"; } );')
    router.run.wait_line("link here: subscribed")
    router.run.wait_line("link there: connected side=sending")
    out = client(there.port).subscribe("out/#")
    c = client(here.port)
    c.publish("in/a", b"1")
    assert out.get().payload == b"1"
    os.kill(there.process.pid, signal.SIGSTOP)
    try:
        c.publish("in/a", b"2")

        def is_waiting():
            seen = len(router.run.lines)
            router.run.send_signal(signal.SIGUSR1)
            return "created=2" in router.run.wait_line("info: target again:out", start=seen)[0]

        until(is_waiting, "the call that gets no answer")
        assert router.run.stop() == 2
    finally:
        os.kill(there.process.pid, signal.SIGCONT)


def test_target_that_is_down_leaves_others_alone_and_memory_bounded(router, source, client):
    broker = source("max_queued_messages 0", "max_queued_bytes 0")
    stuck = (f'stuck = {{ plugin = "file"; queue = {{ max_messages = 200000; max_bytes = "16MiB"; }}; '
             f'targets = {{ out = {{ path = "{router.folder}/missing/out"; }}; }}; }};')
    route = '{ topic = "in/#"; qos = 0; targets = [ "stuck:out", "file:out" ]; }'
    router.start(config(router, broker, route, stuck)).ready()
    c = client(broker.port)
    payload = b"x" * 200
    before = router.run.rss()
    for i in range(100_000):
        c.publish_soon("in/%d" % (i % 100), b"%d " % i + payload, qos=0)
        if i % 1000 == 999:
            c.publish("in/pace", b"", qos=1)
            router.lines("out", i // 1000 * 1001)
    assert len(router.lines("out", 100_100)) == 100_100
    slack = 10 if "san" in str(router.build) else 1
    assert router.run.rss() - before < slack * 64 * 1024 * 1024
    router.run.send_signal(signal.SIGUSR1)
    line, _ = router.run.wait_line("info: target stuck:out")
    counts = dict(pair.split("=") for pair in line.split()[5:])
    assert int(counts["created"]) == 100_100
    assert int(counts["bytes"]) <= 17 * 1024 * 1024
    assert int(counts["waiting"]) + int(counts["dropped"]) == 100_100


def test_reload_changes_routes_and_services_and_a_bad_file_changes_nothing(router, source, client):
    broker = source()
    router.start(config(router, broker, ALL)).ready()
    c = client(broker.port)
    c.publish("in/a", b"1")
    router.lines("out", 1)

    router.write(config(router, broker, '{ topic = "in/#"; targets = "fiel:out"; }'))
    router.run.send_signal(signal.SIGHUP)
    router.run.wait_line('routes[0].targets: there is no service "fiel", did you mean "file"?')
    router.run.wait_line("nothing was changed")
    c.publish("in/a", b"2")
    router.lines("out", 2)

    other = (f'other = {{ plugin = "file"; targets = {{ out = {{ path = "{router.folder}/other"; }}; }}; }};')
    router.write(config(router, broker, '{ topic = "new/#"; format = "<{payload}>"; targets = "other:out"; }', other))
    router.run.send_signal(signal.SIGHUP)
    router.run.wait_line("reloaded")
    c.publish("in/a", b"3")
    until(lambda: (c.publish("new/a", b"4"), router.path("other").exists())[1], "the new subscription")
    assert set(router.lines("other", 1)) == {b"<4>"}
    assert router.path("out").read_bytes() == b"1\n2\n"


def test_reload_loses_nothing_that_waits(router, source, client):
    """What waits for a target that is down goes on with the mended target, or behind the new configuration."""
    broker = source()

    def stuck(name, more=""):
        path = f"{router.folder}/{name}/out"
        return (f'{name} = {{ plugin = "file"; retry = {{ max = "1s"; }}; '
                f'targets = {{ out = {{ path = "{path}"; {more} }}; }}; }};')

    route = '{ topic = "in/#"; targets = [ "mended:out", "gone:out", "file:out" ]; }'
    router.start(config(router, broker, route, stuck("mended") + stuck("gone"))).ready()
    c = client(broker.port)
    numbers = [b"%d" % i for i in range(100)]
    for number in numbers:
        c.publish("in/a", number)
    router.lines("out", 100)
    router.write(config(router, broker, ALL, stuck("mended", "mkdir = true;")))
    router.run.send_signal(signal.SIGHUP)
    router.run.wait_line("reloaded")
    assert router.lines("mended/out", 100) == numbers
    router.path("gone").mkdir()
    assert router.lines("gone/out", 100) == numbers
    router.run.wait_line("gone: the old configuration has nothing left to do")
    assert router.run.stop() == 0


def test_file_is_opened_again_after_hangup(router, mosquitto, client):
    broker = mosquitto()
    router.start(config(router, broker.port, ALL)).ready()
    c = client(broker.port)
    c.publish("in/a", b"1")
    router.lines("out", 1)
    router.path("out").rename(router.path("out.1"))
    router.run.send_signal(signal.SIGHUP)
    router.run.wait_line("reloaded")
    c.publish("in/a", b"2")
    assert router.lines("out", 1) == [b"2"]
    assert router.path("out.1").read_bytes() == b"1\n"


def test_systemd_is_told(router, source, tmp_path):
    broker = source()
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        s.settimeout(30)
        router.start(config(router, broker, ALL), env={"NOTIFY_SOCKET": path, "JOURNAL_STREAM": "8:1"})
        told = []

        def next_one():
            while (state := s.recv(2000)).startswith(b"STATUS="):
                told.append(state)
            return state

        assert next_one() == b"READY=1"
        until(lambda: told or told.append(s.recv(2000)) or True, "the status")
        assert told == [b"STATUS=ok"]
        router.run.send_signal(signal.SIGHUP)
        assert next_one().startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert next_one() == b"READY=1"
        router.run.send_signal(signal.SIGTERM)
        assert next_one() == b"STOPPING=1"
    assert router.run.wait() == 0
    assert all(line.startswith("<") and line[2] == ">" for line in router.run.text("err").splitlines())


def test_wrong_configuration_does_not_start(router, process, build):
    router.write('links = ( { name = "a"; host = "127.0.0.1"; prot = 1; } );\nrouts = ();\n')
    run = process([build / "tocsin", "run", "-c", router.config])
    assert run.wait() == 1
    assert "did you mean" in run.text("err")
    assert "2 errors" in run.text("err")


def test_functions_and_templates_of_files(router, mosquitto, client):
    broker = mosquitto()
    router.path("f.lua").write_text("function classify(m) if m.value > 100 then return false end "
                                    "return { band = m.value // 10 } end\n"
                                    "function double(x) return 2 * x end\n")
    router.path("t.txt").write_text("{% if band > 2 %}high{% else %}low{% endif %} {{ double(value) }}")
    router.start(links(broker.port) + f'router = {{ functions = "f.lua"; }};\n'
                 f"services = {{ {file_service(router.folder)} }};\n"
                 'routes = ( { topic = "in/#"; function = "classify"; template = "t.txt"; targets = "file:out"; } );')
    router.ready()
    c = client(broker.port)
    for value in (b"5", b"35", b"500", b"25"):
        c.publish("in/a", value)
    assert router.lines("out", 3) == [b"low 10", b"high 70", b"low 50"]


def test_several_shards_keep_the_order_of_each_topic(router, source, client):
    broker = source()
    router.start("router = { shards = 3; };\n" + config(router, broker, '{ topic = "in/{t}"; '
                 'format = "{t} {payload}"; targets = "file:out"; }')).ready()
    c = client(broker.port)
    for i in range(300):
        c.publish_soon(f"in/{i % 7}", b"%d" % i)
    lines = [line.split() for line in router.lines("out", 300)]
    for topic in range(7):
        numbers = [int(n) for t, n in lines if t == b"%d" % topic]
        assert numbers == sorted(numbers) and len(numbers) == len(range(topic, 300, 7))


def test_a_log_that_nobody_reads_stops_neither_routing_nor_the_end(build, tmp_path, source, client):
    """A second of waiting, then lines of the log are lost. The notification for the log is not: it is tried again."""
    broker = source()
    (tmp_path / "tocsin.conf").write_text(
        links(broker) + 'log_level = "debug"; drain = "0ms";\n'
        f'services = {{ log = {{ plugin = "log"; }}; file = {{ plugin = "file"; targets = {{ out = {{ path = "{tmp_path}/out"; }}; }}; }}; }};\n'
        'routes = ( { topic = "in/#"; targets = [ "log", "file:out" ]; } );\n')
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    child = subprocess.Popen([build / "tocsin", "run", "-c", tmp_path / "tocsin.conf"], stderr=writer)
    try:
        until(lambda: port_is_open(broker.port), "the broker")
        c = client(broker.port)
        def arrives(text):
            c.publish("in/a", text)
            return (tmp_path / "out").exists() and text in (tmp_path / "out").read_bytes()
        until(lambda: arrives(b"first"), "the way is open")
        for i in range(100):
            c.publish("in/a", b"%d" % i)
        until(lambda: b"99\n" in (tmp_path / "out").read_bytes(), "routing goes on")
        child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 2  # what the log has not taken is undone
    finally:
        child.kill()
        child.wait()
        os.close(reader)
        os.close(writer)


def test_a_closed_standard_error_leaves_its_number_to_nothing_else(build, tmp_path, mosquitto, client):
    broker = mosquitto()
    (tmp_path / "tocsin.conf").write_text(
        links(broker.port) + f'services = {{ {file_service(tmp_path)} }};\nroutes = ( {ALL} );\n')
    child = subprocess.Popen(["sh", "-c", 'exec "$0" run -c "$1" <&- >&- 2>&-', build / "tocsin",
                              tmp_path / "tocsin.conf"])
    try:
        c = client(broker.port)
        def arrives():
            c.publish("in/a", b"first")
            return (tmp_path / "out").exists()
        until(arrives, "the way is open")
        assert [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in (0, 1, 2)] == ["/dev/null"] * 3
        child.terminate()
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()


def test_a_path_that_is_too_long_to_render_is_not_cut_to_another(router, mosquitto, client):
    broker = mosquitto()
    (router.folder / "tocsin.conf").write_text(links(broker.port) + 'router = { text_size = "1KiB"; };\n'
        f'services = {{ file = {{ plugin = "file"; targets = {{ out = {{ path = "{router.folder}/out{{name}}"; }}; }}; }}; }};\n'
        'routes = ( { topic = "in/#"; format = "x"; targets = "file:out"; } );\n')
    router.start().ready()
    client(broker.port).publish("in/a", json.dumps({"name": "n" * 5000}).encode())
    router.run.wait_line("delivery rejected")
    assert not router.path("out").exists()


@pytest.mark.parametrize("where", ["router = { functions = %s; };", 'services = { log = { plugin = "log"; }; }; '
                                   'routes = ( { topic = "a"; template = %s; targets = "log"; } );'])
def test_a_fifo_that_nobody_writes_to_does_not_hang_a_check(build, tmp_path, where):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "tocsin.conf").write_text(links(1883) + where % f'"{tmp_path}/fifo"')
    assert subprocess.run([build / "tocsin", "check", "-c", tmp_path / "tocsin.conf"], timeout=30).returncode == 0
