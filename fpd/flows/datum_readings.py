"""What registers read between two instants, by SolarNetwork's reading types.

Resets are bridged as in measurements: a register that falls begins anew, and no difference is
negative for that. Source: SolarQuery API enumerated types, "datum reading types".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

from fpd.domain.measurement import Carry, Period, Reading, Register, Rules, Summary
from fpd.domain.reported import reported
from fpd.errors import Malformed
from fpd.flows.context import Context
from fpd.flows.datum_out import LONGEST, Asked, narrowed
from fpd.store import datum_sums
from fpd.store.datum_out import Stream
from fpd.store.datum_sums import Around, Property

TYPES: Final = (
    "CalculatedAt",
    "CalculatedAtDifference",
    "NearestDifference",
    "Difference",
    "DifferenceWithin",
)
_CALCULATED: Final = ("CalculatedAt", "CalculatedAtDifference")
_MOMENT: Final = timedelta(microseconds=1)
_SPAN: Final = timedelta(days=7)  # summed up in one statement
_ANYWHERE: Final = timedelta(days=36_500)  # a type without limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """`values`: by property what it gained, its `_start` and `_end`; between these instants."""

    stream: Stream
    start_at: datetime
    end_at: datetime | None
    values: Mapping[str, Decimal]


async def read(
    context: Context,
    asked: Asked,
    wanted: Sequence[Stream],
    kind: str,
    *,
    tolerance: timedelta | None,
) -> list[Read]:
    """Return the reading of each stream that has one.

    `tolerance` (None: that of measurements) does not matter to Difference and DifferenceWithin.
    """
    usual = timedelta(seconds=context.config.measurements.neighbour_s)
    reach = usual if tolerance is None else tolerance
    if kind == "Difference":
        reach = _ANYWHERE
    found = []
    for stream in wanted:
        one = await _of_stream(context, asked, stream, kind, reach)
        if one is not None:
            found.append(one)
    return found


async def _of_stream(
    context: Context, asked: Asked, stream: Stream, kind: str, reach: timedelta
) -> Read | None:
    start_at, end_at = asked.start_at, asked.end_at
    if kind == "CalculatedAt":
        end_at = start_at + _MOMENT
    inside = await _inside(context, replace(asked, end_at=end_at), stream)
    async with context.db.connection() as conn:
        known = await datum_sums.registers(
            conn,
            [stream.id],
            before=end_at,
            known=asked.registers,
            properties=asked.properties,
        )
        names = {*inside, *(key.name for key in known)}
        keys = [Property(stream.id, "a", name) for name in sorted(names)]
        near = await datum_sums.around(conn, keys, start_at=start_at, end_at=end_at, reach=reach)
    values: dict[str, Decimal] = {}
    edges: list[tuple[datetime, datetime]] = []
    for key in keys:
        told = _told(
            kind, inside.get(key.name), near.get(key, Around()), Period(start_at, end_at), reach
        )
        if told is None:
            continue
        first, last, from_at, until_at = told
        edges.append((from_at, until_at))
        values[key.name] = reported(first if kind == "CalculatedAt" else last - first)
        if kind != "CalculatedAt":
            values |= {f"{key.name}_start": reported(first), f"{key.name}_end": reported(last)}
    if not edges:
        return None
    return Read(
        stream=stream,
        start_at=min(edge[0] for edge in edges),
        end_at=None if kind == "CalculatedAt" else max(edge[1] for edge in edges),
        values=values,
    )


async def _inside(context: Context, asked: Asked, stream: Stream) -> dict[str, Summary]:
    """Return the summary of what was read of each register in the span, part by part."""
    asked = await narrowed(context, asked, [stream])
    if asked.end_at - asked.start_at > LONGEST:
        raise Malformed("at most ten years can be read at once")
    found: dict[str, Summary] = {}
    at = asked.start_at
    while at < asked.end_at:
        until = min(at + _SPAN, asked.end_at)
        async with context.db.connection() as conn:
            sums = await datum_sums.sums(
                conn,
                [stream.id],
                start_at=at,
                end_at=until,
                length=2 * _SPAN,
                properties=asked.properties,
                registers=asked.registers,
                kind="a",
            )
        for key, parts in sums.items():
            for _, part in sorted(parts.items()):
                found[key.name] = _joined(found.get(key.name), part)
        at = until
    return found


def _joined(earlier: Summary | None, later: Summary) -> Summary:
    """Return the summary of both, as far as a register needs it."""
    if earlier is None:
        return later
    between = max(earlier.last.value - later.first.value, Decimal(0))
    return replace(later, first=earlier.first, falls=earlier.falls + between + later.falls)


def _told(
    kind: str, inside: Summary | None, near: Around, period: Period, reach: timedelta
) -> tuple[Fraction, Fraction, datetime, datetime] | None:
    """Return the levels at both ends, the later raised by resets between them, and when."""
    if kind in _CALCULATED:
        register = Register(carry=Carry(before=near.before), inside=inside, after=near.after)
        energy = register.energy(period, Rules(reach=reach))
        if energy is None or energy.gained is None:
            return None
        return energy.register - energy.gained, energy.register, energy.from_at, energy.until_at
    points = _points(inside, near, period, with_before=kind != "DifferenceWithin")
    if not points:
        return None
    falls = Decimal(0) if inside is None else inside.falls
    if inside is not None and points[0] is not inside.first:
        falls += max(points[0].value - inside.first.value, Decimal(0))
    head = points[0] if inside is None else inside.last
    if points[-1] is not head:
        falls += max(head.value - points[-1].value, Decimal(0))
    first, last = points[0], points[-1]
    return Fraction(first.value), Fraction(last.value) + Fraction(falls), first.at, last.at


def _points(
    inside: Summary | None, near: Around, period: Period, *, with_before: bool
) -> list[Reading]:
    """Return the readings that count, in order of time: one on the end counts."""
    found = [] if inside is None else [inside.first, inside.last]
    is_on_start = inside is not None and inside.first.at == period.start_at
    if with_before and near.before is not None and not is_on_start:
        found.insert(0, near.before)
    if near.after is not None and near.after.at == period.end_at:
        found.append(near.after)
    return found
