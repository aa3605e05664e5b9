"""Batteries with the sonnen REST interface (seed 002; reference: devices §2).

They keep the last setpoint for ever, so the flow repeats it while it is wanted and lets go when
nothing is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import structlog

from fpd.adapters.battery_api import MANUAL, V1, V2, Api
from fpd.adapters.battery_keys import TOGETHER, BatteryDevice, cautions
from fpd.adapters.battery_parse import Status
from fpd.adapters.device import (
    Command,
    DeviceFault,
    DeviceType,
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
    recalled,
)
from fpd.adapters.http import LAN_TIMEOUT_S, DeviceHttp
from fpd.adapters.lenient import mapping
from fpd.adapters.storage_keys import storage
from fpd.domain.control.actions import SELF_CONSUMPTION

log = structlog.get_logger()

_FOLLOWS_WITHIN_W = 100.0
_FOLLOWS_WITHIN_SHARE = 0.1
_ADDS_UP_W, _ADDS_UP_SHARE = 200.0, 0.1
_UNBALANCED = 3
_LESS_FOR = timedelta(minutes=15)
_ZONES, _MOST_OFF = timedelta(minutes=15), timedelta(minutes=5)


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`taken`: it is ours until released. `told_w`: the setpoint sent last, `told_at`: since when.
    `mode`: the operating mode to give back (v2). `api`: which one it was found to have. `most_w`:
    what its inverter can do, as it says.

    `timestamp`, `since`: the device's clock as it wrote it, and when we first saw it say so.
    `whole_at`: when a status had all that control needs. `less_w`: it delivers no more than this,
    in the direction of the sign, until `less_until` at least; `short`: readings in a row that
    showed too little; `unbalanced`: those whose own values contradict each other.
    """

    taken: bool = False
    told_w: int | None = None
    told_at: datetime | None = None
    mode: str | None = None
    api: str | None = None
    most_w: int | None = None
    timestamp: str | None = None
    since: datetime | None = None
    whole_at: datetime | None = None
    less_w: int | None = None
    less_until: datetime | None = None
    short: int = 0
    unbalanced: int = 0


class Battery:
    """One battery."""

    visit_s = 25.0
    tries = 3

    def __init__(self, device: BatteryDevice, wiring: Wiring) -> None:
        self.read_every_s = wiring.interval_s
        self.keepalive_s: float | None = device.keepalive_s
        self.verify_after_s: float | None = device.verify_after_s
        self.backoff_s = (min(5.0, wiring.interval_s), 60.0)
        self._device = device
        self._stale_after = timedelta(seconds=device.stale_after_s)
        self._clock = wiring.clock
        http = DeviceHttp(
            wiring.session, device.base_url, timeout_s=LAN_TIMEOUT_S, steady=wiring.steady
        )
        v1, v2 = V1(http), V2(http, device.token)
        # Interpretation: one that has both is driven by v2, if a token lets us write there.
        self._apis: Mapping[str, Api] = (
            {"v2": v2, "v1": v1} if device.token is not None else {"v1": v1, "v2": v2}
        )
        if device.api != "auto":
            self._apis = {device.api: self._apis[device.api]}

    async def read(self, memory: Memory) -> Reading:
        """Read the status; while the battery is not ours learn the mode that it is to get back."""
        kept = recalled(memory, _Memory) or _Memory()
        status = await self._status(kept)
        now = self._clock()
        lacking = self._lacking(status, kept, now)
        if status.timestamp != kept.timestamp or kept.since is None:
            kept.timestamp, kept.since = status.timestamp, now
        trouble = lacking or status.trouble or self._frozen(kept.since, now) or _off(status, now)
        if kept.mode is None:
            trouble = await self._learn_mode(kept) or trouble
        self._notice_less(status, kept, now)
        least_w, most_w = _narrower(status, kept)
        return Reading(
            at=now,
            output_w=status.pac_w,
            soc=status.usoc,
            least_w=least_w,
            most_w=most_w,
            dispatchable=trouble is None,
            detail=trouble,
            notice=self._balance(status, kept),
            samples=(_sample(status, now),),
            memory=mapping(msgspec.to_builtins(kept)),
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Set the power, or give the battery back. Only a later reading confirms a setpoint."""
        kept = recalled(memory, _Memory) or _Memory()
        confirmed = False
        match command:
            case Setpoint(power_w=power_w):
                await self._api(kept).set_power(power_w, told_w=kept.told_w)
                if power_w != kept.told_w or not kept.taken:
                    kept.told_at = self._clock()
                kept.told_w, kept.taken = power_w, True
            case Release():
                confirmed = await self._release(kept)
                kept = _Memory(told_w=0, api=kept.api, timestamp=kept.timestamp, since=kept.since)
            case Profile():
                raise Stopped("a battery follows setpoints, not profiles")
        return Outcome(
            result=Result.CONFIRMED if confirmed else Result.ACCEPTED,
            memory=mapping(msgspec.to_builtins(kept)),
        )

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether the battery delivers what was asked, within max(100 W, 10 %).

        One that was found to deliver less need not deliver more. Given back, one without modes
        stands still; what an owner's mode does is not ours to judge.
        """
        kept = recalled(reading.memory, _Memory) or _Memory()
        wanted_w = 0
        if isinstance(command, Setpoint):
            wanted_w = command.power_w
            if kept.less_w is not None and kept.less_w * wanted_w > 0:
                wanted_w = min(wanted_w, kept.less_w, key=abs)
        elif kept.taken or not self._stands_still(kept) or kept.told_w is None:
            return not kept.taken
        return reading.output_w is not None and abs(reading.output_w - wanted_w) <= _within(
            wanted_w
        )

    def _api(self, kept: _Memory) -> Api:
        return self._apis.get(kept.api or "") or next(iter(self._apis.values()))

    def _stands_still(self, kept: _Memory) -> bool:
        return isinstance(self._api(kept), V1)

    async def _status(self, kept: _Memory) -> Status:
        """Read the status, by the interface that answered last time first."""
        first: DeviceFault | None = None
        for name in sorted(self._apis, key=lambda name: name != kept.api):
            try:
                status = await self._apis[name].status()
            except DeviceFault as fault:
                first = first or fault
            else:
                kept.api = name if len(self._apis) > 1 else None
                return status
        assert first is not None
        raise first

    def _lacking(self, status: Status, kept: _Memory, now: datetime) -> str | None:
        """Judge a status that lacks what control needs: the last whole one counts for a while."""
        if status.lacking is None:
            kept.whole_at = now
            return None
        if kept.whole_at is not None and now - kept.whole_at <= self._stale_after:
            raise Unreachable(f"the status lacks {status.lacking}", retry_s=self.read_every_s)
        return f"the status lacks {status.lacking}"

    async def _learn_mode(self, kept: _Memory) -> str | None:
        """Learn the mode that the owner wants; return why that cannot be.

        Interpretation: manual mode is a controller's leftover, never what the owner wants. So one
        that is found in it is taken for ours: given back when nothing is limited.
        """
        try:
            found = await self._api(kept).settings()
        except DeviceFault as fault:
            return str(fault)
        kept.most_w = found.most_w
        kept.mode = SELF_CONSUMPTION if found.mode == MANUAL else found.mode
        kept.taken = kept.taken or (found.mode == MANUAL and self._device.rest != "idle")
        return None

    async def _release(self, kept: _Memory) -> bool:
        modes = {"saved": kept.mode or SELF_CONSUMPTION, "mode2": SELF_CONSUMPTION, "idle": MANUAL}
        return await self._api(kept).release(modes[self._device.rest])

    def _frozen(self, since: datetime, now: datetime) -> str | None:
        """Judge the device's clock by its change: it is local time and may jump by an hour."""
        if now - since <= self._stale_after:
            return None
        return f"its clock has stood still since {since.isoformat(timespec='seconds')}"

    def _balance(self, status: Status, kept: _Memory) -> str | None:
        """Say that its values do not add up: a meter of its own is wired wrong or stands still."""
        error_w = status.balance_error_w
        if error_w is None or abs(error_w) <= _may_differ(status):
            kept.unbalanced = 0
            return None
        kept.unbalanced += 1
        if kept.unbalanced < _UNBALANCED:
            return None
        if kept.unbalanced == _UNBALANCED:
            log.warning("battery.unbalanced", device=self._device.name, watts=round(error_w))
        return f"its values do not add up by {error_w:.0f} W: look at the wiring of its meter"

    def _notice_less(self, status: Status, kept: _Memory, now: datetime) -> None:
        """Notice a battery that does what it is told, but not so much: full, empty, cold.

        One reading may have caught it on its way there.
        """
        if kept.less_until is not None and now >= kept.less_until:
            kept.less_w = kept.less_until = None
        if not kept.taken or not kept.told_w or kept.told_at is None or status.pac_w is None:
            return
        settled = now - kept.told_at >= timedelta(seconds=self._device.verify_after_s)
        missing_w = abs(kept.told_w) - abs(status.pac_w)
        follows = status.pac_w * kept.told_w > 0 and abs(status.pac_w) > _FOLLOWS_WITHIN_W
        too_little = settled and follows and missing_w > _within(kept.told_w)
        kept.short = kept.short + 1 if too_little else 0
        if kept.short >= self.tries:
            kept.less_w, kept.less_until = round(status.pac_w), now + _LESS_FOR


def _may_differ(status: Status) -> float:
    flows = (status.consumption_w, status.production_w, status.grid_w, status.pac_w)
    return max(_ADDS_UP_W, *(_ADDS_UP_SHARE * abs(watts or 0.0) for watts in flows))


def _within(wanted_w: int) -> float:
    return max(_FOLLOWS_WITHIN_W, _FOLLOWS_WITHIN_SHARE * abs(wanted_w))


def _narrower(status: Status, kept: _Memory) -> tuple[int | None, int | None]:
    """Return the least and the most that it can be told now; None: as much as ever."""
    least_w, most_w = None if kept.most_w is None else -kept.most_w, kept.most_w
    if kept.less_w is not None and kept.less_w < 0:
        least_w = kept.less_w
    elif kept.less_w is not None:
        most_w = kept.less_w
    return least_w, most_w if status.may_discharge else 0


def _off(status: Status, now: datetime) -> str | None:
    """Judge a clock that runs: whole quarters of an hour are a matter of zones, the rest is not."""
    try:
        shown = datetime.strptime(status.timestamp or "", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    off = (shown - now + _ZONES / 2) % _ZONES - _ZONES / 2
    return f"its clock is off by {off.total_seconds():.0f} s" if abs(off) > _MOST_OFF else None


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


TYPE: Final = DeviceType(
    keys=BatteryDevice, adapter=Battery, ability=storage, together=TOGETHER, cautions=cautions
)
