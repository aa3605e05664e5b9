"""What each device of a group is wanted to do: from a snapshot of the world to wishes. Pure.

Sign: into the group is positive; what devices deliver is positive at their own door. With `N`
the net import at the meter and `b` what the controlled batteries deliver, the load that they
have to carry is `N + b`: adding back what they do now keeps the loop from chasing itself.

Interpretation (reference: devices §5.1): with capacityScope Flexible that load is 0; without a
meter it is the sum of the group's uncontrolled assets, 0 if none is measured. From both goes
what fuel cells deliver, and of a battery out of reach the worse of its last setpoint and rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from fpd.adapters.device import Command, Reading, Release, Setpoint
from fpd.config import BatteryDevice, BluegenDevice
from fpd.domain.control.setpoint import Battery, Charge, Task, step
from fpd.domain.forecast import Envelope, Reason
from fpd.errors import Malformed
from fpd.store.devices import DeviceState

_DWELL = timedelta(seconds=60)
_SUSTAIN_STEP = timedelta(minutes=5)
_NOTHING_KNOWN_W = Decimal(10**9)
# Limits that a provider has set for a time; others hold for as long as anybody can tell.
_TIMED = frozenset({Reason.FORECAST, Reason.GAP_FALLBACK, Reason.FALLBACK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """One controlled device. `alone`: it does not follow and is left alone for a while."""

    config: BatteryDevice | BluegenDevice
    priority: int
    state: DeviceState
    reading: Reading | None
    alone: bool

    @property
    def name(self) -> str:
        return self.config.name

    def fresh(self, now: datetime) -> bool:
        """Whether the last reading may be used for control, reachable now or not."""
        stale_after = timedelta(seconds=self.config.stale_after_s)
        return self.reading is not None and now - self.reading.at <= stale_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the group takes, W, import +, at an instant. `at_meter`: devices' output included.

    `watts` None: it should be measured and is not; `detail` says so.
    """

    watts: Decimal | None
    at: datetime | None = None
    at_meter: bool = False
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a device is to do, and why; `plan` also holds what the next step must know."""

    device: Steered
    command: Command
    plan: dict[str, Any]


def rest(devices: Sequence[Steered], why: str) -> list[Wanted]:
    """Return the wish that devices go back to what they did before us."""
    return [Wanted(device=d, command=Release(), plan={"reason": why}) for d in devices]


def batteries(
    devices: Sequence[Steered],
    cells: Sequence[Steered],
    *,
    envelope: Envelope,
    measured: Measured,
    margin: Decimal,
    now: datetime,
) -> list[Wanted]:
    """Return what the batteries are to do, in merit order: each carries what those before leave.

    `margin` is the share of a limit that is kept free because measurement and inverter lag.
    """
    if envelope.min_w is None and envelope.max_w is None and envelope.optimum_w is None:
        return rest(devices, "nothing is limited or wanted")
    usable = [d for d in devices if _usable(d, now)]
    # One that was not read lately keeps its wish: control decides anew as soon as it is read.
    unfit = [d for d in devices if d not in usable and (d.alone or d.fresh(now))]
    wanted = [w for d in unfit for w in rest([d], _why_not(d))]
    load_w, fuel_cell_w, source = _load(devices, usable, cells, envelope, measured, now)
    reason = f"limits: {envelope.reason}; load: {source}"
    task = Task(
        net_load_w=load_w,
        fuel_cell_w=fuel_cell_w,
        import_limit_w=_inside(envelope.max_w, margin),
        export_limit_w=_inside(None if envelope.min_w is None else -envelope.min_w, margin),
        optimum_w=envelope.optimum_w,
    )
    if measured.watts is None:
        task = _worst(task)
    for device in sorted(usable, key=lambda d: (d.priority, d.name)):
        found = _battery(device, task, envelope, reason, now)
        wanted.append(found)
        if isinstance(found.command, Setpoint):
            task = replace(task, net_load_w=task.net_load_w - found.command.power_w)
    return wanted


def _battery(device: Steered, task: Task, envelope: Envelope, reason: str, now: datetime) -> Wanted:
    config, reading, plan = device.config, device.reading, device.state.plan or {}
    assert isinstance(config, BatteryDevice) and reading is not None
    told_w = _told_w(device)
    told_at = device.state.told_at
    try:
        found = step(
            _limits(config),
            Charge(
                usoc=None if reading.soc is None else Decimal(str(reading.soc)),
                discharge_blocked=bool(plan.get("discharge_blocked")),
                charge_blocked=bool(plan.get("charge_blocked")),
            ),
            replace(task, sustain_s=_sustain(envelope, config.min_sustain_s, now)),
            last_w=told_w,
            deadband_w=config.deadband_w,
            may_reverse=told_at is None or now - told_at >= _DWELL,
        )
    except Malformed as fault:
        return rest([device], f"its configuration cannot be meant: {fault}")[0]
    return Wanted(
        device=device,
        command=Setpoint(power_w=found.setpoint_w),
        plan={
            "reason": reason,
            "net_load_w": round(task.net_load_w - task.fuel_cell_w),
            "over_import_w": found.residual_over_import_w,
            "over_export_w": found.residual_over_export_w,
            "discharge_blocked": found.discharge_blocked,
            "charge_blocked": found.charge_blocked,
        },
    )


def _limits(config: BatteryDevice) -> Battery:
    return Battery(
        capacity_wh=Decimal(config.capacity_wh),
        max_charge_w=config.max_charge_w,
        max_discharge_w=config.max_discharge_w,
        soc_min=Decimal(str(config.soc_min)),
        soc_max=Decimal(str(config.soc_max)),
        soc_hyst=Decimal(str(config.soc_hyst)),
        eff_charge=Decimal(str(config.eff_charge)),
        eff_discharge=Decimal(str(config.eff_discharge)),
    )


def _usable(device: Steered, now: datetime) -> bool:
    return (
        device.reading is not None
        and device.reading.dispatchable
        and device.fresh(now)
        and not device.alone
    )


def _why_not(device: Steered) -> str:
    if device.alone or device.reading is None:
        return device.state.detail or "it does not follow"
    return device.reading.detail or "it cannot be dispatched"


def _inside(limit_w: int | None, margin: Decimal) -> Decimal | None:
    return None if limit_w is None else limit_w * (1 - margin)


def _sustain(envelope: Envelope, least_s: int, now: datetime) -> Decimal:
    """Return for how long (s) a setpoint must be holdable: until a timed limit ends.

    Counted in steps, so that a battery with little energy is not told a watt more each time.
    """
    if envelope.end_at is None or envelope.reason not in _TIMED:
        return Decimal(least_s)
    left_s = math.ceil((envelope.end_at - now) / _SUSTAIN_STEP) * _SUSTAIN_STEP.total_seconds()
    return Decimal(max(least_s, round(left_s)))


def _load(
    devices: Sequence[Steered],
    usable: Sequence[Steered],
    cells: Sequence[Steered],
    envelope: Envelope,
    measured: Measured,
    now: datetime,
) -> tuple[Decimal, Decimal, str]:
    """Return the load without the usable batteries, what fuel cells take off it, and from what."""
    if measured.watts is None or measured.at_meter:
        delivered_w = sum((_output_w(d, measured.at) for d in usable), Decimal(0))
        return (
            (measured.watts or Decimal(0)) + delivered_w,
            Decimal(0),
            measured.detail or "measured by the meter",
        )
    out_of_reach = [d for d in devices if d not in usable]
    assumed_w = sum((_assumed_w(d, envelope) for d in out_of_reach), Decimal(0))
    cells_w = sum((_cell_w(d, envelope, now) for d in cells), Decimal(0))
    return measured.watts - assumed_w, cells_w, measured.detail or "that of the uncontrolled assets"


def _worst(task: Task) -> Task:
    """Assume the worst of a load that is not known.

    Interpretation: under an import limit alone the load is as good as endless, and so is the
    surplus under an export limit alone; under both nothing can be right, so the battery rests,
    which adds to neither.
    """
    if task.import_limit_w is not None and task.export_limit_w is None:
        return replace(task, net_load_w=_NOTHING_KNOWN_W, optimum_w=None)
    if task.export_limit_w is not None and task.import_limit_w is None:
        return replace(task, net_load_w=-_NOTHING_KNOWN_W, optimum_w=None)
    return Task(net_load_w=Decimal(0))


def _output_w(device: Steered, at: datetime | None) -> Decimal:
    """Return what a device delivered when the meter was read: the reading nearest to that."""
    reading = device.reading
    if reading is None or reading.output_w is None:
        return Decimal(0)
    seen = (*reading.recent, (reading.at, reading.output_w))
    nearest = seen[-1] if at is None else min(seen, key=lambda one: abs(one[0] - at))
    return Decimal(str(nearest[1]))


def _told_w(device: Steered) -> int | None:
    told = device.state.told or {}
    power_w = told.get("power_w")
    return power_w if isinstance(power_w, int) else None


def _assumed_w(device: Steered, envelope: Envelope) -> Decimal:
    """Return what a battery out of reach delivers: it keeps its setpoint where that is worse."""
    told_w = _told_w(device) or 0
    harmful = envelope.min_w is not None if told_w > 0 else envelope.max_w is not None
    return Decimal(told_w if harmful else 0)


def _cell_w(device: Steered, envelope: Envelope, now: datetime) -> Decimal:
    """Return what a fuel cell delivers; unknown, its most if that may be too much, else nothing."""
    reading = device.reading
    if reading is not None and device.fresh(now) and reading.output_w is not None:
        return Decimal(str(reading.output_w))
    if envelope.min_w is None or reading is None or reading.limits is None:
        return Decimal(0)
    return Decimal(reading.limits.max_w)
