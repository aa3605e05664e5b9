"""From the messages of peers to what a group may do: supersede, fall back, merge.

A *forecast* is one UpdateGroupCapacityForecast as received; an *envelope* is what the group may
do, in W over time. Into the group is positive: `max_w` limits the import, `min_w` is minus the
limit of the export. None is "no limit", 0 is a limit.

Sources: OSCP 2.0 §4.4.1 and the meaning of its forecast types; the protocol has no rule for
supersession, overlaps, gaps or the direction of OPTIMUM, so those are interpretations.

Interpretation: decision P3, a newer message replaces older ones exactly in the time ranges that
its blocks cover, per (peer, type, phase); UNKNOWN is read as ALL there, as everywhere.
Interpretation: decision P7, static limits apply beside forecasts and the tighter wins.
Interpretation: every capacity provider has its own gaps and fallback; the tightest limit counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Final

from fpd.domain.course import Course, Span, lay, merge, newer
from fpd.domain.grants import Grant, OnPhase, PhaseLimit, limit_of_sum, phase_limits, whole
from fpd.domain.units import SINGLE_PHASES, AmpereAll, Phase, Unit, floor_w, watts
from fpd.errors import Malformed


class ForecastType(StrEnum):
    """CONSUMPTION limits the import, GENERATION the export; OPTIMUM is a wish inside both."""

    CONSUMPTION = "CONSUMPTION"
    GENERATION = "GENERATION"
    FALLBACK_CONSUMPTION = "FALLBACK_CONSUMPTION"
    FALLBACK_GENERATION = "FALLBACK_GENERATION"
    OPTIMUM = "OPTIMUM"


class GapPolicy(StrEnum):
    """What holds while the provider is online and no block of it covers the instant."""

    FALLBACK = "Fallback"
    STATIC = "Static"
    HOLD_LAST = "HoldLast"
    UNLIMITED = "Unlimited"


class OptimumDirection(StrEnum):
    AUTO = "Auto"
    IMPORT = "Import"
    EXPORT = "Export"


class Overlap(StrEnum):
    """Which of two messages counts where both have a block."""

    NEWEST_WINS = "newest_wins"
    MOST_RESTRICTIVE = "most_restrictive"


class Spread(StrEnum):
    """How the power that we steer lies on the phases.

    BALANCED: equally on all of them, so limits of single phases allow a sum of phases × the
    tightest. SINGLE: on one that we do not know, so the tightest is all that may be carried.
    """

    BALANCED = "balanced"
    SINGLE = "single"


class Reason(StrEnum):
    """Where the limits of an envelope come from; of two, the one named first here."""

    FALLBACK = "fallback"  # the provider is offline and left a fallback
    LAST_KNOWN = "last-known"  # it is offline and left none: its last limit stays
    FORECAST = "forecast"
    GAP_FALLBACK = "gap-fallback"  # it is online, no block covers the instant
    HOLD_LAST = "hold-last"
    STATIC = "static"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """`capacity` (≥ 0, in `unit`, on `phase`) during [start_at, end_at).

    Raises Malformed for an interval without duration and a capacity that is negative or not a
    number.
    """

    start_at: datetime
    end_at: datetime
    capacity: Decimal
    unit: Unit
    phase: Phase

    def __post_init__(self) -> None:
        if self.end_at <= self.start_at:
            raise Malformed("end_time: not after start_time")
        if not (self.capacity.is_finite() and self.capacity >= 0):
            raise Malformed("capacity: not a number from 0 on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """One message; `id` is ours, and its order the order of receipt: a clock may be set back."""

    received_at: datetime
    type: ForecastType
    blocks: tuple[Block, ...]
    id: int = 0
    peer_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the control settings of a group say (decision M10); None: no static limit."""

    v_ln: Decimal | int = 230
    phases: int = 3
    static_import_w: int | None = None
    static_export_w: int | None = None
    gap_policy: GapPolicy = GapPolicy.FALLBACK
    optimum_direction: OptimumDirection = OptimumDirection.AUTO
    ampere_all: AmpereAll = AmpereAll.SUM
    overlap: Overlap = Overlap.NEWEST_WINS
    spread: Spread = Spread.BALANCED

    @property
    def carrying(self) -> int:
        """How many times the limit of a single phase the sum may be."""
        return self.phases if self.spread is Spread.BALANCED else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a group may do during [start_at, end_at), in W, into the group positive.

    `end_at` is the next instant at which something changes, None if nothing ever does. `min_w`
    ≤ 0 ≤ `max_w`, None: no limit. `optimum_w` is wanted, inside both; None: nothing is. `phases`
    are limits of single phases, which apply beside those of the sum.
    `forecast_ids` are the messages that give the limits of each provider and direction, also
    where a static limit is tighter; optimizers' are not among them: nobody can break a wish.
    """

    start_at: datetime
    end_at: datetime | None
    min_w: int | None
    max_w: int | None
    optimum_w: int | None
    reason: Reason
    forecast_ids: tuple[int, ...]
    phases: tuple[PhaseLimit, ...] = ()


_NOTHING: Final[Course[Grant]] = Course()


def course(messages: Iterable[Forecast], terms: Terms) -> Course[Grant]:
    """Return what messages of one type (and peer) grant the sum of the group over time.

    Interpretation: where blocks of one message overlap the smallest counts.
    """
    in_order = sorted(messages, key=lambda message: message.id)
    by_phase = {
        phase: lay(
            [_spans(message, phase, terms) for message in in_order],
            within=min,
            over=min if terms.overlap is Overlap.MOST_RESTRICTIVE else newer,
        )
        for phase in (*SINGLE_PHASES, Phase.ALL)
    }
    wished = any(message.type is ForecastType.OPTIMUM for message in in_order)
    return merge(by_phase, _wish if wished else partial(limit_of_sum, carrying=terms.carrying))


def _spans(message: Forecast, phase: Phase, terms: Terms) -> list[Span[Grant]]:
    asked = (Phase.ALL, Phase.UNKNOWN) if phase is Phase.ALL else (phase,)
    return [
        Span(block.start_at, block.end_at, Grant(block_watts(block, terms), message.id))
        for block in message.blocks
        if block.phase in asked
    ]


def block_watts(block: Block, terms: Terms) -> Decimal:
    """Return the capacity of a block in W, unrounded, on its own phase."""
    return watts(
        block.capacity,
        block.unit,
        block.phase,
        duration=block.end_at - block.start_at,
        v_ln=terms.v_ln,
        phases=terms.phases,
        ampere_all=terms.ampere_all,
    )


def _wish(by_phase: dict[Phase, Grant]) -> Grant | None:
    """Return the wish for the group's sum: the one for ALL, else those for the phases, added."""
    if Phase.ALL in by_phase or not by_phase:
        return by_phase.get(Phase.ALL)
    wishes = tuple(by_phase.values())
    total = whole(sum((wish.watts for wish in wishes), Decimal(0)))
    return Grant(total, wishes[0].forecast_id)


@dataclass(frozen=True, slots=True)
class _Limit:
    watts: int
    reason: Reason
    forecast_ids: tuple[int, ...] = ()
    phases: tuple[OnPhase, ...] = ()


def envelope_at(
    forecasts: Iterable[Forecast],
    *,
    at: datetime,
    provider_online: bool,
    terms: Terms,
    optimizer_online: bool = True,
) -> Envelope:
    """Return what the group may do at an instant; the envelope starts there.

    While `optimizer_online` is False no OPTIMUM is followed.
    """
    world = _world(forecasts, provider_online, optimizer_online, terms)
    return next(iter(world.pieces(at, None)))


def envelopes(
    forecasts: Iterable[Forecast],
    *,
    start_at: datetime,
    end_at: datetime,
    provider_online: bool,
    terms: Terms,
    optimizer_online: bool = True,
) -> tuple[Envelope, ...]:
    """Return what the group may do during [start_at, end_at), without gap or overlap.

    Neighbours differ in more than their time.
    """
    world = _world(forecasts, provider_online, optimizer_online, terms)
    return tuple(world.pieces(start_at, end_at)) if start_at < end_at else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """All that decides about an envelope but the instant."""

    providers: tuple[dict[ForecastType, Course[Grant]], ...]
    optimum: Course[Grant]
    provider_online: bool
    terms: Terms

    @property
    def edges(self) -> list[datetime]:
        """Return every instant at which something may change, in order."""
        courses = [self.optimum, *(c for own in self.providers for c in own.values())]
        return sorted({edge for course in courses for edge in course.edges})

    def envelope(self, at: datetime) -> Envelope:
        """Return what holds at the instant, without its end."""
        imports = self._limit(ForecastType.CONSUMPTION, self.terms.static_import_w, at)
        exports = self._limit(ForecastType.GENERATION, self.terms.static_export_w, at)
        reasons = {limit.reason for limit in (imports, exports) if limit}
        ids = {i for limit in (imports, exports) if limit for i in limit.forecast_ids}
        min_w = None if exports is None else -exports.watts
        max_w = None if imports is None else imports.watts
        return Envelope(
            start_at=at,
            end_at=None,
            min_w=min_w,
            max_w=max_w,
            optimum_w=self._optimum(at, min_w, max_w),
            reason=next((word for word in Reason if word in reasons), Reason.NONE),
            forecast_ids=tuple(sorted(ids)),
            phases=phase_limits(*(limit.phases if limit else () for limit in (imports, exports))),
        )

    def _limit(self, of: ForecastType, static_w: int | None, at: datetime) -> _Limit | None:
        """Return the tightest limit of one direction; the static one only if it is tighter."""
        granted = [limit for courses in self.providers if (limit := self._granted(courses, of, at))]
        ids = tuple(i for limit in granted for i in limit.forecast_ids)
        phases = tuple(phase for limit in granted for phase in limit.phases)
        if static_w is not None:
            granted.append(_Limit(static_w, Reason.STATIC))
        tightest = min(granted, key=_tightness, default=None)
        return tightest and replace(tightest, forecast_ids=ids, phases=phases)

    def _granted(
        self, courses: dict[ForecastType, Course[Grant]], of: ForecastType, at: datetime
    ) -> _Limit | None:
        """Return what one provider limits an instant to, in one direction.

        Interpretation: offline, the provider's fallback replaces its forecasts; without one its
        last known limit stays, so that a limit once known never becomes none.
        """
        normal = courses.get(of, _NOTHING)
        fallback = courses.get(_FALLBACK[of], _NOTHING)
        if not self.provider_online:
            last = normal.latest(at) or fallback.latest(at)
            return _limit(fallback.at(at), Reason.FALLBACK) or _limit(last, Reason.LAST_KNOWN)
        if covering := _limit(normal.at(at), Reason.FORECAST):
            return covering
        match self.terms.gap_policy:
            case GapPolicy.FALLBACK:
                return _limit(fallback.at(at), Reason.GAP_FALLBACK)
            case GapPolicy.HOLD_LAST:
                return _limit(normal.latest(at), Reason.HOLD_LAST)
            case GapPolicy.STATIC | GapPolicy.UNLIMITED:
                return None

    def _optimum(self, at: datetime, min_w: int | None, max_w: int | None) -> int | None:
        """Return the wanted import (+) or export (-), clipped to the limits.

        Interpretation: OPTIMUM carries no direction on the wire. Unless set, it is an import
        where a CONSUMPTION block above 0 covers the instant, else an export.
        """
        grant = self.optimum.at(at)
        if grant is None:
            return None
        direction = self.terms.optimum_direction
        importing = direction is OptimumDirection.IMPORT or (
            direction is OptimumDirection.AUTO and self._may_import(at)
        )
        wanted_w = floor_w(grant.watts) if importing else -floor_w(grant.watts)
        wanted_w = wanted_w if max_w is None else min(wanted_w, max_w)
        return wanted_w if min_w is None else max(wanted_w, min_w)

    def _may_import(self, at: datetime) -> bool:
        grants = [c.get(ForecastType.CONSUMPTION, _NOTHING).at(at) for c in self.providers]
        return min((grant.watts for grant in grants if grant is not None), default=0) > 0

    def pieces(self, start_at: datetime, end_at: datetime | None) -> Iterable[Envelope]:
        """Yield the envelopes of [start_at, end_at), each as long as nothing changes."""
        held = self.envelope(start_at)
        edges = self.edges
        for edge in edges[bisect_right(edges, start_at) :]:
            if end_at is not None and edge >= end_at:
                break
            coming = self.envelope(edge)
            if coming != replace(held, start_at=edge):
                yield replace(held, end_at=edge)
                held = coming
        yield replace(held, end_at=end_at)


def _world(
    forecasts: Iterable[Forecast], provider_online: bool, optimizer_online: bool, terms: Terms
) -> _World:
    by_provider: dict[int, dict[ForecastType, list[Forecast]]] = {}
    wishes = []
    for forecast in forecasts:
        if forecast.type is ForecastType.OPTIMUM:
            wishes.append(forecast)
        else:
            own = by_provider.setdefault(forecast.peer_id, {})
            own.setdefault(forecast.type, []).append(forecast)
    return _World(
        providers=tuple(
            {of: course(messages, terms) for of, messages in own.items()}
            for own in by_provider.values()
        ),
        optimum=course(wishes if optimizer_online else (), terms),
        provider_online=provider_online,
        terms=terms,
    )


_FALLBACK: Final = {
    ForecastType.CONSUMPTION: ForecastType.FALLBACK_CONSUMPTION,
    ForecastType.GENERATION: ForecastType.FALLBACK_GENERATION,
}


_RANK: Final = {reason: rank for rank, reason in enumerate(Reason)}


def _tightness(limit: _Limit) -> tuple[int, int]:
    """Of equal limits it must not depend on who was heard first which one gives the reason."""
    return limit.watts, _RANK[limit.reason]


def _limit(grant: Grant | None, reason: Reason) -> _Limit | None:
    if grant is None:
        return None
    ids = (grant.forecast_id, *(phase.forecast_id for phase in grant.phases))
    return _Limit(floor_w(grant.watts), reason, ids, grant.phases)
