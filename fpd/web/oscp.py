"""The OSCP 2.0 door of the Flexibility Provider: parse, hand over, answer.

204 means kept, not applied: what a message causes is durable before we answer, and follow-up
messages of ours leave after the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from aiohttp import web

from fpd.errors import Unknown
from fpd.flows import handshake, heartbeat, registration, relay
from fpd.flows import segments as assembling
from fpd.flows.context import Context
from fpd.flows.identify import Sender, identify
from fpd.flows.inbound import Inbound
from fpd.oscp import headers, messages, segments, wording
from fpd.oscp.dialects import ACKNOWLEDGE_SPELLINGS
from fpd.store import outbox
from fpd.web.body import json_bytes, shallow, unambiguous
from fpd.web.keys import CONTEXT, INTAKE, TOKENS
from fpd.web.limits import LIMITS

PREFIX = f"/oscp/fp/{registration.VERSION}"

M = TypeVar(
    "M",
    messages.Register,
    messages.Handshake,
    messages.HandshakeAcknowledge,
    messages.Heartbeat,
    messages.AdjustGroupCapacityForecast,
    messages.GroupCapacityComplianceError,
)
Receive = (
    Callable[[Context, Inbound, M], Awaitable[str | None]]
    | Callable[[Context, Inbound, M], Awaitable[None]]
)
Take = (
    Callable[[web.Request, Sender, Inbound], Awaitable[str | None]]
    | Callable[[web.Request, Sender, Inbound], Awaitable[None]]
)


async def _said(request: web.Request, sender: Sender) -> Inbound:
    """Read what was said, as it was said. Raises the families of fpd.errors."""
    operation = request.path.removeprefix(f"{PREFIX}/")
    if operation in ACKNOWLEDGE_SPELLINGS:
        if not sender.dialect.lenient_paths:
            raise Unknown("nothing is here")
        operation = "handshake_acknowledge"
    ids = headers.read(request.headers, id_needed=not sender.dialect.lenient_no_request_id)
    return Inbound(
        peer_id=sender.peer_id,
        operation=f"{request.method} {operation}",
        request_id=ids.request_id,
        correlation_id=ids.correlation_id,
        body=await json_bytes(request, empty_allowed=request.method == "DELETE"),
        dialect=sender.dialect,
        assumed_sha256=sender.assumed_sha256,
    )


async def _meant(said: Inbound, sender: Sender, now: datetime) -> Inbound:
    """Return what was said, in standard form. Raises Undecodable, Malformed."""
    await unambiguous(shallow(said.body))
    body = wording.standard(
        said.body,
        sender.dialect,
        operation=said.operation.split()[-1],
        base_url=sender.base_url,
        now=now,
    )
    return said if body is said.body else replace(said, body=body)


def _answering(
    take: Take, *, judges_token: bool = False
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler that gives a message, once it is whole, to `take` and answers 204.

    Nothing is known of its body yet: `take` reads it, by `_meant` where its shape can deceive.
    When `take` names a message that we owe back, it is released once the answer is out.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        may_assume = judges_token and not segments.are_told(request.headers)
        sender = await request.app[LIMITS].authenticated(
            request,
            identify(context, request.app[TOKENS], request.headers, may_assume=may_assume),
        )
        place = segments.read(request.headers)
        said = await _said(request, sender)

        async def take_whole(message: Inbound) -> str | None:
            return await take(request, sender, message)

        if place is None:
            owed = await take_whole(said)
        else:
            shallow(said.body)
            owed = await assembling.receive(context, said, place, take_whole)
        return await _accepted(request, said, owed)

    return handler


def _door(
    message: type[M], receive: Receive[M]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler that reads `message` and gives it to `receive`."""

    async def take(request: web.Request, sender: Sender, said: Inbound) -> str | None:
        context = request.app[CONTEXT]
        inbound = await _meant(said, sender, context.clock())
        return await receive(context, inbound, messages.decode(inbound.body, message))

    return _answering(take)


async def _forecast(request: web.Request, sender: Sender, said: Inbound) -> None:
    message = None if sender.dialect.rewrites else messages.plain_forecast(said.body)
    if message is None:
        said = await _meant(said, sender, request.app[CONTEXT].clock())
        message = messages.decode(said.body, messages.UpdateGroupCapacityForecast)
    await request.app[INTAKE].receive(said, message)


async def _unregister(request: web.Request, sender: Sender, said: Inbound) -> None:
    inbound = await _meant(said, sender, request.app[CONTEXT].clock())
    if inbound.body:
        messages.decode(inbound.body, messages.Register)
    await registration.unregister(request.app[CONTEXT], inbound)


async def _accepted(request: web.Request, inbound: Inbound, owed: str | None) -> web.StreamResponse:
    response = web.Response(status=204, headers={headers.CORRELATION_ID: inbound.request_id})
    if owed is None:
        return response
    await response.prepare(request)
    await response.write_eof()
    context = request.app[CONTEXT]
    async with context.db.connection() as conn:
        await outbox.release(conn, peer_id=inbound.peer_id, request_id=owed, now=context.clock())
    context.bells.delivery()
    return response


def routes() -> Iterable[web.RouteDef]:
    """Return the operations that peers may call.

    The last two are those of a provider: from an optimizer they are passed on to it.
    """
    acknowledge = _door(messages.HandshakeAcknowledge, handshake.acknowledged)
    return (
        web.post(f"{PREFIX}/register", _door(messages.Register, registration.register)),
        web.put(f"{PREFIX}/register", _door(messages.Register, registration.update)),
        web.delete(f"{PREFIX}/register", _answering(_unregister)),
        web.post(f"{PREFIX}/handshake", _door(messages.Handshake, handshake.receive)),
        web.post(f"{PREFIX}/handshake_acknowledge", acknowledge),
        *(web.post(f"{PREFIX}/{spelling}", acknowledge) for spelling in ACKNOWLEDGE_SPELLINGS),
        web.post(f"{PREFIX}/heartbeat", _door(messages.Heartbeat, heartbeat.receive)),
        web.post(
            f"{PREFIX}/update_group_capacity_forecast", _answering(_forecast, judges_token=True)
        ),
        web.post(
            f"{PREFIX}/adjust_group_capacity_forecast",
            _door(messages.AdjustGroupCapacityForecast, relay.adjust),
        ),
        web.post(
            f"{PREFIX}/group_capacity_compliance_error",
            _door(messages.GroupCapacityComplianceError, relay.compliance_error),
        ),
    )
