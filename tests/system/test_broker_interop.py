# SPDX-License-Identifier: MIT
"""The broker with clients that others wrote: each scenario with each make of client, on each version of MQTT.

The scenarios are written once, see interop/driver.py. They can also be run against Debian's mosquitto, which shows
that they ask for nothing odd; where that breaks the specification, they keep to the specification and say so.
"""

import itertools
import os
import pathlib

import pytest
from conftest import Broker, Mosquitto, Process, port_for_now, until
from interop import cli
from interop.driver import Driver, Filter, Refused, will

MAKES = ["mosquitto", "paho", "mqttjs", "libmosquitto"]
# TOCSIN_TEST_BROKERS=mosquitto runs all against Debian's, to see what is asked for.
BROKERS = os.environ.get("TOCSIN_TEST_BROKERS", "tocsin,tocsin-2-workers").split(",")
HERE = pathlib.Path(__file__).resolve().parent / "interop"
NEVER = 0xFFFFFFFF  # seconds: the session does not expire

# What mosquitto 2.0.11 does against the specification: test, versions, makes that notice, what it is.
MOSQUITTO_BREAKS = [
    ("while_its_client_is_away", [5], ["mosquitto", "libmosquitto"],
     "sends more to a resumed session than the client's Receive Maximum allows [MQTT-3.3.4-9]"),
    ("takes_the_session_over", [5], ["mqttjs", "libmosquitto"],
     "closes without a DISCONNECT that says Session taken over [MQTT-3.1.4-3]"),
]

every_make = pytest.mark.parametrize("make", MAKES)
every_version = pytest.mark.parametrize("version", [3, 4, 5])
two_versions = pytest.mark.parametrize("version", [4, 5])


@pytest.fixture(scope="module")
def drivers(build):
    """One process for each make of client, for all scenarios."""
    made = {
        "mosquitto": cli.Commands(),
        "paho": Driver("paho", ["/usr/bin/python3", HERE / "paho_client.py"]),
        "mqttjs": Driver("mqttjs", ["node", HERE / "mqttjs_client.js"]),
        "libmosquitto": Driver("libmosquitto", [build / "interop-client"]),
    }
    yield made
    for driver in made.values():
        driver.stop()


@pytest.fixture(scope="module", params=[
    pytest.param(name, marks=[pytest.mark.threads] if name == "tocsin-2-workers" else []) for name in BROKERS])
def target(request, build, tmp_path_factory):
    """A broker for all scenarios; they don't share topics or client ids."""
    folder, port = tmp_path_factory.mktemp("broker"), port_for_now()
    if request.param == "mosquitto":
        broker = Mosquitto(folder, port, [], True).start()
    else:
        workers = 2 if request.param == "tocsin-2-workers" else 1
        broker = Broker(Process, build / "tocsin", folder, port, {"workers": workers}, "").start()
    broker.make = request.param
    yield broker
    assert broker.process.stop() == 0, broker.process.text()


class Case:
    """A scenario's clients and topics. What it leaves behind is cleared away."""

    numbers = itertools.count(1)

    def __init__(self, driver, target, version):
        self.driver, self.target, self.version = driver, target, version
        self.name = f"case{next(self.numbers)}"
        self.made = []

    def topic(self, text):
        return f"{self.name}/{text}"

    def connect(self, who, *filters, **options):
        options.setdefault("version", self.version)
        filters = [Filter(**{**vars(f), "filter": self.filter(f.filter)}) for f in filters]
        client = self.driver.connect(self.target.port, f"{self.name}-{who}", *filters, **options)
        self.made.append(client)
        return client

    def filter(self, text):
        if text.startswith("$share/"):
            share, group, rest = text.split("/", 2)
            return f"{share}/{group}/{self.topic(rest)}"
        return self.topic(text)

    def kept(self, who, *filters, **options):
        """A client whose session stays when it leaves."""
        return self.connect(who, *filters, clean=False, expiry=NEVER, **options)

    def marked(self, client, by, topic, qos=1):
        """What comes to `client` before a message that `by` publishes to `topic` now."""
        by.publish(self.topic(topic), b"mark", qos=qos)
        got = []
        while (m := client.get()).payload != b"mark":
            got.append(m)
        return got

    def end(self):
        for client in self.made:
            try:
                client.drop()
            except (Refused, ValueError):
                pass


@pytest.fixture
def version():
    """The version of MQTT, where a scenario is for one only."""
    return 5


@pytest.fixture
def case(request, make, version, drivers, target):
    if target.make == "mosquitto":
        for test, versions, makes, what in MOSQUITTO_BREAKS:
            if test in request.node.name and version in versions and make in makes:
                request.node.add_marker(pytest.mark.xfail(reason=what, strict=True))
    made = Case(drivers[make], target, version)
    yield made
    made.end()


def texts(messages):
    return [m.payload.decode() for m in messages]


# ---- All versions -------------------------------------------------------------------------------


@every_make
@every_version
def test_messages_come_at_the_lower_qos_of_publication_and_subscription(case):
    subscribers = {qos: case.connect(f"s{qos}", Filter("t", qos)) for qos in (0, 1, 2)}
    publisher = case.connect("p")
    for qos, client in subscribers.items():
        assert client.granted == [qos]
    for qos in (0, 1, 2):
        publisher.publish(case.topic("t"), f"at {qos}".encode(), qos=qos)
        for asked, client in subscribers.items():
            m = client.get()
            assert (m.topic, m.payload.decode(), m.qos) == (case.topic("t"), f"at {qos}", min(qos, asked))
            assert not m.retain and not m.dup


@every_make
@two_versions
def test_wildcards_bring_what_they_match_and_nothing_else(case):
    one = case.connect("one", Filter("+/b", 1))
    all = case.connect("all", Filter("a/#", 1))
    both = case.connect("both", Filter("a/+/c", 1), Filter("+/b", 1))
    publisher = case.connect("p")
    for topic in ("a", "a/b", "a/b/c", "a/x/c", "x/b", "b", "x/y", "a/b/c/d"):
        publisher.publish(case.topic(topic), topic.encode(), qos=1)
    assert texts(case.marked(one, publisher, "mark/b")) == ["a/b", "x/b"]
    assert texts(case.marked(all, publisher, "a/mark")) == ["a", "a/b", "a/b/c", "a/x/c", "a/b/c/d"]
    assert texts(case.marked(both, publisher, "again/b")) == ["a/b", "a/b/c", "a/x/c", "x/b"]


@every_make
@every_version
def test_a_retained_message_comes_to_new_subscribers_until_it_is_cleared(case):
    publisher = case.connect("p")
    early = case.connect("early", Filter("r/#", 1))
    publisher.publish(case.topic("r/1"), b"old", qos=1, retain=True)
    publisher.publish(case.topic("r/1"), b"new", qos=1, retain=True)
    publisher.publish(case.topic("r/2"), b"other", qos=0, retain=True)
    assert [(m.payload, m.retain) for m in (early.get(), early.get(), early.get())] == [
        (b"old", False), (b"new", False), (b"other", False)]
    late = case.connect("late", Filter("r/#", 1))
    got = sorted(((late.get(), late.get())), key=lambda m: m.topic)
    assert [(m.payload, m.qos, m.retain) for m in got] == [(b"new", 1, True), (b"other", 0, True)]
    publisher.publish(case.topic("r/1"), b"", qos=1, retain=True)
    publisher.publish(case.topic("r/2"), b"", qos=1, retain=True)
    later = case.connect("later", Filter("r/#", 1))
    assert case.marked(later, publisher, "r/mark") == []


@every_make
@two_versions
def test_a_will_is_published_when_the_connection_is_lost_but_not_after_disconnect(case):
    watcher = case.connect("w", Filter("will/#", 1))
    options = {"qos": 1, "retain": True}
    leaves = case.connect("leaves", will=will(case.topic("will/a"), b"left", **options), clean=False, expiry=0)
    drops = case.connect("drops", will=will(case.topic("will/b"), b"lost", **options), clean=False, expiry=0)
    leaves.disconnect()
    drops.drop()
    if case.driver.name == "mosquitto" and case.version == 5:  # it asks for its will when it leaves: reason 4
        assert watcher.get().payload == b"left"
    m = watcher.get()
    assert (m.topic, m.payload, m.qos, m.retain) == (case.topic("will/b"), b"lost", 1, False)
    publisher = case.connect("p")
    assert case.marked(watcher, publisher, "will/mark") == []
    late = case.connect("late", Filter("will/b", 1))
    m = late.get()
    assert (m.payload, m.retain) == (b"lost", True)
    for topic in ("will/a", "will/b"):
        publisher.publish(case.topic(topic), b"", retain=True)


@every_make
@two_versions
def test_a_session_keeps_messages_while_its_client_is_away(case):
    publisher = case.connect("p")
    first = case.kept("s", Filter("q/1", 1), Filter("q/2", 2))
    first.disconnect()
    wanted = [f"{i}" for i in range(60)]
    for i in wanted:
        publisher.publish(case.topic(f"q/{1 + int(i) % 2}"), i.encode(), qos=2)
    again = case.kept("s")
    if case.driver.tells_session:
        assert not first.present and again.present
    got = [again.get() for _ in wanted]
    for qos in (1, 2):
        assert texts(m for m in got if m.topic == case.topic(f"q/{qos}")) == wanted[qos - 1::2]
    asked = {2} if case.driver.name == "mosquitto" else {1, 2}  # the command asks for the same with all filters
    assert {m.qos for m in got} == asked and not any(m.retain for m in got)
    again.disconnect()
    fresh = case.connect("s", Filter("mark", 1))
    publisher.publish(case.topic("q/1"), b"gone", qos=1)
    assert not fresh.present
    assert case.marked(fresh, publisher, "mark") == []


@every_make
@two_versions
def test_a_client_with_the_same_id_takes_the_session_over(case):
    publisher = case.connect("p")
    first = case.kept("s", Filter("t", 1))
    publisher.publish(case.topic("t"), b"one", qos=1)
    assert first.get().payload == b"one"
    if not case.driver.tells_down:
        first.freeze()
    second = case.kept("s")
    if case.driver.tells_down:
        told = case.version == 5 and case.driver.name != "paho"  # it reads no reason that has no properties after it
        assert first.down() == (142 if told else 0)
        assert second.present
    publisher.publish(case.topic("t"), b"two", qos=1)
    assert second.get().payload == b"two"
    assert case.marked(second, publisher, "t") == []
    assert first.messages.empty()


@every_make
@pytest.mark.parametrize("version, size", [(4, 1 << 20), (5, 1 << 20), (5, 10 << 20)], ids=["4-1MiB", "5-1MiB", "5-10MiB"])
def test_large_payloads_pass_unchanged(case, size):
    line = bytes(range(256)) + b"tocsin " + bytes(reversed(range(256)))
    payload = (line * (size // len(line) + 1))[:size]
    subscriber = case.connect("s", Filter("big", 2))
    publisher = case.connect("p")
    for qos in (0, 1, 2) if size < 10 << 20 else (1,):
        publisher.publish(case.topic("big"), payload, qos=qos)
        m = subscriber.get()
        assert m.qos == qos and m.payload == payload


@every_make
@two_versions
def test_nothing_comes_after_unsubscribe(case):
    publisher = case.connect("p")
    subscriber = case.kept("s", Filter("a", 1), Filter("b", 1))
    publisher.publish(case.topic("a"), b"before", qos=1)
    assert subscriber.get().payload == b"before"
    subscriber.unsubscribe(case.topic("a"))
    publisher.publish(case.topic("a"), b"after", qos=1)
    publisher.publish(case.topic("b"), b"still", qos=1)
    assert texts(case.marked(subscriber, publisher, "b")) == ["still"]


@pytest.mark.parametrize("make", MAKES[1:])
@two_versions
def test_many_messages_stay_in_order_at_each_qos(case):
    subscriber = case.connect("s", Filter("o/#", 2))
    publisher = case.connect("p")
    for qos in (0, 1, 2):
        for batch in range(25):  # of no more than brokers hold unacknowledged
            publisher.publish(case.topic(f"o/{qos}/{batch}"), b"x", qos=qos, repeat=20)
        for i in range(500):
            m = subscriber.get()
            assert (m.topic, m.qos) == (case.topic(f"o/{qos}/{i // 20}"), qos), f"message {i}"


@every_version
def test_every_make_hears_every_other(drivers, target, version):
    cases = {make: Case(driver, target, version) for make, driver in drivers.items()}
    common = Case(None, target, version).topic("hall")
    clients = {}
    for make, driver in drivers.items():
        for other in (3, 4, 5):
            clients[make, other] = driver.connect(target.port, f"{cases[make].name}-{other}", Filter(common, 1), version=other)
    for make, driver in drivers.items():
        publisher = driver.connect(target.port, f"{cases[make].name}-p", version=version)
        publisher.publish(common, make.encode(), qos=1)
        for key, client in clients.items():
            assert client.get().payload.decode() == make, key
        publisher.disconnect()
    for client in clients.values():
        client.disconnect()


# ---- 5.0 ----------------------------------------------------------------------------------------

PROPS = {
    "user": [("room", "attic"), ("room", "cellar"), ("unit", "C")],
    "content_type": "text/plain",
    "response_topic": "answers/here",
    "correlation": "c-17",
    "format": 1,
}


@every_make
def test_properties_of_a_publication_are_carried(case):
    new, old = case.connect("s", Filter("t", 1)), case.connect("o", Filter("t", 1), version=4)
    case.connect("p").publish(case.topic("t"), b"21", qos=1, **PROPS)
    assert new.get().props == PROPS
    m = old.get()
    assert (m.payload, m.props["user"]) == (b"21", [])


@every_make
def test_properties_of_a_will_are_carried(case):
    watcher = case.connect("w", Filter("will", 1))
    case.connect("x", will=will(case.topic("will"), b"lost", qos=1, **PROPS)).drop()
    m = watcher.get()
    assert (m.payload, m.props) == (b"lost", PROPS)


@every_make
def test_properties_of_a_retained_message_are_kept(case):
    publisher = case.connect("p")
    publisher.publish(case.topic("t"), b"21", qos=1, retain=True, **PROPS)
    assert case.connect("s", Filter("t", 1)).get().props == PROPS
    publisher.publish(case.topic("t"), b"", retain=True)


@every_make
def test_a_request_is_answered_where_it_asks(case):
    server = case.connect("server", Filter("ask", 1))
    client = case.connect("client", Filter("answer/7", 1))
    client.publish(case.topic("ask"), b"how warm?", qos=1, response_topic=case.topic("answer/7"), correlation="c7")
    asked = server.get()
    server.publish(asked.props["response_topic"], b"21", qos=1, correlation=asked.props["correlation"])
    m = client.get()
    assert (m.payload, m.props["correlation"]) == (b"21", "c7")


@every_make
def test_messages_expire_in_queues_and_where_they_are_retained(case):
    publisher = case.connect("p")
    case.kept("s", Filter("e/#", 1)).disconnect()
    publisher.publish(case.topic("e/1"), b"short", qos=1, expiry=1)
    publisher.publish(case.topic("e/2"), b"long", qos=1, expiry=1000)
    publisher.publish(case.topic("r"), b"short", qos=1, expiry=2, retain=True)
    publisher.publish(case.topic("s"), b"long", qos=1, expiry=1000, retain=True)

    def gone():
        late = case.connect("late", Filter("r", 1))
        left = case.marked(late, publisher, "r")
        late.disconnect()
        return not left

    # The one that is retained is younger and lives longer: when it is gone, so is the queued one.
    until(gone, "the end of the retained message")
    again = case.kept("s")
    m = again.get()
    assert m.payload == b"long" and 1 <= m.props["expiry"] <= 1000
    assert case.marked(again, publisher, "e/mark") == []
    m = case.connect("last", Filter("s", 1)).get()
    assert m.payload == b"long" and 1 <= m.props["expiry"] <= 1000
    publisher.publish(case.topic("s"), b"", retain=True)


@every_make
def test_subscription_identifiers_tell_what_matched(case):
    a = case.connect("a", Filter("i/+", 1, id=7))
    publisher = case.connect("p")
    publisher.publish(case.topic("i/1"), b"x", qos=1)
    assert a.get().props["ids"] == [7]
    # The command gives one identifier to all of its filters. Its library takes more than one in a message for an
    # error, although they are to be there [MQTT-3.3.4-4].
    if case.driver.name in ("mosquitto", "libmosquitto"):
        return
    b = case.connect("b", Filter("i/+", 1, id=8), Filter("i/#", 0, id=268435455), Filter("i/2", 1))
    publisher.publish(case.topic("i/1"), b"y", qos=1)
    seen = case.marked(b, publisher, "i/1")
    assert {m.payload for m in seen} == {b"y"} and sorted(sum((m.props["ids"] for m in seen), [])) == [8, 268435455]
    assert max(m.qos for m in seen) == 1


@every_make
def test_a_topic_alias_of_the_client_stands_for_its_topic(case):
    subscriber = case.connect("s", Filter("long/#", 1))
    publisher = case.connect("p")
    publisher.publish(case.topic("long/topic/name"), b"a", qos=1, alias=1, repeat=3)
    publisher.publish(case.topic("long/other"), b"b", qos=1, alias=1, repeat=2)
    got = [subscriber.get() for _ in range(5)]
    assert [m.topic for m in got] == [case.topic("long/topic/name")] * 3 + [case.topic("long/other")] * 2


@pytest.mark.parametrize("make", ["mqttjs"])
def test_topic_aliases_of_the_broker_are_understood(case):
    subscriber = case.connect("s", Filter("long/#", 1), alias_max=3)
    publisher = case.connect("p")
    wanted = [case.topic(f"long/{i % 7}") for i in range(70)]
    for topic in wanted:
        publisher.publish(topic, topic.encode(), qos=1)
    for topic in wanted:
        m = subscriber.get()
        assert (m.topic, m.payload.decode()) == (topic, topic)


@every_make
def test_members_of_a_shared_subscription_get_each_message_once_in_all(case):
    members = [case.connect(f"m{i}", Filter("$share/g/job/#", 1)) for i in range(3)]
    other = case.connect("other", Filter("$share/h/job/+", 1))
    alone = case.connect("alone", Filter("job/#", 1))
    publisher = case.connect("p")
    wanted = [f"{i}" for i in range(30)]
    for i in wanted:
        publisher.publish(case.topic(f"job/{i}"), i.encode(), qos=1)
    assert texts(other.get() for _ in wanted) == wanted
    assert texts(alone.get() for _ in wanted) == wanted
    until(lambda: sum(m.messages.qsize() for m in members) >= len(wanted), "all messages in the group")
    got = [texts(m.get() for _ in range(m.messages.qsize())) for m in members]
    assert sorted(sum(got, []), key=int) == wanted
    for part in got:
        assert part == sorted(part, key=int)
    for i in (1, 2):
        members[i].disconnect()
        case.connect(f"m{i}", Filter("elsewhere", 1))  # is answered when the session before has ended
    for i in wanted:
        publisher.publish(case.topic("job/last"), i.encode(), qos=1)
    assert texts(members[0].get() for _ in wanted) == wanted


@pytest.mark.parametrize("make", MAKES[1:])
def test_subscription_options_are_kept(case):
    own = case.connect("own", Filter("t", 1, no_local=True), Filter("mark", 1), Filter("kept", 1, rap=True))
    publisher = case.connect("p")
    own.publish(case.topic("t"), b"mine", qos=1)
    publisher.publish(case.topic("t"), b"others'", qos=1)
    publisher.publish(case.topic("kept"), b"as published", qos=1, retain=True)
    assert [(m.payload, m.retain) for m in case.marked(own, publisher, "mark")] == [
        (b"others'", False), (b"as published", True)]
    never = case.connect("never", Filter("kept", 1, rh=2))
    assert case.marked(never, publisher, "kept") == []
    first = case.kept("new", Filter("kept", 1, rh=1))
    assert first.get().payload == b"as published"
    first.disconnect()
    again = case.kept("new", Filter("kept", 1, rh=1))
    assert case.marked(again, publisher, "kept") == []
    publisher.publish(case.topic("kept"), b"", retain=True)


@every_make
def test_a_delayed_will_comes_when_its_time_is_over(case):
    watcher = case.connect("w", Filter("will/#", 1))
    soon = case.connect("soon", clean=False, expiry=NEVER, will=will(case.topic("will/1"), b"soon", qos=1, delay=1))
    case.connect("back", clean=False, expiry=NEVER, will=will(case.topic("will/2"), b"never", qos=1, delay=1)).drop()
    back = case.connect("back", clean=False, expiry=NEVER)
    soon.drop()
    assert watcher.get().payload == b"soon"
    assert case.marked(watcher, back, "will/mark") == []


@pytest.mark.parametrize("make", MAKES[1:])
def test_a_session_ends_with_its_connection_unless_it_is_to_stay(case):
    case.connect("s", Filter("t", 1), clean=False, expiry=0).disconnect()
    case.connect("p").publish(case.topic("t"), b"gone", qos=1)
    again = case.connect("s", clean=False, expiry=0)
    assert not again.present


@pytest.mark.parametrize("make", MAKES[1:])
def test_a_client_without_a_name_is_given_one(case):
    first = case.driver.connect(case.target.port, "", version=5)
    second = case.driver.connect(case.target.port, "", version=5)
    if case.driver.name != "libmosquitto":  # it does not tell properties of CONNACK that it knows itself
        assert first.assigned and second.assigned and first.assigned != second.assigned
    first.disconnect()
    second.disconnect()
