"""What a group is going to take or deliver whatever it is told: from its devices to flows. Pure.

Two questions. *Now*: do the devices that close the loop leave something over? Their plans say so
(`over_import_w`, `over_export_w`, each after what those before it carry, so the least counts).
*In the week to come*: do the profiles of the fuel cells, as they are held or are going to be,
stay inside the export limits?

Interpretation: the load of the week to come is not known, so, as for profiles, it is 0; a plan
that knows better gives its breaks in place of this.
Interpretation: a load that is not measured breaks nothing: that it is not known is told elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec
import structlog

from fpd import adapters
from fpd.adapters.device import Command, Health, Profile, Reading
from fpd.config import Device
from fpd.domain.compliance import Cause, Direction, Flow, Foreseen
from fpd.domain.control.ability import Ability, Storage, Weekly
from fpd.domain.control.caps import TICK, NetLoad, Window, tick_limits, tick_start
from fpd.domain.control.ticks import most_delivered
from fpd.domain.forecast import Envelope
from fpd.flows import device_rules as rules
from fpd.store.devices import DeviceState

log = structlog.get_logger()

# A load that is not known is taken for endless; what that leaves over is no prediction.
_NOT_KNOWN_W: Final = 10**8
_ILL: Final[Mapping[str, Cause]] = {
    Health.UNAVAILABLE: Cause.DEVICE,
    Health.STOPPED: Cause.DEVICE,
    Health.DEGRADED: Cause.DEVICE,
    Health.RATIONED: Cause.QUOTA,
}
_HOURS: Final = Decimal(TICK.seconds) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A device of the group, as it is."""

    config: Device
    state: DeviceState
    reading: Reading | None

    @classmethod
    def of(cls, config: Device, state: DeviceState) -> Held:
        return cls(config=config, state=state, reading=rules.reading_of(state))

    @property
    def ability(self) -> Ability:
        found = adapters.ability(self.config)
        if isinstance(found, Weekly) and self.reading is not None and self.reading.folded:
            return found.folded()
        return found

    @property
    def ill(self) -> Cause | None:
        """Return why it cannot be counted on, None: it can."""
        return _ILL.get(self.state.health)

    def output_w(self, now: datetime) -> Decimal | None:
        """Return what it delivers, None: nobody knows."""
        reading = self.reading
        stale_after = timedelta(seconds=self.config.stale_after_s)
        if reading is None or reading.output_w is None or now - reading.at > stale_after:
            return None
        return Decimal(str(reading.output_w))


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """What is in force, and what the group takes with all its devices; None: not known.

    `margin`: the share of a limit that control keeps free. `plans_since`: older plans are history.
    """

    at: datetime
    min_w: int | None
    max_w: int | None
    margin: Decimal
    net_w: Decimal | None
    plans_since: datetime


def present(devices: Sequence[Held], now: Now) -> list[Flow]:
    """Return what flows now beyond a limit though control does what it can."""
    sides = (
        (Direction.IMPORT, now.max_w, now.net_w),
        (
            Direction.EXPORT,
            None if now.min_w is None else -now.min_w,
            None if now.net_w is None else -now.net_w,
        ),
    )
    found = []
    for direction, limit_w, flowing_w in sides:
        if limit_w is None:
            continue
        power_w, cause = _beyond(devices, now, direction, limit_w, flowing_w)
        if power_w is not None and cause is not None and power_w > limit_w:
            found.append(_at(now.at, direction, power_w, cause))
    return found


def _at(at: datetime, direction: Direction, power_w: int, cause: Cause) -> Flow:
    return Flow(
        start_at=at,
        end_at=at + datetime.resolution,
        direction=direction,
        power_w=power_w,
        cause=cause,
        firm=False,
    )


def _beyond(
    devices: Sequence[Held],
    now: Now,
    direction: Direction,
    limit_w: int,
    flowing_w: Decimal | None,
) -> tuple[int | None, Cause | None]:
    """Return what flows and why; without anybody who closes the loop only for those who should."""
    ill = next((device.ill for device in devices if device.ill is not None), None)
    closing = [d for d in devices if d.ill is None and _closes(d.state, now)]
    if not closing:
        return (None, None) if flowing_w is None else (round(flowing_w), ill)
    key = f"over_{direction}_w"
    over_w = min(int((d.state.plan or {}).get(key) or 0) for d in closing)
    if over_w >= _NOT_KNOWN_W:
        return None, None
    power_w = int(limit_w * (1 - now.margin)) + over_w
    spare = any(_has_more(device, direction) for device in closing)
    return power_w, ill or (Cause.ENERGY if spare else Cause.FLOOR)


def _closes(state: DeviceState, now: Now) -> bool:
    """Tell whether a device corrects what is measured: control has just given it a setpoint."""
    wanted, wanted_at = state.wanted or {}, state.wanted_at
    return (
        wanted.get("kind") == "setpoint" and wanted_at is not None and wanted_at >= now.plans_since
    )


def _has_more(device: Held, direction: Direction) -> bool:
    """Tell whether a battery could do more if its energy allowed it."""
    if not isinstance(device.ability, Storage):
        return False
    battery = device.ability.battery
    power_w = int((device.state.wanted or {}).get("power_w") or 0)
    if direction is Direction.IMPORT:
        return power_w < battery.max_discharge_w
    return -power_w < battery.max_charge_w


def coming(devices: Sequence[Held], *, week: Iterable[Envelope], window: Window) -> list[Flow]:
    """Return where in a window the fuel cells deliver more than may be exported."""
    cells = [d for d in devices if isinstance(d.ability, Weekly)]
    curves = [found for cell in cells if (found := _curve(cell, window)) is not None]
    if not curves:
        return []
    most_w = tick_limits(week, window=window, net_load=NetLoad()).most_w
    least_w = sum(curve.least_w for curve in curves)
    ill = next((curve.ill for curve in curves if curve.ill is not None), None)
    absorbed = _Absorbed.by(devices)
    flows = []
    for tick, limit_w in enumerate(most_w):
        power_w = sum(curve.most_w[tick] for curve in curves)
        if limit_w is None or power_w <= limit_w:
            continue
        over_w, lacks_energy = absorbed.left(power_w - limit_w)
        if over_w > 0:
            cause = Cause.FLOOR if least_w > limit_w else Cause.RAMP
            cause = ill or (Cause.ENERGY if lacks_energy else cause)
            start_at = tick_start(window.first + tick)
            flows.append(
                Flow(
                    start_at=start_at,
                    end_at=start_at + TICK,
                    direction=Direction.EXPORT,
                    power_w=limit_w + over_w,
                    cause=cause,
                    firm=cause in (Cause.FLOOR, Cause.RAMP),
                )
            )
    return list(_joined(flows))


def _joined(flows: Iterable[Flow]) -> Iterator[Flow]:
    """Yield the flows, those that go on as one."""
    held: Flow | None = None
    for flow in flows:
        if held is not None and flow == replace(held, start_at=held.end_at, end_at=flow.end_at):
            held = replace(held, end_at=flow.end_at)
            continue
        if held is not None:
            yield held
        held = flow
    if held is not None:
        yield held


@dataclass(frozen=True, slots=True)
class _Curve:
    """What a fuel cell delivers at most in each tick, the least that it can, and why it does not
    follow, None: it does.
    """

    most_w: tuple[int, ...]
    least_w: int
    ill: Cause | None = None


def _curve(cell: Held, window: Window) -> _Curve | None:
    """Return what a cell is going to deliver; None: nothing is known of it.

    Interpretation: one that does not follow keeps to the profile that it was seen to hold, else
    it may deliver all it can. One that is off delivers nothing; one that ignores profiles goes on.
    """
    reading = cell.reading
    if reading is None or reading.limits is None or cell.state.wanted is None:
        return None
    limits = reading.limits
    if not reading.profiling or (not reading.dispatchable and not reading.output_w):
        flat_w = limits.max_w if reading.output_w is None else round(reading.output_w)
        return _Curve((flat_w,) * window.ticks, flat_w, None)
    wanted, confirmed = (rules.command_of(c) for c in (cell.state.wanted, cell.state.confirmed))
    ill = None if wanted == confirmed else cell.ill
    follows: Command | None = wanted if ill is None else confirmed
    assert isinstance(cell.ability, Weekly)
    if isinstance(follows, Profile):
        most_w = _most(follows.points, window, cell.ability)
        if reading.follows is False and reading.output_w is not None:
            # It holds the profile but does not show it: it goes on as it does now.
            output_w = round(reading.output_w)
            return _Curve(tuple(max(w, output_w) for w in most_w), limits.min_w, Cause.DEVICE)
        return _Curve(most_w, limits.min_w, ill)
    return _Curve((limits.max_w,) * window.ticks, limits.min_w, ill)


@lru_cache(maxsize=256)
def _most(points: tuple[tuple[int, int], ...], window: Window, ability: Weekly) -> tuple[int, ...]:
    return most_delivered(
        points,
        window=window,
        week=ability.week,
        semantics=ability.semantics,
    )


@dataclass(slots=True)
class _Absorbed:
    """What batteries can still take of too much: W at once, and Wh in all."""

    power_w: int
    energy_wh: Decimal

    @classmethod
    def by(cls, devices: Iterable[Held]) -> _Absorbed:
        power_w, energy_wh = 0, Decimal(0)
        for device in devices:
            ability, reading = device.ability, device.reading
            if not isinstance(ability, Storage) or device.ill is not None:
                continue
            if reading is None or reading.soc is None:
                continue
            battery = ability.battery
            free = max(battery.soc_max - Decimal(str(reading.soc)), Decimal(0)) / 100
            power_w += battery.max_charge_w
            energy_wh += free * battery.capacity_wh / battery.eff_charge
        return cls(power_w, energy_wh)

    def left(self, over_w: int) -> tuple[int, bool]:
        """Take what is possible of a quarter of an hour; return the rest, and if energy lacked."""
        able_w = min(over_w, self.power_w)
        taken_w = min(able_w, int(self.energy_wh / _HOURS))
        self.energy_wh -= taken_w * _HOURS
        return over_w - taken_w, taken_w < able_w


class _Break(msgspec.Struct):
    """As a plan stores it: from when to when, which limit, by how many W, and why."""

    start_at: datetime = msgspec.field(name="from")
    end_at: datetime = msgspec.field(name="to")
    which: Direction
    by_w: int
    cause: Cause = Cause.ENERGY


def foreseen(stored: Any) -> list[Foreseen]:
    """Read the breaks of a stored plan; one that cannot be read is left out."""
    found = []
    for one in stored if isinstance(stored, list) else ():
        try:
            given = msgspec.convert(one, _Break)
        except msgspec.ValidationError as fault:
            log.warning("compliance.break_unusable", reason=str(fault))
            continue
        if given.by_w > 0:
            found.append(
                Foreseen(
                    start_at=given.start_at,
                    end_at=given.end_at,
                    direction=given.which,
                    by_w=given.by_w,
                    cause=given.cause,
                )
            )
    return found
