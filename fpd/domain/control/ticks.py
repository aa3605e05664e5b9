"""The week of a BlueGen unit: from what a site may do to the points of a power profile.

A profile is one week of (tick, power) pairs that repeats; tick is an index 0..671 of quarters of
an hour (BlueGen web service, "Power profiles": timing is absolute with respect to UTC). Powers
are whole W at the unit's door, slews W per minute.

Interpretation: the document does not say on which day the week starts, so the anchor is a
setting; UNKNOWN folds all limits onto one day and repeats it, which is right for any start.
Interpretation: nor does it say whether a value is held or interpolated, so `Semantics` is a
setting and ANY is safe for every monotone reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from enum import StrEnum
from itertools import groupby
from typing import Final

from fpd.domain.control.caps import (
    TICK,
    TICKS_PER_DAY,
    TICKS_PER_WEEK,
    NetLoad,
    TickLimits,
    Window,
    ceil_w,
    tick_limits,
    tick_of,
    tick_start,
)
from fpd.domain.forecast import Block, Forecast, ForecastType, Terms, envelopes
from fpd.domain.units import floor_w
from fpd.errors import Malformed


class Anchor(StrEnum):
    """The day that tick 0 begins."""

    UNKNOWN = "UNKNOWN"
    MON = "MON"
    TUE = "TUE"
    WED = "WED"
    THU = "THU"
    FRI = "FRI"
    SAT = "SAT"
    SUN = "SUN"


# The epoch was a Thursday.
_DAYS_AFTER_EPOCH: Final = {
    Anchor.THU: 0,
    Anchor.FRI: 1,
    Anchor.SAT: 2,
    Anchor.SUN: 3,
    Anchor.MON: 4,
    Anchor.TUE: 5,
    Anchor.WED: 6,
}


class Semantics(StrEnum):
    """How a unit reads the power of a tick.

    STEP: held from the tick on. STEP_LAG: held, but the unit moves there during the tick.
    LINEAR: straight lines to the next tick. ANY: we do not know.
    """

    STEP = "step"
    STEP_LAG = "step_lag"
    LINEAR = "linear"
    ANY = "any"


# The output inside tick k lies between the powers of the ticks k + these.
_SHAPED_BY: Final[dict[Semantics, tuple[int, ...]]] = {
    Semantics.STEP: (0,),
    Semantics.STEP_LAG: (-1, 0),
    Semantics.LINEAR: (0, 1),
    Semantics.ANY: (-1, 0, 1),
}


@dataclass(frozen=True, slots=True)
class Week:
    """When a profile's tick 0 is: at the anchor day's midnight in `tz`."""

    anchor: Anchor = Anchor.UNKNOWN
    tz: tzinfo = UTC

    def indices(self, tick: int) -> tuple[int, ...]:
        """Return where in the profile an absolute tick may lie: one index, or one per day."""
        local = tick + _offset(tick_start(tick), self.tz)
        if self.anchor is Anchor.UNKNOWN:
            return tuple(range(local % TICKS_PER_DAY, TICKS_PER_WEEK, TICKS_PER_DAY))
        return ((local - TICKS_PER_DAY * _DAYS_AFTER_EPOCH[self.anchor]) % TICKS_PER_WEEK,)


def _offset(at: datetime, tz: tzinfo) -> int:
    """Return by how many ticks clocks are ahead of UTC; no zone of today has a part of one."""
    offset = at.astimezone(tz).utcoffset()
    assert offset is not None
    return offset // TICK


def tick_index(instant: datetime, *, anchor: Anchor, tz: tzinfo = UTC) -> int:
    """Return the profile tick (0..671) of an instant, for a known first day of the week.

    Wednesday 10:07 UTC is 2 days × 96 + 10 h × 4 + 0 = 232 after Monday. In a `tz` with summer
    time four indices a year never occur and four occur twice.
    """
    (index,) = Week(anchor, tz).indices(tick_of(instant))
    return index


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLimits:
    """What a unit can do: whole W, and whole W that it may rise or fall from tick to tick."""

    min_w: int
    max_w: int
    step_up_w: int
    step_dn_w: int

    @classmethod
    def of(
        cls,
        *,
        minpower: Decimal,
        maxpower: Decimal,
        slew_up: Decimal,
        slew_dn: Decimal,
        slew_minutes: Decimal | int = 1,
    ) -> UnitLimits:
        """Read GET /unit/<id>/limits: W, and W per `slew_minutes`. Raises Malformed.

        Interpretation: the unit of a slew, "W/m", is watts per minute.
        """
        unit = cls(
            min_w=ceil_w(minpower),
            max_w=floor_w(maxpower),
            step_up_w=floor_w(slew_up * 15 / slew_minutes),
            step_dn_w=floor_w(slew_dn * 15 / slew_minutes),
        )
        if not 0 <= unit.min_w <= unit.max_w:
            raise Malformed("minpower: must lie between 0 and maxpower")
        if min(slew_up, slew_dn) < 0:
            raise Malformed("slew_up, slew_dn: must not be negative")
        return unit


@dataclass(frozen=True, slots=True)
class Point:
    tick: int
    power_w: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """What the curve cannot keep during [start_at, end_at), in W at worst, 0: it does."""

    start_at: datetime
    end_at: datetime
    over_export_w: int
    over_import_w: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What to post to /profiles/<id>/points and what it leaves undone.

    `curve_w` is the power at each of the 672 indices, `points` what is needed to say so,
    `deferred_blocks` lie beyond the week that a profile can hold.
    """

    curve_w: tuple[int, ...]
    points: tuple[Point, ...]
    violations: tuple[Violation, ...]
    max_step_up_w: int
    max_step_dn_w: int
    deferred_blocks: tuple[Block, ...] = ()


def profile(
    forecasts: Sequence[Forecast],
    *,
    now: datetime,
    limits: UnitLimits,
    week: Week,
    semantics: Semantics,
    base_w: Decimal | int,
    net_load: NetLoad,
    terms: Terms,
) -> Profile:
    """Return the profile for the 672 ticks from that of `now` on, its provider being online.

    Indices before that of `now` mean next week. Interpretation: a deferred block begins when the
    week ends, or later; of one that begins earlier the part inside is written.
    """
    window = Window(tick_of(now))
    allowed = envelopes(
        forecasts,
        start_at=window.start_at,
        end_at=window.end_at,
        provider_online=True,
        terms=terms,
    )
    followed = follow(
        tick_limits(allowed, window=window, net_load=net_load),
        limits=limits,
        week=week,
        semantics=semantics,
        base_w=base_w,
    )
    return replace(followed, deferred_blocks=_deferred(forecasts, window))


def _deferred(forecasts: Iterable[Forecast], window: Window) -> tuple[Block, ...]:
    shaping = (ForecastType.CONSUMPTION, ForecastType.GENERATION, ForecastType.OPTIMUM)
    return tuple(
        block
        for forecast in forecasts
        if forecast.type in shaping
        for block in forecast.blocks
        if block.start_at >= window.end_at
    )


def follow(
    asked: TickLimits,
    *,
    limits: UnitLimits,
    week: Week,
    semantics: Semantics,
    base_w: Decimal | int,
) -> Profile:
    """Return the profile that keeps to `asked`, a whole week of ticks, as far as the unit can.

    Where nothing else is asked the unit runs at `base_w`. The curve never needs a change from
    one tick to the next (671 to 0 included) that the unit would refuse. Where a ramp makes both
    limits impossible that of the export is kept; whatever is not kept is a violation.
    """
    shaped = _shaped(asked.window, week, semantics)
    ceiling = [limits.max_w] * TICKS_PER_WEEK
    ground = [limits.min_w] * TICKS_PER_WEEK
    for most, least, nodes in zip(asked.most_w, asked.least_w, shaped, strict=True):
        for node in nodes:
            if most is not None:
                ceiling[node] = max(min(ceiling[node], most), limits.min_w)
            if least is not None:
                ground[node] = min(max(ground[node], least), limits.max_w)
    upper = below(ceiling, limits.step_up_w, limits.step_dn_w)
    wanted = below(_targets(asked, limits, week, base_w), limits.step_up_w, limits.step_dn_w)
    lower = _above(ground, limits.step_up_w, limits.step_dn_w)
    curve = tuple(min(u, max(w, g)) for u, w, g in zip(upper, wanted, lower, strict=True))
    return Profile(
        curve_w=curve,
        points=points_of(curve),
        violations=tuple(_violations(asked, curve, shaped)),
        max_step_up_w=limits.step_up_w,
        max_step_dn_w=limits.step_dn_w,
    )


def _shaped(window: Window, week: Week, semantics: Semantics) -> list[set[int]]:
    """Return, per tick of the window, the indices whose powers shape its output.

    The neighbours of a tick are those in time and those in the profile; they differ where the
    clocks of the week's zone change.
    """
    ticks = range(window.first - 1, window.first + window.ticks + 1)
    places = {tick: week.indices(tick) for tick in ticks}
    return [
        {
            index
            for offset in _SHAPED_BY[semantics]
            for index in (
                *places[tick + offset],
                *((place + offset) % TICKS_PER_WEEK for place in places[tick]),
            )
        }
        for tick in ticks[1:-1]
    ]


def _targets(asked: TickLimits, limits: UnitLimits, week: Week, base_w: Decimal | int) -> list[int]:
    """Return what the unit would run at if it had no limits but its own."""
    base = min(max(floor_w(Decimal(base_w)), limits.min_w), limits.max_w)
    targets: dict[int, int] = {}
    for tick, wanted in enumerate(asked.wanted_w, asked.window.first):
        if wanted is not None:
            able = min(max(wanted, limits.min_w), limits.max_w)
            for index in week.indices(tick):
                targets[index] = min(able, targets.get(index, able))
    return [targets.get(index, base) for index in range(TICKS_PER_WEEK)]


def below(nodes: Sequence[int], step_up_w: int, step_dn_w: int) -> list[int]:
    """Return the largest circular curve under `nodes` whose steps the unit accepts.

    p[k] = min over j of n[j] + min(step_up × ticks from j to k, step_dn × ticks from k to j);
    two sweeps each way carry every node once around the circle.
    """
    curve = list(nodes)
    for _ in range(2):
        for k in range(len(curve)):
            curve[k] = min(curve[k], curve[k - 1] + step_up_w)
        for k in reversed(range(len(curve))):
            curve[k - 1] = min(curve[k - 1], curve[k] + step_dn_w)
    return curve


def _above(nodes: Sequence[int], step_up_w: int, step_dn_w: int) -> list[int]:
    """Return the smallest circular curve over `nodes` whose steps the unit accepts."""
    return [-w for w in below([-w for w in nodes], step_dn_w, step_up_w)]


def points_of(curve: Sequence[int]) -> tuple[Point, ...]:
    """Return both ends and every tick that differs from a neighbour.

    So the points read the same whether a unit holds values or joins them by lines.
    """
    last = len(curve) - 1
    return tuple(
        Point(tick, power_w)
        for tick, power_w in enumerate(curve)
        if tick in (0, last) or not curve[tick - 1] == power_w == curve[tick + 1]
    )


def most_delivered(
    points: Iterable[tuple[int, int]], *, window: Window, week: Week, semantics: Semantics
) -> tuple[int, ...]:
    """Return what a unit may deliver at most (W) in each tick of a window, by its (tick, W)."""
    powers = dict(points)
    held = powers[max(powers)]
    curve = [held := powers.get(tick, held) for tick in range(TICKS_PER_WEEK)]
    return tuple(max(curve[node] for node in nodes) for nodes in _shaped(window, week, semantics))


def _violations(
    asked: TickLimits, curve: Sequence[int], shaped: Sequence[set[int]]
) -> Iterable[Violation]:
    """Yield what is not kept, neighbouring ticks with equal excess joined."""
    excess = []
    for most, least, nodes in zip(asked.most_w, asked.least_w, shaped, strict=True):
        outputs = [curve[node] for node in nodes]
        over_export_w = 0 if most is None else max(max(outputs) - most, 0)
        over_import_w = 0 if least is None else max(least - min(outputs), 0)
        excess.append((over_export_w, over_import_w))
    tick = asked.window.first
    for over, run in groupby(excess):
        start_at, tick = tick_start(tick), tick + len(list(run))
        if over != (0, 0):
            yield Violation(
                start_at=start_at,
                end_at=tick_start(tick),
                over_export_w=over[0],
                over_import_w=over[1],
            )
