"""Datum arrive over MQTT or from an adapter: parsed, batched, committed, and only then acked.

`run` is a task of its own, not a loop with a metronome: what it waits for is the next message.
While one batch is committed the next one gathers, so batches grow with the load and a single
message waits for nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
import structlog

from fpd.domain import datum as datums
from fpd.domain.datum import Datum
from fpd.errors import Malformed, Unavailable
from fpd.flows.context import Context
from fpd.mqtt import codec, topics
from fpd.store import streams

log = structlog.get_logger()

_BATCH = 1000
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_MOST_TOLD = 1000  # sources whose first bad datum is logged
_LONGEST_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Arrival:
    topic: str
    payload: bytes
    received_at: datetime
    ack: Callable[[], None]


async def run(context: Context, *, most_waiting: int = 20_000) -> None:
    """Take in what the configured topics bring, until cancelled.

    At most `most_waiting` messages wait for the database in memory; the broker keeps the others.
    """
    filters = [wanted.topic for wanted in context.config.mqtt.subscribe if wanted.format == "datum"]
    for wanted in context.config.mqtt.subscribe:
        if wanted.format != "datum":
            log.warning("ingest.format_unsupported", topic=wanted.topic, format=wanted.format)
    intake = _Intake(context, most_waiting)
    if filters:
        context.mqtt.subscribe(filters, intake.take)
    await intake.serve()


async def store(
    context: Context, readings: Sequence[Datum], *, door: str = "device"
) -> frozenset[int]:
    """Keep datum now; return the users who do not exist and therefore keep nothing.

    Raises Unavailable when the database is away; what is not known to be kept may be stored
    again. A datum that PostgreSQL cannot hold is counted and left out; it takes none of the
    others with it.
    """
    if not readings:
        return frozenset()
    now = context.clock()
    outcomes = context.metrics.datum_in
    try:
        async with context.db.transaction() as conn:
            await streams.make_partitions(conn, instants=_months(context, readings, now))
            strangers = await streams.write(conn, readings, now=now)
    except psycopg.DataError as error:
        if len(readings) == 1:
            log.warning("datum.unstorable", stream=readings[0].stream, error=str(error))
            outcomes.labels(door, "unstorable").inc()
            return frozenset()
        middle = len(readings) // 2
        first = await store(context, readings[:middle], door=door)
        return first | await store(context, readings[middle:], door=door)
    refused = sum(datum.stream.user_id in strangers for datum in readings)
    outcomes.labels(door, "unknown_user").inc(refused)
    outcomes.labels(door, "kept").inc(len(readings) - refused)
    return strangers


def _months(context: Context, readings: Sequence[Datum], now: datetime) -> list[datetime]:
    """Return an instant of each month that is to have a partition: this one and the next, and
    those of the readings as far as datum are kept. Others stray into the default one.
    """
    following = now.replace(day=1) + timedelta(days=32)
    oldest = now - timedelta(days=context.config.measurements.retention_days)
    wanted = [datum.at for datum in readings if oldest <= datum.at < following]
    return [now, following, *wanted]


class _Intake:
    """The messages between the broker and the database."""

    def __init__(self, context: Context, most_waiting: int) -> None:
        self._context = context
        self._most_waiting = most_waiting
        self._waiting: deque[_Arrival] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._overflowed = False
        self._told: set[str] = set()
        self._retention = timedelta(days=context.config.measurements.retention_days)

    def take(self, topic: str, payload: bytes, ack: Callable[[], None]) -> None:
        """Have a message stored soon.

        When too much waits it is let go unacknowledged: the broker keeps it, and is asked for it
        again once there is room. What was sent with QoS 0 is lost then, as QoS 0 allows.
        """
        too_many = len(self._waiting) >= self._most_waiting
        if too_many or self._waiting_bytes + len(payload) > _MOST_WAITING_BYTES:
            if not self._overflowed:
                log.warning("ingest.overflowed", waiting=len(self._waiting))
            self._overflowed = True
            self._count("postponed")
            return
        self._waiting.append(_Arrival(topic, payload, self._context.clock(), ack))
        self._waiting_bytes += len(payload)
        self._filled.set()

    async def serve(self) -> None:
        """Store batch after batch."""
        while True:
            await self._filled.wait()
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
            self._waiting_bytes -= sum(len(arrival.payload) for arrival in batch)
            await self._store(self._read(batch))
            for arrival in batch:
                arrival.ack()
            if not self._waiting:
                self._filled.clear()
                if self._overflowed:
                    self._overflowed = False
                    self._context.mqtt.renew()

    async def _store(self, readings: Sequence[Datum]) -> None:
        """Store a batch, as long as that takes; meanwhile nothing of it is acknowledged."""
        waited = False
        wait_s = 0.1
        while True:
            try:
                strangers = await store(self._context, readings, door="mqtt")
            except Unavailable as error:
                if not waited:
                    log.warning("ingest.waiting", reason=str(error))
                waited = True
                await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
                continue
            if waited:
                log.info("ingest.resumed", waiting=len(self._waiting))
            for user_id in strangers:
                self._tell(f"user {user_id}", "unknown_user", "the user has no account")
            return

    def _read(self, batch: Sequence[_Arrival]) -> list[Datum]:
        """Return the usable datum; count the others, and tell about each source once."""
        now = self._context.clock()
        readings = []
        for arrival in batch:
            stream = topics.stream(arrival.topic)
            if stream is None:
                self._refuse(arrival, "malformed", "not a datum topic")
                continue
            try:
                document = codec.decode(arrival.payload)
                datum = datums.read(document, stream=stream, received_at=arrival.received_at)
            except Malformed as error:
                self._refuse(arrival, "malformed", str(error))
                continue
            if not datums.is_timely(datum, now=now, retention=self._retention):
                self._refuse(arrival, "untimely", f"dated {datum.at}")
                continue
            readings.append(datum)
        return readings

    def _refuse(self, arrival: _Arrival, outcome: str, reason: str) -> None:
        self._count(outcome)
        self._tell(arrival.topic, outcome, reason)

    def _tell(self, source: str, outcome: str, reason: str) -> None:
        if source not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(source)
            log.warning("datum.refused", source=source, outcome=outcome, reason=reason)

    def _count(self, outcome: str) -> None:
        self._context.metrics.datum_in.labels("mqtt", outcome).inc()
