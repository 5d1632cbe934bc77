# SPDX-License-Identifier: MIT
"""Drives `tocsin run`: the router with its configuration, a folder for files, and the broker it listens to."""

from conftest import conf_value, until


class Router:
    """`tocsin run` in a folder of its own."""

    def __init__(self, process, build, folder):
        self.process, self.build, self.folder = process, build, folder
        self.config = folder / "tocsin.conf"
        self.run = None

    def write(self, text):
        self.config.write_text(text)

    def start(self, text=None, env=None):
        if text:
            self.write(text)
        self.run = self.process([self.build / "tocsin", "run", "-c", self.config], env=env)
        self.run.wait_line("running")
        return self

    def ready(self):
        """Awaits that the link has its subscriptions."""
        self.run.wait_line("subscribed")
        return self

    def path(self, name):
        return self.folder / name

    def lines(self, name, count):
        """Awaits that a file has `count` lines, and returns them."""
        path = self.path(name)
        until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, f"{count} lines in {name}")
        return path.read_bytes().split(b"\n")[:-1]


class Included:
    """The broker in the router's own process, where tests of others have a Mosquitto."""

    def __init__(self, port, options=None):
        self.port, self.options = port, options or {}

    def links(self):
        group = {"listeners": [{"port": self.port, "bind": "127.0.0.1"}], **self.options}  # options may have others
        return f'node = "n1"; broker = {conf_value(group)};\n'


def links(broker, **more):
    """What the configuration says about where messages come from: a Mosquitto or its port, or an Included, which
    has no options of a link."""
    if isinstance(broker, Included):
        return broker.links()
    port = getattr(broker, "port", broker)
    extra = "".join(f" {k} = {v};" for k, v in more.items())
    return f'node = "n1"; links = ( {{ name = "local"; host = "127.0.0.1"; port = {port};{extra} }} );\n'


def file_service(folder, name="file", more=""):
    return (f'{name} = {{ plugin = "file"; {more} targets = {{ out = {{ path = "{folder}/out"; newline = "always"; }}; '
            f'room = {{ path = "{folder}/rooms/{{room}}"; }}; }}; }};')


def config(router, broker, routes, more="", **link):
    return (links(broker, **link) + f"services = {{ {file_service(router.folder)} {more} }};\n"
            f"routes = ( {routes} );\n")


ALL = '{ topic = "in/#"; targets = "file:out"; }'
