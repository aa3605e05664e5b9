"""The keys of a battery in the configuration, and what they say it can do."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from fpd.config import Device
from fpd.config_key import Together, key, required
from fpd.domain.control.ability import Storage
from fpd.domain.control.setpoint import Battery
from fpd.domain.units import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryDevice(Device):
    api: Literal["v1", "v2", "auto"] = key(
        "v1", "v1: port 8080 without token; v2: Auth-Token; auto: whichever answers"
    )
    token: str | None = key(None, "Auth-Token of api v2", secret=True, example="change-me")
    capacity_wh: int = required("usable energy, Wh", minimum=1, example=10000)
    max_charge_w: int = required("largest charging power, W", minimum=0, example=3300)
    max_discharge_w: int = required("largest discharging power, W", minimum=0, example=3300)
    soc_min: float = key(10.0, "discharge stops here, % of USOC", minimum=0, maximum=100)
    soc_max: float = key(100.0, "charge stops here, % of USOC", minimum=0, maximum=100)
    soc_hyst: float = key(3.0, "released again this far inside the limit, %", minimum=0, maximum=50)
    eff_charge: float = key(0.95, "charging efficiency, 0..1", minimum=0.1, maximum=1)
    eff_discharge: float = key(0.95, "discharging efficiency, 0..1", minimum=0.1, maximum=1)
    keepalive_s: float = key(30.0, "an unchanged setpoint is repeated this often", minimum=1)
    phases: tuple[Literal["ONE", "TWO", "THREE"], ...] = key(
        (), "phases that it is connected to (default: all of the group's)", example=["ONE"]
    )
    spend: Literal["spread", "greedy"] = key(
        "spread", "a little energy: over a whole block, or at once"
    )
    rest: Literal["saved", "mode2", "idle"] = key(
        "saved", "api v2, given back: in the mode it had, in self-consumption, or standing still"
    )
    deadband_w: int = key(50, "smaller changes are not sent unless a limit needs them", minimum=0)
    min_sustain_s: int = key(900, "a setpoint must be holdable at least this long", minimum=1)
    verify_after_s: float = key(15.0, "a setpoint must show in the status by then", minimum=1)


TOGETHER: Final = (
    Together(
        frozenset({"soc_min", "soc_max"}),
        "soc_min below soc_max",
        lambda battery: battery["soc_min"] < battery["soc_max"],
    ),
    Together(
        frozenset({"api", "token"}),
        "a token beside api v2",
        lambda battery: battery["api"] != "v2" or battery["token"] is not None,
    ),
)


def storage(device: BatteryDevice) -> Storage:
    """Return what the battery can do."""
    return Storage(
        battery=Battery(
            capacity_wh=Decimal(device.capacity_wh),
            max_charge_w=device.max_charge_w,
            max_discharge_w=device.max_discharge_w,
            soc_min=Decimal(str(device.soc_min)),
            soc_max=Decimal(str(device.soc_max)),
            soc_hyst=Decimal(str(device.soc_hyst)),
            eff_charge=Decimal(str(device.eff_charge)),
            eff_discharge=Decimal(str(device.eff_discharge)),
        ),
        deadband_w=device.deadband_w,
        sustain_s=device.min_sustain_s,
        spread=device.spend == "spread",
        phases=tuple(Phase(name) for name in device.phases),
    )


def cautions(device: BatteryDevice) -> list[str]:
    """Return what the operator should know: against a dead machine nothing here can help."""
    if device.api == "v2":
        return []
    return [
        "keeps its last setpoint for ever: let systemd run `fpd release --after-stop` when the "
        "daemon ends (ExecStopPost in systemd/fpd.service); against a dead machine choose soc_min "
        "and max_…_w so that a setpoint that stays is harmless, or run `fpd release` elsewhere too"
    ]
