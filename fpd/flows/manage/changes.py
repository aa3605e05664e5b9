"""Update, delete: one transaction for each change and all that it entails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import structlog

from fpd.flows.context import Context
from fpd.flows.manage import fields
from fpd.flows.manage.entity import Change, Entity
from fpd.flows.manage.fields import Field, Reference, Site
from fpd.flows.manage.groups import GROUP, GROUP_SETTINGS
from fpd.flows.manage.refusals import Fault, Invalid, Taken, absent
from fpd.store import entities, service_props
from fpd.store.db import retried
from fpd.store.entities import Connection, InUse, Row

log = structlog.get_logger()

_MOST_NAMED = 10


async def update(
    context: Context, entity: Entity, *, user_id: int, id: int, given: Mapping[str, Any]
) -> Row:
    """Replace an entity as a whole. Raises Absent, Invalid, Taken."""
    return await revise(context, entity, user_id=user_id, id=id, revised=lambda shown: given)


@retried
async def revise(
    context: Context,
    entity: Entity,
    *,
    user_id: int,
    id: int,
    revised: Callable[[dict[str, Any]], Mapping[str, Any]],
) -> Row:
    """Replace an entity by what `revised` makes of it as it is shown. Raises as `update`."""
    now = context.clock()
    async with context.db.transaction(pipelined=True) as conn:
        before = await find(conn, entity, user_id, id, lock=True)
        given = revised(fields.show(entity.fields, before))
        values = await wanted(context, conn, entity, user_id, given, before)
        change = Change(context=context, user_id=user_id, now=now, before=before, values=values)
        row = await replace(conn, entity, change, entity.columns(change))
    tell(context, entity, user_id, id, "updated")
    return row


@retried
async def delete(context: Context, entity: Entity, *, user_id: int, id: int) -> None:
    """Remove an entity. Raises Absent, InUse with the groups that need it."""
    now = context.clock()
    async with context.db.transaction(pipelined=True) as conn:
        await remove(context, conn, entity, user_id=user_id, id=id, now=now)
    tell(context, entity, user_id, id, "deleted")


async def remove(
    context: Context, conn: Connection, entity: Entity, *, user_id: int, id: int, now: datetime
) -> None:
    """Remove an entity inside a transaction. Raises Absent, InUse with the groups that need it."""
    needed = () if entity.table.role is None else await entities.groups_of_peer(conn, peer_id=id)
    try:
        row = await entities.delete(conn, entity.table, user_id=user_id, id=id)
    except InUse:
        raise InUse(f"a capacity group uses it: {_some(needed) or 'a new one'}") from None
    if row is None:
        raise absent(entity.id_name)
    change = Change(context=context, user_id=user_id, now=now, before=row, values=None)
    await entity.follow(conn, change, row)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@retried
async def put_settings(
    context: Context, entity: Entity, *, user_id: int, id: int, given: Mapping[str, Any]
) -> Row:
    """Set settings for the first time, or replace them. Raises Absent, Invalid."""
    now = context.clock()
    async with context.db.transaction(pipelined=True) as conn:
        await owner(conn, entity, user_id, id)
        values = await wanted(context, conn, entity, user_id, given, None)
        row = await entities.put(
            conn, entity.table, user_id=user_id, values={**values, entity.table.id: id}, now=now
        )
    tell(context, entity, user_id, id, "updated")
    return row


@retried
async def delete_settings(context: Context, entity: Entity, *, user_id: int, id: int) -> bool:
    """Forget settings; False when there were none. Raises Absent."""
    async with context.db.transaction(pipelined=True) as conn:
        await owner(conn, entity, user_id, id)
        row = await entities.delete(conn, entity.table, user_id=user_id, id=id)
    tell(context, entity, user_id, id, "deleted")
    return row is not None


async def owner(conn: Connection, entity: Entity, user_id: int, id: int) -> None:
    """See to it that settings have an owner that stays: the group `id`. Raises Absent."""
    if entity is not GROUP_SETTINGS:
        return
    if not await entities.exists(conn, GROUP.table, user_id=user_id, id=id):
        raise absent(GROUP.id_name)


async def find(
    conn: Connection, entity: Entity, user_id: int, id: int, *, lock: bool = False
) -> Row:
    """Return what an id names. Raises Absent."""
    row = await entities.find(conn, entity.table, user_id=user_id, id=id, lock=lock)
    if row is None:
        raise absent(entity.id_name)
    return row


async def wanted(
    context: Context,
    conn: Connection,
    entity: Entity,
    user_id: int,
    given: Mapping[str, Any],
    before: Row | None,
) -> dict[str, Any]:
    """Return what is wanted, by column. Raises Invalid with everything that is wrong."""
    values, faults = read(context, entity, user_id, given, before)
    faults += await strangers(conn, entity, user_id, values)
    if faults:
        raise Invalid(faults)
    return values


def read(
    context: Context, entity: Entity, user_id: int, given: Mapping[str, Any], before: Row | None
) -> tuple[dict[str, Any], list[Fault]]:
    """Return what is wanted, by column, and all that is wrong with it as it stands."""
    values, faults = fields.read(entity.fields, given, site(context, user_id, before))
    return values, faults + entity.check(given)


async def strangers(
    conn: Connection, entity: Entity, user_id: int, values: Mapping[str, Any]
) -> list[Fault]:
    """Return the references to what the user has not; what they refer to stays."""
    return [
        no_such(field, kind, values)
        for field, kind in entity.references()
        if (id := values.get(field.key)) is not None
        and not await entities.exists(conn, kind.table, user_id=user_id, id=id)
    ]


def no_such(field: Field, kind: Reference, values: Mapping[str, Any]) -> Fault:
    """Return what is wrong with a reference to what the user has not."""
    return Fault(field.name, f"there is no {kind.noun} {values[field.key]}")


def site(context: Context, user_id: int, before: Row | None) -> Site:
    """Return what the values of a user's entity are held against."""
    config = context.config
    shown = before.get("service_props") if before else None
    return Site(
        oscp=config.oscp,
        devices=[device.name for device in config.devices if device.user_id == user_id],
        masked=service_props.masked_headers(shown),
    )


async def replace(
    conn: Connection, entity: Entity, change: Change, columns: Mapping[str, Any]
) -> Row:
    """Store a changed entity and what that entails; return its row. Raises Taken."""
    assert change.before is not None
    try:
        row = await entities.update(
            conn,
            entity.table,
            user_id=change.user_id,
            id=change.before["id"],
            values=columns,
            now=change.now,
        )
    except entities.Duplicate as error:
        raise taken(entity, error) from None
    await entity.follow(conn, change, row)
    return row


def taken(entity: Entity, error: entities.Duplicate) -> Taken:
    """Return the refusal of a value that another entity has."""
    name = next(field.name for field in entity.fields if field.key == error.column)
    return Taken(f"{name}: is taken", [Fault(name, "is taken")])


def tell(
    context: Context, entity: Entity, user_id: int, id: int, what: str, *, steering: bool = True
) -> None:
    """After the commit: write it down, and let control look at what may have changed."""
    log.info(f"entity.{what}", entity=entity.noun, id=id, user=user_id)
    if steering:
        context.bells.control()
