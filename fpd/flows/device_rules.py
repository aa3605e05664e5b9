"""What a reading, an answer or a fault changes in what we know of a device. No I/O, no clock.

A command is open from the moment it may have been sent until a reading shows it (or the adapter
itself has read it back), it is superseded, or the device has been seen not to follow.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import msgspec

from fpd.adapters.device import (
    Adapter,
    Command,
    DeviceFault,
    Excluded,
    Health,
    Outcome,
    Profile,
    Reading,
    Release,
    Result,
    Setpoint,
    Stopped,
    recalled,
)
from fpd.store.devices import DeviceState

_ALONE = timedelta(minutes=15)
_OUTDATED_AGAIN = timedelta(seconds=30)
_FIRST_CHECK, _LONGEST_CHECK = timedelta(seconds=30), timedelta(hours=1)
_RECENT = 6
_CORRECTION_W, _CORRECTION_SHARE = 100, 0.1


@dataclass(frozen=True, slots=True)
class Change:
    """The device from now on, and what came of its open command: (outcome, detail), None: open."""

    state: DeviceState
    settled: tuple[str, str | None] | None = None


class _Stored(msgspec.Struct):
    command: Command


def command_of(stored: Mapping[str, Any] | None) -> Command | None:
    """Read a stored command."""
    form = None if stored is None else recalled({"command": stored}, _Stored)
    return None if form is None else form.command


def stored(command: Command) -> dict[str, Any]:
    """Write a command as it is stored, and as it compares with what is stored."""
    written: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(command))
    return written


def reading_of(state: DeviceState) -> Reading | None:
    """Return the last reading, however old; its memory is the device's."""
    reading = None if state.reading is None else recalled(state.reading, Reading)
    return None if reading is None else replace(reading, memory=state.memory or {})


def _kept(reading: Reading) -> dict[str, Any]:
    """Write a reading as it is stored: memory has a place of its own, samples become datum."""
    written: dict[str, Any] = msgspec.to_builtins(reading)
    return {k: v for k, v in written.items() if k not in ("memory", "samples") and v is not None}


def after_reading(
    state: DeviceState, reading: Reading, *, adapter: Adapter, now: datetime
) -> Change:
    """A reading arrived: it may confirm the open command, or show that it is not followed."""
    before = reading_of(state)
    recent: tuple[tuple[datetime, float], ...] = ()
    if before is not None and before.output_w is not None:
        recent = (*before.recent, (before.at, before.output_w))[-_RECENT:]
    undone = () if before is None else before.undone
    reading = replace(
        reading,
        recent=recent,
        undone=tuple(at for at in undone if abs(now - at) < _ALONE),
        untaken=None if before is None else before.untaken,
    )
    state = replace(
        state,
        reading=_kept(reading),
        reading_at=reading.at,
        memory=reading.memory,
        failures=0,
        due_at=now + timedelta(seconds=adapter.read_every_s),
    )
    change = _compared(state, reading, adapter=adapter, now=now)
    if change.state.attempts >= adapter.tries:
        if change.state.health not in (Health.UNAVAILABLE, Health.RATIONED):
            return change  # left alone: health says why
        back = "it did not follow and is left alone for a while"
        return replace(change, state=replace(change.state, health=Health.DEGRADED, detail=back))
    well = reading.dispatchable and reading.alarm is None
    detail = reading.alarm or reading.detail or reading.notice
    health = Health.OK if well else Health.DEGRADED
    if reading.untaken is not None:
        health, detail = Health.UNAVAILABLE, reading.untaken
    return replace(change, state=replace(change.state, health=health, detail=detail))


def _compared(state: DeviceState, reading: Reading, *, adapter: Adapter, now: datetime) -> Change:
    told, told_at = command_of(state.told), state.told_at
    if told is None or told_at is None:
        return Change(state)
    confirmed = state.confirmed == state.told
    if adapter.shows(told, reading):
        return _followed(state, adapter=adapter, now=now)
    unsaid = reading.output_w is None and adapter.verify_after_s is not None
    if unsaid or reading.untaken is not None:
        return Change(state)  # nobody knows what it does, or it did not get what it does not do
    if confirmed:
        return _undone(state, reading, adapter=adapter, now=now)
    if adapter.verify_after_s is None:
        return Change(state)
    patience = timedelta(seconds=adapter.verify_after_s) * (state.attempts + 1)
    if now - told_at < patience:
        return Change(state)
    return _missed(
        replace(state, command_due_at=now),
        f"told {shown(told)}, but it delivers {reading.output_w or 0:.0f} W",
        adapter=adapter,
        now=now,
    )


def _followed(state: DeviceState, *, adapter: Adapter, now: datetime) -> Change:
    if adapter.verify_after_s is not None:
        state = replace(state, attempts=0)
    if state.confirmed == state.told:
        return Change(state)
    seen = _confirmed(state, adapter=adapter, now=now)
    if state.told != state.wanted and state.command_due_at is not None:
        # Another command waits already: to see the old one followed does not put it off.
        seen = replace(seen, state=replace(seen.state, command_due_at=state.command_due_at))
    return seen


def _undone(state: DeviceState, reading: Reading, *, adapter: Adapter, now: datetime) -> Change:
    """Somebody or something else has changed what it did.

    One that follows for a moment each time it is told has not begun to follow for good.
    """
    reading = replace(reading, undone=(*reading.undone, now))
    attempts = state.attempts
    if adapter.verify_after_s is not None:
        attempts = max(attempts, len(reading.undone) - 1)
    lost = replace(
        state,
        reading=_kept(reading),
        told=None,
        confirmed=None,
        command_due_at=now,
        attempts=attempts,
    )
    return _missed(lost, "it no longer does what it did", adapter=adapter, now=now)


def _confirmed(state: DeviceState, *, adapter: Adapter, now: datetime) -> Change:
    state = replace(
        state,
        confirmed=state.told,
        confirmed_at=now,
        command_due_at=_again(state, adapter=adapter, now=now),
    )
    return Change(state, ("confirmed", None))


def _again(state: DeviceState, *, adapter: Adapter, now: datetime) -> datetime | None:
    """Return when a confirmed command is repeated: a setpoint is kept alive, others stay."""
    repeated = isinstance(command_of(state.told), Setpoint) or state.told != state.wanted
    if adapter.keepalive_s is None or not repeated:
        return None
    return now + timedelta(seconds=adapter.keepalive_s)


def _missed(state: DeviceState, why: str, *, adapter: Adapter, now: datetime) -> Change:
    """The device did not follow: again, or if that was often enough leave it alone for a while."""
    state = replace(state, attempts=state.attempts + 1)
    if state.attempts < adapter.tries:
        return Change(state)
    left = replace(
        state,
        told=None,
        confirmed=None,
        command_due_at=now + _ALONE,
        health=Health.DEGRADED,
        detail=f"controlled by others? {why}",
    )
    return Change(left, ("unfollowed", why))


def after_unread(
    state: DeviceState, fault: DeviceFault, *, adapter: Adapter, now: datetime
) -> DeviceState:
    """A reading failed. A device out of reach is read before it is told anything again."""
    failures = state.failures + 1
    due_at = now + _wait(fault, failures, adapter)
    command_due_at = state.command_due_at
    if command_due_at is not None and not isinstance(fault, Excluded):
        command_due_at = max(command_due_at, due_at)
    return replace(
        state,
        failures=failures,
        health=fault.health,
        detail=str(fault),
        due_at=due_at,
        command_due_at=command_due_at,
    )


def begun(state: DeviceState, command: Command, *, adapter: Adapter, now: datetime) -> DeviceState:
    """A new command is about to be sent. A device that keeps one for long starts with it anew.

    One that has not shown its setpoint yet gets no more time for a small correction of it.
    """
    forgiven = adapter.verify_after_s is None and state.told is not None
    waiting = state.told_at is not None and state.confirmed != state.told
    corrected = waiting and _alike(command_of(state.told), command)
    return replace(
        state,
        told=stored(command),
        told_at=state.told_at if corrected else now,
        attempts=0 if forgiven else state.attempts,
    )


def _alike(before: Command | None, after: Command) -> bool:
    if not isinstance(before, Setpoint) or not isinstance(after, Setpoint):
        return False
    allowed_w = max(_CORRECTION_W, _CORRECTION_SHARE * abs(before.power_w))
    return abs(after.power_w - before.power_w) <= allowed_w


def after_outcome(
    state: DeviceState, outcome: Outcome, *, adapter: Adapter, now: datetime
) -> Change:
    """The device was told and answered."""
    state = replace(untaken(state, None), memory=outcome.memory, failures=0)
    match outcome.result:
        case Result.CONFIRMED:
            return _confirmed(state, adapter=adapter, now=now)
        case Result.ACCEPTED:
            return Change(replace(state, command_due_at=_look_again(state, adapter, now)))
        case Result.OUTDATED:
            reading = reading_of(state)
            if reading is not None and outcome.limits is not None:
                state = replace(state, reading=_kept(replace(reading, limits=outcome.limits)))
            state = replace(state, told=None, command_due_at=now + _OUTDATED_AGAIN)
            return Change(state, ("outdated", outcome.detail))


def _look_again(state: DeviceState, adapter: Adapter, now: datetime) -> datetime:
    """Return when to repeat what was accepted but not seen yet: later and later."""
    if adapter.keepalive_s is not None:
        return now + timedelta(seconds=adapter.keepalive_s)
    waited = timedelta(0) if state.told_at is None else now - state.told_at
    return now + min(max(waited, _FIRST_CHECK), _LONGEST_CHECK)


def after_refusal(
    state: DeviceState, fault: DeviceFault, *, adapter: Adapter, now: datetime
) -> Change:
    """A command failed. Whoever refuses for good is left alone; whoever is away is tried again."""
    for_good = isinstance(fault, Excluded) or fault.health is Health.STOPPED
    failures = state.failures if for_good else state.failures + 1
    state = replace(
        untaken(state, None if for_good else str(fault)),
        told=None if for_good else state.told,
        confirmed=None if for_good else state.confirmed,
        attempts=adapter.tries if for_good else state.attempts,
        failures=failures,
        health=fault.health,
        detail=str(fault),
        command_due_at=now + _wait(fault, failures, adapter),
    )
    return Change(state, ("refused", str(fault)) if for_good else None)


def untaken(state: DeviceState, why: str | None) -> DeviceState:
    """Note whether the last command was taken: readings go on meanwhile, and know nothing of it."""
    reading = reading_of(state)
    if reading is None or reading.untaken == why:
        return state
    return replace(state, reading=_kept(replace(reading, untaken=why)))


def _wait(fault: DeviceFault, failures: int, adapter: Adapter) -> timedelta:
    """Return the wait after a fault: what it asks for, else doubling, spread by ±20 %."""
    if fault.retry_s is not None:
        return timedelta(seconds=fault.retry_s)
    if isinstance(fault, Stopped) or fault.health is Health.STOPPED:
        return _ALONE
    first_s, longest_s = adapter.backoff_s
    doubled_s = min(first_s * 2.0 ** min(failures - 1, 10), longest_s)
    return timedelta(seconds=doubled_s * random.uniform(0.8, 1.2))


def shown(command: Command) -> str:
    """Write a command for people, in a few words."""
    match command:
        case Setpoint(power_w=power_w):
            return f"{power_w} W"
        case Profile(points=points):
            powers = [power_w for _, power_w in points]
            return f"profile of {len(points)} points, {min(powers)} to {max(powers)} W"
        case Release():
            return "release"
