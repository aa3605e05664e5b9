"""Platforms are read poll by poll: claimed when due, asked outside the transaction, settled.

Each poll runs in a task of its own under a lease, so a platform that hangs costs nothing but its
own data. What a poll brought is kept before the poll is settled: killed in between, it is read
again and kept again, which changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.adapters import http, platforms
from fpd.adapters.device import DeviceFault, Health, Reading, Source, Unreachable, Wiring
from fpd.adapters.lenient import printable
from fpd.adapters.myems_server import ServerClock, server
from fpd.adapters.platform import Platform, Polled, StreamSample
from fpd.config_reengen import ReengenPlatform
from fpd.domain.datum import Datum
from fpd.errors import Unavailable
from fpd.flows import ingest, telling
from fpd.flows.context import Context
from fpd.flows.holder import Rounds
from fpd.flows.myems_listener import Listener, Withdrawal, is_shown
from fpd.flows.readings import exact
from fpd.store import events
from fpd.store import platforms as store
from fpd.store.platforms import Poll, Settled

log = structlog.get_logger()

_VISIT_S = 60.0
_LONGEST = 500  # characters of a detail
_LEASE = timedelta(seconds=_VISIT_S + 15)
_FIRST_S = 2.0  # first polls are spread over this


class Platforms:
    """The configured platforms and the polls of this process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wiring: Wiring | None = None
        self._platforms: Mapping[str, Platform] = {}
        self._polls: dict[str, dict[str, Source]] = {}
        self._withdrawals: dict[str, Source] = {}
        self._enrolled = False
        self._rounds = Rounds(context.steady)

    async def step(self) -> bool:
        """Claim the polls that are due and start them. Raises Misconfigured."""
        if not self._context.config.platforms:
            return False
        self._open()
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            if not self._enrolled:
                await self._enrol(conn, now)
            await self._rounds.make(conn, now=now)
            claimed = await store.claim(
                conn,
                most={one.name: one.most for one in self._platforms.values()},
                holder=self._context.holder,
                now=now,
                until=now + _LEASE,
            )
        self._enrolled = True
        for poll in claimed:
            self._context.spawn(self._run(poll), name=f"platform {poll.platform} {poll.job}")
        return False

    async def _enrol(self, conn: AsyncConnection, now: datetime) -> None:
        """Make the polls known, and have what other ones have left at a platform withdrawn."""
        for name, job, memory in await store.remembered(conn):
            if job in self._polls.get(name, {}) or not is_shown(memory):
                continue
            if name in self._withdrawals:
                self._polls[name][job] = self._withdrawals[name]
            else:
                log.warning("platform.left_behind", platform=name, job=job, shown=memory)
        for config in self._context.config.platforms:
            jobs = list(self._polls[config.name])
            await store.enrol(
                conn,
                name=config.name,
                kind=self._platforms[config.name].kind,
                configured=self._context.vault.mark(repr(dataclasses.astuple(config))),
                jobs=jobs,
                dues=[now + timedelta(seconds=random.uniform(0, _FIRST_S)) for _ in jobs],
                now=now,
            )

    async def close(self) -> None:
        """Say goodbye and let go of every connection; called once no poll runs any more."""
        if self._wiring is not None:
            await self._wiring.close()

    def _open(self) -> None:
        if self._wiring is not None:
            return
        config = self._context.config
        self._wiring = Wiring(
            session=http.session(),
            clock=self._context.clock,
            instance=config.mqtt.instance,
            interval_s=config.control.interval_s,
            folder=config.data_dir,
            tenants=self._context.tenants,
            steady=self._context.steady,
        )
        self._platforms = platforms.build(config.platforms, self._wiring)
        self._polls = {
            name: {**one.polls, **self._listeners(name, self._wiring)}
            for name, one in self._platforms.items()
        }

    def _listeners(self, name: str, wiring: Wiring) -> Mapping[str, Source]:
        """Return what shows capacity groups to a platform."""
        config = next(one for one in self._context.config.platforms if one.name == name)
        if isinstance(config, ReengenPlatform):
            return telling.listeners(self._context, config, wiring)
        client = server(config, wiring, most=config.max_requests)
        server_clock = ServerClock(client, config.utc_offset, self._context.clock)
        self._withdrawals[name] = Withdrawal(client, self._context.clock)
        return {
            f"listener/{row.group_id}": Listener(
                self._context, row, client, server_clock, read_every_s=config.poll_s
            )
            for row in config.listener
        }

    async def _run(self, poll: Poll) -> None:
        try:
            settled = await self._poll(poll)
            await self._settle(poll, settled)
            self._context.bells.platforms()  # another one may begin in its place
        except Unavailable as away:
            # The lease ends by itself, and the poll is made again.
            log.debug("platform.poll_lost", platform=poll.platform, job=poll.job, reason=str(away))
        except asyncio.CancelledError:
            with contextlib.suppress(Unavailable):
                await asyncio.shield(self._give_back(poll))
            raise

    async def _poll(self, poll: Poll) -> Settled:
        platform = self._platforms[poll.platform]
        source = self._polls[poll.platform][poll.job]
        metrics = self._context.metrics
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_VISIT_S):
                reading = await source.read(poll.memory or {})
        except TimeoutError:
            fault: DeviceFault = Unreachable(f"{poll.job}: no answer within {_VISIT_S:g} s")
        except DeviceFault as found:
            fault = found
        else:
            metrics.platform_poll_s.labels(poll.platform).observe(time.monotonic() - began_s)
            metrics.platform_polls.labels(poll.platform, "ok").inc()
            metrics.up.labels(f"platform {poll.platform}").set(1)
            await self._keep(poll, reading)
            return _read(reading, source.read_every_s, self._context.clock())
        metrics.platform_polls.labels(poll.platform, str(fault.health)).inc()
        return _unread(poll, fault, platform, self._context.clock())

    async def _keep(self, poll: Poll, reading: Reading) -> None:
        """Store what a poll brought as datum."""
        datums = [_datum(sample) for sample in reading.samples if isinstance(sample, StreamSample)]
        if datums:
            await ingest.store(self._context, datums, door="platform")
        counted = self._context.metrics.platform_datum
        counted.labels(poll.platform, "kept").inc(len(datums))
        if isinstance(reading, Polled) and reading.refused:
            counted.labels(poll.platform, "out_of_limits").inc(reading.refused)

    async def _settle(self, poll: Poll, settled: Settled) -> None:
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            if not await store.settle(conn, poll, settled, now=now):
                log.warning("platform.lease_lost", platform=poll.platform, job=poll.job)
                return
            standing = await store.judge(conn, name=poll.platform, now=now)
            if standing is None:
                return
            if standing.before != standing.health:
                await events.record(
                    conn,
                    kind=f"platform.{standing.health}",
                    at=now,
                    data={
                        "platform": standing.name,
                        "detail": standing.detail,
                        "since": standing.since_at.isoformat(timespec="seconds"),
                    },
                )
        self._context.metrics.up.labels(f"platform {standing.name}").set(
            standing.health in (Health.OK, Health.DEGRADED)
        )
        tell = log.info if standing.health == Health.OK else log.warning
        if standing.before == standing.health:
            tell = log.debug
        tell(
            "platform.changed",
            platform=standing.name,
            health=standing.health,
            since=standing.since_at.isoformat(timespec="seconds"),
            detail=standing.detail,
        )

    async def _give_back(self, poll: Poll) -> None:
        async with self._context.db.transaction() as conn:
            await store.release(conn, poll)


def _read(reading: Reading, every_s: float, now: datetime) -> Settled:
    again_s = reading.again_s if isinstance(reading, Polled) else None
    wait_s = again_s if again_s is not None else every_s * random.uniform(0.95, 1.05)
    return Settled(
        health=Health.OK if reading.dispatchable else Health.DEGRADED,
        detail=None if reading.detail is None else printable(reading.detail, _LONGEST),
        failures=0,
        due_at=now + timedelta(seconds=wait_s),
        memory=reading.memory,
        read=True,
    )


def _unread(poll: Poll, fault: DeviceFault, platform: Platform, now: datetime) -> Settled:
    failures = poll.failures + 1
    first_s, longest_s = platform.backoff_s
    doubled_s = min(first_s * 2.0 ** min(failures - 1, 10), longest_s)
    wait_s = fault.retry_s or (longest_s if fault.health is not Health.UNAVAILABLE else doubled_s)
    return Settled(
        health=fault.health,
        detail=printable(str(fault), _LONGEST),
        failures=failures,
        due_at=now + timedelta(seconds=wait_s * random.uniform(0.8, 1.2)),
    )


def _datum(sample: StreamSample) -> Datum:
    return Datum(
        stream=sample.stream,
        at=sample.at,
        i=exact(sample.instantaneous),
        a=exact(sample.accumulating),
        s=dict(sample.status),
    )
