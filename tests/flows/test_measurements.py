"""A measurement period ends: what both audiences are told, and what happens in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
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


async def test_a_property_may_have_any_name(site: Site) -> None:
    """What a period leaves behind is found again: the next one begins where it ended."""
    name = 'Wh {1,2} "in" \\ NULL é'
    await site.add_asset("cp-1", energy=ENERGY | {"propertyNames": [name]})
    await site.read("load/1", {0: 1000, 50: 1010}, name=name, kind="a")
    await settle(site, seconds=62)
    await site.read("load/1", {100: 1030, 120: 1034}, name=name, kind="a")
    await settle(site, seconds=60)
    assert await entries(site) == [
        [entry(10, measure_time=iso(50))],
        [entry(24, initial_measure_time=iso(50), measure_time=iso(120))],
    ]


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


async def test_periods_are_chained_where_the_level_at_an_end_is_not_known(site: Site) -> None:
    """Nothing is waited for but the settle delay, and nothing is lost between two reports."""
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 50: 50}, name="wattHours")
    await settle(site, seconds=62)
    await site.read("load/1", {70: 70}, name="wattHours")
    await settle(site, seconds=60)
    await site.read("load/1", {250: 250}, name="wattHours")
    await settle(site, seconds=180)
    told = [
        (e["initial_measure_time"], e["measure_time"], e["value"]) for (e,) in await entries(site)
    ]
    assert told == [
        (iso(0), iso(50), 50),
        (iso(50), iso(70), 20),
        (iso(70), iso(180), 110),
        (iso(180), iso(240), 60),
        (iso(240), iso(250), 10),
    ]


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


async def test_a_new_period_length_leaves_neither_gap_nor_overlap(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {60 * n: n for n in range(60)}, name="wattHours")
    await settle(site, seconds=62)
    await site.execute("update capacity_group set provider_period_s = 300")
    await settle(site, seconds=60)
    assert await schedule(site) == [("CapacityProvider", NOON + timedelta(minutes=1), 300)]
    await settle(site, minutes=9)
    await site.execute("update capacity_group set provider_period_s = 60")
    await settle(site, minutes=2)
    told = [(e["measure_time"], e["value"]) for (e,) in await entries(site)]
    ends = (60, 300, 600, 660, 720, 780)
    assert told == [(iso(end), n) for end, n in zip(ends, (1, 4, 5, 1, 1, 1), strict=True)]


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


async def told(site: Site) -> list[tuple[str, int, float]]:
    """Request id, revision and first value of every message, in the order of delivery."""
    rows = await site.fetch("select request_id, revision, body from outbox order by id")
    return [
        (request_id, revision, json.loads(body)["measurements"][0]["value"])
        for request_id, revision, body in rows
    ]


async def test_late_datum_correct_reports_under_the_same_id(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 60}, name="wattHours")
    await settle(site, seconds=62)
    await site.read("load/1", {120: 120}, name="wattHours")
    await settle(site, seconds=60)
    ((first, _, _), (second, _, _)) = await told(site)
    await site.read("load/1", {30: 50}, name="wattHours")
    await settle(site, seconds=1)
    assert len(await told(site)) == 2  # the same energy, told already
    await site.read("load/1", {60: 80}, name="wattHours")
    await settle(site, seconds=1)
    assert (await told(site))[2:] == [(first, 1, 80), (second, 1, 40)]
    assert await site.events() == ["measurement.corrected"] * 2
    counted = site.counted(
        "fpd_measurement_periods", audience="CapacityProvider", outcome="corrected"
    )
    assert counted == 2


@pytest.mark.parametrize(("switch", "count"), [("same-id", 2), ("new-id", 2), ("none", 1)])
async def test_how_a_peer_hears_of_corrections(site: Site, switch: str, count: int) -> None:
    await set_peer(site, 1, service_props={"measurement-corrections": switch})
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 60}, name="wattHours")
    await settle(site, seconds=62)
    await site.read("load/1", {60: 80}, name="wattHours")
    await settle(site, seconds=1)
    ids = await site.fetch("select request_id, correlation_id from outbox order by id")
    assert len(ids) == count
    if switch == "new-id":
        assert ids[1][0] != ids[0][0] and ids[1][1] == ids[0][0]


async def test_a_period_without_data_is_reported_once_there_are_some(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await settle(site, seconds=62)
    assert await site.events() == ["measurement.missed"]
    await site.read("load/1", {0: 0, 40: 4}, name="wattHours")
    await settle(site, seconds=5)
    assert [(revision, value) for _, revision, value in await told(site)] == [(0, 4)]


async def test_what_comes_after_the_window_corrects_nothing(site: Site) -> None:
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 60}, name="wattHours")
    await settle(site, seconds=62)
    before = len(await told(site))
    site.clock.move(hours=1)
    await site.read("load/1", {30: 59, 60: 70}, name="wattHours")
    await settle(site, seconds=3)
    assert [value for _, revision, value in await told(site) if revision] == []
    assert before == 1


async def test_a_register_that_is_silent_for_days_still_stands(site: Site) -> None:
    """The sum of registers does not fall because one of them says nothing any more."""
    await set_peer(site, 1, measurement_configuration=["CONTINUOUS"])
    await site.execute("update capacity_group set provider_period_s = 3600")
    await site.add_asset("one", source="load/1", energy=ENERGY)
    await site.add_asset("two", source="load/2", energy=ENERGY)
    await site.read("load/2", {0: 500, 10: 500}, name="wattHours")
    hour = 3600
    for n in range(52):
        await site.read("load/1", {n * hour + 5: n, (n + 1) * hour: n + 1}, name="wattHours")
        await settle(site, seconds=hour if n else hour + 2)
    values = [e["value"] for (e,) in await entries(site)]
    assert values == [500 + n for n in range(1, 53)]


async def test_a_group_may_settle_in_its_own_time(site: Site) -> None:
    await site.execute("""update capacity_group set control = '{"settleSeconds": 10}'""")
    await site.add_asset("cp", energy=ENERGY)
    await site.read("load/1", {0: 0, 60: 1}, name="wattHours")
    await settle(site, seconds=9)
    await settle(site, seconds=60)
    assert await site.owed() == []
    await settle(site, seconds=1)
    assert await entries(site) == [[entry(1)]]


async def test_zeros_for_a_peer_that_insists(site: Site) -> None:
    for peer_id in (1, 2):
        await set_peer(site, peer_id, service_props={"measurement-zero-fill": True})
    await site.add_asset("cp", energy=ENERGY)
    await site.add_asset("co", audience="CapacityOptimizer", instantaneous=POWER)
    await settle(site, seconds=62)
    assert await site.events() == []
    values = [
        e.get("value", e.get("instantaneous_measurement", {}).get("value"))
        for (e,) in await entries(site)
    ]
    assert values == [0, 0]


async def test_all_assets_as_one(site: Site) -> None:
    await set_peer(site, 2, service_props={"group-combined-asset-id": "all"})
    for n in (1, 2):
        await site.add_asset(
            f"a{n}",
            audience="CapacityOptimizer",
            source=f"load/{n}",
            instantaneous=POWER | {"statisticType": "End"},
            energy=ENERGY,
        )
        await site.read(f"load/{n}", {0: 0, 60: 10 * n}, name="wattHours")
        await site.read(f"load/{n}", {30: 100 * n}, name="watts")
    await settle(site, seconds=62)
    ((_, operation, body),) = await site.owed()
    assert operation == "update_asset_measurements"
    (told,) = body["measurements"]
    assert (told["asset_id"], told["asset_category"]) == ("all", "CHARGING")
    assert told["energy_measurement"] == entry(30)
    assert told["instantaneous_measurement"]["value"] == 300


async def test_what_was_summed_up_before_is_told_the_same(site: Site) -> None:
    """Across midnight, with restarts that remember nothing but the database."""
    await site.execute(
        "update capacity_group set provider_period_s = 300, optimizer_period_s = 300"
    )
    await site.add_asset("cp", energy=ENERGY)
    site.clock.move(hours=11, minutes=50)
    base = 11 * 3600 + 50 * 60
    seen = 0
    for n in range(0, 1500, 50):
        await site.read("load/1", {base + n: n % 700}, name="wattHours")
        site.clock.at = NOON + timedelta(seconds=base + n + 6)
        await measurements.sum_up(site.context)
        await settle(site)
        seen += await summed(site)
    told = [(e["initial_measure_time"], e["measure_time"]) for (e,) in await entries(site)]
    assert seen > 10
    assert all(a[1] == b[0] for a, b in pairwise(told))
    # The last reading before what is told last is at 1450 s; two rises are cut by a reset.
    rises = [max((n + 50) % 700 - n % 700, 0) for n in range(0, 1450, 50)]
    assert told[-1][1] == iso(base + 1200) or told[-1][1] == iso(base + 1150)
    until = 24 if told[-1][1] == iso(base + 1200) else 23
    assert sum(e["value"] for (e,) in await entries(site)) == sum(rises[:until])


async def summed(site: Site) -> int:
    ((count,),) = await site.fetch("select count(*) from measured_part where count > 0")
    return int(count)
