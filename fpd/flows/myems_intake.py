"""Values that MyEMS publishes: one retained JSON per point and interval, in naive UTC.

Commands go through the same tree and are not JSON, so whatever has no point_id, utc_date_time
and value is none of ours. The publisher repeats what it knows, even frozen, for ever: only what
is newer than the last one counts, and a stream that stands still is told as stale (reference:
myems §4).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog

from fpd.adapters.lenient import mapping
from fpd.adapters.myems_rows import Row, Unfit, Value, samples
from fpd.adapters.myems_shapes import is_plausible
from fpd.adapters.myems_time import instant
from fpd.adapters.platform import StreamSample
from fpd.config_myems import MyemsPlatform, PlatformStream
from fpd.domain.datum import Datum, StreamKey
from fpd.errors import Misconfigured, Unavailable
from fpd.flows import ingest
from fpd.flows.context import Context
from fpd.flows.readings import exact
from fpd.mqtt.connection import Arrival

log = structlog.get_logger()

_LONGEST = 4096  # bytes
_MOST_WAITING = 20_000
_GATHER_S = 0.2  # the points of one instant come one after the other
_AGAIN_S = 1.0
_AHEAD = timedelta(minutes=5)


async def run(context: Context) -> None:
    """Take in what `[[mqtt.subscribe]]` with format myems brings, until cancelled."""
    wanted = [one.topic for one in context.config.mqtt.subscribe if one.format == "myems"]
    intake = MyemsIntake(context)
    if wanted:
        context.mqtt.subscribe_many(wanted, intake.take)
    await intake.serve()


class MyemsIntake:
    """Takes in the points that are configured with `mqtt = true`."""

    def __init__(self, context: Context) -> None:
        """Raises Misconfigured when a unit is not known."""
        self._context = context
        self._rows: dict[str, list[Row]] = {}
        self._points: dict[str, int] = {}
        for platform in context.config.platforms:
            if not isinstance(platform, MyemsPlatform):
                continue
            for row in platform.stream:
                if row.mqtt and row.point is not None:
                    topic = f"{platform.mqtt_prefix}{row.point}"
                    self._points[topic] = row.point
                    self._rows.setdefault(topic, []).append(_row(platform.name, row))
        self._last: dict[str, datetime] = {}
        self._partial: dict[StreamKey, tuple[datetime, dict[str, Value]]] = {}
        self._waiting: list[Arrival] = []
        self._filled = asyncio.Event()

    def take(self, arrivals: Sequence[Arrival]) -> None:
        """Have messages stored soon; with too many waiting they are let go unacknowledged."""
        room = _MOST_WAITING - len(self._waiting)
        self._waiting += arrivals[:room]
        if len(arrivals) > room:
            self._count("postponed", len(arrivals) - room)
        self._filled.set()

    async def serve(self) -> None:
        """Store what comes, until cancelled."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(_GATHER_S)
            arrivals, self._waiting = self._waiting, []
            self._filled.clear()
            datums = self._read(arrivals)
            await self._store(datums)
            for arrival in arrivals:
                if arrival.qos:
                    arrival.ack()

    async def _store(self, datums: list[Datum]) -> None:
        while datums:
            try:
                return await ingest.store(self._context, datums, door="myems")
            except Unavailable as away:
                log.debug("myems.intake_waiting", reason=str(away))
                await asyncio.sleep(_AGAIN_S)

    def _read(self, arrivals: Sequence[Arrival]) -> list[Datum]:
        """Return the datum that messages make; the last of a stream and instant has it all."""
        found: dict[tuple[StreamKey, datetime], StreamSample] = {}
        for arrival in arrivals:
            for sample in self._one(arrival.topic or "", arrival.payload):
                found[sample.stream, sample.at] = sample
        return [
            Datum(
                stream=one.stream,
                at=one.at,
                i=exact(one.instantaneous),
                a=exact(one.accumulating),
                s=dict(one.status),
            )
            for one in found.values()
        ]

    def _one(self, topic: str, payload: bytes) -> tuple[StreamSample, ...]:
        rows = self._rows.get(topic)
        said = _said(payload)
        if rows is None or said is None:
            self._count("ignored")
            return ()
        at, value, point_id = said
        if point_id != self._points[topic]:
            self._count("malformed")
            return ()
        if at > self._context.clock() + _AHEAD:
            self._count("untimely")
            return ()
        if topic in self._last and at <= self._last[topic]:
            self._count("repeated")
            return ()
        self._last[topic] = at
        read = [row.read(value) for row in rows]
        self._count("out_of_limits", read.count(None))
        return tuple(sample for one in read if one is not None for sample in self._merged(at, one))

    def _merged(self, at: datetime, value: Value) -> tuple[StreamSample, ...]:
        """Return the datum as far as it is known: the points of a stream come one by one."""
        before_at, values = self._partial.get(value.stream, (at, {}))
        if before_at != at:
            values = {}
        values[value.name] = value
        self._partial[value.stream] = (at, values)
        return samples({at: values.values()})

    def _count(self, outcome: str, count: int = 1) -> None:
        if count:
            self._context.metrics.datum_in.labels("myems", outcome).inc(count)


def _row(platform: str, row: PlatformStream) -> Row:
    try:
        return Row(row, None)
    except Unfit as why:
        raise Misconfigured(f"platform {platform}, point {row.point}: {why}") from why


def _said(payload: bytes) -> tuple[datetime, Decimal, int] | None:
    """Return (instant, value, point) of a message, None for anything else."""
    if len(payload) > _LONGEST:
        return None
    try:
        said: dict[str, Any] = mapping(json.loads(payload, parse_float=Decimal))
    except (ValueError, RecursionError):
        return None
    at = instant(said.get("utc_date_time"), timedelta(0))
    value, point_id = said.get("value"), said.get("point_id")
    if at is None or not isinstance(value, int | Decimal) or isinstance(value, bool):
        return None
    if not isinstance(point_id, int):
        return None
    number = Decimal(value)
    return (at, number, point_id) if is_plausible(number) else None
