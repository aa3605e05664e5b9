"""What batteries answer, read leniently (reference: devices §2.1, §2.2)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fpd.adapters.device import Unreachable
from fpd.adapters.http import Reply
from fpd.adapters.lenient import integer, mapping, number, power

_INSTALLED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The status, W and %: `pac_w` discharge positive, `grid_w` import positive.

    `timestamp` is the device's local time as it wrote it. `trouble` says why the battery cannot
    be dispatched, None if it can.
    """

    pac_w: float
    usoc: float
    consumption_w: float | None
    production_w: float | None
    grid_w: float | None
    frequency_hz: float | None
    voltage_v: float | None
    timestamp: str | None
    trouble: str | None


def status(reply: Reply) -> Status:
    """Read a status. Raises Unreachable if it is not one, or lacks what control needs.

    Keys are compared in lower case with blanks as underscores: seed 002 prints "Pac total_W"
    and "Pac_total_W" for the same value.
    """
    if not reply.ok:
        raise Unreachable(f"HTTP {reply.status} to the status")
    fields = {
        key.strip().lower().replace(" ", "_"): value for key, value in mapping(reply.json()).items()
    }
    code = integer(fields.get("returncode"))
    if code is not None:
        raise Unreachable(f"return code {code} instead of a status")
    pac_w, usoc = power(fields.get("pac_total_w")), number(fields.get("usoc"))
    if pac_w is None or usoc is None:
        missing = "Pac_total_W" if pac_w is None else "USOC"
        raise Unreachable(f"the status lacks {missing}")
    consumption_w = _not_negative(power(fields.get("consumption_w")))
    production_w = _not_negative(power(fields.get("production_w")))
    timestamp = fields.get("timestamp")
    return Status(
        pac_w=pac_w,
        usoc=min(max(usoc, 0.0), 100.0),
        consumption_w=consumption_w,
        production_w=production_w,
        grid_w=_grid(power(fields.get("gridfeedin_w")), consumption_w, production_w, pac_w),
        frequency_hz=number(fields.get("fac")),
        voltage_v=number(fields.get("uac")),
        timestamp=None if timestamp is None else str(timestamp),
        trouble=_trouble(fields),
    )


def _not_negative(value: float | None) -> float | None:
    """Electronics and fans show as small negative values."""
    return None if value is None else max(value, 0.0)


def _grid(
    feed_in_w: float | None, consumption_w: float | None, production_w: float | None, pac_w: float
) -> float | None:
    """Return the net import: measured if the device measures it, else by balance."""
    if feed_in_w is not None:
        return -feed_in_w
    if consumption_w is None or production_w is None:
        return None
    return consumption_w - production_w - pac_w


def _trouble(fields: dict[str, Any]) -> str | None:
    """Interpretation: a field that is missing says nothing; a field that says no counts."""
    if fields.get("issysteminstalled") is not None and (
        integer(fields["issysteminstalled"]) != _INSTALLED
    ):
        return "the system is not installed"
    if number(fields.get("fac")) == 0 or number(fields.get("uac")) == 0:
        return "the inverter is not running"
    if str(fields.get("systemstatus", "")).replace(" ", "").lower() == "offgrid":
        return "off grid"
    return None


def return_code(reply: Reply) -> int | None:
    """Return the return code of a v1 write; None when the answer holds none.

    Seed 002 does not show the body. Read as code: `{"ReturnCode": 0}` with number or text, a
    bare number, and as 0 an empty body or `true`.
    """
    said = reply.text.strip()
    if said in ("", "true"):
        return 0
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = next((v for k, v in value.items() if k.lower() == "returncode"), None)
    return integer(value)
