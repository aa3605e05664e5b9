"""Points of a Reengen tenant become datum: late, corrected, exchanged, in any unit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from adapters.rig import WEDNESDAY, Hands, wired
from adapters.tenant import asked, methods, simulated

from fpd.adapters.device import Stopped, Unreachable, Wiring
from fpd.adapters.platform import Polled, StreamSample
from fpd.adapters.reengen_parse import Measured, Raw
from fpd.adapters.reengen_platform import Platform
from fpd.adapters.reengen_rows import Row, aggregated, taken
from fpd.config_reengen import ReengenPlatform, ReengenStream
from fpd.domain.datum import StreamKey
from fpd.sim.reengen import Reengen

ENERGY = {"point": "xyzBesiktas", "node_id": 1, "source_id": "/besiktas"}
STREAM = StreamKey(1, 1, "besiktas")


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def platform(clock: Hands) -> AsyncIterator[Reengen]:
    async with simulated(clock) as simulator:
        yield simulator


@pytest.fixture
async def wiring(clock: Hands) -> AsyncIterator[Wiring]:
    async with wired(clock) as wiring:
        yield wiring


class Poll:
    """One poll, which is given back what it is to remember."""

    def __init__(self, simulator: Reengen, wiring: Wiring, *rows: Mapping[str, Any], **keys: Any):
        config = ReengenPlatform(
            name="site",
            type="reengen",
            base_url=f"{simulator.url}/api/do/",
            tenant="demo",
            user="demo",
            password="demo",
            min_interval_s=0,
            timeout_s=5,
            stream=tuple(ReengenStream(**row) for row in rows),
            **{"backfill_days": 0.25, **keys},
        )
        self.polls = Platform(config, wiring).polls
        (self.source,) = self.polls.values()
        (door,) = wiring.tenants.values()
        door.retry_after_s = 0.01
        self.memory: Mapping[str, Any] = {}

    async def __call__(self) -> Polled:
        reading = await self.source.read(self.memory)
        assert isinstance(reading, Polled)
        self.memory = reading.memory
        return reading

    async def all(self) -> list[StreamSample]:
        """Read until there is no more for now."""
        found: list[StreamSample] = []
        while True:
            reading = await self()
            found += samples(reading)
            if reading.again_s is None:
                return found


def samples(reading: Polled) -> list[StreamSample]:
    found = [each for each in reading.samples if isinstance(each, StreamSample)]
    assert len(found) == len(reading.samples)
    return found


def registers(found: list[StreamSample], name: str = "wattHours") -> dict[datetime, Decimal]:
    return {each.at: Decimal(str(each.accumulating[name])) for each in found}


async def test_registers_become_accumulating_datum(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    poll = Poll(platform, wiring, ENERGY, ENERGY | {"variant": "export"})
    found = samples(await poll())
    assert {each.stream for each in found} == {STREAM}
    assert all(each.accumulating.keys() == {"wattHours", "wattHoursReverse"} for each in found)
    assert found[0].at >= WEDNESDAY - timedelta(hours=6) and found[-1].at <= WEDNESDAY
    meter = platform.tenant.meter(("xyzBesiktas", "activeEnergy", "import", 1))
    assert meter is not None
    assert registers(found) == {each.at: Decimal(int(meter.register(each.at))) for each in found}
    (request,) = asked(platform, "ListDataEx")
    assert request["properties"]["variant"] == ["import", "export"]
    # The next one reads again what may have been late: two hours before the newest row.
    clock.move(minutes=20)
    again = registers(samples(await poll()))
    assert min(again) >= found[-1].at - timedelta(hours=2)
    assert max(again) > found[-1].at


async def test_late_and_corrected_rows_are_found(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    poll = Poll(platform, wiring, ENERGY)
    platform.switch({"late_s": 3600})
    first = registers(await poll.all())
    assert max(first) < WEDNESDAY - timedelta(minutes=59)
    platform.switch(None)
    clock.move(minutes=5)
    second = registers(await poll.all())
    assert {at for at in second if at > max(first)} and max(second) > WEDNESDAY - timedelta(0, 900)
    corrected = max(second)
    await platform.actions["correct"](
        {
            "point": "xyzBesiktas",
            "definition": "activeEnergy",
            "variant": "import",
            "date": (corrected + timedelta(hours=3)).strftime("%Y-%m-%dT%H:%M:%S"),
            "by": 50,
        }
    )
    clock.move(minutes=5)
    third = registers(await poll.all())
    assert third[corrected] == second[corrected] + 50


async def test_a_gateway_that_was_away_for_long_is_caught_up_with(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    poll = Poll(platform, wiring, ENERGY, backfill_days=2)
    first = registers(await poll.all())
    platform.switch({"late_s": 86_400})
    for _ in range(20):
        clock.move(hours=1)
        assert {at for at in registers(await poll.all()) if at > max(first)} == set()
    platform.switch(None)
    clock.move(hours=1)
    later = sorted(at for at in registers(await poll.all()) if at > max(first))
    assert later[0] - max(first) < timedelta(minutes=30) and len(later) == 4 * 21


async def test_an_exchanged_meter_begins_anew(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    poll = Poll(platform, wiring, ENERGY)
    await poll.all()
    await platform.actions["reset"]({"point": "xyzBesiktas"})
    clock.move(hours=1)
    found = registers(await poll.all())
    values = [found[at] for at in sorted(found)]
    falls = [n for n in range(1, len(values)) if values[n] < values[n - 1]]
    assert len(falls) == 1 and values[-1] < 1000  # as it is: measuring bridges it


async def test_units_are_those_of_each_row(platform: Reengen, wiring: Wiring) -> None:
    plain = registers(await Poll(platform, wiring, ENERGY).all())
    platform.switch({"unit": "mixed"})
    mixed = registers(await Poll(platform, wiring, ENERGY).all())
    assert mixed == plain
    platform.switch({"unit": "kWh"})
    in_kwh = registers(await Poll(platform, wiring, ENERGY | {"unit": "kWh"}).all())
    assert {at: value * 1000 for at, value in in_kwh.items()} == plain
    platform.switch({"no_unit": True, "unit": None})
    told = registers(await Poll(platform, wiring, ENERGY | {"unit": "Wh"}).all())
    assert told == plain


@pytest.mark.parametrize(
    ("quirks", "why"),
    [
        ({"unit": "W"}, "its unit is 'W', which is not Wh"),
        ({"unit": "furlong"}, "its unit is 'furlong', which is not Wh"),
    ],
)
async def test_a_unit_that_does_not_fit_is_refused(
    platform: Reengen, wiring: Wiring, quirks: dict[str, Any], why: str
) -> None:
    platform.switch(quirks)
    reading = await Poll(platform, wiring, ENERGY | {"unit": "Wh"})()
    assert reading.samples == () and not reading.dispatchable
    assert why in (reading.detail or "")


async def test_a_wrong_zone_is_noticed(platform: Reengen, wiring: Wiring, clock: Hands) -> None:
    """Three hours west of Istanbul its rows lie ahead."""
    poll = Poll(platform, wiring, ENERGY, tz="UTC")
    reading = await poll()
    assert not reading.dispatchable and "ahead of us: is tz right?" in (reading.detail or "")
    assert max(registers(samples(reading))) <= WEDNESDAY + timedelta(minutes=5)
    clock.move(minutes=5)
    assert not (await poll()).dispatchable


async def test_null_is_a_gap(platform: Reengen, wiring: Wiring) -> None:
    plain = registers(await Poll(platform, wiring, ENERGY).all())
    platform.switch({"null_values": True, "text_values": True, "shuffled": True})
    reading = await Poll(platform, wiring, ENERGY)()
    found = registers(samples(reading))
    assert reading.refused > 0 and 0 < len(found) < len(plain)
    assert found.items() <= plain.items()


async def test_phases_are_properties_of_one_datum(platform: Reengen, wiring: Wiring) -> None:
    phase = {
        "point": "xFabrikaTrafo6",
        "definition": "voltage",
        "variant": "phase",
        "node_id": 1,
        "source_id": "/trafo",
    }
    found = await Poll(platform, wiring, *(phase | {"index": n} for n in (1, 2, 3))).all()
    assert found[-1].instantaneous == {"voltage_a": 230, "voltage_b": 231, "voltage_c": 232}
    assert found[-1].accumulating == {}


async def test_aggregates_are_of_whole_buckets(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    row = ENERGY | {"point": "xFabrikaTrafo6", "definition": "activePower", "variant": "phase"}
    poll = Poll(platform, wiring, row | {"function": "avg", "property_name": "watts"})
    assert [*poll.polls] == ["fifteenmin/xFabrikaTrafo6"]
    clock.move(minutes=7)
    found = await poll.all()
    assert {each.instantaneous["watts"] for each in found} == {Decimal(10_000)}
    assert found[-1].at <= WEDNESDAY - timedelta(minutes=15)
    assert all(each.at.minute % 15 == 0 and each.at.second == 0 for each in found)
    assert asked(platform, "GetData")[0]["properties"]["resolution"] == "fifteenmin"


async def test_an_unknown_point_is_told_and_looked_for_daily(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    poll = Poll(platform, wiring, ENERGY | {"point": "nowhere"})
    for _ in range(3):
        with pytest.raises(Stopped, match="no point 'nowhere': misconfigured"):
            await poll()
        clock.move(hours=1)
    assert methods(platform).count("GetPointHierarchy") == 1
    assert methods(platform).count("ListDataEx") == 0
    clock.move(hours=24)
    with pytest.raises(Stopped):
        await poll()
    assert methods(platform).count("GetPointHierarchy") == 2


async def test_a_point_that_goes_is_noticed(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    poll = Poll(platform, wiring, ENERGY)
    assert (await poll()).dispatchable
    clock.move(minutes=30)
    platform.switch({"lost_points": ["xyzBesiktas"]})
    with pytest.raises(Stopped, match="misconfigured"):
        await poll()
    platform.switch(None)
    clock.move(hours=25)
    assert (await poll()).dispatchable


async def test_a_long_range_is_read_in_slices_and_goes_on_after_a_restart(
    platform: Reengen, wiring: Wiring
) -> None:
    first = Poll(platform, wiring, ENERGY, backfill_days=30)
    reading = await first()
    assert reading.again_s is not None
    found = registers(samples(reading))
    second = Poll(platform, wiring, ENERGY, backfill_days=30)
    second.memory = first.memory
    while (reading := await second()).again_s is not None:
        found |= registers(samples(reading))
    found |= registers(samples(reading))
    assert len(found) == 30 * 96 and max(found) > WEDNESDAY - timedelta(minutes=15)
    assert len(asked(platform, "ListDataEx")) == 5  # 1, 2, 4, 8 and the rest of 30 days


async def test_an_answer_too_large_is_asked_for_in_smaller_pieces(
    clock: Hands, wiring: Wiring
) -> None:
    async with simulated(clock, period_s=10) as busy:
        poll = Poll(busy, wiring, ENERGY, backfill_days=0.6)
        found = registers(await poll.all())
        assert len(found) == pytest.approx(5184, abs=2)
        assert len(asked(busy, "ListDataEx")) <= 1 + 3


async def test_a_platform_that_is_down_loses_nothing(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    poll = Poll(platform, wiring, ENERGY)
    first = registers(await poll.all())
    platform.switch({"drop": True})
    clock.move(hours=4)
    with pytest.raises(Unreachable):
        await poll()
    platform.switch(None)
    found = registers(await poll.all())
    assert sorted(found | first) == list(platform.tenant.moments(min(first), clock()))


async def test_the_hour_that_there_is_twice(clock: Hands, wiring: Wiring) -> None:
    """On 26 October 2025, 03:00 in Berlin is 02:00 again."""
    clock.at = datetime(2025, 10, 26, 3, tzinfo=UTC)
    async with simulated(clock, tz="Europe/Berlin") as platform:
        poll = Poll(platform, wiring, ENERGY, tz="Europe/Berlin")
        found = registers(await poll.all())
        meter = platform.tenant.meter(("xyzBesiktas", "activeEnergy", "import", 1))
        assert meter is not None
        moments = platform.tenant.moments(clock() - timedelta(hours=6), clock())
        assert found == {at: Decimal(int(meter.register(at))) for at in moments}


async def test_ranges_that_end_in_that_hour_miss_nothing(clock: Hands, wiring: Wiring) -> None:
    clock.at = datetime(2025, 10, 26, 0, 20, tzinfo=UTC)  # 02:20, for the first time
    async with simulated(clock, tz="Europe/Berlin") as platform:
        poll = Poll(platform, wiring, ENERGY, tz="Europe/Berlin")
        found = registers(await poll.all())
        for _ in range(8):
            clock.move(minutes=20)
            found |= registers(await poll.all())
        meter = platform.tenant.meter(("xyzBesiktas", "activeEnergy", "import", 1))
        assert meter is not None
        moments = platform.tenant.moments(min(found), clock())
        assert found == {at: Decimal(int(meter.register(at))) for at in moments}


def test_buckets_of_the_hour_that_there_is_twice_are_told_apart_by_their_order() -> None:
    row = Row(ReengenStream(**ENERGY, function="sum", resolution="hour"))
    dates = [f"2025-10-26T0{hour}:00:00" for hour in (1, 2, 2, 3)]
    measured = [Measured(date=date, point_id=1, value=Decimal(n)) for n, date in enumerate(dates)]
    found = aggregated(
        [row], [measured], tz=ZoneInfo("Europe/Berlin"), until=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert [(each.at.hour, each.instantaneous["wattHours"]) for each in found.samples()] == [
        (23, 0),
        (0, 1),
        (1, 2),
        (2, 3),
    ]


def test_energies_without_a_register_are_told() -> None:
    row = Row(ReengenStream(**ENERGY))
    said = {"point": "xyzBesiktas", "definition": "activeEnergy", "variant": "import"}
    rest = {"index": 1, "type": "actual", "unit": "Wh", "note": None, "original": None}
    raw = Raw(date="2025-03-12T00:04:59", value=Decimal(1), **said, **rest)
    found = taken([row], [raw], ZoneInfo("Europe/Istanbul"))
    assert found.samples() == () and found.refused == 1
    assert 'configure column = "value"' in found.unfit[row.key]
