# SPDX-License-Identifier: MIT
"""Sessions and subscriptions survive the end of the broker, violent or not, and what has ended stays ended."""

import sqlite3

import pytest
from durable import DAY, payloads, twice, wait_seconds

pytestmark = pytest.mark.memory


@twice
@pytest.mark.parametrize("level", [3, 4, 5])
def test_a_session_and_its_subscriptions_survive(durable, how, level):
    d = durable(how=how)
    a = d.wire("a", level)
    assert a.present == 0
    a.subscribe("x/+/y", "z/#", "gone/#", "plain")
    a.unsubscribe("gone/#")
    d.restart()
    a = d.wire("a", level)
    assert a.present == (level > 3)  # MQTT 3.1 has no such flag
    p = d.wire("p", clean=1)
    for topic in ("x/1/y", "z", "gone/1", "plain", "z/z/z"):
        p.publish(topic, topic)
    assert [a.take()["topic"] for _ in range(4)] == [b"x/1/y", b"z", b"plain", b"z/z/z"]
    a.nothing()


@twice
def test_who_never_subscribed_has_a_session_too(durable, how):
    d = durable(how=how)
    d.wire("a")
    d.wire("b", level=4)
    d.committed()
    d.restart()
    assert d.wire("a").present == 1
    assert d.wire("b", level=4).present == 1


@twice
def test_options_of_subscriptions_survive(durable, how):
    d = durable(how=how)
    a = d.wire("a")
    a.subscribe("own/#", nl=1, qos=1, identifier=7)
    a.subscribe("kept/#", rap=1, qos=2, identifier=268435455)
    a.subscribe("plain/#", qos=0)
    a.subscribe("both/#", qos=1, identifier=1)
    a.subscribe("both/+", qos=2, identifier=2)
    d.restart()
    a = d.wire("a")
    p = d.wire("p", clean=1)
    once_each = sends_for_each_filter(p)

    a.publish("own/1", "mine")
    p.publish("own/1", "yours", qos=2)
    assert a.take(payload="yours", qos=1)["properties"]["subscription-identifier"] == 7

    p.publish("kept/1", "1", qos=2, retain=1)
    assert a.take(payload="1", qos=2, retain=1)["properties"]["subscription-identifier"] == 268435455
    p.publish("kept/2", "2", qos=0)
    assert a.take(payload="2", qos=0, retain=0)["properties"]["subscription-identifier"] == 268435455

    p.publish("plain/1", "3", qos=2, retain=1)
    assert not a.take(payload="3", qos=0, retain=0)["props"]

    p.publish("both/1", "4", qos=2)
    got = a.take_all(2 if once_each else 1)
    assert sorted(v for m in got for n, v in m["props"] if n == "subscription-identifier") == [1, 2]
    assert max(m["qos"] for m in got) == 2
    a.nothing()


def sends_for_each_filter(wire):
    """Whether this broker sends a message once for each filter that matches; it may [MQTT-3.3.4-2]."""
    wire.subscribe("asked/#", qos=0)
    wire.subscribe("asked/+", qos=0)
    wire.publish("asked/1", qos=0)
    return len(wire.silent()) > 1


@twice
def test_the_last_options_of_a_subscription_count(durable, how):
    d = durable(how=how)
    a = d.wire("a")
    a.subscribe("t", qos=2, identifier=1, nl=1)
    a.subscribe("t", qos=1, identifier=2, rap=1)
    a.subscribe("u", qos=1, identifier=3)
    a.unsubscribe("u")
    a.subscribe("u", qos=2)
    d.restart()
    a = d.wire("a")
    p = d.wire("p", clean=1)
    p.publish("t", "1", qos=2, retain=1)
    assert a.take(payload="1", qos=1, retain=1)["props"] == [("subscription-identifier", 2)]
    a.publish("t", "mine", qos=0)
    a.take(payload="mine")
    p.publish("u", "2", qos=2)
    assert a.take(payload="2", qos=2)["props"] == []
    a.nothing()


@twice
def test_shared_subscriptions_survive(durable, how):
    d = durable(how=how)
    names = ["a", "b", "c"]
    for name in names:
        d.wire(name).subscribe("$share/group/t/#", "$share/other/t/#" if name == "c" else "only/c")
    gone = d.wire("gone").subscribe("$share/group/t/#")
    gone.unsubscribe("$share/group/t/#")
    d.restart()
    wires = {name: d.wire(name) for name in [*names, "gone"]}
    assert all(w.present for w in wires.values())
    p = d.wire("p", clean=1)
    for i in range(30):
        p.publish("t/1", b"%d" % i, qos=1)
    got = {name: payloads(d.drain(w)) for name, w in wires.items()}
    assert not got["gone"]
    assert sorted(sum(got.values(), [])) == sorted([b"%d" % i for i in range(30)] * 2)
    assert got["a"] and got["b"]
    assert len(got["c"]) >= 30


@twice
def test_an_unsubscribed_filter_stays_gone(durable, how):
    d = durable(how=how)
    a = d.wire("a")
    filters = [f"t/{i}" for i in range(100)]
    a.subscribe(*filters, qos=1)
    a.unsubscribe(*filters[::2])
    d.restart()
    p = d.wire("p", clean=1)
    p.publish_all((f"t/{i}", f"{i}", 1) for i in range(100))
    assert payloads(d.messages("a", 50)) == [b"%d" % i for i in range(1, 100, 2)]


@twice
def test_a_session_that_ends_with_its_connection_is_not_kept(durable, how):
    d = durable(how=how)
    d.wire("a", expiry=0).subscribe("#")
    d.wire("b", level=4, clean=1).subscribe("#")
    d.committed()
    d.restart()
    assert d.wire("a").present == 0
    assert d.wire("b", level=4).present == 0


@twice
def test_a_clean_start_ends_the_session_on_disk(durable, how):
    d = durable(how=how)
    a = d.wire("a").subscribe("t")
    b = d.wire("b", level=4).subscribe("t")
    c = d.wire("c").subscribe("t")
    for w in (a, b, c):
        w.drop()
    d.wire("p", clean=1).publish("t", "old", qos=2)
    d.restart()
    a = d.wire("a", clean=1)
    b = d.wire("b", level=4, clean=1)
    c = d.wire("c", clean=1).subscribe("u")  # a new one, which stays
    assert [w.present for w in (a, b, c)] == [0, 0, 0]
    d.committed()
    d.restart()
    a, b, c = d.wire("a"), d.wire("b", level=4), d.wire("c")
    assert [w.present for w in (a, b, c)] == [1, 0, 1]  # that of `a` has been made anew, too
    p = d.wire("p", clean=1)
    p.publish("t", "new", qos=2)
    p.publish("u", "for c", qos=2)
    c.take(payload="for c")
    for w in (a, b, c):
        w.nothing()


@twice
def test_a_disconnect_can_change_the_expiry(durable, how):
    d = durable(how=how)
    d.wire("ends").subscribe("t").leave(props=[("session-expiry-interval", 0)])
    d.wire("stays", expiry=1).subscribe("t").leave(props=[("session-expiry-interval", DAY)])
    d.committed()
    d.end()
    wait_seconds(1.5)
    d.start()
    assert d.wire("ends").present == 0
    assert d.wire("stays").present == 1


@twice
def test_expiry_counts_while_the_broker_is_away(durable, how):
    d = durable(how=how)
    d.wire("short", expiry=1).subscribe("t").drop()
    d.wire("connected", expiry=1).subscribe("t")  # until the end
    d.wire("long", expiry=DAY).subscribe("t").drop()
    d.wire("ever", expiry=0xFFFFFFFF).subscribe("t").drop()
    d.wire("old", level=4).subscribe("t").drop()
    d.committed()
    d.end()
    wait_seconds(2.5)
    d.start()
    assert [d.wire(name).present for name in ("short", "long", "ever")] == [0, 1, 1]
    assert d.wire("old", level=4).present == 1


@twice
def test_expiry_does_not_begin_anew_with_each_start(durable, how):
    d = durable(how=how)
    d.wire("watch").subscribe("will")
    # The will goes out when the session ends.
    will = {"topic": "will", "payload": "over", "qos": 1, "props": [("will-delay-interval", DAY)]}
    d.wire("short", expiry=3, will=will).drop()
    d.committed()
    for _ in range(50):
        d.restart()
        wait_seconds(0.05)
        if d.wire("watch").pick():
            break
    else:
        pytest.fail("the session is for ever")
    assert d.wire("short").present == 0


@twice
def test_the_longest_expiry_of_the_settings_holds_after_a_restart(durable, how):
    d = durable(how=how, persistent_client_expiration="1s")
    d.wire("a", level=4).subscribe("t").drop()
    d.committed()
    d.end()
    wait_seconds(2.5)
    d.start()
    assert d.wire("a", level=4).present == 0


@twice
def test_client_identifiers_of_any_kind(durable, how):
    d = durable(how=how)
    names = ["x" * 65535, "\u00e4\u00f6\u00fc \U0001f600", "a'b\"c;--", "a/b/#", " "]
    for i, name in enumerate(names):
        d.wire(name).subscribe(f"t/{i}").drop()
    d.restart()
    p = d.wire("p", clean=1)
    for i in range(len(names)):
        p.publish(f"t/{i}", f"{i}")
    for i, name in enumerate(names):
        assert payloads(d.messages(name, 1)) == [b"%d" % i]


@twice
@pytest.mark.parametrize("before, after", [(1, 3), (3, 2)])
def test_sessions_find_their_worker(durable, how, before, after, tmp_path):
    d = durable(how=how, workers=before)
    names = [f"c{i}" for i in range(20)]
    for name in names:
        d.wire(name).subscribe("t/#", f"own/{name}").drop()
    p = d.wire("p", clean=1)
    p.publish("t/1", "first", qos=2)
    p.publish("t/2", "kept", qos=1, retain=1)
    d.end()
    d.broker.config.write_text(d.broker.config.read_text().replace(f"workers = {before}", f"workers = {after}"))
    d.start()
    p = d.wire("p", clean=1)
    for name in names:
        p.publish(f"own/{name}", name)
    p.publish("t/3", "last", qos=2)
    for name in names:
        assert sorted(payloads(d.messages(name, 4))) == sorted([b"first", b"kept", name.encode(), b"last"])
        w = d.wire(f"new-{name}", clean=1).subscribe("t/2")
        w.take(payload="kept", retain=1)


@twice
def test_restarts_in_a_row(durable, how):
    d = durable(how=how)
    d.wire("a").subscribe("t")
    for i in range(8):
        d.restart()
        d.wire("p", clean=1).publish("t", b"%d" % i, qos=2)
    d.restart()
    assert payloads(d.messages("a", 8)) == [b"%d" % i for i in range(8)]
    d.restart()
    d.messages("a", 0)


def test_many_sessions(durable):
    """And many subscriptions; only some of them are asked."""
    d = durable()
    for i in range(1000):
        d.wire(f"c{i}").subscribe(*(f"t/{i}/{n}" for n in range(20))).leave()
    d.restart()
    p = d.wire("p", clean=1)
    for i in range(0, 1000, 100):
        p.publish(f"t/{i}/19", b"%d" % i)
        assert payloads(d.messages(f"c{i}", 1)) == [b"%d" % i]


def test_what_has_ended_leaves_nothing_on_disk(durable):
    def rows():
        with sqlite3.connect(f"file:{d.database}?mode=ro", uri=True) as db:
            names = [n for n, in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'") if n != "ledger"]
            return {n: db.execute(f"SELECT count(*) FROM {n}").fetchone()[0] for n in names}

    d = durable()
    d.committed()
    assert d.broker.stop() == 0
    before = rows()
    d.start()
    p = d.wire("p", will=("w", "will"))
    for i in range(20):
        d.wire(f"c{i}", will=("w", "will")).subscribe("t", "$share/g/s").drop()
    p.publish("r", "kept", retain=1)
    for qos in (1, 2):
        for n in range(50):
            p.publish("t", b"%d" % n, qos=qos)
            p.publish("s", b"%d" % n, qos=qos)
    p.publish("open", "received, never released", qos=2, wait=False)
    p.get("PUBREC")
    d.restart()
    d.wire("p", clean=1, expiry=0).leave()
    d.wire("c0").take_all(100 + 100 // 20)  # this one takes all, others end with all that waits
    for i in range(20):
        d.wire(f"c{i}", clean=1, expiry=0).leave()
    d.wire("p2", clean=1).publish("r", "", retain=1)
    d.wire("p2", clean=1, expiry=0).leave()
    d.committed()
    assert d.broker.stop() == 0
    assert rows() == before


def test_nothing_is_restored_with_durability_memory(durable):
    d = durable(how="ended", durability="commit")
    a = d.wire("a").subscribe("t")
    d.wire("p", clean=1).publish("t", "kept", qos=1, retain=1)
    d.end()
    config = d.broker.config.read_text()
    d.broker.config.write_text(config.replace('"commit"', '"memory"'))
    d.start()
    assert "durability" in d.said() and "memory" in d.said(), d.said()
    a = d.wire("a")
    assert a.present == 0
    a.subscribe("t")
    a.nothing()
    d.wire("p", clean=1).publish("t", "not kept", qos=1, retain=1)
    d.restart()
    assert d.wire("a").present == 0


def test_durability_without_a_store_is_memory(durable):
    d = durable(how="ended", store=False)
    assert "nothing is kept on disk" in d.said() and "store" in d.said(), d.said()
    d.wire("a").subscribe("t")
    d.wire("p", clean=1).publish("t", "not kept", qos=2, retain=1)
    d.restart()
    a = d.wire("a")
    assert a.present == 0
    a.subscribe("t")
    a.nothing()


def test_a_store_in_memory_is_no_store(durable):
    d = durable(how="ended", store=False, extra='store = { path = ":memory:"; };')
    assert "nothing is kept on disk" in d.said(), d.said()
    d.wire("a").subscribe("t")
    d.wire("p", clean=1).publish("t", "x", qos=2, retain=1)
    d.restart()
    assert d.wire("a").present == 0


def test_an_unknown_durability_is_an_error(durable, build, process):
    d = durable(start=False, durability="fsync")
    p = process([build / "tocsin", "check", "-c", d.broker.config])
    assert p.wait() != 0
    said = p.text()
    assert "durability" in said and "fsync" in said and "commit" in said and "memory" in said, said
    assert d.broker.config.name in said


def test_the_default_keeps_what_a_store_is_for(durable):
    d = durable(durability=None)
    d.wire("a").subscribe("t")
    d.restart()
    assert d.wire("a").present == 1
