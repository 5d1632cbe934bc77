# SPDX-License-Identifier: MIT
"""examples/nsca, all the way: the router with its broker, Debian's nsca, nagios4."""

import pytest
from conftest import until
from example import Example
from nsca_server import Nagios, NscaDaemon
from router import Included


@pytest.fixture
def nsca(tmp_path, process, free_port):
    """An NSCA daemon, not started, in front of a Nagios."""
    nagios = Nagios(tmp_path, process)
    server = NscaDaemon(tmp_path, process, free_port(), 14, "change me", command_file=nagios.command_file)
    return nagios, server


def example(broker, server, build, tmp_path, process):
    changes = {"port = 1883": f"port = {broker.port}", "port = 5667": f"port = {server.port}"}
    return Example("nsca", build, tmp_path, process, changes)


def test_values_become_states_in_nagios(nsca, free_port, client, build, tmp_path, process):
    nagios, server = nsca
    server.start()
    broker = Included(free_port())
    router = example(broker, server, build, tmp_path, process)
    assert router.command("check").wait() == 0
    router.start()
    sensor = client(broker.port)

    sensor.publish("sensors/router/celsius", "31.52")
    status = nagios.wait_status("servicestatus", "31.5 °C")
    assert (status["current_state"], status["performance_data"]) == ("2", "celsius=31.52;25;30")
    sensor.publish("sensors/router/celsius", "25")
    assert nagios.wait_status("servicestatus", "25.0 °C")["current_state"] == "1"
    sensor.publish("sensors/router/celsius", "20")
    assert nagios.wait_status("servicestatus", "20.0 °C")["current_state"] == "0"

    sensor.publish("sensors/router/status", "offline")
    assert nagios.wait_status("hoststatus", "offline")["current_state"] == "1"
    sensor.publish("sensors/router/status", "online")
    assert nagios.wait_status("hoststatus", "online")["current_state"] == "0"


def test_a_result_waits_for_a_server_that_is_away(nsca, free_port, client, build, tmp_path, process):
    nagios, server = nsca
    broker = Included(free_port())
    run = example(broker, server, build, tmp_path, process).start()
    client(broker.port).publish("sensors/router/celsius", "31.5")
    run.wait_line("Connection refused")
    server.start()
    nagios.wait_status("servicestatus", "31.5 °C")


def test_one_result_by_hand(nsca, free_port, build, tmp_path, process):
    nagios, server = nsca
    server.start()
    router = example(Included(free_port()), server, build, tmp_path, process)
    log = tmp_path / "nagios.log"
    assert router.command("send", "nagios:alive", "a first try").wait() == 0
    # The example's host has a field in its name; without a message to take it from it is nobody's host.
    until(lambda: "a first try" in log.read_text("utf-8", "replace"), "the result in Nagios' log")
