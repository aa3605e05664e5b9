"""What an operator has us do with a peer: register, shake hands, leave, pause, a new first token.

`POST /api/v1/oscp/capacity-providers/{id}/register` and so on, for capacity-optimizers too. 202
means owed: what comes of it is in `/api/v1/status` and in the events. Errors are
`{"message": …}`, as everywhere under `/api/v1`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from fpd.domain.entities import Role
from fpd.errors import Malformed, Unknown
from fpd.flows import initiative, pausing
from fpd.web.body import json_body, unambiguous
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT

PREFIX: Final = "/api/v1/oscp"
_ROLES: Final = {
    "capacity-providers": Role.CAPACITY_PROVIDER.value,
    "capacity-optimizers": Role.CAPACITY_OPTIMIZER.value,
}
_LONGEST_ID: Final = 18

Act = Callable[[web.Request, dict[str, Any]], Awaitable[web.Response]]


class RegisterWith(Struct, frozen=True, rename="camel"):
    """`token`: the first one, which the peer gave outside OSCP; `base_url` None: as configured."""

    token: Annotated[str, Meta(min_length=1, max_length=4096)]
    base_url: Annotated[str, Meta(min_length=1, max_length=256)] | None = None


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    actions: dict[str, Act] = {
        "register": _register,
        "token": _reset_token,
        "handshake": _shake_hands,
        "unregister": _unregister,
        "pause": _pause,
        "resume": _resume,
    }
    for entities, role in _ROLES.items():
        for name, act in actions.items():
            yield web.post(f"{PREFIX}/{entities}/{{id}}/{name}", partial(_handle, role, act))


async def _handle(role: str, act: Act, request: web.Request) -> web.Response:
    """Find out who asks and which peer is meant, then act. Raises Unauthenticated, Unknown."""
    user_id = await authenticate(request)
    text = request.match_info["id"]
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_ID):
        raise Unknown("nothing is here")
    return await act(request, {"user_id": user_id, "role": role, "peer_id": int(text)})


async def _register(request: web.Request, peer: dict[str, Any]) -> web.Response:
    try:
        wish = msgspec.json.decode(await unambiguous(await json_body(request)), type=RegisterWith)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None
    await initiative.register(
        request.app[CONTEXT], **peer, token=wish.token, base_url=wish.base_url
    )
    return _owed()


async def _reset_token(request: web.Request, peer: dict[str, Any]) -> web.Response:
    token = await initiative.reset_token(request.app[CONTEXT], **peer)
    return web.json_response({"token": token}, headers={"Cache-Control": "no-store"})


async def _shake_hands(request: web.Request, peer: dict[str, Any]) -> web.Response:
    await initiative.shake_hands(request.app[CONTEXT], **peer)
    return _owed()


async def _unregister(request: web.Request, peer: dict[str, Any]) -> web.Response:
    await initiative.unregister(request.app[CONTEXT], **peer)
    return _owed()


async def _pause(request: web.Request, peer: dict[str, Any]) -> web.Response:
    """Neither hear the peer nor speak to it until it is resumed."""
    await pausing.peer(request.app[CONTEXT], **peer, enabled=False)
    return _owed()


async def _resume(request: web.Request, peer: dict[str, Any]) -> web.Response:
    """Hear the peer again and speak to it."""
    await pausing.peer(request.app[CONTEXT], **peer, enabled=True)
    return _owed()


def _owed() -> web.Response:
    return web.json_response({"success": True}, status=HTTPStatus.ACCEPTED)
