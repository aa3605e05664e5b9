"""Create, list, view, update, delete: the same for every kind of entity."""

from __future__ import annotations

from contextlib import aclosing
from http import HTTPStatus

from aiohttp import web
from msgspec import Raw
from msgspec.json import encode

from fpd.flows.manage import changes, fields, groups
from fpd.flows.manage.entity import Entity
from fpd.store import entities
from fpd.store.entities import Connection
from fpd.web.credentials import authenticate, presumed
from fpd.web.keys import CONTEXT, CREATES
from fpd.web.manage.answers import success
from fpd.web.manage.requests import Page, document, path_id, wanted_page


async def create(entity: Entity, request: web.Request) -> web.Response:
    """Add an entity; 201 with its path."""
    async with presumed(request) as who:
        given = await document(request)
        row = await request.app[CREATES].create(
            entity, user_id=who.user_id, given=given, token_id=who.token_id
        )
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
        await changes.find(conn, groups.GROUP, user_id, group_id)
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
        return success(await _shown(entity, conn, user_id, group_id))
    total = await entities.count(conn, entity.table, user_id=user_id, group_id=group_id)
    results = await _shown(entity, conn, user_id, group_id, page)
    return success(
        {
            "totalResults": total,
            "startingOffset": page.offset,
            "returnedResultCount": len(results),
            "results": results,
        }
    )


async def _shown(
    entity: Entity,
    conn: Connection,
    user_id: int,
    group_id: int | None,
    page: Page | None = None,
) -> list[Raw]:
    """Return entities as they are shown, each already encoded: a long list blocks nobody."""
    rows = entities.page(
        conn,
        entity.table,
        user_id=user_id,
        group_id=group_id,
        limit=page.limit if page else None,
        offset=page.offset if page else 0,
        unread=True,
    )
    async with aclosing(rows):
        return [Raw(encode(fields.show(entity.fields, row))) async for row in rows]


async def view(entity: Entity, request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    id = path_id(request, entity.id_name)
    async with request.app[CONTEXT].db.connection() as conn:
        row = await changes.find(conn, entity, user_id, id)
    return success(fields.show(entity.fields, row))


async def update(entity: Entity, request: web.Request) -> web.Response:
    """Replace an entity as a whole."""
    user_id = await authenticate(request)
    id = path_id(request, entity.id_name)
    given = await document(request)
    row = await changes.update(request.app[CONTEXT], entity, user_id=user_id, id=id, given=given)
    return success(fields.show(entity.fields, row))


async def delete(entity: Entity, request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    id = path_id(request, entity.id_name)
    await changes.delete(request.app[CONTEXT], entity, user_id=user_id, id=id)
    return success()
