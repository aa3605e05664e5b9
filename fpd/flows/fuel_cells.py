"""The weeks of a group's fuel cells: from envelopes to a profile for each unit. Pure.

Interpretation: the expected load is 0, so an export limit is what the cells together may
deliver, and import limits are the batteries' task: a profile repeats for a week, and no load of
now is right for a week.
Interpretation: the window begins where the envelope in force does, so a profile changes when a
limit does, and not each quarter of an hour while one runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache

from fpd.adapters.device import Command, Profile
from fpd.config import BluegenDevice
from fpd.domain.control.caps import NetLoad, TickLimits, Window, tick_limits, tick_of
from fpd.domain.control.dispatch import proportional
from fpd.domain.control.ticks import Anchor, Semantics, UnitLimits, Week, follow
from fpd.domain.forecast import Envelope
from fpd.flows.steering import Steered, Wanted, rest

_LONGEST_PAST = timedelta(days=1)


def window(*, since: datetime, now: datetime) -> Window:
    """Return the week to plan when the envelope in force began at `since`."""
    return Window(tick_of(since if now - since < _LONGEST_PAST else now))


def profiles(cells: Sequence[Steered], *, week: tuple[Envelope, ...], of: Window) -> list[Wanted]:
    """Return what the fuel cells are to follow so that together they keep the export limits.

    A unit that is not exporting gets its profile too, so that it wakes up limited. One that
    ignores profiles gets none: the others make room for what it delivers. Where nothing is
    limited below what units can do, each goes back to its own profile.
    """
    known = [c for c in cells if c.reading is not None and c.reading.limits is not None]
    ruled = [c for c in known if c.reading is not None and c.reading.profiling]
    others_w = sum(_delivers_w(c) for c in known if c not in ruled)
    shares = _shares(week, of, others_w, tuple(_limits(c) for c in ruled))
    wanted = []
    for cell, most_w in zip(ruled, shares, strict=True):
        config, limits = cell.config, _limits(cell)
        assert isinstance(config, BluegenDevice)
        if all(most is None or most >= limits.max_w for most in most_w):
            wanted += rest([cell], "nothing is limited below what it can do")
            continue
        command = _profile(most_w, of, limits, config)
        lowest_w = min(most for most in most_w if most is not None)
        wanted.append(
            Wanted(
                device=cell,
                command=command,
                plan={
                    "reason": "export limit",
                    "most_w": lowest_w,
                    "over_export_w": max(limits.min_w - lowest_w, 0),
                },
            )
        )
    return wanted


def _limits(cell: Steered) -> UnitLimits:
    assert cell.reading is not None and cell.reading.limits is not None
    return cell.reading.limits


def _delivers_w(cell: Steered) -> int:
    assert cell.reading is not None
    output_w = cell.reading.output_w
    return _limits(cell).max_w if output_w is None else round(output_w)


@lru_cache(maxsize=256)
def _shares(
    week: tuple[Envelope, ...], of: Window, others_w: int, units: tuple[UnitLimits, ...]
) -> tuple[tuple[int | None, ...], ...]:
    """Return the most (W) that each unit may deliver in each tick.

    What exceeds the sum of the least powers is shared in proportion to headroom (1900 W for
    800..1500 and 500..1500 W: 1047 and 853); less than that sum no unit can do.
    """
    group = tick_limits(week, window=of, net_load=NetLoad()).most_w
    least_w = [unit.min_w for unit in units]
    headroom_w = [unit.max_w - unit.min_w for unit in units]

    def share(most_w: int | None) -> tuple[int | None, ...]:
        if most_w is None:
            return (None,) * len(units)
        left_w = most_w - others_w
        if len(units) == 1:
            return (left_w,)
        spare_w = min(max(left_w - sum(least_w), 0), sum(headroom_w))
        extra = proportional(spare_w, headroom_w)
        return tuple(low + more for low, more in zip(least_w, extra, strict=True))

    by_value = {most_w: share(most_w) for most_w in set(group)}
    return tuple(tuple(by_value[most_w][i] for most_w in group) for i in range(len(units)))


@lru_cache(maxsize=256)
def _profile(
    most_w: tuple[int | None, ...], of: Window, limits: UnitLimits, config: BluegenDevice
) -> Command:
    none = (None,) * of.ticks
    followed = follow(
        TickLimits(window=of, most_w=most_w, least_w=none, wanted_w=none),
        limits=limits,
        week=Week(Anchor(config.week_anchor)),
        semantics=Semantics(config.profile_semantics),
        base_w=limits.max_w if config.base_power_w is None else config.base_power_w,
    )
    return Profile(points=tuple((point.tick, point.power_w) for point in followed.points))
