"""What a group may do or might, and why: read for an operator, decided by the domain.

Nothing is written. Bodies may hold thousands of blocks, so they are read apart from the loop.
`user_id` None is the operator of the machine, who may see everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from psycopg import AsyncConnection

from fpd.domain.forecast import Envelope, ForecastType, Reason, course, envelopes
from fpd.domain.standing import Standing, standing
from fpd.errors import Malformed, Unknown
from fpd.flows import blocks
from fpd.flows.context import Context
from fpd.flows.control_settings import settings_of
from fpd.oscp import messages
from fpd.oscp.messages import ForecastedBlock
from fpd.store import command_history
from fpd.store import explain as store
from fpd.store.command_history import Command, Device
from fpd.store.explain import Group, Held, Known, Received
from fpd.store.troubles import Trouble, listed

_MOST_BYTES = 4 * 2**20
_ENDED = 50
OFFLINE = (Reason.FALLBACK, Reason.LAST_KNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """A forecast behind an envelope. `held`: no block covers the instant, these ended last."""

    known: Known
    blocks: tuple[ForecastedBlock, ...]
    held: tuple[ForecastedBlock, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """A device. `because`: what it was sent because of the envelope; `standing`: what it had been
    sent last by then, for whichever envelope; `followed`: the last that it was seen to follow by
    then; `now`: how it is, None: it works for the group no more.
    """

    name: str
    because: Sequence[Command]
    standing: Command | None
    followed: Command | None
    now: Device | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """Which envelope was in force at `at`, from which forecasts, and what it caused.

    `link_event`: what had happened last to the provider's link. `more`: there were more commands.
    """

    group: Group
    at: datetime
    held: Held | None
    forecasts: Sequence[Behind] = ()
    link_event: tuple[str, datetime] | None = None
    devices: Sequence[Driven] = field(default=())
    more: bool = False


async def explain(
    context: Context, *, user_id: int | None, group_id: int, at: datetime | None, limit: int
) -> Explained:
    """Explain an instant, None: now, with at most `limit` commands.

    Raises Unknown; Malformed for what is still to come, since it may come otherwise.
    """
    now = context.clock()
    at = now if at is None else at
    if at > now:
        raise Malformed("at: is still to come; what is planned is in envelopes?hours=24")
    async with context.db.transaction() as conn:
        await store.still(conn)
        group = await own(conn, user_id=user_id, group_id=group_id)
        held = await store.envelope_at(conn, group_id=group_id, at=at)
        link_event = await store.link_event(conn, peer_id=group.provider_id, at=at)
        if held is None:
            return Explained(group=group, at=at, held=None, link_event=link_event)
        known = await store.forecasts(conn, ids=held.forecast_ids)
        wishes = (
            [] if held.optimum_w is None else await store.wishes(conn, group_id=group_id, at=at)
        )
        nearest = await command_history.commands(conn, envelope_id=held.id, at=at, limit=limit + 1)
        because = sorted(nearest[:limit], key=lambda command: (command.sent_at, command.id))
        at_work = await command_history.devices(conn, group_id=group_id)
        names = sorted({*at_work, *(command.device for command in because)})
        then = partial(command_history.told, conn, group_id=group_id, devices=names, at=at)
        standing_then, followed = await then(seen=False), await then(seen=True)
    return Explained(
        group=group,
        at=at,
        held=held,
        forecasts=await asyncio.to_thread(_behind, known, wishes, group, at),
        link_event=link_event,
        devices=[
            Driven(
                name=name,
                because=[command for command in because if command.device == name],
                standing=standing_then.get(name),
                followed=followed.get(name),
                now=at_work.get(name),
            )
            for name in names
        ],
        more=len(nearest) > limit,
    )


def _behind(
    known: Sequence[Known], wishes: Sequence[Known], group: Group, at: datetime
) -> list[Behind]:
    """Return the forecasts that give the limits and, where something is wanted, the wish."""
    found = [_read(one, at) for one in known]
    terms = settings_of(group.control).terms
    wish = course(map(blocks.read, wishes), terms).at(at)
    return found + [
        _read(one, at) for one in wishes if wish is not None and one.id == wish.forecast_id
    ]


def _read(known: Known, at: datetime) -> Behind:
    said = messages.decode(known.body, messages.UpdateGroupCapacityForecast).forecasted_blocks
    covering = tuple(block for block in said if block.start_time <= at < block.end_time)
    ended: dict[str, ForecastedBlock] = {}
    if not covering:
        for block in sorted(said, key=lambda block: block.end_time):
            if block.end_time <= at:
                ended[block.phase] = block
    return Behind(known=known, blocks=covering, held=tuple(ended.values()))


async def received(
    context: Context,
    *,
    user_id: int | None,
    group_id: int,
    type: ForecastType | None,
    since: datetime | None,
    until: datetime | None,
    before: int | None,
    limit: int,
) -> tuple[list[Received], int | None]:
    """Return a page of forecasts, newest first, and the `before` of the next. Raises Unknown."""
    async with context.db.transaction() as conn:
        await store.still(conn)
        await own(conn, user_id=user_id, group_id=group_id)
        rows = await store.received(
            conn,
            group_id=group_id,
            type=type,
            since=since,
            until=until,
            before=before,
            limit=limit,
            most_bytes=_MOST_BYTES,
        )
    all_of_them = not rows or rows[0].found == len(rows) < limit
    return rows, None if all_of_them else rows[-1].id


async def history(
    context: Context,
    *,
    user_id: int | None,
    group_id: int,
    since: datetime | None,
    until: datetime | None,
    before: int | None,
    limit: int,
) -> tuple[Group, list[Held], int | None]:
    """Return a page of what was in force, newest first, as `received` does. Raises Unknown."""
    async with context.db.transaction() as conn:
        await store.still(conn)
        group = await own(conn, user_id=user_id, group_id=group_id)
        rows = await store.envelopes(
            conn, group_id=group_id, since=since, until=until, before=before, limit=limit
        )
    return group, rows, rows[-1].id if len(rows) == limit else None


async def troubles(
    context: Context,
    *,
    user_id: int | None,
    group_id: int,
    open_only: bool,
    before: int | None,
    limit: int,
) -> tuple[list[Trouble], int | None]:
    """Return a page of what cannot be kept, newest first, as `received` does. Raises Unknown."""
    async with context.db.transaction() as conn:
        await store.still(conn)
        await own(conn, user_id=user_id, group_id=group_id)
        rows = await listed(
            conn,
            user_id=user_id,
            group_id=group_id,
            open_only=open_only,
            before=before,
            limit=limit,
        )
    return rows, rows[-1].id if len(rows) == limit else None


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What the forecasts to a group say from `at` on; `known` by id."""

    group: Group
    at: datetime
    standing: Sequence[Standing]
    known: Mapping[int, Known]


async def in_force(
    context: Context,
    *,
    user_id: int | None,
    group_id: int,
    type: ForecastType | None = None,
    hours: int | None = None,
) -> InForce:
    """Return what newer forecasts have left of older ones. Raises Unknown."""
    now = context.clock()
    group, known = await _mattering(context, user_id=user_id, group_id=group_id, now=now, ended=0)

    def decide() -> tuple[Standing, ...]:
        return standing(
            [blocks.read(one) for one in known if type in (None, one.type)],
            settings_of(group.control).terms,
            start_at=now,
            end_at=None if hours is None else now + timedelta(hours=hours),
        )

    return InForce(
        group=group,
        at=now,
        standing=await asyncio.to_thread(decide),
        known={one.id: one for one in known},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What is going to be in force during [at, until_at), if nothing else is heard."""

    group: Group
    at: datetime
    until_at: datetime
    envelopes: Sequence[Envelope]


async def planned(context: Context, *, user_id: int | None, group_id: int, hours: int) -> Planned:
    """Return what control would decide, from what is known now. Raises Unknown."""
    now = context.clock()
    until_at = now + timedelta(hours=hours)
    group, known = await _mattering(
        context, user_id=user_id, group_id=group_id, now=now, ended=_ENDED
    )

    def decide() -> tuple[Envelope, ...]:
        return envelopes(
            map(blocks.read, known),
            start_at=now,
            end_at=until_at,
            provider_online=group.provider_online,
            optimizer_online=group.optimizer_online,
            terms=settings_of(group.control).terms,
        )

    return Planned(
        group=group, at=now, until_at=until_at, envelopes=await asyncio.to_thread(decide)
    )


async def _mattering(
    context: Context, *, user_id: int | None, group_id: int, now: datetime, ended: int
) -> tuple[Group, list[Known]]:
    async with context.db.transaction() as conn:
        await store.still(conn)
        group = await own(conn, user_id=user_id, group_id=group_id)
        return group, await store.mattering(conn, group_id=group_id, ended=ended, now=now)


async def own(conn: AsyncConnection, *, user_id: int | None, group_id: int) -> Group:
    group = await store.group(conn, user_id=user_id, group_id=group_id)
    if group is None:
        raise Unknown("there is no such capacity group")
    return group
