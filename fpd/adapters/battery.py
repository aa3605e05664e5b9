"""Batteries with the sonnen REST interface (seed 002; reference: devices §2).

They keep the last setpoint for ever, so the flow repeats it while it is wanted and lets go when
nothing is.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from fpd.adapters.battery_api import V1, V2, Api
from fpd.adapters.battery_parse import Status
from fpd.adapters.device import (
    Command,
    DeviceFault,
    Memory,
    Outcome,
    Profile,
    Reading,
    Release,
    Result,
    Sample,
    Setpoint,
    Stopped,
    Wiring,
    recalled,
)
from fpd.adapters.http import LAN_TIMEOUT_S, DeviceHttp
from fpd.adapters.lenient import mapping
from fpd.config import BatteryDevice

_FOLLOWS_WITHIN_W = 100.0
_FOLLOWS_WITHIN_SHARE = 0.1


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`taken`: it is ours until released. `told_w`: the setpoint sent last. `mode`: the operating
    mode to give back (v2).

    `timestamp`, `since`: the device's clock as it wrote it, and when we first saw it say so.
    """

    taken: bool = False
    told_w: int | None = None
    mode: str | None = None
    timestamp: str | None = None
    since: datetime | None = None


class Battery:
    """One battery."""

    visit_s = 25.0
    tries = 3

    def __init__(self, device: BatteryDevice, wiring: Wiring) -> None:
        self.read_every_s = wiring.interval_s
        self.keepalive_s: float | None = device.keepalive_s
        self.verify_after_s: float | None = device.verify_after_s
        self.backoff_s = (min(5.0, wiring.interval_s), 60.0)
        self._stands_still = device.api == "v1"
        self._stale_after = timedelta(seconds=device.stale_after_s)
        self._clock = wiring.clock
        http = DeviceHttp(wiring.session, device.base_url, timeout_s=LAN_TIMEOUT_S)
        self._api: Api = V1(http) if device.api == "v1" else V2(http, device.token)

    async def read(self, memory: Memory) -> Reading:
        """Read the status; while the battery is not ours learn the mode that it is to get back."""
        kept = recalled(memory, _Memory) or _Memory()
        status = await self._api.status()
        now = self._clock()
        if status.timestamp != kept.timestamp or kept.since is None:
            kept.timestamp, kept.since = status.timestamp, now
        trouble = status.trouble or self._frozen(kept.since, now)
        if kept.mode is None:
            try:
                kept.mode = await self._api.mode()
            except DeviceFault as fault:
                trouble = trouble or str(fault)
        return Reading(
            at=now,
            output_w=status.pac_w,
            soc=status.usoc,
            dispatchable=trouble is None,
            detail=trouble,
            samples=(_sample(status, now),),
            memory=mapping(msgspec.to_builtins(kept)),
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Set the power, or give the battery back. Only a later reading confirms a setpoint."""
        kept = recalled(memory, _Memory) or _Memory()
        confirmed = False
        match command:
            case Setpoint(power_w=power_w):
                await self._api.set_power(power_w, told_w=kept.told_w)
                kept.told_w, kept.taken = power_w, True
            case Release():
                confirmed = await self._api.release(kept.mode)
                kept.told_w, kept.taken, kept.mode = 0, False, None
            case Profile():
                raise Stopped("a battery follows setpoints, not profiles")
        return Outcome(
            result=Result.CONFIRMED if confirmed else Result.ACCEPTED,
            memory=mapping(msgspec.to_builtins(kept)),
        )

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether the battery delivers what was asked, within max(100 W, 10 %).

        Given back, one without modes stands still; what an owner's mode does is not ours to judge.
        """
        wanted_w = 0
        if isinstance(command, Setpoint):
            wanted_w = command.power_w
        else:
            kept = recalled(reading.memory, _Memory) or _Memory()
            if kept.taken or not self._stands_still or kept.told_w is None:
                return not kept.taken
        allowed_w = max(_FOLLOWS_WITHIN_W, _FOLLOWS_WITHIN_SHARE * abs(wanted_w))
        return reading.output_w is not None and abs(reading.output_w - wanted_w) <= allowed_w

    def _frozen(self, since: datetime, now: datetime) -> str | None:
        """Judge the device's clock by its change: it is local time and may jump by an hour."""
        if now - since <= self._stale_after:
            return None
        return f"its clock has stood still since {since.isoformat(timespec='seconds')}"


def _sample(status: Status, now: datetime) -> Sample:
    """Name the readings as decision D2 does."""
    values = {
        "watts": status.pac_w,
        "soc": status.usoc,
        "consumption": status.consumption_w,
        "production": status.production_w,
        "gridWatts": status.grid_w,
        "frequency": status.frequency_hz,
        "voltage": status.voltage_v,
    }
    return Sample(
        at=now, instantaneous={name: value for name, value in values.items() if value is not None}
    )
