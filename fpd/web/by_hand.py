"""What an operator does about a group by hand: `…/adjust-forecast` and `…/compliance-error` say
something to its provider, `…/pause` and `…/resume` take it out of service and back.

202 means owed: what comes of it is in `/api/v1/messages/{messageId}`. Blocks are OSCP's own, as
on the wire. Errors are `{"message": …}`, as everywhere under `/api/v1`.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from fpd.domain.forecast import ForecastType
from fpd.errors import Malformed
from fpd.flows import by_hand, pausing
from fpd.flows.by_hand import About, OwedByHand
from fpd.oscp import headers
from fpd.oscp.messages import ForecastedBlock, Text
from fpd.web.body import json_body, unambiguous
from fpd.web.groups import PREFIX, meant
from fpd.web.keys import CONTEXT
from fpd.web.messages import success

RequestId = Annotated[Text, Meta(max_length=255)]
ForecastId = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class AdjustWith(Struct, frozen=True, rename="camel", kw_only=True):
    """A wish; `requestId` or `forecastId`: the provider's forecast that it is about, if any."""

    type: ForecastType
    blocks: Annotated[tuple[ForecastedBlock, ...], Meta(min_length=1)]
    request_id: RequestId | None = None
    forecast_id: ForecastId | None = None


class CannotComply(Struct, frozen=True, rename="camel", kw_only=True):
    """Why, and in which blocks, the provider's forecast `requestId` or `forecastId` fails."""

    message: Annotated[Text, Meta(max_length=4096)]
    blocks: tuple[ForecastedBlock, ...] | None = None
    request_id: RequestId | None = None
    forecast_id: ForecastId | None = None


class MessageOwed(Struct, rename="camel", kw_only=True):
    """A message that is owed to a provider: to be followed at `/api/v1/messages/{messageId}`."""

    message_id: int
    request_id: str
    correlation_id: str | None
    peer_id: int


W = TypeVar("W", AdjustWith, CannotComply)


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    return (
        web.post(f"{PREFIX}/adjust-forecast", _adjust),
        web.post(f"{PREFIX}/compliance-error", _cannot_comply),
        web.post(f"{PREFIX}/pause", _pause),
        web.post(f"{PREFIX}/resume", _resume),
    )


async def _adjust(request: web.Request) -> web.Response:
    """Wish for another capacity: owes the provider an AdjustGroupCapacityForecast."""
    of, wish = await meant(request), await _wished(request, AdjustWith)
    owed = await by_hand.adjust(
        request.app[CONTEXT], _about(request, of, wish), type=wish.type, wire=wish.blocks
    )
    return success(_shown(owed), status=HTTPStatus.ACCEPTED)


async def _cannot_comply(request: web.Request) -> web.Response:
    """Say that a forecast cannot be kept: owes the provider a GroupCapacityComplianceError."""
    of, wish = await meant(request), await _wished(request, CannotComply)
    owed = await by_hand.cannot_comply(
        request.app[CONTEXT], _about(request, of, wish), reason=wish.message, wire=wish.blocks or ()
    )
    return success(_shown(owed), status=HTTPStatus.ACCEPTED)


async def _pause(request: web.Request) -> web.Response:
    """Let the group's devices rest and refuse forecasts for it until it is resumed."""
    await pausing.group(request.app[CONTEXT], **await meant(request), enabled=False)
    return web.json_response({"success": True}, status=HTTPStatus.ACCEPTED)


async def _resume(request: web.Request) -> web.Response:
    """Take forecasts for the group again, and have its devices follow them."""
    await pausing.group(request.app[CONTEXT], **await meant(request), enabled=True)
    return web.json_response({"success": True}, status=HTTPStatus.ACCEPTED)


async def _wished(request: web.Request, message: type[W]) -> W:
    try:
        return msgspec.json.decode(await unambiguous(await json_body(request)), type=message)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None


def _about(request: web.Request, of: dict[str, Any], wish: AdjustWith | CannotComply) -> About:
    """Return what is meant. X-Request-ID may come with the request; it is our message's, too."""
    return About(
        **of,
        owed_as=headers.read(request.headers, id_needed=False).request_id,
        request_id=wish.request_id,
        forecast_id=wish.forecast_id,
    )


def _shown(owed: OwedByHand) -> MessageOwed:
    return MessageOwed(
        message_id=owed.message_id,
        request_id=owed.request_id,
        correlation_id=owed.correlation_id,
        peer_id=owed.peer_id,
    )
