"""What we owe to peers leaves here: taken lane by lane, sent outside any transaction, settled in
batches.

Rung by whoever owes, with the metronome as the guarantee. Each lane is served in a task of its
own, and of a peer that does not answer only one, so a peer that hangs holds back nobody but
itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.flows import outbound, registration, trouble
from fpd.flows.context import Context
from fpd.oscp.client import Answer, Verdict
from fpd.store import events, heartbeats, lanes, outbox, registrations
from fpd.store import trouble as trouble_store
from fpd.store.db import retried
from fpd.store.lanes import Message, Return, Settlement, Taken

log = structlog.get_logger()

_LEASE = timedelta(seconds=13)
_LONGEST_RUN_S = 1.0  # and one message more: inside the lease
_RUN = 16
_RUN_BYTES = 2**20
_AT_ONCE = 256
_IN_FLIGHT = 4096
_PER_PEER = 128
_BREATH_S = 0.003  # what comes in meanwhile shares the next trip
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Tried:
    """A message and what came of it. `ends`: the lane is given back now."""

    lane: Taken
    message: Message
    answer: Answer
    ends: bool

    @property
    def refused(self) -> bool:
        """Whether the message is given up; where our credential is, it waits for the remedy."""
        has_remedy = trouble.is_credential(self.answer) and self.message.lane != outbox.LINK
        return self.answer.verdict is Verdict.REFUSED and not has_remedy

    @property
    def settled(self) -> bool:
        return self.answer.verdict is Verdict.DELIVERED or self.refused

    @property
    def is_plain(self) -> bool:
        """Whether nothing follows from it but that the next message may go."""
        delivered = self.answer.verdict is Verdict.DELIVERED
        return delivered and self.message.lane != outbox.LINK and not self.lane.silences


class Delivery:
    """The lanes in the hands of this process, and the answers not yet written down."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._in_flight = 0
        self._tried: list[Tried] = []
        self._idle: list[Taken] = []  # taken for nothing
        self._rested_s = 0.0
        self._expired_s = 0.0

    async def step(self) -> bool:
        """Take lanes that are due and start serving them; True if there may be more of them."""
        context, now = self._context, self._context.clock()
        limit = min(_AT_ONCE, _IN_FLIGHT - self._in_flight)
        if limit <= 0:
            return False
        async with context.db.connection() as conn:
            if time.monotonic() - self._expired_s >= 1:
                await outbox.expire(conn, now=now)
                self._expired_s = time.monotonic()
            taken, more = await lanes.take(
                conn, now=now, lease=_LEASE, limit=limit, per_peer=_PER_PEER
            )
            if not taken:
                return more
            waiting: dict[lanes.Lane, list[Message]] = {lane.key: [] for lane in taken}
            try:
                for message in await lanes.firsts(
                    conn, lanes=list(waiting), now=now, most=_RUN, bytes_=_RUN_BYTES
                ):
                    waiting[message.peer_id, message.lane].append(message)
            finally:
                self._idle += [lane for lane in taken if not waiting[lane.key]]
        for lane in taken:
            if messages := waiting[lane.key]:
                self._in_flight += 1
                context.spawn(self._serve(lane, messages), name=f"{lane.name} of {lane.peer_id}")
        if self._idle:
            context.bells.settling()
        return more

    async def settle(self) -> bool:
        """Write down every answer; they are kept in memory while the database is away.

        Killed before that, a message is sent again under the same id: at least once.
        """
        await asyncio.sleep(max(self._rested_s + _BREATH_S - time.monotonic(), 0))
        plain = [one for one in self._tried if one.is_plain]
        others = [one for one in self._tried if not one.is_plain]
        idle, self._tried, self._idle = self._idle, [], []
        more = False
        try:
            if plain:
                more = await self._finish(plain)
                plain = []
            if others or idle:
                more = await self._write_down(others, idle) or more
                others, idle = [], []
        finally:
            self._tried[:0] = plain + others
            self._idle[:0] = idle
            self._rested_s = time.monotonic()
        if more:
            self._context.bells.delivery()
        return False

    async def drain(self) -> None:
        """Write down the last answers; called once nothing is in flight any more."""
        await self.settle()

    async def _serve(self, lane: Taken, messages: Sequence[Message]) -> None:
        """Send one message after the other until one is not taken."""
        until_s = time.monotonic() + _LONGEST_RUN_S
        try:
            for message in messages:
                answer = await outbound.send(
                    self._context,
                    lane,
                    operation=message.operation,
                    request_id=message.request_id,
                    correlation_id=message.correlation_id,
                    body=message.body,
                    body_sealed=message.sealed,
                )
                tried = Tried(lane, message, answer, ends=False)
                last = message is messages[-1] or time.monotonic() > until_s
                ends = last or not tried.settled
                self._tried.append(Tried(lane, message, answer, ends))
                _tell(message, answer)
                if ends:
                    break
        finally:
            self._in_flight -= 1
        self._context.bells.settling()

    @retried
    async def _finish(self, tried: Sequence[Tried]) -> bool:
        """Write down what was simply taken; True if more may go now in a lane that was served."""
        async with self._context.db.connection() as conn:
            return await lanes.finish(
                conn,
                [(one.message.id, one.answer.status) for one in tried],
                [one.lane for one in tried if one.ends],
                now=self._context.clock(),
            )

    @retried
    async def _write_down(self, tried: Sequence[Tried], idle: Sequence[Taken]) -> bool:
        """Write down answers of all kinds, with all they cause, in one transaction.

        True if more may go now in a lane that was served.
        """
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            settled = await lanes.settle(conn, [_settlement(one) for one in tried], now=now)
            for one in sorted(tried, key=lambda one: one.lane.peer_id):
                # An answer to what a newer message has replaced says nothing about that one.
                if one.message.id in settled:
                    await self._react(conn, one, now)
            async with conn.pipeline():
                return await _give_back(conn, tried, idle, now)

    async def _react(self, conn: AsyncConnection, tried: Tried, now: datetime) -> None:
        """Do what the answer to a message of the link changes."""
        context, message, answer = self._context, tried.message, tried.answer
        delivered = answer.verdict is Verdict.DELIVERED
        if await self._is_final(conn, tried, now):
            await events.record(
                conn,
                kind="message.refused",
                at=now,
                user_id=tried.lane.user_id,
                peer_id=message.peer_id,
                data={
                    "operation": message.operation,
                    "requestId": message.request_id,
                    "status": answer.status,
                },
            )
        if message.operation == "register":
            begun_by_us = message.correlation_id is None
            if delivered:
                await registration.accepted(
                    context,
                    conn,
                    peer_id=message.peer_id,
                    request_id=message.request_id,
                    sealed=message.body,
                    begun_by_us=begun_by_us,
                    now=now,
                )
            elif answer.verdict is Verdict.REFUSED:
                await registration.refused(
                    context,
                    conn,
                    peer_id=message.peer_id,
                    request_id=message.request_id,
                    begun_by_us=begun_by_us,
                    status=answer.status,
                    now=now,
                )
        if message.operation == registration.FAREWELL and answer.verdict is not Verdict.LATER:
            await registrations.forget_outbound(conn, peer_id=message.peer_id)
        if message.operation == "handshake_acknowledge" and delivered:
            await heartbeats.schedule(conn, peer_id=message.peer_id, due_at=now)

    async def _is_final(self, conn: AsyncConnection, tried: Tried, now: datetime) -> bool:
        """Tell whether the peer refused the message for good; a refused credential has remedies."""
        message, answer = tried.message, tried.answer
        if answer.verdict is not Verdict.REFUSED:
            return False
        if not trouble.is_credential(answer):
            return True
        peer_id, operation = message.peer_id, message.operation
        if message.lane == outbox.LINK:
            if operation == "handshake":
                await trouble.handshake_refused(conn, peer_id=peer_id, answer=answer, now=now)
            return True
        alone = await trouble.refused(
            conn,
            peer_id=peer_id,
            message_id=message.id,
            operation=operation,
            answer=answer,
            now=now,
        )
        if alone:
            await trouble_store.give_up(conn, message_id=message.id, now=now)
        return alone


def _settlement(tried: Tried) -> Settlement:
    outcome: str | None = None
    if tried.settled:
        outcome = "refused" if tried.refused else "delivered"
    return Settlement(
        id=tried.message.id,
        outcome=outcome,
        status=tried.answer.status,
        error=tried.answer.detail,
    )


async def _give_back(
    conn: AsyncConnection, tried: Sequence[Tried], idle: Sequence[Taken], now: datetime
) -> bool:
    """Give lanes back; return whether one is due.

    One whose message was not taken waits, and of a silent peer all do.
    """
    returns = [Return(lane=lane, failures=lane.failures) for lane in idle]
    returns += [_return(one, now) for one in tried if one.ends]
    more = await lanes.give_back(conn, returns, now=now)
    answered = {one.lane.peer_id for one in tried if one.answer.status is not None}
    silent = [one.lane for one in tried if one.answer.status is None]
    await lanes.note_silence(
        conn,
        answered=[
            one.lane.peer_id for one in tried if one.lane.silences and one.answer.status is not None
        ],
        silent={
            lane.peer_id: (lane.silences + 1, now + backoff(lane.silences + 1))
            for lane in silent
            if lane.peer_id not in answered
        },
    )
    return more


def _return(tried: Tried, now: datetime) -> Return:
    if tried.settled:
        return Return(lane=tried.lane, failures=0)
    failures = tried.lane.failures + 1
    wait = backoff(failures)
    if tried.answer.verdict is Verdict.REFUSED:
        wait = max(wait, trouble.AGAIN)
    return Return(lane=tried.lane, failures=failures, later_at=now + wait)


def backoff(failures: int) -> timedelta:
    """Return the wait after so many failures in a row: 1, 2, 4 … 60 s, spread by ±20 %."""
    wait_s = min(2.0 ** (min(failures, 10) - 1), _LONGEST_WAIT_S)
    return timedelta(seconds=wait_s * random.uniform(0.8, 1.2))


def _tell(message: Message, answer: Answer) -> None:
    fields = {
        "peer": message.peer_id,
        "operation": message.operation,
        "request_id": message.request_id,
        "status": answer.status,
    }
    if answer.verdict is Verdict.DELIVERED:
        log.info("message.delivered", **fields)
    elif answer.verdict is Verdict.REFUSED:
        log.warning("message.refused", **fields, detail=answer.detail)
    elif message.attempts == 1:
        log.warning("message.delayed", **fields, detail=answer.detail)
    else:
        log.debug("message.delayed", **fields, detail=answer.detail, attempts=message.attempts)
