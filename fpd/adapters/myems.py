"""A device behind MyEMS: told by one of its commands, read back by one of its points.

MyEMS says "success" when it has reached its broker, even one that refuses its account, so only
the point proves that the device has heard (reference: myems §0.4, §5.3).
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

import msgspec
import structlog

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
from fpd.adapters.lenient import mapping
from fpd.adapters.myems_api import Myems, filled
from fpd.adapters.myems_keys import TOGETHER, cautions
from fpd.adapters.myems_keys import MyemsDevice as Config
from fpd.adapters.myems_meter import View
from fpd.adapters.myems_reports import realtime
from fpd.adapters.myems_server import ServerClock, server
from fpd.adapters.myems_time import strange
from fpd.adapters.storage_keys import storage
from fpd.errors import Unavailable

log = structlog.get_logger()

_WATTS = {"W": Decimal(1), "kW": Decimal(1000)}
_FOLLOWS_WITHIN_SHARE = 0.1
_AGAIN_S = 900.0


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`taken`: it is ours until released; `told`: until it was seen to be neutral after that.

    `payload`: mark of the command as it was seen last. `at`, `power_w`, `soc`: the last values,
    for when a poll lacks them.
    """

    taken: bool = False
    told: bool = False
    payload: str | None = None
    at: datetime | None = None
    power_w: float | None = None
    soc: float | None = None


class MyemsDevice:
    """One device that follows setpoints."""

    visit_s = 40.0
    tries = 3

    def __init__(self, device: Config, wiring: Wiring) -> None:
        self.read_every_s = wiring.interval_s
        self.keepalive_s: float | None = device.keepalive_s
        self.verify_after_s: float | None = device.verify_after_s
        self.backoff_s = (min(5.0, wiring.interval_s), 60.0)
        self._device = device
        self._clock = wiring.clock
        self._publish = wiring.publish
        self._server: Myems = server(device, wiring)
        self._server_clock = ServerClock(self._server, device.utc_offset, wiring.clock)
        self._view = None if device.meter_id is None else View(self._server, device.meter_id)
        self._neutral = Decimal(str(device.neutral))

    async def read(self, memory: Memory) -> Reading:
        """Read the points. One that is missing once keeps its last value until that is stale."""
        kept = recalled(memory, _Memory) or _Memory()
        latest = await self._server.point_values()
        now = self._clock()
        soc = latest.get(self._device.soc_point_id or 0)
        kept.soc = kept.soc if soc is None else float(soc)
        found = await self._power(latest, now)
        if found is not None:
            kept.at, kept.power_w = found[0], float(self._delivered(found[1]))
            neutral_w = float(self._by_command(self._neutral))
            if not kept.taken and self._is_near(kept.power_w, neutral_w):
                kept.told = False
        trouble = self._absent(kept, now) or await self._unfit(kept)
        return Reading(
            at=kept.at or now,
            output_w=kept.power_w,
            soc=kept.soc,
            dispatchable=trouble is None,
            detail=trouble,
            samples=() if found is None else (self._sample(kept, found[0]),),
            memory=mapping(msgspec.to_builtins(kept)),
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Send a value, always an explicit number. Only a later reading confirms it."""
        kept = recalled(memory, _Memory) or _Memory()
        match command:
            case Setpoint(power_w=power_w):
                await self._send(self._value(power_w))
                kept.taken = kept.told = True
            case Release():
                await self._send(self._neutral)
                kept.taken = False
            case Profile():
                raise Stopped("a device behind MyEMS follows setpoints, not profiles")
        return Outcome(result=Result.ACCEPTED, memory=mapping(msgspec.to_builtins(kept)))

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether the point shows what was asked, within its tolerance.

        A device may clamp: what it does beyond the tolerance is no confirmation. What its owner
        has it do before us, and after it was seen to be neutral, is not ours to judge.
        """
        if isinstance(command, Setpoint):
            wanted_w = float(command.power_w)
        else:
            wanted_w = float(self._by_command(self._neutral))
            if not (recalled(reading.memory, _Memory) or _Memory()).told:
                return True
        return reading.output_w is not None and self._is_near(reading.output_w, wanted_w)

    def _is_near(self, power_w: float, wanted_w: float) -> bool:
        allowed_w = max(float(self._device.tolerance_w), _FOLLOWS_WITHIN_SHARE * abs(wanted_w))
        return abs(power_w - wanted_w) <= allowed_w

    async def _power(
        self, latest: dict[int, Decimal], now: datetime
    ) -> tuple[datetime, Decimal] | None:
        """Return the power as the point has it and when that was, None if it is not there.

        Interpretation: a latest value has no time, so it is taken to be of now; with `meter_id`
        its time is known.
        """
        if self._view is None:
            value = latest.get(self._device.point_id)
            return None if value is None else (now, value)
        assert self._device.meter_id is not None
        offset = await self._server_clock.offset()
        said = realtime(await self._server.meter_realtime(self._device.meter_id), offset)
        wrong = strange(said.stamps, now=now)
        if wrong is not None:
            raise Stopped(wrong, retry_s=60.0)
        await self._view.look(said.names, [self._device.point_id], now=now)
        columns = zip(self._view.layout.columns, said.columns, strict=True)
        rows = next((c.rows for i, c in columns if i == self._device.point_id), None)
        if rows is None:
            raise Stopped(
                f"meter {self._device.meter_id} does not have point {self._device.point_id}, or "
                "several are called like it",
                retry_s=_AGAIN_S,
            )
        return rows[-1] if rows else None

    def _absent(self, kept: _Memory, now: datetime) -> str | None:
        point = f"point {self._device.point_id}"
        if kept.at is None:
            return f"{point} has no value of the last hour"
        if now - kept.at > timedelta(seconds=self._device.stale_after_s):
            return f"{point} has no value since {kept.at.isoformat(timespec='seconds')}"
        return None

    async def _unfit(self, kept: _Memory) -> str | None:
        """Say why the command cannot be used, and warn when it is another one than before."""
        command = await self._server.command(self._device.command_id)
        topic, payload = command.topic or "", command.payload or ""
        mark = hashlib.sha256(f"{topic}\0{payload}".encode()).hexdigest()[:16]
        if kept.payload not in (None, mark):
            log.warning("myems.command_changed", device=self._device.name, command=command.id)
        kept.payload = mark
        if not topic:
            return f"command {command.id} has no topic"
        if "$s1" not in payload and "${s1}" not in payload:
            return f"the payload of command {command.id} has no $s1: it takes no value"
        try:
            filled(payload, self._neutral)
        except DeviceFault as fault:
            return str(fault)
        return await self._too_old()

    async def _too_old(self) -> str | None:
        if self._device.via == "mqtt" or self._neutral != 0:
            return None
        if await self._server.forgets_zero():
            return (
                "this MyEMS (before 4.0) sends a stored value in place of 0: use via = mqtt, or "
                "another neutral"
            )
        return None

    def _value(self, power_w: int) -> Decimal:
        """Return the command's value for a power, discharge positive, W."""
        device = self._device
        within = max(-device.max_charge_w, min(device.max_discharge_w, power_w))
        signed = within if device.command_positive == "discharge" else -within
        step = Decimal(str(device.command_step))
        steps = (Decimal(signed) / _WATTS[device.command_unit] / step).to_integral_value(
            rounding=ROUND_HALF_EVEN
        )
        return steps * step

    def _by_command(self, value: Decimal) -> Decimal:
        watts = value * _WATTS[self._device.command_unit]
        return watts if self._device.command_positive == "discharge" else -watts

    def _delivered(self, value: Decimal) -> Decimal:
        watts = value * _WATTS[self._device.point_unit]
        return watts if self._device.point_positive == "discharge" else -watts

    async def _send(self, value: Decimal) -> None:
        if self._device.via == "mqtt":
            return await self._send_by_mqtt(value)
        await self._server.send(self._device.command_id, value)

    async def _send_by_mqtt(self, value: Decimal) -> None:
        """Publish what MyEMS would, to the same topic, and have the broker acknowledge it."""
        command = await self._server.command(self._device.command_id)
        if not command.topic or set("+#") & set(command.topic) or self._publish is None:
            raise Stopped(f"nothing can be published to {command.topic!r}", retry_s=_AGAIN_S)
        payload = filled(command.payload or "", value)
        try:
            await self._publish(command.topic, payload.encode())
        except Unavailable as away:
            raise Unreachable(str(away)) from away

    def _sample(self, kept: _Memory, at: datetime) -> Sample:
        values = {"watts": kept.power_w, "soc": kept.soc}
        return Sample(
            at=at,
            instantaneous={name: value for name, value in values.items() if value is not None},
        )


TYPE: Final = DeviceType(
    keys=Config, adapter=MyemsDevice, ability=storage, together=TOGETHER, cautions=cautions
)
