"""What peers said becomes datum: on MQTT (SolarFlux) and in our own streams (SolarIn).

Owed in the transaction that keeps the message, so neither is there without the other. The names
of actions, properties and placeholders are SolarNetwork's; decision M11 settles the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, islice

import structlog
from psycopg import AsyncConnection

from fpd.domain import datum as datums
from fpd.domain import source_id
from fpd.domain.datum import Datum, StreamKey
from fpd.domain.entities import AUDIENCES, Role, parse
from fpd.domain.forecast import Block, ForecastType
from fpd.errors import Malformed, Unavailable
from fpd.flows.context import Context
from fpd.mqtt import codec, topics
from fpd.store import publications, streams
from fpd.store.publications import Claimed, Outlet, Publication

log = structlog.get_logger()

_LEASE = timedelta(seconds=30)
_BATCH = 500
_PART = 1000

Placed = tuple[Outlet, str, Iterable[Datum]]
"""An outlet, the rendered source id, and the datum that go there."""


async def owe_heartbeat(
    context: Context,
    conn: AsyncConnection,
    *,
    peer_id: int,
    offline_mode_at: datetime,
    now: datetime,
) -> None:
    """Publish a heartbeat received now, once for each group of the peer.

    Interpretation: as with SolarNetwork the other side is not part of it, so its placeholders
    and `{dest}` are empty.
    """

    def make(stream: StreamKey) -> Iterable[Datum]:
        return (datums.of_heartbeat(offline_mode_at, stream=stream, at=now),)

    placed = []
    for outlet in await publications.outlets(conn, peer_ids=[peer_id]):
        values = _values(outlet, "Heartbeat")
        other = (
            ("co", "coName") if outlet.sender_role == Role.CAPACITY_PROVIDER else ("cp", "cpName")
        )
        values |= dict.fromkeys((*other, "dest"))
        placed += _place(outlet, values, make)
    await _owe(context, conn, placed, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastHeard:
    """A forecast of a peer for a group, as far as its datum tell of it."""

    peer_id: int
    group_id: int
    type: ForecastType
    request_id: str
    blocks: Sequence[Block]


async def owe_forecasts(
    context: Context,
    conn: AsyncConnection,
    heard: Sequence[ForecastHeard],
    *,
    outlets: Sequence[Outlet],
    now: datetime,
) -> None:
    """Publish forecasts, in their order: one datum per block start, dated then."""
    by_key = {(outlet.sender_id, outlet.group_id): outlet for outlet in outlets}
    placed = []
    for one in heard:
        outlet = by_key.get((one.peer_id, one.group_id))
        if outlet is not None:
            placed += _place_forecast(outlet, one)
    await _owe(context, conn, placed, now=now)


def _place_forecast(outlet: Outlet, heard: ForecastHeard) -> list[Placed]:
    alias = datums.FORECAST_ALIAS[heard.type]
    values = _values(outlet, "UpdateGroupCapacityForecast") | {"forecastType": alias}

    def make(stream: StreamKey) -> Iterable[Datum]:
        return datums.of_forecast(heard.blocks, stream=stream, request_id=heard.request_id)

    return _place(outlet, values, make, suffix=alias)


def _values(outlet: Outlet, action: str) -> dict[str, str | int | None]:
    """Return what every placeholder stands for; the sender is one side, the receiver the other."""
    from_provider = outlet.sender_role == Role.CAPACITY_PROVIDER
    parties = (outlet.provider_id, outlet.optimizer_id)
    return {
        "role": parse(outlet.sender_role, AUDIENCES).alias,
        "action": action,
        "actionCode": source_id.action_code(action),
        "src": parties[0 if from_provider else 1],
        "dest": parties[1 if from_provider else 0],
        "cp": outlet.provider_id,
        "cpName": outlet.provider_name,
        "co": outlet.optimizer_id,
        "coName": outlet.optimizer_name,
        "cg": outlet.group_id,
        "cgIdentifier": outlet.group_identifier,
        "cgName": outlet.group_name,
    }


def _place(
    outlet: Outlet,
    values: dict[str, str | int | None],
    make: Callable[[StreamKey], Iterable[Datum]],
    *,
    suffix: str = "",
) -> list[Placed]:
    template = outlet.template or source_id.DEFAULT_TEMPLATE
    try:
        rendered = source_id.render(template, values, suffix=suffix)
    except Malformed as error:
        # The message itself is fine and must be kept; only its datum has nowhere to go.
        log.warning("datum.unplaceable", group=outlet.group_id, reason=str(error))
        return []
    stream = StreamKey(outlet.user_id, outlet.node_id, source_id.identity(rendered))
    return [(outlet, rendered, make(stream))]


async def _owe(
    context: Context, conn: AsyncConnection, placed: Sequence[Placed], *, now: datetime
) -> None:
    encoding = context.config.mqtt.encoding
    made = ((outlet, name, datum) for outlet, name, those in placed for datum in those)
    # A part at a time, so that others are served between the datum of very long forecasts.
    while part := list(islice(made, _PART)):
        messages = [
            Publication(
                topics.datum(datum.stream), codec.encode(datums.flat(datum, name), encoding)
            )
            for outlet, name, datum in part
            if outlet.to_solar_flux
        ]
        await publications.owe(conn, messages, now=now)
        kept = [datum for outlet, _, datum in part if outlet.to_solar_in]
        await streams.write(conn, kept, now=now, is_own=True)


async def step(context: Context) -> bool:
    """Publish what is owed; topics side by side, one topic in order.

    Raises Unavailable while the broker is away and something waits for it.
    """
    now = context.clock()
    async with context.db.transaction() as conn:
        if not context.mqtt.connected:
            if await publications.are_owed(conn):
                raise Unavailable("the MQTT broker is away")
            return False
        claimed = await publications.claim(conn, now=now, lease=_LEASE, limit=_BATCH)
    if not claimed:
        return False
    by_topic = [
        list(messages)
        for _, messages in groupby(sorted(claimed, key=lambda m: m.topic), key=lambda m: m.topic)
    ]
    sent = await asyncio.gather(*[_publish(context, messages) for messages in by_topic])
    published = {id for ids in sent for id in ids}
    left = [message.id for message in claimed if message.id not in published]
    async with context.db.connection() as conn:
        await publications.settle(conn, published=list(published), given_back=left)
    context.metrics.publications.inc(len(published))
    if left:
        raise Unavailable("the MQTT broker is away")
    return True


async def _publish(context: Context, messages: Sequence[Claimed]) -> list[int]:
    """Publish the messages of one topic one after the other; return the ids acknowledged.

    Killed before they are settled, they are published again: at least once.
    """
    settings = context.config.mqtt
    published = []
    for message in messages:
        try:
            await context.mqtt.publish(
                message.topic, message.payload, qos=settings.qos, retain=settings.retain
            )
        except Unavailable:
            break
        published.append(message.id)
    return published
