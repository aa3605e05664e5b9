"""One visit to one device: read it if that is due, tell it if that is due, write both down.

Everything is written before and after the device is spoken to, never while: killed at any line,
the next visit knows at least what the device may have been told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from psycopg import AsyncConnection

from fpd.adapters.device import (
    Adapter,
    Command,
    DeviceFault,
    Excluded,
    Memory,
    Release,
    Result,
    Setpoint,
    Unreachable,
)
from fpd.config import Device
from fpd.errors import Unavailable
from fpd.flows import device_rules as rules
from fpd.flows import readings
from fpd.flows.context import Context
from fpd.flows.device_rules import Change
from fpd.store import control, devices, events
from fpd.store.devices import DeviceState

log = structlog.get_logger()

_LEAST_PATIENCE_S = 30.0


class LostLease(Exception):
    """Somebody else visits the device by now: what we know is history."""


class Visit:
    """`state` is what is known so far; `seen` the row as it was claimed.

    `told` is called when the device has taken a command, whatever becomes of the database.
    """

    def __init__(
        self,
        context: Context,
        device: Device,
        adapter: Adapter,
        seen: DeviceState,
        told: Callable[[Command, Memory], None] = lambda command, memory: None,
    ) -> None:
        self._context = context
        self._device = device
        self._adapter = adapter
        self._seen = seen
        self._state = seen
        self._told_health = seen.health
        self._told = told

    async def run(self) -> None:
        """Visit the device. Raises Unavailable when the database is away."""
        try:
            await self._within_bounds()
            await self._save(release=True)
        except LostLease:
            log.warning("device.lease_lost", device=self._device.name)
        except asyncio.CancelledError:
            # Others need not wait for the lease to end.
            with contextlib.suppress(LostLease, Unavailable):
                await asyncio.shield(self._save(release=True))
            raise

    async def _within_bounds(self) -> None:
        try:
            async with asyncio.timeout(self._adapter.visit_s):
                now = self._context.clock()
                if self._state.due_at <= now and not await self._read():
                    await self._rest_unseen()
                    return
                now = self._context.clock()
                if self._state.command_due_at is not None and self._state.command_due_at <= now:
                    await self._tell(now)
        except TimeoutError:
            fault = Unreachable("the visit took too long")
            self._state = rules.after_unread(
                self._state, fault, adapter=self._adapter, now=self._context.clock()
            )

    async def _read(self) -> bool:
        """Take a reading; tell whether a command may follow in this visit."""
        was_away = self._state.failures > 0
        try:
            reading = await self._adapter.read(self._state.memory or {})
        except DeviceFault as fault:
            self._state = rules.after_unread(
                self._state, fault, adapter=self._adapter, now=self._context.clock()
            )
            return isinstance(fault, Excluded)
        change = rules.after_reading(
            self._state, reading, adapter=self._adapter, now=self._context.clock()
        )
        # The state first: it remembers what the device did before, so that control can explain
        # an older datum by it, but not a newer datum by an older state.
        await self._write(change, wake=False)
        await readings.keep(self._context, self._device, reading.samples)
        await self._wake()
        self._context.metrics.discarded.labels(self._device.name).inc(reading.discarded)
        self._context.metrics.device_reading_at.labels(self._device.name).set(
            reading.at.timestamp()
        )
        # After an absence, the device's or ours, control decides anew before anything is told;
        # to let go takes no decision.
        if isinstance(rules.command_of(self._state.wanted), Release):
            return True
        return not (was_away or self._decision_is_old(self._context.clock()))

    async def _rest_unseen(self) -> None:
        """Send home who has not said for too long how it is: it may hear us all the same."""
        now, state = self._context.clock(), self._state
        reading, told = rules.reading_of(state), rules.command_of(state.told)
        stale_after = timedelta(seconds=self._device.stale_after_s)
        if reading is None or not isinstance(told, Setpoint):
            return
        if now - reading.at < stale_after:
            # It is asked again in time to be told to rest, however long the wait would be else.
            self._state = replace(state, due_at=min(state.due_at, reading.at + stale_after))
            return
        try:
            outcome = await self._adapter.apply(Release(), state.memory or {})
        except DeviceFault:
            return  # as far as anybody knows it goes on with what it was told
        await self._begin(Release(), now)
        self._told(Release(), outcome.memory)
        log.warning("device.released", device=state.name, reason=state.detail)
        change = rules.after_outcome(self._state, outcome, adapter=self._adapter, now=now)
        # It is read before it is told anything else.
        unread = replace(change.state, failures=state.failures, command_due_at=state.due_at)
        await self._write(replace(change, state=unread), wake=False)

    async def _tell(self, now: datetime) -> None:
        command = self._due_command(now)
        if command is None:
            return
        if not self._was_told(command):
            await self._begin(command, now)
        try:
            outcome = await self._adapter.apply(command, self._state.memory or {})
        except DeviceFault as fault:
            now = self._context.clock()
            change = rules.after_refusal(self._state, fault, adapter=self._adapter, now=now)
            result: Result | str = "failed"
        else:
            now = self._context.clock()
            change = rules.after_outcome(self._state, outcome, adapter=self._adapter, now=now)
            self._told(command, outcome.memory)
            result = outcome.result
        self._context.metrics.commands.labels(self._device.name, str(result)).inc()
        log.info(
            "device.told",
            device=self._device.name,
            command=rules.shown(command),
            result=str(result),
        )
        await self._write(change, wake=result not in (Result.ACCEPTED, Result.CONFIRMED))

    def _due_command(self, now: datetime) -> Command | None:
        """Return what to send now, if anything."""
        state = self._state
        wanted = rules.command_of(state.wanted)
        if wanted is None:
            self._state = rules.untaken(replace(state, command_due_at=None), None)
            return None
        interval_s = self._context.config.control.interval_s
        if state.attempts >= self._adapter.tries:
            # Left alone long enough: control may count on it again, and gets one more try.
            self._state = replace(
                state,
                attempts=self._adapter.tries - 1,
                command_due_at=now + timedelta(seconds=2 * interval_s),
            )
            return None
        if isinstance(wanted, Setpoint) and self._decision_is_old(now):
            log.warning("device.decision_missing", device=state.name, since=state.wanted_at)
            wanted = Release()
        reading = rules.reading_of(state)
        if (
            isinstance(wanted, Release)
            and state.told is None
            and reading is not None
            and self._adapter.shows(wanted, reading)
        ):
            at_rest = replace(state, confirmed=state.wanted, confirmed_at=now, command_due_at=None)
            self._state = rules.untaken(at_rest, None)
            return None
        return wanted

    def _decision_is_old(self, now: datetime) -> bool:
        """Whether control has missed three of its periods, so that nobody stands by a setpoint."""
        decided_at = self._state.wanted_at
        interval_s = self._context.config.control.interval_s
        patience = timedelta(seconds=max(3 * interval_s, _LEAST_PATIENCE_S))
        return decided_at is not None and now - decided_at > patience

    def _was_told(self, command: Command) -> bool:
        """Repeating what is open or confirmed is no new command."""
        return self._state.told == rules.stored(command)

    async def _begin(self, command: Command, now: datetime) -> None:
        """Write down what is about to be sent. From here on the device may have received it."""
        begun = rules.begun(self._state, command, adapter=self._adapter, now=now)
        async with self._context.db.transaction() as conn:
            await self._keep(conn, begun, release=False, now=now)
            await devices.begin_command(
                conn,
                name=begun.name,
                wanted=rules.stored(command),
                group_id=begun.group_id,
                envelope_id=begun.envelope_id,
                now=now,
            )
        self._state = begun

    async def _write(self, change: Change, *, wake: bool) -> None:
        """Keep what has changed; `wake`: control is to look at it."""
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            await self._keep(conn, change.state, release=False, now=now)
            if change.settled is not None:
                outcome, detail = change.settled
                await devices.settle_command(
                    conn, name=self._device.name, outcome=outcome, detail=detail, now=now
                )
        self._state = change.state
        if wake:
            await self._wake()

    async def _wake(self) -> None:
        """Have control look at the device's groups now."""
        async with self._context.db.connection() as conn:
            await control.wake(conn, device=self._device.name, now=self._context.clock())
        self._context.bells.control()

    async def _save(self, *, release: bool) -> None:
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            await self._keep(conn, self._state, release=release, now=now)

    async def _keep(
        self, conn: AsyncConnection, state: DeviceState, *, release: bool, now: datetime
    ) -> None:
        if not await devices.save(conn, state, seen=self._seen, release=release, now=now):
            raise LostLease
        if state.health != self._told_health:
            await events.record(
                conn,
                kind=f"device.{state.health}",
                at=now,
                user_id=self._device.user_id,
                group_id=state.group_id,
                data={"device": state.name, "detail": state.detail},
            )
            self._tell_health(state)

    def _tell_health(self, state: DeviceState) -> None:
        """Say it once, when it changes."""
        tell = log.info if state.health == "ok" else log.warning
        tell(
            "device.changed",
            device=state.name,
            health=str(state.health),
            before=str(self._told_health),
            detail=state.detail,
        )
        self._told_health = state.health
