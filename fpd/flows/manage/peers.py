"""Capacity providers and optimizers: their first token, their secrets, the state of their link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from fpd.domain.entities import RegistrationStatus, link_of, status_of
from fpd.domain.link import Link
from fpd.flows import registration
from fpd.flows.manage import tables
from fpd.flows.manage.entity import Along, Change, Entity
from fpd.store import entities, events, forecasts, peers, trouble
from fpd.store.entities import Connection, Row
from fpd.store.service_props import split_secrets

log = structlog.get_logger()


def _columns(change: Change) -> Mapping[str, Any]:
    """Seal the credentials, and touch the link only when its status changes (decision M8).

    Another base URL or `enabled` leaves the link alone: the peer is who it was.
    """
    before = change.before or {}
    values = dict(change.values or {})
    values["service_props"], values["secrets_sealed"] = split_secrets(
        values["service_props"], kept=before.get("secrets_sealed"), vault=change.context.vault
    )
    wanted: RegistrationStatus | None = values.pop("link")
    link = Link(before["link"]) if before else None
    if wanted is None:
        wanted = RegistrationStatus.PENDING if link is None else status_of(link)
    if link is None or status_of(link) is not wanted:
        values |= {"link": str(link_of(wanted)), "link_changed_at": change.now}
    return values


def _along(change: Change) -> Along:
    token = registration.new_token()
    wanted = (change.values or {})["link"]
    return Along(
        parameters={"first_token": registration.sha256(token)},
        shown={"token": token},
        more=wanted not in (None, RegistrationStatus.PENDING),
    )


async def _follow(conn: Connection, change: Change, after: Row) -> None:
    if change.values is None:
        return
    if change.before is None or change.before["link"] != after["link"]:
        await _linked(conn, change, after)
    await forecasts.want_control_of_peer(conn, peer_id=after["id"], now=change.now)


async def _linked(conn: Connection, change: Change, after: Row) -> None:
    """Somebody has set the link by hand: it is told, and an optimizer is shaken hands with."""
    link, peer_id = Link(after["link"]), after["id"]
    await events.record(
        conn,
        kind="peer.link_set",
        at=change.now,
        user_id=change.user_id,
        peer_id=peer_id,
        data={"link": link.value},
    )
    log.info("peer.link_set", peer=peer_id, link=link.value)
    await trouble.forget(conn, peer_id=peer_id)
    if link is Link.REGISTERED:
        # Interpretation: decision M8, without a base URL it is silent; with one it is called.
        await peers.want_handshake(conn, peer_id=peer_id, now=change.now)


PROVIDER = Entity(
    noun="capacity provider",
    path="capacity-providers",
    id_name="providerId",
    table=entities.PROVIDERS,
    fields=tables.PEER,
    columns=_columns,
    along=_along,
    follow=_follow,
)
OPTIMIZER = Entity(
    noun="capacity optimizer",
    path="capacity-optimizers",
    id_name="optimizerId",
    table=entities.OPTIMIZERS,
    fields=tables.PEER,
    columns=_columns,
    along=_along,
    follow=_follow,
)
