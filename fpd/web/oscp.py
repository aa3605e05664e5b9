"""The OSCP 2.0 door of the Flexibility Provider: parse, hand over, answer.

204 means kept, not applied: what a message causes is durable before we answer, and follow-up
messages of ours leave after the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from aiohttp import web

from fpd.flows import forecasts, handshake, heartbeat, registration
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.oscp import headers, messages
from fpd.store import outbox
from fpd.web.body import json_body
from fpd.web.keys import CONTEXT
from fpd.web.limits import LIMITS

PREFIX = f"/oscp/fp/{registration.VERSION}"

M = TypeVar(
    "M",
    messages.Register,
    messages.Handshake,
    messages.HandshakeAcknowledge,
    messages.Heartbeat,
    messages.UpdateGroupCapacityForecast,
)
Receive = (
    Callable[[Context, Inbound, M], Awaitable[str | None]]
    | Callable[[Context, Inbound, M], Awaitable[None]]
)


async def _inbound(request: web.Request) -> Inbound:
    """Identify the sender, then read the message. Raises the families of fpd.errors."""
    context = request.app[CONTEXT]
    limits = request.app[LIMITS]
    token = headers.token(request.headers)
    peer_id = await limits.authenticated(request, registration.authenticate(context, token))
    ids = headers.read(request.headers)
    return Inbound(
        peer_id=peer_id,
        operation=f"{request.method} {request.path.removeprefix(PREFIX + '/')}",
        request_id=ids.request_id,
        correlation_id=ids.correlation_id,
        body=await json_body(request, empty_allowed=request.method == "DELETE"),
    )


def _door(
    message: type[M], receive: Receive[M]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler that reads `message`, gives it to `receive` and answers 204.

    When `receive` names a message that we owe back, it is released once the answer is out.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        inbound = await _inbound(request)
        owed = await receive(request.app[CONTEXT], inbound, messages.decode(inbound.body, message))
        return await _accepted(request, inbound, owed)

    return handler


async def _unregister(request: web.Request) -> web.StreamResponse:
    inbound = await _inbound(request)
    if inbound.body:
        messages.decode(inbound.body, messages.Register)
    await registration.unregister(request.app[CONTEXT], inbound)
    return await _accepted(request, inbound, None)


async def _accepted(request: web.Request, inbound: Inbound, owed: str | None) -> web.StreamResponse:
    response = web.Response(status=204, headers={headers.CORRELATION_ID: inbound.request_id})
    if owed is None:
        return response
    await response.prepare(request)
    await response.write_eof()
    context = request.app[CONTEXT]
    async with context.db.connection() as conn:
        await outbox.release(conn, request_id=owed, now=context.clock())
    context.bells.delivery()
    return response


def routes() -> Iterable[web.RouteDef]:
    """Return the operations that peers may call.

    adjust_group_capacity_forecast and group_capacity_compliance_error (from optimizers, to be
    passed on to the provider) are not served yet: they answer 404 like any unknown path.
    """
    forecast = _door(messages.UpdateGroupCapacityForecast, forecasts.receive)
    return (
        web.post(f"{PREFIX}/register", _door(messages.Register, registration.register)),
        web.put(f"{PREFIX}/register", _door(messages.Register, registration.update)),
        web.delete(f"{PREFIX}/register", _unregister),
        web.post(f"{PREFIX}/handshake", _door(messages.Handshake, handshake.receive)),
        web.post(
            f"{PREFIX}/handshake_acknowledge",
            _door(messages.HandshakeAcknowledge, handshake.acknowledged),
        ),
        web.post(f"{PREFIX}/heartbeat", _door(messages.Heartbeat, heartbeat.receive)),
        web.post(f"{PREFIX}/update_group_capacity_forecast", forecast),
    )
