"""What we owe to peers leaves here: claimed, sent outside any transaction, settled in batches.

Rung by whoever owes, with the metronome as the guarantee. Each message is sent in a task of its
own, so a peer that hangs holds back nobody but itself.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.flows import outbound, registration
from fpd.flows.context import Context
from fpd.oscp.client import Answer, Verdict
from fpd.store import events, outbox, peers, registrations
from fpd.store.outbox import Claimed, Settlement

log = structlog.get_logger()

_LEASE = timedelta(seconds=30)
_IN_FLIGHT = 256
_LONGEST_WAIT_S = 60.0
_CREDENTIAL_TRIES = 5


class Delivery:
    """The messages in flight of this process, and the answers not yet written down."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._in_flight = 0
        self._answers: list[tuple[Claimed, Answer]] = []

    async def step(self) -> bool:
        """Settle what was answered, claim what is due, start sending it."""
        await self._settle()
        free = _IN_FLIGHT - self._in_flight
        if free <= 0:
            return False
        context = self._context
        now = context.clock()
        async with context.db.transaction() as conn:
            await outbox.expire(conn, now=now)
            claimed = await outbox.claim(conn, now=now, lease=_LEASE, limit=free)
        for message in claimed:
            self._in_flight += 1
            context.spawn(self._send(message), name=f"{message.operation} to {message.peer_id}")
        return False

    async def drain(self) -> None:
        """Write down the last answers; called once nothing is in flight any more."""
        await self._settle()

    async def _send(self, message: Claimed) -> None:
        try:
            answer = await outbound.send(
                self._context,
                message,
                operation=message.operation,
                request_id=message.request_id,
                correlation_id=message.correlation_id,
                body=message.body,
                body_sealed=message.sealed,
            )
            self._answers.append((message, answer))
        finally:
            self._in_flight -= 1
        _tell(message, answer)
        self._context.bells.delivery()

    async def _settle(self) -> None:
        """Write down every answer in one transaction; kept in memory while the database is away.

        Killed before the commit, a message is sent again under the same id: at least once.
        """
        answers, count = self._answers, len(self._answers)
        if not count:
            return
        now = self._context.clock()
        batch = answers[:count]
        async with self._context.db.transaction() as conn:
            await outbox.settle(conn, [_settlement(m, a, now) for m, a in batch], now=now)
            for message, answer in batch:
                await self._react(conn, message, answer, now)
        del answers[:count]

    async def _react(
        self, conn: AsyncConnection, message: Claimed, answer: Answer, now: datetime
    ) -> None:
        """Do what the answer to a message of the link changes."""
        context = self._context
        delivered = answer.verdict is Verdict.DELIVERED
        if _is_credential_trouble(answer) and message.lane != outbox.LINK:
            await peers.not_handshaken(conn, peer_id=message.peer_id, now=now)
        if _settlement(message, answer, now).outcome == "refused":
            await events.record(
                conn,
                kind="message.refused",
                at=now,
                user_id=message.user_id,
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
                    context, conn, peer_id=message.peer_id, begun_by_us=begun_by_us, now=now
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
            await peers.schedule_heartbeat(conn, peer_id=message.peer_id, due_at=now)


def _settlement(message: Claimed, answer: Answer, now: datetime) -> Settlement:
    outcome: str | None = None
    if answer.verdict is Verdict.DELIVERED:
        outcome = "delivered"
    elif answer.verdict is Verdict.REFUSED and not _worth_trying_again(message, answer):
        outcome = "refused"
    return Settlement(
        id=message.id,
        outcome=outcome,
        status=answer.status,
        error=answer.detail,
        due_at=now + backoff(message.attempts),
    )


def _is_credential_trouble(answer: Answer) -> bool:
    return answer.status in (401, 403)


def _worth_trying_again(message: Claimed, answer: Answer) -> bool:
    """A peer that forgot the handshake gets one first, and then the message again."""
    return (
        _is_credential_trouble(answer)
        and message.lane != outbox.LINK
        and message.attempts < _CREDENTIAL_TRIES
    )


def backoff(attempts: int) -> timedelta:
    """Return the wait after the `attempts`th try failed: 1, 2, 4 … 60 s, spread by ±20 %."""
    wait_s = min(2.0 ** (min(attempts, 10) - 1), _LONGEST_WAIT_S)
    return timedelta(seconds=wait_s * random.uniform(0.8, 1.2))


def _tell(message: Claimed, answer: Answer) -> None:
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
