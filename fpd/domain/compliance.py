"""What of the forecasts cannot be kept: which blocks, why, and by how much.

Whoever knows what a group is going to import or export says so as a `Flow`; here it is found
which blocks that breaks. Only those are named that the flow really exceeds, of each provider its
own, so nobody hears of a limit that somebody else set.

Sources: OSCP 2.0 GroupCapacityComplianceError ("the blocks that cannot be complied with") and
AdjustGroupCapacityForecast (`capacity` is the wanted capacity, not a difference).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from typing import Final

from fpd.domain.control.caps import NetLoad, Window, tick_limits, tick_start
from fpd.domain.course import Span
from fpd.domain.forecast import (
    Block,
    Envelope,
    Forecast,
    ForecastType,
    GapPolicy,
    Terms,
    block_watts,
)
from fpd.domain.grants import whole
from fpd.domain.standing import Said, Standing, standing
from fpd.domain.units import Phase, floor_w


class Direction(StrEnum):
    IMPORT = "import"
    EXPORT = "export"


class Cause(StrEnum):
    """Why a block cannot be kept."""

    FLOOR = "floor-above-cap"  # what nobody can switch off is more than the block allows
    RAMP = "ramp-too-slow"  # a unit cannot get there in time
    ENERGY = "energy-exhausted"  # a battery is too empty, or too full, to carry it through
    DEVICE = "device-gone"  # a device does not answer, or does not follow
    QUOTA = "quota"  # a device's service takes no more requests today
    MEASURED = "measured-breach"  # it was measured, whatever the reason


SAID: Final = {
    Cause.FLOOR: "what the group cannot do without is beyond the limit",
    Cause.RAMP: "a unit cannot change its power fast enough",
    Cause.ENERGY: "the stored energy does not last",
    Cause.DEVICE: "a device does not answer or does not follow",
    Cause.QUOTA: "the service of a device takes no more requests for now",
    Cause.MEASURED: "a breach was measured",
}
NO_FORECAST: Final = 0  # in place of a forecast's id: the limit is a static one


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The group is going to take or deliver `power_w` (≥ 0, W) during [start_at, end_at).

    `firm`: that follows from what is known, and not from what was measured a moment ago.
    """

    start_at: datetime
    end_at: datetime
    direction: Direction
    power_w: int
    cause: Cause
    firm: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A block that cannot be kept during [start_at, end_at), which lies inside it.

    `place`: which block of the forecast, from 0 on. `block` None and `forecast_id` NO_FORECAST: it
    is a static limit, and nobody's block. `power_w` flows at worst, `by_w` more than is allowed.
    """

    forecast_id: int
    peer_id: int | None
    place: int
    block: Block | None
    direction: Direction
    cause: Cause
    start_at: datetime
    end_at: datetime
    power_w: int
    by_w: int
    firm: bool = True


def troubles(
    messages: Sequence[Forecast], flows: Iterable[Flow], *, provider_online: bool, terms: Terms
) -> tuple[Trouble, ...]:
    """Return the blocks that the flows break, once per block and cause, at their worst.

    An import of 1500 W breaks a CONSUMPTION of 1000 W by 500 W and one of 2000 W not at all.

    Interpretation: limits that are held beyond their blocks (gap policy HoldLast, or a provider
    that is offline and left no fallback) break no block: it has ended.
    """
    flows = tuple(flow for flow in flows if flow.start_at < flow.end_at)
    if not flows:
        return ()
    lines = _Lines.of(
        standing(
            messages,
            terms,
            start_at=min(flow.start_at for flow in flows),
            end_at=max(flow.end_at for flow in flows),
        )
    )
    places = {id(block): n for message in messages for n, block in enumerate(message.blocks)}
    found: dict[tuple[int, int, Cause], Trouble] = {}
    for flow in flows:
        for trouble in (
            *_of_forecasts(lines, flow, places, provider_online, terms),
            *_of_static_limits(flow, terms),
        ):
            key = (trouble.forecast_id, trouble.place, trouble.cause)
            found[key] = _worse(found[key], trouble) if key in found else trouble
    return tuple(found[key] for key in sorted(found))


@dataclass(frozen=True, slots=True)
class _Line:
    """What a provider said of one phase; `starts` are those of the spans."""

    phase: Phase
    spans: tuple[Span[Said], ...]
    starts: tuple[datetime, ...]

    def during(self, start_at: datetime, end_at: datetime) -> tuple[Span[Said], ...]:
        first = max(bisect_left(self.starts, start_at) - 1, 0)
        last = bisect_left(self.starts, end_at)
        return tuple(span for span in self.spans[first:last] if span.end_at > start_at)


@dataclass(frozen=True, slots=True)
class _Lines:
    """What each provider said, by the type of the forecast."""

    by_peer: dict[int, dict[ForecastType, list[_Line]]]

    @classmethod
    def of(cls, said: Iterable[Standing]) -> _Lines:
        by_peer: dict[int, dict[ForecastType, list[_Line]]] = {}
        for one in said:
            if one.type is not ForecastType.OPTIMUM:
                lines = by_peer.setdefault(one.peer_id, {}).setdefault(one.type, [])
                starts = tuple(span.start_at for span in one.spans)
                lines.append(_Line(one.phase, one.spans, starts))
        return cls(by_peer)


_TYPES: Final = {
    Direction.IMPORT: (ForecastType.CONSUMPTION, ForecastType.FALLBACK_CONSUMPTION),
    Direction.EXPORT: (ForecastType.GENERATION, ForecastType.FALLBACK_GENERATION),
}
_Covering = list[tuple[Phase, Said]]


def _of_forecasts(
    lines: _Lines, flow: Flow, places: dict[int, int], provider_online: bool, terms: Terms
) -> Iterator[Trouble]:
    for peer_id, by_type in lines.by_peer.items():
        normal, fallback = (by_type.get(of, []) for of in _TYPES[flow.direction])
        spans = [
            s for line in (*normal, *fallback) for s in line.during(flow.start_at, flow.end_at)
        ]
        ends = {at for span in spans for at in (span.start_at, span.end_at)}
        edges = sorted({flow.start_at, *(at for at in ends if flow.start_at < at < flow.end_at)})
        for start_at, end_at in zip(edges, [*edges[1:], flow.end_at], strict=True):
            counting = _counting(
                _covering(normal, start_at), _covering(fallback, start_at), provider_online, terms
            )
            for phase, said in counting:
                times = 1 if phase is Phase.ALL else terms.carrying
                limit_w = floor_w(whole(said.watts * times))
                if limit_w < flow.power_w:
                    yield Trouble(
                        forecast_id=said.forecast_id,
                        peer_id=peer_id,
                        place=places[id(said.block)],
                        block=said.block,
                        direction=flow.direction,
                        cause=flow.cause,
                        start_at=start_at,
                        end_at=end_at,
                        power_w=flow.power_w,
                        by_w=flow.power_w - limit_w,
                        firm=flow.firm,
                    )


def _covering(lines: Iterable[_Line], at: datetime) -> _Covering:
    return [
        (line.phase, span.value)
        for line in lines
        for span in line.during(at, at + datetime.resolution)
        if span.start_at <= at
    ]


def _counting(
    normal: _Covering, fallback: _Covering, provider_online: bool, terms: Terms
) -> _Covering:
    """Return the blocks that count at an instant: as for envelopes, of each provider its own."""
    if provider_online:
        return normal or (fallback if terms.gap_policy is GapPolicy.FALLBACK else [])
    return fallback or normal


def _of_static_limits(flow: Flow, terms: Terms) -> Iterator[Trouble]:
    importing = flow.direction is Direction.IMPORT
    limit_w = terms.static_import_w if importing else terms.static_export_w
    if limit_w is not None and limit_w < flow.power_w:
        yield Trouble(
            forecast_id=NO_FORECAST,
            peer_id=None,
            place=0 if importing else 1,
            block=None,
            direction=flow.direction,
            cause=flow.cause,
            start_at=flow.start_at,
            end_at=flow.end_at,
            power_w=flow.power_w,
            by_w=flow.power_w - limit_w,
            firm=flow.firm,
        )


def _worse(one: Trouble, other: Trouble) -> Trouble:
    return replace(
        one,
        start_at=min(one.start_at, other.start_at),
        end_at=max(one.end_at, other.end_at),
        power_w=max(one.power_w, other.power_w),
        by_w=max(one.by_w, other.by_w),
        firm=one.firm or other.firm,
    )


_THOUSANDTH: Final = Decimal("0.001")


def wanted_capacity(block: Block, power_w: int, terms: Terms) -> Decimal:
    """Return with which capacity, in its own unit, a block would allow the group `power_w`.

    1500 W where 16 A on ONE were granted to a group of three phases at 230 V: 2.174 A. Rounded up
    to three places.
    """
    carrying = 1 if block.phase in (Phase.ALL, Phase.UNKNOWN) else terms.carrying
    one_w = block_watts(replace(block, capacity=Decimal(1)), terms) * carrying
    return (power_w / one_w).quantize(_THOUSANDTH, rounding=ROUND_CEILING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """A plan's word: during [start_at, end_at) a limit is exceeded by `by_w` (> 0, W)."""

    start_at: datetime
    end_at: datetime
    direction: Direction
    by_w: int
    cause: Cause


def flows_of(
    foreseen: Iterable[Foreseen], allowed: Iterable[Envelope], window: Window
) -> Iterator[Flow]:
    """Yield the flows that a plan's breaks mean: beyond the strictest limit in each tick."""
    limits = tick_limits(allowed, window=window, net_load=NetLoad())
    strictest = {Direction.EXPORT: limits.most_w, Direction.IMPORT: limits.least_w}
    for one in foreseen:
        for place in window.touched(one.start_at, one.end_at):
            limit_w = strictest[one.direction][place]
            if limit_w is not None:
                yield Flow(
                    start_at=max(one.start_at, tick_start(window.first + place)),
                    end_at=min(one.end_at, tick_start(window.first + place + 1)),
                    direction=one.direction,
                    power_w=abs(limit_w) + one.by_w,
                    cause=one.cause,
                )
