"""Batteries with the sonnen REST interface (seed 002; reference: devices §2).

v1: port 8080, no token, PUT, return codes. v2: `Auth-Token`, manual mode first, POST, 201 `true`.
Both keep the last setpoint for ever, so the flow repeats it and zeroes it when nothing is wanted.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import msgspec

from fpd.adapters import battery_parse
from fpd.adapters.battery_parse import Status
from fpd.adapters.device import (
    Command,
    Excluded,
    Health,
    Memory,
    Outcome,
    Profile,
    Reading,
    Release,
    Result,
    Sample,
    Setpoint,
    Stopped,
    Unreachable,
    Wiring,
)
from fpd.adapters.http import LAN_TIMEOUT_S, DeviceHttp, Reply
from fpd.adapters.lenient import mapping
from fpd.config import BatteryDevice

_MANUAL = "1"
_SELF_CONSUMPTION = "2"
_INTERNAL_ERROR_WAITS_S = (0.5, 1.0, 2.0)
_FOLLOWS_WITHIN_W = 100.0
_FOLLOWS_WITHIN_SHARE = 0.1


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`told_w`: the setpoint sent last. `mode`: the operating mode to give back (v2).

    `timestamp` and `since`: the device's clock as it said it, and when it first said so to us.
    """

    told_w: int | None = None
    mode: str | None = None
    timestamp: str | None = None
    since: datetime | None = None


class Battery:
    """One battery."""

    visit_s = 45.0

    def __init__(self, device: BatteryDevice, wiring: Wiring) -> None:
        self.read_every_s = wiring.interval_s
        self.keepalive_s: float | None = device.keepalive_s
        self.verify_after_s = device.verify_after_s
        self._device = device
        self._clock = wiring.clock
        self._http = DeviceHttp(wiring.session, device.base_url, timeout_s=LAN_TIMEOUT_S)
        self._api: _Api = _V1(self._http) if device.api == "v1" else _V2(self._http, device.token)

    async def read(self, memory: Memory) -> Reading:
        """Read the status; learn the operating mode once, so that it can be given back."""
        kept = msgspec.convert(memory, _Memory)
        status = await self._api.status()
        now = self._clock()
        if status.timestamp != kept.timestamp or kept.since is None:
            kept.timestamp, kept.since = status.timestamp, now
        trouble = status.trouble or self._frozen(kept.since, now)
        if kept.mode is None:
            try:
                kept.mode = await self._api.mode()
            except Stopped as refusal:
                trouble = trouble or str(refusal)
        if kept.mode == _MANUAL:
            # Interpretation: manual mode at first sight is a leftover, not what the owner wants.
            kept.mode = _SELF_CONSUMPTION
        return Reading(
            at=now,
            output_w=status.pac_w,
            soc=status.usoc,
            dispatchable=trouble is None,
            detail=trouble,
            samples=(_sample(status, now),),
            memory=_remember(kept),
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Set the power, or give the battery back. Only a later reading confirms a setpoint."""
        kept = msgspec.convert(memory, _Memory)
        match command:
            case Setpoint(power_w=power_w):
                await self._api.set_power(power_w, told_w=kept.told_w)
                kept.told_w = power_w
                result = Result.ACCEPTED
            case Release():
                confirmed = await self._api.release(kept.mode or _SELF_CONSUMPTION)
                kept.told_w = 0
                result = Result.CONFIRMED if confirmed else Result.ACCEPTED
            case Profile():
                raise Stopped("a battery follows setpoints, not profiles")
        return Outcome(result=result, memory=_remember(kept))

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether the battery delivers what was asked, within max(100 W, 10 %)."""
        if reading.output_w is None:
            return False
        if isinstance(command, Release) and self._device.api == "v2":
            return True
        wanted_w = command.power_w if isinstance(command, Setpoint) else 0
        allowed_w = max(_FOLLOWS_WITHIN_W, _FOLLOWS_WITHIN_SHARE * abs(wanted_w))
        return abs(reading.output_w - wanted_w) <= allowed_w

    def _frozen(self, since: datetime, now: datetime) -> str | None:
        """Judge the device's clock by its change: it is local time and may jump by an hour."""
        if now - since <= timedelta(seconds=self._device.stale_after_s):
            return None
        return f"its clock has stood still since {since.isoformat(timespec='seconds')}"


def _remember(kept: _Memory) -> Memory:
    return mapping(msgspec.to_builtins(kept))


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


