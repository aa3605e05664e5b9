"""What comes often comes together: forecasts of many peers share trips and commits.

Each is judged on its own, as if it had come alone; what they share is the cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from fpd.domain.forecast import Block, Forecast
from fpd.errors import Forbidden, FpdError, Malformed
from fpd.flows import blocks, forecasts, liveness
from fpd.flows.context import Context
from fpd.flows.forecasts import Accepted
from fpd.flows.inbound import Inbound
from fpd.flows.together import Together
from fpd.oscp import messages
from fpd.store import forecasts as store
from fpd.store import intake
from fpd.store.db import retried


@dataclass(frozen=True, slots=True)
class Arrived:
    """A forecast that can be read; what it may be is not yet decided."""

    inbound: Inbound
    message: messages.UpdateGroupCapacityForecast
    blocks: tuple[Block, ...]
    sha256: bytes

    @property
    def key(self) -> intake.Key:
        return (self.inbound.peer_id, self.inbound.noted_as)

    @property
    def group_key(self) -> store.Key:
        return (self.inbound.peer_id, self.message.group_id)


class Intake:
    """The door for forecasts of one daemon."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._forecasts = Together("forecasts", self._take, spawn=context.spawn)

    async def receive(
        self, inbound: Inbound, message: messages.UpdateGroupCapacityForecast
    ) -> None:
        """Keep a forecast. Raises Malformed, Unknown (no such group), Forbidden (wrong role)."""
        said = inbound.operation.encode() + b"\0" + inbound.body
        await self._forecasts.ask(
            Arrived(
                inbound,
                message,
                await blocks.checked_blocks(message.forecasted_blocks),
                hashlib.sha256(said).digest(),
            )
        )

    @retried
    async def _take(self, arrived: Sequence[Arrived]) -> list[Exception | None]:
        """Keep those that may be kept, with all they cause, in one transaction."""
        context = self._context
        now = context.clock()
        async with context.db.transaction() as conn:
            looked = await intake.look(
                conn,
                keys=[one.key for one in arrived],
                groups={one.group_key for one in arrived},
                tokens={t for one in arrived if (t := one.inbound.assumed_sha256) is not None},
                now=now,
            )
            judge = _Judge(looked, now)
            verdicts = [judge.verdict(one) for one in arrived]
            accepted = [v for v in verdicts if isinstance(v, Accepted)]
            controlled = {one.group.group_id for one in accepted if one.group.controlled}
            if accepted:
                async with conn.pipeline():
                    await intake.keep(conn, judge.new, now=now)
                    if controlled:
                        await store.want_control(conn, group_ids=controlled, now=now)
                    await forecasts.pass_on(conn, accepted, now=now)
                await forecasts.publish(context, conn, accepted, looked.outlets, now=now)
            for one in {one.peer.id: one for one in accepted}.values():
                heard = looked.peers[one.peer.id]
                await liveness.heard(context, conn, heard, one.inbound, now=now)
        for one in accepted:
            context.metrics.messages_in.labels("update_group_capacity_forecast").inc()
            forecasts.tell(one)
        if any(one.group.optimizer_id is not None for one in accepted):
            context.bells.delivery()
        if controlled:
            context.bells.control()
        if looked.outlets:
            context.bells.publishing()
        return [v if isinstance(v, FpdError) else None for v in verdicts]


class _Judge:
    """Decides about each forecast; `new` are those to keep, in their order."""

    def __init__(self, looked: intake.Looked, now: datetime) -> None:
        self._looked = looked
        self._now = now
        self._noted = dict(looked.noted)
        self._ids = iter(looked.ids)
        self.new: list[intake.New] = []

    def verdict(self, one: Arrived) -> Accepted | FpdError | None:
        """Return what becomes of one: kept, refused, or None: the very same came before."""
        try:
            return self._accepted(one)
        except FpdError as refusal:
            return refusal

    def _accepted(self, one: Arrived) -> Accepted | None:
        token = one.inbound.assumed_sha256
        if token is not None and self._looked.tokens.get(token) != one.inbound.peer_id:
            raise Forbidden("the token is not known or no longer valid")
        peer = self._looked.peers.get(one.inbound.peer_id)
        if peer is None or not peer.enabled:
            raise Forbidden("this peer is disabled")
        before = self._noted.get(one.key)
        if before is not None:
            if before != one.sha256:
                raise Malformed("X-Request-ID reused with other content")
            return None
        peer = liveness.awake(peer, one.inbound)
        addressee = self._looked.groups.get(one.group_key)
        group = forecasts.checked_group(peer, one.message, addressee)
        self._noted[one.key] = one.sha256  # the same may come twice in one batch
        forecast = Forecast(
            received_at=self._now,
            type=one.message.type,
            blocks=one.blocks,
            id=next(self._ids),
            peer_id=peer.id,
        )
        self.new.append(_new(one, group.group_id, forecast))
        return Accepted(one.inbound, forecast, peer, group)


def _new(one: Arrived, group_id: int, forecast: Forecast) -> intake.New:
    return intake.New(
        id=forecast.id,
        group_id=group_id,
        peer_id=forecast.peer_id,
        operation=one.inbound.operation,
        request_id=one.inbound.request_id,
        noted_as=one.inbound.noted_as,
        correlation_id=one.inbound.correlation_id,
        type=forecast.type,
        body=one.inbound.body,
        sha256=one.sha256,
        ends_at=max(block.end_at for block in forecast.blocks),
    )
