"""What comes often comes together: forecasts of many peers share trips and commits.

Each is judged on its own, as if it had come alone; what they share is the cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection

from fpd.domain.forecast import Block
from fpd.errors import Forbidden, FpdError, Malformed
from fpd.flows import forecasts, liveness
from fpd.flows.context import Context
from fpd.flows.forecasts import Accepted
from fpd.flows.inbound import Inbound
from fpd.flows.together import Together
from fpd.oscp import messages
from fpd.store import forecasts as store
from fpd.store import intake
from fpd.store.forecasts import Addressee
from fpd.store.intake import Kept
from fpd.store.peers import Peer


@dataclass(frozen=True, slots=True)
class Arrived:
    """A forecast that can be read; what it may be is not yet decided."""

    inbound: Inbound
    message: messages.UpdateGroupCapacityForecast
    blocks: tuple[Block, ...]

    @property
    def key(self) -> intake.Key:
        return (self.inbound.peer_id, self.inbound.noted_as)

    @property
    def group_key(self) -> store.Key:
        return (self.inbound.peer_id, self.message.group_id)

    @property
    def sha256(self) -> bytes:
        said = self.inbound.operation.encode() + b"\0" + self.inbound.body
        return hashlib.sha256(said).digest()


class Intake:
    """The door for forecasts of one daemon."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._forecasts = Together("forecasts", self._take, spawn=context.spawn)

    async def receive(
        self, inbound: Inbound, message: messages.UpdateGroupCapacityForecast
    ) -> None:
        """Keep a forecast. Raises Malformed, Unknown (no such group), Forbidden (wrong role)."""
        blocks = forecasts.checked_blocks(message.forecasted_blocks)
        await self._forecasts.ask(Arrived(inbound, message, blocks))

    async def _take(self, arrived: Sequence[Arrived]) -> list[Exception | None]:
        """Keep those that may be kept, with all they cause, in one transaction."""
        context = self._context
        now = context.clock()
        async with context.db.transaction() as conn:
            judge = await _Judge.of(conn, arrived, now)
            verdicts = [judge.verdict(one) for one in arrived]
            accepted = [v for v in verdicts if isinstance(v, Accepted)]
            if accepted:
                await intake.keep(conn, [one.kept for one in accepted], now=now)
                await forecasts.cause(context, conn, accepted, now=now)
            for one in {one.peer.id: one for one in accepted}.values():
                heard = judge.peers[one.peer.id]
                await liveness.heard(context, conn, heard, one.inbound, now=now)
        for one in accepted:
            context.metrics.messages_in.labels("update_group_capacity_forecast").inc()
            forecasts.tell(one)
        if accepted:
            context.bells.delivery()
            context.bells.publishing()
            context.bells.control()
        return [v if isinstance(v, FpdError) else None for v in verdicts]


class _Judge:
    """All that decides about some forecasts, read in a few statements."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}
        self._noted: dict[intake.Key, bytes] = {}
        self._groups: dict[store.Key, Addressee] = {}
        self._ids: list[int] = []

    @classmethod
    async def of(cls, conn: AsyncConnection, arrived: Sequence[Arrived], now: datetime) -> _Judge:
        judge = cls()
        judge.peers = await intake.hear(
            conn, peer_ids={one.inbound.peer_id for one in arrived}, now=now
        )
        judge._noted = await intake.noted(conn, keys=[one.key for one in arrived])
        judge._groups = await store.find_groups(conn, keys={one.group_key for one in arrived})
        judge._ids = await intake.new_ids(conn, count=len(arrived))
        return judge

    def verdict(self, one: Arrived) -> Accepted | FpdError | None:
        """Return what becomes of one: kept, refused, or None: the very same came before."""
        try:
            return self._accepted(one)
        except FpdError as refusal:
            return refusal

    def _accepted(self, one: Arrived) -> Accepted | None:
        peer = self.peers.get(one.inbound.peer_id)
        if peer is None or not peer.enabled:
            raise Forbidden("this peer is disabled")
        before = self._noted.get(one.key)
        if before is not None:
            if before != one.sha256:
                raise Malformed("X-Request-ID reused with other content")
            return None
        peer = liveness.awake(peer, one.inbound)
        group = forecasts.checked_group(peer, one.message, self._groups.get(one.group_key))
        self._noted[one.key] = one.sha256  # the same may come twice in one batch
        return Accepted(one.inbound, self._kept(one, group), peer, group)

    def _kept(self, one: Arrived, group: Addressee) -> Kept:
        return Kept(
            id=self._ids.pop(0),
            group_id=group.group_id,
            peer_id=one.inbound.peer_id,
            operation=one.inbound.operation,
            request_id=one.inbound.request_id,
            noted_as=one.inbound.noted_as,
            correlation_id=one.inbound.correlation_id,
            type=one.message.type,
            body=one.inbound.body,
            sha256=one.sha256,
            blocks=one.blocks,
        )
