"""A message comes in segments: each is kept, the last one brings the whole to where it belongs.

Two transactions, and between them what a message that comes whole goes through. The first keeps
the segment; the last notes that the message took effect. Whoever dies in between has not answered
the segment, so it is said again: the message is then whole already and taken once more, which by
its X-Request-ID, that of the first segment, has one effect.

Interpretation: every message with a body may be segmented but a Register, which is small, and
whose token must not lie around in clear. The X-Request-ID of a segment names it alone, also where
a peer's dialect lets ids come again (`lenient-request-id`) or be missing (`lenient-no-request-id`:
such a peer cannot send segments).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from psycopg import AsyncConnection

from fpd.domain.link import LinkEvent, after
from fpd.domain.segments import PATIENCE, Assembly, Place, Segment, assemblies, judge, stale
from fpd.errors import Forbidden, FpdError, Malformed, TooMany, Unavailable
from fpd.flows import liveness
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.oscp.segments import whole
from fpd.store import events, peers
from fpd.store import segments as store
from fpd.store.peers import Peer

log = structlog.get_logger()

_EVENTS = {
    "POST handshake": LinkEvent.HANDSHAKE,
    "POST handshake_acknowledge": LinkEvent.ACKNOWLEDGE,
    "POST heartbeat": LinkEvent.MESSAGE,
    "POST update_group_capacity_forecast": LinkEvent.MESSAGE,
    "POST adjust_group_capacity_forecast": LinkEvent.MESSAGE,
    "POST group_capacity_compliance_error": LinkEvent.MESSAGE,
}

Take = Callable[[Inbound], Awaitable[str | None]]
"""Takes in a message that is whole, and says which one we owe back, if any."""


async def receive(context: Context, said: Inbound, place: Place, take: Take) -> str | None:
    """Keep a segment; if the message is whole, have it taken in and return what `take` does.

    Raises Malformed, Forbidden, TooLarge, TooMany, and what the whole message is refused with.
    """
    if said.operation not in _EVENTS:
        raise Malformed(f"{said.operation} cannot come in segments")
    if said.dialect.lenient_no_request_id:
        raise Malformed("segments need an X-Request-ID that can be relied on")
    complete = await _keep(context, said, place)
    if complete is None:
        return None
    assembly, bodies = complete
    try:
        owed = await take(_message(said, assembly.segments[0], bodies))
    except (Unavailable, TooMany):
        raise
    except FpdError:
        async with _between_segments(context, said.peer_id) as conn:
            await store.drop(conn, peer_id=said.peer_id, request_ids=[said.request_id])
            await store.refuse(conn, peer_id=said.peer_id, request_ids=assembly.request_ids)
        raise
    async with _between_segments(context, said.peer_id) as conn:
        await store.apply(conn, peer_id=said.peer_id, request_ids=assembly.request_ids)
    return owed


@contextlib.asynccontextmanager
async def _between_segments(context: Context, peer_id: int) -> AsyncIterator[AsyncConnection]:
    """Lend a transaction during which no other segment of the peer is received."""
    async with context.db.transaction() as conn:
        await peers.lock(conn, peer_id=peer_id)
        yield conn


def _message(said: Inbound, first: Segment, bodies: Sequence[bytes]) -> Inbound:
    """Return the whole message, which goes by the ids of its first segment."""
    return replace(
        said,
        request_id=first.request_id,
        correlation_id=first.correlation_id,
        body=whole(bodies),
    )


async def _keep(
    context: Context, said: Inbound, place: Place
) -> tuple[Assembly, list[bytes]] | None:
    """Keep a segment; return the message with its bodies if it is whole and still to be taken."""
    now = context.clock()
    segment = Segment(
        request_id=said.request_id,
        correlation_id=said.correlation_id,
        operation=said.operation,
        place=place,
        sha256=hashlib.sha256(said.body).digest(),
        size=len(said.body),
        received_at=now,
    )
    named = [said.request_id, said.correlation_id or said.request_id]
    complete = None
    async with context.db.transaction() as conn:
        peer = await peers.hear(conn, peer_id=said.peer_id, now=now)
        if peer is None or not peer.enabled:
            raise Forbidden("this peer is disabled")
        held = await store.held(conn, peer_id=peer.id, request_ids=named)
        verdict = judge(segment, held, now=now)
        await _discard(conn, peer, verdict.gone, now)
        if verdict.assembly is not None:
            _check_link(peer, said)
            if verdict.is_new:
                await store.keep(conn, peer_id=peer.id, segment=segment, body=said.body)
            if verdict.assembly.whole:
                ids = verdict.assembly.request_ids
                bodies = await store.bodies(conn, peer_id=peer.id, request_ids=ids)
                complete = verdict.assembly, bodies
    _tell(said.peer_id, verdict.gone)
    return complete


def _check_link(peer: Peer, said: Inbound) -> None:
    """Refuse a segment as its message would be, or nobody would learn it before the last one."""
    event = _EVENTS[said.operation]
    if event is LinkEvent.MESSAGE:
        liveness.awake(peer, said)
    else:
        after(peer.link, event)


async def step(context: Context) -> bool:
    """Give up what was never completed, also of peers that say nothing more."""
    now = context.clock()
    async with context.db.connection() as conn:
        waiting = await store.peers_waiting(conn, before=now - PATIENCE)
    for peer_id in waiting:
        async with context.db.transaction() as conn:
            peer = await peers.lock(conn, peer_id=peer_id)
            if peer is None:
                continue
            held = await store.held(conn, peer_id=peer_id, request_ids=())
            gone = stale(assemblies(held), now=now)
            await _discard(conn, peer, gone, now)
        _tell(peer_id, gone)
    return False


async def _discard(
    conn: AsyncConnection, peer: Peer, gone: Sequence[Assembly], now: datetime
) -> None:
    for assembly in gone:
        await store.drop(conn, peer_id=peer.id, request_ids=assembly.request_ids)
        if not assembly.refused:
            await events.record(
                conn,
                kind="segments.discarded",
                at=now,
                user_id=peer.user_id,
                peer_id=peer.id,
                data=_facts(assembly),
            )


def _tell(peer_id: int, gone: Sequence[Assembly]) -> None:
    """Log what was given up; that a message was refused its sender knows."""
    for assembly in gone:
        if not assembly.refused:
            log.warning("segments.discarded", peer=peer_id, **_facts(assembly))


def _facts(assembly: Assembly) -> dict[str, object]:
    one = assembly.segments[0]
    return {
        "operation": one.operation.split()[-1],
        "segment": one.request_id,
        "received": len(assembly.segments),
        "count": one.place.count,
    }
