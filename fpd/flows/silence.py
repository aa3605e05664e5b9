"""Noticing that a peer has gone: its promise has run out, and we would have heard it (§2.3)."""

from __future__ import annotations

import structlog

from fpd.flows.context import Context
from fpd.store import events, forecasts, promises
from fpd.store.db import retried

log = structlog.get_logger()

# A pass that comes later than this: we were stopped, or the database was away. Nobody was heard.
_DEAF_S = 3.0
# Other daemons have noticed a step of the clock by then, and moved the promises they heard.
_OTHERS_S = 2.0


class Silence:
    """Takes peers offline whose promise has run out; their groups fall back at once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._steady = context.steady
        self._passed_s: float | None = None
        self._judge_from_s = 0.0

    async def step(self) -> bool:
        """One pass; False: there is nothing more to do at once."""
        await self._listen()
        if self._steady() >= self._judge_from_s:
            await _judge(self._context)
        self._passed_s = self._steady()
        return False

    async def _listen(self) -> None:
        """Put promises where they lie after a step of the clock, or a time without hearing."""
        context, now_s = self._context, self._steady()
        if self._passed_s is None:
            async with context.db.connection() as conn:
                context.promises.know(await promises.kept(conn))
        elif now_s - self._passed_s > _DEAF_S:
            log.warning("peers.unheard", seconds=round(now_s - self._passed_s, 1))
            context.promises.deaf(now_s - self._passed_s)
            self._passed_s = now_s
        moves = context.promises.moves()
        if moves:
            async with context.db.connection() as conn:
                await promises.move(conn, moves)
        step_s = context.promises.moved(moves)
        if abs(step_s) > 1:
            log.warning("promises.moved", seconds=round(step_s, 1), peers=len(moves))
            self._judge_from_s = now_s + _OTHERS_S


@retried
async def _judge(context: Context) -> None:
    now = context.clock()
    async with context.db.transaction() as conn:
        silent = await promises.claim_broken(conn, now=now)
        for peer in silent:
            await forecasts.want_control_of_peer(conn, peer_id=peer.id, now=now)
            await events.record(
                conn, kind="peer.offline", at=now, user_id=peer.user_id, peer_id=peer.id
            )
    context.promises.forget(peer.id for peer in silent)
    for peer in silent:
        log.warning("peer.offline", peer=peer.id, name=peer.name, role=peer.role)
    if silent:
        context.bells.control()
