"""A capacity forecast arrives: kept, owed to the optimizer, published, obeyed (OSCP 2.0 §4.4.1).

One transaction holds all of it, so the 204 that follows means "kept, with all it causes".
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

import structlog
from psycopg import AsyncConnection

from fpd.domain.forecast import Block, ForecastType
from fpd.domain.link import LinkEvent, after
from fpd.errors import Forbidden, Malformed, Unknown
from fpd.flows import publishing
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound, once
from fpd.oscp import messages
from fpd.oscp.headers import new_request_id
from fpd.store import forecasts, outbox
from fpd.store.forecasts import Addressee
from fpd.store.outbox import Owed
from fpd.store.peers import Peer

log = structlog.get_logger()


async def receive(
    context: Context, inbound: Inbound, message: messages.UpdateGroupCapacityForecast
) -> None:
    """Keep a forecast. Raises Malformed, Unknown (no such group), Forbidden (wrong role)."""
    now = context.clock()
    blocks = checked_blocks(message.forecasted_blocks)
    async with context.db.transaction() as conn, once(context, conn, inbound, now) as peer:
        if peer is None:
            return
        after(peer.link, LinkEvent.MESSAGE)
        group = await _group(conn, peer, message)
        forecast_id = await forecasts.add(
            conn,
            group_id=group.group_id,
            peer_id=peer.id,
            request_id=inbound.request_id,
            correlation_id=inbound.correlation_id,
            type=message.type,
            body=inbound.body,
            blocks=blocks,
            now=now,
        )
        await outbox.owe(conn, _forward(inbound, peer, group, forecast_id, blocks, now), now=now)
        await publishing.owe_forecast(
            context,
            conn,
            peer_id=peer.id,
            group_id=group.group_id,
            forecast_type=message.type,
            request_id=inbound.request_id,
            blocks=blocks,
            now=now,
        )
        await forecasts.want_control(conn, group_id=group.group_id, now=now)
    context.bells.delivery()
    context.bells.publishing()
    context.bells.control()
    log.info(
        "forecast.received",
        peer=inbound.peer_id,
        group=message.group_id,
        type=message.type,
        blocks=len(blocks),
        request_id=inbound.request_id,
    )


def checked_blocks(wire: Sequence[messages.ForecastedBlock]) -> tuple[Block, ...]:
    """Return the blocks. Raises Malformed when one is empty or two contradict each other.

    Interpretation: blocks of one message and phase that overlap are refused; gaps, any order
    and blocks in the past are legal.
    """
    blocks = []
    for index, block in enumerate(wire):
        field = f"forecasted_blocks[{index}]"
        start_at = messages.plausible(block.start_time, f"{field}.start_time")
        end_at = messages.plausible(block.end_time, f"{field}.end_time")
        if end_at <= start_at:
            raise Malformed(f"{field}.end_time: not after start_time")
        blocks.append(
            Block(
                start_at=start_at,
                end_at=end_at,
                capacity=Decimal(repr(block.capacity)),
                unit=block.unit,
                phase=block.phase,
            )
        )
    order = sorted(range(len(blocks)), key=lambda i: (blocks[i].phase, blocks[i].start_at))
    for earlier, later in pairwise(order):
        if (
            blocks[earlier].phase == blocks[later].phase
            and blocks[later].start_at < blocks[earlier].end_at
        ):
            raise Malformed(
                f"forecasted_blocks[{later}]: overlaps forecasted_blocks[{earlier}] on phase "
                f"{blocks[later].phase}"
            )
    return tuple(blocks)


async def _group(
    conn: AsyncConnection, peer: Peer, message: messages.UpdateGroupCapacityForecast
) -> Addressee:
    if peer.role == "CapacityOptimizer" and message.type is not ForecastType.OPTIMUM:
        raise Forbidden(f"type: a capacity optimizer sends OPTIMUM, not {message.type}")
    group = await forecasts.find_group(conn, peer_id=peer.id, identifier=message.group_id)
    if group is None:
        raise Unknown(f"group_id: no group {message.group_id!r} of yours")
    if not group.enabled:
        # Interpretation: a 204 would promise to obey, which a disabled group does not.
        raise Unknown(f"group_id: the group {message.group_id!r} is disabled")
    return group


def _forward(
    inbound: Inbound,
    peer: Peer,
    group: Addressee,
    forecast_id: int,
    blocks: Sequence[Block],
    now: datetime,
) -> list[Owed]:
    """Return the message for the optimizer: the provider's bytes under an id of ours (P20)."""
    if peer.id != group.provider_id or group.optimizer_id is None or not group.optimizer_listens:
        return []
    return [
        Owed(
            peer_id=group.optimizer_id,
            lane=f"group:{group.group_id}",
            operation="update_group_capacity_forecast",
            body=inbound.body,
            request_id=new_request_id(),
            group_id=group.group_id,
            forecast_id=forecast_id,
            due_at=now,
            expires_at=max(block.end_at for block in blocks),
        )
    ]
