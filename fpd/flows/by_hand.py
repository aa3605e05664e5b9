"""What the operator says to a group's provider: a wish for another capacity, or that a forecast
cannot be kept.

The same messages as an optimizer's (`flows.relay`), owed under an id of our own or the one that
the operator gives: who asks again under the same id owes nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import structlog
from psycopg import AsyncConnection

from fpd.domain.forecast import Block, ForecastType
from fpd.domain.link import Link
from fpd.errors import Conflict, Malformed, Unknown
from fpd.flows.blocks import checked_blocks
from fpd.flows.context import Context
from fpd.oscp import messages
from fpd.oscp.messages import ForecastedBlock
from fpd.store import by_hand as store
from fpd.store import events, outbox, peers
from fpd.store.db import retried
from fpd.store.outbox import Owed

log = structlog.get_logger()

_AT_LEAST = timedelta(hours=24)
_LONGEST_TOLD = 300
# Without a registration there is nobody to tell.
_CLOSED = frozenset({Link.PROVISIONED, Link.REGISTERING, Link.UNREGISTERED, Link.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Which group, and which forecast of its provider: by its X-Request-ID or our id, or neither.

    `owed_as`: the X-Request-ID that our message is to have.
    """

    user_id: int | None
    group_id: int
    owed_as: str
    request_id: str | None = None
    forecast_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedByHand:
    """A message that is owed to a provider."""

    message_id: int
    request_id: str
    correlation_id: str | None
    peer_id: int


@dataclass(frozen=True, slots=True)
class _Saying:
    operation: str
    blocks: Sequence[Block]
    kind: str
    data: dict[str, str | int]


async def adjust(
    context: Context, about: About, *, type: ForecastType, wire: Sequence[ForecastedBlock]
) -> OwedByHand:
    """Owe the provider an AdjustGroupCapacityForecast (OSCP 2.0 §4.4.2).

    Raises Unknown, Malformed, TooLarge; Conflict when the provider cannot be told.
    """
    saying = _Saying(
        "adjust_group_capacity_forecast",
        await checked_blocks(wire),
        "forecast.adjustment_wished",
        {"type": type, "by": "operator"},
    )

    def message(identifier: str) -> msgspec.Struct:
        return messages.AdjustGroupCapacityForecast(
            group_id=identifier, type=type, forecasted_blocks=tuple(wire)
        )

    return await _say(context, about, saying, message)


async def cannot_comply(
    context: Context, about: About, *, reason: str, wire: Sequence[ForecastedBlock]
) -> OwedByHand:
    """Owe the provider a GroupCapacityComplianceError about one of its forecasts.

    Raises as `adjust` does; Malformed also when no forecast is named, since the correlation with
    it is all that tells the provider what is meant (OSCP 2.0: it SHALL be there).
    """
    if about.request_id is None and about.forecast_id is None:
        raise Malformed("requestId: missing, and no forecastId is given either")
    saying = _Saying(
        "group_capacity_compliance_error",
        await checked_blocks(wire),
        "forecast.declared_impossible",
        {"message": reason[:_LONGEST_TOLD], "blocks": len(wire), "by": "operator"},
    )

    def message(_: str) -> msgspec.Struct:
        return messages.GroupCapacityComplianceError(
            message=reason, forecasted_blocks=tuple(wire) or None
        )

    return await _say(context, about, saying, message)


@retried
async def _say(
    context: Context, about: About, saying: _Saying, message: Callable[[str], msgspec.Struct]
) -> OwedByHand:
    now = context.clock()
    async with context.db.transaction() as conn:
        group = await store.hold_group(conn, user_id=about.user_id, group_id=about.group_id)
        if group is None:
            raise Unknown("there is no such capacity group")
        if not group.enabled:
            raise Conflict("the group is disabled")
        await _check_listener(conn, group.provider_id)
        owed = Owed(
            peer_id=group.provider_id,
            lane=f"group:{about.group_id}",
            operation=saying.operation,
            body=messages.encode(message(group.identifier)),
            request_id=about.owed_as,
            correlation_id=await _correlation(conn, about, group.provider_id),
            group_id=about.group_id,
            due_at=now,
            expires_at=max([now + _AT_LEAST, *(block.end_at for block in saying.blocks)]),
        )
        if not await _was_said(conn, owed):
            await outbox.owe(conn, [owed], now=now)
            await events.record(
                conn,
                kind=saying.kind,
                at=now,
                user_id=group.user_id,
                peer_id=owed.peer_id,
                group_id=about.group_id,
                data=saying.data,
            )
        kept = await store.said(conn, peer_id=owed.peer_id, request_id=owed.request_id)
        assert kept is not None
    context.bells.delivery()
    log.info(saying.kind, group=about.group_id, by="operator", request_id=owed.request_id)
    return OwedByHand(
        message_id=kept.id,
        request_id=owed.request_id,
        correlation_id=owed.correlation_id,
        peer_id=owed.peer_id,
    )


async def _check_listener(conn: AsyncConnection, peer_id: int) -> None:
    """Lock the provider. Raises Conflict when it is not registered or not to be spoken to."""
    peer = await peers.lock(conn, peer_id=peer_id)
    if peer is None or not peer.enabled:
        raise Conflict("the group's provider is disabled")
    if peer.link in _CLOSED or peer.base_url is None:
        raise Conflict(f"the group's provider is {peer.link}: register first")


async def _correlation(conn: AsyncConnection, about: About, peer_id: int) -> str | None:
    """Return the provider's id of the forecast that is meant, None: none is. Raises Malformed."""
    if about.request_id is None and about.forecast_id is None:
        return None
    known_as = await store.forecast_known_as(
        conn,
        group_id=about.group_id,
        peer_id=peer_id,
        forecast_id=about.forecast_id,
        request_id=about.request_id,
    )
    if known_as is None:
        name = "requestId" if about.forecast_id is None else "forecastId"
        raise Malformed(f"{name}: expected that of a forecast to the group from its provider")
    return known_as


async def _was_said(conn: AsyncConnection, owed: Owed) -> bool:
    """Tell whether the very same was said under this id. Raises Conflict when something else was.

    Whoever asks the same waits until the transaction ends, since the provider is locked.
    """
    kept = await store.said(conn, peer_id=owed.peer_id, request_id=owed.request_id)
    if kept is None:
        return False
    same = (owed.operation, owed.group_id, owed.correlation_id, owed.body)
    if (kept.operation, kept.group_id, kept.correlation_id, kept.body) != same:
        raise Conflict("X-Request-ID: the provider was owed something else under this id")
    return True
