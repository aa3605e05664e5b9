"""A capacity forecast arrives: kept, owed to the optimizer, published, obeyed (OSCP 2.0 §4.4.1).

One transaction holds all of it, so the 204 that follows means "kept, with all it causes".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection

from fpd.domain.forecast import Forecast, ForecastType
from fpd.errors import Forbidden, Unknown
from fpd.flows import forwarding, publishing
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.oscp import messages
from fpd.store.forecasts import Addressee
from fpd.store.peers import Peer
from fpd.store.publications import Outlet


@dataclass(frozen=True, slots=True)
class Accepted:
    """A forecast that is kept: what was said, by whom, about which group."""

    inbound: Inbound
    forecast: Forecast
    peer: Peer
    group: Addressee


async def pass_on(conn: AsyncConnection, accepted: Sequence[Accepted], *, now: datetime) -> None:
    """Owe optimizers kept forecasts, in their order."""
    passing = [forwarding.Passing(one.inbound, one.group, one.forecast) for one in accepted]
    await forwarding.owe(conn, passing, now=now)


async def publish(
    context: Context,
    conn: AsyncConnection,
    accepted: Sequence[Accepted],
    outlets: Sequence[Outlet],
    *,
    now: datetime,
) -> None:
    """Owe the datum of kept forecasts, in their order."""
    if not outlets:
        return
    heard = [
        publishing.ForecastHeard(
            peer_id=one.peer.id,
            group_id=one.group.group_id,
            type=one.forecast.type,
            request_id=one.inbound.request_id,
            blocks=one.forecast.blocks,
            id=one.forecast.id,
        )
        for one in accepted
    ]
    await publishing.owe_forecasts(context, conn, heard, outlets=outlets, now=now)


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
