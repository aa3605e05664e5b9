"""Find out by experiment how a fuel cell reads profiles (reference: devices §1.6).

The manual says neither on which day and in which zone a profile's week begins nor what holds
between two points. So a week is written that is flat but for dips of different depths: each lies
where one guess puts the same instant. The depth that the unit's output shows at that instant tells
which guess is right, the flanks tell the semantics, and the arrival of the flat part, which differs
from what ran before, tells how long a profile takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import mean, median
from zoneinfo import ZoneInfo

from fpd.domain.control.caps import TICK, TICKS_PER_WEEK, tick_of, tick_start
from fpd.domain.control.proof import Points
from fpd.domain.control.ticks import Anchor, Semantics, UnitLimits, Week, below, points_of
from fpd.errors import Malformed

Seen = tuple[datetime, float]

_DIP_TICKS = 4
_SHALLOWEST_W, _STEP_W, _LEAST_STEP_W = 80, 20, 10
_BELOW_BEFORE_W = 40
_TOLD_APART_W = 8.0
_UNDER_WAY = 0.2  # of a tick: a unit that holds values may still be moving to the new one
_ANCHORS = (
    Anchor.MON,
    Anchor.TUE,
    Anchor.WED,
    Anchor.THU,
    Anchor.FRI,
    Anchor.SAT,
    Anchor.SUN,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """If tick 0 is the midnight of `anchor` in `tz`, the dip shows `power_w`."""

    anchor: str
    tz: str
    power_w: int

    @property
    def week(self) -> Week:
        return Week(Anchor(self.anchor), ZoneInfo(self.tz))


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """The dips are at `dip_at` for `ticks` quarters of an hour; around them is `base_w`."""

    dip_at: datetime
    ticks: int
    base_w: int
    guesses: tuple[Guess, ...]

    @property
    def dip_ends_at(self) -> datetime:
        return self.dip_at + self.ticks * TICK

    @property
    def ends_at(self) -> datetime:
        """From then on nothing more can be learned."""
        return self.dip_ends_at + 2 * TICK


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the output showed; None: it did not tell. `why`: in words.

    `lag_s`: a profile took at most this long to reach the unit.
    """

    anchor: str | None
    tz: str | None
    semantics: str | None
    lag_s: float | None
    why: str


def design(
    *, now: datetime, wait: timedelta, limits: UnitLimits, unit_tz: str, output_w: float
) -> Experiment:
    """Plan the experiment `wait` from now. Raises Malformed if the unit's range is too small."""
    first = tick_of(now + wait) + 1
    base_w = limits.max_w - _BELOW_BEFORE_W
    if abs(output_w - base_w) < _BELOW_BEFORE_W / 2:
        base_w -= _BELOW_BEFORE_W
    places: dict[int, tuple[Anchor, str]] = {}
    for tz in ("UTC", unit_tz):
        for anchor in _ANCHORS:
            (index,) = Week(anchor, ZoneInfo(tz)).indices(first)
            places.setdefault(index, (anchor, tz))
    room_w = base_w - _SHALLOWEST_W - limits.min_w
    step_w = min(_STEP_W, room_w // (len(places) - 1))
    if step_w < _LEAST_STEP_W:
        raise Malformed(
            f"{limits.min_w} to {limits.max_w} W is too little to tell {len(places)} dips apart"
        )
    guesses = tuple(
        Guess(anchor=anchor, tz=tz, power_w=base_w - _SHALLOWEST_W - step_w * number)
        for number, (anchor, tz) in enumerate(places.values())
    )
    return Experiment(dip_at=tick_start(first), ticks=_DIP_TICKS, base_w=base_w, guesses=guesses)


def curve(experiment: Experiment, limits: UnitLimits) -> tuple[int, ...]:
    """Return the power of each of the 672 ticks."""
    nodes = [experiment.base_w] * TICKS_PER_WEEK
    first = tick_of(experiment.dip_at)
    for guess in experiment.guesses:
        (index,) = guess.week.indices(first)
        for offset in range(experiment.ticks):
            place = (index + offset) % TICKS_PER_WEEK
            nodes[place] = min(nodes[place], guess.power_w)
    return tuple(below(nodes, limits.step_up_w, limits.step_dn_w))


def points(experiment: Experiment, limits: UnitLimits) -> Points:
    """Return the profile to write."""
    return tuple((one.tick, one.power_w) for one in points_of(curve(experiment, limits)))


def evaluate(
    experiment: Experiment, samples: Sequence[Seen], *, assigned_at: datetime, limits: UnitLimits
) -> Findings:
    """Return what outputs (time, W), oldest first, tell of the unit."""
    lag_s = _lag_s(experiment, samples, assigned_at)
    guess, why = _deepest(experiment, samples)
    if guess is None:
        return Findings(anchor=None, tz=None, semantics=None, lag_s=lag_s, why=why)
    semantics, shape = _semantics(experiment, guess, samples, curve(experiment, limits))
    return Findings(
        anchor=guess.anchor, tz=guess.tz, semantics=semantics, lag_s=lag_s, why=f"{why}; {shape}"
    )


def _deepest(experiment: Experiment, samples: Sequence[Seen]) -> tuple[Guess | None, str]:
    """Return the guess whose depth was seen in the middle of the dip."""
    begin, end = experiment.dip_at + TICK, experiment.dip_ends_at - TICK
    core = [watts for at, watts in samples if begin <= at <= end]
    if not core:
        return None, f"no output is known from {_clock(begin)} to {_clock(end)}"
    seen_w = median(core)
    step_w = experiment.guesses[0].power_w - experiment.guesses[1].power_w
    nearest = min(experiment.guesses, key=lambda guess: abs(guess.power_w - seen_w))
    if abs(nearest.power_w - seen_w) > step_w / 2:
        return None, (
            f"{seen_w:.0f} W in the dip is none of the depths: the profile had not arrived, or the"
            " week begins as nobody has guessed"
        )
    return nearest, f"{seen_w:.0f} W in the dip ({len(core)} values)"


def _semantics(
    experiment: Experiment, guess: Guess, samples: Sequence[Seen], nodes: Sequence[int]
) -> tuple[str | None, str]:
    """Return the reading that fits the flanks best, if it fits clearly better than others."""
    first, last = tick_of(experiment.dip_at), tick_of(experiment.dip_ends_at)
    flanks = [
        (at, watts)
        for at, watts in samples
        if tick_of(at) in (first - 1, first, last - 1, last) and _share(at) >= _UNDER_WAY
    ]
    if not flanks:
        return None, "no value at its flanks tells the semantics"
    errors = {
        semantics: mean(abs(w - _output_w(nodes, at, guess.week, semantics)) for at, w in flanks)
        for semantics in (Semantics.STEP, Semantics.STEP_LAG, Semantics.LINEAR)
    }
    ranked = sorted(errors, key=lambda semantics: errors[semantics])
    if errors[ranked[1]] - errors[ranked[0]] < _TOLD_APART_W:
        return None, f"{len(flanks)} values at its flanks do not tell the semantics"
    return ranked[0].value, f"its flanks are {ranked[0].value} ({len(flanks)} values)"


def _output_w(nodes: Sequence[int], at: datetime, week: Week, semantics: Semantics) -> float:
    (index,) = week.indices(tick_of(at))
    share = _share(at)
    before, here = nodes[index - 1], nodes[index]
    after = nodes[(index + 1) % TICKS_PER_WEEK]
    if semantics is Semantics.LINEAR:
        return here + share * (after - here)
    return before + share * (here - before) if semantics is Semantics.STEP_LAG else float(here)


def _share(at: datetime) -> float:
    """Return how much of its tick has passed."""
    return (at - tick_start(tick_of(at))) / TICK


def _lag_s(experiment: Experiment, samples: Iterable[Seen], assigned_at: datetime) -> float | None:
    """Return how long after its assignment the flat part was first seen."""
    for at, watts in samples:
        near = abs(watts - experiment.base_w) < _BELOW_BEFORE_W / 2
        if at >= assigned_at and near and at < experiment.dip_at:
            return (at - assigned_at).total_seconds()
    return None


def _clock(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%H:%MZ")
