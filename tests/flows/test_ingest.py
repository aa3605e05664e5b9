"""Datum over MQTT into the database: all of them, once, whatever else comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import cbor2
import pytest
from flows.measured_site import NOON, Hands, Site, cancel
from structlog.testing import capture_logs
from support import flood
from support.mosquitto import Mosquitto, needs_mosquitto
from support.mqtt import Clients, client_of
from support.waiting import wait_for

from fpd.config import Subscribe
from fpd.domain.datum import Datum, StreamKey
from fpd.embedded.broker import EmbeddedBroker
from fpd.flows import ingest
from fpd.flows.judging import Batch, Rates, Refused
from fpd.mqtt.client import MqttClient
from fpd.store.db import Database
from fpd.store.refusals import MOST

UNBOUNDED = "max_inflight_messages 0\nmax_queued_messages 0"
NOON_MS = int(NOON.timestamp() * 1000)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database(database_url, clock=Hands())
    await db.open()
    yield db
    await db.close()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    await clients.close()


@contextlib.asynccontextmanager
async def taking_in(site: Site, *, most_waiting: int = 20_000) -> AsyncIterator[None]:
    """Run the intake and its client, as the daemon does."""
    client = site.context.mqtt
    intake = ingest.run(site.context, most_waiting=most_waiting)
    tasks = [asyncio.create_task(intake), asyncio.create_task(client.run())]
    await wait_for(lambda: client.connected)
    yield
    for task in tasks:
        await cancel(task)


@pytest.fixture
async def site(db: Database, broker: EmbeddedBroker) -> AsyncIterator[Site]:
    site = Site(db, Hands(), client_of(broker, "fpd"))
    async with taking_in(site):
        yield site


@pytest.fixture
async def sender(broker: EmbeddedBroker, clients: Clients) -> MqttClient:
    return await clients.connect(broker, "sender")


async def publish(sender: MqttClient, topic: str, document: Any) -> None:
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    await sender.publish(topic, payload, qos=1, retain=False)


async def stored(site: Site, count: int, source: str = "meter/1", **key: int) -> list[Datum]:
    async def are_there() -> list[Datum]:
        found = await site.stored(source, **key)
        return found if len(found) >= count else []

    return await wait_for(are_there, what=f"{count} datum of {source}")


async def test_a_reading_becomes_a_datum_of_user_1(site: Site, sender: MqttClient) -> None:
    await publish(
        sender,
        "node/7/datum/0/meter/1",
        {"created": NOON_MS, "nodeId": 9, "sourceId": "/x", "watts": 230.5, "mode": "auto"},
    )
    assert await stored(site, 1) == [
        Datum(
            stream=StreamKey(1, 7, "meter/1"),
            at=NOON,
            i={"watts": Decimal("230.5")},
            s={"mode": "auto"},
        )
    ]
    assert site.counted("fpd_datum_received", door="mqtt", outcome="kept") == 1


async def test_cbor_and_samples_are_understood_too(site: Site, sender: MqttClient) -> None:
    samples = {"i": {"watts": 1}, "a": {"wattHours": 2}, "s": {"on": True}, "t": ["x"]}
    document = {"created": NOON_MS, "sourceId": "meter/1", "samples": samples}
    await publish(sender, "node/7/datum/0//meter/1", cbor2.dumps(document))
    (datum,) = await stored(site, 1)
    assert (datum.i, datum.a, datum.s, datum.t) == (
        {"watts": 1},
        {"wattHours": 2},
        {"on": True},
        ("x",),
    )


LIST = [
    {"created": NOON_MS, "nodeId": 9, "sourceId": "/x", "watts": 1.5, "mode": "auto"},
    {"created": NOON_MS + 1, "samples": {"i": {"watts": 2}, "a": {"wattHours": 3}, "t": ["x"]}},
    {"created": NOON_MS + 2, "watts": [3]},
    5,
    {"created": NOON_MS + 365 * 86_400_000, "watts": 3},
    {"created": NOON_MS + 3, "watts": 4},
]


@pytest.mark.parametrize("write", [lambda d: b" \n" + json.dumps(d).encode(), cbor2.dumps])
async def test_a_bad_one_of_several_in_a_message_loses_none_of_the_others(
    site: Site, sender: MqttClient, write: Callable[[Any], bytes]
) -> None:
    await publish(sender, "node/7/datum/0/meter/1", write(LIST))
    found = await stored(site, 3)
    assert [(d.at - NOON, d.i, d.a, d.s, d.t) for d in found] == [
        (timedelta(0), {"watts": Decimal("1.5")}, {}, {"mode": "auto"}, ()),
        (timedelta(milliseconds=1), {"watts": 2}, {"wattHours": 3}, {}, ("x",)),
        (timedelta(milliseconds=3), {"watts": 4}, {}, {}, ()),
    ]
    ((source, outcome, count),) = await site.fetch(
        "select source, outcome, count from refused_datum"
    )
    assert (source, outcome, count) == ("node/7/datum/0/meter/1", "untimely", 3)
    assert site.counted("fpd_datum_received", door="mqtt", outcome="malformed") == 2
    assert site.counted("fpd_datum_received", door="mqtt", outcome="kept") == 3


async def test_datum_of_a_list_that_name_no_time_are_one_after_the_other(
    site: Site, sender: MqttClient
) -> None:
    await publish(sender, "node/7/datum/0/meter/1", [{"n": 0}, {"n": 1}, {"n": 2}])
    found = await stored(site, 3)
    microsecond = timedelta(microseconds=1)
    assert [(d.at - site.clock.at) / microsecond for d in found] == [0, 1, 2]


async def test_the_topic_of_solarin_has_its_streams_in_the_payload(
    site: Site, sender: MqttClient
) -> None:
    samples = {"i": {"watts": 5}, "a": {"wattHours": 6}}
    for source, write in (("/meter/1", lambda d: json.dumps(d).encode()), ("c", cbor2.dumps)):
        document = {"created": NOON_MS, "nodeId": 9, "sourceId": source, "samples": samples}
        await publish(sender, "node/7/datum", write(document))
    flat = [{"created": NOON_MS + n, "sourceId": f"many/{n}", "watts": n} for n in range(2)]
    nobody = [{"watts": 1}, {"sourceId": "a\u0000b", "watts": 1}, {"sourceId": 5, "watts": 1}]
    await publish(sender, "node/7/datum", [*flat, *nobody])
    await publish(sender, "node/7/datum", cbor2.dumps(nobody))
    await publish(sender, "node/0/datum", {"sourceId": "x", "watts": 1})
    await publish(sender, "node/7/datum", {"sourceId": "last", "watts": 1})
    await stored(site, 1, "last")
    for source in ("meter/1", "c"):
        (datum,) = await site.stored(source)
        assert (datum.at, datum.i, datum.a) == (NOON, {"watts": 5}, {"wattHours": 6})
    assert [(await site.stored(f"many/{n}"))[0].i["watts"] for n in range(2)] == [0, 1]
    assert site.counted("fpd_datum_received", door="mqtt", outcome="malformed") == 7


async def test_a_message_of_too_many_is_refused_as_one(site: Site, sender: MqttClient) -> None:
    for bad in (b"[" + b"1," * 2000 + b"1]", b"[{", b"[" * 500, cbor2.dumps([b"{}", "{}"])):
        await publish(sender, "node/7/datum/0/bad", bad)
    await publish(sender, "node/7/datum/0/empty", [])
    await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS, "watts": 5})
    await stored(site, 1)
    assert site.counted("fpd_datum_received", door="mqtt", outcome="malformed") == 5


async def test_without_a_time_it_is_the_time_of_receipt(site: Site, sender: MqttClient) -> None:
    await publish(sender, "node/7/datum/0/meter/1", {"watts": 5})
    (datum,) = await stored(site, 1)
    assert datum.at == site.clock.at


async def test_rubbish_is_counted_told_once_and_out_of_the_way(
    site: Site, sender: MqttClient
) -> None:
    year = int(timedelta(days=365).total_seconds() * 1000)
    with capture_logs() as logs:
        for n in range(3):
            await publish(sender, "node/7/datum/0/bad", b"\x00rubbish %d" % n)
            await publish(sender, "node/7/datum/0/huge", {"x": "x" * 70_000})
            await publish(sender, "node/7/datum/0/future", {"created": NOON_MS + year, "a": 1})
            await publish(sender, "node/7/datum/0/past", {"created": NOON_MS - 2 * year, "a": 1})
        await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS, "watts": 5})
        await stored(site, 1)
    counted = {
        outcome: site.counted("fpd_datum_received", door="mqtt", outcome=outcome)
        for outcome in ("malformed", "untimely", "kept")
    }
    assert counted == {"malformed": 6, "untimely": 6, "kept": 1}
    refused = [entry["source"] for entry in logs if entry["event"] == "datum.refused"]
    assert sorted(refused) == [f"node/7/datum/0/{n}" for n in ("bad", "future", "huge", "past")]


async def test_other_users_only_when_asked_for(
    db: Database, broker: EmbeddedBroker, sender: MqttClient
) -> None:
    site = Site(db, Hands(), client_of(broker, "fpd"))
    site.configure(
        subscribe=(
            Subscribe(topic="node/+/datum/0/#"),
            Subscribe(topic="user/+/node/+/datum/0/#"),
        )
    )
    await site.execute("insert into account values (42, %(now)s)")
    async with taking_in(site):
        with capture_logs() as logs:
            for user_id in (41, 41, 42):
                topic = f"user/{user_id}/node/7/datum/0/meter/1"
                await publish(sender, topic, {"created": NOON_MS, "watts": 5})
            await stored(site, 1, user_id=42)
        assert await site.stored("meter/1", user_id=41) == []
        assert site.counted("fpd_datum_received", door="mqtt", outcome="unknown_user") == 2
    assert [entry["source"] for entry in logs if entry["event"] == "datum.refused"] == ["user 41"]


async def test_a_foreign_user_is_not_let_in_by_the_default_filter(
    site: Site, sender: MqttClient
) -> None:
    await site.execute("insert into account values (42, %(now)s)")
    await publish(sender, "user/42/node/7/datum/0/meter/1", {"created": NOON_MS, "watts": 5})
    await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS, "watts": 5})
    await stored(site, 1)
    assert await site.stored("meter/1", user_id=42) == []


async def test_a_flood_arrives_whole(site: Site, sender: MqttClient) -> None:
    count = 2000
    for begun in range(0, count, 250):  # as much at once as the broker takes on any machine
        await asyncio.gather(
            *[
                publish(sender, f"node/7/datum/0/meter/{n % 5}", {"created": NOON_MS + n, "n": n})
                for n in range(begun, begun + 250)
            ]
        )
    for n in range(5):
        assert len(await stored(site, count // 5, f"meter/{n}")) == count // 5


async def test_datum_wait_for_the_database(
    database_url: str, broker: EmbeddedBroker, sender: MqttClient
) -> None:
    db = Database(database_url, clock=Hands())
    site = Site(db, Hands(), client_of(broker, "fpd"))
    with capture_logs() as logs:
        async with taking_in(site):
            await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS, "watts": 1})
            await wait_for(lambda: "ingest.waiting" in str(logs))
            await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS + 1, "watts": 2})
            await db.open()
            await stored(site, 2)
    ours = [entry["event"] for entry in logs if entry["event"].startswith("ingest.")]
    assert ours == ["ingest.waiting", "ingest.resumed"]
    await db.close()


async def test_readings_of_devices_use_the_same_door(db: Database) -> None:
    site = Site(db, Hands())
    fine = Datum(stream=StreamKey(1, 7, "battery/1"), at=NOON, i={"soc": Decimal(55)})
    others = [Datum(stream=fine.stream, at=NOON + timedelta(seconds=n)) for n in range(1, 4)]
    bad = Datum(stream=fine.stream, at=NOON + timedelta(seconds=9), s={"text": "a\x00b"})
    with capture_logs() as logs:
        await ingest.store(site.context, [fine, *others, bad])
    assert await site.stored("battery/1") == [fine, *others]
    assert [entry["event"] for entry in logs] == ["datum.unstorable"]
    assert site.counted("fpd_datum_received", door="device", outcome="kept") == 4


async def test_this_month_and_the_next_have_partitions(db: Database) -> None:
    for day, months in ((31, ["2026_01", "2026_02"]), (1, ["2026_02"])):
        site = Site(db, Hands(NOON.replace(month=1, day=day)))
        at = site.clock.at
        await ingest.store(site.context, [Datum(stream=StreamKey(1, 7, "x"), at=at)])
        for month in months:
            assert await site.fetch(f"select to_regclass('datum_{month}')") != [(None,)]


@pytest.fixture
async def mosquitto(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Mosquitto]:
    broker = Mosquitto(tmp_path, free_port())
    await broker.start()
    yield broker
    await broker.stop()


@needs_mosquitto
async def test_killed_between_receipt_and_commit_nothing_is_lost_or_doubled(
    database_url: str, mosquitto: Mosquitto, clients: Clients
) -> None:
    """The database is away, so nothing is acknowledged; then the process dies."""
    sender = await clients.connect(mosquitto, "sender")
    db = Database(database_url, clock=Hands())
    dying = Site(db, Hands(), client_of(mosquitto, "fpd"))
    async with taking_in(dying):
        for n in range(50):
            await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS + n, "n": n})
        several = [{"created": NOON_MS + n, "n": n} for n in range(50, 60)]
        await publish(sender, "node/7/datum/0/meter/1", several)
    await db.open()
    living = Site(db, Hands(), client_of(mosquitto, "fpd"))
    async with taking_in(living):
        assert [d.i["n"] for d in await stored(living, 60)] == list(range(60))
        await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS + 60, "n": 60})
        await stored(living, 61)
        assert living.counted("fpd_datum_received", door="mqtt", outcome="kept") == 61
    await db.close()


@needs_mosquitto
async def test_what_overflowed_is_fetched_again(
    database_url: str, mosquitto: Mosquitto, clients: Clients
) -> None:
    sender = await clients.connect(mosquitto, "sender")
    db = Database(database_url, clock=Hands())
    site = Site(db, Hands(), client_of(mosquitto, "fpd"))
    with capture_logs() as logs:
        async with taking_in(site, most_waiting=5):
            for n in range(15):
                await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS + n, "n": n})
            await wait_for(lambda: "ingest.overflowed" in str(logs))
            await db.open()
            assert [d.i["n"] for d in await stored(site, 15)] == list(range(15))
    await db.close()


async def test_one_example_of_each_source_is_kept(site: Site, sender: MqttClient) -> None:
    for n in range(3):
        await publish(sender, "node/7/datum/0/bad", b'{"watts": "\\ud800", "n": %d' % n)
        await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS + n, "watts": 5})
    await publish(sender, "node/x/datum/0/odd", b"\x00" * 1000)
    await stored(site, 3)

    async def examples() -> list[Any]:
        found = await site.fetch(
            "select source, user_id, outcome, count, head, size from refused_datum order by 1"
        )
        return found if sum(row[3] for row in found) == 4 else []

    bad, odd = await wait_for(examples)
    assert bad[:4] == ("node/7/datum/0/bad", 1, "malformed", 3)
    assert bytes(bad[4]) == b'{"watts": "\\ud800", "n": 2'
    assert odd[:4] == ("node/x/datum/0/odd", None, "malformed", 1)
    assert (len(odd[4]), odd[5]) == (256, 1000)


async def test_examples_are_bounded(db: Database) -> None:
    site = Site(db, Hands())
    batch = Batch("http")
    for n in range(MOST + 5):
        at = NOON + timedelta(seconds=n)
        why = Refused("malformed", "no\0 such")
        batch.refuse(why, source=f"s\x00{n}", user_id=1, payload=b"\xff\x00", at=at)
    await ingest.commit(site.context, batch)
    late = Batch("http")
    late.refuse(Refused("malformed", "x"), source="last", user_id=1, payload=b"", at=at)
    await ingest.commit(site.context, late)
    assert await site.fetch("select count(*) from refused_datum") == [(MOST,)]
    assert await site.fetch("select count(*) from refused_datum where source = 'last'") == [(1,)]
    assert site.counted("fpd_datum_received", door="http", outcome="malformed") == MOST + 6


async def test_a_stream_that_brings_too_much_blocks_nobody(
    db: Database, broker: EmbeddedBroker, sender: MqttClient
) -> None:
    site = Site(db, Hands(), client_of(broker, "fpd"))
    site.measure(stream_rate_s=0.01, stream_burst=10)
    async with taking_in(site):
        for n in range(15):
            await publish(sender, "node/7/datum/0/flood", {"created": NOON_MS + n, "n": n})
        await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS, "watts": 5})
        await stored(site, 1)
        assert [d.i["n"] for d in await site.stored("flood")] == list(range(10))
    assert site.counted("fpd_datum_received", door="mqtt", outcome="too_many") == 5


def test_a_bucket_fills_again() -> None:
    now = 0.0
    rates = Rates(rate_s=2, burst=3, steady=lambda: now)
    meter = StreamKey(1, 7, "meter/1")
    assert [rates.exceeds(meter) for _ in range(4)] == [False, False, False, True]
    now = 1.0
    assert [rates.exceeds(meter) for _ in range(3)] == [False, False, True]


@needs_mosquitto
async def test_two_daemons_share_a_subscription(
    db: Database, mosquitto: Mosquitto, clients: Clients
) -> None:
    sites = [Site(db, Hands(), client_of(mosquitto, name)) for name in ("one", "two")]
    for site in sites:
        site.configure(subscribe=(Subscribe(topic="$share/fpd/node/+/datum/0/#"),))
    async with taking_in(sites[0]), taking_in(sites[1]):
        sender = await clients.connect(mosquitto, "sender")
        for n in range(40):
            await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS + n, "n": n})
        assert [d.i["n"] for d in await stored(sites[0], 40)] == list(range(40))
        counts = [site.counted("fpd_datum_received", door="mqtt", outcome="kept") for site in sites]
    assert sum(counts) == 40
    assert min(counts) > 0


@needs_mosquitto
async def test_much_is_read_no_faster_than_it_is_kept(
    database_url: str, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """A broker that sends all it has at once: nothing is let go, nothing comes twice."""
    db = Database(database_url, clock=Hands())
    await db.open()
    broker = Mosquitto(tmp_path, free_port(), lines=UNBOUNDED)
    await broker.start()
    async with taking_in(Site(db, Hands(), client_of(broker, "fpd"))):
        pass  # from now on the broker keeps what comes
    site = Site(db, Hands(), client_of(broker, "fpd"))
    count = 3000
    messages = [
        ("node/7/datum/0/meter/1", b'{"created":%d,"n":%d,"x":"%s"}' % (NOON_MS + n, n, b"x" * 900))
        for n in range(count)
    ]
    await flood.publish(broker.port, messages)
    async with taking_in(site, most_waiting=400):
        await stored(site, count)
    assert site.counted("fpd_datum_received", door="mqtt", outcome="postponed") == 0
    assert site.counted("fpd_datum_received", door="mqtt", outcome="kept") == count
    await broker.stop()
    await db.close()
