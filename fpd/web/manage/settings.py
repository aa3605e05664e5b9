"""Publishing settings: one set per user, one per group that overrides it field by field.

Interpretation: decision M4, settings that were never set are an answer without data, to view and
to delete.
"""

from __future__ import annotations

from aiohttp import web

from fpd.store import entities
from fpd.store.db import retried
from fpd.store.entities import Connection
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT
from fpd.web.manage import fields
from fpd.web.manage.answers import success
from fpd.web.manage.entity import Entity
from fpd.web.manage.groups import GROUP, GROUP_SETTINGS
from fpd.web.manage.requests import absent, document, path_id
from fpd.web.manage.views import tell, wanted


async def view(entity: Entity, request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    async with request.app[CONTEXT].db.connection() as conn:
        id = await _owner(entity, request, conn, user_id)
        row = await entities.find(conn, entity.table, user_id=user_id, id=id)
    return success(fields.show(entity.fields, row) if row else None)


@retried
async def update(entity: Entity, request: web.Request) -> web.Response:
    """Set them for the first time, or replace them."""
    user_id = await authenticate(request)
    given = await document(request)
    context = request.app[CONTEXT]
    async with context.db.transaction() as conn:
        id = await _owner(entity, request, conn, user_id)
        values = await wanted(entity, request, conn, user_id, given, None)
        row = await entities.insert(
            conn,
            entity.table,
            user_id=user_id,
            values={**values, entity.table.id: id},
            now=context.clock(),
        )
    tell(request, entity, user_id, id, "updated")
    return success(fields.show(entity.fields, row))


@retried
async def delete(entity: Entity, request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    async with request.app[CONTEXT].db.transaction() as conn:
        id = await _owner(entity, request, conn, user_id)
        await entities.delete(conn, entity.table, user_id=user_id, id=id)
    tell(request, entity, user_id, id, "deleted")
    return success()


async def _owner(entity: Entity, request: web.Request, conn: Connection, user_id: int) -> int:
    """Return whose settings are meant: the user's own, or those of the group in the path."""
    if entity is not GROUP_SETTINGS:
        return user_id
    group_id = path_id(request, GROUP.id_name)
    if not await entities.exists(conn, GROUP.table, user_id=user_id, id=group_id):
        raise absent(GROUP.id_name)
    return group_id
