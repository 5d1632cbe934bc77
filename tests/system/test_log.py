# SPDX-License-Identifier: MIT
"""The plugin log: lines for the router's own log, and lines on standard error."""

import os

import pytest
from plugin_host import PluginHost

LEVELS = [
    # level, severity, own log, syslog
    ("critical", None, "error", 2),
    ("error", None, "error", 3),
    ("warning", None, "warning", 4),
    ("notice", None, "info", 5),
    ("info", "critical", "info", 6),
    ("debug", None, "debug", 7),
    ("severity", "ok", "info", 6),
    ("severity", "warning", "warning", 4),
    ("severity", "critical", "error", 2),
    ("severity", "unknown", "warning", 4),
    ("severity", None, "info", 6),
]


def delivery(level, severity=None, **more):
    d = {"target": {"level": level}, "text": "hot", **more}
    if severity:
        d["severity"] = severity
    return d


@pytest.mark.parametrize("level, severity, own, _", LEVELS)
def test_the_own_log_gets_a_line_of_the_level(level, severity, own, _):
    with PluginHost("log") as host:
        results = host.send(delivery(level, severity), delivery(level, severity, title="room"))
        assert [r["verdict"] for r in results] == ["sent", "sent"]
        assert host.logs == [[own, "hot"], [own, "room: hot"]]


def stderr_of(*deliveries):
    """What the plugin writes to standard error."""
    reader, writer = os.pipe()
    saved = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        host = PluginHost("log", style="syslog")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    with host:
        results = host.send(*deliveries)
        assert [r["verdict"] for r in results] == ["sent"] * len(deliveries)
    with os.fdopen(reader, "rb") as f:
        return f.read().decode()


@pytest.mark.parametrize("level, severity, _, priority", LEVELS)
def test_standard_error_gets_a_line_with_the_priority(level, severity, _, priority):
    assert stderr_of(delivery(level, severity, title="room")) == f"<{priority}>room: hot\n"


def test_a_message_is_one_line_whatever_is_in_it():
    lines = stderr_of(
        delivery("info", text="a\n<0>b\x1b[31m\r\x7fc\n\n"),
        delivery("info", text="ü" * 10000, title="t\nt"),
        delivery("info", text=""),
    )
    assert lines == "<6>a <0>b [31m  c\n<6>t t: " + "ü" * 10000 + "\n<6>\n"


def test_a_standard_error_that_nobody_reads_is_a_failure():
    reader, writer = os.pipe()
    saved = os.dup(2)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        host = PluginHost("log", style="syslog")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    os.close(reader)
    with host:
        [result] = host.send(delivery("info"))
        assert result["verdict"] == "retry" and "Broken pipe" in result["reason"]


def test_while_standard_error_is_full_deliveries_are_tried_again():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    saved = os.dup(2)
    os.dup2(writer, 2)
    try:
        host = PluginHost("log", style="syslog")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    with host:
        try:
            while True:
                os.write(writer, bytes(100))
        except BlockingIOError:
            os.set_blocking(writer, True)
        assert [r["verdict"] for r in host.send(delivery("info"))] == ["retry"]
        os.read(reader, 65536)
        assert [r["verdict"] for r in host.send(delivery("info"))] == ["sent"]
    os.close(writer)
    with os.fdopen(reader, "rb") as f:
        assert f.read().endswith(b"<6>hot\n")
