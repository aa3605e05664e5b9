"""`/api/v1/status`: one snapshot of what fpd knows, for the page, for scripts and for `fpd status`.

Who may look: a request from this machine sees everything; any other needs a management bearer
token and sees what belongs to its user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from fpd import __version__
from fpd.errors import Unavailable
from fpd.flows.context import Context
from fpd.store import overview, platforms
from fpd.store.refusals import Refusal
from fpd.store.stream_health import Stream
from fpd.store.troubles import Trouble, listed
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT

T = TypeVar("T")

PATIENCE_S = 2.0
_TROUBLES = 100  # a page for people; all of them are at …/capacity-groups/{id}/troubles

_encoder = msgspec.json.Encoder(decimal_format="number")
# What a reverse proxy adds: behind one every request comes from this machine.
_PROXIED = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Host")


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    return (web.get("/api/v1/status", _status),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What fpd knows at one instant; `known` is None while the database does not answer.

    `configured`: the devices of the configuration; what is known of others is history.
    `troubles`: the newest blocks of forecasts that cannot be kept.
    """

    version: str
    at: datetime
    broker_ok: bool
    configured: frozenset[str]
    known: overview.Overview | None
    troubles: Sequence[Trouble] = ()
    platforms: Sequence[platforms.Standing] = ()


async def viewer(request: web.Request) -> int | None:
    """Return whose entities the sender may see, None: everybody's.

    Raises Unauthenticated and what `authenticate` raises.
    """
    if "Authorization" in request.headers or not is_local(request):
        return await authenticate(request)
    return None


def is_local(request: web.Request) -> bool:
    """Tell whether somebody on this machine sent the request, and meant this machine.

    Not when a proxy passed it on, nor when it is addressed to another name: then a page of
    somebody else may have made a browser of this machine send it (DNS rebinding).
    """
    if any(name in request.headers for name in _PROXIED):
        return False
    return _is_loopback(request.remote or "") and _is_loopback(request.url.host or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


async def within(
    context: Context, seconds: float, ask: Callable[[], Awaitable[T]], *, name: str
) -> T:
    """Return what `ask` of the database returns. Raises Unavailable after `seconds`, too.

    A question that hangs is left to end by itself: cancelling it would mean to wait for the
    same silent server.
    """
    answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        try:
            result = await ask()
        except Unavailable as error:
            if not answer.done():
                answer.set_exception(error)
        else:
            if not answer.done():
                answer.set_result(result)

    context.spawn(work(), name=name)
    try:
        return await asyncio.wait_for(answer, seconds)
    except TimeoutError:
        raise Unavailable("the database does not answer") from None


async def snapshot(context: Context, *, user_id: int | None) -> Status:
    """Return the status as the user may see it, None: all of it. Raises nothing but bugs."""
    now = context.clock()
    devices = context.config.devices
    names = None if user_id is None else [d.name for d in devices if d.user_id == user_id]

    wanted = [] if user_id is not None else [one.name for one in context.config.platforms]

    async def ask() -> tuple[overview.Overview, list[Trouble], list[platforms.Standing]]:
        async with context.db.transaction() as conn:
            found = await overview.load(conn, user_id=user_id, device_names=names, now=now)
            told = await listed(conn, user_id=user_id, limit=_TROUBLES)
            stand = await platforms.standings(conn, names=wanted) if wanted else []
            return found, told, stand

    known: overview.Overview | None
    troubles: list[Trouble] = []
    stand: list[platforms.Standing] = []
    try:
        known, troubles, stand = await within(context, PATIENCE_S, ask, name="status")
    except Unavailable:
        known = None
    return Status(
        version=__version__,
        at=now,
        broker_ok=context.mqtt.connected,
        configured=frozenset(device.name for device in devices),
        known=known,
        troubles=[one for one in troubles if one.settled],
        platforms=stand,
    )


async def _status(request: web.Request) -> web.Response:
    user_id = await viewer(request)
    status = await snapshot(request.app[CONTEXT], user_id=user_id)
    return web.Response(
        body=_encoder.encode(document(status)),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def document(status: Status) -> dict[str, Any]:
    """Return the JSON of a status. While the database is away its lists are empty.

    Powers are W, import positive; None is "no limit" in an envelope, "not known" elsewhere.
    """
    known = status.known
    debts = known.debts if known else None
    return {
        "version": status.version,
        "at": rfc3339(status.at),
        "database": {"ok": known is not None},
        "broker": {"ok": status.broker_ok},
        "peers": [_peer(peer) for peer in known.peers] if known else [],
        "groups": [_group(group) for group in known.groups] if known else [],
        "devices": [_device(device) for device in known.devices] if known else [],
        "platforms": [_platform(platform) for platform in status.platforms],
        "streams": [_stream(stream) for stream in known.streams] if known else [],
        "streamHealth": dict(known.stream_counts) if known else {},
        "outbox": {
            "pending": debts.outbox_pending if debts else None,
            "oldestAt": rfc3339(debts.outbox_oldest_at) if debts else None,
        },
        "publications": {"pending": debts.publications_pending if debts else None},
        "troubles": [_trouble(one) for one in status.troubles],
        "refusedDatum": [refusal(one) for one in known.refused] if known else [],
    }


def _platform(platform: platforms.Standing) -> dict[str, Any]:
    return {
        "name": platform.name,
        "health": platform.health,
        "detail": platform.detail,
        "since": rfc3339(platform.since_at),
    }


def refusal(refused: Refusal) -> dict[str, Any]:
    """Return what was refused of a source; `head`: the first bytes of the newest, as text."""
    return {
        "door": refused.door,
        "source": refused.source,
        "userId": refused.user_id,
        "outcome": refused.outcome,
        "reason": refused.reason,
        "count": refused.count,
        "first": rfc3339(refused.first_at),
        "last": rfc3339(refused.last_at),
        "head": refused.head.decode("utf-8", "backslashreplace"),
        "size": refused.size,
    }


def _peer(peer: overview.Peer) -> dict[str, Any]:
    return {
        "id": peer.id,
        "role": peer.role,
        "name": peer.name,
        "enabled": peer.enabled,
        "link": peer.link,
        "linkChangedAt": rfc3339(peer.link_changed_at),
        "trouble": peer.trouble,
        "lastHeardAt": rfc3339(peer.last_heard_at),
        "offlineModeAt": rfc3339(peer.offline_mode_at),
        "heartbeatSentAt": rfc3339(peer.heartbeat_sent_at),
        "owed": peer.owed,
        "dead": peer.dead,
    }


def _group(group: overview.Group) -> dict[str, Any]:
    measured = group.measured
    return {
        "id": group.id,
        "identifier": group.identifier,
        "name": group.name,
        "enabled": group.enabled,
        "capacityScope": "Flexible" if group.flexible else "Net",
        "envelope": _envelope(group.envelope) if group.envelope else None,
        "measuredW": measured.power_w if measured else None,
        "measuredAt": rfc3339(measured.at) if measured else None,
        "measuredFrom": measured.source if measured else None,
        "measuredParts": {"read": measured.parts, "of": measured.of} if measured else None,
    }


def _trouble(trouble: Trouble) -> dict[str, Any]:
    return {
        "groupId": trouble.group_id,
        "forecastId": trouble.forecast_id or None,
        "block": trouble.block,
        "reason": trouble.reason,
        "direction": trouble.direction,
        "from": rfc3339(trouble.start_at),
        "until": rfc3339(trouble.end_at),
        "byW": trouble.by_w,
        "since": rfc3339(trouble.since),
        "toldAs": trouble.told_as,
    }


def _envelope(envelope: overview.Envelope) -> dict[str, Any]:
    return {
        "minW": envelope.min_w,
        "maxW": envelope.max_w,
        "optimumW": envelope.optimum_w,
        "reason": envelope.reason,
        "since": rfc3339(envelope.since_at),
        "until": rfc3339(envelope.until_at),
    }


def _device(device: overview.Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "type": device.type,
        "health": device.health,
        "detail": device.detail,
        "reading": device.reading,
        "readingAt": rfc3339(device.reading_at),
        "wanted": device.wanted,
        "wantedAt": rfc3339(device.wanted_at),
        "why": device.why,
        "told": device.told,
        "toldAt": rfc3339(device.told_at),
        "confirmed": device.confirmed,
        "confirmedAt": rfc3339(device.confirmed_at),
        "attempts": device.attempts,
    }


def _stream(stream: Stream) -> dict[str, Any]:
    return {
        "nodeId": stream.node_id,
        "sourceId": stream.source_id,
        "health": stream.state,
        "since": rfc3339(stream.since_at),
        "cadenceS": stream.cadence_s,
        "latestAt": rfc3339(stream.latest_at),
        "latest": {**(stream.i or {}), **(stream.a or {}), **(stream.s or {})},
    }


def rfc3339(at: datetime | None) -> str | None:
    """Return an instant as RFC 3339 in UTC with milliseconds, None for None."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
