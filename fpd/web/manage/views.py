"""Create, list, view, update, delete: the same for every kind of entity."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from aiohttp import web

from fpd.store import entities, service_props
from fpd.store.db import retried
from fpd.store.entities import Connection, Row, Table
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT
from fpd.web.manage import fields, groups
from fpd.web.manage.answers import success
from fpd.web.manage.entity import Change, Entity
from fpd.web.manage.fields import Reference, Site
from fpd.web.manage.refusals import Fault, Invalid, Taken
from fpd.web.manage.requests import absent, document, path_id, wanted_page

log = structlog.get_logger()


@retried
async def create(entity: Entity, request: web.Request) -> web.Response:
    """Add an entity; 201 with its path."""
    user_id = await authenticate(request)
    given = await document(request)
    context, now = request.app[CONTEXT], request.app[CONTEXT].clock()
    async with context.db.transaction() as conn:
        values = await wanted(entity, request, conn, user_id, given, None)
        change = Change(
            context=context, conn=conn, user_id=user_id, now=now, before=None, values=values
        )
        row = await _kept(entity, change, None)
    tell(request, entity, user_id, row["id"], "created")
    return success(
        fields.show(entity.fields, row),
        status=HTTPStatus.CREATED,
        location=f"{request.path}/{row['id']}",
    )


async def listed(entity: Entity, request: web.Request) -> web.Response:
    """Show all entities of a kind, or a page of them."""
    user_id = await authenticate(request)
    async with request.app[CONTEXT].db.connection() as conn:
        return await _listed(entity, request, conn, user_id)


async def listed_of_group(entity: Entity, request: web.Request) -> web.Response:
    """Show what belongs to the group in the path, or a page of it."""
    user_id = await authenticate(request)
    group_id = path_id(request, groups.GROUP.id_name)
    async with request.app[CONTEXT].db.connection() as conn:
        await find(conn, groups.GROUP, user_id, group_id)
        return await _listed(entity, request, conn, user_id, group_id)


async def _listed(
    entity: Entity,
    request: web.Request,
    conn: Connection,
    user_id: int,
    group_id: int | None = None,
) -> web.Response:
    page = wanted_page(request)
    if page is None:
        rows = await entities.page(conn, entity.table, user_id=user_id, group_id=group_id)
        return success([fields.show(entity.fields, row) for row in rows])
    total = await entities.count(conn, entity.table, user_id=user_id, group_id=group_id)
    rows = await entities.page(
        conn,
        entity.table,
        user_id=user_id,
        group_id=group_id,
        limit=page.limit,
        offset=page.offset,
    )
    return success(
        {
            "totalResults": total,
            "startingOffset": page.offset,
            "returnedResultCount": len(rows),
            "results": [fields.show(entity.fields, row) for row in rows],
        }
    )


async def view(entity: Entity, request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    id = path_id(request, entity.id_name)
    async with request.app[CONTEXT].db.connection() as conn:
        row = await find(conn, entity, user_id, id)
    return success(fields.show(entity.fields, row))


@retried
async def update(entity: Entity, request: web.Request) -> web.Response:
    """Replace an entity as a whole."""
    user_id = await authenticate(request)
    id = path_id(request, entity.id_name)
    given = await document(request)
    context, now = request.app[CONTEXT], request.app[CONTEXT].clock()
    async with context.db.transaction() as conn:
        before = await find(conn, entity, user_id, id, lock=True)
        values = await wanted(entity, request, conn, user_id, given, before)
        change = Change(
            context=context, conn=conn, user_id=user_id, now=now, before=before, values=values
        )
        row = await _kept(entity, change, id)
    tell(request, entity, user_id, id, "updated")
    return success(fields.show(entity.fields, row))


@retried
async def delete(entity: Entity, request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    id = path_id(request, entity.id_name)
    context, now = request.app[CONTEXT], request.app[CONTEXT].clock()
    async with context.db.transaction() as conn:
        row = await entities.delete(conn, entity.table, user_id=user_id, id=id)
        if row is None:
            raise absent(entity.id_name)
        change = Change(
            context=context, conn=conn, user_id=user_id, now=now, before=row, values=None
        )
        await entity.follow(change, row)
    tell(request, entity, user_id, id, "deleted")
    return success()


async def find(
    conn: Connection, entity: Entity, user_id: int, id: int, *, lock: bool = False
) -> Row:
    """Return what the path names. Raises Absent."""
    row = await entities.find(conn, entity.table, user_id=user_id, id=id, lock=lock)
    if row is None:
        raise absent(entity.id_name)
    return row


async def wanted(
    entity: Entity,
    request: web.Request,
    conn: Connection,
    user_id: int,
    given: Mapping[str, Any],
    before: Row | None,
) -> dict[str, Any]:
    """Return what the body wants, by column. Raises Invalid with everything that is wrong."""
    config = request.app[CONTEXT].config
    shown = before.get("service_props") if before else None
    site = Site(
        oscp=config.oscp,
        devices=[device.name for device in config.devices if device.user_id == user_id],
        masked=service_props.masked_headers(shown),
    )
    values, faults = fields.read(entity.fields, given, site)
    faults += entity.check(given)
    for field in entity.fields:
        if isinstance(field.kind, Reference) and values.get(field.key) is not None:
            id = values[field.key]
            if not await entities.exists(conn, field.kind.table, user_id=user_id, id=id):
                faults.append(Fault(field.name, f"there is no {field.kind.noun} {id}"))
    if faults:
        raise Invalid(faults)
    return values


async def _kept(entity: Entity, change: Change, id: int | None) -> Row:
    """Store the change and what it entails; return the row as it is to be shown. Raises Taken."""
    table, columns = entity.table, entity.columns(change)
    try:
        row = await _written(table, change, columns, id)
    except entities.Duplicate as error:
        name = next(field.name for field in entity.fields if field.key == error.column)
        raise Taken(f"{name}: is taken", [Fault(name, "is taken")]) from None
    return {**row, **await entity.follow(change, row)}


async def _written(table: Table, change: Change, columns: Mapping[str, Any], id: int | None) -> Row:
    conn, user_id, now = change.conn, change.user_id, change.now
    if id is None:
        return await entities.insert(conn, table, user_id=user_id, values=columns, now=now)
    return await entities.update(conn, table, user_id=user_id, id=id, values=columns, now=now)


def tell(request: web.Request, entity: Entity, user_id: int, id: int, what: str) -> None:
    """After the commit: write it down, and let control look at what may have changed."""
    log.info(f"entity.{what}", entity=entity.noun, id=id, user=user_id)
    request.app[CONTEXT].bells.control()
