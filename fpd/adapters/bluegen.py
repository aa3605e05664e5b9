"""BlueGen fuel cells behind the SOLIDpower web service (seed 000; reference: devices §1).

The unit follows a weekly profile. Two profiles of ours per unit are recycled: the one that is
not assigned is written, then assigned, then read back, so the unit never runs a half-written
week and a crash between any two calls leaves the old one active. Each call of `apply` compares
before it writes, so repeating it after a crash only does what is missing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import structlog

from fpd.adapters.bluegen_account import CLOCK_AGAIN_S, MOST_SKEW_S, account_of
from fpd.adapters.bluegen_errors import Kind, Refusal
from fpd.adapters.bluegen_memory import Kept
from fpd.adapters.bluegen_memory import kept as recall
from fpd.adapters.bluegen_slots import Slots
from fpd.adapters.bluegen_telemetry import Telemetry
from fpd.adapters.device import (
    Command,
    Excluded,
    Memory,
    Outcome,
    Profile,
    Rationed,
    Reading,
    Release,
    Result,
    Setpoint,
    Stopped,
    Wiring,
)
from fpd.config import BluegenDevice
from fpd.domain import bluegen_answers
from fpd.domain.bluegen_answers import Points, UnitStatus
from fpd.domain.control.ticks import UnitLimits

log = structlog.get_logger()

_LIMITS_LAST = timedelta(hours=1)
_SWEPT_EVERY = timedelta(days=1)
_EULA_AGAIN_S = 3600.0
_ALARM_SKEW_S = 30.0
_SMALLER_STEPS = 0.95
_FOREIGN_ALLOWED = 1
_IDLE_FOR = timedelta(days=1)
_FIRST_RETRY_S, _LONGEST_RETRY_S = 30.0, 300.0


class Bluegen:
    """One unit. Dispatchable while it exports power and lets itself be profiled."""

    visit_s = 150.0
    keepalive_s: float | None = None
    verify_after_s: float | None = None
    tries = 3  # the second time that others take the unit is for `apply` to refuse

    def __init__(self, device: BluegenDevice, wiring: Wiring) -> None:
        self._device = device
        self._clock = wiring.clock
        self._account = account_of(device, wiring)
        self._account.quota.units.add(device.unit_id)
        self._slots = Slots(
            self._account,
            unit_id=device.unit_id,
            prefix=f"fpd-{wiring.instance}-{device.unit_id}",
            as_text=device.numbers_as == "string",
        )
        self._telemetry = Telemetry(self._account, device)
        self._listed = self._swept = False
        self._lead = timedelta(seconds=device.delivery_lead_s)
        self._read_every_s = device.poll_s
        # Five tries in the first quarter of an hour (reference: devices §1.9, class B).
        self.backoff_s = (min(_FIRST_RETRY_S, device.poll_s), _LONGEST_RETRY_S)

    @property
    def read_every_s(self) -> float:
        """Until the unit's next report is expected; longer while the quota is short."""
        return self._read_every_s

    async def read(self, memory: Memory) -> Reading:
        """Read status, limits and measurements; remember a profile that is not ours."""
        kept = recall(memory)
        await self._account.recall()
        if self._account.stopped is None and not await self._account.spares_telemetry():
            raise Rationed(
                "the day's quota is kept for commands",
                retry_s=self._account.quota.until_renewed_s(),
            )
        if not self._listed:
            await self._find_unit()
        status = await self._status()
        kept.unit_tz = status.tz or kept.unit_tz
        self._notice_idle(status, kept)
        await self._notice_profile(status.profile_id, kept)
        await self._sweep(status.profile_id, kept)
        now = self._clock()
        if kept.limits is None or kept.limits_at is None or now - kept.limits_at > _LIMITS_LAST:
            await self._read_limits(kept)
        now = self._clock()
        report = await self._telemetry.report(status, kept, now)
        self._read_every_s = self._telemetry.next_read_s(kept, now)
        return Reading(
            at=self._clock(),
            output_w=report.output_w,
            dispatchable=self._trouble(status) is None,
            detail=self._trouble(status) or report.trouble,
            alarm=self._alarm(status, kept),
            limits=self._limits(kept),
            profiling=status.profiling,
            profile_id=status.profile_id,
            follows=kept.follows,
            folded=self._telemetry.folded(kept),
            discarded=report.discarded,
            samples=report.samples,
            memory=kept.memory(),
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Make the unit follow a profile, or give it back what it followed before."""
        kept = recall(memory)
        await self._must_agree()
        match command:
            case Profile(points=points):
                self._must_be_ours(kept)
                if kept.calibration is not None and kept.calibration.runs(self._clock()):
                    log.warning("bluegen.calibration_ended", unit=self._device.unit_id)
                    kept.calibration = None  # a limit comes first
                kept.resting = False
                return await self._follow(points, kept)
            case Release():
                self._must_not_calibrate(kept)
                return await self._give_back(kept)
            case Setpoint():
                raise Stopped("a fuel cell follows profiles, not setpoints")

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether the profile that was read back point by point is still assigned."""
        kept = recall(reading.memory)
        if isinstance(command, Release):
            calibrating = kept.calibration is not None and kept.calibration.runs(self._clock())
            return calibrating or reading.profile_id not in kept.slots or kept.resting
        points = command.points if isinstance(command, Profile) else None
        assigned = reading.profile_id is not None and reading.profile_id == kept.assigned_pid
        return assigned and kept.told == points

    async def _must_agree(self) -> None:
        if not await self._account.has_agreed():
            raise Excluded(
                "the EULA is not accepted: accept it on the customer website",
                retry_s=_EULA_AGAIN_S,
            )

    def _must_be_ours(self, kept: Kept) -> None:
        """Somebody who has twice put another profile in place of ours means it: do not fight."""
        now = self._clock()
        if kept.taken_by_others(now) > _FOREIGN_ALLOWED:
            again_s = (kept.foreign[0] + timedelta(days=1) - now).total_seconds()
            raise Stopped(
                f"others have assigned a profile {len(kept.foreign)} times in a day: left to them",
                retry_s=max(again_s, 60.0),
            )

    def _must_not_calibrate(self, kept: Kept) -> None:
        now = self._clock()
        if kept.calibration is not None and kept.calibration.runs(now):
            ends_at = kept.calibration.experiment.ends_at
            raise Excluded(
                f"it is being calibrated until {ends_at:%H:%M}Z",
                retry_s=(ends_at - now).total_seconds(),
            )

    async def _follow(self, points: Points, kept: Kept) -> Outcome:
        await self._read_limits(kept)
        if abs(self._account.skew_s) > MOST_SKEW_S:
            again_s = min(CLOCK_AGAIN_S, self._device.poll_s)
            raise Stopped(f"{self._account.skew}: no writes", retry_s=again_s)
        limits = self._limits(kept)
        if not _fits(points, limits):
            return self._outdated(kept, "the unit's limits have changed")
        try:
            return await self._put_in_force(points, kept)
        except Refusal as refusal:
            if refusal.kind is not Kind.CORRECT:
                raise
            return await self._correct(refusal, kept)

    async def _put_in_force(self, points: Points, kept: Kept) -> Outcome:
        flat_w = points[0][1]
        kept.slots = await self._slots.ensure(flat_w)
        assigned = await self._slots.assigned()
        if assigned is not None and assigned not in kept.slots:
            if assigned != kept.original_pid:
                # To be given back later, so it must be on record before ours replaces it.
                kept.original_pid = assigned
                if kept.assigned_pid is not None:
                    self._taken(assigned, kept)
                return self._outdated(kept, "another profile was assigned meanwhile")
        elif assigned is not None and await self._slots.points(assigned) == points:
            kept.assigned(assigned, points, self._clock())
            return self._seen(True, kept)
        target = next((slot for slot in kept.slots if slot != assigned), kept.slots[0])
        if await self._slots.points(target) != points:
            await self._slots.write(target, points)
        await self._slots.assign(target)
        seen = await self._slots.assigned() == target and await self._slots.points(target) == points
        if seen:
            kept.assigned(target, points, self._clock())
        else:
            kept.let_go()
        return self._seen(seen, kept)

    async def _correct(self, refusal: Refusal, kept: Kept) -> Outcome:
        """Class C: once, with the limits read anew and steps that are 5 % smaller."""
        if kept.corrected:
            raise Stopped(f"{refusal}, also with smaller steps")
        await self._read_limits(kept)
        kept.corrected = True
        kept.ramp *= _SMALLER_STEPS
        return self._outdated(kept, str(refusal))

    async def _give_back(self, kept: Kept) -> Outcome:
        """Assign what was there before us, or a flat profile if that is unknown or gone."""
        kept.slots = await self._slots.find()
        assigned = await self._slots.assigned()
        if assigned not in kept.slots:
            return self._seen(True, kept)
        if kept.original_pid is not None and self._device.restore == "original":
            try:
                await self._slots.assign(kept.original_pid)
            except Refusal as refusal:
                there = kept.original_pid in (await self._slots.all()).values()
                if there or refusal.kind not in (Kind.STOP, Kind.BUG):
                    raise
                # It may be there again the next time, so it is not forgotten.
                log.warning("bluegen.original_gone", profile=kept.original_pid, reason=str(refusal))
            else:
                kept.let_go()
                return self._seen(await self._slots.assigned() == kept.original_pid, kept)
        await self._read_limits(kept)
        base_w = self._base_w(self._limits(kept))
        kept.resting = True
        return await self._put_in_force(((0, base_w), (671, base_w)), kept)

    def _base_w(self, limits: UnitLimits) -> int:
        base_w = self._device.base_power_w
        return limits.max_w if base_w is None else min(max(base_w, limits.min_w), limits.max_w)

    async def _status(self) -> UnitStatus:
        try:
            status = await self._account.get(
                f"/unit/{self._device.unit_id}", bluegen_answers.unit_status
            )
        except Refusal as refusal:
            self._listed = self._listed and refusal.kind is not Kind.STOP
            raise
        if status.profile_id is not None:
            return status
        return replace(status, profile_id=await self._slots.assigned())

    async def _find_unit(self) -> None:
        units = await self._account.get("/units", bluegen_answers.units)
        if self._device.unit_id not in units:
            raise Stopped(
                f"unit {self._device.unit_id} is not among the account's units {sorted(units)}",
                retry_s=3600.0,
            )
        self._listed = True

    async def _notice_profile(self, profile_id: int | None, kept: Kept) -> None:
        """Remember a foreign profile, and when one took the place of ours; ours are known by name,
        also after the memory was lost.
        """
        if profile_id is not None and profile_id not in (*kept.slots, kept.original_pid):
            kept.slots = await self._slots.find()
            if profile_id not in kept.slots:
                kept.original_pid = profile_id
        if kept.assigned_pid is None or profile_id == kept.assigned_pid:
            return
        if profile_id not in kept.slots:
            self._taken(profile_id, kept)
        kept.let_go()

    def _taken(self, profile_id: int | None, kept: Kept) -> None:
        """Somebody has assigned another profile, or none, in place of ours."""
        kept.foreign = (*kept.foreign, self._clock())[-10:]
        kept.let_go()
        log.warning("bluegen.profile_taken", unit=self._device.unit_id, profile=profile_id)

    async def _sweep(self, profile_id: int | None, kept: Kept) -> None:
        """At the start and once a day compare what is assigned, point by point, with what we wrote:
        a profile repeats each week, and others may edit it.
        """
        now = self._clock()
        swept = kept.swept_at is not None and now - kept.swept_at < _SWEPT_EVERY
        if profile_id is None or profile_id != kept.assigned_pid or (swept and self._swept):
            return
        if await self._slots.points(profile_id) != kept.told:
            log.warning("bluegen.points_differ", unit=self._device.unit_id, profile=profile_id)
            kept.let_go()
        kept.swept_at, self._swept = now, True

    async def _read_limits(self, kept: Kept) -> None:
        found = await self._account.get(
            f"/unit/{self._device.unit_id}/limits",
            lambda body: bluegen_answers.limits(body, slew_minutes=self._device.slew_minutes),
        )
        if kept.limits is not None and _steps(found) != _steps(kept.limits):
            kept.ramp = 1.0
        kept.limits, kept.limits_at = found, self._clock()

    def _trouble(self, status: UnitStatus) -> str | None:
        if not self._account.eula_accepted:
            return "the EULA is not accepted"
        if not status.profiling:
            return "profiling is disabled by SOLIDpower (pp = 0)"
        return None if status.exporting else f"the unit is in {status.state!r}"

    def _limits(self, kept: Kept) -> UnitLimits:
        assert kept.limits is not None
        return replace(
            kept.limits,
            step_up_w=math.floor(kept.limits.step_up_w * kept.ramp),
            step_dn_w=math.floor(kept.limits.step_dn_w * kept.ramp),
        )

    def _notice_idle(self, status: UnitStatus, kept: Kept) -> None:
        if status.exporting:
            kept.idle_since = None
        elif kept.idle_since is None:
            kept.idle_since = self._clock()

    def _alarm(self, status: UnitStatus, kept: Kept) -> str | None:
        """Say what an operator should look at."""
        found = []
        if kept.idle_since is not None and self._clock() - kept.idle_since > _IDLE_FOR:
            # Heating up takes long, but not so long.
            since = f"{kept.idle_since:%Y-%m-%d %H:%M}Z"
            found.append(f"it has exported nothing since {since}: the unit is in {status.state!r}")
        if kept.taken_by_others(self._clock()):
            found.append(f"another profile was assigned by others at {kept.foreign[-1]:%H:%M}Z")
        if kept.follows is False and kept.told_at is not None:
            found.append(f"its output does not show the profile assigned at {kept.told_at:%H:%M}Z")
        if kept.unseen_since is not None and self._clock() - kept.unseen_since > 2 * self._lead:
            found.append(f"what it was told at {kept.unseen_since:%H:%M}Z was never assigned to it")
        if self._telemetry.folded(kept):
            found.append(f"its week does not seem to begin on {kept.folded_from}: days are folded")
        if abs(self._account.skew_s) > _ALARM_SKEW_S:
            found.append(self._account.skew)
        return "; ".join(found) or None

    def _seen(self, seen: bool, kept: Kept) -> Outcome:
        """Say whether what was assigned was read back; remember since when it is not."""
        kept.unseen_since = None if seen else kept.unseen_since or self._clock()
        return self._outcome(Result.CONFIRMED if seen else Result.ACCEPTED, kept)

    def _outcome(self, result: Result, kept: Kept) -> Outcome:
        return Outcome(result=result, memory=kept.memory())

    def _outdated(self, kept: Kept, why: str) -> Outcome:
        return Outcome(
            result=Result.OUTDATED,
            memory=kept.memory(),
            detail=why,
            limits=self._limits(kept),
        )


def _steps(limits: UnitLimits) -> tuple[int, int]:
    return limits.step_up_w, limits.step_dn_w


def _fits(points: Points, limits: UnitLimits) -> bool:
    """Tell whether a profile keeps the limits; between two points it is held or a straight line."""
    around = (*points, (points[0][0] + 672, points[0][1]))
    return all(limits.min_w <= power_w <= limits.max_w for _, power_w in points) and all(
        -limits.step_dn_w * (later - tick) <= after_w - power_w <= limits.step_up_w * (later - tick)
        for (tick, power_w), (later, after_w) in pairwise(around)
    )
