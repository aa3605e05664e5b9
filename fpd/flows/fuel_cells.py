"""The weeks of a group's fuel cells: from envelopes and the load expected to profiles. Pure.

An export limit is what the cells together may deliver, and import limits and optima raise those
that their base power throttles, by the load that is usual at that time of the week.

Interpretation (reference on devices §5.8): the load may always fall away, so export limits count
on none unless the configuration says so (`cells_count_on_load`: on the least that was measured);
where the group exports by itself, that comes off the limit in either case.
Interpretation: an optimum raises cells and never throttles them; that is the batteries' task.
Interpretation: the window begins where the envelope in force does, and a profile that keeps the
limits and is nowhere more than 100 W away from what would be best stays: each change costs quota.
That of the import it must keep by the loads expected within 12 h: what is measured now changes
what is expected a day later, so it is changed for that reason twice a day at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from fpd.adapters.device import Command, Profile
from fpd.domain.control.ability import Weekly
from fpd.domain.control.caps import (
    TICKS_PER_DAY,
    TICKS_PER_WEEK,
    NetLoad,
    TickLimits,
    Window,
    tick_limits,
    tick_of,
)
from fpd.domain.control.dispatch import proportional
from fpd.domain.control.expected import Expected
from fpd.domain.control.ticks import UnitLimits, follow
from fpd.domain.forecast import Envelope
from fpd.flows.device_rules import command_of
from fpd.flows.steered import Steered
from fpd.flows.steering import Wanted, rest

_LONGEST_PAST = timedelta(days=1)
_MATTERS_W = 100
_SOON = TICKS_PER_DAY // 2
_Ticks = tuple[int | None, ...]


def window(*, since: datetime, now: datetime) -> Window:
    """Return the week to plan when the envelope in force began at `since`."""
    return Window(tick_of(since if now - since < _LONGEST_PAST else now))


@dataclass(frozen=True, slots=True)
class _Share:
    """What one unit may, must and should deliver in each tick, W."""

    most_w: _Ticks
    least_w: _Ticks
    wanted_w: _Ticks


def profiles(
    cells: Sequence[Steered],
    *,
    week: tuple[Envelope, ...],
    of: Window,
    load: Expected | None = None,
    count_on_load: bool = False,
    now: datetime | None = None,
) -> list[Wanted]:
    """Return what the fuel cells are to follow so that together they keep the group's limits.

    A unit that is not exporting gets its profile too, so that it wakes up limited. One that
    ignores profiles gets none: the others make room for what it delivers. Where nothing is
    limited below what units can do, nor asks for more than their base, each goes back to its own.
    `now` None: the window begins now.
    """
    soon = (0 if now is None else tick_of(now) - of.first) + _SOON
    known = [c for c in cells if c.reading is not None and c.reading.limits is not None]
    ruled = [c for c in known if c.reading is not None and c.reading.profiling]
    others_w = sum(_delivers_w(c) for c in known if c not in ruled)
    asked = _asked(week, of, load or Expected(), count_on_load)
    shares = _shares(asked, others_w, tuple(_limits(c) for c in ruled))
    wanted = []
    for cell, share in zip(ruled, shares, strict=True):
        ability, limits = cell.ability, _limits(cell)
        assert isinstance(ability, Weekly)
        why = _why(share, limits, _base_w(ability, limits))
        if why is None:
            wanted += rest([cell], "nothing is limited below what it can do")
            continue
        lowest_w = min((most for most in share.most_w if most is not None), default=None)
        wanted.append(
            Wanted(
                device=cell,
                command=_kept_or(_profile(share, of, limits, ability), cell, share, of, soon),
                plan={
                    "reason": why,
                    "most_w": lowest_w,
                    "over_export_w": 0 if lowest_w is None else max(limits.min_w - lowest_w, 0),
                },
            )
        )
    return wanted


def _why(share: _Share, limits: UnitLimits, base_w: int) -> str | None:
    """Say what asks for a profile, None: nothing does."""
    if any(most is not None and most < limits.max_w for most in share.most_w):
        return "export limit"
    if any(least is not None and least > base_w for least in share.least_w):
        return "import limit"
    if any(wanted is not None and wanted > base_w for wanted in share.wanted_w):
        return "optimum"
    return None


def _base_w(ability: Weekly, limits: UnitLimits) -> int:
    return limits.max_w if ability.base_w is None else ability.base_w


def _limits(cell: Steered) -> UnitLimits:
    assert cell.reading is not None and cell.reading.limits is not None
    return cell.reading.limits


def _delivers_w(cell: Steered) -> int:
    assert cell.reading is not None
    output_w = cell.reading.output_w
    return _limits(cell).max_w if output_w is None else round(output_w)


@lru_cache(maxsize=256)
def _asked(
    week: tuple[Envelope, ...], of: Window, load: Expected, count_on_load: bool
) -> TickLimits:
    """Return what the cells together may, must and should deliver: limits and load."""
    bare = tick_limits(week, window=of, net_load=NetLoad())
    quarters = [tick % TICKS_PER_WEEK for tick in range(of.first, of.first + of.ticks)]
    sure_w = [load.least_w[q] if count_on_load else min(load.least_w[q], 0) for q in quarters]
    usual_w = [load.usual_w[q] for q in quarters]
    return TickLimits(
        window=of,
        most_w=_plus(bare.most_w, sure_w),
        least_w=_plus(bare.least_w, usual_w),
        wanted_w=_plus(bare.wanted_w, usual_w),
    )


def _plus(limits: _Ticks, load_w: Sequence[int]) -> _Ticks:
    return tuple(
        None if limit is None else limit + load for limit, load in zip(limits, load_w, strict=True)
    )


@lru_cache(maxsize=256)
def _shares(asked: TickLimits, others_w: int, units: tuple[UnitLimits, ...]) -> tuple[_Share, ...]:
    """Return what each unit may, must and should deliver of what they do together.

    What exceeds the sum of the least powers is shared in proportion to headroom (1900 W for
    800..1500 and 500..1500 W: 1047 and 853); less than that sum no unit can do.
    """
    least_w = [unit.min_w for unit in units]
    headroom_w = [unit.max_w - unit.min_w for unit in units]

    def share(together_w: int | None) -> tuple[int | None, ...]:
        if together_w is None:
            return (None,) * len(units)
        left_w = together_w - others_w
        if len(units) == 1:
            return (left_w,)
        spare_w = min(max(left_w - sum(least_w), 0), sum(headroom_w))
        extra = proportional(spare_w, headroom_w)
        return tuple(low + more for low, more in zip(least_w, extra, strict=True))

    of_all = (asked.most_w, asked.least_w, asked.wanted_w)
    by_value = {w: share(w) for each in of_all for w in set(each)}
    return tuple(
        _Share(*(tuple(by_value[w][i] for w in each) for each in of_all)) for i in range(len(units))
    )


@lru_cache(maxsize=256)
def _profile(share: _Share, of: Window, limits: UnitLimits, ability: Weekly) -> Profile:
    base_w = _base_w(ability, limits)
    raised_w = tuple(None if w is None else max(w, base_w) for w in share.wanted_w)
    return _following(_Share(share.most_w, share.least_w, raised_w), of, limits, ability, base_w)


@lru_cache(maxsize=256)
def _highest(most_w: _Ticks, of: Window, limits: UnitLimits, ability: Weekly) -> Profile:
    """Return the profile that gives all that the export limit leaves."""
    none = (None,) * of.ticks
    return _following(_Share(most_w, none, none), of, limits, ability, limits.max_w)


@lru_cache(maxsize=256)
def _lowest(
    least_w: _Ticks, until: int, of: Window, limits: UnitLimits, ability: Weekly
) -> Profile:
    """Return the profile that gives no more than the import limit needs in the first ticks."""
    none = (None,) * of.ticks
    soon = (*least_w[:until], *none[until:])
    return _following(_Share(none, soon, none), of, limits, ability, limits.min_w)


def _following(
    share: _Share, of: Window, limits: UnitLimits, ability: Weekly, base_w: int
) -> Profile:
    followed = follow(
        TickLimits(window=of, most_w=share.most_w, least_w=share.least_w, wanted_w=share.wanted_w),
        limits=limits,
        week=ability.week,
        semantics=ability.semantics,
        base_w=base_w,
    )
    return Profile(points=tuple((point.tick, point.power_w) for point in followed.points))


def _kept_or(best: Profile, cell: Steered, share: _Share, of: Window, soon: int) -> Command:
    """Return the profile that is wanted already if it does nearly as well, else the best one."""
    before = command_of(cell.state.wanted)
    ability = cell.ability
    assert isinstance(ability, Weekly)
    if not isinstance(before, Profile) or before == best:
        return best
    most = curve(_highest(share.most_w, of, _limits(cell), ability))
    least = curve(_lowest(share.least_w, soon, of, _limits(cell), ability))
    near = all(
        min(now, lowest) <= was <= highest and abs(was - now) <= _MATTERS_W
        for was, now, highest, lowest in zip(curve(before), curve(best), most, least, strict=True)
    )
    return before if near else best


def curve(profile: Profile) -> list[int]:
    """Return the power at each of the 672 indices that the points of a profile stand for."""
    powers, held = dict(profile.points), 0
    found = []
    for index in range(TICKS_PER_WEEK):
        held = powers.get(index, held)
        found.append(held)
    return found
