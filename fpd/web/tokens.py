"""`/api/v1/tokens`: an administrator's tokens manage the tokens of every user.

Which tokens those are is said when they are made: `fpd token create --admin`, or `"admin": true`
here. Errors are `{"message": …}`, as everywhere under `/api/v1`.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from fpd.errors import Forbidden, Malformed, Unknown
from fpd.flows import tokens as flow
from fpd.store import accounts
from fpd.store.accounts import Bearer, TokenRow
from fpd.web.body import json_body, unambiguous
from fpd.web.credentials import sender
from fpd.web.keys import CONTEXT
from fpd.web.messages import success
from fpd.web.query import MOST, Query
from fpd.web.status import rfc3339

PREFIX: Final = "/api/v1/tokens"
_LONGEST_NAME: Final = 255


class TokenWanted(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Whose it is to be (the account too, if new), what for, and whether it manages tokens."""

    user_id: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    name: Annotated[str, Meta(max_length=_LONGEST_NAME)] = ""
    admin: bool = False


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    return (
        web.get(PREFIX, _listed),
        web.post(PREFIX, _create),
        web.get(f"{PREFIX}/{{id}}", _shown),
        web.delete(f"{PREFIX}/{{id}}", _revoke),
    )


async def _listed(request: web.Request) -> web.Response:
    """List tokens, revoked ones too, by user, oldest first; never their secrets."""
    await _administrator(request)
    query = Query(request.query, ("user", "max", "offset"))
    user_id, limit = query.number("user"), query.number("max", most=MOST)
    offset = query.number("offset", least=0) or 0
    async with request.app[CONTEXT].db.connection() as conn:
        rows = await accounts.list_tokens(conn, user_id=user_id, limit=limit, offset=offset)
    return success([document(row) for row in rows])


async def _shown(request: web.Request) -> web.Response:
    """Show one token, without its secret."""
    await _administrator(request)
    async with request.app[CONTEXT].db.connection() as conn:
        row = await accounts.find_token(conn, id=_id(request))
    return success(document(_known(row)))


async def _create(request: web.Request) -> web.Response:
    """Make a token; its secret and bearer are in this answer and never again."""
    by = await _administrator(request)
    wanted = await _wanted(request)
    made = await flow.create(
        request.app[CONTEXT],
        user_id=wanted.user_id,
        name=wanted.name,
        admin=wanted.admin,
        by=by,
    )
    told = {
        "userId": made.user_id,
        "id": made.id,
        "name": wanted.name or None,
        "admin": made.admin,
        "secret": made.secret,
        "bearer": made.bearer,
    }
    return success(told, status=HTTPStatus.CREATED, location=f"{PREFIX}/{made.id}")


async def _revoke(request: web.Request) -> web.Response:
    """Make a token worthless, at once; one that is revoked already stays so."""
    by = await _administrator(request)
    row, _ = await flow.revoke(request.app[CONTEXT], id=_id(request), by=by)
    return success(document(_known(row)))


async def _administrator(request: web.Request) -> Bearer:
    """Return with which token of an administrator the request was sent.

    Raises Forbidden when it is another's, and what `sender` raises.
    """
    who = await sender(request)
    if not who.admin:
        raise Forbidden("only a token made with --admin may manage tokens")
    return who


async def _wanted(request: web.Request) -> TokenWanted:
    try:
        wanted = msgspec.json.decode(await unambiguous(await json_body(request)), type=TokenWanted)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None
    if not wanted.name.isprintable():
        raise Malformed("name: expected printable characters")
    return wanted


def _id(request: web.Request) -> str:
    id = request.match_info["id"]
    if not accounts.is_id(id):
        raise Unknown("there is no such token")
    return id


def _known(row: TokenRow | None) -> TokenRow:
    if row is None:
        raise Unknown("there is no such token")
    return row


def document(row: TokenRow) -> dict[str, Any]:
    """Return a token as JSON, without its secret; `revoked` null: it is valid."""
    return {
        "userId": row.user_id,
        "id": row.id,
        "name": row.name,
        "admin": row.admin,
        "created": rfc3339(row.created_at),
        "lastUsed": rfc3339(row.last_used_at),
        "revoked": rfc3339(row.revoked_at),
    }
