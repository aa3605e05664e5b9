"""A device behind a Reengen platform, steered by one command of one point (seed 003).

What is sent is what the point lists and its type takes, at most three times; that the platform has
taken it is no proof where a point shows the power (reference: devices §3.3, §7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

import msgspec

from fpd.adapters.device import (
    Command,
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
from fpd.adapters.reengen_commands import Withdrawn, checked, parsed
from fpd.adapters.reengen_keys import TOGETHER, Option, ReengenDevice, ability, cautions
from fpd.adapters.reengen_parse import Command as Listed
from fpd.adapters.reengen_parse import Raw
from fpd.adapters.reengen_platform import client
from fpd.adapters.reengen_zone import in_time
from fpd.domain import reengen_units as units

_KNOWN_FOR: Final = timedelta(minutes=5)
_KNOWN_TO_ACT: Final = timedelta(minutes=1)
_LOOK_BACK: Final = timedelta(hours=2)
_FOLLOWS_WITHIN_SHARE: Final = 0.1
_KILO: Final = 1000
_FULL: Final = 100


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`told_w`: what it was told last, as far as it can be told, W, since `told_at`; None: nothing,
    or let go.
    """

    told_w: int | None = None
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Untaken:
    """A command that the platform did not take as far as is known: of `told_w`, sent `at`."""

    told_w: int | None
    at: datetime
    why: str


class Reengen:
    """One device."""

    tries = 3

    def __init__(self, device: ReengenDevice, wiring: Wiring) -> None:
        self.read_every_s = device.poll_s
        self.visit_s = 12 * (device.timeout_s + device.min_interval_s)
        self.keepalive_s: float | None = None
        self.verify_after_s: float | None = device.verify_after_s if device.confirm else None
        self.backoff_s = (min(5.0, device.poll_s), 300.0)
        self._device = device
        self._clock = wiring.clock
        self._client = client(device, wiring)
        self._listed: Sequence[Listed] = ()
        self._listed_at: datetime | None = None
        self._untaken: _Untaken | None = None

    async def read(self, memory: Memory) -> Reading:
        """Look whether the point still lists the command, and what shows the power if named."""
        trouble = self._unfit(await self._commands(_KNOWN_FOR))
        now, kept = self._clock(), recalled(memory, _Memory) or _Memory()
        charged_at, soc, unknown = await self._charge(now)
        trouble = trouble or unknown
        seen: dict[datetime, dict[str, float]] = {} if soc is None else {charged_at: {"soc": soc}}
        if self._device.confirm is None:
            return Reading(
                at=now,
                output_w=self._told(kept),
                dispatchable=trouble is None,
                detail=trouble,
                alarm=self._alarm(),
                soc=soc,
                samples=_samples(seen),
                memory=memory,
            )
        at, power_w, unread = await self._shown(now)
        trouble = trouble or unread
        if power_w is not None:
            self._look_for_untaken(kept, at, power_w)
        if power_w is not None:
            seen.setdefault(at, {})["watts"] = power_w
        is_older = kept.told_at is not None and at < kept.told_at
        return Reading(
            at=now,
            output_w=self._told(kept) if power_w is not None and is_older else power_w,
            dispatchable=trouble is None,
            detail=trouble,
            alarm=self._alarm(),
            soc=soc,
            samples=_samples(seen),
            memory=mapping(msgspec.to_builtins(kept)),
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        """Tell the device its power, or let go of it. Only the named point confirms a setpoint."""
        kept = recalled(memory, _Memory) or _Memory()
        listed = await self._commands(_KNOWN_TO_ACT)
        known = next((each for each in listed if each.code == self._device.command), None)
        before_w = kept.told_w
        match command:
            case Setpoint(power_w=power_w):
                told_w, parameter = self._parameter(power_w, known)
                kept.told_w = told_w
            case Release():
                parameter = self._neutral(known)
                kept.told_w = None
            case Profile():
                raise Stopped("it follows setpoints, not profiles")
        if kept.told_w != before_w or kept.told_at is None:
            kept.told_at = self._clock()
        try:
            await self._client.execute(
                self._device.point, self._device.command, parameter, listed=listed
            )
        except (Unreachable, Withdrawn) as fault:
            self._untaken = _Untaken(kept.told_w, self._clock(), f"not taken: {fault}")
            self._listed_at = None
            if fault.retry_s is None:
                raise Unreachable(self._untaken.why, retry_s=self._device.alone_s) from None
            raise
        self._untaken = None
        proven = self._device.confirm is None or isinstance(command, Release)
        return Outcome(
            result=Result.CONFIRMED if proven else Result.ACCEPTED,
            memory=mapping(msgspec.to_builtins(kept)),
        )

    def shows(self, command: Command, reading: Reading) -> bool:
        """Tell whether the point shows what was told; without one the platform's word counts.

        A row that is older than the command says nothing about it.
        """
        kept = recalled(reading.memory, _Memory) or _Memory()
        if not isinstance(command, Setpoint):
            return kept.told_w is None and isinstance(command, Release)
        if kept.told_w != self._parameter(command.power_w, None)[0]:
            return False
        if self._device.confirm is None:
            return True
        return any(
            self._follows(sample.at, sample.instantaneous["watts"], kept.told_w, kept.told_at)
            for sample in reading.samples
            if "watts" in sample.instantaneous
        )

    def _follows(
        self, at: datetime, power_w: float | Decimal, told_w: int | None, told_at: datetime | None
    ) -> bool:
        """Tell whether what the point showed is what was told before."""
        if told_w is None or told_at is None:
            return False
        allowed_w = max(self._device.tolerance_w, _FOLLOWS_WITHIN_SHARE * abs(told_w))
        return at >= told_at and abs(float(power_w) - told_w) <= allowed_w

    def _look_for_untaken(self, kept: _Memory, at: datetime, power_w: float) -> None:
        """Know that a command was taken after all, though the platform did not say so."""
        last = self._untaken
        if last is not None and self._follows(at, power_w, last.told_w, last.at):
            kept.told_w, kept.told_at, self._untaken = last.told_w, last.at, None

    def _alarm(self) -> str | None:
        return None if self._untaken is None else self._untaken.why

    async def _commands(self, known_for: timedelta) -> Sequence[Listed]:
        now = self._clock()
        if self._listed_at is None or now - self._listed_at >= known_for:
            self._listed = await self._client.commands(self._device.point)
            self._listed_at = now
        return self._listed

    def _unfit(self, listed: Sequence[Listed]) -> str | None:
        """Say why the command could not be sent now, None if it could."""
        known = next((each for each in listed if each.code == self._device.command), None)
        try:
            checked(listed, self._device.command, self._neutral(known))
        except Stopped as unfit:
            return str(unfit)
        return None

    def _parameter(self, power_w: int, known: Listed | None) -> tuple[int, Any]:
        """Return what the device can be told that comes nearest without doing more, and how."""
        device = self._device
        power_w = min(max(power_w, device.least_w), device.most_w)
        if device.option:
            chosen = chosen_option(device.option, power_w)
            return chosen.power_w, parsed(known, chosen.code)
        scale = _KILO if device.command_unit == "kW" else 1
        step = Decimal(str(device.command_step))
        sent = (Decimal(power_w) / scale / step).quantize(Decimal(1), ROUND_DOWN) * step
        told_w = int(sent * scale)
        sent = sent if device.command_positive == "discharge" else -sent
        return told_w, int(sent) if sent == sent.to_integral_value() else sent

    def _told(self, kept: _Memory) -> float:
        """Return what it delivers as far as anybody has said, for as long as nothing shows it.

        Interpretation: a meter shows within seconds what a row shows after minutes. Had the load
        to carry been reckoned with what the device did before, it would be told to go back.
        """
        return float(self._device.rest_w if kept.told_w is None else kept.told_w)

    def _neutral(self, known: Listed | None) -> Any:
        device = self._device
        if device.neutral is not None:
            return parsed(known, device.neutral)
        return self._parameter(device.rest_w, known)[1]

    async def _shown(self, now: datetime) -> tuple[datetime, float | None, str | None]:
        """Return when and what the named point showed last, or why that is not known."""
        device, point = self._device, self._device.confirm or ""
        found = await self._latest(
            point, device.confirm_definition, device.confirm_variant, device.confirm_index, now
        )
        if found is None:
            return now, None, f"{point} has shown no power for two hours"
        at, row = found
        power_w, unread = self._power(row)
        return at, power_w, unread or self._aged(point, "power", at, now)

    async def _charge(self, now: datetime) -> tuple[datetime, float | None, str | None]:
        """Return when and what the state of charge was last, %, or why that is not known."""
        device, point = self._device, self._device.soc_point
        if point is None:
            return now, None, None
        found = await self._latest(
            point, device.soc_definition, device.soc_variant, device.soc_index, now
        )
        if found is None:
            return now, None, f"{point} has shown no state of charge for two hours"
        at, row = found
        scale = units.factor(row.unit, "%")
        if scale is None or row.value is None or not 0 <= row.value * scale <= _FULL:
            return at, None, f"{point}: {row.value} {row.unit} is no state of charge in %"
        aged = self._aged(point, "state of charge", at, now)
        return at, None if aged else float(row.value * scale), aged

    async def _latest(
        self, point: str, definition: str, variant: str, index: int, now: datetime
    ) -> tuple[datetime, Raw] | None:
        rows = await self._client.raw(
            points=[point],
            definitions=[definition],
            variants=[variant],
            start_at=now - _LOOK_BACK,
            end_at=now + timedelta(seconds=1),
        )
        mine = [row for row in rows if row.index in (None, index)]
        found = [pair for pair in in_time(mine, self._client.tz) if pair[1].value is not None]
        return found[-1] if found else None

    def _aged(self, point: str, what: str, at: datetime, now: datetime) -> str | None:
        if now - at <= timedelta(seconds=self._device.stale_after_s):
            return None
        return f"{point} has shown no {what} since {at.isoformat(timespec='seconds')}"

    def _power(self, row: Raw) -> tuple[float | None, str | None]:
        scale = units.factor(row.unit, "W")
        if scale is None or row.value is None:
            return None, f"{self._device.confirm}: its unit is {row.unit!r}, which is not W"
        power_w = float(row.value * scale)
        return (power_w if self._device.confirm_positive == "discharge" else -power_w), None


def _samples(seen: Mapping[datetime, Mapping[str, float]]) -> tuple[Sample, ...]:
    return tuple(Sample(at=at, instantaneous=values) for at, values in sorted(seen.items()))


def chosen_option(options: Sequence[Option], power_w: int) -> Option:
    """Return the state that comes nearest to `power_w` from the side of 0: never more than told.

    >>> states = (Option(code="off", power_w=0), Option(code="on", power_w=5000))
    >>> chosen_option(states, 4999).code, chosen_option(states, 5000).code
    ('off', 'on')
    """
    within = [
        option
        for option in options
        if option.power_w == 0
        or (option.power_w * power_w > 0 and abs(option.power_w) <= abs(power_w))
    ]
    if not within:
        return min(options, key=lambda option: abs(option.power_w))
    return max(within, key=lambda option: abs(option.power_w))


TYPE: Final = DeviceType(
    keys=ReengenDevice,
    adapter=Reengen,
    ability=ability,
    together=TOGETHER,
    cautions=cautions,
)
