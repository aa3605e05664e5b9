"""The keys that everything has which stores energy, and what they say it can do."""

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
class StorageDevice(Device):
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
    deadband_w: int = key(50, "smaller changes are not sent unless a limit needs them", minimum=0)
    dwell_s: float = key(60.0, "no change of direction sooner, unless a limit needs it", minimum=0)
    min_sustain_s: int = key(900, "a setpoint must be holdable at least this long", minimum=1)
    verify_after_s: float = key(15.0, "a setpoint must show in the status by then", minimum=1)


SOC_IN_ORDER: Final = Together(
    frozenset({"soc_min", "soc_max"}),
    "soc_min below soc_max",
    lambda storage: storage["soc_min"] < storage["soc_max"],
)


def storage(device: StorageDevice) -> Storage:
    """Return what such a device can do."""
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
        dwell_s=device.dwell_s,
        spread=device.spend == "spread",
        phases=tuple(Phase(name) for name in device.phases),
    )
