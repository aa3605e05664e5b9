"""How links are and what has happened: `/api/v1/oscp/peers` and `/api/v1/events`, own user's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

from fpd.store import history, overview
from fpd.store.history import Event
from fpd.web.credentials import authenticate, sender
from fpd.web.keys import CONTEXT
from fpd.web.messages import page, success
from fpd.web.query import Query
from fpd.web.status import rfc3339

_FILTERS: Final = ("kind", "peer", "group", "since", "until", "before", "max")


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    return (web.get("/api/v1/oscp/peers", _peers), web.get("/api/v1/events", _events))


async def _peers(request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    async with request.app[CONTEXT].db.connection() as conn:
        peers = await overview.peers(conn, user_id=user_id)
    return success([document(peer) for peer in peers])


def document(peer: overview.Peer) -> dict[str, Any]:
    """Return a peer as JSON: how its link is, since when and why, and what waits for it."""
    return {
        "id": peer.id,
        "role": peer.role,
        "name": peer.name,
        "enabled": peer.enabled,
        "link": peer.link,
        "since": rfc3339(peer.link_changed_at),
        "reason": peer.trouble,
        "lastHeard": rfc3339(peer.last_heard_at),
        "offlineModeAt": rfc3339(peer.offline_mode_at),
        "heartbeatInterval": peer.heartbeat_interval_s,
        "waiting": peer.owed,
        "dead": peer.dead,
    }


async def _events(request: web.Request) -> web.Response:
    """List events, newest first; a kind that ends in a dot means all that begin with it.

    An administrator's token also sees the events of the installation, which are no user's.
    """
    bearer = await sender(request)
    query = Query(request.query, _FILTERS)
    limit = query.limit()
    async with request.app[CONTEXT].db.connection() as conn:
        rows = await history.listed(
            conn,
            user_id=bearer.user_id,
            nobodys=bearer.admin,
            kind=query.text("kind"),
            peer_id=query.number("peer"),
            group_id=query.number("group"),
            since=query.instant("since"),
            until=query.instant("until"),
            before=query.number("before"),
            limit=limit,
        )
    return page([_event(row) for row in rows], rows[-1].id if len(rows) == limit else None)


def _event(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": rfc3339(event.at),
        "kind": event.kind,
        "peerId": event.peer_id,
        "groupId": event.group_id,
        "data": event.data,
    }
