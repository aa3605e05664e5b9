"""What forecasts still say, once newer ones have replaced older ones: phase by phase, over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from fpd.domain.course import Course, Span, lay, newer
from fpd.domain.forecast import Block, Forecast, ForecastType, Overlap, Terms, block_watts
from fpd.domain.units import Phase


@dataclass(frozen=True, slots=True)
class Said:
    """A block and the message that it is from; `watts` is its capacity in W, on its phase."""

    watts: Decimal
    forecast_id: int
    block: Block


@dataclass(frozen=True, slots=True)
class Standing:
    """What a peer's forecasts of one type say about one phase, in disjoint spans that rise."""

    peer_id: int
    type: ForecastType
    phase: Phase
    spans: tuple[Span[Said], ...]


def standing(
    messages: Iterable[Forecast],
    terms: Terms,
    *,
    start_at: datetime,
    end_at: datetime | None = None,
) -> tuple[Standing, ...]:
    """Return what counts during [start_at, end_at), None: for ever; what says nothing is left out.

    Interpretation: as for envelopes (decision P3), the newest message counts in the time ranges
    of its blocks, UNKNOWN is read as ALL, and of blocks of one message that overlap the smallest
    counts.
    """
    layers: dict[tuple[int, ForecastType, Phase], dict[int, list[Span[Said]]]] = {}
    for message in sorted(messages, key=lambda message: message.id):
        for block in message.blocks:
            if block.end_at <= start_at or (end_at is not None and block.start_at >= end_at):
                continue
            phase = Phase.ALL if block.phase is Phase.UNKNOWN else block.phase
            own = layers.setdefault((message.peer_id, message.type, phase), {})
            said = Said(block_watts(block, terms), message.id, block)
            own.setdefault(message.id, []).append(Span(block.start_at, block.end_at, said))
    over = _smaller if terms.overlap is Overlap.MOST_RESTRICTIVE else newer
    return tuple(
        Standing(peer_id, of, phase, _cut(lay(own.values(), within=_smaller, over=over), start_at))
        for (peer_id, of, phase), own in sorted(layers.items())
    )


def _smaller(one: Said, other: Said) -> Said:
    return min(one, other, key=lambda said: said.watts)


def _cut(course: Course[Said], start_at: datetime) -> tuple[Span[Said], ...]:
    """Return the spans from `start_at` on; neighbours that are from one block are one."""
    spans: list[Span[Said]] = []
    for since, until, value in zip(course.edges, course.edges[1:], course.values, strict=False):
        if value is None or until <= start_at:
            continue
        last = spans[-1] if spans else None
        if last is not None and last.value is value and last.end_at == since:
            spans[-1] = Span(last.start_at, until, value)
        else:
            spans.append(Span(max(since, start_at), until, value))
    return tuple(spans)
