"""A measurement period ends: what both audiences are told, and what happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from flows.measured_site import NOON, Hands, Site
from psycopg.types.json import Json

from fpd.flows import measurements
from fpd.store import measurements as due_store
from fpd.store.db import Database

POWER = {"propertyNames": ["watts"], "unit": "W", "statisticType": "Average"}
ENERGY = {
    "propertyNames": ["wattHours"],
    "unit": "Wh",
    "statisticType": "Difference",
    "type": "Total",
    "direction": "Import",
}


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    """Everything is online from noon on; the group is measured each minute."""
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    site = Site(db, clock)
    await site.add_peers()
    await site.add_group()
    yield site
    await db.close()


async def settle(site: Site, **by: float) -> None:
    """Let time pass, then run passes until there is nothing more to do."""
    site.clock.move(**by)
    while await measurements.step(site.context):
        pass


async def schedule(site: Site) -> list[Any]:
    return await site.fetch("select audience, start_at, period_s from measurement_due order by 1")


def iso(seconds: float) -> str:
    at = NOON + timedelta(seconds=seconds)
    return at.isoformat().replace("+00:00", "Z")


def entry(value: float, **changes: Any) -> dict[str, Any]:
    """An energy measurement of the first minute."""
    return {
        "value": value,
        "phase": "ALL",
        "unit": "WH",
        "direction": "IMPORT",
        "measure_time": iso(60),
        "energy_type": "TOTAL",
        "initial_measure_time": iso(0),
    } | changes


async def entries(site: Site) -> list[Any]:
    """The measurements of every message owed, in order."""
    return [body["measurements"] for _, _, body in await site.owed()]


async def test_one_period_for_both_audiences(site: Site) -> None:
    await site.add_asset("cp-1", instantaneous=POWER, energy=ENERGY)
    await site.add_asset(
        "co-1", audience="CapacityOptimizer", instantaneous=POWER, energy=ENERGY, phase="A"
    )
    await site.read("load/1", {-5: 200, 30: 100, 61: 900}, name="watts")
    await site.read("load/1", {-10: 1000, 20: 1009, 50: 1021, 80: 1051}, name="wattHours", kind="a")
    await settle(site, seconds=61)
    assert await site.owed() == []  # readings may still be on their way
    await settle(site, seconds=1)
    provider, optimizer = sorted(await site.owed())[::-1]
    # 1003 at the start and 1031 at the end, by interpolation
    assert provider == (
        "CapacityProvider",
        "update_group_measurements",
        {"group_id": "my-group", "measurements": [entry(28)]},
    )
    assert optimizer == (
        "CapacityOptimizer",
        "update_asset_measurements",
        {
            "group_id": "my-group",
            "measurements": [
                {
                    "asset_id": "co-1",
                    "asset_category": "CHARGING",
                    "energy_measurement": entry(28, phase="ONE"),
                    "instantaneous_measurement": {
                        "value": 150,
                        "phase": "ONE",
                        "unit": "W",
                        "measure_time": iso(60),
                    },
                }
            ],
        },
    )
    assert site.rung > 0


async def test_flat_numbers_serve_as_registers_too(site: Site) -> None:
    await site.add_asset("cp-1", energy=ENERGY)
    await site.read("load/1", {0: 1000, 60: 1012.5}, name="wattHours")
    await settle(site, seconds=62)
    assert await entries(site) == [[entry(12.5)]]


async def test_periods_follow_each_other_and_each_is_reported_once(site: Site) -> None:
    await site.add_asset("cp-1", energy=ENERGY)
    await site.read("load/1", {s: s for s in range(0, 301, 20)}, name="wattHours", kind="a")
    for second in (62, 121, 122, 122, 250):
        await settle(site, seconds=second - (site.clock.at - NOON).total_seconds())
    told = [
        (e["initial_measure_time"], e["measure_time"], e["value"]) for (e,) in await entries(site)
    ]
    assert told == [(iso(60 * n), iso(60 * n + 60), 60) for n in range(4)]


async def test_assets_of_a_group_are_summed_by_phase_direction_and_type(site: Site) -> None:
    kwh = ENERGY | {"unit": "kWh", "multiplier": Decimal("0.001")}
    await site.add_asset("one", source="load/1", energy=ENERGY)
    await site.add_asset("two", source="/load/2", energy=kwh)
    await site.add_asset("export", source="load/2", energy=ENERGY | {"direction": "Export"})
    await site.add_asset("silent", source="load/3", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 100}, name="wattHours", kind="a")
    await site.read("load/2", {0: 0, 60: 5}, name="wattHours", kind="a")
    await settle(site, seconds=62)
    ((imported, exported),) = await entries(site)
    assert imported == entry(105)
    assert exported == entry(5, direction="EXPORT")


async def test_entries_per_asset_for_a_provider_that_wants_them(site: Site) -> None:
    await set_peer(site, 1, service_props={"group-measurement-entries": "per-asset"})
    await site.add_asset("one", energy=ENERGY)
    await site.add_asset("two", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 100}, name="wattHours", kind="a")
    await settle(site, seconds=62)
    assert await entries(site) == [[entry(100), entry(100)]]


async def set_peer(site: Site, peer_id: int, **columns: Any) -> None:
    for name, value in columns.items():
        value = Json(value) if name == "service_props" else value
        await site.execute(
            f"update peer set {name} = %(value)s where id = %(id)s", value=value, id=peer_id
        )


@pytest.mark.parametrize(
    ("switch", "expected"),
    [
        (None, {"CapacityProvider": "group", "CapacityOptimizer": "asset"}),
        (True, {"CapacityProvider": "asset", "CapacityOptimizer": "asset"}),
        ("false", {"CapacityProvider": "group", "CapacityOptimizer": "group"}),
        (0, {"CapacityProvider": "group", "CapacityOptimizer": "group"}),
    ],
)
async def test_who_gets_groups_and_who_gets_assets(
    site: Site, switch: object, expected: dict[str, str]
) -> None:
    for peer_id, audience in ((1, "CapacityProvider"), (2, "CapacityOptimizer")):
        if switch is not None:
            await set_peer(site, peer_id, service_props={"group-asset-measurement": switch})
        await site.add_asset(audience, audience=audience, energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 100}, name="wattHours", kind="a")
    await settle(site, seconds=62)
    told = {role: operation for role, operation, _ in await site.owed()}
    assert told == {role: f"update_{what}_measurements" for role, what in expected.items()}


@pytest.mark.parametrize(
    ("configuration", "props", "continuous"),
    [
        (["CONTINUOUS"], {}, True),
        (["INTERMITTENT"], {}, False),
        (["CONTINUOUS", "INTERMITTENT"], {}, False),
        ([], {}, False),
        (None, {}, False),
        (None, {"measurement-style": "continuous"}, True),
        (["CONTINUOUS"], {"measurement-style": "intermittent"}, False),
        (["CONTINUOUS"], {"measurement-style": "auto"}, True),
    ],
)
async def test_the_peer_chooses_the_style_of_energies(
    site: Site, configuration: list[str] | None, props: dict[str, str], continuous: bool
) -> None:
    await set_peer(site, 1, measurement_configuration=configuration, service_props=props)
    await site.add_asset("one", energy=ENERGY)
    await site.read("load/1", {0: 1000, 60: 1100}, name="wattHours", kind="a")
    await settle(site, seconds=62)
    expected = entry(1100 if continuous else 100)
    if continuous:
        del expected["initial_measure_time"]
    assert await entries(site) == [[expected]]


async def test_a_continuous_register_never_falls(site: Site) -> None:
    """A reset in the second minute, and an asset that is silent in the third."""
    await set_peer(site, 1, measurement_configuration=["CONTINUOUS"])
    await site.add_asset("one", source="load/1", energy=ENERGY)
    await site.add_asset("two", source="load/2", energy=ENERGY)
    await site.read("load/1", {0: 1000, 60: 1010, 90: 3, 120: 4, 180: 6}, name="wattHours")
    await site.read("load/2", {0: 500, 60: 501, 119: 502}, name="wattHours")
    for _ in range(3):
        await settle(site, seconds=67)
    assert [e["value"] for (e,) in await entries(site)] == [1511, 1513, 1515]


async def test_a_gap_is_no_zero(site: Site) -> None:
    await site.add_asset("cp", instantaneous=POWER, energy=ENERGY)
    await site.add_asset("co", audience="CapacityOptimizer", instantaneous=POWER, energy=ENERGY)
    await site.read("load/1", {-1: 5}, name="watts")
    await settle(site, seconds=62)
    assert await site.owed() == []
    assert await site.events() == ["measurement.missed"] * 2
    for audience in ("CapacityProvider", "CapacityOptimizer"):
        counted = site.counted("fpd_measurement_periods", audience=audience, outcome="missed")
        assert counted == 1
    await site.read("load/1", {90: 7}, name="watts")
    await settle(site, seconds=60)
    ((_, operation, body),) = await site.owed()
    assert operation == "update_asset_measurements"
    assert "energy_measurement" not in body["measurements"][0]


async def test_a_group_with_nothing_for_a_provider_to_know_is_no_gap(site: Site) -> None:
    """A provider is told energies only."""
    await site.add_asset("cp", instantaneous=POWER)
    await settle(site, seconds=62)
    assert await site.owed() == [] and await site.events() == []


async def test_a_reading_after_the_end_is_waited_for_but_not_long(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 50: 50}, name="wattHours")
    await settle(site, seconds=62)
    assert await site.owed() == []
    await site.read("load/1", {70: 70}, name="wattHours")
    await settle(site, seconds=2)
    assert await entries(site) == [[entry(60)]]
    await settle(site, seconds=58 + 4)
    assert len(await entries(site)) == 1
    await settle(site, seconds=5)
    (_, (told,)) = await entries(site)
    assert (told["initial_measure_time"], told["measure_time"], told["value"]) == (
        iso(60),
        iso(70),
        10,
    )


@pytest.mark.parametrize(
    "change",
    [
        "update peer set link = 'offline' where id = 1",
        "update peer set enabled = false where id = 1",
        "update capacity_group set enabled = false",
        "update asset set enabled = false",
    ],
)
async def test_what_cannot_be_reported_keeps_its_place(site: Site, change: str) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {60 * n: n for n in range(5)}, name="wattHours")
    await settle(site, seconds=62)
    assert len(await site.owed()) == 1
    await site.execute(change)
    await settle(site, seconds=60)
    assert len(await site.owed()) == 1
    await site.execute("update peer set link = 'online', enabled = true")
    await site.execute("update capacity_group set enabled = true")
    await site.execute("update asset set enabled = true")
    await settle(site, seconds=60)
    assert [e["measure_time"] for (e,) in await entries(site)] == [iso(60), iso(120), iso(180)]


async def test_nothing_is_reported_before_everything_was_ready(site: Site) -> None:
    await site.read("load/1", {60 * n: n for n in range(10)}, name="wattHours")
    await site.add_asset("cp", energy=ENERGY)
    await set_peer(site, 1, link="registered")
    await settle(site, seconds=200)
    assert await schedule(site) == []
    await set_peer(site, 1, link="online")
    await settle(site, seconds=45)  # 12:04:05
    assert [e["measure_time"] for (e,) in await entries(site)] == [iso(240)]


async def test_only_a_day_is_made_up_for(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await settle(site, seconds=62)
    await set_peer(site, 1, link="offline")
    hour = 3600
    await site.read("load/1", {0: 0, 6 * hour + 20: 0, 6 * hour + 90: 7}, name="wattHours")
    site.clock.move(hours=30)
    await set_peer(site, 1, link="online")
    await measurements.step(site.context)
    ((told,),) = await entries(site)
    assert (told["initial_measure_time"], told["value"]) == (iso(6 * hour + 60), 3)


async def test_a_new_period_length_begins_where_it_is_aligned(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {60 * n: n for n in range(60)}, name="wattHours")
    await settle(site, seconds=62)
    await site.execute("update capacity_group set provider_period_s = 300")
    await settle(site, seconds=60)
    assert await schedule(site) == [("CapacityProvider", NOON + timedelta(minutes=5), 300)]
    await settle(site, minutes=9)
    assert [e["value"] for (e,) in await entries(site)] == [1, 5]


async def test_a_daemon_that_dies_leaves_the_period_to_the_next(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 1, 120: 2}, name="wattHours")
    site.clock.move(seconds=62)
    lease, day, moment = timedelta(seconds=60), timedelta(days=1), timedelta(seconds=2)
    async with site.db.transaction() as conn:
        await due_store.schedule(conn, now=site.clock.at, settle=moment)
        assert await due_store.claim(conn, now=site.clock.at, lease=lease, spool=day, limit=9)
    await settle(site, seconds=59)
    assert await site.owed() == []
    await settle(site, seconds=1)
    assert [e["measure_time"] for (e,) in await entries(site)] == [iso(60), iso(120)]


async def test_a_period_reported_again_is_the_same_message(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 1}, name="wattHours")
    await settle(site, seconds=62)
    await site.execute(
        "update measurement_due set start_at = %(noon)s, due_at = %(now)s", noon=NOON
    )
    await settle(site, seconds=1)
    assert len(await site.owed()) == 1


async def test_many_daemons_share_the_work(site: Site) -> None:
    await site.execute("delete from capacity_group")
    for n in range(30):
        await site.add_group(f"group-{n}")
        await site.add_asset(f"asset-{n}", group_id=n + 2, energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 1}, name="wattHours")
    site.clock.move(seconds=62)
    await asyncio.gather(*[settle(site) for _ in range(4)])
    told = [body["group_id"] for _, _, body in await site.owed()]
    assert sorted(told) == sorted(f"group-{n}" for n in range(30))


async def test_an_asset_that_makes_no_sense_keeps_no_other_back(site: Site) -> None:
    await site.add_asset("mad", energy=ENERGY | {"unit": "parsec"})
    await site.add_asset("sane", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 1}, name="wattHours")
    await settle(site, seconds=62)
    assert await entries(site) == [[entry(1)]]


async def test_a_forecast_does_not_wait_behind_measurements(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 1}, name="wattHours")
    await settle(site, seconds=62)
    ((lane, expires_at),) = await site.fetch("select lane, expires_at from outbox")
    assert lane != "group:1"
    assert expires_at == site.clock.at + timedelta(hours=24)
