"""A fuel cell in the hands of an operator: the experiment that calibrates it, and taking leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from fpd.adapters.bluegen import Bluegen
from fpd.adapters.bluegen_memory import Calibration, Kept
from fpd.adapters.bluegen_memory import kept as recall
from fpd.adapters.bluegen_telemetry import zone
from fpd.adapters.device import (
    DeviceFault,
    Excluded,
    Memory,
    Outcome,
    Release,
    Result,
    Sample,
    Stopped,
)
from fpd.domain import bluegen_answers
from fpd.domain.control import calibration
from fpd.domain.control.calibration import Experiment, Findings, Seen

log = structlog.get_logger()

_OLDEST_REPORT = timedelta(hours=3)
_NEWEST_REPORT = timedelta(minutes=-10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What an experiment will do; `memory` and `samples` are what was learned on the way."""

    experiment: Experiment
    output_w: float | None
    memory: Memory
    samples: tuple[Sample, ...] = ()


class CalibratingBluegen(Bluegen):
    """One unit, as an operator's commands need it."""

    async def intend(self, memory: Memory, *, wait: timedelta) -> Intent:
        """Say what `calibrate` would do; writes nothing.

        Raises Malformed if the unit's range is too small, Excluded if it cannot be dispatched or
        its timestamps are not in the configured zone.
        """
        reading = await self.read(memory)
        kept = recall(reading.memory)
        self._must_be_ours(kept)
        if not reading.dispatchable:
            raise Excluded(reading.detail or "the unit cannot be dispatched")
        self._must_tell_time(kept)
        limits = self._limits(kept)
        experiment = calibration.design(
            now=self._clock(),
            wait=wait,
            limits=limits,
            unit_tz=str(zone(kept.unit_tz)),
            output_w=limits.max_w if reading.output_w is None else reading.output_w,
        )
        return Intent(
            experiment=experiment,
            output_w=reading.output_w,
            memory=kept.memory(),
            samples=reading.samples,
        )

    async def calibrate(self, experiment: Experiment, memory: Memory) -> Outcome:
        """Write and assign the week of dips that shows how the unit reads profiles."""
        kept = recall(memory)
        await self._must_agree()
        kept.resting = False
        limits = self._limits(kept)
        outcome = await self._follow(calibration.points(experiment, limits), kept)
        if outcome.result is not Result.CONFIRMED:
            return outcome
        kept.calibration = Calibration(
            experiment=experiment, assigned_at=self._clock(), limits=limits
        )
        return self._outcome(Result.CONFIRMED, kept)

    async def conclude(self, memory: Memory) -> tuple[Findings, Outcome]:
        """Say what the experiment told, and give the unit back what it followed before it."""
        kept = recall(memory)
        if kept.calibration is None:
            raise Stopped("no experiment is under way: none was begun, or a limit has ended it")
        begun = kept.calibration
        samples = sorted({*begun.samples, *await self._history(begun, kept)})
        findings = calibration.evaluate(
            begun.experiment, samples, assigned_at=begun.assigned_at, limits=begun.limits
        )
        kept.calibration, kept.findings, kept.found_at = None, findings, self._clock()
        return findings, await self.apply(Release(), kept.memory())

    async def leave(self, memory: Memory) -> tuple[tuple[str, ...], Outcome]:
        """Give the unit back its own profile and delete ours; return the names of those deleted.

        Raises Stopped if there is none to give back: a unit must follow something.
        """
        kept = recall(memory)
        kept.calibration = None
        outcome = await self.apply(Release(), kept.memory())
        kept = recall(outcome.memory)
        if await self._slots.assigned() in kept.slots:
            raise Stopped(
                "the unit has no profile but ours: assign another one on the customer website first"
            )
        deleted = await self._slots.delete()
        kept.slots, kept.original_pid = (), None
        return deleted, self._outcome(Result.CONFIRMED, kept)

    async def _history(self, begun: Calibration, kept: Kept) -> Sequence[Seen]:
        """Ask for what was reported since; its rows are not documented, so nothing depends on it.

        Interpretation: `from` and `to` take timestamps like those that the service writes.
        """
        tz = self._telemetry.stamps(kept)

        def shown(at: datetime) -> str:
            return at.astimezone(tz).strftime("%Y-%m-%d%%20%H:%M:%S")

        begin, end = begun.assigned_at, min(self._clock(), begun.experiment.ends_at)
        path = f"/unit/{self._device.unit_id}/history"
        try:
            rows = await self._account.get(
                f"{path}?from={shown(begin)}&to={shown(end)}&format=json",
                lambda body: bluegen_answers.history(body, tz=tz),
            )
        except DeviceFault as fault:
            log.info("bluegen.no_history", unit=self._device.unit_id, reason=str(fault))
            return []
        return [(row.at, row.power) for row in rows if row.at and row.power is not None]

    def _must_tell_time(self, kept: Kept) -> None:
        """A report from the future or from hours ago is one whose zone was guessed wrong."""
        if kept.current_at is None:
            raise Excluded("the unit has not reported yet")
        age = self._clock() - kept.current_at
        if _NEWEST_REPORT <= age <= _OLDEST_REPORT:
            return
        local = self._clock().astimezone(zone(kept.unit_tz)).utcoffset() or timedelta(0)
        if self._device.timestamps_tz == "utc" and _NEWEST_REPORT <= age + local <= _OLDEST_REPORT:
            raise Excluded(
                f'its timestamps are local ({kept.unit_tz}): set timestamps_tz = "unit" first'
            )
        at = kept.current_at.astimezone(UTC)
        raise Excluded(f"its last report is of {at:%Y-%m-%d %H:%M}Z: too old, or timestamps_tz")
