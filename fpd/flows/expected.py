"""The load to be expected of a group, from its own streams or from a forecast of it.

Measured as control measures it: the group's meter with what its devices deliver added back, or the
sum of its uncontrolled assets. Quarters of an hour are summed up once, a day of datum at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from fpd.config import Device
from fpd.domain.control import expected
from fpd.domain.control.caps import TICKS_PER_WEEK, tick_of, tick_start
from fpd.domain.control.expected import Expected
from fpd.flows.context import Context
from fpd.flows.control_settings import Settings, properties_of
from fpd.store import load_history
from fpd.store.control import Asset, DueGroup, Property
from fpd.store.load_history import Known

_LATE = timedelta(hours=1)
_AT_A_TIME = timedelta(days=1)
_SPANS = 200  # a first look at much history takes several plans
_HELD_TICKS = 4
_MOST_ANNOUNCED = 50_000


async def look(
    context: Context,
    group: DueGroup,
    settings: Settings,
    assets: Sequence[Asset],
    devices: Sequence[Device],
    *,
    now: datetime,
) -> Expected:
    """Return what the group is expected to take without its devices, from now on for a week."""
    if settings.flexible:
        return Expected(source="none: capacity scope Flexible", is_known=True)
    found = await _of_history(context, group, settings, assets, devices, now)
    told = settings.expected_load
    if told is None:
        return found
    first = tick_of(now)
    async with context.db.connection() as conn:
        values = await load_history.announced(
            conn,
            Property(group.user_id, told.node_id, told.source_id, told.property),
            start_at=tick_start(first - _HELD_TICKS),
            end_at=tick_start(first + TICKS_PER_WEEK),
            limit=_MOST_ANNOUNCED,
        )
    return expected.announced(
        found,
        values,
        first=first,
        factor=float(told.factor),
        held_ticks=_HELD_TICKS,
        source=f"forecast {told.source_id}, else {found.source}",
    )


async def _of_history(
    context: Context,
    group: DueGroup,
    settings: Settings,
    assets: Sequence[Asset],
    devices: Sequence[Device],
    now: datetime,
) -> Expected:
    parts = properties_of(settings, assets, user_id=group.user_id)
    if settings.meter is not None:
        silent = [d.name for d in devices if d.node_id is None or d.source_id is None]
        if silent:
            return Expected(source=f"{expected.NOT_KNOWN}: {silent[0]} has no stream")
        parts += [(_output(device), Decimal(1)) for device in devices]
    weeks = context.config.control.load_history_weeks
    properties = [property_ for property_, _ in parts]
    until = tick_of(now)
    await _sum_up(context, properties, weeks, tick_start(until))
    async with context.db.connection() as conn:
        quarters = await load_history.quarters(
            conn, properties, first=until - weeks * TICKS_PER_WEEK, until=until
        )
    found: list[dict[int, expected.Quarter]] = [{} for _ in parts]
    for q in quarters:
        found[q.position][q.of_week] = expected.Quarter(
            mean=q.mean, least=q.least, most=q.most, count=q.count
        )
    if settings.meter is not None and parts and not found[0]:
        return Expected(source=f"{expected.NOT_KNOWN}: the meter has no history")
    return expected.of_history(
        [(float(factor), one) for (_, factor), one in zip(parts, found, strict=True)],
        source=f"the last {weeks} weeks",
    )


def _output(device: Device) -> Property:
    assert device.node_id is not None and device.source_id is not None
    return Property(device.user_id, device.node_id, device.source_id, "watts")


async def _sum_up(
    context: Context, properties: Sequence[Property], weeks: int, until_at: datetime
) -> None:
    """Sum up the quarters that are not yet, or may have changed since; newest days first."""
    from_at = until_at - timedelta(weeks=weeks)
    async with context.db.connection() as conn:
        known = await load_history.known(conn, properties)
    missing = [(of, span) for of in known for span in _missing(of, from_at, until_at)]
    for of, (start_at, end_at) in missing[:_SPANS]:
        async with context.db.transaction() as conn:
            found = await load_history.sum_up(conn, of, start_at=start_at, end_at=end_at)
            # What was before the first datum may still be brought in.
            if found or end_at > (of.from_at or until_at):
                await load_history.note(conn, of, from_at=start_at, until_at=end_at)


def _missing(of: Known, from_at: datetime, until_at: datetime) -> list[tuple[datetime, datetime]]:
    """Return the spans to sum up, each next to what is known by then, so that no gap is left.

    One of the days that are known is looked at again each time, for datum that came later.
    """
    spans = []
    known_from = of.from_at or until_at
    start_at = max((of.until_at or until_at + _LATE) - _LATE, from_at)
    while start_at < until_at:
        spans.append((start_at, min(start_at + _AT_A_TIME, until_at)))
        start_at += _AT_A_TIME
    while known_from > from_at:
        spans.append((max(known_from - _AT_A_TIME, from_at), known_from))
        known_from -= _AT_A_TIME
    again_at = from_at + tick_of(until_at) % ((until_at - from_at) // _AT_A_TIME) * _AT_A_TIME
    if of.from_at is not None and again_at >= of.from_at:
        spans.append((again_at, again_at + _AT_A_TIME))
    return spans
