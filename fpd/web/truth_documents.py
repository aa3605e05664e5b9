"""What is answered about single phases, and about what cannot be kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from fpd.domain.compliance import NO_FORECAST, Cause, Direction
from fpd.domain.grants import PhaseLimit
from fpd.domain.units import Phase
from fpd.store.troubles import Trouble
from fpd.web.status import rfc3339

STATES: Final = ("open", "all")
Instant = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


class PhaseLimits(Struct, rename="camel", kw_only=True):
    """What may flow on one phase, W, beside the limit of the sum; null: no limit of its own."""

    phase: Phase
    min_w: int | None
    max_w: int | None


def phases(limits: Iterable[PhaseLimit]) -> list[PhaseLimits]:
    return [PhaseLimits(phase=one.phase, min_w=one.min_w, max_w=one.max_w) for one in limits]


def stored_phases(limits: Iterable[Mapping[str, Any]]) -> list[PhaseLimits]:
    return [
        PhaseLimits(phase=Phase(one["phase"]), min_w=one["min_w"], max_w=one["max_w"])
        for one in limits
    ]


class MessageSaid(Struct, rename="camel", kw_only=True):
    """A message to the provider; `state` null: it is not remembered any more."""

    request_id: str
    state: Literal["owed", "delivered", "refused", "expired", "superseded"] | None


class BlockInTrouble(Struct, rename="camel", kw_only=True):
    """A block of a forecast that cannot be kept during [from, until), and what was said of it.

    `forecastId` null: the limit is a static one. `block`: its place in the message, from 0 on.
    `powerW` flows, `byW` of it too much. `settled` false: it may be a flicker. `cleared` null: it
    goes on.
    """

    id: int
    forecast_id: int | None
    request_id: str | None
    peer_id: int | None
    block: int
    reason: Cause
    direction: Direction
    from_: Instant = field(name="from")
    until: Instant
    power_w: int
    by_w: int
    since: Instant
    last: Instant
    settled: bool
    told: MessageSaid | None
    asked: MessageSaid | None
    cleared: Instant | None


def in_trouble(row: Trouble) -> BlockInTrouble:
    known = row.forecast_id != NO_FORECAST
    return BlockInTrouble(
        id=row.id,
        forecast_id=row.forecast_id if known else None,
        request_id=row.request_id,
        peer_id=row.peer_id,
        block=row.block,
        reason=Cause(row.reason),
        direction=Direction(row.direction),
        from_=instant(row.start_at),
        until=instant(row.end_at),
        power_w=row.power_w,
        by_w=row.by_w,
        since=instant(row.since),
        last=instant(row.last_at),
        settled=row.settled,
        told=_said(row.told_as, row.told_state),
        asked=_said(row.asked_as, row.asked_state),
        cleared=rfc3339(row.cleared_at),
    )


def instant(at: datetime) -> str:
    text = rfc3339(at)
    assert text is not None
    return text


def _said(request_id: str | None, state: Any) -> MessageSaid | None:
    return None if request_id is None else MessageSaid(request_id=request_id, state=state)
