"""Which blocks a flow breaks, of whom, and what would do."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from forecast_strategies import HOUR, NOW, block, message, messages, terms
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.breach import Breach, Limits, Measured, judge
from fpd.domain.compliance import (
    Cause,
    Direction,
    Flow,
    Foreseen,
    Trouble,
    flows_of,
    troubles,
    wanted_capacity,
)
from fpd.domain.control.caps import Window, tick_of
from fpd.domain.forecast import Forecast, GapPolicy, Terms, envelope_at, envelopes


def flow(power_w: int, since_h: float, until_h: float, direction: str = "import") -> Flow:
    return Flow(
        start_at=NOW + since_h * HOUR,
        end_at=NOW + until_h * HOUR,
        direction=Direction(direction),
        power_w=power_w,
        cause=Cause.FLOOR,
    )


def broken(
    said: list[Forecast], *flows: Flow, online: bool = True, **of: Any
) -> list[tuple[int, int, float, float, int]]:
    """(forecast, block, from hour, to hour, by how much)"""
    found = troubles(said, flows, provider_online=online, terms=replace(Terms(), **of))
    return [
        (t.forecast_id, t.place, (t.start_at - NOW) / HOUR, (t.end_at - NOW) / HOUR, t.by_w)
        for t in found
    ]


def test_only_the_blocks_that_allow_less_are_named_and_each_once() -> None:
    said = [message("CONSUMPTION", block(0, 1, 2000), block(1, 2, 1000), block(2, 3, 500))]
    flows = (flow(1500, 0, 2.5), flow(700, 2, 4))
    assert broken(said, *flows) == [(1, 1, 1, 2, 500), (1, 2, 2, 3, 1000)]
    assert broken(said, flow(1500, 0, 3, "export")) == []
    assert broken(said, flow(1000, 1, 2)) == [], "just what is allowed"


def test_what_a_newer_forecast_replaces_is_not_blamed() -> None:
    said = [
        message("GENERATION", block(0, 4, 0), id=1),
        message("GENERATION", block(1, 2, 5000), id=2),
    ]
    assert broken(said, flow(300, 0, 2, "export")) == [(1, 0, 0, 1, 300)]


def test_each_provider_hears_of_its_own_forecast() -> None:
    said = [
        message("CONSUMPTION", block(0, 1, 1000), id=1, peer_id=1),
        message("CONSUMPTION", block(0, 1, 1200), id=2, peer_id=2),
        message("CONSUMPTION", block(0, 1, 5000), id=3, peer_id=3),
    ]
    assert broken(said, flow(1500, 0, 1)) == [(1, 0, 0, 1, 500), (2, 0, 0, 1, 300)]


@pytest.mark.parametrize(
    ("online", "policy", "blamed"),
    [
        (True, GapPolicy.FALLBACK, [1, 2]),
        (True, GapPolicy.UNLIMITED, [1]),
        (True, GapPolicy.HOLD_LAST, [1]),
        (False, GapPolicy.FALLBACK, [2]),
    ],
)
def test_the_fallback_is_blamed_where_it_is_in_force(
    online: bool, policy: GapPolicy, blamed: list[int]
) -> None:
    said = [
        message("CONSUMPTION", block(0, 1, 100), id=1),
        message("FALLBACK_CONSUMPTION", block(-9, 9, 200), id=2),
    ]
    found = broken(said, flow(500, 0, 2), online=online, gap_policy=policy)
    assert [one[0] for one in found] == blamed


def test_limits_of_phases_are_blamed_by_what_they_allow_the_sum() -> None:
    said = [message("CONSUMPTION", block(0, 1, 500, "W", "TWO"), block(0, 1, 2000), id=1)]
    assert broken(said, flow(1800, 0, 1)) == [(1, 0, 0, 1, 300)]


def test_a_static_limit_is_nobodys_block() -> None:
    assert broken([], flow(1500, 0, 1), static_import_w=1000) == [(0, 0, 0, 1, 500)]


def test_a_plan_is_beyond_the_strictest_limit_of_each_tick() -> None:
    said = [message("CONSUMPTION", block(0, 0.1, 1000), block(0.1, 2, 3000))]
    allowed = envelopes(
        said, start_at=NOW, end_at=NOW + 3 * HOUR, provider_online=True, terms=Terms()
    )
    foreseen = Foreseen(
        start_at=NOW, end_at=NOW + HOUR, direction=Direction.IMPORT, by_w=100, cause=Cause.ENERGY
    )
    found = list(flows_of([foreseen], allowed, Window(tick_of(NOW))))
    assert [one.power_w for one in found] == [1100, 3100, 3100, 3100]
    assert broken(said, *found) == [(1, 0, 0, 0.1, 100), (1, 1, 0.25, 1, 100)]


@pytest.mark.parametrize(
    ("capacity", "unit", "phase", "wanted"),
    [
        (1000, "W", "ALL", "1500"),
        (0, "KW", "UNKNOWN", "1.5"),
        (16, "A", "ONE", "2.174"),
        (3, "A", "ALL", "6.522"),
        (100, "WH", "ALL", "3000"),
    ],
)
def test_the_wanted_capacity_is_in_the_unit_of_the_block(
    capacity: int, unit: str, phase: str, wanted: str
) -> None:
    asked = block(0, 2, capacity, unit, phase)
    assert wanted_capacity(asked, 1500, Terms()) == Decimal(wanted)


@given(messages(), terms, st.booleans(), st.integers(0, 6000), st.sampled_from(Direction))
def test_whoever_gives_the_limit_is_blamed_if_a_block_does(
    said: list[Forecast], terms: Terms, online: bool, power_w: int, direction: Direction
) -> None:
    said = [replace(one, id=n) for n, one in enumerate(sorted(said, key=lambda m: m.id), 1)]
    terms = replace(terms, static_import_w=None, static_export_w=None)
    instant = Flow(
        start_at=NOW,
        end_at=NOW + NOW.resolution,
        direction=direction,
        power_w=power_w,
        cause=Cause.FLOOR,
    )
    found = troubles(said, [instant], provider_online=online, terms=terms)
    envelope = envelope_at(said, at=NOW, provider_online=online, terms=terms)
    limit_w = envelope.max_w if direction is Direction.IMPORT else envelope.min_w
    kept = limit_w is None or power_w <= abs(limit_w)
    assert not (found and kept), "nobody is blamed for what can be kept"
    assert {one.forecast_id for one in found} <= set(envelope.forecast_ids) or not kept
    if not kept and envelope.reason in ("forecast", "fallback", "gap-fallback"):
        assert found or _other_direction_gives_the_reason(said, online, terms, direction)
    assert all(_covers(one) for one in found)


def _covers(trouble: Trouble) -> bool:
    assert trouble.block is not None
    return trouble.block.start_at <= trouble.start_at < trouble.end_at <= trouble.block.end_at


def _other_direction_gives_the_reason(
    said: list[Forecast], online: bool, terms: Terms, direction: Direction
) -> bool:
    """Only held limits are in force in this direction, which no block gives any more."""
    mine = "CONSUMPTION" if direction is Direction.IMPORT else "GENERATION"
    own = [one for one in said if str(one.type).endswith(mine)]
    alone = envelope_at(own, at=NOW, provider_online=online, terms=terms)
    return alone.reason in ("last-known", "hold-last") or len({m.peer_id for m in own}) > 1


def limits(id: int, from_s: float, max_w: int | None, min_w: int | None = None) -> Limits:
    return Limits(id=id, from_at=NOW + from_s / 3600 * HOUR, min_w=min_w, max_w=max_w)


def read(*readings: tuple[float, float]) -> list[Measured]:
    return [Measured(NOW + s / 3600 * HOUR, Decimal(str(watts))) for s, watts in readings]


@pytest.mark.parametrize(
    ("readings", "violations"),
    [
        ([(0, 1500)], 0),
        ([(0, 1500), (10, 1500)], 0),  # an inverter's first seconds
        ([(0, 1500), (10, 1500), (30, 1400)], 1),
        ([(0, 1500), (900, 1500)], 1),
        ([(0, 1500), (15, 900), (30, 1500), (45, 1500)], 0),
        ([(0, 1009), (60, 1009)], 0),  # no meter is better
        ([(0, 1011), (60, 1011), (90, 1020)], 1),
        ([(0, 1500), (60, -1500), (120, 1500)], 0),  # not in the same direction
        ([(0, -1500), (60, -1500)], 1),
        ([(-60, 1500), (-20, 1500)], 0),  # nothing was in force
        ([(180, 1500), (220, 1500)], 0),  # a new envelope is to be followed first
        ([(180, 1500), (240, 1500)], 1),
        ([(0, 1500), (100, 1500), (900, 1500), (1800, 1500)], 2),  # of each envelope once
    ],
)
def test_two_readings_in_a_row_beyond_one_limit_are_a_violation(
    readings: list[tuple[float, float]], violations: int
) -> None:
    in_force = [limits(1, 0, 1000, 0), limits(2, 200, 1000, 0)]
    going_on: Breach | None = None
    found = []
    for one in read(*readings):
        going_on, new = judge(going_on, [one], in_force)
        found += new
    assert len(found) == violations
    assert judge(None, read(*readings), in_force) == (going_on, found), "in one look or several"


def test_zero_is_a_limit_and_none_is_not() -> None:
    many = read((0, 500), (60, 500))
    assert judge(None, many, [limits(1, 0, None)])[1] == []
    (found,) = judge(None, many, [limits(1, 0, 0)])[1]
    assert (found.direction, found.power_w, found.by_w) == (Direction.IMPORT, 500, 500)
