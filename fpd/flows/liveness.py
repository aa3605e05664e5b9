"""What shows that a peer is there, and what follows when it is there again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.domain.link import Link, LinkEvent, after, silence_allowed
from fpd.flows import forwarding
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound, once
from fpd.oscp.dialects import Dialect
from fpd.store import events, forecasts, lanes, peers, senders, trouble

log = structlog.get_logger()


def silence(context: Context, dialect: Dialect) -> timedelta:
    """Return after which silence the peer counts as offline, our grace included."""
    settings = context.config.oscp
    allowed = None if dialect.heartbeats else dialect.offline_after
    if allowed is None:
        allowed = silence_allowed(settings.heartbeat_interval_s)
    return allowed + timedelta(seconds=settings.clock_skew_grace_s)


@contextlib.asynccontextmanager
async def open_link(
    context: Context, conn: AsyncConnection, inbound: Inbound, now: datetime
) -> AsyncIterator[peers.Peer | None]:
    """Lend the peer as `once` does, for what may be said over an open link only.

    Raises Forbidden when the link is not open.
    """
    async with once(context, conn, inbound, now) as peer:
        if peer is None:
            yield None
            return
        yield awake(peer, inbound)
        await heard(context, conn, peer, inbound, now=now)


def awake(peer: peers.Peer, inbound: Inbound) -> peers.Peer:
    """Return the peer as it counts now that it speaks. Raises Forbidden if it may not yet."""
    link = peer.link
    if _is_sign_of_life(inbound):
        link = after(link, LinkEvent.SIGN_OF_LIFE)
    after(link, LinkEvent.MESSAGE)
    return replace(peer, link=link)


def _is_sign_of_life(inbound: Inbound) -> bool:
    """Tell whether the message ends offline mode: any of a peer without heartbeats, which cannot
    promise anything, and with a switch a heartbeat.
    """
    dialect = inbound.dialect
    heartbeat = inbound.operation == "POST heartbeat"
    return not dialect.heartbeats or (heartbeat and dialect.lenient_heartbeat)


async def heard(
    context: Context, conn: AsyncConnection, peer: peers.Peer, inbound: Inbound, *, now: datetime
) -> None:
    """Note what an accepted message of `peer`, as it was before, shows by itself.

    A peer with heartbeats is online until what it promised, a peer without for a while more.
    """
    if not _is_sign_of_life(inbound):
        return
    if not inbound.dialect.heartbeats:
        offline_at = now + silence(context, inbound.dialect)
        context.promises.note(peer.id, offline_at)
        await senders.prolong(conn, peer_id=peer.id, offline_at=offline_at)
    if peer.link is Link.OFFLINE:
        await senders.wake(conn, peer_id=peer.id, now=now)
        await opened(conn, peer, now=now)


async def opened(conn: AsyncConnection, peer: peers.Peer, *, now: datetime) -> None:
    """The link with `peer`, as it was before, is open: its groups may have to leave their
    fallback, and an optimizer is told again what is in force.
    """
    if peer.link is Link.ONLINE:
        return
    if peer.link in (Link.BROKEN, Link.OFFLINE):
        await trouble.forget(conn, peer_id=peer.id)
    await events.record(conn, kind="peer.online", at=now, user_id=peer.user_id, peer_id=peer.id)
    await forecasts.want_control_of_peer(conn, peer_id=peer.id, now=now)
    await forwarding.tell_again(conn, peer, now=now)
    await lanes.wake(conn, peer_id=peer.id, now=now)
    log.info("peer.online", peer=peer.id)
