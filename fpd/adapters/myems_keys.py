"""The keys of a device behind MyEMS in the configuration, and what its operator should know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fpd.adapters.cautions import KEEPS_ITS_SETPOINT
from fpd.adapters.storage_keys import SOC_IN_ORDER, StorageDevice
from fpd.config_key import Together, both, key, required


@dataclass(frozen=True, slots=True, kw_only=True)
class MyemsDevice(StorageDevice):
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
    neutral: float = key(0.0, "the value that lets go of the device, in command_unit")
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


TOGETHER: Final = (
    SOC_IN_ORDER,
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


def cautions(device: MyemsDevice) -> list[str]:
    """Return what the operator should know: against a dead machine nothing here can help."""
    return [KEEPS_ITS_SETPOINT]
