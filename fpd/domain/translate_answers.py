"""Translate what devices answer: a raw answer to its values, a refusal to what is done about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from fpd.domain import battery_answers, bluegen_answers, reengen_answers
from fpd.domain.bluegen_errors import ACTIONS, classify
from fpd.domain.fields import Fields
from fpd.domain.lenient import number
from fpd.errors import Malformed

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HANDLED: Final = {0: "ok", 5: "stop_device", 13: "retry_backoff", 16: "bug"}


def bluegen_error(fields: Fields) -> dict[str, Any]:
    """Return what is done about an answer with this HTTP status and body, text or JSON."""
    body = fields.value("body") if fields.has("body") else ""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    kind, _ = classify(fields.integer("status"), text)
    return {"action": ACTIONS[kind]}


def parse(fields: Fields) -> dict[str, Any]:
    """Return the values of a raw answer, ready for JSON."""
    what = fields.text("what")
    if what not in _READERS:
        raise fields.fault("what", f"{what!r} is none of {', '.join(_READERS)}")
    fields.value("raw")
    try:
        return _READERS[what](fields)
    except Malformed as error:
        if str(error).startswith(f"{fields.path}."):
            raise
        raise fields.fault("raw", str(error)) from None


def _limits(fields: Fields) -> dict[str, Any]:
    raw = fields.value("raw")
    unit = bluegen_answers.limits(raw, slew_minutes=fields.integer("slew_minutes", 1))
    return {
        "min_w": float(unit.min_w),
        "max_w": float(unit.max_w),
        "step_up_w_per_tick": unit.step_up_w,
        "step_dn_w_per_tick": unit.step_dn_w,
    }


def _status(fields: Fields) -> dict[str, Any]:
    status = bluegen_answers.unit_status(fields.value("raw"))
    return {
        "model": status.model,
        "profile_enabled": status.profiling,
        "state": status.known,
        "dispatchable": status.dispatchable,
        "tz": status.tz,
        "gid": status.group_id,
        "pid": status.profile_id,
    }


def _current(fields: Fields) -> dict[str, Any]:
    found = bluegen_answers.measured(fields.value("raw"), "current", tz=_zone(fields))
    return {"at": _text(found.at), "power_w": found.power, "gas_slm": found.gas}


def _accumulated(fields: Fields) -> dict[str, Any]:
    found = bluegen_answers.measured(fields.value("raw"), "acc", tz=_zone(fields))
    return {"at": _text(found.at), "energy_kwh": found.power, "gas_kl": found.gas}


def _profile(fields: Fields) -> dict[str, Any]:
    """Read a profile with its points, or which one is assigned: `{"pid", "when"}`."""
    raw = fields.value("raw")
    if isinstance(raw, Mapping) and "pid" in raw and "points" not in raw:
        return {"pid": bluegen_answers.assigned_profile(raw)}
    profile_id, name = bluegen_answers.profile_name(raw)
    points = bluegen_answers.points(raw)
    return {
        "id": profile_id,
        "name": name,
        "points": [{"tick": tick, "power": power_w} for tick, power_w in points],
    }


def _units(fields: Fields) -> dict[str, Any]:
    found = bluegen_answers.units(fields.value("raw"))
    return {"units": [{"id": unit_id, "name": name} for unit_id, name in found.items()]}


def _profiles(fields: Fields) -> dict[str, Any]:
    found = bluegen_answers.profiles(fields.value("raw"))
    return {"profiles": [{"id": profile_id, "name": name} for name, profile_id in found.items()]}


def _login(fields: Fields) -> dict[str, Any]:
    """Read a login's answer; `received_at`: when it came, for a token that only says its end."""
    at = fields.instant("received_at") if fields.has("received_at") else _EPOCH
    found = bluegen_answers.login(fields.value("raw"), now=at)
    return {
        "token": found.token,
        "eula_accepted": found.eula_accepted,
        "issued_at": _text(found.issued_at),
        "life_s": found.life_s,
        "last_login": found.last_login,
        "tz": found.tz,
    }


def _pubkey(fields: Fields) -> dict[str, Any]:
    key, issued_on = bluegen_answers.public_key(fields.value("raw"))
    return {"pubkey": key, "issued_on": issued_on}


def _location(fields: Fields) -> dict[str, Any]:
    found = bluegen_answers.location(fields.value("raw"))
    lhv = found.pop("lhv", None)
    return {**found, "lhv_kwh_per_m3": number(lhv)}


def _history(fields: Fields) -> dict[str, Any]:
    rows = bluegen_answers.history(fields.value("raw"), tz=_zone(fields))
    return {
        "samples": [{"at": _text(row.at), "power_w": row.power, "gas_slm": row.gas} for row in rows]
    }


def _battery_status(fields: Fields) -> dict[str, Any]:
    status = battery_answers.status(fields.value("raw"))
    return {
        "discharge_w": status.pac_w,
        "net_import_w": status.grid_w,
        "usoc": status.usoc,
        "installed": status.installed,
        "balance_error_w": status.balance_error_w,
    }


def _return_code(fields: Fields) -> dict[str, Any]:
    """Read the body of a write: text as it came, or JSON that was read already."""
    raw = fields.value("raw")
    text = raw if isinstance(raw, str) else json.dumps(raw)
    code = battery_answers.return_code(text)
    action = "retry_backoff" if code is None else _HANDLED.get(code, "retry_backoff")
    return {"code": code, "ok": code == 0, "action": action}


def _listdata(fields: Fields) -> dict[str, Any]:
    rows = reengen_answers.list_data(fields.value("raw"))
    return {
        "intervals": [[row.start, row.end, row.value] for row in rows],
        "counter_consistent": reengen_answers.consistent(rows),
    }


def _getdata(fields: Fields) -> dict[str, Any]:
    series = reengen_answers.get_data(fields.value("raw"))
    return {"series": [[[one.at, one.point, one.value] for one in rows] for rows in series]}


_READERS: Final[Mapping[str, Callable[[Fields], dict[str, Any]]]] = {
    "bluegen_limits": _limits,
    "bluegen_status": _status,
    "bluegen_current": _current,
    "bluegen_accumulated": _accumulated,
    "bluegen_acc": _accumulated,
    "bluegen_profile": _profile,
    "bluegen_units": _units,
    "bluegen_members": _units,
    "bluegen_profiles": _profiles,
    "bluegen_login": _login,
    "bluegen_pubkey": _pubkey,
    "bluegen_version": lambda fields: bluegen_answers.parts(fields.value("raw")),
    "bluegen_location": _location,
    "bluegen_history": _history,
    "battery_status": _battery_status,
    "battery_return_code": _return_code,
    "reengen_listdata": _listdata,
    "reengen_getdata": _getdata,
}


def _zone(fields: Fields) -> tzinfo:
    return fields.zone("tz", "UTC")


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
