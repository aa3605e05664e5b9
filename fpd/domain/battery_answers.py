"""What batteries answer, read leniently (seed 002; reference: devices §2.1, §2.2).

What cannot be meant raises Malformed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fpd.domain.lenient import integer, mapping, number, power
from fpd.errors import Malformed

_INSTALLED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The status, W and %: `pac_w` discharge positive, `grid_w` import positive.

    `timestamp` is the device's local time as it wrote it. `lacking`: a field that control needs
    and that is not there. `may_discharge` is False when the battery itself says so. `trouble` says
    why it cannot be dispatched, None if it can. `balance_error_w`: by how much its own values
    disagree, None where one is missing.
    """

    pac_w: float | None
    usoc: float | None
    lacking: str | None
    may_discharge: bool
    consumption_w: float | None
    production_w: float | None
    grid_w: float | None
    frequency_hz: float | None
    voltage_v: float | None
    timestamp: str | None
    trouble: str | None
    installed: bool = True
    balance_error_w: float | None = None


def status(body: Any) -> Status:
    """Read a status, whatever it lacks, as long as it has something that control needs.

    Keys are compared in lower case with blanks as underscores: seed 002 prints "Pac total_W" and
    "Pac_total_W" for the same value.
    """
    fields = {key.strip().lower().replace(" ", "_"): value for key, value in mapping(body).items()}
    code = integer(fields.get("returncode"))
    if code is not None:
        raise Malformed(f"return code {code} instead of a status")
    pac_w, usoc = power(fields.get("pac_total_w")), number(fields.get("usoc"))
    timestamp = fields.get("timestamp")
    needed = {"Pac_total_W": pac_w, "USOC": usoc, "Timestamp": timestamp}
    lacking = [name for name, value in needed.items() if value is None]
    if len(lacking) == len(needed):
        raise Malformed("the answer is no status")
    consumption_w = _not_negative(power(fields.get("consumption_w")))
    production_w = _not_negative(power(fields.get("production_w")))
    feed_in_w = power(fields.get("gridfeedin_w"))
    return Status(
        pac_w=pac_w,
        usoc=None if usoc is None else min(max(usoc, 0.0), 100.0),
        lacking=", ".join(lacking) or None,
        may_discharge=fields.get("dischargenotallowed") not in (True, 1, "1", "true"),
        consumption_w=consumption_w,
        production_w=production_w,
        grid_w=_grid(feed_in_w, consumption_w, production_w, pac_w),
        frequency_hz=number(fields.get("fac")),
        voltage_v=number(fields.get("uac")),
        timestamp=None if timestamp is None else str(timestamp),
        trouble=_trouble(fields),
        installed=_is_installed(fields),
        balance_error_w=_balance(feed_in_w, consumption_w, production_w, pac_w),
    )


def return_code(text: str) -> int | None:
    """Return the return code of a v1 write; None when the answer holds none.

    Seed 002 does not show the body. Read as code: `{"ReturnCode": 0}` with number or text, a
    bare number, and as 0 an empty body or `true`.
    """
    said = text.strip()
    if said in ("", "true"):
        return 0
    try:
        value = json.loads(said)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = next((v for k, v in value.items() if k.lower() == "returncode"), None)
    return integer(value)


def _not_negative(value: float | None) -> float | None:
    """Electronics and fans show as small negative values."""
    return None if value is None else max(value, 0.0)


def _grid(
    feed_in_w: float | None,
    consumption_w: float | None,
    production_w: float | None,
    pac_w: float | None,
) -> float | None:
    """Return the net import: measured if the device measures it, else by balance."""
    if feed_in_w is not None:
        return -feed_in_w
    if consumption_w is None or production_w is None or pac_w is None:
        return None
    return consumption_w - production_w - pac_w


def _balance(
    feed_in_w: float | None,
    consumption_w: float | None,
    production_w: float | None,
    pac_w: float | None,
) -> float | None:
    if feed_in_w is None or consumption_w is None or production_w is None or pac_w is None:
        return None
    return production_w + pac_w - feed_in_w - consumption_w


def _is_installed(fields: dict[str, Any]) -> bool:
    """Interpretation: a field that is missing says nothing; a field that says no counts."""
    said = fields.get("issysteminstalled")
    return said is None or integer(said) == _INSTALLED


def _trouble(fields: dict[str, Any]) -> str | None:
    if not _is_installed(fields):
        return "the system is not installed"
    if number(fields.get("fac")) == 0 or number(fields.get("uac")) == 0:
        return "the inverter is not running"
    if str(fields.get("systemstatus", "")).replace(" ", "").lower() == "offgrid":
        return "off grid"
    return None
