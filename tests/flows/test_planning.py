"""A forecast of tomorrow is prepared for today: real PostgreSQL, a simulated battery, HiGHS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from flows.steered_house import WEDNESDAY, Hands, House, battery, fuel_cell
from psycopg.types.json import Jsonb

from fpd.flows import planned, planning
from fpd.flows.expected import _missing as missing
from fpd.flows.tree import Tree
from fpd.sim.battery import Battery, BatteryOptions
from fpd.sim.bluegen import BlueGen, BlueGenOptions
from fpd.store.control import Property
from fpd.store.db import Database
from fpd.store.load_history import Known

HOUR = timedelta(hours=1)
QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)
METER = {"nodeId": 1, "sourceId": "/grid", "property": "watts"}
TEN = WEDNESDAY + 28 * HOUR  # tomorrow


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def db(database_url: str, clock: Hands) -> AsyncIterator[Database]:
    db = Database(database_url, clock=clock)
    await db.open()
    yield db
    await db.close()


@pytest.fixture
async def cellar(clock: Hands) -> AsyncIterator[Battery]:
    simulator = Battery(BatteryOptions(usoc=20), clock=clock)
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def site(db: Database, clock: Hands, cellar: Battery) -> AsyncIterator[House]:
    site = House(db, clock, [battery(cellar.url)])
    yield site
    await site.close()


async def measured(
    site: House, source_id: str, values: dict[datetime, float], *, every: timedelta = HOUR
) -> None:
    """A stream has said these values; each is repeated every so often until the next one."""
    await site.rows("insert into account values (1, now()) on conflict do nothing returning 1")
    (stream_id,) = await site.row(
        "insert into stream (user_id, node_id, source_id, created_at) values (1, 1, %s, now())"
        " on conflict (user_id, node_id, source_id) do update set source_id = excluded.source_id"
        " returning id",
        source_id.lstrip("/"),
    )
    at = sorted(values)
    rows = []
    for start, end in zip(at, [*at[1:], at[-1] + every], strict=True):
        while start < end:
            rows.append(
                (stream_id, start, Jsonb({"watts": values[max(a for a in at if a <= start)]}))
            )
            start += every
    async with site.db.connection() as conn, conn.cursor() as cursor:
        await cursor.executemany(
            "insert into datum (stream_id, at, i, received_at) values (%s, %s, %s, now())"
            " on conflict do nothing",
            rows,
        )


async def usual_weeks(site: House) -> None:
    """1 kW all day, 4 kW from 10 to 12 on Thursdays, for four weeks; once 5 and once 3 kW."""
    values = {WEDNESDAY - timedelta(weeks=4): 1000.0}
    for week, peak in enumerate((4000.0, 5000.0, 3000.0, 4000.0), 1):
        values |= {
            TEN - timedelta(weeks=week): peak,
            TEN - timedelta(weeks=week) + 2 * HOUR: 1000.0,
        }
    await measured(site, "/grid", values, every=QUARTER)


async def plan_of(site: House, group_id: int) -> planned.Planned:
    while await planning.step(site.context):
        pass
    found = await planned.read(site.context, user_id=1, group_id=group_id)
    assert found is not None
    return found


def at(plan: planned.Planned, name: str, instant: datetime) -> Any:
    return plan.row.periods[name][int((instant - plan.row.from_at) / QUARTER)]


async def test_a_tight_block_tomorrow_is_charged_for_and_the_plan_says_all(
    site: House, clock: Hands, cellar: Battery
) -> None:
    await usual_weeks(site)
    control = {"meter": METER, "marginPercent": 0}
    group_id = await site.group({"cellar": {}}, control)
    await site.look()
    before = await plan_of(site, group_id)
    assert before.row.source == "highs"
    assert at(before, "load_w", TEN) == 4000
    assert at(before, "least_load_w", TEN) == 3000
    assert at(before, "most_load_w", TEN) == 5000
    assert at(before, "load_w", TEN - QUARTER) == 1000
    assert set(before.devices["cellar"].power_w or ()) == {0}, "nothing to prepare for"
    await site.look()
    assert (await site.state("cellar"))["wanted"] in (None, {"kind": "release"})

    await site.forecast(group_id, "CONSUMPTION", 2000, start_at=TEN, end_at=TEN + 2 * HOUR)
    await site.look()
    assert not await planning.step(site.context), "others may follow within two seconds"
    assert (await plan_of(site, group_id)).row.id == before.row.id
    clock.move(seconds=2)
    assert (await plan_of(site, group_id)).row.id == before.row.id, "the last one is 2 s old"
    clock.move(seconds=3)
    plan = await plan_of(site, group_id)
    assert plan.row.id != before.row.id
    assert plan.row.breaks == []
    assert at(plan, "import_limit_w", TEN) == 2000
    told = plan.devices["cellar"]
    assert told.power_w is not None and told.soc is not None
    tight = int((TEN - plan.row.from_at) / QUARTER)
    assert min(told.power_w[tight : tight + 8]) >= 1999
    assert max(told.power_w[:tight]) - min(told.power_w[:tight]) <= 2, "spread evenly"
    assert told.soc[tight - 1] == pytest.approx(10 + 4000 / 0.95 / 100, abs=0.2)

    await site.live(seconds=90)  # a meter that is not heard after a start is waited for
    state = await site.state("cellar")
    assert state["wanted"] == {"kind": "setpoint", "power_w": told.power_w[0]}
    assert told.power_w[0] < -50
    assert float(cellar.state()["pac_w"]) == told.power_w[0]

    clock.move(minutes=31)
    await site.look()
    assert (await site.state("cellar"))["wanted"] == {"kind": "release"}, "the plan is old"


async def test_what_no_battery_can_keep_is_known_ahead(site: House, clock: Hands) -> None:
    await usual_weeks(site)
    group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
    await site.forecast(group_id, "CONSUMPTION", 0, start_at=TEN, end_at=TEN + 2 * HOUR)
    await site.look()
    plan = await plan_of(site, group_id)
    (found,) = plan.row.breaks
    assert found["which"] == "import"
    assert found["from"] == TEN.isoformat()
    assert found["to"] == (TEN + 2 * HOUR).isoformat()
    assert found["by_w"] == 700
    assert found["reason"] == "the batteries' power is not enough"
    assert found["cause"] == "floor-above-cap"
    assert plan.row.periods["load_known"]


async def test_limits_in_force_win_over_the_plan(
    site: House, clock: Hands, cellar: Battery
) -> None:
    await usual_weeks(site)
    control = {"meter": {**METER, "sourceId": "/site/battery", "property": "gridWatts"}}
    group_id = await site.group({"cellar": {}}, {**control, "marginPercent": 0})
    await measured(site, "/site/battery", {WEDNESDAY - timedelta(days=1): 0.0}, every=6 * HOUR)
    cellar.switch({"consumption_w": 1000})
    await site.look()
    await site.forecast(group_id, "OPTIMUM", 0, start_at=WEDNESDAY, end_at=WEDNESDAY + HOUR)
    await site.look()
    await plan_of(site, group_id)
    async with site.db.connection() as conn:
        await conn.execute(
            "update plan set periods = jsonb_set(periods, '{devices,0,power_w}',"
            " (select jsonb_agg(-2000) from generate_series(1, 672)))"
        )
    clock.move(hours=1)
    async with site.db.connection() as conn:
        await conn.execute("update plan set made_at = %s", (clock(),))
    await site.forecast(group_id, "CONSUMPTION", 1500, start_at=clock(), end_at=clock() + HOUR)
    site.control = type(site.control)(site.context, site.devices)
    await site.look()
    assert (await site.state("cellar"))["wanted"] == {"kind": "setpoint", "power_w": -500}


async def test_a_forecast_stream_stands_in_for_history(site: House) -> None:
    await usual_weeks(site)
    stream = {"nodeId": 1, "sourceId": "/weather", "property": "watts", "multiplier": 1000}
    group_id = await site.group({"cellar": {}}, {"meter": METER, "expectedLoad": stream})
    await measured(site, "/weather", {TEN: 7.0, TEN + HOUR: 8.0})
    await site.look()
    plan = await plan_of(site, group_id)
    assert [at(plan, "load_w", TEN + n * QUARTER) for n in (-1, 0, 3, 4, 7, 8)] == [
        1000, 7000, 7000, 8000, 8000, 1000,
    ]  # fmt: skip
    assert plan.load.source == "forecast /weather, else the last 4 weeks"


async def test_plans_are_made_every_quarter_once_and_again_after_a_crash(
    site: House, clock: Hands, database_url: str
) -> None:
    group_id = await site.group({"cellar": {}}, {"staticImportLimit": 6000})
    await site.look()
    other = Database(database_url, clock=clock)
    await other.open()
    twin = House(other, clock, [device for device in site.context.config.devices])
    await asyncio.gather(planning.step(site.context), planning.step(twin.context))
    made = "select count(*) from plan"
    assert await site.row(made) == (1,)
    clock.move(minutes=1)
    await planning.step(site.context)
    assert await site.row(made) == (1,)
    clock.move(minutes=15)
    task = asyncio.create_task(planning.step(twin.context))
    while await site.row("select count(*) from plan_due where leased_until is not null") == (0,):
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await planning.step(site.context)
    assert await site.row(made) == (1,), "it is the other's for as long as its lease"
    clock.move(minutes=2)
    await planning.step(site.context)
    assert await site.row(made) == (2,)
    await twin.close()
    await other.close()
    assert (await planned.read(site.context, user_id=1, group_id=group_id)) is not None


async def test_history_that_comes_late_is_found(site: House, clock: Hands) -> None:
    group_id = await site.group({"cellar": {}}, {"meter": METER})
    await site.look()
    assert "no history" in (await plan_of(site, group_id)).load.source
    await measured(site, "/grid", {WEDNESDAY - 3 * DAY: 1000.0, WEDNESDAY - 2 * DAY: 2000.0})
    clock.move(minutes=16)
    assert max((await plan_of(site, group_id)).load.most_w) == 2000
    await measured(site, "/grid", {WEDNESDAY - 27 * DAY: 7000.0, WEDNESDAY - 26 * DAY: 8000.0})
    clock.move(minutes=15)
    assert max((await plan_of(site, group_id)).load.most_w) == 8000, "before all that is known"


def test_each_known_day_is_looked_at_again_in_its_turn() -> None:
    of = Known(Property(1, 1, "grid", "watts"), 1, WEDNESDAY - 28 * DAY, WEDNESDAY)
    again = set()
    for quarter in range(28):
        until_at = WEDNESDAY + quarter * QUARTER
        again.add((until_at - missing(of, until_at - 28 * DAY, until_at)[-1][0]) // DAY)
    assert again >= set(range(1, 28))


async def test_a_plan_is_told_to_the_broker_once(site: House) -> None:
    group_id = await site.group({"cellar": {}}, {"staticImportLimit": 6000})
    await site.look()
    await plan_of(site, group_id)
    tree = Tree(site.context)
    for _ in range(2):
        await tree.step()
    ((topic, payload),) = await site.rows(
        "select topic, payload from retained where topic like '%%/plan'"
    )
    assert topic == f"fpd/fpd/group/{group_id}/plan"
    said = json.loads(bytes(payload))
    assert (said["source"], len(said["netW"]), said["breaks"]) == ("highs", 96, [])
    assert [device["name"] for device in said["devices"]] == ["cellar"]


async def test_an_import_limit_raises_a_fuel_cell_by_the_load_of_that_weekday(
    db: Database, clock: Hands
) -> None:
    service = BlueGen(BlueGenOptions(unit=(249,), activation_delay_s=60), clock=clock)
    await service.start()
    site = House(db, clock, [fuel_cell(service.url, base_power_w=1000)])
    try:
        await usual_weeks(site)
        group_id = await site.group({"cell": {}}, {"meter": METER})
        await site.forecast(group_id, "CONSUMPTION", 4200, start_at=TEN, end_at=TEN + 2 * HOUR)
        await site.look()
        assert (await site.state("cell"))["wanted"] in (None, {"kind": "release"})
        plan = await plan_of(site, group_id)
        assert at(plan, "load_w", TEN) == 5500, "with what the cell delivers now added back"
        assert at(plan, "net_w", TEN) == 4200
        assert plan.row.breaks == []
        clock.move(seconds=10)
        await site.look()
        wanted = (await site.state("cell"))["wanted"]
        thursday = 3 * 96 + 40
        assert [p for p in wanted["points"] if p[1] == 1300] == [
            [thursday - 1, 1300], [thursday + 8, 1300],
        ]  # fmt: skip
        clock.move(minutes=20)
        await plan_of(site, group_id)
        await site.look()
        assert len(await site.commands("cell")) == 1, "a new plan that says the same costs nothing"
    finally:
        await site.close()
        await service.stop()
