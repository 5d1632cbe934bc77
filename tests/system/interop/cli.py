# SPDX-License-Identifier: MIT
"""The commands mosquitto_sub and mosquitto_pub as a driver: a client is a process, and so is a publication."""

import base64
import itertools
import signal
import subprocess
import threading

from .driver import TIMEOUT, Client, Message, Refused

VERSIONS = {3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}
PROPERTIES = {
    "response_topic": "response-topic",
    "correlation": "correlation-data",
    "content_type": "content-type",
    "expiry": "message-expiry-interval",
    "format": "payload-format-indicator",
}
# User properties stand before the payload, the only other field that may hold anything; it is in hex.
FORMAT = "\x01".join(["MSG", "%t", "%q", "%r", "%S", "%C", "%D", "%E", "%F", "%R", "%P", "%x"])


def property_options(command, props):
    options = []
    for name, value in props.items():
        if name == "user":
            for key, text in value:
                options += ["-D", command, "user-property", key, text]
        else:
            options += ["-D", command, PROPERTIES[name], str(value)]
    return options


def message(line):
    _, topic, qos, retain, ids, content, correlation, expiry, form, response, user, payload = line.split("\x01")
    props = {"ids": [int(i) for i in ids.split()], "content_type": content, "correlation": correlation,
             "expiry": int(expiry or 0), "format": int(form or 0), "response_topic": response}
    props = {name: value for name, value in props.items() if value}
    props["user"] = [tuple(pair.split(":", 1)) for pair in user.split()]
    return Message(topic, bytes.fromhex(payload), int(qos), retain == "1", False, props)


class Subscriber(Client):
    def __init__(self, driver, name, port, version, base):
        super().__init__(driver, name, port, version)
        self.base = base  # options that name client and session
        self.child = None

    def listen(self, options):
        """Starts mosquitto_sub and awaits its subscriptions. A driver that connects needs a filter."""
        self.child = subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", "-d", "-F", FORMAT, *self.base, *options],
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.ready, self.log = threading.Event(), []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.ready.wait(TIMEOUT) or not self.granted:
            self.kill()
            raise Refused("mosquitto_sub: " + " / ".join(self.log))
        return self

    def _read(self):
        for raw in self.child.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            if line.startswith("MSG\x01"):
                self.messages.put(message(line))
                continue
            self.log.append(line)
            if line.startswith("Subscribed"):
                self.granted = [int(g) for g in line.rsplit(":", 1)[1].split(",")]
                self.ready.set()
        self.ready.set()

    def publish(self, topic, payload=b"", qos=0, retain=False, alias=0, repeat=1, **props):
        argv = ["mosquitto_pub", "-p", self.port, "-V", VERSIONS[self.version], "-q", qos, "-t", topic]
        argv += ["-r"] if retain else []
        argv += ["-s"] if payload else ["-n"]
        argv += ["--repeat", repeat] if repeat > 1 else []
        argv += property_options("publish", props)
        argv += ["-D", "publish", "topic-alias", alias] if alias else []
        if repeat > 1 and payload:  # it does not repeat what comes from its standard input
            argv[argv.index("-s"):argv.index("-s") + 1] = ["-m", payload.decode()]
        run([str(a) for a in argv], payload)

    def unsubscribe(self, text):
        """Another process takes the session over, and gives it back."""
        options = self.child.args[self.child.args.index("-F") + 2:]
        at = options.index(text)
        rest = options[:at - 1] + options[at + 1:]
        rest += [] if "-t" in rest else ["-t", "nothing/here"]
        self.kill()
        run(["mosquitto_sub", *rest, "-U", text, "-E"])
        self.base, self.granted = [], []
        self.listen(rest)

    def disconnect(self):
        self.finish(signal.SIGTERM)

    def drop(self):
        self.finish(signal.SIGKILL)

    def kill(self):
        self.finish(signal.SIGKILL)

    def finish(self, number):
        if self.child:
            self.child.send_signal(signal.SIGCONT)
            self.child.send_signal(number)
            self.child.wait(TIMEOUT)
            self.reader.join(TIMEOUT)

    def freeze(self):
        """From now on it does not notice when it loses its connection, so it does not connect again."""
        self.child.send_signal(signal.SIGSTOP)


def run(argv, payload=b""):
    done = subprocess.run(argv, input=payload, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT)
    # mosquitto_pub 2.0 ends with 0 also if the broker refused the publication, but says so.
    if done.returncode or b"rror" in done.stdout or b"arning" in done.stdout:
        raise Refused(f"{argv}: {done.returncode} {done.stdout}")


class Commands:
    """The driver. A client without filters connects when it publishes, by a process of its own."""

    tells_session = False
    tells_down = False
    name = "mosquitto"

    def __init__(self):
        self.numbers, self.clients = itertools.count(1), []

    def connect(self, port, client_id, *filters, version=5, clean=True, expiry=0, will=None, alias_max=0, resume=False):
        base = ["-p", str(port), "-V", VERSIONS[version], "-i", client_id]
        base += [] if clean else ["-c"]
        base += ["-x", str(expiry)] if version == 5 and expiry else []
        if will:
            base += ["--will-topic", will["topic"], "--will-qos", str(will["qos"])]
            payload = base64.b64decode(will["payload"]).decode()
            base += ["--will-payload", payload] if payload else []
            base += ["--will-retain"] if will["retain"] else []
            if version == 5:
                base += property_options("will", will["props"])
                base += ["-D", "will", "will-delay-interval", str(will["delay"])] if will["delay"] else []
        client = Subscriber(self, f"{client_id}#{next(self.numbers)}", port, version, base)
        self.clients.append(client)
        options = ["-q", str(max([f.qos for f in filters], default=0))]
        for f in filters:
            options += ["-t", f.filter]
            options += ["-D", "subscribe", "subscription-identifier", str(f.id)] if f.id else []
            options += ["--retain-as-published"] if f.rap else []
            options += {0: [], 1: ["--retain-handling", "new"], 2: ["--retain-handling", "never"]}[f.rh]
        if not filters and (will or not clean):
            options += ["-t", "nothing/here"]
        if filters or will or not clean:
            client.listen(options)
        return client

    def stop(self):
        for client in self.clients:
            client.kill()
