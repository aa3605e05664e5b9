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
from support.mosquitto import Mosquitto, needs_mosquitto
from support.mqtt import Clients, client_of
from support.waiting import wait_for

from fpd.config import Subscribe
from fpd.domain.datum import Datum, StreamKey
from fpd.embedded.broker import EmbeddedBroker
from fpd.flows import ingest
from fpd.mqtt.client import MqttClient
from fpd.store.db import Database

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


async def test_a_format_that_is_not_there_yet_is_told(db: Database, broker: EmbeddedBroker) -> None:
    site = Site(db, Hands(), client_of(broker, "fpd"))
    site.configure(subscribe=(Subscribe(topic="myems/point/+", format="myems"),))
    with capture_logs() as logs:
        async with taking_in(site):
            await wait_for(lambda: "ingest.format_unsupported" in str(logs))


async def test_a_flood_arrives_whole(site: Site, sender: MqttClient) -> None:
    count = 2000
    await asyncio.gather(
        *[
            publish(sender, f"node/7/datum/0/meter/{n % 5}", {"created": NOON_MS + n, "n": n})
            for n in range(count)
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
    await db.open()
    living = Site(db, Hands(), client_of(mosquitto, "fpd"))
    async with taking_in(living):
        assert [d.i["n"] for d in await stored(living, 50)] == list(range(50))
        await publish(sender, "node/7/datum/0/meter/1", {"created": NOON_MS + 50, "n": 50})
        await stored(living, 51)
        assert living.counted("fpd_datum_received", door="mqtt", outcome="kept") == 51
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
