"""What comes often comes together: forecasts of many peers share trips and commits.

Each is judged on its own, as if it had come alone; what they share is the cost. Plain ones are
judged and kept by one statement of the database, the others here, in a transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog

from fpd.domain.forecast import Forecast
from fpd.errors import Forbidden, FpdError, Malformed, Unavailable
from fpd.flows import blocks, forecasts, forwarding, liveness
from fpd.flows.context import Context
from fpd.flows.forecasts import Accepted
from fpd.flows.inbound import Inbound
from fpd.flows.together import Together
from fpd.oscp import messages
from fpd.oscp.headers import new_request_id
from fpd.store import forecasts as store
from fpd.store import intake, plain
from fpd.store.db import retried
from fpd.store.forwards import Forwarded

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """A forecast that can be read; what it may be is not yet decided."""

    inbound: Inbound
    message: messages.UpdateGroupCapacityForecast
    sha256: bytes
    ends_at: datetime

    @property
    def key(self) -> intake.Key:
        return (self.inbound.peer_id, self.inbound.noted_as)

    @property
    def group_key(self) -> store.Key:
        return (self.inbound.peer_id, self.message.group_id)

    def replaces(self, group_id: int) -> Forwarded:
        """Return which forecasts of the same group it may replace."""
        return (group_id, self.inbound.peer_id, self.message.type)

    @property
    def may_be_plain(self) -> bool:
        """Whether nothing about it needs more than `plain.keep` does."""
        dialect = self.inbound.dialect
        return (
            self.inbound.correlation_id is None
            and dialect.heartbeats
            and not dialect.lenient_request_id
        )


class Intake:
    """The door for forecasts of one daemon."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._forecasts = Together("forecasts", self._take, spawn=context.spawn)

    async def receive(
        self, inbound: Inbound, message: messages.UpdateGroupCapacityForecast
    ) -> None:
        """Keep a forecast. Raises Malformed, Unknown (no such group), Forbidden (wrong role)."""
        await blocks.judge(message.forecasted_blocks)
        said = inbound.operation.encode() + b"\0" + inbound.body
        ends_at = max(block.end_time for block in message.forecasted_blocks)
        await self._forecasts.ask(Arrived(inbound, message, hashlib.sha256(said).digest(), ends_at))

    async def _take(self, arrived: Sequence[Arrived]) -> list[Exception | None]:
        plainly = {one.key: one for one in arrived if one.may_be_plain}
        kept = await self._take_plain(list(plainly.values())) if plainly else set()
        others = [one for one in arrived if one not in kept]
        verdicts = iter(await self._take_judged(others) if others else ())
        return [None if one in kept else next(verdicts) for one in arrived]

    async def _take_plain(self, arrived: Sequence[Arrived]) -> set[Arrived]:
        """Keep those that are plain, and return them."""
        kept = [(arrived[one.position], one) for one in await self._keep_plain(arrived)]
        for one, done in kept:
            self._tell(one, done.group_id)
        await self._follow(
            owed=any(done.owed for _, done in kept),
            replacing={one.replaces(done.group_id) for one, done in kept if done.waits},
            watched=any(done.watched for _, done in kept),
        )
        return {one for one, _ in kept}

    @retried
    async def _keep_plain(self, arrived: Sequence[Arrived]) -> list[plain.Kept]:
        async with self._context.db.connection() as conn:
            return await plain.keep(
                conn, [_plain(one) for one in arrived], now=self._context.clock()
            )

    async def _take_judged(self, arrived: Sequence[Arrived]) -> list[Exception | None]:
        """Keep those that may be kept."""
        verdicts, outlets = await self._keep_judged(arrived)
        kept = [(a, v) for a, v in zip(arrived, verdicts, strict=True) if isinstance(v, Accepted)]
        for one, accepted in kept:
            self._tell(one, accepted.group.group_id)
        await self._follow(
            owed=any(accepted.group.optimizer_id is not None for _, accepted in kept),
            replacing={
                one.replaces(accepted.group.group_id)
                for one, accepted in kept
                if accepted.group.optimizer_waits
            },
            watched=any(accepted.group.watched for _, accepted in kept),
        )
        if outlets:
            self._context.bells.publishing()
        return [v if isinstance(v, FpdError) else None for v in verdicts]

    @retried
    async def _keep_judged(
        self, arrived: Sequence[Arrived]
    ) -> tuple[list[Accepted | FpdError | None], bool]:
        """Keep those that may be kept, with all they cause, in one transaction.

        Return what became of each, and whether datum are owed to the broker.
        """
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
            groups = {one.group.group_id for one in accepted}
            if accepted:
                async with conn.pipeline():
                    await intake.keep(conn, judge.new, now=now)
                    await store.want_control(conn, group_ids=groups, now=now)
                    await forecasts.pass_on(conn, accepted, now=now)
                await forecasts.publish(context, conn, accepted, looked.outlets, now=now)
            for one in {one.peer.id: one for one in accepted}.values():
                heard = looked.peers[one.peer.id]
                await liveness.heard(context, conn, heard, one.inbound, now=now)
        return verdicts, bool(looked.outlets)

    def _tell(self, one: Arrived, group_id: int) -> None:
        self._context.metrics.messages_in.labels(forwarding.UPDATE).inc()
        log.info(
            "forecast.received",
            peer=one.inbound.peer_id,
            group=group_id,
            type=one.message.type,
            blocks=len(one.message.forecasted_blocks),
            request_id=one.inbound.request_id,
        )

    async def _follow(self, *, owed: bool, replacing: Collection[Forwarded], watched: bool) -> None:
        """Do what kept forecasts ask for beyond being kept."""
        if replacing:
            try:
                await forwarding.drop_superseded(self._context, replacing)
            except Unavailable as error:
                # What is kept is kept: then the optimizer hears the older before the newer.
                log.info("forecasts.not_superseded", reason=str(error))
        if owed:
            self._context.bells.delivery()
        if watched:  # the others are looked at soon enough
            self._context.bells.control()


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
            blocks=blocks.of_wire(one.message.forecasted_blocks),
            id=next(self._ids),
            peer_id=peer.id,
        )
        self.new.append(_new(one, group.group_id, forecast))
        return Accepted(one.inbound, forecast, peer, group)


def _plain(one: Arrived) -> plain.Said:
    return plain.Said(
        peer_id=one.inbound.peer_id,
        identifier=one.message.group_id,
        request_id=one.inbound.request_id,
        type=one.message.type,
        body=one.inbound.body,
        sha256=one.sha256,
        ends_at=one.ends_at,
        forward_id=new_request_id(),
        token=one.inbound.assumed_sha256,
    )


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
        ends_at=one.ends_at,
    )
