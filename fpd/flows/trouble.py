"""A peer refuses our credential (401, 403): one remedy, then the link is broken and says so.

The remedy for an optimizer is a new Handshake of ours, since one that forgot it refuses whatever
we say; then what it refused goes again. A provider cannot be shaken hands with: it gets a second
try. An access token was already renewed by the client. A message that is refused again is a dead
letter if the peer took another one since the remedy: then it is the message that it will not
have. If it did not, the link is broken: nothing more is sent, and what is owed waits until it
expires or the link is well again. Interpretation: that a peer takes heartbeats does not show that
it would take messages; some take them from anybody.

Interpretation: a broken link is asked every 15 minutes with one heartbeat (an optimizer that
wants none with a Handshake) whether the peer takes our credential again, since a peer that had a
fault of its own knows nothing of a broken link and would never mend it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.domain.link import LinkEvent, after, silence_allowed
from fpd.flows import handshake, liveness, outbound, registration
from fpd.flows.context import Context
from fpd.oscp import dialects, messages
from fpd.oscp.client import Answer, Verdict
from fpd.oscp.headers import new_request_id
from fpd.store import events, peers
from fpd.store import trouble as store
from fpd.store.peers import Peer
from fpd.store.trouble import Broken

log = structlog.get_logger()

AGAIN = timedelta(seconds=2.5)
_REPAIR = timedelta(minutes=15)
# What is sent before the remedy can have helped says nothing of it; nor does what is long after.
_REMEDY_TAKES = timedelta(seconds=2)
_REMEDY_COUNTS = timedelta(minutes=10)


def is_credential(answer: Answer) -> bool:
    """Tell whether an answer refuses who we are."""
    return answer.status in (401, 403)


async def refused(
    conn: AsyncConnection,
    *,
    peer_id: int,
    operation: str,
    answer: Answer,
    now: datetime,
    message_id: int | None = None,
) -> bool:
    """The peer refused our credential. True: it takes others, so the message is given up.

    `message_id` None: it was a heartbeat.
    """
    peer = await peers.lock(conn, peer_id=peer_id)
    if peer is None:
        return False
    its = await store.standing(conn, peer_id=peer_id, message_id=message_id)
    sent_at = answer.sent_at or now
    if its.remedy_at is None or sent_at > its.remedy_at + _REMEDY_COUNTS:
        await _remedy(conn, peer, operation, answer, now)
        return False
    if sent_at <= its.remedy_at + _REMEDY_TAKES:
        return False
    if operation == "heartbeat" and its.delivered:
        return False
    if its.is_older and its.delivered:
        return True
    if its.delivered or (operation == "heartbeat" and its.heartbeat_taken):
        await _remedy(conn, peer, operation, answer, now)  # the last one had helped: this is new
        return False
    await _break(conn, peer, operation, answer, now)
    return False


async def handshake_refused(
    conn: AsyncConnection, *, peer_id: int, answer: Answer, now: datetime
) -> None:
    """The peer refused a Handshake; if that was the remedy, the link is broken."""
    peer = await peers.lock(conn, peer_id=peer_id)
    its, sent_at = await store.standing(conn, peer_id=peer_id), answer.sent_at or now
    if peer is None or its.remedy_at is None:
        return
    if its.remedy_at <= sent_at <= its.remedy_at + _REMEDY_COUNTS:
        await _break(conn, peer, "handshake", answer, now)


async def _remedy(
    conn: AsyncConnection, peer: Peer, operation: str, answer: Answer, now: datetime
) -> None:
    await store.begin_remedy(conn, peer_id=peer.id, now=now)
    if peer.role == "CapacityOptimizer":
        link = after(peer.link, LinkEvent.NOT_HANDSHAKEN)
        if link is not peer.link:
            await store.want_handshake_anew(conn, peer_id=peer.id, link=link, now=now)
    await _tell(conn, peer, "peer.credential_refused", operation, answer, now)


async def _break(
    conn: AsyncConnection, peer: Peer, operation: str, answer: Answer, now: datetime
) -> None:
    link = after(peer.link, LinkEvent.REFUSED_AGAIN)
    if link is peer.link:
        return
    why = f"it refuses our credential: {answer.status} to {operation}"
    await store.note(conn, peer_id=peer.id, link=link, why=why, now=now, repair_at=now + _REPAIR)
    await _tell(conn, peer, "peer.broken", operation, answer, now)


async def _tell(
    conn: AsyncConnection, peer: Peer, kind: str, operation: str, answer: Answer, now: datetime
) -> None:
    said = {"operation": operation, "status": answer.status}
    await events.record(conn, kind=kind, at=now, user_id=peer.user_id, peer_id=peer.id, data=said)
    log.warning(kind, peer=peer.id, **said, detail=answer.detail)


async def taken(context: Context, *, peer_id: int) -> None:
    """The peer took our credential with a heartbeat: a broken link is well again."""
    now = context.clock()
    async with context.db.transaction() as conn:
        peer = await peers.lock(conn, peer_id=peer_id)
        if peer is None:
            return
        await store.note_taken(conn, peer_id=peer_id, now=now)
        link = after(peer.link, LinkEvent.CREDENTIAL_TAKEN)
        if link is not peer.link:
            await store.mend(conn, peer_id=peer_id, link=link, now=now)
            await liveness.opened(conn, peer, now=now)
    context.bells.delivery()


async def step(context: Context) -> bool:
    """Give up registrations that the peer leaves half-way; ask over broken links."""
    await registration.give_up_waiting(context)
    now = context.clock()
    async with context.db.transaction() as conn:
        due = await store.claim_repairs(conn, now=now, again_at=now + _REPAIR)
        silent = [one for one in due if not _hears_heartbeats(one)]
        for one in silent:
            peer = await peers.lock(conn, peer_id=one.peer_id)
            if peer is not None and one.role == "CapacityOptimizer":
                await handshake.owe(context, conn, [peer], now=now)
    for one in due:
        if _hears_heartbeats(one):
            context.spawn(_ask(context, one), name=f"repair of {one.peer_id}")
    if silent:
        context.bells.delivery()
    return False


def _hears_heartbeats(peer: Broken) -> bool:
    return peer.interval_s is not None and dialects.read(peer.service_props).heartbeats


async def _ask(context: Context, peer: Broken) -> None:
    assert peer.interval_s is not None
    message = messages.Heartbeat(offline_mode_at=context.clock() + silence_allowed(peer.interval_s))
    answer = await outbound.send(
        context,
        peer,
        operation="heartbeat",
        request_id=new_request_id(),
        body=messages.encode(message),
    )
    log.info("peer.repair_tried", peer=peer.peer_id, status=answer.status, detail=answer.detail)
    if answer.verdict is Verdict.DELIVERED:
        await taken(context, peer_id=peer.peer_id)
