# SPDX-License-Identifier: MIT
"""Routes on the included broker: what is peculiar to it. What all links have in common is in test_router.py and
test_link.py."""

import pytest
from conftest import until
from router import ALL, Included, Router, config

pytestmark = pytest.mark.threads


@pytest.fixture
def router(process, build, tmp_path):
    return Router(process, build, tmp_path)


@pytest.fixture
def included(free_port):
    """included(workers=2, ...) is the router's own broker with these options."""
    return lambda **options: Included(free_port(), options)


def full(router, places):
    """A service that has places for so many deliveries, and delivers nothing before there is a folder `missing`."""
    return (f'full = {{ plugin = "file"; queue = {{ max_messages = {places}; }}; retry = {{ initial = "20ms"; max = "100ms"; }}; '
            f'targets = {{ out = {{ path = "{router.folder}/missing/out"; }}; }}; }};')


FULL = '{ topic = "in/#"; targets = "full:out"; }'


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("v5", [True, False])
def test_acknowledgements_wait_for_a_place_and_come_in_order(router, included, client, workers, qos, v5):
    broker = included(workers=workers)
    router.start(config(router, broker, FULL, full(router, 3))).ready()
    c = client(broker.port, v5=v5)
    first = [c.publish_soon("in/a", b"%d" % i, qos) for i in range(3)]
    for info in first:
        c._await("publish", info.mid)
    later = [c.publish_soon("in/a", b"%d" % i, qos) for i in range(3, 13)]
    router.run.wait_line("queue is full")
    # An answer that has nothing to wait for: what came before it has been looked at.
    other = client(broker.port, v5=v5)
    other.publish("other", b"", qos)
    assert not any(("publish", info.mid) in c.acks for info in later)
    router.path("missing").mkdir()
    for info in later:
        c._await("publish", info.mid)
    mids = [mid for kind, mid in c.acks if kind == "publish"]
    assert mids == [info.mid for info in first + later]
    assert router.lines("missing/out", 13) == [b"%d" % i for i in range(13)]
    assert router.run.stop() == 0
