"""Shaking hands: what each side requires of the other (OSCP 2.0 §4.3.2, §4.3.3).

A provider shakes hands with us, we with optimizers; either is accepted from both (decision P17).
Our own behaviour, sent with every Handshake and Acknowledge, asks for heartbeats: without them
the loss of a peer could never be noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog
from psycopg import AsyncConnection

from fpd.domain.link import Link, LinkEvent, after, next_heartbeat
from fpd.errors import Malformed
from fpd.flows import liveness
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound, once
from fpd.flows.registration import HELD_BACK
from fpd.oscp import dialects, messages
from fpd.oscp.dialects import Dialect
from fpd.oscp.headers import new_request_id
from fpd.store import heartbeats, outbox, peers
from fpd.store.db import retried
from fpd.store.outbox import Owed

log = structlog.get_logger()

_HANDSHAKE_WAIT_S = 30.0
# Interpretation: who wants heartbeats less often than that gets them more often: no bound is
# specified, and instants past the end of the calendar cannot be promised.
_LONGEST_INTERVAL_S = 7 * 86400.0


def required_behaviour(context: Context, dialect: Dialect) -> messages.RequiredBehaviour:
    """Return what we require of a peer. Schema-valid towards those that insist on one entry."""
    interval_s = float(context.config.oscp.heartbeat_interval_s)
    return messages.RequiredBehaviour(
        heartbeat_interval=interval_s if dialect.heartbeats else None,
        measurement_configuration=(messages.MeasurementConfiguration.CONTINUOUS,),
    )


@retried
async def receive(context: Context, inbound: Inbound, message: messages.Handshake) -> str | None:
    """Keep what the peer requires; return the id of the Acknowledge we owe, if it is new."""
    now, request_id = context.clock(), new_request_id()
    async with context.db.transaction() as conn, once(context, conn, inbound, now) as peer:
        if peer is None:
            return None
        link = after(peer.link, LinkEvent.HANDSHAKE)
        await _keep(context, conn, peer, inbound.dialect, link, message.required_behaviour, now)
        await outbox.supersede(
            conn, peer_id=peer.id, lane=outbox.LINK, operations=("handshake_acknowledge",), now=now
        )
        acknowledge = messages.HandshakeAcknowledge(
            required_behaviour=required_behaviour(context, inbound.dialect)
        )
        owed = Owed(
            peer_id=peer.id,
            lane=outbox.LINK,
            operation="handshake_acknowledge",
            body=messages.encode(acknowledge),
            request_id=request_id,
            correlation_id=inbound.request_id,
            due_at=now + HELD_BACK,
        )
        await outbox.owe(conn, [owed], now=now)
        await liveness.opened(conn, peer, now=now)
    context.bells.control()
    return request_id


@retried
async def acknowledged(
    context: Context, inbound: Inbound, message: messages.HandshakeAcknowledge
) -> None:
    """The peer answered our Handshake. Raises Malformed when none is outstanding."""
    now = context.clock()
    async with context.db.transaction() as conn, once(context, conn, inbound, now) as peer:
        if peer is None:
            return
        link = after(peer.link, LinkEvent.ACKNOWLEDGE)
        if peer.handshake_id is None and peer.link is not Link.ONLINE:
            raise Malformed("no handshake is outstanding")
        answers = inbound.dialect.lenient_correlation or not peer.handshake_id
        if not answers and inbound.correlation_id != peer.handshake_id:
            raise Malformed("X-Correlation-ID: not the id of our handshake")
        await _keep(context, conn, peer, inbound.dialect, link, message.required_behaviour, now)
        await liveness.opened(conn, peer, now=now)
    context.bells.heartbeats()
    context.bells.delivery()


async def _keep(
    context: Context,
    conn: AsyncConnection,
    peer: peers.Peer,
    dialect: Dialect,
    link: Link,
    behaviour: messages.RequiredBehaviour | None,
    now: datetime,
) -> None:
    """Store the demands; an absent behaviour leaves those of the last handshake (`{}` is legal)."""
    offline_at = now + liveness.silence(context, dialect)
    context.promises.note(peer.id, offline_at)
    if behaviour is None:
        await peers.open_without_change(
            conn, peer_id=peer.id, link=link, offline_at=offline_at, now=now
        )
        return
    interval_s = behaviour.heartbeat_interval
    if interval_s is not None:
        interval_s = min(interval_s, _LONGEST_INTERVAL_S)
    await peers.save_behaviour(
        conn,
        peer_id=peer.id,
        link=link,
        heartbeat_interval_s=interval_s,
        measurement_configuration=list(behaviour.measurement_configuration or ()),
        offline_at=offline_at,
        now=now,
    )
    if interval_s is not None:
        await heartbeats.reschedule(
            conn, peer_id=peer.id, due_at=now + min(HELD_BACK, next_heartbeat(interval_s))
        )


def _handshake(context: Context, peer: peers.Peer) -> messages.Handshake:
    dialect = dialects.read(peer.service_props)
    return messages.Handshake(required_behaviour=required_behaviour(context, dialect))


async def owe(
    context: Context, conn: AsyncConnection, to: Sequence[peers.Peer], *, now: datetime
) -> None:
    """Owe a new Handshake to these peers; one that is still unsaid is dropped."""
    request_ids = {peer.id: new_request_id() for peer in to}
    for peer in to:
        await outbox.supersede(
            conn, peer_id=peer.id, lane=outbox.LINK, operations=("handshake",), now=now
        )
    handshakes = [
        Owed(
            peer_id=peer.id,
            lane=outbox.LINK,
            operation="handshake",
            body=messages.encode(_handshake(context, peer)),
            request_id=request_ids[peer.id],
            due_at=now,
        )
        for peer in to
    ]
    await outbox.owe(conn, handshakes, now=now)
    await peers.handshake_owed(
        conn, request_ids=request_ids, first_wait_s=_HANDSHAKE_WAIT_S, now=now
    )


@retried
async def step(context: Context) -> bool:
    """Owe a Handshake to every optimizer that is due one."""
    now = context.clock()
    async with context.db.transaction() as conn:
        due = await peers.claim_handshakes(conn, now=now)
        if not due:
            return False
        await owe(context, conn, due, now=now)
    context.bells.delivery()
    return True
