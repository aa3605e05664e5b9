"""An asset is measured from another source: of two registers nothing is ever mixed.

FPD_EXAMPLES asks for more examples.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from flows.exact_model import Series, average, movement
from flows.measured_site import NOON, Hands, Site
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st

from fpd.domain.datum import Datum, StreamKey
from fpd.flows import ingest, measurements
from fpd.store.db import Database

EXAMPLES = int(os.environ.get("FPD_EXAMPLES", "5"))
HALF = Fraction(1, 2 * 10**9)  # a reported number has nine decimal places
PROVIDER = "CapacityProvider"
PERIOD_S = 120
PERIOD = timedelta(seconds=PERIOD_S)
SOURCES = ("load/1", "load/2")
FAR = 10**6  # what the second one has more than the first


@dataclass(frozen=True)
class Turn:
    """The clock moves, sources are read, the asset gets the other source, the daemon works.

    `late_s`: how late a datum of its source comes, if one does, whose value is that of `read`.
    """

    move_s: int
    read: tuple[int | None, int | None]
    changes: bool
    sums_up: bool
    steps: bool
    late_s: int = 0


_VALUES = st.none() | st.integers(0, 50)
_ONE = (
    st.integers(1, 9).map(lambda n: 10 * n) | st.integers(1, 130),
    st.tuples(_VALUES, _VALUES),
    st.integers(0, 4).map(lambda n: n == 0),
    st.booleans(),
    st.booleans(),
)
_TURNS = st.lists(st.builds(Turn, *_ONE), min_size=6, max_size=20)
_WITH_LATE = st.lists(
    st.builds(Turn, *_ONE, st.just(0) | st.integers(1, 400)), min_size=6, max_size=20
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
    await site.add_asset("register", energy={"propertyNames": ["v"], "unit": "Wh"})
    await site.add_asset(
        "average",
        audience="CapacityOptimizer",
        instantaneous={"propertyNames": ["v"], "unit": "W"},
    )
    await all_steps(site)


Known = dict[str, dict[datetime, Fraction]]


async def read(site: Site, source: str, value: int, known: Known, *, late_s: int = 0) -> None:
    at = site.clock.at - timedelta(seconds=late_s)
    value += FAR * SOURCES.index(source)
    known[source][at] = Fraction(value)
    of = Datum(stream=StreamKey(1, 7, source), at=at, i={"v": Decimal(value)})
    await ingest.store(site.context, [of])


async def all_steps(site: Site) -> None:
    while await measurements.step(site.context):
        pass


async def change(site: Site, source: str) -> None:
    await site.execute("update asset set source_id = %(source)s", source="/" + source)


async def told(site: Site) -> dict[tuple[str, datetime], list[Any]]:
    """What peers were told, by audience and period."""
    rows = await site.fetch(
        """
        select r.audience, r.start_at, o.body
          from measurement_report as r join outbox as o on o.request_id = r.request_id
         order by r.start_at, o.revision
        """
    )
    return {
        (audience, start_at): json.loads(body, parse_float=Decimal)["measurements"]
        for audience, start_at, body in rows
    }


def turn(move_s: int, first: int | None, second: int | None, *, does: str = "") -> Turn:
    return Turn(
        move_s, (first, second), "change" in does, sums_up="sum" in does, steps="step" in does
    )


# Summed up from the first source; then the second one is summed up into the same period.
HALF_WAY = [
    turn(8, 3, 7, does="step"),
    turn(112, 4, 8),
    turn(10, 5, 9, does="step"),
    turn(30, 6, 20, does="sum"),
    turn(10, 7, 30, does="change"),
    turn(10, 8, 40, does="sum"),
    turn(30, 9, 45, does="sum"),
    turn(30, 9, 46),
    turn(10, 9, 47, does="step"),
    turn(120, 9, 48),
    turn(10, 9, 50, does="step"),
]


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(turns=HALF_WAY)
@given(turns=_TURNS)
async def test_each_period_is_of_one_source_alone(site: Site, turns: list[Turn]) -> None:
    """Of the one that its asset has when it is closed; and what one tells in a row adds up."""
    note("\n".join(map(str, turns)))
    known, of = await play(site, turns)
    for key, (entry,) in (await told(site)).items():
        assert agrees(entry, key, known[of[key][0]]), key
    check_chain(await told(site), of)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(turns=_WITH_LATE)
async def test_corrections_too_are_of_one_source_alone(site: Site, turns: list[Turn]) -> None:
    """Of which, depends on when they are made.

    Times of the two may overlap: a report of which the new source says nothing stands.
    """
    note("\n".join(map(str, turns)))
    known, _ = await play(site, turns)
    for key, (entry,) in (await told(site)).items():
        assert any(agrees(entry, key, series) for series in known.values()), key


async def play(
    site: Site, turns: list[Turn]
) -> tuple[Known, dict[tuple[str, datetime], tuple[str, datetime]]]:
    """Let it all happen; return what was read, and of each period that was told from which
    source first, and since when its asset had that.
    """
    await begin_anew(site)
    known: Known = {source: {} for source in SOURCES}
    source, of, changed_at = SOURCES[0], {}, site.clock.at
    for one in turns:
        site.clock.move(seconds=one.move_s)
        for name, value in zip(SOURCES, one.read, strict=True):
            if value is not None:
                late_s = one.late_s if name == source else 0
                await read(site, name, value, known, late_s=late_s)
        if one.late_s:
            await all_steps(site)
        if one.sums_up:
            await measurements.sum_up(site.context)
        if one.changes:
            source, changed_at = SOURCES[1 - SOURCES.index(source)], site.clock.at
            await change(site, source)
        if one.steps:
            await all_steps(site)
        of |= {key: (source, changed_at) for key in await told(site) if key not in of}
        site.clock.move(seconds=1)
    return known, of


def agrees(entry: Any, key: tuple[str, datetime], series: Series) -> bool:
    """Tell whether an entry is what this series says."""
    audience, start_at = key
    if audience == "CapacityOptimizer":
        value = Fraction(entry["instantaneous_measurement"]["value"])
        expected = average(series, start_at, start_at + PERIOD, timedelta(minutes=15))
        return expected is not None and abs(value - expected) <= HALF
    return abs(Fraction(entry["value"]) - movement(series, *_times(entry))) <= HALF


def _times(entry: Any) -> tuple[datetime, datetime]:
    names = ("initial_measure_time", "measure_time")
    from_at, until_at = (datetime.fromisoformat(entry[name]) for name in names)
    return from_at, until_at


def check_chain(
    told: dict[tuple[str, datetime], list[Any]],
    of: Mapping[tuple[str, datetime], tuple[str, datetime]],
) -> None:
    """Energies follow each other; those that are told `of` the same source without a gap."""
    chain = [(key, *_times(entry)) for key, (entry,) in told.items() if key[0] == PROVIDER]
    for (one, _, until_at), (following, from_at, _) in pairwise(chain):
        assert from_at >= until_at
        if of[one] == of[following]:
            assert from_at == until_at


async def test_a_corrected_period_hands_over_to_one_begun_with_the_old_source(site: Site) -> None:
    """What the new source was told up to before the period's end is gone on with from there."""
    await begin_anew(site)

    async def at_second(second: int, source: str, value: int) -> None:
        site.clock.at = NOON + timedelta(seconds=second)
        await read(site, source, value, {name: {} for name in SOURCES})

    first, second = SOURCES
    await at_second(10, first, 0)
    await at_second(125, first, 5)
    await all_steps(site)
    await at_second(140, first, 6)
    site.clock.move(seconds=10)
    await measurements.sum_up(site.context)
    await change(site, second)
    for when, value in ((50, 10), (100, 20)):
        late_s = 150 - when
        await read(site, second, value, {name: {} for name in SOURCES}, late_s=late_s)
    await all_steps(site)
    await at_second(241, second, 60)
    site.clock.move(seconds=5)
    await all_steps(site)
    entries = [entry for (to, _), (entry,) in (await told(site)).items() if to == PROVIDER]
    seconds = [[(at - NOON).total_seconds() for at in _times(entry)] for entry in entries]
    assert seconds == [[50, 100], [100, 240]]
    assert [entry["value"] for entry in entries] == [10, Decimal("39.716312057")]


async def test_other_settings_hold_for_the_whole_of_the_period_that_is_closed(site: Site) -> None:
    """Another property is another register; another multiplier counts for all of a period."""
    await begin_anew(site)

    async def of_both(v: int, w: int) -> None:
        i = {"v": Decimal(v), "w": Decimal(w)}
        of = Datum(stream=StreamKey(1, 7, SOURCES[0]), at=site.clock.at, i=i)
        await ingest.store(site.context, [of])

    first = '{"propertyNames": ["v"], "unit": "Wh", "multiplier": 3}'
    second = '{"propertyNames": ["w"], "unit": "Wh"}'
    site.clock.at = NOON
    await of_both(0, FAR)
    for energy in (first, second):
        site.clock.move(seconds=60)
        await of_both(10, FAR + 1)
        site.clock.move(seconds=5)
        await measurements.sum_up(site.context)
        await site.execute("update asset set energy = %(e)s where id = 1", e=energy)
        site.clock.move(seconds=55)
        await of_both(20, FAR + 5)
        site.clock.move(seconds=3)
        await all_steps(site)
        site.clock.move(seconds=-3)
    values = [entry["value"] for (to, _), (entry,) in (await told(site)).items() if to == PROVIDER]
    assert values == [60, 4]
