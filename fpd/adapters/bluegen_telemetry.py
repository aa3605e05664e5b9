"""What a fuel cell reports, as samples, and what its output proves (reference: devices §1.3, §1.7).

The service answers from a database that the unit reports to about once an hour and repeats itself
until then, so a report counts at its own time, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import structlog

from fpd.adapters.bluegen_account import Account
from fpd.adapters.bluegen_memory import Kept
from fpd.adapters.device import DeviceFault, Sample
from fpd.config import BluegenDevice
from fpd.domain import bluegen_answers
from fpd.domain.bluegen_answers import Measured, UnitStatus
from fpd.domain.control.proof import Shown, Told, judge
from fpd.domain.control.ticks import Anchor, Week

log = structlog.get_logger()

_IMPLAUSIBLE = 1.2
_DISBELIEVED_AFTER = 2
_ACCUMULATED_LATER_S = 30.0
_LONGEST_WAIT_S = 3600.0
_FACTS_LAST = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`output_w` None: not known, `trouble` says why. `discarded`: values that cannot be true."""

    output_w: float | None
    trouble: str | None = None
    samples: tuple[Sample, ...] = ()
    discarded: int = 0


class Telemetry:
    """The reports of one unit."""

    def __init__(self, account: Account, device: BluegenDevice) -> None:
        self._account = account
        self._device = device

    async def report(self, status: UnitStatus, kept: Kept, now: datetime) -> Report:
        """Ask for the present power and the counters. What is new is judged and remembered."""
        unit, tz = f"/unit/{self._device.unit_id}", self.stamps(kept)
        current = await self._account.get(
            f"{unit}/current", lambda body: bluegen_answers.measured(body, "current", tz=tz)
        )
        total = await self._account.get(
            f"{unit}/accumulated", lambda body: bluegen_answers.measured(body, "acc", tz=tz)
        )
        spoiled = current.spoiled + total.spoiled
        if current.power is not None and current.power > _most_w(kept):
            current, spoiled = replace(current, power=None), spoiled + 1
        is_new = current.at is not None and current.at != kept.current_at
        if current.at is not None and current.power is not None and is_new:
            kept.rhythm = kept.rhythm.heard(current.at, seen_at=now)
            self._prove(status, kept, current.at, current.power)
            kept.output_w = current.power
        samples = _new_samples(current, total, status, kept, now)
        samples += await self._facts(unit, kept, now)
        if not status.exporting and not status.undefined:
            return Report(output_w=0.0, samples=samples, discarded=spoiled)
        trouble = self._stale(current, kept, now)
        return Report(
            output_w=None if trouble else current.power,
            trouble=trouble,
            samples=samples,
            discarded=spoiled,
        )

    async def _facts(self, unit: str, kept: Kept, now: datetime) -> tuple[Sample, ...]:
        """Ask once a day what seldom changes. Nothing depends on it, so it may as well fail."""
        if kept.facts_at is not None and abs(now - kept.facts_at) < _FACTS_LAST:
            return ()
        kept.facts_at = now
        found: dict[str, str] = {}
        for path, read in (
            ("version", bluegen_answers.unit_version),
            ("location", bluegen_answers.location),
        ):
            try:
                found |= await self._account.get(f"{unit}/{path}", read)
            except DeviceFault as fault:
                log.info("bluegen.fact_unknown", unit=unit, path=path, reason=str(fault))
        return (Sample(at=now, status=found),) if found else ()

    def next_read_s(self, kept: Kept, now: datetime) -> float:
        """Return when to read again: shortly after the next report, if that can be told."""
        stretch = 2 if self._account.quota.stretched else 1
        least_s = self._device.poll_s * stretch
        calibrating = kept.calibration is not None and kept.calibration.runs(now)
        if self._device.polling == "fixed" or calibrating:
            return least_s
        return kept.rhythm.next_in_s(
            now=now,
            least_s=least_s,
            most_s=max(_LONGEST_WAIT_S, least_s),
            later_s=_ACCUMULATED_LATER_S,
        )

    def stamps(self, kept: Kept) -> tzinfo:
        """Return the zone of timestamps; that of the unit is UTC until it is known."""
        if self._device.timestamps_tz == "utc":
            return UTC
        return zone(
            kept.unit_tz if self._device.timestamps_tz == "unit" else self._device.timestamps_tz
        )

    def _stale(self, current: Measured, kept: Kept, now: datetime) -> str | None:
        """Say why a report is not of the present: older than two of the unit's periods."""
        stale_s = max(self._device.stale_after_s, 2 * (kept.rhythm.period_s or 0.0))
        if current.at is None or now - current.at > timedelta(seconds=stale_s):
            return f"its data are old ({current.at or 'without time'})"
        return None

    def _prove(self, status: UnitStatus, kept: Kept, at: datetime, output_w: float) -> None:
        """Note whether the output shows the profile that is ours (confirmation, third step)."""
        if kept.calibration is not None:
            kept.calibration.saw(at, output_w)
        ours = kept.told is not None and status.profile_id == kept.assigned_pid
        if not ours or not status.dispatchable or kept.told_at is None or kept.told is None:
            return
        told = Told(
            points=kept.told,
            since=kept.told_at,
            before=kept.before,
            lead=timedelta(seconds=self._device.delivery_lead_s),
        )
        shown = judge(told, at=at, output_w=output_w, week=self._week())
        if shown is Shown.NOT_YET:
            return
        kept.differed = 0 if shown is Shown.YES else kept.differed + 1
        if shown is Shown.YES:
            kept.follows = True
        elif kept.differed >= _DISBELIEVED_AFTER:
            self._disbelieve(shown, kept, at, output_w)

    def _disbelieve(self, shown: Shown, kept: Kept, at: datetime, output_w: float) -> None:
        """The unit does not follow. One reason is that its week begins on another day: from now on
        days are folded, which is right for any.
        """
        log.warning("bluegen.not_followed", unit=self._device.unit_id, at=at, watts=output_w)
        kept.follows = False
        known = self._device.week_anchor != Anchor.UNKNOWN
        if known and shown is Shown.ABOVE and not self.folded(kept):
            kept.folded_from = self._device.week_anchor
            log.warning("bluegen.week_doubted", unit=self._device.unit_id)

    def folded(self, kept: Kept) -> bool:
        """Whether the configured first day is not to be relied on."""
        return kept.folded_from is not None and kept.folded_from == self._device.week_anchor

    def _week(self) -> Week:
        """Return the week as configured, which is right for a folded profile too: all its days are
        equal.
        """
        return Week(Anchor(self._device.week_anchor), zone(self._device.week_tz))


def zone(name: str | None) -> tzinfo:
    """Return a zone by its name; one that is not known here counts as UTC."""
    try:
        return ZoneInfo(name or "UTC")
    except (KeyError, ValueError, OSError):
        return UTC


def _most_w(kept: Kept) -> float:
    """More than this is a fault of the data."""
    return math.inf if kept.limits is None else _IMPLAUSIBLE * kept.limits.max_w


def _new_samples(
    current: Measured, total: Measured, status: UnitStatus, kept: Kept, now: datetime
) -> tuple[Sample, ...]:
    """Return what the service did not say before."""
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
    elif status.state != kept.state:
        # A unit that has changed its state may report nothing else for hours.
        samples.append(Sample(at=now, status={"state": status.state}))
    kept.state = status.state
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
