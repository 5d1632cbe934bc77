# SPDX-License-Identifier: MIT
"""Drives build/VARIANT/linkcat: the links of a configuration, without a router."""

import json


class LinkCat:
    """One linkcat. Answers are matched to requests in order; messages and losses are kept in lists."""

    def __init__(self, process, build, directory, links, more="", name="l"):
        self.name = name  # of the link that is meant when none is named
        self.config = directory / f"links-{id(self)}.conf"
        self.config.write_text("links = (\n" + ",\n".join("{ " + link + " }" for link in links) + f"\n);\n{more}\n")
        self.process = process([build / "linkcat", self.config], stdin=True)
        self.at = 0  # the next answer is at or after this line
        self.seen = 0  # messages handed out by next_message()

    def ask(self, **request):
        self.process.write(json.dumps(request) + "\n")
        line, self.at = self.process.wait_line(
            lambda text: not text.startswith(('{"message"', '{"lost"')), "out", self.at
        )
        return json.loads(line)

    def start(self, filters, link=None, ready=20000):
        assert self.ask(filters=filters, link=link or self.name)["ok"]
        assert self.ask(start=True)["ok"]
        if ready:
            assert self.ask(ready=ready)["ready"], self.process.text()
        return self

    def filters(self, filters, link=None, ready=20000):
        assert self.ask(filters=filters, link=link or self.name)["ok"]
        assert self.ask(ready=ready)["ready"], self.process.text()

    def next_message(self):
        """Awaits the next message that has not been handed out yet."""
        line, self.seen = self.process.wait_line(
            lambda text: text.startswith('{"message"'), "out", self.seen
        )
        return json.loads(line)["message"]

    def messages(self):
        """All that have come so far."""
        return [
            json.loads(line)["message"]
            for line in self.process.text("out").splitlines()
            if line.startswith('{"message"')
        ]

    def payloads(self):
        return [m.get("payload") for m in self.messages()]

    def publish(self, *publications, link=None, timeout_ms=20000):
        return self.ask(publish=list(publications), link=link or self.name, timeout_ms=timeout_ms)["results"]

    def stats(self, link=None):
        return self.ask(stats=link or self.name)["stats"]

    def stop(self):
        self.process.close_stdin()
        assert self.process.wait() == 0, self.process.text("err")
