"""What peers said, published: where the settings say, in order, and never lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import cbor2
import pytest
from flows.measured_site import NOON, Hands, Site
from structlog.testing import capture_logs
from support.mqtt import Clients, Inbox, client_at, client_of
from support.waiting import wait_for

from fpd.domain.forecast import Block, ForecastType
from fpd.domain.units import Phase, Unit
from fpd.embedded.broker import EmbeddedBroker
from fpd.errors import Unavailable
from fpd.flows import publisher, publishing
from fpd.store import publications
from fpd.store.db import Database


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


@pytest.fixture
async def inbox(broker: EmbeddedBroker, clients: Clients) -> Inbox:
    """What a subscriber to everything of all users sees."""
    inbox = Inbox()
    await clients.connect(broker, "subscriber", filters=["user/#"], inbox=inbox)
    return inbox


async def site_with(db: Database, broker: EmbeddedBroker, **settings: Any) -> Site:
    """Two groups of provider 1, the first with optimizer 2; the user's settings as given."""
    site = Site(db, Hands(), client_of(broker, "fpd"))
    await site.add_peers()
    await site.add_group("one")
    await site.add_group("two", optimizer=False)
    if settings:
        await say(site, None, **settings)
    return site


async def say(site: Site, group_id: int | None, **settings: Any) -> None:
    await site.execute(
        f"""
        insert into publish_settings (user_id, group_id, created_at, modified_at,
                                      {", ".join(settings)})
        values (1, %(group_id)s, %(now)s, %(now)s,
                {", ".join(f"%({name})s" for name in settings)})
        """,
        group_id=group_id,
        **settings,
    )


def block(start: int, capacity: str, phase: Phase = Phase.ALL, *, lasts: int = 15) -> Block:
    return Block(
        start_at=NOON + timedelta(minutes=start),
        end_at=NOON + timedelta(minutes=start + lasts),
        capacity=Decimal(capacity),
        unit=Unit.KW,
        phase=phase,
    )


async def owe_forecast(
    site: Site, *blocks: Block, peer_id: int = 1, request_id: str = "r-1"
) -> None:
    """Keep a forecast and owe its datum, as its receipt does."""
    kind = ForecastType.CONSUMPTION if peer_id == 1 else ForecastType.OPTIMUM
    body = {
        "group_id": "one",
        "type": kind,
        "forecasted_blocks": [
            {
                "capacity": float(one.capacity),
                "phase": one.phase,
                "unit": one.unit,
                "start_time": one.start_at.isoformat(),
                "end_time": one.end_at.isoformat(),
            }
            for one in blocks
        ],
    }
    async with site.db.transaction() as conn:
        cursor = await conn.execute(
            """
            insert into forecast (group_id, peer_id, request_id, type, body, received_at, ends_at)
            values (1, %s, %s, %s, %s, %s, %s) returning id
            """,
            (
                peer_id,
                request_id,
                kind,
                json.dumps(body).encode(),
                site.clock.at,
                max(one.end_at for one in blocks),
            ),
        )
        (id,) = await cursor.fetchone() or (0,)
        heard = publishing.ForecastHeard(
            peer_id=peer_id, group_id=1, type=kind, request_id=request_id, blocks=blocks, id=id
        )
        outlets = await publications.outlets(conn, peer_ids=[peer_id])
        await publishing.owe_forecasts(
            site.context, conn, [heard], outlets=outlets, now=site.clock.at
        )


async def owe_heartbeat(site: Site, *, peer_id: int = 1) -> None:
    async with site.db.transaction() as conn:
        await publishing.owe_heartbeat(
            site.context,
            conn,
            peer_id=peer_id,
            offline_mode_at=NOON + timedelta(minutes=3),
            now=site.clock.at,
        )


async def connected(site: Site, clients: Clients) -> None:
    clients.run(site.context.mqtt)
    await wait_for(lambda: site.context.mqtt.connected)


async def drain(site: Site) -> None:
    while await publisher.step(site.context):
        pass


async def test_without_settings_nothing_leaves(db: Database, broker: EmbeddedBroker) -> None:
    site = await site_with(db, broker)
    await owe_forecast(site, block(0, "5"))
    await owe_heartbeat(site)
    assert await site.fetch("select from publication") == []
    assert await site.fetch("select from datum") == []


async def test_a_forecast_is_published_and_kept(
    db: Database, broker: EmbeddedBroker, clients: Clients, inbox: Inbox
) -> None:
    site = await site_with(db, broker, node_id=2)
    await connected(site, clients)
    await owe_forecast(site, block(15, "11.5"), block(0, "9"))
    await drain(site)
    await wait_for(lambda: len(inbox.messages) == 2)
    source = "oscp/cp/UpdateGroupCapacityForecast/1/2/one/c"
    assert {topic for topic, _ in inbox.messages} == {f"user/1/node/2/datum/0/{source}"}
    assert [json.loads(payload) for payload in inbox.payloads] == [
        {
            "created": (int(NOON.timestamp()) + seconds) * 1000,
            "nodeId": 2,
            "sourceId": f"/{source}",
            "duration": 900,
            "amount": amount,
            "forecastIdentifier": "r-1",
            "unit": "kW",
        }
        for seconds, amount in ((0, 9), (900, 11.5))
    ]
    kept = await site.stored(source, node_id=2)
    assert [(d.at, d.i["amount"]) for d in kept] == [
        (NOON, 9),
        (NOON + timedelta(minutes=15), Decimal("11.5")),
    ]
    assert await site.fetch("select from publication") == []
    assert site.counted("fpd_mqtt_published") == 2


async def test_a_heartbeat_is_published_for_each_group(
    db: Database, broker: EmbeddedBroker, clients: Clients, inbox: Inbox
) -> None:
    site = await site_with(db, broker, node_id=2)
    await connected(site, clients)
    await owe_heartbeat(site, peer_id=1)
    await owe_heartbeat(site, peer_id=2)
    await drain(site)
    await wait_for(lambda: len(inbox.messages) == 3)
    prefix = "user/1/node/2/datum/0/oscp"
    assert sorted(topic for topic, _ in inbox.messages) == [
        f"{prefix}/co/Heartbeat/2/one",
        f"{prefix}/cp/Heartbeat/1/one",
        f"{prefix}/cp/Heartbeat/1/two",
    ]
    assert {json.loads(payload)["expires"] for payload in inbox.payloads} == {
        "2026-03-10 12:03:00Z"
    }


async def test_an_optimum_comes_from_the_optimizer(db: Database, broker: EmbeddedBroker) -> None:
    template = "{role}/{actionCode}/{src}/{dest}/{cgName}/{forecastType}/{none:x}"
    site = await site_with(db, broker, node_id=2, source_id_template=template)
    await owe_forecast(site, block(0, "5"), peer_id=2)
    rows = await site.fetch("select topic from publication")
    assert rows == [("user/1/node/2/datum/0/co/ugcf/2/1/My Group/o/x/o",)]


@pytest.mark.parametrize(("to_solar_in", "to_solar_flux"), [(True, False), (False, True)])
async def test_each_outlet_can_be_switched_off(
    db: Database, broker: EmbeddedBroker, to_solar_in: bool, to_solar_flux: bool
) -> None:
    site = await site_with(
        db,
        broker,
        node_id=2,
        publish_to_solar_in=to_solar_in,
        publish_to_solar_flux=to_solar_flux,
    )
    await owe_forecast(site, block(0, "5"))
    assert len(await site.fetch("select from datum")) == to_solar_in
    assert len(await site.fetch("select from publication")) == to_solar_flux


async def test_a_newer_forecast_replaces_the_datum_of_its_blocks(
    db: Database, broker: EmbeddedBroker
) -> None:
    site = await site_with(db, broker, node_id=2, source_id_template="f")
    await owe_forecast(site, block(0, "5"), block(15, "6"))
    await owe_forecast(site, block(15, "7"))
    assert [d.i["amount"] for d in await site.stored("f/c", node_id=2)] == [5, 7]


async def test_what_a_newer_forecast_leaves_without_meaning_is_withdrawn(
    db: Database, broker: EmbeddedBroker
) -> None:
    site = await site_with(db, broker, node_id=2, source_id_template="f")
    await owe_forecast(site, block(0, "1"), block(15, "2"), block(30, "3"), block(45, "4"))
    await owe_forecast(site, block(0, "5", lasts=30), request_id="r-2")
    await owe_forecast(site, block(0, "6", lasts=30), request_id="r-3")  # and only once
    rows = [json.loads(p) for (p,) in await site.fetch("select payload from publication")]
    said = [
        ((row["created"] // 1000 - int(NOON.timestamp())) // 60, row.get("amount")) for row in rows
    ]
    assert said == [(0, 1), (15, 2), (30, 3), (45, 4), (0, 5), (15, None), (0, 6)]
    assert rows[5] == {
        "created": (int(NOON.timestamp()) + 900) * 1000,
        "nodeId": 2,
        "sourceId": "f/c",
        "duration": 0,
        "forecastIdentifier": "r-2",
        "withdrawn": True,
    }
    kept = await site.stored("f/c", node_id=2)
    assert [datum.i.get("amount") for datum in kept] == [6, None, 3, 4]


async def test_a_forecast_for_one_phase_leaves_what_holds_for_others(
    db: Database, broker: EmbeddedBroker
) -> None:
    site = await site_with(db, broker, node_id=2, source_id_template="f")
    await owe_forecast(site, block(0, "9", lasts=60))
    await owe_forecast(site, block(0, "3", Phase.ONE), request_id="r-2")
    (kept,) = await site.stored("f/c", node_id=2)
    assert kept.i == {"duration": 3600, "amount": 9, "duration_a": 900, "amount_a": 3}
    assert kept.s == {
        "forecastIdentifier": "r-1", "unit": "kW", "forecastIdentifier_a": "r-2", "unit_a": "kW",
    }  # fmt: skip
    await owe_forecast(site, block(-15, "4", Phase.ONE, lasts=30), request_id="r-3")
    told = [json.loads(p) for (p,) in await site.fetch("select payload from publication")]
    assert told[-1] == told[0], "nothing is left there but the limit of all phases"
    assert [d.i for d in await site.stored("f/c", node_id=2)] == [
        {"duration": 1800, "amount_a": 4},
        {"duration": 3600, "amount": 9},
    ]


async def test_a_template_that_gives_no_id_keeps_no_message_back(
    db: Database, broker: EmbeddedBroker
) -> None:
    site = await site_with(db, broker, node_id=2, source_id_template="{none}")
    await say(site, 1, source_id_template="x" * 255)
    with capture_logs() as logs:
        await owe_forecast(site, block(0, "5"))
        await owe_heartbeat(site)
    assert [entry["event"] for entry in logs] == ["datum.unplaceable"] * 2
    assert await site.fetch("select topic from publication") == [
        ("user/1/node/2/datum/0/" + "x" * 255,)
    ]


async def test_cbor_when_configured(db: Database, broker: EmbeddedBroker) -> None:
    site = await site_with(db, broker, node_id=2)
    site.configure(encoding="cbor")
    await owe_forecast(site, block(0, "11.5"))
    ((payload,),) = await site.fetch("select payload from publication")
    assert cbor2.loads(payload)["amount"] == 11.5


async def test_while_the_broker_is_away_nothing_is_lost_and_order_is_kept(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    inbox = Inbox()
    site = await site_with(db, broker, node_id=2)
    assert not await publisher.step(site.context)  # nothing is owed: nothing to complain about
    for capacity in ("1", "2", "3"):
        await owe_forecast(site, block(0, capacity))
    with pytest.raises(Unavailable):
        await publisher.step(site.context)
    await connected(site, clients)
    await broker.stop()
    await wait_for(lambda: not site.context.mqtt.connected)
    await owe_forecast(site, block(0, "4"))
    with pytest.raises(Unavailable):
        await publisher.step(site.context)
    await broker.start()
    await clients.connect(broker, "subscriber", filters=["user/#"], inbox=inbox)
    await wait_for(lambda: site.context.mqtt.connected)
    await drain(site)
    await wait_for(lambda: len(inbox.messages) == 4)
    assert [json.loads(payload)["amount"] for payload in inbox.payloads] == [1, 2, 3, 4]


async def test_what_was_claimed_when_the_broker_went_is_given_back(
    db: Database, clients: Clients
) -> None:
    """A broker that dies of the first message."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00")
        await reader.readuntil(b"amount")
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        site = Site(db, Hands(), client_at(f"mqtt://127.0.0.1:{port_of(server)}"))
        await site.add_peers()
        await site.add_group()
        await say(site, None, node_id=2)
        await connected(site, clients)
        await owe_forecast(site, block(0, "1"), block(15, "2"))
        with pytest.raises(Unavailable):
            await publisher.step(site.context)
        assert len(await site.fetch("select from publication")) == 2
        await clients.close()


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port
