"""What a fuel cell's adapter must remember over restarts."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from fpd.adapters.device import Memory, recalled
from fpd.domain.control.calibration import Experiment, Findings
from fpd.domain.control.ticks import UnitLimits
from fpd.domain.lenient import mapping
from fpd.domain.rhythm import Rhythm

Points = tuple[tuple[int, int], ...]

_FOREIGN_FOR = timedelta(days=1)
_MOST_SAMPLES = 500


class Calibration(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An experiment that was begun: what was seen of it since."""

    experiment: Experiment
    assigned_at: datetime
    limits: UnitLimits
    samples: tuple[tuple[datetime, float], ...] = ()

    def saw(self, at: datetime, watts: float) -> None:
        if len(self.samples) < _MOST_SAMPLES and (not self.samples or at > self.samples[-1][0]):
            self.samples = (*self.samples, (at, watts))

    def runs(self, now: datetime) -> bool:
        return now < self.experiment.ends_at


class Kept(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What outlives a run.

    `slots`: our own profiles. `original_pid`: the last profile of somebody else that the unit
    had, to be given back. `assigned_pid`: ours that was assigned and read back point by point;
    `resting`: only because there was nothing to give back.
    `unseen_since`: since when what it was told cannot be read back.
    `told`, `told_at`, `before`: its points, since when, and those that the unit had until then
    (of a profile that is not ours, what it made of them: `output_w` at last).
    `follows`, `differed`: whether the output shows them, and how often in a row it did not.
    `folded_from`: the day that was configured when the output did not follow.
    `foreign`: when others assigned a profile while ours was in force.
    `idle_since`: since when it exports nothing. `facts_at`: when its version and place were read.
    `findings`, `found_at`: what the last experiment told.
    `ramp`: share of the documented steps that the service lets us use; `corrected`: it was made
    smaller for what is to be sent.
    """

    slots: tuple[int, ...] = ()
    original_pid: int | None = None
    assigned_pid: int | None = None
    resting: bool = False
    unseen_since: datetime | None = None
    told: Points | None = None
    told_at: datetime | None = None
    before: Points | None = None
    follows: bool | None = None
    differed: int = 0
    folded_from: str | None = None
    foreign: tuple[datetime, ...] = ()
    swept_at: datetime | None = None
    ramp: float = 1.0
    corrected: bool = False
    limits: UnitLimits | None = None
    limits_at: datetime | None = None
    current_at: datetime | None = None
    accumulated_at: datetime | None = None
    state: str | None = None
    idle_since: datetime | None = None
    facts_at: datetime | None = None
    output_w: float | None = None
    unit_tz: str | None = None
    rhythm: Rhythm = Rhythm()
    calibration: Calibration | None = None
    findings: Findings | None = None
    found_at: datetime | None = None

    def assigned(self, profile_id: int, points: Points, now: datetime) -> None:
        """Ours is assigned and was read back; what follows must show in the output."""
        self.corrected = False
        if self.assigned_pid == profile_id and self.told == points:
            return
        self.before = self.told
        if self.told is None and self.output_w is not None:
            self.before = ((0, round(self.output_w)),)
        self.told, self.told_at = points, now
        self.assigned_pid, self.swept_at = profile_id, now
        self.follows, self.differed = None, 0

    def let_go(self) -> None:
        """Ours is no longer assigned."""
        self.assigned_pid = self.told = self.told_at = self.before = self.follows = None
        self.differed = 0

    def taken_by_others(self, now: datetime) -> int:
        """Return how often others have lately assigned a profile in place of ours."""
        self.foreign = tuple(at for at in self.foreign if now - at < _FOREIGN_FOR)
        return len(self.foreign)

    def memory(self) -> Memory:
        return mapping(msgspec.to_builtins(self))


def kept(memory: Memory) -> Kept:
    return recalled(memory, Kept) or Kept()
