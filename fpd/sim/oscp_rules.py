"""What an OSCP 2.0 message must look like, field by field, written from the schemas alone.

An independent judge: it shares nothing with fpd's own wire code. A rule takes a decoded value and
where it stands, and yields one sentence for each thing wrong with it. Unknown fields are allowed
(no schema forbids them); null is never a value (no schema allows it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

Rule = Callable[[Any, str], Iterator[str]]

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PHASES = ("UNKNOWN", "ONE", "TWO", "THREE", "ALL")


def text(value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, str) or not value:
        yield f"{at} must be a string that is not empty"


def url(value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, str) or not re.match(r"https?://[^/]", value):
        yield f"{at} must be an absolute http(s) URL"


def number(minimum: float | None = None) -> Rule:
    def rule(value: Any, at: str) -> Iterator[str]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield f"{at} must be a number"
        elif minimum is not None and value < minimum:
            yield f"{at} must be at least {minimum:g}"

    return rule


def one_of(*known: str) -> Rule:
    def rule(value: Any, at: str) -> Iterator[str]:
        if value not in known:
            yield f"{at} must be one of {', '.join(known)}"

    return rule


def instant(value: Any, at: str) -> Iterator[str]:
    """RFC 3339 with an explicit zone."""
    if not isinstance(value, str) or not _INSTANT.fullmatch(value) or read_instant(value) is None:
        yield f"{at} must be an RFC 3339 date-time with a zone"


def array(item: Rule, *, at_least: int = 0, unique: bool = False) -> Rule:
    def rule(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, list):
            yield f"{at} must be an array"
            return
        if len(value) < at_least:
            yield f"{at} must have at least {at_least} item"
        if unique and any(one in value[:position] for position, one in enumerate(value)):
            yield f"{at} must not repeat an item"
        for position, one in enumerate(value):
            yield from item(one, f"{at}[{position}]")

    return rule


def record(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    rules = {**required, **(optional or {})}

    def rule(value: Any, at: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{at or 'the body'} must be an object"
            return
        prefix = f"{at}." if at else ""
        for name in required.keys() - value.keys():
            yield f"{prefix}{name} is required"
        for name in rules.keys() & value.keys():
            yield from rules[name](value[name], f"{prefix}{name}")

    return rule


def both(first: Rule, second: Rule) -> Rule:
    """Apply `second` where `first` finds nothing."""

    def rule(value: Any, at: str) -> Iterator[str]:
        problems = list(first(value, at))
        yield from problems or second(value, at)

    return rule


def _ends_after_start(value: Any, at: str) -> Iterator[str]:
    start, end = read_instant(value["start_time"]), read_instant(value["end_time"])
    if start is not None and end is not None and end <= start:
        yield f"{at}.end_time must be after start_time"


def read_instant(value: Any) -> datetime | None:
    """Return the instant that `value` names, in UTC; None if it names none."""
    try:
        return _EPOCH + (datetime.fromisoformat(value) - _EPOCH)
    except (TypeError, ValueError, OverflowError):
        return None


REGISTER = record(
    {
        "token": text,
        "version_url": array(record({"version": text, "base_url": url}), at_least=1),
    }
)
HANDSHAKE = record(
    {},
    {
        "required_behaviour": record(
            {"measurement_configuration": array(one_of("CONTINUOUS", "INTERMITTENT"), unique=True)},
            {"heartbeat_interval": number(1)},
        )
    },
)
HEARTBEAT = record({"offline_mode_at": instant})
_BLOCK = both(
    record(
        {
            "capacity": number(0),
            "phase": one_of(*_PHASES),
            "unit": one_of("A", "W", "KW", "WH", "KWH"),
            "start_time": instant,
            "end_time": instant,
        }
    ),
    _ends_after_start,
)
FORECAST = record(
    {
        "group_id": text,
        "type": one_of(
            "CONSUMPTION",
            "GENERATION",
            "FALLBACK_CONSUMPTION",
            "FALLBACK_GENERATION",
            "OPTIMUM",
        ),
        "forecasted_blocks": array(_BLOCK, at_least=1),
    }
)
COMPLIANCE_ERROR = record({"message": text}, {"forecasted_blocks": array(_BLOCK, at_least=1)})
_ENERGY = record(
    {
        "value": number(),
        "phase": one_of(*_PHASES),
        "unit": one_of("WH", "KWH"),
        "direction": one_of("NET", "IMPORT", "EXPORT"),
        "measure_time": instant,
    },
    {
        "energy_type": one_of("FLEXIBLE", "NONFLEXIBLE", "TOTAL"),
        "initial_measure_time": instant,
    },
)
_INSTANTANEOUS = record(
    {
        "value": number(),
        "phase": one_of(*_PHASES),
        "unit": one_of("A", "W", "KW", "WH", "KWH"),
        "measure_time": instant,
    }
)
GROUP_MEASUREMENTS = record({"group_id": text, "measurements": array(_ENERGY, at_least=1)})
ASSET_MEASUREMENTS = record(
    {
        "group_id": text,
        "measurements": array(
            record(
                {
                    "asset_id": text,
                    "asset_category": one_of("CHARGING", "CONSUMPTION", "GENERATION", "STORAGE"),
                },
                {"energy_measurement": _ENERGY, "instantaneous_measurement": _INSTANTANEOUS},
            ),
            at_least=1,
        ),
    }
)

BODIES: Mapping[str, Rule] = {
    "register": REGISTER,
    "handshake": HANDSHAKE,
    "handshake_acknowledge": HANDSHAKE,
    "heartbeat": HEARTBEAT,
    "update_group_capacity_forecast": FORECAST,
    "adjust_group_capacity_forecast": FORECAST,
    "group_capacity_compliance_error": COMPLIANCE_ERROR,
    "update_group_measurements": GROUP_MEASUREMENTS,
    "update_asset_measurements": ASSET_MEASUREMENTS,
}


def problems(operation: str, body: Any) -> list[str]:
    """Return what is wrong with `body` as the body of `operation`; empty when nothing is."""
    return list(BODIES[operation](body, ""))


def without_initial_time(body: Mapping[str, Any]) -> list[str]:
    """Return the energy measurements without `initial_measure_time`.

    It must be there when the recipient asked for INTERMITTENT (section 4.5.1).
    """
    missing = []
    for position, measurement in enumerate(body["measurements"]):
        energy = measurement.get("energy_measurement", measurement)
        if "direction" in energy and "initial_measure_time" not in energy:
            missing.append(f"measurements[{position}].initial_measure_time is required")
    return missing
