"""What an optimizer says to a provider goes through us: wishes, and what it cannot keep.

AdjustGroupCapacityForecast (OSCP 2.0 §4.4.2) and GroupCapacityComplianceError are messages of a
Flexibility Provider to a Capacity Provider; in the field an optimizer sends them to us. They
reach the provider byte for byte, correlated with the provider's own request id: the optimizer
knows the forecast under the id of our forward, which is mapped back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.domain.forecast import Block
from fpd.errors import Forbidden, Malformed, Unknown
from fpd.flows import forwarding
from fpd.flows.blocks import checked_blocks
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.flows.liveness import open_link
from fpd.oscp import messages
from fpd.store import events, forecasts, outbox
from fpd.store.db import retried
from fpd.store.forecasts import Addressee
from fpd.store.outbox import Owed, PassedOn
from fpd.store.peers import Peer

log = structlog.get_logger()

_AT_LEAST = timedelta(hours=24)
_LONGEST_TOLD = 300


@retried
async def adjust(
    context: Context, inbound: Inbound, message: messages.AdjustGroupCapacityForecast
) -> None:
    """Pass on the wish for another capacity. Raises Malformed, Unknown, Forbidden.

    Interpretation: it need not be correlated, since it names its group. A correlation that is
    not with a forecast of this group, which we passed on, means nothing to the provider.
    """
    now = context.clock()
    blocks = await checked_blocks(message.forecasted_blocks)
    async with context.db.transaction() as conn, open_link(context, conn, inbound, now) as peer:
        if peer is None:
            return
        _check_sender(peer)
        group = await group_of(conn, peer.id, message.group_id, now)
        answered = await answered_forecast(conn, inbound)
        if answered is not None and answered.group_id != group.group_id:
            answered = None
        await owe_wish(conn, inbound, message, group, answered=answered, blocks=blocks, now=now)
    context.bells.delivery()
    log.info("forecast.adjustment_wished", peer=inbound.peer_id, group=message.group_id)


@retried
async def compliance_error(
    context: Context, inbound: Inbound, message: messages.GroupCapacityComplianceError
) -> None:
    """Pass on that a forecast cannot be kept. Raises Malformed, Unknown, Forbidden.

    It names neither group nor type: X-Correlation-ID, the id under which we passed the forecast
    on, is the only link (OSCP 2.0: it SHALL be there).
    """
    now = context.clock()
    blocks = await checked_blocks(message.forecasted_blocks or ())
    async with context.db.transaction() as conn, open_link(context, conn, inbound, now) as peer:
        if peer is None:
            return
        _check_sender(peer)
        answered = await answered_forecast(conn, inbound)
        if answered is None:
            raise Malformed("X-Correlation-ID: expected the id of a forecast that we sent you")
        group = await group_of(conn, peer.id, answered.identifier, now)
        await owe_error(conn, inbound, message, group, answered=answered, blocks=blocks, now=now)
    context.bells.delivery()
    log.warning(
        "forecast.declared_impossible",
        peer=inbound.peer_id,
        group=group.group_id,
        forecast=answered.sender_request_id,
        reason=_told(message),
    )


async def owe_wish(
    conn: AsyncConnection,
    inbound: Inbound,
    message: messages.AdjustGroupCapacityForecast,
    group: Addressee,
    *,
    answered: PassedOn | None,
    blocks: Sequence[Block],
    now: datetime,
) -> str:
    """Owe the provider an optimizer's wish; return the id under which it will hear it."""
    request_id = await _pass_on(
        conn,
        inbound,
        group,
        to=group.provider_id if answered is None else answered.sender_id,
        operation="adjust_group_capacity_forecast",
        correlation_id=None if answered is None else answered.sender_request_id,
        blocks=blocks,
        now=now,
    )
    await events.record(
        conn,
        kind="forecast.adjustment_wished",
        at=now,
        user_id=group.user_id,
        peer_id=inbound.peer_id,
        group_id=group.group_id,
        data={"type": message.type},
    )
    return request_id


async def owe_error(
    conn: AsyncConnection,
    inbound: Inbound,
    message: messages.GroupCapacityComplianceError,
    group: Addressee,
    *,
    answered: PassedOn,
    blocks: Sequence[Block],
    now: datetime,
) -> str:
    """Owe the provider what an optimizer cannot keep; return the id under which it hears it."""
    request_id = await _pass_on(
        conn,
        inbound,
        group,
        to=answered.sender_id,
        operation="group_capacity_compliance_error",
        correlation_id=answered.sender_request_id,
        blocks=blocks,
        now=now,
    )
    await events.record(
        conn,
        kind="forecast.declared_impossible",
        at=now,
        user_id=group.user_id,
        peer_id=inbound.peer_id,
        group_id=group.group_id,
        data={"message": _told(message), "blocks": len(blocks)},
    )
    return request_id


def _told(message: messages.GroupCapacityComplianceError) -> str:
    return message.message[:_LONGEST_TOLD].replace("\0", "")  # jsonb knows no NUL


def _check_sender(peer: Peer) -> None:
    if peer.role != "CapacityOptimizer":
        raise Forbidden("only a capacity optimizer may say this to a flexibility provider")


async def group_of(
    conn: AsyncConnection, peer_id: int, identifier: str, now: datetime
) -> Addressee:
    """Return the peer's group of that identifier. Raises Unknown when it may not be spoken of."""
    group = await forecasts.find_group(conn, peer_id=peer_id, identifier=identifier, now=now)
    if group is None:
        raise Unknown(f"group_id: no group {identifier!r} of yours")
    if not group.enabled:
        raise Unknown(f"group_id: the group {identifier!r} is disabled")
    return group


async def answered_forecast(conn: AsyncConnection, inbound: Inbound) -> PassedOn | None:
    """Return the message of ours that the sender correlates its own with, None: none."""
    if inbound.correlation_id is None:
        return None
    return await outbox.passed_on(
        conn, receiver_id=inbound.peer_id, request_id=inbound.correlation_id
    )


async def _pass_on(
    conn: AsyncConnection,
    inbound: Inbound,
    group: Addressee,
    *,
    to: int,
    operation: str,
    correlation_id: str | None,
    blocks: Sequence[Block],
    now: datetime,
) -> str:
    """Owe the provider the optimizer's bytes until the last block ends, but for 24 h at least.

    Interpretation: what we have accepted is worth knowing also when its blocks have passed.
    """
    owed = Owed(
        peer_id=to,
        lane=f"group:{group.group_id}",
        operation=operation,
        body=inbound.body,
        request_id=await forwarding.passing_id(conn, inbound, group, receiver_id=to),
        correlation_id=correlation_id,
        group_id=group.group_id,
        due_at=now,
        expires_at=max([now + _AT_LEAST, *(block.end_at for block in blocks)]),
        sender_id=inbound.peer_id,
        sender_request_id=inbound.request_id,
    )
    await outbox.owe(conn, [owed], now=now)
    return owed.request_id
