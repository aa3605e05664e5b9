"""What peers said becomes datum: on MQTT (SolarFlux) and in our own streams (SolarIn).

Owed in the transaction that keeps the message, so neither is there without the other. The names
of actions, properties and placeholders are SolarNetwork's; decision M11 settles the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal

import structlog
from psycopg import AsyncConnection

from fpd.domain import datum as datums
from fpd.domain import source_id
from fpd.domain.datum import Datum, StreamKey
from fpd.domain.entities import AUDIENCES, Role, parse
from fpd.domain.forecast import Block, ForecastType
from fpd.domain.supersede import Stated, restated
from fpd.errors import Malformed
from fpd.flows import blocks
from fpd.flows.context import Context
from fpd.mqtt import codec, topics
from fpd.store import forecasts, publications, streams
from fpd.store.publications import Outlet, Publication

log = structlog.get_logger()

_PART = 500
_BREATH = 50  # datum made without letting others work
_EARLIER, _EARLIER_BYTES = 32, 2**20

Placed = tuple[Outlet, str, Iterable[Datum]]
"""An outlet, the rendered source id, and the datum that go there."""

Starts = Mapping[datetime, Sequence[Stated]]
"""What holds of the block starts that a forecast says anything new of."""


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
        placed += place(outlet, values_alone(outlet, "Heartbeat"), make)
    await owe(context, conn, placed, now=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastHeard:
    """A forecast of a peer for a group, as far as its datum tell of it; `id` once it is kept."""

    peer_id: int
    group_id: int
    type: ForecastType
    request_id: str
    blocks: Sequence[Block]
    id: int


async def owe_forecasts(
    context: Context,
    conn: AsyncConnection,
    heard: Sequence[ForecastHeard],
    *,
    outlets: Sequence[Outlet],
    now: datetime,
) -> None:
    """Publish forecasts, in their order: one datum per block start, dated then, with what holds of
    earlier ones beside it, and one for each start of earlier ones of which they leave less.
    """
    by_key = {(outlet.sender_id, outlet.group_id): outlet for outlet in outlets}
    told = [one for one in heard if (one.peer_id, one.group_id) in by_key]
    if not told:
        return
    earlier = await forecasts.earlier(
        conn,
        [forecasts.Newer(one.id, one.group_id, one.peer_id, one.type) for one in told],
        now=now,
        most=_EARLIER,
        most_bytes=_EARLIER_BYTES,
    )
    placed = []
    for one, starts in zip(told, await asyncio.to_thread(_starts, told, earlier, now), strict=True):
        placed += _place_forecast(by_key[one.peer_id, one.group_id], one, starts)
    await owe(context, conn, placed, now=now)


def _starts(
    told: Sequence[ForecastHeard], earlier: Sequence[Sequence[tuple[str, bytes]]], now: datetime
) -> list[Starts]:
    def stated(request_id: str, said: Sequence[Block]) -> list[Stated]:
        return [Stated(block, request_id) for block in said]

    return [
        restated(
            [stated(request_id, blocks.of(body)) for request_id, body in before],
            stated(one.request_id, one.blocks),
            after=now,
        )
        for one, before in zip(told, earlier, strict=True)
    ]


def _place_forecast(outlet: Outlet, heard: ForecastHeard, starts: Starts) -> list[Placed]:
    alias = datums.FORECAST_ALIAS[heard.type]
    of_forecast = values(outlet, "UpdateGroupCapacityForecast") | {"forecastType": alias}

    def make(stream: StreamKey) -> Iterable[Datum]:
        return datums.of_forecast(starts, stream=stream, request_id=heard.request_id)

    return place(outlet, of_forecast, make, suffix=alias)


def values_alone(outlet: Outlet, action: str) -> dict[str, str | int | None]:
    """Return the same for what concerns the sender alone: there is no other side."""
    other = ("co", "coName") if outlet.sender_role == Role.CAPACITY_PROVIDER else ("cp", "cpName")
    return values(outlet, action) | dict.fromkeys((*other, "dest"))


def values(outlet: Outlet, action: str) -> dict[str, str | int | None]:
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


def place(
    outlet: Outlet,
    values: Mapping[str, str | int | None],
    make: Callable[[StreamKey], Iterable[Datum]],
    *,
    suffix: str = "",
) -> list[Placed]:
    """Find the stream that a datum goes to, and its source id as it is written."""
    template = outlet.template or source_id.DEFAULT_TEMPLATE
    try:
        rendered = source_id.render(template, values, suffix=suffix)
    except Malformed as error:
        # The message itself is fine and must be kept; only its datum has nowhere to go.
        log.warning("datum.unplaceable", group=outlet.group_id, reason=str(error))
        return []
    stream = StreamKey(outlet.user_id, outlet.node_id, source_id.identity(rendered))
    return [(outlet, rendered, make(stream))]


async def owe(
    context: Context,
    conn: AsyncConnection,
    placed: Iterable[Placed],
    *,
    now: datetime,
    kept: bool = True,
) -> None:
    """Owe datum to the broker and, unless not to be `kept`, write them to our own streams."""
    encoding = context.config.mqtt.encoding
    made = ((outlet, name, datum) for outlet, name, those in placed for datum in those)
    # A part at a time, so that others are served between the datum of very long messages.
    while part := list(islice(made, _BREATH)):
        while len(part) < _PART and (more := list(islice(made, _BREATH))):
            await asyncio.sleep(0)
            part += more
        messages: list[Publication] = []
        for first in range(0, len(part), _BREATH):
            messages += _publications(part[first : first + _BREATH], encoding)
            await asyncio.sleep(0)
        await publications.owe(conn, messages, now=now)
        if kept:
            own = [datum for outlet, _, datum in part if outlet.to_solar_in]
            await streams.write(conn, own, now=now, is_own=True)


def _publications(
    made: Sequence[tuple[Outlet, str, Datum]], encoding: Literal["json", "cbor"]
) -> list[Publication]:
    return [
        Publication(topics.datum(datum.stream), codec.encode(datums.flat(datum, name), encoding))
        for outlet, name, datum in made
        if outlet.to_solar_flux
    ]
