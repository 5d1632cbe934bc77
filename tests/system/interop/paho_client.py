# SPDX-License-Identifier: MIT
"""Python's paho as a client that driver.py speaks with: requests and answers are lines of JSON.

One thread: paho's sockets and the standard input are awaited together, so that a request never waits for
another one's acknowledgement.
"""

import base64
import json
import os
import select
import sys

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PUBLISH_PROPERTIES = {
    "response_topic": "ResponseTopic",
    "content_type": "ContentType",
    "expiry": "MessageExpiryInterval",
    "format": "PayloadFormatIndicator",
    "user": "UserProperty",
}


def say(**line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def publish_properties(kind, values, **more):
    properties = Properties(kind)
    for name, value in values.items():
        if name == "correlation":
            properties.CorrelationData = value.encode()
        else:
            setattr(properties, PUBLISH_PROPERTIES[name],
                    [tuple(pair) for pair in value] if name == "user" else value)
    for name, value in more.items():
        if value:
            setattr(properties, name, value)
    return properties


def told_properties(properties):
    told = {name: getattr(properties, theirs) for name, theirs in PUBLISH_PROPERTIES.items()
            if hasattr(properties, theirs)}
    if hasattr(properties, "CorrelationData"):
        told["correlation"] = properties.CorrelationData.decode()
    if hasattr(properties, "SubscriptionIdentifier"):
        told["ids"] = properties.SubscriptionIdentifier
    return told


class Client:
    def __init__(self, request):
        self.name, self.v5 = request["client"], request["version"] == 5
        self.request, self.granted, self.over = request, [], False
        self.waiting, self.done = {}, set()  # message ids: by request, acknowledged
        options = {} if self.v5 else {"clean_session": request["clean"]}
        self.paho = paho.Client(request["id"], protocol=request["version"], **options)
        self.paho.on_connect, self.paho.on_message = self.connected, self.message
        self.paho.on_publish = self.paho.on_unsubscribe = self.acknowledged
        self.paho.on_subscribe, self.paho.on_disconnect = self.subscribed, self.disconnected
        self.paho.max_inflight_messages_set(1000)
        if will := request.get("will"):
            more = {}
            if self.v5:
                more["properties"] = publish_properties(PacketTypes.WILLMESSAGE, will["props"],
                                                        WillDelayInterval=will["delay"])
            self.paho.will_set(will["topic"], base64.b64decode(will["payload"]), will["qos"], will["retain"], **more)
        more = {}
        if self.v5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = request["expiry"]
            more = {"clean_start": request["clean"], "properties": properties}
        self.paho.connect("127.0.0.1", request["port"], keepalive=60, **more)

    def connected(self, client, context, flags, reason, properties=None):
        code = reason if isinstance(reason, int) else reason.value
        if code:
            self.over = True
            say(n=self.request["n"], error=f"CONNACK {code}", reason=code)
            return
        self.answer = {"n": self.request["n"], "present": bool(flags["session present"]),
                       "assigned": getattr(properties, "AssignedClientIdentifier", None)}
        if not self.request["filters"]:
            say(**self.answer, granted=[])
        for f in self.request["filters"]:
            if self.v5:
                properties = Properties(PacketTypes.SUBSCRIBE)
                if f.get("id"):
                    properties.SubscriptionIdentifier = f["id"]
                options = SubscribeOptions(f["qos"], f["no_local"], f["rap"], f["rh"])
                client.subscribe(f["filter"], options=options, properties=properties)
            else:
                client.subscribe(f["filter"], f["qos"])

    def subscribed(self, client, context, mid, granted, properties=None):
        self.granted += [g if isinstance(g, int) else g.value for g in granted]
        if len(self.granted) == len(self.request["filters"]):
            say(**self.answer, granted=self.granted)

    def acknowledged(self, client, context, mid, *rest):
        self.done.add(mid)
        self.settle()

    def settle(self):
        """Answers the requests of which everything is acknowledged; QoS 0 is so before publish() returns."""
        for n, mids in list(self.waiting.items()):
            if mids <= self.done:
                self.done -= mids
                del self.waiting[n]
                say(n=n)

    def message(self, client, context, message):
        say(event="message", client=self.name, topic=message.topic, qos=message.qos, retain=bool(message.retain),
            dup=bool(message.dup), payload=base64.b64encode(message.payload).decode(),
            props=told_properties(message.properties) if self.v5 else {})

    def disconnected(self, client, context, reason, properties=None):
        if not self.over:
            self.over = True
            say(event="down", client=self.name, reason=getattr(reason, "value", 0) if self.v5 else 0)

    def publish(self, r):
        payload, mids = base64.b64decode(r["payload"]), set()
        for i in range(r["repeat"]):
            more, topic = {}, r["topic"]
            if self.v5:
                more["properties"] = publish_properties(PacketTypes.PUBLISH, r["props"], TopicAlias=r["alias"])
                topic = "" if r["alias"] and i else topic
            mids.add(self.paho.publish(topic, payload, r["qos"], r["retain"], **more).mid)
        self.waiting[r["n"]] = mids
        self.settle()

    def unsubscribe(self, r):
        self.waiting[r["n"]] = {self.paho.unsubscribe(r["filter"])[1]}
        self.settle()

    def disconnect(self, r):
        self.over = True
        self.paho.disconnect()
        say(n=r["n"])

    def drop(self, r):
        self.over = True
        if self.paho.socket():
            self.paho.socket().close()
        say(n=r["n"])


def main():
    clients, pending = {}, b""
    while True:
        up = {c.paho.socket(): c for c in clients.values() if not c.over and c.paho.socket()}
        writers = [s for s, c in up.items() if c.paho.want_write()]
        readable, writable, _ = select.select([0, *up], writers, [], 1)
        for s in readable:
            if s != 0:
                up[s].paho.loop_read()
        for s in writable:
            if up[s].paho.socket() is s:
                up[s].paho.loop_write()
        for c in up.values():
            if not c.over:
                c.paho.loop_misc()
        if 0 in readable:
            part = os.read(0, 1 << 20)
            if not part:
                return
            *lines, pending = (pending + part).split(b"\n")
            for line in lines:
                r = json.loads(line)
                if r["verb"] == "connect":
                    clients[r["client"]] = Client(r)
                else:
                    getattr(clients[r["client"]], r["verb"])(r)


main()
