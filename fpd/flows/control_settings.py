"""What the control settings of groups and assets mean (decision M10).

They were checked when they were stored; whatever cannot be read here all the same counts as not
given, because control must go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, TypeVar

from fpd.domain.forecast import GapPolicy, OptimumDirection, Terms
from fpd.store.control import Asset, Property

_WATTS = {"W": Decimal(1), "kW": Decimal(1000)}

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Meter:
    """Where the group's net import is measured; `factor` makes it W, import +."""

    node_id: int
    source_id: str
    property: str
    factor: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`flexible`: limits are meant for the flexible devices alone. `margin`: 0..0.5 of a limit.

    `request_adjustment`: a provider whose limit cannot be kept is asked for one that can.
    `expected_load`: the stream that says what the group will take, None: its own history does.
    """

    terms: Terms
    flexible: bool
    margin: Decimal
    meter: Meter | None
    request_adjustment: bool = False
    expected_load: Meter | None = None


def settings_of(control: Mapping[str, Any] | None) -> Settings:
    """Read the settings of a group."""
    given = control or {}
    static_import_w = _number(given.get("staticImportLimit"))
    static_export_w = _number(given.get("staticExportLimit"))
    return Settings(
        terms=Terms(
            v_ln=_number(given.get("nominalVoltage")) or 230,
            phases=1 if _number(given.get("phases")) == 1 else 3,
            static_import_w=None if static_import_w is None else int(static_import_w),
            static_export_w=None if static_export_w is None else int(static_export_w),
            gap_policy=_choice(given.get("gapPolicy"), GapPolicy.FALLBACK),
            optimum_direction=_choice(given.get("optimumDirection"), OptimumDirection.AUTO),
        ),
        flexible=given.get("capacityScope") == "Flexible",
        margin=(_number(given.get("marginPercent")) or Decimal(0)) / 100
        if "marginPercent" in given
        else Decimal("0.02"),
        meter=_meter(given.get("meter")),
        request_adjustment=given.get("requestAdjustment") is True,
        expected_load=_meter(given.get("expectedLoad")),
    )


def is_watched(settings: Settings, assets: Sequence[Asset]) -> bool:
    """Tell whether there is something to steer or to measure (`store.control.WATCHED`)."""
    return settings.meter is not None or any(asset.device is not None for asset in assets)


def properties_of(
    settings: Settings, assets: Sequence[Asset], *, user_id: int
) -> list[tuple[Property, Decimal]]:
    """Return which properties together measure the group, each with what makes it W, import +.

    The meter alone if there is one, else every uncontrolled asset measured in W or kW.
    Interpretation: an asset's multiplier makes its value import positive, as it is reported.
    """
    meter = settings.meter
    if meter is not None:
        return [(Property(user_id, meter.node_id, meter.source_id, meter.property), meter.factor)]
    driven = {_stream(asset) for asset in assets if asset.drives}
    found: dict[Property, Decimal] = {}
    for asset in assets:
        given = asset.instantaneous or {}
        factor = _WATTS.get(str(given.get("unit")))
        if factor is None or _stream(asset) in driven:
            continue
        multiplier = _number(given.get("multiplier"))
        for name in given.get("propertyNames") or ():
            # One property counts once, whichever audiences it is reported to.
            found[Property(user_id, *_stream(asset), str(name))] = factor * (
                Decimal(1) if multiplier is None else multiplier
            )
    return list(found.items())


def _stream(asset: Asset) -> tuple[int, str]:
    return asset.node_id, asset.source_id.lstrip("/")


def _meter(given: Any) -> Meter | None:
    if not isinstance(given, dict):
        return None
    node_id, factor = _number(given.get("nodeId")), _number(given.get("multiplier"))
    source_id, name = given.get("sourceId"), given.get("property")
    if node_id is None or not isinstance(source_id, str) or not isinstance(name, str):
        return None
    return Meter(int(node_id), source_id, name, Decimal(1) if factor is None else factor)


def _number(given: Any) -> Decimal | None:
    if given is None or isinstance(given, bool):
        return None
    try:
        value = Decimal(str(given))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _choice(given: Any, default: E) -> E:
    try:
        return type(default)(given)
    except ValueError:
        return default
