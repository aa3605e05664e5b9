"""The week of a fuel cell: whatever is asked, the curve is one the unit accepts and keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from math import ceil, floor
from zoneinfo import ZoneInfo

import pytest
from forecast_strategies import NOW, block, message, messages
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.domain.control.caps import (
    TICK,
    NetLoad,
    TickLimits,
    Window,
    tick_limits,
    tick_of,
    tick_start,
)
from fpd.domain.control.ticks import (
    Anchor,
    Profile,
    Semantics,
    UnitLimits,
    Week,
    follow,
    profile,
    tick_index,
)
from fpd.domain.course import Span
from fpd.domain.forecast import Forecast, Spread, Terms, envelope_at, envelopes
from fpd.errors import Malformed

TERMS = Terms(spread=Spread.SINGLE)
UNIT = UnitLimits(min_w=800, max_w=1500, step_up_w=150, step_dn_w=150)

units = st.builds(
    lambda low, room, up, down: UnitLimits(
        min_w=low, max_w=low + room, step_up_w=up, step_dn_w=down
    ),
    st.integers(0, 1000),
    st.integers(0, 1500),
    st.integers(0, 2000) | st.integers(1, 100),
    st.integers(0, 2000) | st.integers(1, 100),
)
weeks = st.builds(
    Week,
    st.sampled_from(Anchor),
    st.sampled_from([UTC, UTC, ZoneInfo("Australia/Melbourne"), ZoneInfo("Asia/Kathmandu")]),
)
loads = st.builds(
    NetLoad.of,
    st.decimals(-2000, 5000, places=1),
    st.lists(
        st.builds(
            lambda start, length, watts: Span(
                NOW + timedelta(seconds=start), NOW + timedelta(seconds=start + length), watts
            ),
            st.integers(-900, 86400),
            st.integers(1, 40000),
            st.decimals(-2000, 5000, places=1),
        ),
        max_size=3,
    ),
)


windows = st.integers(-1, 700 * 96).map(lambda ticks: Window(tick_of(NOW) + ticks))


@st.composite
def asked(draw: st.DrawFn) -> TickLimits:
    """Return limits of a week: a few blocks of ticks that ask for something."""
    runs = st.tuples(
        st.integers(0, 671), st.integers(1, 60), st.integers(-500, 4000), st.sampled_from("mlw")
    )
    lines: dict[str, list[int | None]] = {key: [None] * 672 for key in "mlw"}
    for start, length, watts, key in draw(st.lists(runs, max_size=6)):
        for tick in range(start, min(start + length, 672)):
            lines[key][tick] = watts
    return TickLimits(
        window=draw(windows),
        most_w=tuple(lines["m"]),
        least_w=tuple(lines["l"]),
        wanted_w=tuple(lines["w"]),
    )


@given(asked(), units, weeks, st.sampled_from(Semantics), st.integers(-100, 3000))
def test_a_profile_is_accepted_by_the_unit_and_keeps_what_it_does_not_report(
    asked: TickLimits, unit: UnitLimits, week: Week, semantics: Semantics, base_w: int
) -> None:
    found = follow(asked, limits=unit, week=week, semantics=semantics, base_w=base_w)
    curve = found.curve_w
    assert len(curve) == 672
    assert all(unit.min_w <= power_w <= unit.max_w for power_w in curve)
    steps = [power_w - curve[k - 1] for k, power_w in enumerate(curve)]
    assert -unit.step_dn_w <= min(steps) <= max(steps) <= unit.step_up_w

    over_export, over_import = _reported(found, asked.window)
    for i, (most, least) in enumerate(zip(asked.most_w, asked.least_w, strict=True)):
        assert over_export[i] <= (0 if most is None else max(unit.min_w - most, 0))
        for output_w in _outputs(curve, asked.window.first + i, week, semantics):
            assert most is None or output_w <= most + over_export[i]
            assert least is None or output_w >= least - over_import[i]


def _reported(found: Profile, window: Window) -> tuple[list[int], list[int]]:
    """Return what is reported to be over the limits, per tick."""
    over_export, over_import = [0] * 672, [0] * 672
    for violation in found.violations:
        assert violation.over_export_w + violation.over_import_w > 0
        for i in window.touched(violation.start_at, violation.end_at):
            assert over_export[i] == over_import[i] == 0
            over_export[i] = violation.over_export_w
            over_import[i] = violation.over_import_w
    return over_export, over_import


def _outputs(
    curve: tuple[int, ...], tick: int, week: Week, semantics: Semantics
) -> Iterator[float]:
    """Yield outputs of the unit inside a tick, in every reading that it may have.

    Where the week of the profile jumps, the tick before is another in time than in the profile.
    """
    anything = semantics is Semantics.ANY
    for index in week.indices(tick):
        if anything or semantics is Semantics.STEP:
            yield curve[index]
        if anything or semantics is Semantics.STEP_LAG:
            for before in {index - 1, *week.indices(tick - 1)}:
                yield from (curve[before], (curve[before] + curve[index]) / 2, curve[index])
        if anything or semantics is Semantics.LINEAR:
            following = curve[(index + 1) % 672]
            yield from (curve[index], (curve[index] + following) / 2, following)


@given(asked(), units, st.sampled_from(Semantics))
def test_the_points_read_the_same_held_or_joined_by_lines(
    asked: TickLimits, unit: UnitLimits, semantics: Semantics
) -> None:
    found = follow(
        asked, limits=unit, week=Week(Anchor.SUN), semantics=semantics, base_w=unit.max_w
    )
    points = found.points
    assert (points[0].tick, points[-1].tick) == (0, 671)
    rebuilt = [points[-1].power_w] * 672
    for point, following in pairwise(points):
        assert point.tick < following.tick
        # Flat in between, so a line between them holds the value.
        assert following.tick == point.tick + 1 or following.power_w == point.power_w
        rebuilt[point.tick : following.tick] = [point.power_w] * (following.tick - point.tick)
    assert tuple(rebuilt) == found.curve_w


@given(st.lists(st.integers(0, 900), min_size=672, max_size=672), units)
@settings(max_examples=10)
def test_no_other_curve_that_the_unit_accepts_comes_closer_to_the_limits(
    most_w: list[int], unit: UnitLimits
) -> None:
    unit = replace(unit, min_w=0, max_w=900)
    window = Window(tick_of(NOW) - tick_of(NOW) % 672)
    asked = TickLimits(
        window=window, most_w=tuple(most_w), least_w=(None,) * 672, wanted_w=(None,) * 672
    )
    found = follow(asked, limits=unit, week=Week(Anchor.THU), semantics=Semantics.STEP, base_w=900)
    # p[k] = min over j of n[j] + min(up * ticks from j to k, down * ticks from k to j)
    for k in range(0, 672, 97):
        assert found.curve_w[k] == min(
            n + min(unit.step_up_w * ((k - j) % 672), unit.step_dn_w * ((j - k) % 672))
            for j, n in enumerate(most_w)
        )


@given(messages(), loads, st.integers(0, 7 * 86400 - 1))
def test_a_tick_takes_the_strictest_limit_of_any_of_its_instants(
    forecasts: list[Forecast], net_load: NetLoad, seconds: int
) -> None:
    window = Window(tick_of(NOW))
    pieces = envelopes(
        forecasts,
        start_at=window.start_at,
        end_at=window.end_at,
        provider_online=True,
        terms=TERMS,
    )
    found = tick_limits(pieces, window=window, net_load=net_load)
    edges = {b.start_at for f in forecasts for b in f.blocks}
    edges |= {b.end_at for f in forecasts for b in f.blocks} | set(net_load.known.edges)
    start_at = tick_start(window.first + seconds // 900)
    inside = [start_at, *(edge for edge in edges if start_at < edge < start_at + TICK)]
    most, least = [], []
    for at in inside:
        envelope = envelope_at(forecasts, at=at, provider_online=True, terms=TERMS)
        (load,) = net_load.pieces(at, at + timedelta(microseconds=1))
        if envelope.min_w is not None:
            most.append(floor(load.value - envelope.min_w))
        if envelope.max_w is not None:
            least.append(ceil(load.value - envelope.max_w))
    assert found.most_w[seconds // 900] == min(most, default=None)
    assert found.least_w[seconds // 900] == max(least, default=None)


@given(st.integers(0, 4 * 10**9), st.sampled_from(Anchor))
def test_a_tick_counts_quarters_of_an_hour_since_the_anchor_day(unix: int, anchor: Anchor) -> None:
    at = datetime.fromtimestamp(unix, UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if anchor is Anchor.UNKNOWN:
        indices = Week(anchor).indices(tick_of(at))
        assert {index % 96 for index in indices} == {(at - midnight) // TICK}
        assert len(indices) == 7
    else:
        days = (at.weekday() - list(Anchor)[1:].index(anchor)) % 7
        assert tick_index(at, anchor=anchor) == days * 96 + (at - midnight) // TICK


def test_in_a_local_week_the_hour_that_the_clocks_skip_costs_no_limit() -> None:
    """Berlin, 30 March 2025: index 583 is followed by 588 in time, by 584 in the profile."""
    berlin = ZoneInfo("Europe/Berlin")
    day = datetime(2025, 3, 29, 12, tzinfo=UTC)
    night = message("GENERATION", block(0, 1))
    (limited,) = night.blocks
    limited = replace(
        limited,
        start_at=datetime(2025, 3, 30, 1, tzinfo=UTC),
        end_at=datetime(2025, 3, 30, 2, tzinfo=UTC),
    )
    found = profile(
        [replace(night, blocks=(limited,))],
        now=day,
        limits=UNIT,
        week=Week(Anchor.MON, berlin),
        semantics=Semantics.STEP_LAG,
        base_w=1500,
        net_load=NetLoad(),
        terms=TERMS,
    )
    assert [found.curve_w[k] for k in (583, 587, 588, 591)] == [1000, 1000, 1000, 1000]
    assert found.violations == ()


def test_the_daemon_gets_the_same_profile_from_envelopes() -> None:
    """So that fallback, offline and static limits count like any other."""
    window = Window(tick_of(NOW))
    pieces = envelopes(
        [message("FALLBACK_GENERATION", block(4, 6))],
        start_at=window.start_at,
        end_at=window.end_at,
        provider_online=False,
        terms=replace(TERMS, static_export_w=1400),
    )
    found = follow(
        tick_limits(pieces, window=window, net_load=NetLoad()),
        limits=UnitLimits(min_w=800, max_w=1500, step_up_w=1999, step_dn_w=1999),
        week=Week(Anchor.MON),
        semantics=Semantics.STEP,
        base_w=1500,
    )
    # Wednesday 6:00 is 216: static, from 10:00 the fallback, from 12:00 the last limit known.
    assert [(p.tick, p.power_w) for p in found.points] == [
        (0, 1000),
        (215, 1000),
        (216, 1400),
        (231, 1400),
        (232, 1000),
        (671, 1000),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, UnitLimits(min_w=800, max_w=1500, step_up_w=1999, step_dn_w=700)),
        ({"minpower": "800.2", "maxpower": "1499.9"}, (801, 1499, 1999, 700)),
        ({"slew_minutes": 60}, (800, 1500, 33, 11)),
        ({"slew_up": "0.3", "slew_dn": "0"}, (800, 1500, 4, 0)),
    ],
)
def test_limits_are_read_on_the_safe_side(change: dict[str, object], expected: object) -> None:
    told = {"minpower": "800", "maxpower": "1500", "slew_up": "133.333", "slew_dn": "46.7"}
    found = UnitLimits.of(**{name: Decimal(value) for name, value in (told | change).items()})
    if isinstance(expected, tuple):
        expected = UnitLimits(**dict(zip(UnitLimits.__slots__, expected, strict=True)))
    assert found == expected


def test_a_unit_without_any_slew_runs_flat_under_its_strictest_limit() -> None:
    found = profile(
        [message("GENERATION", block(4, 5, 900))],
        now=NOW,
        limits=UnitLimits(min_w=800, max_w=1500, step_up_w=0, step_dn_w=0),
        week=Week(),
        semantics=Semantics.ANY,
        base_w=1500,
        net_load=NetLoad(),
        terms=TERMS,
    )
    assert set(found.curve_w) == {900}


def test_limits_that_no_unit_has_are_refused() -> None:
    fine = dict.fromkeys(("minpower", "maxpower", "slew_up", "slew_dn"), Decimal(1))
    for wrong in ({"minpower": Decimal(2)}, {"minpower": Decimal(-1)}, {"slew_dn": Decimal(-1)}):
        with pytest.raises(Malformed, match=next(iter(wrong))):
            UnitLimits.of(**(fine | wrong))
