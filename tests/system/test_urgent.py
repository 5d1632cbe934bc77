# SPDX-License-Identifier: MIT
"""Critical notifications go before others, also past what a full queue has put on disk."""

import pytest
from router import Included, Router, config

# A target that fails while its folder is not there.
SERVICE = """
down = {{ plugin = "file"; queue = {{ max_messages = 20; }}; retry = {{ initial = "20ms"; max = "50ms"; }};
          targets = {{ out = {{ path = "{folder}/later/out"; newline = "always"; }}; }}; }};
"""
ROUTES = """{ name = "c"; topic = "in/+/critical"; severity = "critical"; format = "{topic} {payload}"; targets = "down:out"; },
            { name = "o"; topic = "in/+/ordinary"; severity = "warning"; format = "{topic} {payload}"; targets = "down:out"; },
            { name = "m"; topic = "in/mixed"; severity = "starts_with(value, 'C') and 'critical' or 'ok'";
              format = "{topic} {value}"; targets = "down:out"; }"""


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture
def broker(free_port):
    return Included(free_port(), {})


@pytest.mark.parametrize("killed", [False, True])
def test_what_is_critical_passes_what_is_on_disk(router, broker, client, killed):
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'
    router.start(store + config(router, broker, ROUTES, SERVICE.format(folder=router.folder))).ready()
    c = client(broker.port)
    for i in range(400):
        c.publish_soon(f"in/{i % 7}/ordinary", b"%d" % i, 1)
    c.publish_soon("in/mixed", b"before", 1)
    c.publish("in/mixed", b"Critical", 1)  # behind what is on disk of its topic
    for i in range(2):  # there is a place for two more
        c.publish(f"in/{i}/critical", b"%d" % i, i)
    router.run.wait_line("it goes on on disk")
    if killed:
        router.run.kill()
    router.path("later").mkdir()
    if killed:
        router.start().ready()
    count = 404 - killed  # one was of QoS 0
    lines = router.lines("later/out", count)
    assert sorted(set(lines)) == sorted(lines)
    assert len([line for line in lines if not (killed and line == b"in/0/critical 0")]) == count
    for topic in range(7):
        of_topic = [int(line.split()[1]) for line in lines if line.startswith(b"in/%d/ordinary " % topic)]
        assert of_topic == sorted(of_topic)
    assert lines.index(b"in/mixed before") < lines.index(b"in/mixed Critical")
    # Most likely within the first 30; later where others have taken the last places, and it had to be found on disk.
    if not killed:
        assert lines.index(b"in/0/critical 0") < 200
    assert lines.index(b"in/1/critical 1") < 200
    assert lines.index(b"in/mixed Critical") < 200
    assert router.run.stop() == 0


def test_what_is_critical_is_loaded_first_after_a_restart(router, broker, client):
    """What was on disk before it, and what comes after it to a target that still fails."""
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'
    router.start(store + config(router, broker, ROUTES, SERVICE.format(folder=router.folder))).ready()
    c = client(broker.port)
    for i in range(3000):
        c.publish_soon(f"in/{i}/ordinary", b"%d" % i, 1)
    for i in range(3):
        c.publish_soon("in/mixed", b"before %d" % i, 1)
    for i in range(50):  # more than there are places
        c.publish("in/mixed" if i == 40 else f"in/{i}/critical", b"C%d" % i, 1)
    router.run.kill()
    router.start().ready()
    late = client(broker.port)
    for i in range(50, 60):
        late.publish(f"in/{i}/critical", b"C%d" % i, 1)
    router.path("later").mkdir()
    lines = router.lines("later/out", 3063)
    assert len(set(lines)) == len(lines) == 3063
    before = [lines.index(b"in/mixed before %d" % i) for i in range(3)] + [lines.index(b"in/mixed C40")]
    assert before == sorted(before)
    place = {line.split()[1]: i for i, line in enumerate(lines) if b" C" in line}
    # With what is before them of their topic, after every eighth another one, and what was in the queue before them.
    assert max(place[b"C%d" % i] for i in range(50)) < 53 * 9 / 8 + 100
    assert max(place[b"C%d" % i] for i in range(50, 60)) < 2500
    assert router.run.stop() == 0


def test_what_is_critical_and_has_no_place_is_loaded_first(router, broker, client):
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'
    router.start(store + config(router, broker, ROUTES, SERVICE.format(folder=router.folder))).ready()
    c = client(broker.port)
    for i in range(3000):
        c.publish_soon(f"in/{i % 100}/ordinary", b"%d" % i, 1)
    for i in range(60):
        c.publish("in/mixed" if i < 5 else f"in/{i}/critical", b"C%d" % i, 1)
    router.path("later").mkdir()
    lines = router.lines("later/out", 3060)
    assert len(set(lines)) == len(lines) == 3060
    of_topic = [line for line in lines if line.startswith(b"in/mixed ")]
    assert of_topic == [b"in/mixed C%d" % i for i in range(5)]
    last = max(i for i, line in enumerate(lines) if b" C" in line)
    assert last < 2000, last
    assert router.run.stop() == 0


def test_what_went_ahead_and_still_waits_is_not_loaded_again(router, broker, client):
    service = f"""
    down = {{ plugin = "file"; queue = {{ max_messages = 20; }}; retry = {{ initial = "20ms"; max = "50ms"; }};
              breaker = {{ failures = 0; }};
              targets = {{ out = {{ path = "{router.folder}/{{room}}/out"; newline = "always"; }}; }}; }};
    """
    route = '{ topic = "in/{room}/#"; severity = "room == \'locked\' and 2 or 0"; targets = "down:out"; }'
    store = f'store = {{ path = "{router.folder}/store/tocsin.db"; }};\n'
    router.start(store + config(router, broker, route, service)).ready()
    c = client(broker.port)
    for i in range(200):
        c.publish_soon(f"in/open/{i % 7}", b"%d" % i, 1)
    c.publish("in/locked/x", b"1", 1)
    for i in range(200, 400):
        c.publish_soon(f"in/open/{i % 7}", b"%d" % i, 1)
    c.publish("in/open/0", b"400", 1)
    router.path("open").mkdir()
    assert sorted(map(int, router.lines("open/out", 401))) == list(range(401))
    router.path("locked").mkdir()
    router.lines("locked/out", 1)
    c.publish("in/locked/x", b"2", 1)
    assert router.lines("locked/out", 2) == [b"1", b"2"]
    assert router.run.stop() == 0
