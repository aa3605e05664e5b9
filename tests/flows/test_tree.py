"""The retained tree: what stands there, what is restated, what goes; and the datum of changes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
import pytest
from flows.measured_site import NOON, Hands, Site
from psycopg.types.json import Jsonb
from support.mosquitto import Mosquitto, needs_mosquitto
from support.mqtt import Broker, Clients, Inbox, client_of
from support.waiting import wait_for

from fpd.adapters.battery_keys import BatteryDevice
from fpd.adapters.device import Command, Profile, Release, Setpoint
from fpd.domain.control.ticks import Anchor, Week
from fpd.embedded.broker import EmbeddedBroker
from fpd.flows import announcing, publisher
from fpd.flows.control import Control
from fpd.flows.devices import Devices
from fpd.flows.tree import Tree, power_w
from fpd.store.control import EnvelopeRow
from fpd.store.db import Database

BATTERY = BatteryDevice(
    name="cellar/1",
    type="battery",
    base_url="http://battery.example",
    capacity_wh=10_000,
    max_charge_w=3000,
    max_discharge_w=3000,
)
METER = {"meter": {"nodeId": 7, "sourceId": "/meter", "property": "watts"}}
LIMITS = {"staticImportLimit": 5000, "staticExportLimit": 3000}


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


class World:
    """A site whose tree is looked at, and a broker's subscriber."""

    def __init__(self, db: Database, broker: Broker, **mqtt: Any) -> None:
        self.site = Site(db, Hands(), client_of(broker, mqtt.get("instance", "fpd")))
        self.site.configure(**mqtt)
        config = replace(self.site.context.config, devices=(BATTERY,))
        self.site.context = replace(self.site.context, config=config)
        self.broker = broker
        self.tree = Tree(self.site.context)
        no_devices = replace(self.site.context, config=replace(config, devices=()))
        self.control = Control(no_devices, Devices(no_devices))

    async def furnish(self) -> None:
        await self.site.add_peers()
        await self.site.add_group("one")
        await self.site.execute(
            "update capacity_group set control = %(control)s", control=Jsonb(LIMITS | METER)
        )
        await self.site.read("meter", {-1: 1200}, name="watts")

    async def connect(self, clients: Clients) -> None:
        clients.run(self.site.context.mqtt)
        await wait_for(lambda: self.site.context.mqtt.connected)

    async def look(self) -> None:
        """Decide what is in force, look at the tree and publish what is owed."""
        await self.control.step()
        self.tree._rest_until = 0.0
        await self.tree.step()
        await self.publish()

    async def publish(self) -> None:
        while await publisher.step(self.site.context):
            pass

    async def held(self, clients: Clients, filters: str = "fpd/#") -> dict[str, Any]:
        """Return what somebody who comes now is told, by topic without its beginning."""
        inbox = Inbox()
        watcher = await clients.connect(self.broker, "watcher", filters=[filters], inbox=inbox)
        await watcher.publish("fpd/end", b"0", qos=1, retain=False)
        if not filters.startswith("fpd"):
            await watcher.publish(filters.replace("#", "end"), b"0", qos=1, retain=False)
        await wait_for(lambda: any(topic.endswith("/end") for topic, _ in inbox.messages))
        await clients.end(watcher)
        return {
            topic.removeprefix("fpd/fpd/"): json.loads(payload)
            for topic, payload in inbox.messages
            if payload and not topic.endswith(("/end", "/status"))
        }


@pytest.fixture
async def world(db: Database, broker: EmbeddedBroker, clients: Clients) -> World:
    world = World(db, broker)
    await world.furnish()
    await world.connect(clients)
    return world


async def test_whoever_comes_is_told_how_everything_is(world: World, clients: Clients) -> None:
    await world.look()
    held = await world.held(clients)
    assert held.keys() == {"group/1", "peer/1", "peer/2"}
    assert held["group/1"] == {
        "id": 1,
        "userId": 1,
        "identifier": "one",
        "name": "My Group",
        "enabled": True,
        "importLimitW": 5000,
        "exportLimitW": 3000,
        "optimumW": None,
        "reason": "static",
        "since": "2026-03-10T12:00:00Z",
        "until": None,
        "powerW": 1200,
        "powerAt": "2026-03-10T11:59:59Z",
        "importHeadroomW": 3800,
        "exportHeadroomW": 4200,
    }
    assert held["peer/2"] == {
        "id": 2,
        "userId": 1,
        "role": "CapacityOptimizer",
        "name": "Opt",
        "enabled": True,
        "link": "online",
        "since": "2026-03-10T12:00:00Z",
        "trouble": None,
    }


async def test_an_old_measurement_gives_no_headroom(world: World, clients: Clients) -> None:
    world.site.clock.move(minutes=16)
    await world.look()
    group = (await world.held(clients))["group/1"]
    assert (group["powerW"], group["importHeadroomW"], group["importLimitW"]) == (None, None, 5000)


async def test_only_what_differs_is_published(world: World) -> None:
    await world.look()
    before = world.site.counted("fpd_mqtt_published")
    await world.look()
    assert world.site.counted("fpd_mqtt_published") == before
    await world.site.execute("update peer set link = 'offline' where id = 2")
    await world.look()
    assert world.site.counted("fpd_mqtt_published") == before + 1


async def test_after_a_restart_of_ours_only_what_differs_is_owed(world: World) -> None:
    await world.look()
    again = Tree(world.site.context)
    again._restated = (0, world.site.context.mqtt.connections)
    await world.site.execute("update peer set link = 'offline' where id = 2")
    await again.step()
    rows = await world.site.fetch("select topic, retain from publication")
    assert rows == [("fpd/fpd/peer/2", True)]


async def test_what_is_deleted_goes_from_the_broker(world: World, clients: Clients) -> None:
    await world.look()
    await world.site.execute("delete from capacity_group")
    await world.look()
    assert (await world.held(clients)).keys() == {"peer/1", "peer/2"}
    assert await world.site.fetch("select topic from retained order by 1") == [
        ("fpd/fpd/peer/1",),
        ("fpd/fpd/peer/2",),
    ]


async def test_while_the_broker_is_away_one_message_waits_for_each_topic(
    db: Database, broker: EmbeddedBroker
) -> None:
    world = World(db, broker)
    await world.furnish()
    for number in range(3):
        await world.site.read("meter", {-0.5 + number / 10: 1300 + number}, name="watts")
        await world.tree.step()
        world.tree._rest_until = 0.0
    rows = await world.site.fetch("select topic, payload from publication order by topic")
    assert [topic for topic, _ in rows] == [
        "fpd/fpd/group/1", "fpd/fpd/peer/1", "fpd/fpd/peer/2",
    ]  # fmt: skip
    assert json.loads(rows[0][1])["powerW"] == 1302


async def add_device(world: World, **columns: Any) -> None:
    columns = {
        "type": "battery",
        "health": "ok",
        "group_id": 1,
        "wanted": Jsonb({"kind": "setpoint", "power_w": 1500}),
        "reading": Jsonb({"output_w": 700.5, "soc": 55, "at": NOON, "dispatchable": True}),
        "reading_at": NOON,
        "due_at": NOON,
        "modified_at": NOON,
        **columns,
    }
    names = ", ".join(columns)
    values = ", ".join(f"%({name})s" for name in columns)
    await world.site.execute(
        f"insert into device_state (name, {names}) values ('cellar/1', {values})", **columns
    )


async def test_a_device_is_told_and_follows(world: World, clients: Clients) -> None:
    await world.site.execute(
        """
        insert into publish_settings (user_id, node_id, created_at, modified_at)
        values (1, 2, %(now)s, %(now)s)
        """
    )
    await add_device(world)
    await world.look()
    device = (await world.held(clients))["device/cellar%2F1"]
    assert (device["setpointW"], device["confirmedW"], device["outputW"]) == (1500, None, 700.5)
    inbox = Inbox()
    await clients.connect(world.broker, "listener", filters=["user/#"], inbox=inbox)
    world.site.clock.move(seconds=5)
    await world.site.execute("update device_state set confirmed = wanted, confirmed_at = %(now)s")
    await world.look()
    await wait_for(lambda: len(inbox.messages) == 1)
    ((topic, payload),) = inbox.messages
    assert topic == "user/1/node/2/datum/0/oscp/fp/Setpoint/1/2/one/cellar/1"
    assert json.loads(payload) == {
        "created": (int(NOON.timestamp()) + 5) * 1000,
        "nodeId": 2,
        "sourceId": "/oscp/fp/Setpoint/1/2/one/cellar/1",
        "wantedWatts": 1500,
        "confirmedWatts": 1500,
        "wanted": "1500 W",
        "confirmed": "1500 W",
        "followed": True,
        "health": "ok",
    }
    kept = await world.site.stored("oscp/fp/Setpoint/1/2/one/cellar/1", node_id=2)
    assert [(d.i.get("wantedWatts"), d.i.get("confirmedWatts")) for d in kept] == [
        (1500, None),
        (1500, 1500),
    ]


async def test_links_and_envelopes_are_datum_where_the_settings_say_so(world: World) -> None:
    site = world.site
    await world.look()
    await site.execute("update peer set link = 'offline', link_changed_at = %(now)s where id = 2")
    await world.tree.step()
    assert await site.fetch("select from stream where is_own") == []
    await site.execute(
        """
        insert into publish_settings (user_id, node_id, created_at, modified_at)
        values (1, 2, %(now)s, %(now)s)
        """
    )
    site.clock.move(seconds=1)
    await site.execute("update peer set link = 'broken', link_changed_at = %(now)s where id = 2")
    await site.execute(
        "update capacity_group set control = %(control)s",
        control=Jsonb(METER | {"staticImportLimit": 4000}),
    )
    await site.execute("update control_due set due_at = %(now)s")
    await world.control.step()
    world.tree._rest_until = 0.0
    await world.tree.step()
    ((link),) = await site.stored("oscp/co/Link/2/one", node_id=2)
    assert (link.at, dict(link.s)) == (NOON + timedelta(seconds=1), {"link": "broken"})
    ((limit),) = await site.stored("oscp/fp/Envelope/1/2/one", node_id=2)
    assert (dict(limit.i), dict(limit.s)) == ({"importLimit": 4000}, {"reason": "static"})
    async with site.db.transaction() as conn:
        row = EnvelopeRow(
            group_id=1, from_at=NOON, min_w=-100, max_w=None, optimum_w=7, reason="forecast",
            forecast_ids=(), phases=[{"phase": "ONE", "min_w": None, "max_w": 2300}],
        )  # fmt: skip
        await announcing.owe_envelopes(site.context, conn, [row], now=site.clock.at)
    first, _ = await site.stored("oscp/fp/Envelope/1/2/one", node_id=2)
    assert first.at == NOON
    assert dict(first.i) == {"exportLimit": 100, "optimum": 7, "importLimitOne": 2300}


def shown(config: dict[str, Any], document: dict[str, Any]) -> str:
    """Render a value as Home Assistant does."""
    template = jinja2.Environment(autoescape=False).from_string(config["value_template"])
    return template.render(value_json=document)


async def test_home_assistant_finds_its_entities(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    world = World(db, broker, home_assistant=True, home_assistant_prefix="ha")
    await world.furnish()
    await add_device(world)
    await world.connect(clients)
    await world.look()
    tree, configs = await world.held(clients), await world.held(clients, "ha/#")
    assert len(configs) == 1 + 7 + 5 + 2 * 2
    found = {}
    for config in configs.values():
        if "value_template" in config:
            document = tree[config["state_topic"].removeprefix("fpd/fpd/")]
            found[config["device"]["name"], config["name"]] = shown(config, document)
    assert found["My Group", "Import limit"] == "5000"
    assert found["My Group", "Optimum"] == "None"
    assert found["My Group", "Import headroom"] == "3800"
    assert found["cellar/1", "Setpoint"] == "1500"
    assert found["cellar/1", "State"] == "ok"
    assert found["cellar/1", "State of charge"] == "55.0"
    assert found["Opt", "Online"] == "ON"
    assert found["Opt", "Link"] == "online"
    await world.site.execute("delete from capacity_group")
    world.site.configure(home_assistant=False)
    await world.look()
    world.tree = Tree(world.site.context)  # as after a restart without home_assistant
    await world.look()
    assert await world.held(clients, "ha/#") == {}


async def entities(world: World, clients: Clients) -> dict[str, str]:
    """Return by the id of each entity where its state stands."""
    configs = (await world.held(clients, "ha/#")).values()
    return {config["unique_id"]: config["state_topic"].split("/")[1] for config in configs}


async def test_of_several_daemons_one_tells_home_assistant_and_another_takes_over(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    settings = {"home_assistant": True, "home_assistant_prefix": "ha"}
    one = World(db, broker, **settings)
    two = World(db, broker, instance="two", **settings)
    await one.furnish()
    for world in (one, two, one):
        await world.connect(clients)
        await world.look()
    first = await entities(one, clients)
    assert len(first) == 1 + 7 + 2 * 2
    assert set(first.values()) == {"fpd"}

    await clients.end(one.site.context.mqtt)
    two.site.clock.move(seconds=20)
    await two.look()
    assert await entities(two, clients) == dict.fromkeys(first, "two")
    one.site.clock.move(seconds=20)
    await one.connect(clients)
    await one.look()
    await one.site.execute("update capacity_group set name = 'Renamed'")
    for world in (one, two):
        world.site.clock.move(seconds=1)
        await world.look()
    assert await entities(two, clients) == dict.fromkeys(first, "two")
    configs = await two.held(clients, "ha/#")
    assert "Renamed" in {config["device"]["name"] for config in configs.values()}


async def test_who_cannot_be_heard_is_not_the_teller(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    settings = {"home_assistant": True, "home_assistant_prefix": "ha"}
    deaf = World(db, broker, **settings)
    await deaf.furnish()
    await deaf.tree.step()
    two = World(db, broker, instance="two", **settings)
    await two.connect(clients)
    await two.look()
    assert set((await entities(two, clients)).values()) == {"two"}


async def test_a_renamed_daemon_leaves_nothing_behind_and_keeps_its_entities(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    settings = {"home_assistant": True, "home_assistant_prefix": "ha"}
    old = World(db, broker, **settings)
    await old.furnish()
    await old.connect(clients)
    await old.look()
    before = await entities(old, clients)
    await clients.end(old.site.context.mqtt)

    new = World(db, broker, instance="new", **settings)
    await new.connect(clients)
    await new.look()
    assert {topic.split("/")[0] for topic in await new.held(clients)} > {"group", "fpd"}
    new.site.clock.move(seconds=31)
    await new.look()
    assert {topic.split("/")[1] for topic in await new.held(clients)} == {"new"}
    assert await entities(new, clients) == dict.fromkeys(before, "new")
    inbox = Inbox()
    await clients.connect(broker, "late", filters=["fpd/+/status"], inbox=inbox)
    await wait_for(lambda: ("fpd/new/status", b"online") in inbox.messages)
    assert "fpd/fpd/status" not in dict(inbox.messages)


async def test_what_was_left_before_anybody_noted_who_is_there_goes_after_a_day(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    world = World(db, broker)
    await world.connect(clients)
    left = "insert into retained values ('ancient', 'fpd/ancient/group/1', '{}')"
    await world.site.execute(left)
    for hours, count in ((0, 1), (23, 1), (2, 0)):
        world.site.clock.move(hours=hours)
        await world.look()
        found = await world.site.fetch("select from retained where instance = 'ancient'")
        assert len(found) == count


async def test_others_daemons_tree_stays_while_they_are_there(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    one, two = World(db, broker), World(db, broker, instance="two")
    await one.furnish()
    for world in (one, two):
        await world.connect(clients)
        await world.look()
    for _ in range(4):
        for world in (one, two):
            world.site.clock.move(seconds=20)
            await world.look()
    held = await one.held(clients)
    assert "group/1" in held
    assert "fpd/two/group/1" in held


async def test_a_home_assistant_that_starts_is_told_again(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    world = World(db, broker, home_assistant=True)
    await world.furnish()
    await world.connect(clients)
    await world.look()
    await world.look()
    inbox = Inbox()
    home = await clients.connect(
        broker, "home", filters=["homeassistant/sensor/#", "fpd/#"], inbox=inbox
    )
    await home.publish("homeassistant/status", b"offline", qos=1, retain=False)
    await home.publish("homeassistant/status", b"online", qos=1, retain=False)
    await wait_for(lambda: world.tree._births == 1)
    inbox.messages.clear()
    await world.tree.step()  # however soon after the last look
    await world.publish()
    await wait_for(lambda: len(inbox.messages) == 9 + 3)


@needs_mosquitto
async def test_a_broker_that_forgot_is_told_again(
    db: Database, tmp_path: Path, free_port: Callable[[], int], clients: Clients
) -> None:
    broker = Mosquitto(tmp_path, free_port())
    await broker.start()
    try:
        world = World(db, broker)
        await world.furnish()
        await world.connect(clients)
        await world.look()
        before = await world.held(clients)
        assert len(before) == 3
        await broker.kill()
        (tmp_path / "mosquitto.db").unlink(missing_ok=True)
        await wait_for(lambda: not world.site.context.mqtt.connected)
        await broker.start()
        await wait_for(lambda: world.site.context.mqtt.connected)
        assert await world.held(clients) == {}
        await world.look()
        assert await world.held(clients) == before
    finally:
        await clients.close()
        await broker.stop()


async def test_a_group_without_devices_has_its_forecasts_limits(
    world: World, clients: Clients
) -> None:
    body = {
        "group_id": "one",
        "type": "CONSUMPTION",
        "forecasted_blocks": [
            {
                "capacity": 3.5,
                "phase": "ALL",
                "unit": "KW",
                "start_time": NOON.isoformat(),
                "end_time": (NOON + timedelta(minutes=15)).isoformat(),
            }
        ],
    }
    await world.site.execute(
        """
        insert into forecast (group_id, peer_id, request_id, type, body, received_at, ends_at)
        values (1, 1, 'r', 'CONSUMPTION', %(body)s, %(now)s, %(now)s + interval '15 min')
        """,
        body=json.dumps(body).encode(),
    )
    world.site.clock.move(minutes=1)
    limits = []
    for minutes in (0, 13, 2):
        world.site.clock.move(minutes=minutes)
        await world.look()
        limits.append((await world.held(clients))["group/1"]["importLimitW"])
    assert limits == [3500, 3500, 5000]


@pytest.mark.parametrize(
    ("command", "anchor", "watts"),
    [
        (None, Anchor.MON, None),
        (Release(), Anchor.MON, None),
        (Setpoint(power_w=-5), Anchor.MON, -5),
        (Profile(points=((0, 500),)), Anchor.UNKNOWN, 500),
        (Profile(points=((144, 500), (145, 700))), Anchor.MON, 700),  # NOON is on a Tuesday
        (Profile(points=((143, 500), (144, 600), (145, 700))), Anchor.MON, 600),
        (Profile(points=((300, 500), (400, 700))), Anchor.MON, 700),
        (Profile(points=((0, 500), (300, 700))), Anchor.UNKNOWN, None),
    ],
)
def test_what_a_command_asks_for_now(
    command: Command | None, anchor: Anchor, watts: int | None
) -> None:
    at = NOON + timedelta(minutes=20 if watts == 700 else 1)
    assert power_w(command, Week(anchor), at) == watts
