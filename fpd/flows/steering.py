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
from fpd.domain.control.setpoint import Charge, available, rested
from fpd.domain.control.share import Reach, Shared, narrowed, share
from fpd.domain.forecast import Envelope, Reason
from fpd.domain.units import Phase, floor_w
from fpd.flows.steered import Measured, Steered, carried_load, told_w

_DWELL_S = 60.0
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
    """Return the wish that devices go back to what they did before us."""
    return [Wanted(device=d, command=Release(), plan={"reason": why}) for d in devices]


def setpoints(
    devices: Sequence[Steered],
    cells: Sequence[Steered],
    *,
    envelope: Envelope,
    measured: Measured,
    margin: Decimal,
    now: datetime,
    phases: Phases = _NO_PHASES,
    planned: Mapping[str, int] | None = None,
) -> list[Wanted]:
    """Return what the devices that follow setpoints are to do together.

    `margin` is the share of a limit that is kept free because measurement and inverter lag;
    `phases` binds those that are not connected to all of them; `planned` is what a plan wishes of
    batteries (W, discharge positive), where nothing else is wanted.
    """
    unlimited = envelope.min_w is None and envelope.max_w is None and envelope.optimum_w is None
    # Under limits a plan is no wish unless it is known what room there is for it.
    wishes = planned if planned and (unlimited or measured.watts is not None) else {}
    if unlimited and not wishes:
        return rest(devices, "nothing is limited or wanted")
    if measured.lost:
        return rest(devices, f"limits: {envelope.reason}; load: {measured.detail}")
    usable = [d for d in devices if _usable(d, now)]
    # One that was not read lately keeps its wish: control decides anew as soon as it is read.
    unfit = [d for d in devices if d not in usable and (d.alone or d.fresh(now))]
    load_w, source = carried_load(devices, usable, cells, envelope, measured, now)
    known = measured.watts is not None
    need = _need(load_w, envelope, margin) if known else _worst(envelope)
    in_order = sorted(usable, key=lambda d: d.name)
    # Where nothing is limited, those without a wish are let go.
    idle = [d for d in in_order if unlimited and d.name not in wishes]
    reaches = _on_phases(
        [_reach(d, envelope, now, wishes.get(d.name)) for d in in_order if d not in idle],
        phases,
        load_w if known else Decimal(0),
    )
    elsewhere = _elsewhere(reaches, phases)
    found = _shared([one.reach for one in reaches if one.reach.id not in elsewhere], need)
    plan = {
        "reason": f"limits: {envelope.reason}; load: {source}",
        **(_residual(load_w, found.total_w, envelope) if known else _NOT_KNOWN),
    }
    if elsewhere and phases.sum_w is not None:
        least_w, most_w = phases.sum_w
        bare = replace(envelope, min_w=least_w, max_w=most_w)
        left_w = load_w - found.total_w
        rest_of = _need(left_w, bare, margin) if known else _worst(bare)
        others = _shared([one.reach for one in reaches if one.reach.id in elsewhere], rest_of)
        found = Shared({**found.setpoint_w, **others.setpoint_w})
    return [
        *(w for d in unfit for w in rest([d], _why_not(d))),
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


def _reach(device: Steered, envelope: Envelope, now: datetime, wish_w: int | None) -> _Reaching:
    """Return what a device can be told; with a wish of a plan that is what it rests at."""
    plan, ability = device.state.plan or {}, device.ability
    memory: dict[str, Any] = {}
    assert not isinstance(ability, Weekly) and device.reading is not None
    least_w, most_w, rest_w, bound_to = 0, 0, 0, 0
    match ability:
        case Storage(battery=battery):
            charge = Charge(
                usoc=None if device.reading.soc is None else Decimal(str(device.reading.soc)),
                discharge_blocked=bool(plan.get("discharge_blocked")),
                charge_blocked=bool(plan.get("charge_blocked")),
            )
            charge = rested(battery, charge)
            most_w, charge_w = available(battery, charge, _sustain(envelope, ability, now))
            least_w, bound_to = -charge_w, _bound(device, now)
            memory = {
                "discharge_blocked": charge.discharge_blocked,
                "charge_blocked": charge.charge_blocked,
            }
        case Adjustable():
            least_w, most_w, rest_w = ability.least_w, ability.most_w, ability.rest_w
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
    )
    seen = device.reading
    return _Reaching(device, narrowed(reach, seen.least_w, seen.most_w), memory)


def _bound(device: Steered, now: datetime) -> int:
    """Return the direction that is to be kept: one is not left within a minute of taking it."""
    plan = device.state.plan or {}
    direction, since = plan.get("direction"), plan.get("direction_at")
    if direction not in (-1, 1) or not isinstance(since, int | float):
        return 0
    return int(direction) if 0 <= now.timestamp() - since < _DWELL_S else 0


def _turned(device: Steered, setpoint_w: Mapping[str, int], now: datetime) -> dict[str, Any]:
    """Remember the direction told last, and since when."""
    plan, power_w = device.state.plan or {}, setpoint_w[device.name]
    direction = plan.get("direction", 0) if power_w == 0 else 1 if power_w > 0 else -1
    since = plan.get("direction_at")
    if direction != plan.get("direction") or since is None:
        since = now.timestamp()
    return {"direction": direction, "direction_at": since}


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


def _sustain(envelope: Envelope, ability: Storage, now: datetime) -> Decimal:
    """Return for how long (s) a setpoint must be holdable: until a timed limit ends.

    Counted in steps, so that a battery with little energy is not told a watt more each time.
    """
    least_s = ability.sustain_s
    if not ability.spread or envelope.end_at is None or envelope.reason not in _TIMED:
        return Decimal(least_s)
    left_s = math.ceil((envelope.end_at - now) / _SUSTAIN_STEP) * _SUSTAIN_STEP.total_seconds()
    return Decimal(max(least_s, round(left_s)))
