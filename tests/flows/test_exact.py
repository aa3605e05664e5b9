"""The whole path, from datum to message, against rational arithmetic on random streams.

Datum come in time, late, twice, out of order and anew with other values; registers are reset;
readings lie on the edges of periods; periods are summed up half-way or not. FPD_EXAMPLES asks for
more examples.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from flows.exact_model import Series, average, is_silent, movement, statistic, together
from flows.measured_site import NOON, Hands, Site
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st

from fpd.domain.datum import Datum, StreamKey
from fpd.flows import ingest, measurements
from fpd.store.db import Database

EXAMPLES = int(os.environ.get("FPD_EXAMPLES", "12"))
HALF = Fraction(1, 2 * 10**9)  # a reported number has nine decimal places
HOLD = timedelta(minutes=15)
STATISTICS = ("Average", "Minimum", "Maximum", "Count", "End")
PERIOD_S = 120
PERIOD = timedelta(seconds=PERIOD_S)
LONG_AGO = NOON - timedelta(days=1)


@dataclass(frozen=True)
class Sample:
    """A datum that comes when its time was `age_s` ago."""

    age_s: int
    value: Decimal
    name: str = "v"


@dataclass(frozen=True)
class Turn:
    """The clock moves, datum come, and the daemon does one thing or the other."""

    move_s: int
    samples: tuple[Sample, ...]
    sums_up: bool
    steps: bool


_VALUES = st.one_of(
    st.integers(0, 50).map(Decimal), st.decimals(0, 10**9, places=3), st.just(Decimal(0))
)
# Whole tens of seconds, so that many of them lie on edges and many come twice.
_AGES = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 60).map(lambda n: 10 * n))
_SAMPLES = st.lists(st.builds(Sample, _AGES, _VALUES), max_size=4).map(tuple)
_OF_TWO = st.lists(st.builds(Sample, _AGES, _VALUES, st.sampled_from("vvvw")), max_size=3).map(
    tuple
)  # one of them is silent more often
_MOVES = st.one_of(st.just(10), st.integers(1, 12).map(lambda n: 10 * n), st.integers(1, 90))
_TURNS = st.lists(
    st.builds(Turn, _MOVES, _SAMPLES, st.booleans(), st.booleans()), min_size=4, max_size=14
)
_TURNS_OF_TWO = st.lists(
    st.builds(Turn, _MOVES, _OF_TWO, st.booleans(), st.booleans()), min_size=4, max_size=14
)


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    db = Database(database_url, clock=Hands())
    await db.open()
    site = Site(db, Hands())
    await site.add_peers()
    yield site
    await db.close()


async def clear(site: Site) -> None:
    site.clock.at = NOON + timedelta(seconds=1)
    await site.execute(
        "truncate capacity_group, stream, outbox, lane, event, late_datum restart identity cascade"
    )
    await site.execute("update measured_until set until_at = '-infinity'")
    await site.add_group(period_s=PERIOD_S)


async def begin_anew(site: Site) -> None:
    await clear(site)
    for kind in STATISTICS:
        await site.add_asset(
            kind,
            audience="CapacityOptimizer",
            instantaneous={"propertyNames": ["v"], "unit": "W", "statisticType": kind},
        )
    await site.add_asset(
        "register", energy={"propertyNames": ["v"], "unit": "Wh", "multiplier": Decimal("0.5")}
    )


Known = dict[str, dict[datetime, Fraction]]


async def play(site: Site, turns: list[Turn]) -> Series:
    """Let it all happen; return what is known in the end."""
    known: Known = {"v": {}}
    await happen(site, turns, known)
    site.clock.move(seconds=PERIOD_S + 5)
    await all_steps(site)
    return known["v"]


async def happen(
    site: Site, turns: list[Turn], known: Known, *, since: datetime = LONG_AGO
) -> None:
    for turn in turns:
        site.clock.move(seconds=turn.move_s)
        for sample in turn.samples:
            at = site.clock.at - timedelta(seconds=sample.age_s)
            if at > since:
                await read(site, at, {sample.name: sample.value}, known)
        if turn.sums_up:
            await measurements.sum_up(site.context)
        if turn.steps:
            await all_steps(site)


async def read(site: Site, at: datetime, values: dict[str, Decimal], known: Known) -> None:
    """Store a datum; it takes the place of one of the same instant, whose other values it has."""
    for name, value in values.items():
        known[name][at] = Fraction(value)
    i = {
        name: Decimal(series[at].numerator) / series[at].denominator
        for name, series in known.items()
        if at in series
    }
    await ingest.store(site.context, [Datum(stream=StreamKey(1, 7, "load/1"), at=at, i=i)])


async def all_steps(site: Site) -> None:
    while await measurements.step(site.context):
        pass


async def told(site: Site, audience: str) -> dict[datetime, list[dict[str, Any]]]:
    """What the peer was told last of each period, by the period's start."""
    rows = await site.fetch(
        """
        select distinct on (r.start_at) r.start_at, r.end_at, o.body
          from measurement_report as r
          join outbox as o on o.request_id = r.request_id
         where r.audience = %(audience)s order by r.start_at, o.revision desc
        """,
        audience=audience,
    )
    return {start_at: json.loads(body, parse_float=Decimal) for start_at, _, body in rows}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def check_register(series: Series, told: dict[datetime, Any]) -> None:
    entries = [(start, body["measurements"][0]) for start, body in sorted(told.items())]
    for start_at, entry in entries:
        from_at, until_at = at(entry["initial_measure_time"]), at(entry["measure_time"])
        assert from_at < until_at <= start_at + timedelta(seconds=PERIOD_S)
        gained = movement(series, from_at, until_at) / 2
        assert abs(Fraction(entry["value"]) - gained) <= HALF
        assert entry["value"] >= 0
    for (_, one), (_, following) in pairwise(entries):
        assert following["initial_measure_time"] == one["measure_time"]


def check_values(series: Series, told: dict[datetime, Any], now: datetime) -> None:
    start_at = NOON - timedelta(seconds=PERIOD_S)
    while start_at + timedelta(seconds=PERIOD_S + 2) <= now:
        end_at = start_at + timedelta(seconds=PERIOD_S)
        entries = told[start_at]["measurements"] if start_at in told else []
        values = {e["asset_id"]: e["instantaneous_measurement"]["value"] for e in entries}
        for kind in STATISTICS:
            if kind == "Average":
                expected = average(series, start_at, end_at, HOLD)
            else:
                expected = statistic(kind, series, start_at, end_at)
            if expected is None:
                assert kind not in values
            else:
                assert abs(Fraction(values[kind]) - expected) <= HALF, (kind, start_at)
        start_at = end_at


# Periods of silence that were interpolated over, and then a datum that ends the silence earlier.
LATE_IN_SILENCE = [
    Turn(277, (Sample(450, Decimal(0)), Sample(140, Decimal(0))), sums_up=False, steps=True),
    Turn(170, (Sample(320, Decimal(1)),), sums_up=False, steps=False),
]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to shrink takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(turns=LATE_IN_SILENCE)
@given(turns=_TURNS)
async def test_what_peers_are_told_in_the_end_is_exactly_what_was_read(
    site: Site, turns: list[Turn]
) -> None:
    note("\n".join(map(str, turns)))
    await begin_anew(site)
    # Both are enabled from the beginning.
    await all_steps(site)
    series = await play(site, turns)
    check_register(series, await told(site, "CapacityProvider"))
    check_values(series, await told(site, "CapacityOptimizer"), site.clock.at)


BOTH = {"v": Decimal(0), "w": Decimal(0)}

# The second register is silent for periods on end, and for as long nothing of both can be told.
SILENT = [
    Turn(130, (Sample(5, Decimal(7)),), sums_up=True, steps=True),
    Turn(130, (Sample(5, Decimal(9)),), sums_up=False, steps=True),
    Turn(130, (Sample(5, Decimal(11)), Sample(7, Decimal(3), "w")), sums_up=False, steps=True),
    Turn(130, (Sample(5, Decimal(1)), Sample(260, Decimal(1), "w")), sums_up=True, steps=True),
]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(turns=SILENT)
@given(turns=_TURNS_OF_TWO)
async def test_sums_of_registers_add_up_whichever_of_them_was_silent(
    site: Site, turns: list[Turn]
) -> None:
    """One asset of two registers, and two assets of one each, summed for a group."""
    note("\n".join(map(str, turns)))
    await clear(site)
    switch = '{"group-asset-measurement": false}'
    await site.execute("update peer set service_props = %(s)s where id = 2", s=switch)
    await site.add_asset("both", energy={"propertyNames": ["v", "w"], "unit": "Wh"})
    for name in BOTH:
        energy = {"propertyNames": [name], "unit": "Wh"}
        await site.add_asset(name, audience="CapacityOptimizer", energy=energy)
    await all_steps(site)
    known: Known = {name: {} for name in BOTH}
    await read(site, NOON, BOTH, known)
    await happen(site, turns, known, since=NOON)

    closed = await told(site, "CapacityProvider")
    for start_at in closed:
        assert not any(is_silent(series, start_at) for series in known.values())

    end_at = NOON + ((site.clock.at - NOON) // PERIOD + 1) * PERIOD
    site.clock.move(seconds=(end_at - site.clock.at).total_seconds())
    await read(site, end_at, {"v": Decimal(8), "w": Decimal(2)}, known)
    site.clock.move(seconds=5)
    await all_steps(site)
    for audience in ("CapacityProvider", "CapacityOptimizer"):
        values = [
            Fraction(entry["value"])
            for body in (await told(site, audience)).values()
            for entry in body["measurements"]
        ]
        assert all(value >= 0 for value in values)
        moved = together(known.values(), NOON, end_at)
        assert abs(sum(values) - moved) <= HALF * len(values), audience


async def test_a_report_that_has_lost_its_readings_stands_and_is_not_told_again(
    site: Site,
) -> None:
    await clear(site)
    await site.add_asset("register", energy={"propertyNames": ["v"], "unit": "Wh"})
    await all_steps(site)
    await site.read("load/1", {0: 0, 100: 10}, name="v")
    site.clock.move(seconds=125)
    await all_steps(site)
    await site.read("load/1", {0: 0, 100: 0}, name="other")
    await all_steps(site)
    await site.read("load/1", {150: 12, 240: 15}, name="v")
    site.clock.move(seconds=120)
    await all_steps(site)
    entries = [body["measurements"][0] for body in (await told(site, "CapacityProvider")).values()]
    assert [entry["value"] for entry in entries] == [10, 5]
