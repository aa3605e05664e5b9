"""Datum arrive over MQTT or from an adapter: parsed, batched, committed, and only then acked.

`run` is a task of its own, not a loop with a metronome: what it waits for is the next message.
While one batch is committed the next one gathers, so batches grow with the load and a single
message waits for nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

import psycopg
import structlog

from fpd.domain.datum import Datum, StreamKey
from fpd.domain.packed import Packed, microseconds, pack
from fpd.errors import Unavailable
from fpd.flows import brought
from fpd.flows.brought import Node
from fpd.flows.context import Context
from fpd.flows.judging import Batch, Judge, Refused
from fpd.mqtt import topics
from fpd.mqtt.connection import Arrival, Connection
from fpd.store import refusals, streams

log = structlog.get_logger()

Rows = Mapping[tuple[StreamKey, int], Packed]

_MOST_WAITING_BYTES = 32 * 1024 * 1024
_MOST_TOPICS = 50_000  # whose stream is remembered
_LONGEST_WAIT_S = 5.0


async def run(context: Context, *, most_waiting: int = 20_000) -> None:
    """Take in what the configured topics bring, until cancelled.

    At most `most_waiting` messages wait for the database in memory, and as many are with it; the
    broker keeps the others.
    """
    filters = [wanted.topic for wanted in context.config.mqtt.subscribe if wanted.format == "datum"]
    intake = _Intake(context, most_waiting)
    if filters:
        context.mqtt.subscribe_many(filters, intake.take)
    await intake.serve()


async def store(context: Context, readings: Sequence[Datum], *, door: str = "device") -> None:
    """Keep datum now, as `commit` does."""
    batch = Batch(door)
    batch.keep_all(map(pack, readings))
    await commit(context, batch)


async def commit(context: Context, batch: Batch) -> None:
    """Keep a batch in one transaction, and what was refused with it.

    Raises Unavailable when the database is away; what is not known to be kept may be committed
    again. What PostgreSQL cannot hold and datum of users who do not exist are refused, and take
    none of the others with them.
    """
    if not batch.rows and not batch.refusals:
        return
    try:
        await _commit(context, batch, batch.rows, notes=True)
    except psycopg.DataError as error:
        await _halve(context, batch, dict(batch.rows), error)
        await _commit(context, batch, {}, notes=True)
    outcomes = context.metrics.datum_in
    outcomes.labels(batch.door, "kept").inc(batch.kept)
    for outcome, count in batch.refused.items():
        outcomes.labels(batch.door, outcome).inc(count)


async def _commit(context: Context, batch: Batch, rows: Rows, *, notes: bool = False) -> None:
    now = context.clock()
    async with context.db.transaction() as conn:
        if rows:
            await streams.make_partitions(conn, instants=_months(context, rows, now))
            strangers = await streams.write_packed(conn, rows, now=now)
            batch.refuse_users(strangers, at=now)
        if notes:
            await refusals.note(conn, list(batch.refusals.values()))


async def _halve(context: Context, batch: Batch, rows: Rows, error: psycopg.DataError) -> None:
    """Keep what can be kept of rows that cannot all be."""
    if len(rows) == 1:
        (row,) = rows.values()
        log.warning("datum.unstorable", stream=row.stream, error=str(error))
        batch.refuse_row(row, str(error), at=context.clock())
        return
    keyed = iter(rows.items())
    for half in (dict(islice(keyed, len(rows) // 2)), dict(keyed)):
        try:
            await _commit(context, batch, half)
        except psycopg.DataError as its:
            await _halve(context, batch, half, its)


def _months(context: Context, rows: Rows, now: datetime) -> set[datetime]:
    """Return an instant of each month that is to have a partition: this one and the next, and
    those of the datum as far as datum are kept. Others stray into the default one.
    """
    following = now.replace(day=1) + timedelta(days=32)
    oldest = now - timedelta(days=context.config.measurements.retention_days)
    since_us = microseconds(now.replace(day=1, hour=0, minute=0, second=0, microsecond=0))
    until_us = microseconds(following)
    others = [row.at for row in rows.values() if not since_us <= row.at_us < until_us]
    return {now, following, *(at for at in others if oldest <= at < following)}


class _Gathered(Batch):
    """A batch, and whom to tell once it is committed."""

    def __init__(self) -> None:
        super().__init__("mqtt")
        self.count = 0
        self.size = 0
        self.unacknowledged: dict[Connection, list[int]] = {}

    def acknowledge(self) -> None:
        for connection, message_ids in self.unacknowledged.items():
            connection.ack(message_ids)


class _Intake:
    """The messages between the broker and the database: judged as they come, kept in batches."""

    def __init__(self, context: Context, most_waiting: int) -> None:
        self._context = context
        self._most_waiting = most_waiting
        self._judge = Judge(context)
        self._gathered = _Gathered()
        self._filled = asyncio.Event()
        self._overflowed = False
        self._is_alone = False  # the database is away
        self._places: dict[str, StreamKey | Node] = {}  # by topic

    def take(self, arrivals: Sequence[Arrival]) -> None:
        """Have messages stored soon.

        When much waits nothing more is read for as long as a batch takes. When the database is
        away and too much waits, all that comes is let go unacknowledged: the broker keeps it, and
        is asked for it again, in its order, once there is room. What has QoS 0 is lost then.
        """
        now = self._context.clock()
        received_us = microseconds(now) - 1
        batch = self._gathered
        for arrival in arrivals:
            if self._overflowed or self._is_full(batch):
                self._postpone(batch)
                continue
            received_us += 1
            batch.count += 1
            batch.size += len(arrival.payload)
            try:
                place = self._place(arrival.topic or "")
                if isinstance(place, StreamKey) and brought.is_plain(arrival.payload):
                    datum = self._judge.read(arrival.payload, stream=place, received_us=received_us)
                    batch.keep(datum)
                else:
                    received_us += self._take_each(batch, arrival, place, received_us, now)
            except Refused as why:
                self._refuse(batch, arrival.topic, why, arrival.payload, now)
            if arrival.qos:
                batch.unacknowledged.setdefault(arrival.connection, []).append(arrival.message_id)
        if batch.count > self._most_waiting // 2 and not self._is_alone:
            self._context.mqtt.pause()
        self._filled.set()

    def _is_full(self, batch: _Gathered) -> bool:
        return batch.count >= self._most_waiting or batch.size > _MOST_WAITING_BYTES

    def _take_each(
        self,
        batch: _Gathered,
        arrival: Arrival,
        place: StreamKey | Node,
        received_us: int,
        now: datetime,
    ) -> int:
        """Take a message that may be of many datum; return of how many more than one."""
        refused = 0

        def refuse(why: Refused, payload: bytes) -> None:
            nonlocal refused
            refused += 1
            self._refuse(batch, arrival.topic, why, payload, now)

        found = brought.read(
            arrival.payload, place, self._judge, received_us=received_us, refuse=refuse
        )
        batch.keep_all(found)
        more = max(len(found) + refused - 1, 0)
        batch.count += more
        return more

    def _place(self, topic: str) -> StreamKey | Node:
        place = self._places.get(topic)
        if place is None:
            node = topics.node(topic)
            place = topics.stream(topic) if node is None else Node(*node)
            if place is None:
                raise Refused("malformed", "not a datum topic")
            if len(self._places) >= _MOST_TOPICS:
                self._places.clear()
            self._places[topic] = place
        return place

    def _refuse(
        self, batch: Batch, topic: str | None, why: Refused, payload: bytes, now: datetime
    ) -> None:
        place = self._places.get(topic or "")
        user_id = place.user_id if place is not None else None
        batch.refuse(why, source=topic or "", user_id=user_id, payload=payload, at=now)

    def _postpone(self, batch: _Gathered) -> None:
        if not self._overflowed:
            log.warning("ingest.overflowed", waiting=batch.count)
        self._overflowed = True
        self._context.metrics.datum_in.labels("mqtt", "postponed").inc()

    async def serve(self) -> None:
        """Store batch after batch: while one is committed the next one gathers."""
        while True:
            await self._filled.wait()
            batch, self._gathered = self._gathered, _Gathered()
            self._filled.clear()
            self._context.mqtt.resume()
            await self._store(batch)
            batch.acknowledge()
            self._judge.tell(batch)
            if self._overflowed and not self._gathered.count:
                self._overflowed = False
                self._context.mqtt.renew()

    async def _store(self, batch: Batch) -> None:
        """Store a batch, as long as that takes; meanwhile nothing of it is acknowledged."""
        waited = False
        wait_s = 0.1
        while True:
            try:
                await commit(self._context, batch)
            except Unavailable as error:
                if not waited:
                    log.warning("ingest.waiting", reason=str(error))
                waited = self._is_alone = True
                self._context.mqtt.resume()  # to hear whether the broker is still there
                await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
                continue
            self._is_alone = False
            if waited:
                log.info("ingest.resumed", waiting=self._gathered.count)
            return
