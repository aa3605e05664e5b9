"""Shaking hands: what each side requires of the other (OSCP 2.0 §4.3.2, §4.3.3).

A provider shakes hands with us, we with optimizers; either is accepted from both (decision P17).
Our own behaviour, sent with every Handshake and Acknowledge, asks for heartbeats: without them
the loss of a peer could never be noticed.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.domain.link import Link, LinkEvent, after, next_heartbeat, silence_allowed
from fpd.errors import Malformed
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound, once
from fpd.flows.registration import HELD_BACK
from fpd.oscp import messages
from fpd.oscp.headers import new_request_id
from fpd.store import events, forecasts, outbox, peers
from fpd.store.outbox import Owed

log = structlog.get_logger()

_HANDSHAKE_WAIT_S = 30.0
# Interpretation: who wants heartbeats less often than that gets them more often: no bound is
# specified, and instants past the end of the calendar cannot be promised.
_LONGEST_INTERVAL_S = 7 * 86400.0


def required_behaviour(context: Context) -> messages.RequiredBehaviour:
    """Return what we require of peers. Schema-valid towards those that insist on one entry."""
    return messages.RequiredBehaviour(
        heartbeat_interval=float(context.config.oscp.heartbeat_interval_s),
        measurement_configuration=(messages.MeasurementConfiguration.CONTINUOUS,),
    )


async def receive(context: Context, inbound: Inbound, message: messages.Handshake) -> str | None:
    """Keep what the peer requires; return the id of the Acknowledge we owe, if it is new."""
    now, request_id = context.clock(), new_request_id()
    async with context.db.transaction() as conn, once(context, conn, inbound, now) as peer:
        if peer is None:
            return None
        link = after(peer.link, LinkEvent.HANDSHAKE)
        await _keep(context, conn, peer, link, message.required_behaviour, now)
        await outbox.supersede(
            conn, peer_id=peer.id, lane=outbox.LINK, operations=("handshake_acknowledge",), now=now
        )
        acknowledge = messages.HandshakeAcknowledge(required_behaviour=required_behaviour(context))
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
        await _opened(conn, peer, now)
    context.bells.control()
    return request_id


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
        # Interpretation: a missing correlation id is let pass (ELMO omits it), a wrong one is not.
        if peer.handshake_id and inbound.correlation_id not in (None, peer.handshake_id):
            raise Malformed("X-Correlation-ID: not the id of our handshake")
        await _keep(context, conn, peer, link, message.required_behaviour, now)
        await _opened(conn, peer, now)
    context.bells.heartbeats()
    context.bells.delivery()


async def _keep(
    context: Context,
    conn: AsyncConnection,
    peer: peers.Peer,
    link: Link,
    behaviour: messages.RequiredBehaviour | None,
    now: datetime,
) -> None:
    """Store the demands; an absent behaviour leaves those of the last handshake (`{}` is legal)."""
    ours = silence_allowed(context.config.oscp.heartbeat_interval_s)
    grace = timedelta(seconds=context.config.oscp.clock_skew_grace_s)
    offline_at = now + ours + grace
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
        await peers.reschedule_heartbeat(
            conn, peer_id=peer.id, due_at=now + min(HELD_BACK, next_heartbeat(interval_s))
        )


async def _opened(conn: AsyncConnection, peer: peers.Peer, now: datetime) -> None:
    """The link is open: groups may have to leave their fallback."""
    if peer.link is Link.ONLINE:
        return
    await events.record(conn, kind="peer.online", at=now, user_id=peer.user_id, peer_id=peer.id)
    await forecasts.want_control_of_peer(conn, peer_id=peer.id, now=now)
    log.info("peer.online", peer=peer.id)


async def step(context: Context) -> bool:
    """Owe a Handshake to every optimizer that is due one."""
    now = context.clock()
    body = messages.encode(messages.Handshake(required_behaviour=required_behaviour(context)))
    async with context.db.transaction() as conn:
        due = await peers.claim_handshakes(conn, now=now)
        if not due:
            return False
        request_ids = {peer.id: new_request_id() for peer in due}
        for peer in due:
            await outbox.supersede(
                conn, peer_id=peer.id, lane=outbox.LINK, operations=("handshake",), now=now
            )
        await outbox.owe(
            conn,
            [
                Owed(
                    peer_id=peer_id,
                    lane=outbox.LINK,
                    operation="handshake",
                    body=body,
                    request_id=request_id,
                    due_at=now,
                )
                for peer_id, request_id in request_ids.items()
            ],
            now=now,
        )
        await peers.handshake_owed(
            conn, request_ids=request_ids, first_wait_s=_HANDSHAKE_WAIT_S, now=now
        )
    context.bells.delivery()
    return True
