"""What is done when no forecast rules any more: given back, fallen back, left alone.

A call is (method, path) or (method, path, body), as the device's interface has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from fpd.domain.control.setpoint import BatteryApi, calls
from fpd.domain.fields import Fields
from fpd.domain.forecast import (
    Block,
    Forecast,
    ForecastType,
    GapPolicy,
    Reason,
    Terms,
    envelope_at,
)
from fpd.domain.units import Phase, Unit, floor_w
from fpd.errors import Malformed

Call = tuple[str, str] | tuple[str, str, Mapping[str, str]]

MODE: Final = "EM_OperatingMode"
SELF_CONSUMPTION: Final = "2"

_EXPORTING: Final = "powerexport"
_NO_OUTPUT: Final = frozenset({"off", "heat-up", "selfsustain", "cooldown", "-", ""})
_MOMENT: Final = timedelta(seconds=1)
_OLDEST_S: Final = 10**9
# Nothing says how a document is to call these.
_SEEN_AT: Final = (
    "status_at",
    "last_status_at",
    "last_status",
    "status_timestamp",
    "last_reading_at",
    "timestamp",
)
_AGES: Final = ("status_age_s", "age_s")
_POWERS: Final = ("power", "power_w", "output_w", "measured_w", "current_power_w")
_MODES: Final = {Reason.LAST_KNOWN: "last_known"}


def battery_rest(api: BatteryApi, mode: str | None) -> tuple[Call, ...]:
    """Return the requests that give a battery back: zero first, then (v2) its owner's mode."""
    zeroed: tuple[Call, ...] = calls(api, 0, None)
    if api is BatteryApi.V1:
        return zeroed
    return (*zeroed, ("PUT", "/api/v2/configurations", {MODE: mode or SELF_CONSUMPTION}))


def actions(fields: Fields) -> dict[str, Any]:
    """Answer a document: what becomes of one device, or of one limit, now.

    Which it is shows in what the document names: the end of the group's blocks, the provider's
    `offline_mode_at`, the `status` of a fuel cell, or the time of a battery's last status.
    """
    for name, answer in _ANSWERS.items():
        if fields.has(name):
            return answer(fields)
    if any(map(fields.has, (*_SEEN_AT, *_AGES))):
        return _status_of(fields)
    raise Malformed(f"{fields.path}: names none of {', '.join((*_ANSWERS, _SEEN_AT[0]))}")


def _expired(fields: Fields) -> dict[str, Any]:
    """A profile repeats weekly and a battery keeps its last setpoint: neither may stay."""
    over = fields.instant("now") >= fields.instant("group_blocks_end")
    device = fields.text("device")
    if device == "bluegen":
        unit, ours = fields.integer("unit"), fields.integer("fpd_pid")
        original = fields.optional_integer("original_pid")
        if not over:
            return {"calls": []}
        if original is None:
            return {
                "calls": [],
                "then": f"POST /profiles/{ours}/points with the flat base power: there is no"
                " profile to give back",
            }
        return {
            "calls": [["PUT", f"/unit/{unit}/profile/{original}"]],
            "then": f"DELETE /profile/{ours} only after GET /unit/{unit}/profile shows pid"
            f" {original}; keep it if profiles are recycled",
        }
    return {"calls": _listed(_rest_of(fields, device)) if over else []}


def _rest_of(fields: Fields, device: str) -> tuple[Call, ...]:
    apis = {f"battery_{api}": api for api in BatteryApi}
    if device == "battery":
        device = f"battery_{fields.choice('api', BatteryApi, BatteryApi.V1)}"
    if device not in apis:
        raise fields.fault("device", f"{device!r} is none of bluegen, {', '.join(apis)}")
    mode = fields.value("restore_mode") if fields.has("restore_mode") else SELF_CONSUMPTION
    return battery_rest(apis[device], str(mode))


def _offline(fields: Fields) -> dict[str, Any]:
    """The import limit in force: of a provider that may be offline, by the rules for envelopes."""
    now = fields.instant("now")
    static = fields.optional_number("static_limit_w")
    given = {
        ForecastType.CONSUMPTION: fields.optional_number("consumption_cap_w"),
        ForecastType.FALLBACK_CONSUMPTION: fields.optional_number("fallback_consumption_cap_w"),
    }
    with fields.named():
        messages = [
            _standing(type_, limit, now) for type_, limit in given.items() if limit is not None
        ]
    found = envelope_at(
        messages,
        at=now,
        provider_online=now < fields.instant("offline_mode_at"),
        terms=Terms(
            static_import_w=None if static is None else floor_w(static),
            gap_policy=GapPolicy.FALLBACK,
        ),
    )
    return {
        "effective_consumption_cap_w": found.max_w,
        "mode": _MODES.get(found.reason, found.reason.value),
    }


def _standing(type_: ForecastType, limit_w: Decimal, now: datetime) -> Forecast:
    block = Block(
        start_at=now, end_at=now + _MOMENT, capacity=limit_w, unit=Unit.W, phase=Phase.ALL
    )
    return Forecast(received_at=now, type=type_, blocks=(block,))


def _unit(fields: Fields) -> dict[str, Any]:
    """Dispatchable is a unit in Power Export whose power profile is active (devices §1.3).

    Any other state exports nothing as far as is known; one that ignores profiles delivers what
    is measured. Nothing is sent: the safe profile stays assigned, so that it wakes up capped.
    """
    state = "".join(fields.text("status", "").lower().split())
    measured = next((fields.number(name) for name in _POWERS if fields.has(name)), None)
    profiling = str(fields.value("pp") if fields.has("pp") else 1) == "1"
    exporting = state == _EXPORTING
    assumed = measured if exporting or state not in _NO_OUTPUT else Decimal(0)
    return {
        "dispatchable": exporting and profiling,
        "assume_output_w": None if assumed is None else floor_w(assumed),
        "calls": [],
    }


def _status_of(fields: Fields) -> dict[str, Any]:
    """No new setpoint for a controller that is frozen or silent: only rest (devices §7)."""
    fresh = _age_s(fields) <= fields.positive("stale_after_s", 60)
    calls_ = () if fresh else _rest_of(fields, fields.text("device"))
    return {"dispatchable": fresh, "calls": _listed(calls_)}


def _age_s(fields: Fields) -> Decimal:
    for name in _AGES:
        if fields.has(name):
            age_s = fields.number(name)
            if not 0 <= age_s <= _OLDEST_S:
                raise fields.fault(name, "out of range")
            return age_s
    seen_at = next(fields.instant(name) for name in _SEEN_AT if fields.has(name))
    return Decimal((fields.instant("now") - seen_at) / _MOMENT)


def _listed(made: tuple[Call, ...]) -> list[list[Any]]:
    return [[dict(part) if isinstance(part, Mapping) else part for part in call] for call in made]


_ANSWERS: Final[Mapping[str, Callable[[Fields], dict[str, Any]]]] = {
    "group_blocks_end": _expired,
    "offline_mode_at": _offline,
    "status": _unit,
}
