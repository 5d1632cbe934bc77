# SPDX-License-Identifier: MIT
"""Runs what is in examples/ as it is, with nothing but ports and paths put in place."""

from conftest import ROOT


class Example:
    def __init__(self, name, build, folder, process, changes):
        self.build = build
        self.process = process
        self.config = folder / "tocsin.conf"
        text = (ROOT / "examples" / name / "tocsin.conf").read_text()
        for old, new in changes.items():
            assert text.count(old) == 1, f"{old!r} is not once in the example"
            text = text.replace(old, new)
        self.config.write_text(text)

    def command(self, *argv):
        return self.process([self.build / "tocsin", argv[0], "-c", self.config, *argv[1:]])

    def start(self, links=1):
        """Starts the router and awaits that its links have their subscriptions."""
        run = self.command("run")
        at = 0
        for _ in range(links):
            _, at = run.wait_line("subscribed", start=at)
        return run
