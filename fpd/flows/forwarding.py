"""A provider's forecast goes on to the group's optimizer: the same bytes under an id of ours.

Decisions P3 (what newer forecasts make pointless is not sent any more), P4 (an optimizer that
comes back is told again what is in force) and P20 (ids of ours, mapped both ways).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.domain.forecast import Forecast
from fpd.domain.supersede import in_force
from fpd.flows import blocks
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.oscp import dialects
from fpd.oscp.headers import new_request_id
from fpd.store import forwards, outbox
from fpd.store.db import retried
from fpd.store.forecasts import Addressee
from fpd.store.forwards import Forwarded
from fpd.store.outbox import Owed
from fpd.store.peers import Peer

log = structlog.get_logger()

UPDATE = "update_group_capacity_forecast"

# The peer may have to see our answer to its handshake before it takes anything else.
_AFTER_ANSWER = timedelta(seconds=0.5)
_GROUPS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Passing:
    """A forecast that a group's provider or optimizer has sent; `forecast.id` is that kept."""

    inbound: Inbound
    group: Addressee
    forecast: Forecast

    @property
    def has_listener(self) -> bool:
        """Whether it is the provider's and an optimizer is to be told."""
        of_provider = self.forecast.peer_id == self.group.provider_id
        return of_provider and self.group.optimizer_id is not None and self.group.optimizer_listens


async def owe(conn: AsyncConnection, passing: Sequence[Passing], *, now: datetime) -> None:
    """Owe optimizers what their groups' providers said, in this order.

    Asks the database only when a switch is on or an id is to be mapped.
    """
    messages = [await _message(conn, one, now) for one in passing if one.has_listener]
    await outbox.owe(conn, told_apart(messages), now=now)


async def _message(conn: AsyncConnection, passing: Passing, now: datetime) -> Owed:
    inbound, group, forecast = passing.inbound, passing.group, passing.forecast
    assert group.optimizer_id is not None
    return Owed(
        peer_id=group.optimizer_id,
        lane=f"group:{group.group_id}",
        operation=UPDATE,
        body=None,
        request_id=await passing_id(conn, inbound, group, receiver_id=group.optimizer_id),
        correlation_id=await _correlation(conn, inbound, group.optimizer_id),
        group_id=group.group_id,
        forecast_id=forecast.id,
        due_at=now,
        expires_at=max(block.end_at for block in forecast.blocks),
        sender_id=forecast.peer_id,
        sender_request_id=inbound.request_id,
    )


def told_apart(together: Sequence[Owed]) -> list[Owed]:
    """Return messages that are owed together, none of them under an id that its peer gets twice.

    Two senders may use the same id at the same time; each message has to be heard.
    """
    taken: set[tuple[int, str]] = set()
    apart = []
    for message in together:
        key = (message.peer_id, message.request_id)
        apart.append(replace(message, request_id=new_request_id()) if key in taken else message)
        taken.add(key)
    return apart


@retried
async def drop_superseded(context: Context, of: Collection[Forwarded]) -> None:
    """Drop what still waits for optimizers and is covered wholly by what came later.

    Once what came later is kept: whoever is killed in between has the older sent before the newer.
    """
    now = context.clock()
    async with context.db.transaction() as conn:
        dropped: list[int] = []
        for kept in (await forwards.waiting(conn, of=of, now=now)).values():
            still = {message.id for message in in_force([blocks.read(one) for one in kept], at=now)}
            dropped += [message.id for message in kept if message.id not in still]
        if dropped:
            await forwards.drop(conn, ids=dropped, now=now)
    if dropped:
        log.info("forecasts.superseded", messages=len(dropped))


async def passing_id(
    conn: AsyncConnection, inbound: Inbound, group: Addressee, *, receiver_id: int
) -> str:
    """Return the request id under which a message is passed on: a new one of ours (decision P20).

    Interpretation: the switch `forward-request-id` of either side keeps the sender's, as
    SolarNetwork does; an id that the receiver was sent before would be taken for a repetition.
    """
    switches = (dialects.read(group.provider_props), dialects.read(group.optimizer_props))
    if any(dialect.forward_request_id for dialect in switches) and not await outbox.is_owed(
        conn, peer_id=receiver_id, request_id=inbound.request_id
    ):
        return inbound.request_id
    return new_request_id()


async def _correlation(conn: AsyncConnection, inbound: Inbound, optimizer_id: int) -> str | None:
    """Return the optimizer's own id of the request that the provider's forecast answers."""
    if inbound.correlation_id is None:
        return None
    answered = await outbox.passed_on(
        conn, receiver_id=inbound.peer_id, request_id=inbound.correlation_id
    )
    if answered is None or answered.sender_id != optimizer_id:
        return None
    return answered.sender_request_id


async def tell_again(conn: AsyncConnection, peer: Peer, *, now: datetime) -> None:
    """Owe an optimizer that has come back the forecasts in force, as new messages (decision P4).

    In the order of receipt in each group, together with what has been waiting for it.
    """
    if peer.base_url is None or peer.role != "CapacityOptimizer":
        return
    group_ids = await forwards.hold_groups(conn, optimizer_id=peer.id)
    count = 0
    for start in range(0, len(group_ids), _GROUPS_AT_ONCE):
        some = group_ids[start : start + _GROUPS_AT_ONCE]
        unended = await forwards.unended(conn, group_ids=some, now=now)
        messages = [
            message
            for kept in unended.values()
            for message in in_force([blocks.read(one) for one in kept], at=now)
        ]
        await forwards.owe_again(
            conn,
            optimizer_id=peer.id,
            group_ids=some,
            request_ids={message.id: new_request_id() for message in messages},
            due_at=now + _AFTER_ANSWER,
            now=now,
        )
        count += len(messages)
    if count:
        log.info("forecasts.told_again", peer=peer.id, forecasts=count)
