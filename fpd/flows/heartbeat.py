"""Heartbeats, ours and theirs (OSCP 2.0 §2.3): theirs kept as promised, ours on time.

Interpretation: a heartbeat is a due row of its own, not a message in the outbox: it is never
retried, since the next one says the same and is fresher.

Each daemon remembers the peers it last sent a heartbeat to, and a timer for each runs on the
steady clock. What a claim brings is sent when it is due; what no claim could tell about, because
the database is away or hangs, is sent from memory. So an outage or a step of the clock delays none.
Interpretation: what we promise then (offline_mode_at) is still true: we are there.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from fpd.domain.link import next_heartbeat, offline_at, silence_allowed
from fpd.errors import Unavailable
from fpd.flows import outbound, publishing, trouble
from fpd.flows.context import Context
from fpd.flows.inbound import Inbound
from fpd.flows.liveness import open_link
from fpd.oscp import dialects, messages
from fpd.oscp.client import Answer, Verdict
from fpd.oscp.headers import new_request_id
from fpd.store import heartbeats, promises
from fpd.store.db import retried
from fpd.store.heartbeats import DueHeartbeat

log = structlog.get_logger()

_AHEAD_S = 0.5  # claimed before they are due, to leave on the dot
_BATCH = 500
_REVIEW_S = 5.0  # how often memory is compared with what peers are now
_STEP_S = 0.25
_OTHERS_S = 1.0  # after an outage each daemon first puts right what it remembers
_LONGEST_S = 10.0
_SHARE = 0.7  # of the interval: a heartbeat has ended before the next one begins
_NOT_WANTED = frozenset({401, 403, 404, 410})


@retried
async def receive(context: Context, inbound: Inbound, message: messages.Heartbeat) -> None:
    """Keep the peer's newest promise and publish it."""
    now = context.clock()
    promised_at = messages.plausible(message.offline_mode_at, "offline_mode_at")
    grace = timedelta(seconds=context.config.oscp.clock_skew_grace_s)
    silent_at = offline_at(promised_at, now=now, grace=grace)
    async with context.db.transaction() as conn, open_link(context, conn, inbound, now) as peer:
        if peer is None:
            return
        await promises.save(
            conn, peer_id=peer.id, offline_mode_at=promised_at, offline_at=silent_at, now=now
        )
        await publishing.owe_heartbeat(
            context, conn, peer_id=peer.id, offline_mode_at=promised_at, now=now
        )
    context.promises.note(peer.id, silent_at)
    context.bells.publishing()


@dataclass(slots=True, kw_only=True)
class _Beat:
    """The next heartbeat to one peer, at `at_s` of the event loop's time.

    `claimed`: it is ours by the database. `said_at`: when the last one that was not claimed left.
    """

    due: DueHeartbeat
    at_s: float
    claimed: bool
    timer: asyncio.TimerHandle
    said_at: datetime | None = None

    @property
    def period_s(self) -> float:
        return next_heartbeat(self.due.interval_s).total_seconds()

    @property
    def unclaimed_s(self) -> float:
        """When the first heartbeat that nobody has claimed is due."""
        return self.at_s + self.period_s if self.claimed else self.at_s


class Heartbeats:
    """Our heartbeats to the peers that this daemon serves."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._beats: dict[int, _Beat] = {}
        self._under_way: set[int] = set()
        self._covered_s = 0.0  # up to here the database has told what is due
        self._reviewed_s = 0.0
        self._claim_from_s = 0.0
        self._lost = False
        self._distance_s: float | None = None  # of the wall clock from the event loop's

    def stop(self) -> None:
        """Begin no more heartbeats; what was claimed leaves a little early."""
        beats, self._beats = self._beats, {}
        for beat in beats.values():
            beat.timer.cancel()
            if beat.claimed:
                self._begin(beat)

    async def step(self) -> bool:
        """Take what is due soon, and set its timer. True: there may be more of it at once."""
        context, loop = self._context, asyncio.get_running_loop()
        now, now_s = context.clock(), loop.time()
        if self._lost or self._clock_was_set(now, now_s):
            await self._put_right(now, now_s)
        if now_s < self._claim_from_s:
            return False
        try:
            due, said = await self._claim(now, now_s)
        except Unavailable:
            self._lost = True
            raise
        for one in due:
            if one.peer_id not in said:
                in_s = max((one.due_at - now).total_seconds(), 0.0)
                self._set(one, now_s + in_s, claimed=True)
        if len(due) == _BATCH:
            return True
        self._covered_s = now_s + _AHEAD_S
        await self._review(now, now_s)
        return False

    async def _put_right(self, now: datetime, now_s: float) -> None:
        """Write down when heartbeats are due by the steady clock; let other daemons do the same.

        After an outage that is for the rows which it has left behind.
        """
        due_at = {
            peer_id: now + timedelta(seconds=beat.unclaimed_s - now_s)
            for peer_id, beat in self._beats.items()
        }
        stepped = self._clock_was_set(now, now_s)
        async with self._context.db.connection() as conn:
            await heartbeats.put(conn, due_at, overdue_at=None if stepped else now)
        if stepped:
            log.warning("clock.stepped", seconds=round(self._step_s(now, now_s), 1))
            for beat in self._beats.values():
                beat.said_at = None
        self._distance_s = now.timestamp() - now_s
        self._lost = False
        self._claim_from_s = now_s + _OTHERS_S

    async def _claim(
        self, now: datetime, now_s: float
    ) -> tuple[list[DueHeartbeat], dict[int, datetime]]:
        """Return what is due, and the next instants of those that were said from memory."""
        async with self._context.db.transaction() as conn:
            due = await heartbeats.claim(
                conn, now=now, until=now + timedelta(seconds=_AHEAD_S), limit=_BATCH
            )
            said = {one.peer_id: at for one in due if (at := self._said(one, now, now_s))}
            if said:
                await heartbeats.put(conn, said)
        self._distance_s = now.timestamp() - now_s
        return due, said

    def _step_s(self, now: datetime, now_s: float) -> float:
        """Return by how much the clock was set since the last pass."""
        return 0.0 if self._distance_s is None else now.timestamp() - now_s - self._distance_s

    def _clock_was_set(self, now: datetime, now_s: float) -> bool:
        return abs(self._step_s(now, now_s)) > _STEP_S

    def _said(self, due: DueHeartbeat, now: datetime, now_s: float) -> datetime | None:
        """Return when the next one is due if this one has been said from memory."""
        beat = self._beats.get(due.peer_id)
        if beat is None or beat.said_at is None or due.due_at > beat.said_at:
            return None
        return now + timedelta(seconds=beat.at_s - now_s)

    async def _review(self, now: datetime, now_s: float) -> None:
        """Forget the peers that want no more, and find those that a step of the clock has lost."""
        if now_s - self._reviewed_s < _REVIEW_S:
            return
        async with self._context.db.connection() as conn:
            for peer_id in await heartbeats.unwanted(conn, peer_ids=self._beats):
                self._forget(peer_id)
            await heartbeats.pull_in(conn, now=now, slack_s=_REVIEW_S)
        self._reviewed_s = now_s

    def _set(
        self, due: DueHeartbeat, at_s: float, *, claimed: bool, said_at: datetime | None = None
    ) -> None:
        before = self._beats.get(due.peer_id)
        if before is not None:
            before.timer.cancel()
        timer = asyncio.get_running_loop().call_at(at_s, self._ring, due.peer_id)
        self._beats[due.peer_id] = _Beat(
            due=due, at_s=at_s, claimed=claimed, timer=timer, said_at=said_at
        )

    def _forget(self, peer_id: int) -> None:
        beat = self._beats.pop(peer_id, None)
        if beat is not None:
            beat.timer.cancel()

    def _ring(self, peer_id: int) -> None:
        """It is time for a heartbeat, unless the database gave it to somebody else, or nobody."""
        beat, loop = self._beats[peer_id], asyncio.get_running_loop()
        if not beat.claimed and self._covered_s > beat.at_s + 0.05:
            self._forget(peer_id)
            return
        context = self._context
        late_s = loop.time() - beat.at_s
        context.metrics.heartbeat_late_s.observe(late_s)
        # After a long standstill the rhythm begins anew instead of catching up.
        following_s = max(beat.at_s, loop.time() - beat.due.interval_s * 0.2) + beat.period_s
        said_at = beat.said_at if beat.claimed else context.clock() + timedelta(seconds=0.001)
        self._set(beat.due, following_s, claimed=False, said_at=said_at)
        self._begin(beat)

    def _begin(self, beat: _Beat) -> None:
        peer_id = beat.due.peer_id
        if peer_id not in self._under_way and dialects.read(beat.due.service_props).heartbeats:
            self._under_way.add(peer_id)
            self._context.spawn(self._send(beat), name=f"heartbeat to {peer_id}")

    async def _send(self, beat: _Beat) -> None:
        context, due = self._context, beat.due
        promised_at = context.clock() + silence_allowed(due.interval_s)
        try:
            answer = await outbound.send(
                context,
                due,
                operation="heartbeat",
                request_id=new_request_id(),
                body=messages.encode(messages.Heartbeat(offline_mode_at=promised_at)),
                within_s=min(_LONGEST_S, _SHARE * due.interval_s),
            )
        finally:
            self._under_way.discard(due.peer_id)
        if not beat.claimed and answer.status in _NOT_WANTED:
            self._forget(due.peer_id)
        with contextlib.suppress(Unavailable):  # the next answer will say the same
            await self._answered(due, answer)

    async def _answered(self, due: DueHeartbeat, answer: Answer) -> None:
        context = self._context
        log.debug("heartbeat.sent", peer=due.peer_id, status=answer.status, detail=answer.detail)
        if trouble.is_credential(answer):
            async with context.db.transaction() as conn:
                await trouble.refused(
                    conn,
                    peer_id=due.peer_id,
                    operation="heartbeat",
                    answer=answer,
                    now=context.clock(),
                )
        elif due.doubted and answer.verdict is Verdict.DELIVERED:
            await trouble.taken(context, peer_id=due.peer_id)
