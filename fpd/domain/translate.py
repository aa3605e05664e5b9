"""Translate one document: what a forecast means for a device, without any device.

A document is `{"kind": …, "in": {…}}`; the answer is what the kind says. Powers are W, energies
Wh, into the group positive; a battery's setpoints are positive when it discharges. Messages are
written `{"received_at", "type", "blocks"}` with blocks as on the wire (decision D5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

from fpd.domain import translate_plan
from fpd.domain.control import setpoint
from fpd.domain.control.actions import actions
from fpd.domain.control.caps import NetLoad, Window, caps, tick_of, tick_start
from fpd.domain.control.dispatch import Asset, dispatch, ramp_bridge, waterfill
from fpd.domain.control.setpoint import Battery, BatteryApi, Charge, Task
from fpd.domain.control.ticks import (
    Anchor,
    Semantics,
    UnitLimits,
    Violation,
    Week,
    profile,
    tick_index,
)
from fpd.domain.course import Span
from fpd.domain.fields import Fields
from fpd.domain.forecast import (
    Block,
    Forecast,
    ForecastType,
    GapPolicy,
    Overlap,
    Spread,
    Terms,
    block_watts,
    course,
)
from fpd.domain.translate_answers import bluegen_error, parse
from fpd.domain.units import SINGLE_PHASES, AmpereAll, Phase, Unit, device_limit_w, floor_w
from fpd.errors import Malformed

_MOST_TICKS: Final = 100_000
_FIRST_DAY: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_DAY: Final = datetime(9000, 1, 1, tzinfo=UTC)


def translate(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the translation of a document, ready for JSON.

    Raises Malformed, naming the field, for a kind that is not known and for input that is
    missing or cannot be meant.
    """
    outer = Fields(document, "document")
    kind = outer.text("kind")
    if kind not in KINDS:
        raise outer.fault("kind", f"{kind!r} is none of {', '.join(KINDS)}")
    try:
        return KINDS[kind](Fields(outer.value("in"), "in"))
    except ArithmeticError:
        raise Malformed("in: numbers or times too large to calculate with") from None


def _tick_index(fields: Fields) -> dict[str, Any]:
    instant = _now(fields, "instant")
    anchor = fields.choice("anchor", Anchor)
    if anchor is Anchor.UNKNOWN:
        raise fields.fault("anchor", "an unknown first day gives no index")
    tick = tick_index(instant, anchor=anchor, tz=fields.zone("tz", "UTC"))
    return {"tick": tick, "tick_start": _text(tick_start(tick_of(instant)))}


def _unit_to_watts(fields: Fields) -> dict[str, Any]:
    return {"watts": floor_w(block_watts(_block(fields.child("block")), _terms(fields)))}


def _caps(fields: Fields) -> dict[str, Any]:
    ticks = fields.integer("ticks")
    if not 0 <= ticks <= _MOST_TICKS:
        raise fields.fault("ticks", f"must lie between 0 and {_MOST_TICKS}")
    window = Window(tick_of(_now(fields, "window_start")), ticks)
    wanted = fields.choice("type", ForecastType)
    messages = [forecast for forecast in _forecasts(fields) if forecast.type is wanted]
    per_tick = caps(course(messages, _terms(fields)), window)
    return {"caps_rle": [[len(list(run)), watts] for watts, run in groupby(per_tick)]}


def _bluegen_profile(fields: Fields) -> dict[str, Any]:
    unit = _unit_limits(fields.child("limits"), fields.positive("slew_minutes", 1))
    found = profile(
        _forecasts(fields),
        now=_now(fields, "now"),
        limits=unit,
        week=Week(fields.choice("anchor", Anchor, Anchor.UNKNOWN), fields.zone("week_tz", "UTC")),
        semantics=fields.choice("semantics", Semantics, Semantics.ANY),
        base_w=fields.number("base_power_w", unit.max_w),
        net_load=_net_load(fields),
        terms=_terms(fields),
    )
    return {
        "points": [{"tick": point.tick, "power": point.power_w} for point in found.points],
        "violations": [_violation(violation) for violation in found.violations],
        "deferred_blocks": [_wire(block) for block in found.deferred_blocks],
        "max_step_up_w": found.max_step_up_w,
        "max_step_dn_w": found.max_step_dn_w,
    }


def _unit_limits(fields: Fields, slew_minutes: Decimal) -> UnitLimits:
    minpower, maxpower = fields.number("minpower"), fields.number("maxpower")
    slew_up, slew_dn = fields.number("slew_up"), fields.number("slew_dn")
    with fields.named():
        return UnitLimits.of(
            minpower=minpower,
            maxpower=maxpower,
            slew_up=slew_up,
            slew_dn=slew_dn,
            slew_minutes=slew_minutes,
        )


def _net_load(fields: Fields) -> NetLoad:
    spans = []
    if fields.has("net_load_profile"):
        rows = fields.items("net_load_profile")
        for row in map(rows.items, rows):
            start_at, end_at = row.instant("[0]"), row.instant("[1]")
            if end_at <= start_at:
                raise row.fault("[1]", "not after the start")
            spans.append(Span(start_at, end_at, row.number("[2]")))
    return NetLoad.of(fields.number("net_load_w", 0), spans)


def _violation(found: Violation) -> dict[str, Any]:
    return {
        "start": _text(found.start_at),
        "end": _text(found.end_at),
        "over_export_w": found.over_export_w,
        "over_import_w": found.over_import_w,
    }


def _wire(block: Block) -> dict[str, Any]:
    return {
        "capacity": _plain(block.capacity),
        "unit": block.unit.value,
        "phase": block.phase.value,
        "start_time": _text(block.start_at),
        "end_time": _text(block.end_at),
    }


def _battery_setpoint(fields: Fields) -> dict[str, Any]:
    unit = fields.child("battery")
    last_w = fields.optional_integer("last_w")
    found = setpoint.step(
        _battery(unit),
        Charge(
            None if unit.value("usoc") is None else unit.number("usoc"),
            discharge_blocked=unit.flag("discharge_blocked", False),
            charge_blocked=unit.flag("charge_blocked", False),
        ),
        Task(
            net_load_w=fields.number("net_load_w"),
            fuel_cell_w=fields.number("fuel_cell_w", 0),
            import_limit_w=_limit(fields, "consumption_cap_w"),
            export_limit_w=_limit(fields, "generation_cap_w"),
            optimum_w=fields.optional_number("optimum_w"),
            sustain_s=fields.positive("sustain_s", 900),
        ),
        last_w=last_w,
        deadband_w=_at_least_0(fields, "deadband_w") if fields.has("deadband_w") else 50,
    )
    told = setpoint.calls(fields.choice("api", BatteryApi, BatteryApi.V1), found.setpoint_w, last_w)
    return {
        "setpoint_w": found.setpoint_w,
        "sent": found.sent,
        "calls": [[method, path] for method, path in told] if found.sent else [],
        "residual_over_import_w": found.residual_over_import_w,
        "residual_over_export_w": found.residual_over_export_w,
        "max_discharge_now_w": found.max_discharge_now_w,
        "max_charge_now_w": found.max_charge_now_w,
        "discharge_blocked": found.discharge_blocked,
        "charge_blocked": found.charge_blocked,
        "resulting_net_import_w": _plain(found.resulting_net_import_w),
    }


def _battery(fields: Fields) -> Battery:
    usual = Battery(capacity_wh=Decimal(1), max_charge_w=0, max_discharge_w=0)
    capacity_wh = fields.number("capacity_wh")
    most_w = [floor_w(fields.number(name)) for name in ("max_charge_w", "max_discharge_w")]
    shares = {
        name: fields.number(name, getattr(usual, name))
        for name in ("soc_min", "soc_max", "soc_hyst", "eff_charge", "eff_discharge")
    }
    with fields.named():
        return Battery(
            capacity_wh=capacity_wh, max_charge_w=most_w[0], max_discharge_w=most_w[1], **shares
        )


def _dispatch(fields: Fields) -> dict[str, Any]:
    assets = [
        Asset(
            id=asset.text("id"),
            priority=asset.integer("priority", 1),
            headroom_up_w=floor_w(_at_least_0(asset, "headroom_up_w")),
            headroom_down_w=floor_w(_at_least_0(asset, "headroom_down_w")),
        )
        for asset in fields.children("assets")
    ]
    if len({asset.id for asset in assets}) < len(assets):
        raise fields.fault("assets", "two have the same id")
    found = dispatch(fields.integer("need_w"), assets)
    return {"delta_w": dict(found.delta_w), "residual_w": found.residual_w}


def _ramp_bridge(fields: Fields) -> dict[str, Any]:
    found = ramp_bridge(
        fields.number("from_w"),
        fields.number("to_w"),
        slew_w_per_min=fields.positive("slew_w_per_min"),
        units=fields.positive("units", 1),
    )
    return {"minutes": float(found.minutes), "energy_wh": float(found.energy_wh)}


def _waterfill(fields: Fields) -> dict[str, Any]:
    loads = fields.items("load_w")
    load_w = [loads.number(item) for item in loads]
    if not load_w:
        raise fields.fault("load_w", "empty")
    found = waterfill(
        load_w,
        period_s=fields.positive("period_s"),
        energy_wh=_at_least_0(fields, "energy_wh"),
    )
    return {
        "level_w": found.level_w,
        "exact_level_w": float(found.exact_level_w),
        "discharge_w": list(found.discharge_w),
    }


def _phase_caps(fields: Fields) -> dict[str, Any]:
    limits, items = fields.child("limits_a"), fields.items("device_phases")
    unknown = [name for name in limits if name not in list(Phase)]
    if unknown:
        raise limits.fault(unknown[0], f"no phase; known are {', '.join(Phase)}")
    phases = {items.choice(item, Phase) for item in items}
    if not phases or not phases.issubset(SINGLE_PHASES):
        raise fields.fault("device_phases", f"must name some of {', '.join(SINGLE_PHASES)}")
    return {
        "max_w": device_limit_w(
            {phase: _limit(limits, phase) for phase in Phase},
            device_phases=phases,
            v_ln=fields.positive("v_ln", 230),
            ampere_all=fields.choice("ampere_all", AmpereAll, AmpereAll.SUM),
        )
    }


KINDS: Final[Mapping[str, Callable[[Fields], dict[str, Any]]]] = {
    "tick_index": _tick_index,
    "unit_to_watts": _unit_to_watts,
    "caps": _caps,
    "bluegen_profile": _bluegen_profile,
    "battery_setpoint": _battery_setpoint,
    "dispatch": _dispatch,
    "ramp_bridge": _ramp_bridge,
    "waterfill": _waterfill,
    "phase_caps": _phase_caps,
    "actions": actions,
    "plan": translate_plan.plan,
    "bluegen_error": bluegen_error,
    "parse": parse,
}


def _forecasts(fields: Fields) -> list[Forecast]:
    return [
        Forecast(
            received_at=message.instant("received_at"),
            type=message.choice("type", ForecastType),
            blocks=tuple(_block(block) for block in message.children("blocks")),
            id=order,
        )
        for order, message in enumerate(
            sorted(fields.children("forecasts"), key=lambda one: one.instant("received_at"))
        )
    ]


def _block(fields: Fields) -> Block:
    start_at, end_at = fields.instant("start_time"), fields.instant("end_time")
    capacity = fields.number("capacity")
    unit, phase = fields.choice("unit", Unit), fields.choice("phase", Phase)
    with fields.named():
        return Block(start_at=start_at, end_at=end_at, capacity=capacity, unit=unit, phase=phase)


def _terms(fields: Fields) -> Terms:
    """Return the terms of a device.

    Interpretation: a gap is no limit, there is nothing else in a document; and a device is taken
    to be on one phase that is not known, so the tightest limit of a single phase is its own.
    """
    phases = fields.integer("group_phases", 3)
    if phases not in (1, 2, 3):
        raise fields.fault("group_phases", "must be 1, 2 or 3")
    return Terms(
        v_ln=fields.positive("v_ln", 230),
        phases=phases,
        gap_policy=GapPolicy.UNLIMITED,
        ampere_all=fields.choice("ampere_all", AmpereAll, AmpereAll.SUM),
        overlap=fields.choice("policy", Overlap, Overlap.NEWEST_WINS),
        spread=Spread.SINGLE,
    )


def _now(fields: Fields, name: str) -> datetime:
    """Return an instant from which weeks can be counted."""
    now = fields.instant(name)
    if not _FIRST_DAY <= now < _LAST_DAY:
        raise fields.fault(name, f"not between {_FIRST_DAY.year} and {_LAST_DAY.year}")
    return now


def _limit(fields: Fields, name: str) -> Decimal | None:
    return _at_least_0(fields, name) if fields.has(name) else None


def _at_least_0(fields: Fields, name: str) -> Decimal:
    number = fields.number(name)
    if number < 0:
        raise fields.fault(name, "must not be negative")
    return number


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _plain(number: Decimal) -> int | float:
    return int(number) if number == number.to_integral_value() else float(number)
