"""The operator pauses a peer or a group and resumes it: `enabled`, as the management API sets it.

A paused peer is neither heard nor spoken to; what is owed to it waits. A paused group's devices
rest, and forecasts for it are refused. `user_id` None is the operator of the machine.
"""

from __future__ import annotations

from datetime import datetime

import structlog
from psycopg import AsyncConnection

from fpd.domain.link import Link
from fpd.errors import Unknown
from fpd.flows import forwarding
from fpd.flows.context import Context
from fpd.store import entities, events, forecasts, lanes, peers
from fpd.store import explain as groups
from fpd.store.db import retried
from fpd.store.entities import Table
from fpd.store.peers import Peer

log = structlog.get_logger()

_PEERS = {table.role: table for table in (entities.PROVIDERS, entities.OPTIMIZERS)}


@retried
async def peer(
    context: Context, *, user_id: int | None, role: str, peer_id: int, enabled: bool
) -> None:
    """Resume the peer, or pause it; twice is as good as once. Raises Unknown."""
    now = context.clock()
    async with context.db.transaction() as conn:
        found = await peers.lock(conn, peer_id=peer_id)
        if found is None or found.role != role or user_id not in (None, found.user_id):
            raise Unknown("nothing is here")
        if found.enabled is enabled:
            return
        await _set(conn, _PEERS[role], found.user_id, peer_id, enabled, now)
        await forecasts.want_control_of_peer(conn, peer_id=peer_id, now=now)
        if enabled:
            await _catch_up(conn, found, now)
        kind = "peer.resumed" if enabled else "peer.paused"
        await events.record(conn, kind=kind, at=now, user_id=found.user_id, peer_id=peer_id)
    _ring(context)
    log.info(kind, peer=peer_id)


async def _catch_up(conn: AsyncConnection, peer: Peer, now: datetime) -> None:
    """Let go what waits. Interpretation: an optimizer that is online all the same was owed no
    forecasts meanwhile, so it is told what is in force as one that comes back (decision P4).
    """
    await lanes.wake(conn, peer_id=peer.id, now=now)
    if peer.link is Link.ONLINE:
        await forwarding.tell_again(conn, peer, now=now)


@retried
async def group(context: Context, *, user_id: int | None, group_id: int, enabled: bool) -> None:
    """Resume the group, or pause it; twice is as good as once. Raises Unknown."""
    now = context.clock()
    async with context.db.transaction() as conn:
        found = await groups.group(conn, user_id=user_id, group_id=group_id)
        if found is None:
            raise Unknown("there is no such capacity group")
        row = await entities.find(
            conn, entities.GROUPS, user_id=found.user_id, id=group_id, lock=True
        )
        if row is None:
            raise Unknown("there is no such capacity group")
        if row["enabled"] is enabled:
            return
        await _set(conn, entities.GROUPS, found.user_id, group_id, enabled, now)
        await forecasts.want_control(conn, group_ids=[group_id], now=now)
        kind = "group.resumed" if enabled else "group.paused"
        await events.record(conn, kind=kind, at=now, user_id=found.user_id, group_id=group_id)
    _ring(context)
    log.info(kind, group=group_id)


async def _set(
    conn: AsyncConnection, table: Table, user_id: int, id: int, enabled: bool, now: datetime
) -> None:
    await entities.update(conn, table, user_id=user_id, id=id, values={"enabled": enabled}, now=now)


def _ring(context: Context) -> None:
    context.bells.control()
    context.bells.delivery()
    context.bells.heartbeats()
