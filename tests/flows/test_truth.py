"""What cannot be kept is told to its provider: once, with the very blocks, and as it is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flows.steered_house import WEDNESDAY, Hands, House, battery, fuel_cell
from prometheus_client import generate_latest

from fpd.domain.datum import Datum, StreamKey
from fpd.flows import ingest
from fpd.flows.compliance import Compliance
from fpd.sim.battery import Battery, BatteryOptions
from fpd.sim.bluegen import BlueGen, BlueGenOptions
from fpd.store.db import Database

HOUR = timedelta(hours=1)
METER = {"nodeId": 1, "sourceId": "/site/battery", "property": "gridWatts"}
GRID = {"nodeId": 1, "sourceId": "/site/grid", "property": "watts"}


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def db(database_url: str, clock: Hands) -> AsyncIterator[Database]:
    db = Database(database_url, clock=clock)
    await db.open()
    yield db
    await db.close()


@dataclass
class Site:
    """A house, and what its provider hears."""

    house: House
    compliance: Compliance
    group_id: int = 0

    @property
    def clock(self) -> Hands:
        return self.house.clock

    async def make(self, devices: Sequence[str], **control: Any) -> None:
        self.group_id = await self.house.group(
            {name: {} for name in devices}, {"marginPercent": 0, **control}
        )
        async with self.house.db.connection() as conn:
            await conn.execute("update peer set base_url = 'http://127.0.0.1:1'")

    async def look(self) -> None:
        await self.house.look()
        while await self.compliance.step():
            pass

    async def live(self, seconds: float) -> None:
        until = self.clock() + timedelta(seconds=seconds)
        while self.clock() < until:
            await self.house.live(seconds=min(10.0, (until - self.clock()).total_seconds()))
            while await self.compliance.step():
                pass

    async def forecast(self, type_: str, *blocks: tuple[float, float, float]) -> None:
        """Have the provider say (watts, from hour, to hour) in one message for each."""
        for watts, start_h, end_h in blocks:
            start_at, end_at = WEDNESDAY + start_h * HOUR, WEDNESDAY + end_h * HOUR
            await self.house.forecast(self.group_id, type_, watts, start_at=start_at, end_at=end_at)

    async def told(self, operation: str = "group_capacity_compliance_error") -> list[Any]:
        """What is owed: (correlation id, its reason or type, its blocks)."""
        rows = await self.house.rows(
            "select correlation_id, body from outbox where operation = %s order by id", operation
        )
        said = [(correlation_id, json.loads(body)) for correlation_id, body in rows]
        return [
            (of, body.get("type") or body["message"].rpartition("(")[2][:-1], [*_blocks(body)])
            for of, body in said
        ]

    async def meter(self, watts: float) -> None:
        datum = Datum(
            stream=StreamKey(1, 1, "site/grid"), at=self.clock(), i={"watts": Decimal(str(watts))}
        )
        await ingest.store(self.house.context, [datum])

    async def events(self) -> list[str]:
        rows = await self.house.rows("select kind from event order by id")
        return [kind for (kind,) in rows if not kind.startswith("device.")]


def _blocks(body: dict[str, Any]) -> list[tuple[float, float, float]]:
    def hours(text: str) -> float:
        return (datetime.fromisoformat(text) - WEDNESDAY) / HOUR

    return [
        (block["capacity"], hours(block["start_time"]), hours(block["end_time"]))
        for block in body["forecasted_blocks"]
    ]


@asynccontextmanager
async def site(db: Database, clock: Hands, *devices: Any) -> AsyncIterator[Site]:
    house = House(db, clock, devices)
    try:
        yield Site(house, Compliance(house.context))
    finally:
        await house.close()


@pytest.fixture
def usoc() -> int:
    return 60


@pytest.fixture
async def cellar(clock: Hands, usoc: int) -> AsyncIterator[Battery]:
    simulator = Battery(BatteryOptions(usoc=usoc), clock=clock)
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def service(clock: Hands) -> AsyncIterator[BlueGen]:
    simulator = BlueGen(BlueGenOptions(unit=(249,), activation_delay_s=60), clock=clock)
    await simulator.start()
    yield simulator
    await simulator.stop()


def counted(house: House, series: str) -> bool:
    return series.encode() in generate_latest(house.context.metrics.registry)


async def test_a_block_below_what_a_fuel_cell_cannot_go_below_is_told_before_it_begins(
    db: Database, clock: Hands, service: BlueGen
) -> None:
    async with site(db, clock, fuel_cell(service.url)) as its:
        await its.make(["cell"])
        await its.look()
        await its.forecast("GENERATION", (300, 20, 22), (1000, 30, 32))
        await its.look()
        clock.move(seconds=15)
        await its.look()
        (told,) = await its.told()
        assert told[1:] == ("floor-above-cap", [(300, 20, 22)]), "not the other block"
        assert told[0].startswith("GENERATION-") and told[0].endswith("-300")
        await its.live(20)
        assert len(await its.told()) == 1, "once"
        assert (await its.events()) == ["forecast.found_impossible"]
        assert counted(its.house, 'fpd_compliance_errors_total{reason="floor-above-cap"} 1.0')
        await its.forecast("GENERATION", (900, 20, 22))
        await its.live(60)
        assert len(await its.told()) == 1
        assert (await its.events())[1:] == ["forecast.found_possible"]


async def test_a_fuel_cell_that_does_not_show_its_profile_is_told(
    db: Database, clock: Hands, service: BlueGen
) -> None:
    service.switch({"delivery_lost": True})
    cell = fuel_cell(service.url, delivery_lead_s=300, poll_s=60, polling="fixed")
    async with site(db, clock, cell) as its:
        await its.make(["cell"])
        await its.look()
        await its.forecast("GENERATION", (1000, 0, 8))
        await its.look()
        for _ in range(30):
            clock.move(minutes=1)
            await its.look()
        told = {reason: blocks for _, reason, blocks in await its.told()}
        assert told["device-gone"] == [(1000, 0, 8)], "beside what was measured"


@pytest.mark.parametrize("usoc", [13])
async def test_energy_that_does_not_last_is_told_and_a_flicker_is_not(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with site(db, clock, battery(cellar.url)) as its:
        await its.make(["cellar"], meter=METER, requestAdjustment=True)
        await its.look()
        await its.forecast("CONSUMPTION", (3000, 0, 2))
        await its.look()
        await its.live(20)
        assert await its.told() == []
        await its.live(40)
        told = {reason: blocks for _, reason, blocks in await its.told()}
        block = [(3000, 0, 2)]
        assert told == {"energy-exhausted": block, "measured-breach": block}, "each once"
        (wish,) = await its.told("adjust_group_capacity_forecast")
        capacity = wish[2][0][0]
        assert wish[1] == "CONSUMPTION" and 4000 < capacity < 4200, "with what it can give"
        await its.live(20)
        assert len(await its.told("adjust_group_capacity_forecast")) == 1
        cellar.switch({"consumption_w": 2000})
        await its.live(60)
        assert (await its.events())[-1] == "forecast.found_possible"


async def test_a_battery_that_is_gone_is_told_when_its_limit_is_broken(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with site(db, clock, battery(cellar.url)) as its:
        await its.make(["cellar"], meter=GRID)
        await its.look()
        await its.forecast("CONSUMPTION", (3000, 0, 2))
        for _ in range(4):
            await its.meter(2990)
            await its.live(10)
        assert await its.told() == []
        cellar.switch({"drop": True})
        for _ in range(9):
            await its.meter(4200)
            await its.live(10)
        reasons = {reason for _, reason, blocks in await its.told()}
        assert reasons == {"device-gone", "measured-breach"}


async def test_a_measured_breach_is_judged_by_what_was_in_force_when_it_was_measured(
    db: Database, clock: Hands
) -> None:
    async with site(db, clock) as its:
        await its.make([], meter=GRID)
        await its.look()
        await its.forecast("CONSUMPTION", (3000, 0, 1), (1000, 1, 2))
        await its.meter(4000)
        await its.live(10)
        await its.meter(2000)
        await its.live(30)
        assert await its.told() == [], "one reading is a flicker"
        for _ in range(6):
            await its.meter(3300)
            await its.live(10)
        assert [one[1:] for one in await its.told()] == [("measured-breach", [(3000, 0, 1)])]
        assert counted(
            its.house, f'fpd_limit_breaches_total{{direction="import",group="{its.group_id}"}} 1.0'
        )
        await its.meter(2000)
        await its.live(60)
        assert await its.events() == [
            "forecast.found_impossible", "limit.breached", "forecast.found_possible"
        ]  # fmt: skip
        clock.at = WEDNESDAY + HOUR
        for _ in range(6):
            await its.meter(2000)
            await its.live(10)
        assert [blocks for _, _, blocks in await its.told()] == [[(3000, 0, 1)], [(1000, 1, 2)]]


async def test_what_a_plan_foresees_is_told_as_far_ahead_as_it_looks(
    db: Database, clock: Hands
) -> None:
    def at(hours: float) -> str:
        return (WEDNESDAY + hours * HOUR).isoformat()

    one = {"from": at(29.75), "to": at(30.5), "which": "import", "by_w": 400}
    spoilt = {"from": "then", "to": at(40), "which": "import", "by_w": 1}

    async def breaks(_: Any, group_ids: Sequence[int], now: datetime) -> dict[int, Any]:
        return {group_id: [one, spoilt] for group_id in group_ids}

    async with site(db, clock) as its:
        its.compliance = Compliance(its.house.context, breaks=breaks)
        await its.make([], meter=GRID)
        await its.forecast("CONSUMPTION", (9000, 29, 30), (1000, 30, 31), (2000, 40, 41))
        await its.look()
        assert [found[1:] for found in await its.told()] == [
            ("energy-exhausted", [(9000, 29, 30)]), ("energy-exhausted", [(1000, 30, 31)])
        ]  # fmt: skip


async def test_limits_of_phases_are_kept_with_the_envelope_once(db: Database, clock: Hands) -> None:
    async with site(db, clock) as its:
        await its.make([], meter=GRID)
        await its.forecast("CONSUMPTION", (9000, 0, 2))
        async with db.connection() as conn:
            await conn.execute(
                "update forecast"
                " set body = replace(convert_from(body, 'utf8'), 'ALL', 'TWO')::bytea"
            )
        await its.house.live(seconds=30)
        rows = await its.house.rows("select max_w, phases from envelope")
        assert rows == [(27_000, [{"phase": "TWO", "min_w": None, "max_w": 9000}])]


async def test_two_daemons_tell_once_and_what_is_noted_is_owed(
    db: Database, database_url: str, clock: Hands, service: BlueGen
) -> None:
    async with AsyncExitStack() as stack:
        its = await stack.enter_async_context(site(db, clock, fuel_cell(service.url)))
        second = Compliance(its.house.context)
        await its.make(["cell"])
        await its.house.look()
        await its.forecast("GENERATION", (300, 20, 22), (0, 40, 41))
        await its.house.look()
        # The lease of a daemon that was killed has ended: both look at once.
        for _ in range(3):
            await asyncio.gather(its.compliance.step(), second.step())
            async with db.connection() as conn:
                await conn.execute("update compliance_due set due_at = '2000-01-01'")
        assert sorted(blocks for _, _, blocks in await its.told()) == [
            [(0, 40, 41)], [(300, 20, 22)]
        ]  # fmt: skip


async def test_a_provider_that_cannot_be_told_yet_is_told_when_it_can(
    db: Database, clock: Hands, service: BlueGen
) -> None:
    async with site(db, clock, fuel_cell(service.url)) as its:
        await its.make(["cell"])
        async with db.connection() as conn:
            await conn.execute("update peer set link = 'unregistered'")
        await its.look()
        await its.forecast("FALLBACK_GENERATION", (200, 0, 30))
        await its.look()
        await its.live(30)
        assert await its.told() == []
        assert await its.events() == ["forecast.found_impossible"], "the operator knows"
        async with db.connection() as conn:
            await conn.execute("update peer set link = 'offline'")
        await its.live(20)
        ((_, reason, blocks),) = await its.told()
        assert (reason, blocks) == ("floor-above-cap", [(200, 0, 30)]), "the fallback is in force"


async def test_a_disabled_group_promises_nothing(
    db: Database, clock: Hands, service: BlueGen
) -> None:
    async with site(db, clock, fuel_cell(service.url)) as its:
        await its.make(["cell"])
        await its.look()
        await its.forecast("GENERATION", (300, 20, 22))
        async with db.connection() as conn:
            await conn.execute("update capacity_group set enabled = false")
        await its.live(60)
        assert await its.told() == []
