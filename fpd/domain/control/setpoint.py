"""One control step of a battery: from what the group may do to a setpoint in W.

Setpoints are at the battery's own door: positive discharges, negative charges. Everything else
is as everywhere: into the group is positive. Energies are Wh AC.

Sources: battery REST API v1 (`PUT /api/v1/setpoint/charge|discharge/<W>`; the device keeps the
last value of either direction for ever) and the public v2 interface (`POST /api/v2/…`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from fpd.domain.control.caps import ceil_w
from fpd.domain.control.share import Reach, share
from fpd.domain.units import floor_w
from fpd.errors import Malformed


class BatteryApi(StrEnum):
    V1 = "v1"
    V2 = "v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """What a battery can do: W, Wh, state of charge in %, efficiencies in (0, 1].

    `soc_hyst` is by how many % the state of charge must come back from a bound before that
    direction is used again. Raises Malformed for what no battery is.
    """

    capacity_wh: Decimal
    max_charge_w: int
    max_discharge_w: int
    soc_min: Decimal = Decimal(10)
    soc_max: Decimal = Decimal(100)
    soc_hyst: Decimal = Decimal(3)
    eff_charge: Decimal = Decimal("0.95")
    eff_discharge: Decimal = Decimal("0.95")

    def __post_init__(self) -> None:
        faults = {
            "capacity_wh: must be above 0": self.capacity_wh <= 0,
            "max_charge_w: must not be negative": self.max_charge_w < 0,
            "max_discharge_w: must not be negative": self.max_discharge_w < 0,
            "soc_min: must lie between 0 and soc_max": not 0 <= self.soc_min <= self.soc_max,
            "soc_max: must not be above 100": self.soc_max > 100,
            "soc_hyst: must not be negative": self.soc_hyst < 0,
            "eff_charge: must lie in (0, 1]": not 0 < self.eff_charge <= 1,
            "eff_discharge: must lie in (0, 1]": not 0 < self.eff_discharge <= 1,
        }
        for fault, found in faults.items():
            if found:
                raise Malformed(fault)


@dataclass(frozen=True, slots=True)
class Charge:
    """How full a battery is and which directions rest until it has come back from a bound.

    `usoc` is the user state of charge in %; None: not known, so nothing can be promised.
    """

    usoc: Decimal | None
    discharge_blocked: bool = False
    charge_blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a step is asked for; limits None: there are none.

    `net_load_w` is what the group takes without the devices we steer, `fuel_cell_w` (≥ 0) what
    its fuel cells deliver now. `import_limit_w` and `export_limit_w` are ≥ 0; `optimum_w` is the
    wanted import (negative: export), None: nothing is wanted and an idle battery is best. What
    is set must be holdable for `sustain_s` from the present state of charge.
    """

    net_load_w: Decimal
    fuel_cell_w: Decimal = Decimal(0)
    import_limit_w: Decimal | int | None = None
    export_limit_w: Decimal | int | None = None
    optimum_w: Decimal | int | None = None
    sustain_s: Decimal = Decimal(900)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setpoint:
    """What a battery is told and what that leaves undone, in W.

    `sent` is False when the setpoint that runs is good enough. A residual is how far the group
    stays beyond its limit; the two blocked flags belong into the next step.
    """

    setpoint_w: int
    sent: bool
    residual_over_import_w: int
    residual_over_export_w: int
    max_discharge_now_w: int
    max_charge_now_w: int
    discharge_blocked: bool
    charge_blocked: bool
    resulting_net_import_w: Decimal


def wished(task: Task, wish_w: int | None) -> Task:
    """Return the task with what a plan wishes of the battery, unless an optimum is given."""
    if wish_w is None or task.optimum_w is not None:
        return task
    return replace(task, optimum_w=task.net_load_w - task.fuel_cell_w - wish_w)


def step(
    battery: Battery,
    charge: Charge,
    task: Task,
    *,
    last_w: int | None,
    deadband_w: Decimal | int = 50,
    may_reverse: bool = True,
) -> Setpoint:
    """Return the setpoint that keeps the group inside its limits, as far as the battery can.

    `last_w` is the setpoint that runs (None: not known). A change of at most `deadband_w` is
    not worth a write, unless what runs breaks a limit: then even the same is told again. While
    `may_reverse` is False the battery rests rather than change direction for a mere wish.

    Load 4200 W and an import limit of 3000 W: discharge 1200 W. With 475 Wh to spend in an hour:
    discharge 475 W and 725 W stay over the limit.

    Interpretation: fractions are rounded towards compliance; where both limits leave no whole
    watt between them that of the export is kept.
    """
    charge = rested(battery, charge)
    max_discharge_w, max_charge_w = available(battery, charge, task.sustain_s)
    load_w = task.net_load_w - task.fuel_cell_w
    low = None if task.import_limit_w is None else ceil_w(load_w - task.import_limit_w)
    high = None if task.export_limit_w is None else floor_w(load_w + task.export_limit_w)
    reach = Reach(
        id="",
        priority=1,
        least_w=-max_charge_w,
        most_w=max_discharge_w,
        running_w=last_w,
        deadband_w=deadband_w,
        bound_to=0 if may_reverse or not last_w else 1 if last_w > 0 else -1,
    )
    wanted_w = None if task.optimum_w is None else round(load_w - task.optimum_w)
    found = share([reach], low=low, high=high, wanted_w=wanted_w)
    setpoint_w, sent = found.setpoint_w[""], not found.kept
    return Setpoint(
        setpoint_w=setpoint_w,
        sent=sent,
        residual_over_import_w=0 if low is None else max(low - setpoint_w, 0),
        residual_over_export_w=0 if high is None else max(setpoint_w - high, 0),
        max_discharge_now_w=max_discharge_w,
        max_charge_now_w=max_charge_w,
        discharge_blocked=charge.discharge_blocked,
        charge_blocked=charge.charge_blocked,
        resulting_net_import_w=load_w - setpoint_w,
    )


def calls(api: BatteryApi, setpoint_w: int, last_w: int | None) -> tuple[tuple[str, str], ...]:
    """Return the requests (method, path) that set a setpoint, in order.

    The device keeps the last value of each direction: 0 is therefore told to both, and before
    the direction changes the old one is zeroed.
    """
    if setpoint_w == 0:
        told = [("charge", 0), ("discharge", 0)]
    else:
        now, before = ("discharge", "charge") if setpoint_w > 0 else ("charge", "discharge")
        told = [(now, abs(setpoint_w))]
        if last_w is not None and last_w * setpoint_w < 0:
            told.insert(0, (before, 0))
    method = "PUT" if api is BatteryApi.V1 else "POST"
    return tuple((method, f"/api/{api}/setpoint/{way}/{power_w}") for way, power_w in told)


def rested(battery: Battery, charge: Charge) -> Charge:
    """Return which directions are blocked now: at a bound, until `soc_hyst` away from it."""
    if charge.usoc is None:
        return charge
    above, below = charge.usoc - battery.soc_min, battery.soc_max - charge.usoc
    return Charge(
        charge.usoc,
        discharge_blocked=above <= 0 or (charge.discharge_blocked and above < battery.soc_hyst),
        charge_blocked=below <= 0 or (charge.charge_blocked and below < battery.soc_hyst),
    )


def available(battery: Battery, charge: Charge, sustain_s: Decimal) -> tuple[int, int]:
    """Return the discharge and the charge (W, both ≥ 0) that can be held for `sustain_s`."""
    if charge.usoc is None:
        return 0, 0
    ws_per_percent = battery.capacity_wh * 36
    spend_ws = (charge.usoc - battery.soc_min) * ws_per_percent * battery.eff_discharge
    store_ws = (battery.soc_max - charge.usoc) * ws_per_percent
    # One division each: what is exact stays so.
    spend_w = floor_w(spend_ws / sustain_s)
    store_w = floor_w(store_ws / (battery.eff_charge * sustain_s))
    return (
        0 if charge.discharge_blocked else min(battery.max_discharge_w, spend_w),
        0 if charge.charge_blocked else min(battery.max_charge_w, store_w),
    )
