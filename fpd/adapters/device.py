"""What every device can be asked and told, whatever it speaks.

Two words carry everything: a `Reading` is what a device said about itself, a command is what it
is told. Sign at the device's door: delivered to the site is positive (discharge, generation),
taken from it negative (charge).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import aiohttp
import msgspec
import structlog

from fpd.config import Device
from fpd.config_key import Together
from fpd.domain.control.ability import Ability
from fpd.domain.control.ticks import UnitLimits
from fpd.errors import DeviceError

log = structlog.get_logger()

Memory = Mapping[str, Any]
Clock = Callable[[], datetime]
Publish = Callable[[str, bytes], Awaitable[None]]
T = TypeVar("T")
D = TypeVar("D", bound=Device)

_GOODBYE_S = 3.0


def recalled(stored: Mapping[str, Any], kind: type[T]) -> T | None:
    """Give stored values their form; None if they are of another version or kind of device."""
    try:
        return msgspec.convert(stored, kind)
    except msgspec.ValidationError as error:
        log.warning("device.memory_unusable", kind=kind.__name__, reason=str(error))
        return None


class Health(StrEnum):
    """How a device is, for the operator; `detail` beside it says why."""

    UNKNOWN = "unknown"  # not spoken to yet
    OK = "ok"  # read, and does what it is told
    DEGRADED = "degraded"  # read, but cannot be dispatched now
    UNAVAILABLE = "unavailable"  # does not answer; asked again with backoff
    RATIONED = "rationed"  # its service takes no more requests for now
    STOPPED = "stopped"  # refuses for good: an operator has to look


class Setpoint(msgspec.Struct, frozen=True, kw_only=True, tag="setpoint", tag_field="kind"):
    """Deliver `power_w` to the site: discharge positive, charge negative, W."""

    power_w: int


class Profile(msgspec.Struct, frozen=True, kw_only=True, tag="profile", tag_field="kind"):
    """Follow a weekly profile: (tick 0..671, W) in the order of ticks, as sent to the unit."""

    points: tuple[tuple[int, int], ...]


class Release(msgspec.Struct, frozen=True, kw_only=True, tag="release", tag_field="kind"):
    """Go back to what the device did before we took it."""


Command = Setpoint | Profile | Release


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Readings of one instant, as they go into the device's datum stream (decision D2)."""

    at: datetime
    instantaneous: Mapping[str, float | Decimal] = field(default_factory=dict)
    accumulating: Mapping[str, float | Decimal] = field(default_factory=dict)
    status: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a device said. `recent`: earlier (at, output_w), oldest first.

    `at`: when the values were true as far as is known. `output_w`: delivered to the site, None
    if unknown. `dispatchable`: it would follow a command; if not, `detail` says why. `profiling`
    is False when a fuel cell ignores profiles. `profile_id`: the profile assigned to it.
    `least_w`, `most_w`: what it can be told now, where that is less than it usually can.
    `alarm`: what an operator should look at, though it would follow a command; `notice`: the same,
    of something that does not touch what it does. `follows`: whether
    its output shows what it was told; None: not known (yet), or nothing that would show.
    `folded`: the day on which its week begins is not to be relied on. `discarded`: values that
    cannot be true. `undone`: when, lately, something else had replaced what it was seen to do.
    """

    at: datetime
    output_w: float | None = None
    dispatchable: bool
    detail: str | None = None
    soc: float | None = None
    least_w: int | None = None
    most_w: int | None = None
    limits: UnitLimits | None = None
    profiling: bool = True
    profile_id: int | None = None
    alarm: str | None = None
    notice: str | None = None
    follows: bool | None = None
    folded: bool = False
    discarded: int = 0
    recent: tuple[tuple[datetime, float], ...] = ()
    undone: tuple[datetime, ...] = ()
    untaken: str | None = None
    samples: tuple[Sample, ...] = ()
    memory: Memory = field(default_factory=dict)


class Result(StrEnum):
    """What came of telling a device something."""

    CONFIRMED = "confirmed"  # read back: the device holds it
    ACCEPTED = "accepted"  # taken; a later reading must show it
    OUTDATED = "outdated"  # not sent: what it was computed from has changed (see `limits`)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a command, and what the adapter must remember from now on."""

    result: Result
    memory: Memory
    detail: str | None = None
    limits: UnitLimits | None = None


class Source(Protocol):
    """Something that can be read."""

    @property
    def read_every_s(self) -> float:
        """Seconds between two readings."""
        ...

    async def read(self, memory: Memory) -> Reading:
        """Ask the device how it is. Raises DeviceFault."""
        ...


class Actuator(Protocol):
    """Something that can be told what to do."""

    @property
    def keepalive_s(self) -> float | None:
        """Repeat an unchanged command this often; None: never."""
        ...

    @property
    def verify_after_s(self) -> float | None:
        """A reading taken this long after a command must show it.

        None: the device is slow, and a command is confirmed by what `apply` reads back.
        """
        ...

    @property
    def tries(self) -> int:
        """Leave a device alone for a while that did not follow so often in a row."""
        ...

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Tell the device. Repeating it is harmless. Raises DeviceFault."""
        ...

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether a reading shows that the command is being followed."""
        ...


class Adapter(Source, Actuator, Protocol):
    """One configured device."""

    @property
    def visit_s(self) -> float:
        """The longest that one reading and one command together may take."""
        ...

    @property
    def backoff_s(self) -> tuple[float, float]:
        """The first and the longest wait after it could not be reached."""
        ...


class DeviceFault(DeviceError):
    """A device could not be read or told. `retry_s` None: again with backoff."""

    health = Health.UNAVAILABLE

    def __init__(self, message: str, *, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_s = retry_s


class Unreachable(DeviceFault):
    """No usable answer: network, timeout, a failing server, a page instead of data."""


class Excluded(DeviceFault):
    """The device answers but somebody or something else rules it now."""

    health = Health.DEGRADED


class Rationed(Excluded):
    """What its service takes in a day is used up, or kept for commands."""

    health = Health.RATIONED


class Stopped(DeviceFault):
    """Repeating cannot help until somebody has looked (account, unit, our own mistake)."""

    health = Health.STOPPED


@dataclass(frozen=True, slots=True)
class Tally:
    """What is known of an account: `requests` of `day`, and what was noted."""

    day: str = ""
    requests: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)


class Ledger(Protocol):
    """Keeps accounts over restarts and for all processes; each answer None or False: it is away."""

    async def recall(self, account: str) -> Tally | None: ...

    async def count(self, account: str, *, day: str) -> int | None:
        """Count a request of the day and return how many there were, with this one."""
        ...

    async def note(self, account: str, notes: Mapping[str, Any]) -> bool:
        """Replace the notes."""
        ...


@dataclass(slots=True, kw_only=True)
class Wiring:
    """What an adapter is built with. `accounts`: logins shared by the devices of one customer.
    `tenants`: those that devices and platforms share, because they must take turns.

    `ledger` None: nothing is kept over a restart. `publish` sends (topic, payload) to our broker
    with QoS 1 and raises Unavailable; `folder` is where an adapter may keep what must outlive the
    process; `closers` are called at the end; `steady` tells how much time has passed, s.
    """

    session: aiohttp.ClientSession
    clock: Clock
    instance: str
    interval_s: float
    ledger: Ledger | None = None
    accounts: dict[tuple[str, str], Any] = field(default_factory=dict)
    tenants: dict[tuple[str, str], Any] = field(default_factory=dict)
    publish: Publish | None = None
    folder: Path | None = None
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    steady: Callable[[], float] = time.monotonic

    async def close(self) -> None:
        """Say goodbye where that is asked for, within moments, and close all connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await asyncio.gather(*(closer() for closer in self.closers))
        await self.session.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceType(Generic[D]):
    """A type of devices: its keys, how one is spoken to, what it can do.

    `together`: rules between its keys. `cautions`: what the operator of one should know, because
    the device cannot look after itself; a sentence each, with what to do about it.
    """

    keys: type[D]
    adapter: Callable[[D, Wiring], Adapter]
    ability: Callable[[D], Ability]
    together: tuple[Together, ...] = ()
    cautions: Callable[[D], Sequence[str]] = lambda _: ()
