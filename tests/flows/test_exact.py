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
from flows.exact_model import Series, average, movement, statistic
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


@dataclass(frozen=True)
class Sample:
    """A datum that comes when its time was `age_s` ago."""

    age_s: int
    value: Decimal


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
_MOVES = st.one_of(st.just(10), st.integers(1, 12).map(lambda n: 10 * n), st.integers(1, 90))
_TURNS = st.lists(
    st.builds(Turn, _MOVES, _SAMPLES, st.booleans(), st.booleans()), min_size=4, max_size=14
)


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    db = Database(database_url, clock=Hands())
    await db.open()
    site = Site(db, Hands())
    await site.add_peers()
    yield site
    await db.close()


async def begin_anew(site: Site) -> None:
    site.clock.at = NOON + timedelta(seconds=1)
    await site.execute(
        "truncate capacity_group, stream, outbox, lane, event, late_datum restart identity cascade"
    )
    await site.execute("update measured_until set until_at = '-infinity'")
    await site.add_group(period_s=PERIOD_S)
    for kind in STATISTICS:
        await site.add_asset(
            kind,
            audience="CapacityOptimizer",
            instantaneous={"propertyNames": ["v"], "unit": "W", "statisticType": kind},
        )
    await site.add_asset(
        "register", energy={"propertyNames": ["v"], "unit": "Wh", "multiplier": Decimal("0.5")}
    )


async def play(site: Site, turns: list[Turn]) -> Series:
    """Let it all happen; return what is known in the end."""
    known: dict[datetime, Fraction] = {}
    for turn in turns:
        site.clock.move(seconds=turn.move_s)
        for sample in turn.samples:
            at = site.clock.at - timedelta(seconds=sample.age_s)
            known[at] = Fraction(sample.value)
            datum = Datum(stream=StreamKey(1, 7, "load/1"), at=at, i={"v": sample.value})
            await ingest.store(site.context, [datum])
        if turn.sums_up:
            await measurements.sum_up(site.context)
        if turn.steps:
            await all_steps(site)
    site.clock.move(seconds=PERIOD_S + 5)
    await all_steps(site)
    return known


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
