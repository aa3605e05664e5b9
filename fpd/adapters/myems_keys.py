"""The keys of a device behind MyEMS in the configuration, and what its operator should know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fpd.adapters.cautions import KEEPS_ITS_SETPOINT
from fpd.adapters.storage_keys import SOC_IN_ORDER, StorageDevice, storage
from fpd.config_key import Together, both, key, required
from fpd.domain.control.ability import Ability, Adjustable
from fpd.domain.units import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class MyemsDevice(StorageDevice):
    """What stores has `capacity_wh`; a generator, a charger or a load has `rest_w` in its place."""

    capacity_wh: int = key(0, "usable energy, Wh, of what stores", minimum=0, example=200000)
    rest_w: int | None = key(
        None,
        "of what stores nothing: what it delivers by itself, W; what it takes is negative",
        example=-3300,
    )
    api_key: str | None = key(
        None, "API key for reading (default: the account)", secret=True, example="change-me"
    )
    username: str | None = key(
        None, "administrator who may write; not needed via mqtt", example="fpd"
    )
    password: str | None = key(None, "its password", secret=True, example="change-me")
    ca_file: Path | None = key(
        None, "certificate authority of the API (PEM)", readable=True, example="/etc/fpd/ca.crt"
    )
    utc_offset: str = key("+08:00", "MyEMS's utc_offset; used with meter_id", form="offset")
    via: Literal["api", "mqtt"] = key(
        "api", "MyEMS publishes the command, or we do on [mqtt]'s broker, with QoS 1"
    )
    command_id: int = required("the command that sets the power", minimum=1, example=1)
    command_unit: Literal["W", "kW"] = key("kW", "unit of the command's value")
    command_positive: Literal["discharge", "charge"] = key("charge", "what a positive value does")
    command_step: float = key(0.1, "values are multiples of this, in command_unit", minimum=1e-6)
    neutral: float | None = key(
        None,
        "the value that lets go of the device, in command_unit (default: 0, or rest_w)",
        example=0.0,
    )
    at_most: bool = key(
        False, "values are limits: to do less is to follow (a charger, a load); beside rest_w"
    )
    point_id: int = required("the point that shows its power", minimum=1, example=14)
    point_unit: Literal["W", "kW"] = key("kW", "unit of that point")
    point_positive: Literal["discharge", "charge"] = key("charge", "what its positive values mean")
    meter_id: int | None = key(
        None, "a meter that the point belongs to: then its values have a time", minimum=1, example=6
    )
    soc_point_id: int | None = key(None, "point of the state of charge, %", minimum=1, example=13)
    tolerance_w: int = key(100, "how far the power may be from a setpoint (or 10 %)", minimum=1)
    verify_after_s: float = key(
        90.0, "a setpoint must show by then: some three times what MyEMS acquires in", minimum=1
    )
    stale_after_s: float = key(180.0, "older readings are not trusted for control", minimum=1)


def _rests_within(device: Mapping[str, Any]) -> bool:
    rest_w = device["rest_w"]
    return rest_w is None or -device["max_charge_w"] <= rest_w <= device["max_discharge_w"]


TOGETHER: Final = (
    SOC_IN_ORDER,
    Together(
        frozenset({"command_id", "capacity_wh", "rest_w"}),
        "a capacity_wh of what stores, or a rest_w of what does not",
        lambda device: bool(device["capacity_wh"]) is (device["rest_w"] is None),
    ),
    Together(
        frozenset({"rest_w", "max_charge_w", "max_discharge_w"}),
        "a rest_w from -max_charge_w to max_discharge_w",
        _rests_within,
    ),
    Together(
        frozenset({"at_most", "rest_w"}),
        "rest_w beside at_most",
        lambda device: not device["at_most"] or device["rest_w"] is not None,
    ),
    both("username", "password"),
    Together(
        frozenset({"via", "username"}),
        "username and password beside via = api",
        lambda device: device["via"] == "mqtt" or device["username"] is not None,
    ),
    Together(
        frozenset({"api_key", "username", "base_url"}),
        "an api_key, or username and password",
        lambda device: device["api_key"] is not None or device["username"] is not None,
    ),
)


def ability(device: MyemsDevice) -> Ability:
    """Return what the device can do."""
    if device.rest_w is None:
        return storage(device)
    return Adjustable(
        least_w=-device.max_charge_w,
        most_w=device.max_discharge_w,
        rest_w=device.rest_w,
        deadband_w=device.deadband_w,
        phases=tuple(Phase(name) for name in device.phases),
    )


def cautions(device: MyemsDevice) -> list[str]:
    """Return what the operator should know: against a dead machine nothing here can help."""
    return [KEEPS_ITS_SETPOINT]
