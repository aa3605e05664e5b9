"""What each device of a group is wanted to do: from a snapshot of the world to wishes. Pure.

Sign: into the group is positive; what devices deliver is positive at their own door.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from fpd.adapters.device import Command, Release, Setpoint
from fpd.domain.control.ability import Ability, Adjustable, Storage, Weekly
from fpd.domain.control.caps import ceil_w
from fpd.domain.control.phases import PhaseLimit, room, sharing
from fpd.domain.control.setpoint import Battery, Charge, available, rested
from fpd.domain.control.share import Reach, Shared, narrowed, share
from fpd.domain.control.wishes import NO_WISHES, Wishes
from fpd.domain.forecast import Envelope, Reason
from fpd.domain.units import Phase, floor_w
from fpd.flows.steered import Measured, Steered, carried_load, told_w

_SUSTAIN_STEP = timedelta(minutes=5)
_NOTHING_KNOWN_W = 10**9
_NOT_KNOWN = {"over_import_w": 0, "over_export_w": 0, "load_unknown": True}
# Limits that a provider has set for a time; others hold for as long as anybody can tell.
_TIMED = frozenset({Reason.FORECAST, Reason.GAP_FALLBACK, Reason.FALLBACK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """How many phases the group has, and what is in force for single ones of them.

    `sum_w`: the least and the most that is in force for the sum beside that; None: as the envelope
    has it.
    """

    count: int = 3
    limits: Mapping[Phase, PhaseLimit] = field(default_factory=dict)
    sum_w: tuple[int | None, int | None] | None = None


_NO_PHASES = Phases()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a device is to do, and why; `plan` also holds what the next step must know."""

    device: Steered
    command: Command
    plan: dict[str, Any]


def rest(devices: Sequence[Steered], why: str) -> list[Wanted]:
    """Return the wish that devices go back to what they did before us.

    That one was empty, or full, is not forgotten meanwhile.
    """
    return [
        Wanted(device=d, command=Release(), plan={"reason": why, **_blocked(d)}) for d in devices
    ]


def _blocked(device: Steered) -> dict[str, Any]:
    plan = device.state.plan or {}
    return {name: True for name in ("discharge_blocked", "charge_blocked") if plan.get(name)}


def setpoints(
    devices: Sequence[Steered],
    cells: Sequence[Steered],
    *,
    envelope: Envelope,
    measured: Measured,
    margin: Decimal,
    now: datetime,
    phases: Phases = _NO_PHASES,
    planned: Wishes = NO_WISHES,
) -> list[Wanted]:
    """Return what the devices that follow setpoints are to do together.

    `margin` is the share of a limit that is kept free because measurement and inverter lag;
    `phases` binds those that are not connected to all of them; `planned` is what a plan wishes of
    batteries, where nothing else is wanted.
    """
    unlimited = _is_unlimited(envelope)
    # Under limits a plan is no wish unless it is known what room there is for it.
    wishes = planned if unlimited or measured.watts is not None else NO_WISHES
    if unlimited and not wishes.power_w:
        return rest(devices, "nothing is limited or wanted")
    if measured.lost:
        return rest(devices, f"limits: {envelope.reason}; load: {measured.detail}")
    usable = [d for d in devices if d.usable(now)]
    counted = [d for d in usable if not d.doubted]
    doubted = {d.name for d in usable if d.doubted}
    # One that was not read lately keeps its wish: control decides anew as soon as it is read.
    unfit = [d for d in devices if d not in usable and (d.alone or d.fresh(now))]
    task = _Task(
        devices=devices,
        cells=cells,
        envelope=envelope,
        measured=measured,
        margin=margin,
        now=now,
        phases=phases,
        wishes=wishes,
    )
    plan, wanted = _asked(task, counted)
    if doubted:
        # What those in doubt are asked for others carry too, as long as they do not deliver it.
        asked = [w for w in _asked(task, usable)[1] if w.device.name in doubted]
        wanted += [replace(one, plan={**one.plan, **plan}) for one in asked]
    return [*(w for d in unfit for w in rest([d], _why_not(d))), *wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """What a group's devices are to do now, whoever of them does it: as `setpoints` is told."""

    devices: Sequence[Steered]
    cells: Sequence[Steered]
    envelope: Envelope
    measured: Measured
    margin: Decimal
    now: datetime
    phases: Phases
    wishes: Wishes

    def need(self, load_w: Decimal, envelope: Envelope) -> _Need:
        """Return what `envelope` asks of them under this load; at worst, if it is not known."""
        if self.measured.watts is None:
            return _worst(envelope)
        return _need(load_w, envelope, self.margin)


def _asked(task: _Task, carriers: Sequence[Steered]) -> tuple[dict[str, Any], list[Wanted]]:
    """Return what `carriers` are asked for if nobody else of the devices can be, and the plan."""
    envelope, phases, now = task.envelope, task.phases, task.now
    load_w, source = carried_load(task.devices, carriers, task.cells, envelope, task.measured, now)
    known = task.measured.watts is not None
    need = task.need(load_w, envelope)
    in_order = sorted(carriers, key=lambda d: d.name)
    # Where nothing is limited, those without a wish are let go.
    unlimited = _is_unlimited(envelope)
    idle = [d for d in in_order if unlimited and d.name not in task.wishes.power_w]
    wishes = replace(task.wishes, power_w=task.wishes.needed(need.low))
    reaches = _on_phases(
        [_reach(d, envelope, now, wishes) for d in in_order if d not in idle],
        phases,
        load_w if known else Decimal(0),
    )
    elsewhere = _elsewhere(reaches, phases)
    found = _shared([one.reach for one in reaches if one.reach.id not in elsewhere], need)
    plan = {
        "reason": f"limits: {envelope.reason}; load: {source}",
        "carried_by": [d.name for d in in_order],
        **(_residual(load_w, found.total_w, envelope) if known else _NOT_KNOWN),
    }
    if elsewhere and phases.sum_w is not None:
        least_w, most_w = phases.sum_w
        bare = replace(envelope, min_w=least_w, max_w=most_w)
        rest_of = task.need(load_w - found.total_w, bare)
        others = _shared([one.reach for one in reaches if one.reach.id in elsewhere], rest_of)
        found = Shared({**found.setpoint_w, **others.setpoint_w})
    return plan, [
        *rest(idle, "nothing is limited or wanted"),
        *(
            Wanted(
                device=one.device,
                command=Setpoint(power_w=found.setpoint_w[one.device.name]),
                plan={**plan, **one.memory, **_turned(one.device, found.setpoint_w, now)},
            )
            for one in reaches
        ),
    ]


def _is_unlimited(envelope: Envelope) -> bool:
    return envelope.min_w is None and envelope.max_w is None and envelope.optimum_w is None


def _on_phases(
    reaches: Sequence[_Reaching], phases: Phases, load_w: Decimal
) -> Sequence[_Reaching]:
    """End the reach of devices where a phase of theirs has no more room."""
    connected = {one.device.name: _phases(one.device.ability) for one in reaches}
    if not phases.limits or not any(connected.values()):
        return reaches
    bound = []
    for one in reaches:
        least_w, most_w = room(
            connected[one.device.name],
            phases.limits,
            load_w=load_w,
            of_phases=phases.count,
            sharing=sharing(connected.values()),
        )
        bound.append(replace(one, reach=narrowed(one.reach, least_w, most_w)))
    return bound


def _elsewhere(reaches: Sequence[_Reaching], phases: Phases) -> frozenset[str]:
    """Return the devices that cannot help a phase: connected to others, none of them limited.

    They carry what the limits of the sum leave, after those that can.
    """
    connected = {one.device.name: _phases(one.device.ability) for one in reaches}
    return frozenset(
        name
        for name, its in connected.items()
        if phases.sum_w is not None and its and not set(its) & set(phases.limits)
    )


def _shared(reaches: Sequence[Reach], need: _Need) -> Shared:
    return share(reaches, low=need.low, high=need.high, wanted_w=need.wanted_w)


def _phases(ability: Ability) -> tuple[Phase, ...]:
    return () if isinstance(ability, Weekly) else ability.phases


@dataclass(frozen=True, slots=True)
class _Need:
    """What the devices together have to deliver: within [low, high], at best `wanted_w`."""

    low: int | None
    high: int | None
    wanted_w: int | None


def _need(load_w: Decimal, envelope: Envelope, margin: Decimal) -> _Need:
    """Return what keeps the limits, less the margin: load 4200 W, max_w 3000: at least 1200."""
    return _Need(
        None if envelope.max_w is None else ceil_w(load_w - envelope.max_w * (1 - margin)),
        None if envelope.min_w is None else floor_w(load_w - envelope.min_w * (1 - margin)),
        None if envelope.optimum_w is None else round(load_w - envelope.optimum_w),
    )


def _worst(envelope: Envelope) -> _Need:
    """Assume the worst of a load that is not known.

    Interpretation: under an import limit alone the load is as good as endless, and so is the
    surplus under an export limit alone; under both nothing can be right, so devices rest, which
    adds to neither.
    """
    if envelope.max_w is not None and envelope.min_w is None:
        return _Need(_NOTHING_KNOWN_W, None, None)
    if envelope.min_w is not None and envelope.max_w is None:
        return _Need(None, -_NOTHING_KNOWN_W, None)
    return _Need(None, None, None)


def _residual(load_w: Decimal, delivered_w: int, envelope: Envelope) -> dict[str, int]:
    """Return by how much the group stays beyond its limits, whoever of it is asked."""
    import_w = load_w - delivered_w
    over_import_w = 0 if envelope.max_w is None else max(ceil_w(import_w - envelope.max_w), 0)
    over_export_w = 0 if envelope.min_w is None else max(ceil_w(envelope.min_w - import_w), 0)
    return {
        "net_load_w": round(load_w),
        "net_import_w": round(import_w),
        "over_import_w": over_import_w,
        "over_export_w": over_export_w,
    }


@dataclass(frozen=True, slots=True)
class _Reaching:
    """A device, what it can be told now, and what the next step must know of it."""

    device: Steered
    reach: Reach
    memory: dict[str, Any]


def _reach(device: Steered, envelope: Envelope, now: datetime, wishes: Wishes) -> _Reaching:
    """Return what a device can be told; with a wish of a plan that is what it rests at.

    Interpretation: an optimum is wanted more than what a plan wishes, but it spends nothing of what
    is planned to keep a limit with later.
    """
    plan, ability = device.state.plan or {}, device.ability
    memory: dict[str, Any] = {}
    assert not isinstance(ability, Weekly) and device.reading is not None
    least_w, most_w, rest_w, bound_to, spare_w = 0, 0, 0, 0, None
    match ability:
        case Storage(battery=battery):
            charge = Charge(
                usoc=None if device.reading.soc is None else Decimal(str(device.reading.soc)),
                discharge_blocked=bool(plan.get("discharge_blocked")),
                charge_blocked=bool(plan.get("charge_blocked")),
            )
            charge = rested(battery, charge)
            most_w, charge_w = available(battery, charge, _sustain(envelope, ability, now))
            least_w, bound_to = -charge_w, _bound(device, ability.dwell_s, now)
            if envelope.optimum_w is not None and device.name in wishes.reserve_wh:
                spare_w = _spare_w(battery, charge, wishes.reserve_wh[device.name])
            memory = {
                "discharge_blocked": charge.discharge_blocked,
                "charge_blocked": charge.charge_blocked,
            }
        case Adjustable():
            least_w, most_w, rest_w = ability.least_w, ability.most_w, ability.rest_w
    wish_w = wishes.power_w.get(device.name)
    if wish_w is not None and envelope.optimum_w is None:
        rest_w = wish_w
        memory["planned_w"] = wish_w
    reach = Reach(
        id=device.name,
        priority=device.priority,
        least_w=least_w,
        most_w=most_w,
        rest_w=rest_w,
        running_w=told_w(device),
        deadband_w=ability.deadband_w,
        bound_to=bound_to,
        spare_w=spare_w,
    )
    seen = device.reading
    return _Reaching(device, narrowed(reach, seen.least_w, seen.most_w), memory)


def _spare_w(battery: Battery, charge: Charge, reserve_wh: int) -> int:
    """Return what can be delivered for a quarter of an hour without touching the reserve."""
    stored_wh = (charge.usoc or 0) * battery.capacity_wh / 100
    return floor_w(max(stored_wh - reserve_wh, Decimal(0)) * battery.eff_discharge * 4)


def _bound(device: Steered, dwell_s: float, now: datetime) -> int:
    """Return the direction that is to be kept: one is not left within moments of taking it."""
    plan = device.state.plan or {}
    direction, since = plan.get("direction"), plan.get("direction_at")
    if direction not in (-1, 1) or not isinstance(since, int | float):
        return 0
    return int(direction) if 0 <= now.timestamp() - since < dwell_s else 0


def _turned(device: Steered, setpoint_w: Mapping[str, int], now: datetime) -> dict[str, Any]:
    """Remember the direction told last, and since when."""
    plan, power_w = device.state.plan or {}, setpoint_w[device.name]
    direction = plan.get("direction", 0) if power_w == 0 else 1 if power_w > 0 else -1
    since = plan.get("direction_at")
    if direction != plan.get("direction") or since is None:
        since = now.timestamp()
    return {"direction": direction, "direction_at": since}


def _why_not(device: Steered) -> str:
    if device.alone or device.reading is None:
        return device.state.detail or "it does not follow"
    return device.reading.detail or "it cannot be dispatched"


def _sustain(envelope: Envelope, ability: Storage, now: datetime) -> Decimal:
    """Return for how long (s) a setpoint must be holdable: until a timed limit ends.

    Counted in steps, so that a battery with little energy is not told a watt more each time.
    """
    least_s = ability.sustain_s
    if not ability.spread or envelope.end_at is None or envelope.reason not in _TIMED:
        return Decimal(least_s)
    left_s = math.ceil((envelope.end_at - now) / _SUSTAIN_STEP) * _SUSTAIN_STEP.total_seconds()
    return Decimal(max(least_s, round(left_s)))
