"""Limits per tick: the strictest that holds at any instant of a quarter of an hour.

A tick is 900 s of UTC; the absolute tick of an instant is floor(unix / 900). A tick that a limit
touches for a second takes it. Nothing in a device's profile is finer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Final

from fpd.domain.course import Course, Span, lay, newer
from fpd.domain.forecast import Envelope
from fpd.domain.grants import Grant
from fpd.domain.units import floor_w

TICK: Final = timedelta(minutes=15)
TICKS_PER_DAY: Final = 96
TICKS_PER_WEEK: Final = 672

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def tick_of(at: datetime) -> int:
    """Return the absolute tick in which the instant lies."""
    return (at - _EPOCH) // TICK


def tick_start(tick: int) -> datetime:
    """Return the first instant of an absolute tick."""
    return _EPOCH + tick * TICK


def ceil_w(value: Decimal) -> int:
    """Return whole watts not below `value`: how a need is rounded."""
    return int(value.to_integral_value(rounding=ROUND_CEILING))


@dataclass(frozen=True, slots=True)
class Window:
    """`ticks` ticks from the absolute tick `first` on; a week of them if not said otherwise."""

    first: int
    ticks: int = TICKS_PER_WEEK

    @property
    def start_at(self) -> datetime:
        return tick_start(self.first)

    @property
    def end_at(self) -> datetime:
        return tick_start(self.first + self.ticks)

    def touched(self, start_at: datetime, end_at: datetime) -> range:
        """Return the positions in the window that [start_at, end_at) touches."""
        after_last = -((_EPOCH - end_at) // TICK)  # rounds up
        return range(
            max(tick_of(start_at) - self.first, 0), min(after_last - self.first, self.ticks)
        )


def caps(course: Course[Grant], window: Window) -> tuple[int | None, ...]:
    """Return the strictest grant (W, rounded down) in each tick; None: no limit there.

    1 kW during [10:30, 11:00:01) limits the three ticks from 10:30 to 11:15 to 1000.
    """
    strictest: list[int | None] = [None] * window.ticks
    for start_at, end_at, grant in zip(course.edges, course.edges[1:], course.values, strict=False):
        if grant is not None:
            granted_w = floor_w(grant.watts)
            for position in window.touched(start_at, end_at):
                strictest[position] = _smaller(strictest[position], granted_w)
    return tuple(strictest)


@dataclass(frozen=True, slots=True)
class NetLoad:
    """What the site takes from the grid without the devices that we steer, in W, import +.

    `known` overrides `usual_w` where it covers; of its spans the later one counts.
    """

    usual_w: Decimal = Decimal(0)
    known: Course[Decimal] = field(default_factory=Course)

    @classmethod
    def of(cls, usual_w: Decimal, spans: Sequence[Span[Decimal]] = ()) -> NetLoad:
        return cls(usual_w, lay([[span] for span in spans], within=newer, over=newer))

    def pieces(self, start_at: datetime, end_at: datetime) -> Iterator[Span[Decimal]]:
        """Yield the load during [start_at, end_at), without gap or overlap."""
        inside = (edge for edge in self.known.edges if start_at < edge < end_at)
        for edge in (*inside, end_at):
            known_w = self.known.at(start_at)
            yield Span(start_at, edge, self.usual_w if known_w is None else known_w)
            start_at = edge


@dataclass(frozen=True, slots=True, kw_only=True)
class TickLimits:
    """What generators of a site may deliver in each tick of a window, in W at their door.

    `most_w` keeps the limit of the export, `least_w` that of the import (either may be below 0),
    `wanted_w` meets the optimum. None: no limit, no wish.
    """

    window: Window
    most_w: tuple[int | None, ...]
    least_w: tuple[int | None, ...]
    wanted_w: tuple[int | None, ...]


def tick_limits(envelopes: Iterable[Envelope], *, window: Window, net_load: NetLoad) -> TickLimits:
    """Return what the generators together may deliver so that the group keeps its envelopes.

    The group's import is load - generation, so generation lies between load - max_w and
    load - min_w. Load 300 W and an export limit of 700 W (min_w -700): at most 1000 W.
    Interpretation: of two wishes in one tick the smaller generation counts.
    """
    most_w: list[int | None] = [None] * window.ticks
    least_w: list[int | None] = [None] * window.ticks
    wanted_w: list[int | None] = [None] * window.ticks
    for envelope, load in _loaded(envelopes, window, net_load):
        for position in window.touched(load.start_at, load.end_at):
            if envelope.min_w is not None:
                most = floor_w(load.value - envelope.min_w)
                most_w[position] = _smaller(most_w[position], most)
            if envelope.max_w is not None:
                least = ceil_w(load.value - envelope.max_w)
                least_w[position] = _larger(least_w[position], least)
            if envelope.optimum_w is not None:
                wanted = floor_w(load.value - envelope.optimum_w)
                wanted_w[position] = _smaller(wanted_w[position], wanted)
    return TickLimits(
        window=window, most_w=tuple(most_w), least_w=tuple(least_w), wanted_w=tuple(wanted_w)
    )


def _loaded(
    envelopes: Iterable[Envelope], window: Window, net_load: NetLoad
) -> Iterator[tuple[Envelope, Span[Decimal]]]:
    """Yield what holds inside the window, cut where an envelope or the load changes."""
    for envelope in envelopes:
        start_at = max(envelope.start_at, window.start_at)
        end_at = min(envelope.end_at or window.end_at, window.end_at)
        if start_at < end_at:
            for load in net_load.pieces(start_at, end_at):
                yield envelope, load


def _smaller(one: int | None, other: int) -> int:
    return other if one is None else min(one, other)


def _larger(one: int | None, other: int) -> int:
    return other if one is None else max(one, other)
