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
from fpd.adapters.myems_errors import Untimed
from fpd.adapters.myems_keys import TOGETHER, ability, cautions
from fpd.adapters.myems_keys import MyemsDevice as Config
from fpd.adapters.myems_limit import Limit
from fpd.adapters.myems_meter import View
from fpd.adapters.myems_reports import Rows, realtime
from fpd.adapters.myems_server import ServerClock, server
from fpd.adapters.myems_time import strange
from fpd.errors import Unavailable

log = structlog.get_logger()

_WATTS = {"W": Decimal(1), "kW": Decimal(1000)}
_FOLLOWS_WITHIN_SHARE = 0.1
_AGAIN_S = 900.0
_COMMAND_GOOD_FOR = timedelta(seconds=60)


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`taken`: it is ours until released; `told`: until it was seen to be neutral after that.

    `payload`: mark of the command as it was seen last. `at`, `power_w`, `soc`: the last values,
    for when a poll lacks them. `limit`: of a device whose values are limits.
    """

    taken: bool = False
    told: bool = False
    payload: str | None = None
    at: datetime | None = None
    power_w: float | None = None
    soc: float | None = None
    limit: Limit = msgspec.field(default_factory=Limit)


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
        self._neutral = self._value(device.rest_w or 0)
        if device.neutral is not None:
            self._neutral = Decimal(str(device.neutral))
        self._untimed: str | None = None
        self._looked: tuple[datetime, str | None] | None = None

    async def read(self, memory: Memory) -> Reading:
        """Read the points. One that is missing once keeps its last value until that is stale."""
        kept = recalled(memory, _Memory) or _Memory()
        now = self._clock()
        found, soc = await self._look(now)
        kept.soc = kept.soc if soc is None else float(soc)
        if found is not None:
            kept.at, kept.power_w = found[0], float(self._delivered(found[1]))
            neutral_w = float(self._by_command(self._neutral))
            if not kept.taken and self._follows(kept.power_w, neutral_w):
                kept.told = False
            if self._device.at_most:
                kept.limit.saw(kept.power_w, tolerance_w=self._device.tolerance_w)
        trouble = self._untimed or self._absent(kept, now) or await self._unfit(kept)
        least_w, most_w = None, None
        if self._device.at_most and self._device.rest_w is not None:
            least_w, most_w = kept.limit.bounds(self._device.rest_w)
        return Reading(
            at=kept.at or now,
            output_w=kept.power_w,
            soc=kept.soc,
            least_w=least_w,
            most_w=most_w,
            dispatchable=trouble is None,
            detail=trouble,
            notice=self._server.notice,
            samples=() if found is None else (self._sample(kept, found[0]),),
            memory=mapping(msgspec.to_builtins(kept)),
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Send a value, always an explicit number. Only a later reading confirms it."""
        kept = recalled(memory, _Memory) or _Memory()
        match command:
            case Setpoint(power_w=power_w):
                await self._send(self._asked(power_w, kept.limit))
                kept.taken = kept.told = True
            case Release():
                await self._send(self._neutral)
                kept.taken, kept.limit.told_w = False, None
            case Profile():
                raise Stopped("a device behind MyEMS follows setpoints, not profiles")
        return Outcome(result=Result.ACCEPTED, memory=mapping(msgspec.to_builtins(kept)))

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether the point shows what was asked, within its tolerance.

        A device may clamp: what it does beyond the tolerance is no confirmation. What its owner
        has it do before us, and after it was seen to be neutral, is not ours to judge.
        """
        kept = recalled(reading.memory, _Memory) or _Memory()
        if self._device.at_most:
            power_w, tolerance_w = reading.output_w, self._device.tolerance_w
            return power_w is not None and kept.limit.kept(power_w, tolerance_w=tolerance_w)
        wanted_w = float(self._by_command(self._neutral))
        if isinstance(command, Setpoint):
            wanted_w = float(command.power_w)
        elif not kept.told:
            return True
        return reading.output_w is not None and self._follows(reading.output_w, wanted_w)

    def _follows(self, power_w: float, wanted_w: float) -> bool:
        allowed_w = max(float(self._device.tolerance_w), _FOLLOWS_WITHIN_SHARE * abs(wanted_w))
        return abs(power_w - wanted_w) <= allowed_w

    async def _look(self, now: datetime) -> tuple[tuple[datetime, Decimal] | None, Decimal | None]:
        """Return the power as the point has it, with its time, and the state of charge, if there.

        Interpretation: a latest value has no time, so it is taken to be of now; with `meter_id`
        its time is known. Where that cannot be relied on the latest value has to do, so that the
        device can be given back; it is told nothing else then.
        """
        device = self._device
        timed: dict[int, Rows] = {}
        self._untimed = None
        if self._view is not None:
            try:
                timed = await self._of_meter(self._view, now)
            except Untimed as fault:
                self._untimed = str(fault)
        latest: dict[int, Decimal] = {}
        if not timed or (device.soc_point_id and not timed.get(device.soc_point_id)):
            latest = await self._server.point_values()
        charge = timed.get(device.soc_point_id or 0)
        soc = charge[-1][1] if charge else latest.get(device.soc_point_id or 0)
        if not timed:
            value = latest.get(device.point_id)
            return (None if value is None else (now, value)), soc
        rows = timed[device.point_id]
        return (rows[-1] if rows else None), soc

    async def _of_meter(self, view: View, now: datetime) -> dict[int, Rows]:
        """Return the rows of the meter's points of the last hour, the power's among them."""
        assert self._device.meter_id is not None
        offset = await self._server_clock.offset()
        said = realtime(await self._server.meter_realtime(self._device.meter_id), offset)
        wrong = strange(said.stamps, now=now)
        if wrong is not None:
            raise Untimed(wrong, retry_s=60.0)
        await view.look(said.names, [self._device.point_id], now=now)
        columns = zip(view.layout.columns, said.columns, strict=True)
        found = {point_id: column.rows for point_id, column in columns if point_id is not None}
        if self._device.point_id not in found:
            raise Untimed(
                f"meter {self._device.meter_id} does not have point {self._device.point_id}, or "
                "several are called like it",
                retry_s=_AGAIN_S,
            )
        return found

    def _absent(self, kept: _Memory, now: datetime) -> str | None:
        point = f"point {self._device.point_id}"
        if kept.at is None:
            return f"{point} has no value of the last hour"
        if now - kept.at > timedelta(seconds=self._device.stale_after_s):
            return f"{point} has no value since {kept.at.isoformat(timespec='seconds')}"
        return None

    async def _unfit(self, kept: _Memory) -> str | None:
        """Say why the command cannot be used, as it was seen a minute ago at most."""
        now = self._clock()
        if self._looked is None or now - self._looked[0] >= _COMMAND_GOOD_FOR:
            self._looked = now, await self._trouble_of_command(kept)
        return self._looked[1]

    async def _trouble_of_command(self, kept: _Memory) -> str | None:
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

    def _asked(self, power_w: int, limit: Limit) -> Decimal:
        """Return what to send for a power; of a limit that would not bind, what sets free."""
        if self._device.at_most and limit.tell(power_w) is None:
            return self._neutral
        return self._value(power_w)

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
    keys=Config, adapter=MyemsDevice, ability=ability, together=TOGETHER, cautions=cautions
)
