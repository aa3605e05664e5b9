"""What we begin because the operator said so: register with a peer, shake hands, leave it.

Registration by us (decision P2, OSCP 2.0 §2.6.1 with the roles exchanged): the peer gave the
operator a first token; our Register presents it and carries a token for the peer; the peer
answers with a Register of its own, whose token is ours from then on. That answer comes in through
`registration.register`, like every other.

`user_id` None is the operator of the machine, who may act for everybody.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from fpd.domain.link import Link, LinkEvent, after
from fpd.errors import Conflict, Malformed, Unknown
from fpd.flows import handshake, registration
from fpd.flows.context import Context
from fpd.oscp import dialects, guard, messages
from fpd.oscp.headers import new_request_id
from fpd.store import events, outbox, peers, registrations
from fpd.store.db import retried
from fpd.store.outbox import Owed
from fpd.store.peers import Peer

log = structlog.get_logger()

# Nobody waits longer for somebody to hear that we have left.
_PATIENCE = timedelta(hours=24)
_CLOSED = frozenset({Link.PROVISIONED, Link.UNREGISTERED, Link.FAILED})


@retried
async def register(
    context: Context,
    *,
    user_id: int | None,
    role: str,
    peer_id: int,
    token: str,
    base_url: str | None,
) -> None:
    """Owe the peer our first Register, presenting `token`. `base_url` None: the one we know.

    Raises Unknown, Malformed (token or URL cannot be used), Conflict (disabled, URL taken).
    """
    if not token.isascii() or not token.isprintable():
        raise Malformed("token: expected printable ASCII characters")
    ours, request_id, now = registration.new_token(), new_request_id(), context.clock()
    async with context.db.transaction() as conn:
        peer = await _own(conn, user_id=user_id, role=role, peer_id=peer_id)
        if not peer.enabled:
            raise Conflict("the peer is disabled")
        url = _usable(context, base_url or peer.base_url)
        try:
            await registrations.begin(
                conn,
                peer_id=peer.id,
                link=after(peer.link, LinkEvent.WE_REGISTER),
                base_url=url,
                outbound_token_sealed=context.vault.seal(token),
                request_id=request_id,
                token_sha256=registration.sha256(ours),
                now=now,
            )
        except UniqueViolation:
            raise Conflict("baseUrl: another peer of this role has it") from None
        await peers.offer_token(conn, peer_id=peer.id, sha256=registration.sha256(ours), now=now)
        await registration.drop_unsaid(conn, peer_id=peer.id, now=now)
        owed = Owed(
            peer_id=peer.id,
            lane=outbox.LINK,
            operation="register",
            body=context.vault.seal(messages.encode(registration.offer(context, ours))),
            sealed=True,
            request_id=request_id,
            due_at=now,
        )
        await outbox.owe(conn, [owed], now=now)
        await _record(conn, peer, "peer.registering", now, baseUrl=url)
    context.bells.delivery()
    context.bells.control()
    log.info("peer.registering", peer=peer_id, base_url=url, by="us")


@retried
async def reset_token(context: Context, *, user_id: int | None, role: str, peer_id: int) -> str:
    """Return a new first token for the peer, to be handed over outside OSCP.

    Interpretation: as long as the link lives, the token in use goes on working until the new one
    is used (decision P1); where none lives, the new token is the only one.
    """
    token, now = registration.new_token(), context.clock()
    sha256 = registration.sha256(token)
    async with context.db.transaction() as conn:
        peer = await _own(conn, user_id=user_id, role=role, peer_id=peer_id)
        if peer.link in _CLOSED:
            await registrations.replace_tokens(conn, peer_id=peer.id, sha256=sha256, now=now)
        else:
            await peers.offer_token(conn, peer_id=peer.id, sha256=sha256, now=now)
        await _record(conn, peer, "peer.token_reset", now)
    log.info("peer.token_reset", peer=peer_id)
    return token


@retried
async def shake_hands(context: Context, *, user_id: int | None, role: str, peer_id: int) -> None:
    """Owe the peer a Handshake now. Raises Unknown, Conflict when it is not registered."""
    now = context.clock()
    async with context.db.transaction() as conn:
        peer = await _own(conn, user_id=user_id, role=role, peer_id=peer_id)
        if peer.link in _CLOSED or peer.link is Link.REGISTERING or peer.base_url is None:
            raise Conflict(f"the peer is {peer.link}: register first")
        await handshake.owe(context, conn, [peer], now=now)
        await _record(conn, peer, "peer.handshake_wished", now)
    context.bells.delivery()
    log.info("peer.handshake_wished", peer=peer_id)


@retried
async def unregister(context: Context, *, user_id: int | None, role: str, peer_id: int) -> None:
    """End the registration at once and owe the peer a DELETE register that says so.

    Raises Unknown, Conflict when it is not registered.
    """
    now = context.clock()
    async with context.db.transaction() as conn:
        peer = await _own(conn, user_id=user_id, role=role, peer_id=peer_id)
        if peer.link in _CLOSED:
            raise Conflict(f"the peer is {peer.link}: there is nothing to end")
        link = after(peer.link, LinkEvent.WE_UNREGISTER)
        await peers.set_link(conn, peer_id=peer.id, link=link, now=now)
        await registrations.end(conn, peer_id=peer.id)
        await registrations.forget_inbound(conn, peer_id=peer.id)
        await outbox.abandon(conn, peer_id=peer.id, now=now)
        await outbox.owe(conn, [_farewell(context, peer, now)], now=now)
        await _record(conn, peer, "peer.unregistered", now, by="us")
    context.bells.delivery()
    context.bells.control()
    log.info("peer.unregistered", peer=peer_id, by="us")


def _farewell(context: Context, peer: Peer, now: datetime) -> Owed:
    """Return the DELETE. Some peers want a Register in it, whose token nobody will use."""
    body = b""
    if dialects.read(peer.service_props).write_unregister_body:
        unused = registration.offer(context, registration.new_token())
        body = context.vault.seal(messages.encode(unused))
    return Owed(
        peer_id=peer.id,
        lane=outbox.LINK,
        operation=registration.FAREWELL,
        body=body,
        sealed=body != b"",
        request_id=new_request_id(),
        due_at=now,
        expires_at=now + _PATIENCE,
    )


async def _own(conn: AsyncConnection, *, user_id: int | None, role: str, peer_id: int) -> Peer:
    """Return the user's peer of this role, locked; None: whoever's it is. Raises Unknown."""
    peer = await peers.lock(conn, peer_id=peer_id)
    if peer is None or peer.role != role or user_id not in (None, peer.user_id):
        raise Unknown("nothing is here")
    return peer


def _usable(context: Context, url: str | None) -> str:
    if url is None:
        raise Malformed("baseUrl: missing, and none is known")
    settings = context.config.oscp
    try:
        return guard.check_url(
            url, require_https=settings.require_https, allowed_networks=settings.allowed_networks
        )
    except Malformed as error:
        raise Malformed(f"baseUrl: {error}") from None


async def _record(conn: AsyncConnection, peer: Peer, kind: str, now: datetime, **data: str) -> None:
    await events.record(
        conn, kind=kind, at=now, user_id=peer.user_id, peer_id=peer.id, data=data or None
    )
