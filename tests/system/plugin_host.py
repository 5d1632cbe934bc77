# SPDX-License-Identifier: MIT
"""A plugin in a process of its own, driven by the tool plugin-host (whose head comment has the protocol).

    with PluginHost("nsca", host="127.0.0.1", port=5667) as host:
        [result] = host.send({"target": {...}, "text": "hello"})
        assert result["verdict"] == "sent"
"""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("TOCSIN_BUILD", "build/release")


class PluginError(Exception):
    """What the tool or the plugin answered instead of doing what was asked."""


class PluginHost:
    """Opens the plugin with these service options, unless `open_now` is false."""

    def __init__(self, plugin, *, open_now=True, name=None, env=None, pass_fds=(), **service):
        self.logs = []  # [level, text] of everything so far
        self.published = []  # of the last send()
        self.process = subprocess.Popen(
            [str(BUILD / "plugin-host"), str(BUILD / "plugins" / f"{plugin}.so")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            pass_fds=pass_fds,
        )
        if open_now:
            try:
                self.open(name=name, **service)
            except BaseException:
                self.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def start(self, request):
        """Sends a request without waiting for its answer; answer() waits."""
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise PluginError(f"plugin-host ended with status {self.process.wait()}")
        answer = json.loads(line)
        self.logs += answer.get("logs", [])
        return answer

    def ask(self, request):
        self.start(request)
        answer = self.answer()
        if answer.get("error") and "check_target" not in request:
            raise PluginError(answer["error"])
        return answer

    def open(self, *, name=None, **service):
        request = {"open": service}
        if name:
            request["service"] = name
        self.ask(request)

    def send(self, *deliveries, publish_results=None):
        """Sends a batch; returns a list of results, one each."""
        request = {"send": list(deliveries)}
        if publish_results is not None:
            request["publish_results"] = publish_results
        answer = self.ask(request)
        self.published = answer["published"]
        return answer["results"]

    def wants(self, target):
        return self.ask({"wants": target})["wants"]

    def check_target(self, target):
        """None, or what is wrong with the target."""
        return self.ask({"check_target": target})["error"]

    def reopen(self):
        self.ask({"reopen": True})

    def close(self):
        """Closes the instance and ends the process, which must end well (with no leak, under asan)."""
        if self.process.stdin.closed:
            return
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        rest = self.process.stdout.read()
        self.process.stdout.close()
        status = self.process.wait(timeout=60)
        if status != 0:
            raise PluginError(f"plugin-host ended with status {status}: {rest!r}")
