"""A peer registers: three tokens, one transaction, our Register owed (OSCP 2.0 §2.6.1, §4.3.1.1).

The peer's first token came to it outside OSCP. It registers with a token for us, we answer 204
and then register back with a new token for it. Until that new token is used the old one keeps
working, so a peer can never be locked out by a lost answer (decision P1).
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation

from fpd.domain.link import Link, LinkEvent, after
from fpd.errors import Malformed, NoCommonVersion
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound, once
from fpd.oscp import guard, messages
from fpd.oscp.headers import new_request_id
from fpd.store import events, outbox, peers, registrations, trouble
from fpd.store.db import retried
from fpd.store.outbox import Owed
from fpd.store.registrations import Outstanding

log = structlog.get_logger()

VERSION = "2.0"
FAREWELL = "unregister"
# The answer to a request leaves within this time or never; then our own message goes anyway.
HELD_BACK = timedelta(seconds=3)
_OVERLAP = timedelta(seconds=60)
# A peer that took our Register sends its own within this time, or somebody has to look.
_PATIENCE = timedelta(minutes=10)


def new_token() -> str:
    """Return a token for a peer: 48 random bytes, 64 characters."""
    return secrets.token_urlsafe(48)


def sha256(token: str) -> bytes:
    """Return what is stored of an inbound token."""
    # A header may hold any bytes; what is not text is still just not a token of ours.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def base_url(context: Context) -> str:
    """Return where peers reach our OSCP door."""
    return f"{context.config.public_url}/oscp/fp/{VERSION}"


def offer(context: Context, token: str) -> messages.Register:
    """Return a Register of ours that carries `token` for the peer."""
    return messages.Register(
        token=token, version_url=(messages.VersionUrl(VERSION, base_url(context)),)
    )


@retried
async def register(context: Context, inbound: Inbound, message: messages.Register) -> str | None:
    """Register a peer, again or for the first time; return the id of the Register we owe back.

    None when it is the peer's answer to a Register of ours, which is not answered again.
    Raises NoCommonVersion, Malformed (the URL is forbidden or taken by another peer).
    """
    url = _chosen(context, message)
    token, request_id, now = new_token(), new_request_id(), context.clock()
    async with context.db.transaction() as conn, once(context, conn, inbound, now) as peer:
        if peer is None:
            return None
        ours = await _answered(conn, inbound)
        if ours is not None:
            await _complete(context, conn, peer, ours, url, message.token, now)
            return None
        link = after(peer.link, LinkEvent.REGISTER)
        await _save(context, conn, peer, link, url, message.token, now)
        await peers.offer_token(conn, peer_id=peer.id, sha256=sha256(token), now=now)
        await drop_unsaid(conn, peer_id=peer.id, now=now)
        owed = Owed(
            peer_id=peer.id,
            lane=outbox.LINK,
            operation="register",
            body=context.vault.seal(messages.encode(offer(context, token))),
            sealed=True,
            request_id=request_id,
            correlation_id=inbound.request_id,
            due_at=now + HELD_BACK,
        )
        await outbox.owe(conn, [owed], now=now)
        await events.record(
            conn,
            kind="peer.registering",
            at=now,
            user_id=peer.user_id,
            peer_id=peer.id,
            data={"baseUrl": url},
        )
    log.info("peer.registering", peer=peer.id, base_url=url)
    return request_id


async def drop_unsaid(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """Drop what was still to be said about the link as it was before a new Register."""
    operations = ("register", "handshake", "handshake_acknowledge", FAREWELL)
    await outbox.supersede(conn, peer_id=peer_id, lane=outbox.LINK, operations=operations, now=now)


async def _answered(conn: AsyncConnection, inbound: Inbound) -> Outstanding | None:
    """Return our outstanding Register if this one is the peer's answer to it.

    Interpretation: it names ours in X-Correlation-ID, or, since SolarNetwork and ELMO leave that
    out, the peer has used the token that ours carried: it has ours and still says its own.
    """
    ours = await registrations.outstanding(conn, peer_id=inbound.peer_id)
    if ours is None or not (inbound.correlation_id == ours.request_id or ours.token_used):
        return None
    return ours


async def _complete(
    context: Context,
    conn: AsyncConnection,
    peer: peers.Peer,
    ours: Outstanding,
    url: str,
    token: str,
    now: datetime,
) -> None:
    """The registration that we began is complete; an optimizer is shaken hands with."""
    link = after(peer.link, LinkEvent.REGISTER_REPLY)
    await _save(context, conn, peer, link, url, token, now)
    await drop_unsaid(conn, peer_id=peer.id, now=now)
    await peers.retire_old_tokens(
        conn, peer_id=peer.id, taken_sha256=ours.token_sha256, valid_until=now + _OVERLAP
    )
    await peers.want_handshake(conn, peer_id=peer.id, now=now + HELD_BACK)
    await events.record(conn, kind="peer.registered", at=now, user_id=peer.user_id, peer_id=peer.id)
    log.info("peer.registered", peer=peer.id, base_url=url)


@retried
async def update(context: Context, inbound: Inbound, message: messages.Register) -> None:
    """PUT register: a new token for us, a new base URL, no counter-message; then shake hands."""
    url, now = _chosen(context, message), context.clock()
    async with context.db.transaction() as conn, once(context, conn, inbound, now) as peer:
        if peer is None:
            return
        link = after(peer.link, LinkEvent.PUT_REGISTER)
        await _save(context, conn, peer, link, url, message.token, now)
        await peers.want_handshake(conn, peer_id=peer.id, now=now + HELD_BACK)
        await events.record(
            conn, kind="peer.registration_updated", at=now, user_id=peer.user_id, peer_id=peer.id
        )
    log.info("peer.registration_updated", peer=peer.id, base_url=url)


@retried
async def unregister(context: Context, inbound: Inbound) -> None:
    """DELETE register: forget the tokens, stop sending; the groups fall back as if offline."""
    now = context.clock()
    async with context.db.transaction() as conn, once(context, conn, inbound, now) as peer:
        if peer is None:
            return
        link = after(peer.link, LinkEvent.UNREGISTER)
        await peers.set_link(conn, peer_id=peer.id, link=link, now=now)
        await peers.drop_tokens(conn, peer_id=peer.id)
        await registrations.end(conn, peer_id=peer.id)
        await outbox.abandon(conn, peer_id=peer.id, now=now)
        await events.record(
            conn, kind="peer.unregistered", at=now, user_id=peer.user_id, peer_id=peer.id
        )
    context.bells.control()
    log.info("peer.unregistered", peer=peer.id)


async def accepted(
    context: Context,
    conn: AsyncConnection,
    *,
    peer_id: int,
    request_id: str,
    sealed: bytes,
    begun_by_us: bool,
    now: datetime,
) -> None:
    """The peer took our Register: the old token ends soon, an optimizer is shaken hands with.

    `sealed` is what it took. If it was the first of a registration, the peer's own is still to
    come.
    """
    peer = await peers.lock(conn, peer_id=peer_id)
    if peer is None:
        return
    ours = messages.decode(context.vault.unseal(sealed), messages.Register)
    await peers.retire_old_tokens(
        conn, peer_id=peer_id, taken_sha256=sha256(ours.token), valid_until=now + _OVERLAP
    )
    if begun_by_us:
        if await registrations.taken(conn, peer_id=peer_id, request_id=request_id, now=now):
            log.info("peer.register_taken", peer=peer_id)
        return
    link = after(peer.link, LinkEvent.REGISTER_ACCEPTED)
    await peers.set_link(conn, peer_id=peer_id, link=link, now=now)
    await peers.want_handshake(conn, peer_id=peer_id, now=now)
    await events.record(conn, kind="peer.registered", at=now, user_id=peer.user_id, peer_id=peer_id)
    log.info("peer.registered", peer=peer_id)


async def refused(
    context: Context,
    conn: AsyncConnection,
    *,
    peer_id: int,
    request_id: str,
    begun_by_us: bool,
    status: int | None,
    now: datetime,
) -> None:
    """The peer refused our Register: the registration has failed until somebody registers again."""
    peer = await peers.lock(conn, peer_id=peer_id)
    if peer is None:
        return
    if begun_by_us:
        ours = await registrations.outstanding(conn, peer_id=peer_id)
        if ours is None or ours.request_id != request_id:
            return  # an answer that comes late: another Register has taken its place
        await registrations.end(conn, peer_id=peer_id)
    link = after(peer.link, LinkEvent.REGISTER_REFUSED)
    await _failed(conn, peer, link, f"it refused our Register: {status}", now, status=status)


async def give_up_waiting(context: Context) -> None:
    """Let registrations fail whose peer took our Register and has not sent its own in time.

    Ours stays outstanding: its Register, when it comes after all, still completes it.
    """
    now = context.clock()
    async with context.db.transaction() as conn:
        for peer in await registrations.claim_unanswered(conn, taken_before=now - _PATIENCE):
            link = after(peer.link, LinkEvent.UNANSWERED)
            minutes = round(_PATIENCE.total_seconds() / 60)
            why = f"it took our Register, but sent none of its own within {minutes} min"
            await _failed(conn, peer, link, why, now)


async def _failed(
    conn: AsyncConnection, peer: peers.Peer, link: Link, why: str, now: datetime, **data: object
) -> None:
    if link is peer.link:
        return  # it was told late: the registration has gone on or ended meanwhile
    await trouble.note(conn, peer_id=peer.id, link=link, why=why, now=now)
    await events.record(
        conn,
        kind="peer.registration_failed",
        at=now,
        user_id=peer.user_id,
        peer_id=peer.id,
        data={"reason": why, **data},
    )
    log.warning("peer.registration_failed", peer=peer.id, reason=why)


def _chosen(context: Context, message: messages.Register) -> str:
    """Return the base URL of the version that both speak, normalised."""
    for offer in message.version_url:
        if offer.version == VERSION:
            break
    else:
        raise NoCommonVersion(f"version_url: only OSCP {VERSION} is spoken here")
    settings = context.config.oscp
    try:
        return guard.check_url(
            offer.base_url,
            require_https=settings.require_https,
            allowed_networks=settings.allowed_networks,
        )
    except Malformed as error:
        raise Malformed(f"version_url: base_url: {error}") from None


async def _save(
    context: Context,
    conn: AsyncConnection,
    peer: peers.Peer,
    link: Link,
    url: str,
    token: str,
    now: datetime,
) -> None:
    if not token.isascii() or not token.isprintable():
        raise Malformed("token: expected printable ASCII characters")
    await registrations.end(conn, peer_id=peer.id)
    try:
        await peers.save_registration(
            conn,
            peer_id=peer.id,
            link=link,
            base_url=url,
            oscp_version=VERSION,
            outbound_token_sealed=context.vault.seal(token),
            now=now,
        )
    except UniqueViolation:
        raise Malformed("version_url: base_url: another peer of this role has it") from None
