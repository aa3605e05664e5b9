"""Heartbeats: ours on time, theirs as promised, and what silence means (OSCP 2.0 §2.3).

Interpretation: a heartbeat is a due row of its own, not a message in the outbox: it is never
retried, since the next one says the same and is fresher.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from fpd.domain.link import offline_at, silence_allowed
from fpd.flows import outbound, publishing
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.flows.liveness import open_link
from fpd.oscp import dialects, messages
from fpd.oscp.headers import new_request_id
from fpd.store import events, forecasts, peers

log = structlog.get_logger()


async def receive(context: Context, inbound: Inbound, message: messages.Heartbeat) -> None:
    """Keep the peer's newest promise and publish it."""
    now = context.clock()
    promised_at = messages.plausible(message.offline_mode_at, "offline_mode_at")
    grace = timedelta(seconds=context.config.oscp.clock_skew_grace_s)
    async with context.db.transaction() as conn, open_link(context, conn, inbound, now) as peer:
        if peer is None:
            return
        await peers.save_heartbeat(
            conn,
            peer_id=peer.id,
            offline_mode_at=promised_at,
            offline_at=offline_at(promised_at, now=now, grace=grace),
            now=now,
        )
        await publishing.owe_heartbeat(
            context, conn, peer_id=peer.id, offline_mode_at=promised_at, now=now
        )
    context.bells.publishing()


async def step(context: Context) -> bool:
    """Send the heartbeats that are due, each in a task of its own."""
    async with context.db.connection() as conn:
        due = await peers.claim_heartbeats(conn, now=context.clock())
    for heartbeat in due:
        context.spawn(_send(context, heartbeat), name=f"heartbeat to {heartbeat.peer_id}")
    return len(due) > 0


async def _send(context: Context, due: peers.DueHeartbeat) -> None:
    if not dialects.read(due.service_props).heartbeats:
        return
    now = context.clock()
    message = messages.Heartbeat(offline_mode_at=now + silence_allowed(due.interval_s))
    answer = await outbound.send(
        context,
        due,
        operation="heartbeat",
        request_id=new_request_id(),
        body=messages.encode(message),
    )
    log.debug("heartbeat.sent", peer=due.peer_id, status=answer.status, detail=answer.detail)


async def notice_silence(context: Context) -> bool:
    """Take peers offline whose promise has run out; their groups fall back at once."""
    now = context.clock()
    async with context.db.transaction() as conn:
        silent = await peers.claim_silent(conn, now=now)
        for peer in silent:
            await forecasts.want_control_of_peer(conn, peer_id=peer.id, now=now)
            await events.record(
                conn, kind="peer.offline", at=now, user_id=peer.user_id, peer_id=peer.id
            )
    for peer in silent:
        log.warning("peer.offline", peer=peer.id, name=peer.name, role=peer.role)
    if silent:
        context.bells.control()
    return False
