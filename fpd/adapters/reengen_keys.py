"""The keys of a device behind a Reengen platform: the command that steers it, what shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from fpd.adapters.cautions import KEEPS_ITS_SETPOINT
from fpd.adapters.storage_keys import SOC_IN_ORDER
from fpd.config import Device
from fpd.config_key import Together, both, key, required
from fpd.config_reengen import REENGEN_URL
from fpd.domain.control.ability import Adjustable, Storage
from fpd.domain.control.setpoint import Battery

Direction = Literal["discharge", "charge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One of the states that a switch or a MultiOption has."""

    code: str = required("code of the option; true or false of a switch", example="on")
    power_w: int = required(
        "what the device delivers to the site then, W; what it takes is negative", example=5000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReengenDevice(Device):
    base_url: str = key(REENGEN_URL, "address of the platform's API", schemes=("http", "https"))
    tenant: str = required("name of the tenant", example="tenant")
    user: str = required("who logs in", example="fpd")
    password: str = required("its password", secret=True, example="change-me")
    ca_file: Path | None = key(
        None, "certificate authority of the API (PEM)", readable=True, example="/etc/fpd/ca.crt"
    )
    tz: str = key("Europe/Istanbul", "the tenant's time zone", form="zone")
    min_interval_s: float = key(1.0, "from one request to the next", minimum=0, maximum=60)
    timeout_s: float = key(10.0, "how long an answer may take", minimum=0.1, maximum=60)
    point: str = required("code of the point that lists the command", example="xFabrikaDepo")
    command: str = required("code of the command that sets the power", example="power-set")
    command_unit: Literal["W", "kW"] = key("W", "unit of the command's number")
    command_positive: Direction = key("discharge", "what a positive number does")
    command_step: float = key(1.0, "numbers are multiples of this, in command_unit", minimum=1e-6)
    neutral: str | None = key(
        None,
        "the parameter that lets go of the device (default: that of rest_w)",
        example="on",
    )
    least_w: int = required(
        "the least that it can be told to deliver to the site, W; what it takes is negative",
        example=-3000,
    )
    most_w: int = required("the most that it can be told to deliver, W", example=0)
    rest_w: int = key(0, "what it delivers by itself, W")
    confirm: str | None = key(
        None,
        "code of the point that shows its power (default: the platform's word counts)",
        example="xFabrikaDepo",
    )
    confirm_definition: str = key("activePower", "what of that point shows it")
    confirm_variant: str = key("phase", "and which variant")
    confirm_index: int = key(1, "and which index", minimum=0)
    confirm_positive: Direction = key("charge", "what its positive values mean")
    tolerance_w: int = key(100, "how far the power may be from what was told (or 10 %)", minimum=1)
    verify_after_s: float = key(1800.0, "the point must show what was told by then", minimum=1)
    poll_s: float = key(60.0, "seconds between readings", minimum=1)
    alone_s: float = key(
        300.0, "left alone so long after a command was not taken three times", minimum=1
    )
    stale_after_s: float = key(1800.0, "older readings are not trusted for control", minimum=1)
    deadband_w: int = key(50, "smaller changes are not sent unless a limit needs them", minimum=0)
    capacity_wh: int | None = key(
        None, "of a battery: usable energy, Wh; least_w charges it", minimum=1, example=10000
    )
    soc_point: str | None = key(
        None, "of a battery: code of the point that shows its state of charge", example="xBattery"
    )
    soc_definition: str = key("stateOfCharge", "what of that point shows it, %")
    soc_variant: str = key("actual", "and which variant")
    soc_index: int = key(1, "and which index", minimum=0)
    soc_min: float = key(10.0, "discharge stops here, %", minimum=0, maximum=100)
    soc_max: float = key(100.0, "charge stops here, %", minimum=0, maximum=100)
    soc_hyst: float = key(3.0, "released again this far inside the limit, %", minimum=0, maximum=50)
    eff_charge: float = key(0.95, "charging efficiency, 0..1", minimum=0.1, maximum=1)
    eff_discharge: float = key(0.95, "discharging efficiency, 0..1", minimum=0.1, maximum=1)
    option: tuple[Option, ...] = key((), "its states, if it cannot be told a number")


def ability(device: ReengenDevice) -> Adjustable | Storage:
    """Return what the device can do: with a capacity it is a battery."""
    if device.capacity_wh is not None:
        battery = Battery(
            capacity_wh=Decimal(device.capacity_wh),
            max_charge_w=-device.least_w,
            max_discharge_w=device.most_w,
            soc_min=Decimal(str(device.soc_min)),
            soc_max=Decimal(str(device.soc_max)),
            soc_hyst=Decimal(str(device.soc_hyst)),
            eff_charge=Decimal(str(device.eff_charge)),
            eff_discharge=Decimal(str(device.eff_discharge)),
        )
        return Storage(battery=battery, deadband_w=device.deadband_w)
    return Adjustable(
        least_w=device.least_w,
        most_w=device.most_w,
        rest_w=device.rest_w,
        deadband_w=device.deadband_w,
    )


def _codes(device: Mapping[str, Any]) -> list[str]:
    return [option.code for option in device["option"]]


TOGETHER: Final = (
    SOC_IN_ORDER,
    both("capacity_wh", "soc_point"),
    Together(
        frozenset({"capacity_wh", "least_w", "rest_w", "most_w"}),
        "least_w <= rest_w = 0 <= most_w beside capacity_wh",
        lambda device: (
            device["capacity_wh"] is None
            or (device["least_w"] <= 0 <= device["most_w"] and device["rest_w"] == 0)
        ),
    ),
    Together(
        frozenset({"least_w", "rest_w", "most_w"}),
        "least_w <= rest_w <= most_w",
        lambda device: device["least_w"] <= device["rest_w"] <= device["most_w"],
    ),
    Together(
        frozenset({"option"}),
        "each code once",
        lambda device: len(set(_codes(device))) == len(device["option"]),
    ),
    Together(
        frozenset({"neutral", "option"}),
        "a neutral that is the code of an option",
        lambda device: not device["option"] or device["neutral"] in (None, *_codes(device)),
    ),
)


def cautions(device: ReengenDevice) -> list[str]:
    """Return what the operator should know: against a dead machine nothing here can help."""
    said = [KEEPS_ITS_SETPOINT]
    if device.confirm is None:
        said.append("no point shows what it does: the platform's word counts (see confirm)")
    return said
