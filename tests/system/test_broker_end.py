# SPDX-License-Identifier: MIT
"""How the broker ends: it tells its clients, who speak MQTT 5, that it goes, and publishes no wills."""

import pathlib
import sys

import pytest
from conftest import TIMEOUT

WIRE = pathlib.Path(__file__).resolve().parents[1] / "wire"
sys.path.insert(0, str(WIRE))

import cases  # noqa: E402
import conversation  # noqa: E402
import server  # noqa: E402

pytestmark = pytest.mark.threads

BEFORE = """case before
level: 5
repeat i 1..6
A{i}> CONNECT will-topic=@/will will-payload=lost +session-expiry-interval=100
A{i}< CONNACK
A{i}> SUBSCRIBE pid=1 filter=@/#
A{i}< SUBACK pid=1
end
B> CONNECT level=4 will-topic=@/will will-payload=lost
B< CONNACK
C> open
D> hex 10 20
"""

AFTER = """case after
level: 5
repeat i 1..6
A{i}< DISCONNECT code=server-shutting-down
A{i}< closed
end
B< closed
C< closed
D< closed
"""


@pytest.mark.parametrize("workers", ["1", "3"])
def test_clients_are_told_that_the_broker_goes(tmp_path, workers):
    def read(text):
        path = tmp_path / "cases.txt"
        path.write_text(text)
        return cases.read_cases(path)[0]

    broker = server.Server("tocsin", {"workers": workers})
    try:
        before = conversation.Conversation(read(BEFORE), broker.address, "x")
        before.run()
        broker.child.terminate()
        after = conversation.Conversation(read(AFTER), broker.address, "x")
        after.peers = before.peers
        after.run()
        broker.child.wait(TIMEOUT)  # a second signal would end it at once
    finally:
        assert broker.stop() is None
