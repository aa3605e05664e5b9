"""A capacity forecast arrives: kept, owed to the optimizer, published, obeyed (OSCP 2.0 §4.4.1).

One transaction holds all of it, so the 204 that follows means "kept, with all it causes".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise

import structlog
from psycopg import AsyncConnection

from fpd.domain.forecast import Block, Forecast, ForecastType
from fpd.errors import Forbidden, Malformed, Unknown
from fpd.flows import forwarding, publishing
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.oscp import messages
from fpd.store import outbox
from fpd.store.forecasts import Addressee
from fpd.store.intake import Kept
from fpd.store.peers import Peer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A forecast that is kept: what was said, by whom, about which group."""

    inbound: Inbound
    kept: Kept
    peer: Peer
    group: Addressee


async def cause(
    context: Context, conn: AsyncConnection, accepted: Sequence[Accepted], *, now: datetime
) -> None:
    """Owe what kept forecasts cause, in their order: their forwards and their datum."""
    owed = []
    for one in accepted:
        owed += await forwarding.owed(
            conn, one.inbound, group=one.group, forecast=_as_heard(one.kept, now), now=now
        )
    await outbox.owe(conn, forwarding.told_apart(owed), now=now)
    heard = [
        publishing.ForecastHeard(
            peer_id=one.peer.id,
            group_id=one.group.group_id,
            type=one.kept.type,
            request_id=one.kept.request_id,
            blocks=one.kept.blocks,
        )
        for one in accepted
    ]
    await publishing.owe_forecasts(context, conn, heard, now=now)


def _as_heard(kept: Kept, now: datetime) -> Forecast:
    return Forecast(
        received_at=now,
        type=kept.type,
        blocks=tuple(kept.blocks),
        id=kept.id,
        peer_id=kept.peer_id,
    )


def tell(accepted: Accepted) -> None:
    """Log one kept forecast."""
    log.info(
        "forecast.received",
        peer=accepted.peer.id,
        group=accepted.group.group_id,
        type=accepted.kept.type,
        blocks=len(accepted.kept.blocks),
        request_id=accepted.kept.request_id,
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


def checked_group(
    peer: Peer, message: messages.UpdateGroupCapacityForecast, group: Addressee | None
) -> Addressee:
    """Return the group. Raises Forbidden (not this peer's to send), Unknown (no such group)."""
    if peer.role == "CapacityOptimizer" and message.type is not ForecastType.OPTIMUM:
        raise Forbidden(f"type: a capacity optimizer sends OPTIMUM, not {message.type}")
    if group is None:
        raise Unknown(f"group_id: no group {message.group_id!r} of yours")
    if not group.enabled:
        # Interpretation: a 204 would promise to obey, which a disabled group does not.
        raise Unknown(f"group_id: the group {message.group_id!r} is disabled")
    return group
