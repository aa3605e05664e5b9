"""Publishing settings: one set per user, one per group that overrides it field by field.

Interpretation: decision M4, settings that were never set are an answer without data, to view and
to delete.
"""

from __future__ import annotations

from aiohttp import web

from fpd.flows.manage import changes, fields
from fpd.flows.manage.entity import Entity
from fpd.flows.manage.groups import GROUP, GROUP_SETTINGS
from fpd.store import entities
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT
from fpd.web.manage.answers import success
from fpd.web.manage.requests import document, path_id


async def view(entity: Entity, request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    id = _owner(entity, request, user_id)
    async with request.app[CONTEXT].db.connection() as conn:
        await changes.owner(conn, entity, user_id, id)
        row = await entities.find(conn, entity.table, user_id=user_id, id=id)
    return success(fields.show(entity.fields, row) if row else None)


async def update(entity: Entity, request: web.Request) -> web.Response:
    """Set them for the first time, or replace them."""
    user_id = await authenticate(request)
    given = await document(request)
    row = await changes.put_settings(
        request.app[CONTEXT],
        entity,
        user_id=user_id,
        id=_owner(entity, request, user_id),
        given=given,
    )
    return success(fields.show(entity.fields, row))


async def delete(entity: Entity, request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    id = _owner(entity, request, user_id)
    await changes.delete_settings(request.app[CONTEXT], entity, user_id=user_id, id=id)
    return success()


def _owner(entity: Entity, request: web.Request, user_id: int) -> int:
    """Return whose settings are meant: the user's own, or those of the group in the path."""
    return path_id(request, GROUP.id_name) if entity is GROUP_SETTINGS else user_id
