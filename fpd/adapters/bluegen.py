"""BlueGen fuel cells behind the SOLIDpower web service (seed 000; reference: devices §1).

The unit follows a weekly profile. Two profiles of ours per unit are recycled: the one that is
not assigned is written, then assigned, then read back, so the unit never runs a half-written
week and a crash between any two calls leaves the old one active. Each call of `apply` compares
before it writes, so repeating it after a crash only does what is missing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec
import structlog

from fpd.adapters import bluegen_parse
from fpd.adapters.bluegen_account import Account
from fpd.adapters.bluegen_errors import Kind, Refusal
from fpd.adapters.bluegen_parse import Measured, Points, UnitStatus
from fpd.adapters.bluegen_slots import Slots
from fpd.adapters.device import (
    Command,
    Excluded,
    Memory,
    Outcome,
    Profile,
    Reading,
    Release,
    Result,
    Sample,
    Setpoint,
    Stopped,
    Wiring,
    recalled,
)
from fpd.adapters.http import CLOUD_TIMEOUT_S, DeviceHttp
from fpd.adapters.lenient import mapping
from fpd.config import BluegenDevice
from fpd.domain.control.ticks import UnitLimits

log = structlog.get_logger()

_LIMITS_LAST = timedelta(hours=1)
_EULA_AGAIN_S = 3600.0
_MOST_SKEW_S = 300.0
_IMPLAUSIBLE = 1.2
_SMALLER_STEPS = 0.95
_STRETCH_FROM, _TELEMETRY_UNTIL = 0.8, 0.95


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What outlives a run.

    `slots`: our own profiles. `original_pid`: the last profile of somebody else that the unit
    had, to be given back. `assigned_pid`: ours that was assigned and read back point by point;
    `resting`: only because there was nothing to give back.
    `ramp`: share of the documented steps that the service lets us use. `day`, `requests`: the
    account's count against its quota.
    """

    slots: tuple[int, ...] = ()
    original_pid: int | None = None
    assigned_pid: int | None = None
    resting: bool = False
    ramp: float = 1.0
    limits: UnitLimits | None = None
    limits_at: datetime | None = None
    current_at: datetime | None = None
    accumulated_at: datetime | None = None
    day: str | None = None
    requests: int = 0


class Bluegen:
    """One unit. Dispatchable while it exports power and lets itself be profiled."""

    visit_s = 150.0
    keepalive_s: float | None = None
    verify_after_s: float | None = None
    tries = 2

    def __init__(self, device: BluegenDevice, wiring: Wiring) -> None:
        self._device = device
        self._clock = wiring.clock
        self._account = _account(device, wiring)
        self._slots = Slots(
            self._account,
            unit_id=device.unit_id,
            prefix=f"fpd-{wiring.instance}-{device.unit_id}",
            as_text=device.numbers_as == "string",
        )
        self._listed = False
        self.backoff_s = (min(30.0, device.poll_s), 300.0)

    @property
    def read_every_s(self) -> float:
        """Twice as long once most of the day's quota is used: commands come first."""
        return self._device.poll_s * (2 if self._quota_used() >= _STRETCH_FROM else 1)

    async def read(self, memory: Memory) -> Reading:
        """Read status, limits and measurements; remember a profile that is not ours."""
        kept = self._recalled(memory)
        if self._quota_used() >= _TELEMETRY_UNTIL:
            raise Excluded(
                "the day's quota is kept for commands", retry_s=self._account.until_midnight_s()
            )
        if not self._listed:
            await self._find_unit()
        status = await self._status()
        await self._learn_profile(status.profile_id, kept)
        now = self._clock()
        if kept.limits is None or kept.limits_at is None or now - kept.limits_at > _LIMITS_LAST:
            await self._read_limits(kept)
        output_w, stale, samples = await self._measure(status, kept)
        trouble = self._trouble(status) or stale
        return Reading(
            at=self._clock(),
            output_w=output_w,
            dispatchable=self._trouble(status) is None,
            detail=trouble,
            limits=self._limits(kept),
            profiling=status.profiling,
            profile_id=status.profile_id,
            samples=samples,
            memory=self._remembered(kept),
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Make the unit follow a profile, or give it back what it followed before."""
        kept = self._recalled(memory)
        if not self._account.eula_accepted:
            raise Excluded(
                "the EULA is not accepted: accept it on the customer website",
                retry_s=_EULA_AGAIN_S,
            )
        match command:
            case Profile(points=points):
                kept.resting = False
                return await self._follow(points, kept)
            case Release():
                return await self._give_back(kept)
            case Setpoint():
                raise Stopped("a fuel cell follows profiles, not setpoints")

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether the profile that was read back point by point is still assigned."""
        kept = recalled(reading.memory, _Memory) or _Memory()
        if isinstance(command, Release):
            return reading.profile_id not in kept.slots or kept.resting
        return reading.profile_id is not None and reading.profile_id == kept.assigned_pid

    async def _follow(self, points: Points, kept: _Memory) -> Outcome:
        await self._read_limits(kept)
        if abs(self._account.skew_s) > _MOST_SKEW_S:
            raise Stopped(f"our clock is {self._account.skew_s:.0f} s off the service's: no writes")
        limits = self._limits(kept)
        if not _fits(points, limits):
            return self._outdated(kept, "the unit's limits have changed")
        try:
            return await self._put_in_force(points, kept)
        except Refusal as refusal:
            if refusal.kind is not Kind.CORRECT:
                raise
            return await self._correct(refusal, kept)

    async def _put_in_force(self, points: Points, kept: _Memory) -> Outcome:
        flat_w = points[0][1]
        kept.slots = await self._slots.ensure(flat_w)
        assigned = await self._slots.assigned()
        if assigned is not None and assigned not in kept.slots:
            if assigned != kept.original_pid:
                # To be given back later, so it must be on record before ours replaces it.
                kept.original_pid = assigned
                return self._outdated(kept, "another profile was assigned meanwhile")
        elif assigned is not None and await self._slots.points(assigned) == points:
            kept.assigned_pid = assigned
            return self._outcome(Result.CONFIRMED, kept)
        target = next((slot for slot in kept.slots if slot != assigned), kept.slots[0])
        if await self._slots.points(target) != points:
            await self._slots.write(target, points)
        await self._slots.assign(target)
        seen = await self._slots.assigned() == target and await self._slots.points(target) == points
        kept.assigned_pid = target if seen else None
        return self._outcome(Result.CONFIRMED if seen else Result.ACCEPTED, kept)

    async def _correct(self, refusal: Refusal, kept: _Memory) -> Outcome:
        """Class C: once, with the limits read anew and steps that are 5 % smaller."""
        if kept.ramp < 1.0:
            raise Stopped(f"{refusal}, also with smaller steps")
        await self._read_limits(kept)
        kept.ramp = _SMALLER_STEPS
        return self._outdated(kept, str(refusal))

    async def _give_back(self, kept: _Memory) -> Outcome:
        """Assign what was there before us, or a flat profile if that is unknown or gone."""
        kept.slots = await self._slots.find()
        assigned = await self._slots.assigned()
        if assigned not in kept.slots:
            return self._outcome(Result.CONFIRMED, kept)
        if kept.original_pid is not None:
            try:
                await self._slots.assign(kept.original_pid)
            except Refusal as refusal:
                if refusal.kind not in (Kind.STOP, Kind.BUG):
                    raise
                log.warning("bluegen.original_gone", profile=kept.original_pid, reason=str(refusal))
                kept.original_pid = None
            else:
                kept.assigned_pid = None
                seen = await self._slots.assigned() == kept.original_pid
                return self._outcome(Result.CONFIRMED if seen else Result.ACCEPTED, kept)
        await self._read_limits(kept)
        base_w = self._base_w(self._limits(kept))
        kept.resting = True
        return await self._put_in_force(((0, base_w), (671, base_w)), kept)

    def _base_w(self, limits: UnitLimits) -> int:
        base_w = self._device.base_power_w
        return limits.max_w if base_w is None else min(max(base_w, limits.min_w), limits.max_w)

    async def _status(self) -> UnitStatus:
        try:
            body = await self._account.get(f"/unit/{self._device.unit_id}")
        except Refusal as refusal:
            self._listed = self._listed and refusal.kind is not Kind.STOP
            raise
        status = bluegen_parse.unit_status(body)
        if status.profile_id is not None:
            return status
        return replace(status, profile_id=await self._slots.assigned())

    async def _find_unit(self) -> None:
        units = bluegen_parse.unit_ids(await self._account.get("/units"))
        if self._device.unit_id not in units:
            raise Stopped(
                f"unit {self._device.unit_id} is not among the account's units {sorted(units)}",
                retry_s=3600.0,
            )
        self._listed = True

    async def _learn_profile(self, profile_id: int | None, kept: _Memory) -> None:
        """Remember a foreign profile; ours are known by name, also after the memory was lost."""
        if profile_id is None or profile_id in (*kept.slots, kept.original_pid):
            return
        kept.slots = await self._slots.find()
        if profile_id not in kept.slots:
            kept.original_pid = profile_id

    async def _read_limits(self, kept: _Memory) -> None:
        body = await self._account.get(f"/unit/{self._device.unit_id}/limits")
        found = bluegen_parse.limits(body, slew_minutes=self._device.slew_minutes)
        if kept.limits is not None and _steps(found) != _steps(kept.limits):
            kept.ramp = 1.0
        kept.limits, kept.limits_at = found, self._clock()

    async def _measure(
        self, status: UnitStatus, kept: _Memory
    ) -> tuple[float | None, str | None, tuple[Sample, ...]]:
        """Return the output (W), why it is not known, and what is new since the last reading."""
        unit = f"/unit/{self._device.unit_id}"
        current = bluegen_parse.measured(await self._account.get(f"{unit}/current"), "current")
        total = bluegen_parse.measured(await self._account.get(f"{unit}/accumulated"), "acc")
        now = self._clock()
        if current.power is not None and current.power > self._most_w(kept):
            current = replace(current, power=None)
        samples = _new_samples(current, total, status, kept, now)
        if not status.exporting and not status.undefined:
            return 0.0, None, samples
        stale_after = timedelta(seconds=self._device.stale_after_s)
        if current.at is None or now - current.at > stale_after:
            return None, f"its data are old ({current.at or 'without time'})", samples
        return current.power, None, samples

    def _most_w(self, kept: _Memory) -> float:
        """More than this is a fault of the data."""
        return math.inf if kept.limits is None else _IMPLAUSIBLE * kept.limits.max_w

    def _trouble(self, status: UnitStatus) -> str | None:
        if not self._account.eula_accepted:
            return "the EULA is not accepted"
        if not status.profiling:
            return "profiling is disabled by SOLIDpower (pp = 0)"
        return None if status.exporting else f"the unit is in {status.state!r}"

    def _limits(self, kept: _Memory) -> UnitLimits:
        assert kept.limits is not None
        return replace(
            kept.limits,
            step_up_w=math.floor(kept.limits.step_up_w * kept.ramp),
            step_dn_w=math.floor(kept.limits.step_dn_w * kept.ramp),
        )

    def _quota_used(self) -> float:
        quota = self._device.quota_per_day
        return 0.0 if quota is None else self._account.requests / quota

    def _recalled(self, memory: Memory) -> _Memory:
        kept = recalled(memory, _Memory) or _Memory()
        self._account.recall(day=kept.day, requests=kept.requests)
        return kept

    def _remembered(self, kept: _Memory) -> Memory:
        kept.day, kept.requests = self._account.day, self._account.requests
        return mapping(msgspec.to_builtins(kept))

    def _outcome(self, result: Result, kept: _Memory) -> Outcome:
        return Outcome(result=result, memory=self._remembered(kept))

    def _outdated(self, kept: _Memory, why: str) -> Outcome:
        return Outcome(
            result=Result.OUTDATED,
            memory=self._remembered(kept),
            detail=why,
            limits=self._limits(kept),
        )


def _account(device: BluegenDevice, wiring: Wiring) -> Account:
    """Return the login that this unit shares with the customer's other units."""
    key = (device.base_url, device.username)
    if key not in wiring.accounts:
        http = DeviceHttp(
            wiring.session, device.base_url, timeout_s=CLOUD_TIMEOUT_S, ca_file=device.ca_file
        )
        wiring.accounts[key] = Account(device, http, wiring.clock)
    account: Account = wiring.accounts[key]
    return account


def _steps(limits: UnitLimits) -> tuple[int, int]:
    return limits.step_up_w, limits.step_dn_w


def _fits(points: Points, limits: UnitLimits) -> bool:
    """Tell whether a profile keeps the limits; between two points it is held or a straight line."""
    around = (*points, (points[0][0] + 672, points[0][1]))
    return all(limits.min_w <= power_w <= limits.max_w for _, power_w in points) and all(
        -limits.step_dn_w * (later - tick) <= after_w - power_w <= limits.step_up_w * (later - tick)
        for (tick, power_w), (later, after_w) in pairwise(around)
    )


def _new_samples(
    current: Measured, total: Measured, status: UnitStatus, kept: _Memory, now: datetime
) -> tuple[Sample, ...]:
    """Return what the service did not say before; it repeats itself for about an hour."""
    samples = []
    if current.at is not None and current.at != kept.current_at and current.power is not None:
        samples.append(
            Sample(
                at=min(current.at, now),
                instantaneous=_known({"watts": current.power, "gas": current.gas}),
                status={"state": status.state},
            )
        )
        kept.current_at = current.at
    if total.at is not None and total.at != kept.accumulated_at and total.power is not None:
        samples.append(
            Sample(
                at=min(total.at, now),
                accumulating=_known({"wattHours": total.power * 1000, "gasTotal": total.gas}),
            )
        )
        kept.accumulated_at = total.at
    return tuple(samples)


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}
