# SPDX-License-Identifier: MIT
"""The configuration is read again while thousands of deliveries wait on disk: all are made, and none twice."""

import collections
import signal
import subprocess

import pytest
from conftest import until
from router import Included, Router, config

ROOMS = 5
RELOADS = 6


def service(folder, retry_ms):
    """Fails for a room whose folder is not there. Each `retry_ms` makes it another service, which takes over."""
    return f"""
    down = {{ plugin = "file"; queue = {{ max_messages = 100; }}; retry = {{ initial = "20ms"; max = "{retry_ms}ms"; }};
              breaker = {{ failures = 0; }};
              targets = {{ out = {{ path = "{folder}/{{room}}/out"; newline = "always"; }}; }}; }};
    """


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture
def broker(free_port):
    return Included(free_port(), {})


def test_what_waits_on_disk_is_delivered_once_whatever_is_reloaded(router, broker, client):
    route = '{ topic = "in/{room}/#"; targets = "down:out"; }'
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'

    def text(turn):
        return store + config(router, broker, route, service(router.folder, 50 + turn))

    router.start(text(0)).ready()
    c = client(broker.port)
    number = 0

    def publish(n):
        nonlocal number
        for _ in range(n):
            c.publish_soon(f"in/{number % ROOMS}/{number % 31}", b"%d" % number, 1)
            number += 1

    publish(3000)
    for turn in range(RELOADS):
        if turn == 2:  # from here on it drains, but for the last rooms
            for room in range(ROOMS - 2):
                router.path(str(room)).mkdir()
        router.write(text(turn + 1))
        router.run.child.send_signal(signal.SIGHUP)
        publish(500)
        router.run.wait_line("reloaded")
        publish(100)
    for room in range(ROOMS - 2, ROOMS):
        router.path(str(room)).mkdir()
    c.publish("in/0/last", b"%d" % number, 1)
    number += 1
    for room in range(ROOMS):
        count = len(range(room, number - 1, ROOMS)) + (room == 0)
        router.lines(f"{room}/out", count)
    assert router.run.stop() == 0
    came = collections.Counter(line for room in range(ROOMS) for line in router.path(f"{room}/out").read_bytes().split())
    assert [line for line, count in came.items() if count > 1] == []
    assert sorted(map(int, came)) == list(range(number))


def two_services(folder, names):
    services = "".join(
        f'{name} = {{ plugin = "file"; queue = {{ max_messages = 50; }}; retry = {{ initial = "20ms"; max = "50ms"; }};'
        f' targets = {{ out = {{ path = "{folder}/{name}/out"; newline = "always"; }}; }}; }};\n'
        for name in names)
    routes = ",".join(f'{{ topic = "in/{name}"; targets = "{name}:out"; }}' for name in names)
    return routes, services


def test_what_waits_for_a_target_that_was_not_configured_goes_on_before_what_comes(router, broker, client):
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'

    def text(*names):
        routes, services = two_services(router.folder, names)
        return store + 'admin = { status_interval = "1s"; };\n' + config(router, broker, routes, services)

    def reload(*names):
        router.write(text(*names))
        start = len(router.run.lines)
        router.run.child.send_signal(signal.SIGHUP)
        router.run.wait_line("reloaded", start=start)

    router.start(text("a", "b")).ready()
    c = client(broker.port)
    for i in range(300):
        c.publish_soon("in/b", b"%d" % i, 1)
    c.publish("in/b", b"300", 1)
    router.run.kill()

    def health():
        done = subprocess.run([router.build / "tocsin", "status", "--check", "-c", router.config], stdout=subprocess.PIPE, text=True)
        return done.returncode, done.stdout

    router.start(text("a")).ready()
    status, told = health()
    assert status == 1 and "for targets that are not configured: 301 (put these back" in told
    reload("a", "b")
    until(lambda: "not configured" not in health()[1], "a health that says nothing of it")
    c = client(broker.port)
    c.publish("in/b", b"301", 1)
    reload("a")  # now the one that was removed has them, and goes on when it is there again
    reload("a", "b")
    c.publish("in/b", b"302", 1)
    router.path("b").mkdir()
    lines = [int(line) for line in router.lines("b/out", 303)]
    assert sorted(lines) == list(range(303))
    assert [n for n in lines if n <= 301] == list(range(302))
    c.publish("in/b", b"303", 1)
    router.lines("b/out", 304)
    assert router.run.stop() == 0
    assert len(router.path("b/out").read_bytes().split()) == 304
