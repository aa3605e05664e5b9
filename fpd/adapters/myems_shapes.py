"""What MyEMS's lists hold, as far as fpd uses it; what it does not use is ignored.

Shapes are those of v6.7.0 (reference: myems §3); numbers are exact.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from fpd.adapters.device import Unreachable

T = TypeVar("T")

_MAGNITUDE = 24


class Ref(msgspec.Struct, frozen=True):
    """A point, meter or category that something else names."""

    id: int
    name: str = ""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """`units` is free text and nothing is converted by it."""

    id: int
    name: str
    object_type: str
    units: str | None = None
    high_limit: Decimal | None = None
    low_limit: Decimal | None = None
    is_trend: bool = True
    is_virtual: bool = False
    data_source: Ref | None = None


class MeterPoint(msgspec.Struct, frozen=True):
    """A meter's point as an API key sees it: without units and type."""

    id: int
    name: str


class Meter(msgspec.Struct, frozen=True, kw_only=True):
    """A meter, virtual or offline meter."""

    id: int
    name: str
    energy_category: Ref | None = None
    hourly_low_limit: Decimal | None = None
    hourly_high_limit: Decimal | None = None


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """An energy category; `unit_of_measure` is what reports of meters are in."""

    id: int
    name: str
    unit_of_measure: str | None = None


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What is published to `topic`: `payload`, its `$s1` replaced by the value."""

    id: int
    name: str
    topic: str | None = None
    payload: str | None = None
    set_value: Decimal | None = None
    description: str | None = None


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """A storage container or a microgrid."""

    id: int
    name: str
    rated_capacity: Decimal | None = None
    rated_power: Decimal | None = None


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A battery, generator, charger, grid, … of an owner, with its points and meters."""

    id: int
    name: str
    power_point: Ref | None = None
    soc_point: Ref | None = None
    battery_state_point: Ref | None = None
    meter: Ref | None = None
    charge_meter: Ref | None = None
    discharge_meter: Ref | None = None
    buy_meter: Ref | None = None
    sell_meter: Ref | None = None
    rated_capacity: Decimal | None = None
    rated_power: Decimal | None = None
    rated_output_power: Decimal | None = None
    rated_input_power: Decimal | None = None
    capacity: Decimal | None = None


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A daily recurring plan row; times of day are local to the server."""

    id: int
    start_time_of_day: str
    end_time_of_day: str
    peak_type: str
    power: Decimal


class PointValue(msgspec.Struct, frozen=True):
    """A value of the last 60 minutes; MyEMS does not say of when."""

    point_id: int
    value: Decimal


class Version(msgspec.Struct, frozen=True):
    version: str


class Log(msgspec.Struct, frozen=True):
    """An entry of the audit log: the same instant, local and in UTC."""

    request_datetime: str
    request_datetime_utc: str


def is_plausible(value: Decimal) -> bool:
    """Whether a value can be one of a DECIMAL(18, 6), give or take what an edit may do to it."""
    return value.is_finite() and (not value or abs(value.adjusted()) <= _MAGNITUDE)


def shaped(value: Any, kind: type[T], what: str) -> T:
    """Give a decoded answer its form. Raises Unreachable when it has another one."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Unreachable(f"{what}: not what MyEMS answers: {error}") from None
