"""The devices of a group as control sees them, and the load that they have to carry. Pure.

Sign: into the group is positive; what devices deliver is positive at their own door. With `N`
the net import at the meter and `b` what the controlled devices deliver, the load is `N + b`:
adding back what they do now keeps the loop from chasing itself.

Interpretation (reference: devices §5.1): with capacityScope Flexible that load is 0; without a
meter it is the sum of the group's uncontrolled assets, 0 if none is measured. From both goes
what fuel cells deliver, and of a device out of reach the worse of its last setpoint and rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from fpd import adapters
from fpd.adapters.device import Reading
from fpd.config import Device
from fpd.domain.control import behind_meter
from fpd.domain.control.ability import Ability, Adjustable, Weekly
from fpd.domain.forecast import Envelope
from fpd.store.devices import DeviceState

_JUST_DECIDED = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """One controlled device. `alone`: it does not follow and is left alone for a while."""

    config: Device
    priority: int
    state: DeviceState
    reading: Reading | None
    alone: bool

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def ability(self) -> Ability:
        found = adapters.ability(self.config)
        if isinstance(found, Weekly) and self.reading is not None and self.reading.folded:
            return found.folded()
        return found

    def fresh(self, now: datetime) -> bool:
        """Whether the last reading may be used for control, reachable now or not."""
        stale_after = timedelta(seconds=self.config.stale_after_s)
        return self.reading is not None and now - self.reading.at <= stale_after

    def usable(self, now: datetime) -> bool:
        """Whether it may be told a setpoint now."""
        return (
            self.reading is not None
            and self.reading.dispatchable
            and self.fresh(now)
            and not self.alone
        )

    @property
    def waits(self) -> bool:
        """Whether it did not take its last command: it is tried again in its own time."""
        return self.reading is not None and self.reading.untaken is not None

    @property
    def doubted(self) -> bool:
        """Whether it lately did not answer, take its command or follow it.

        What it is told may come to nothing, so what it does counts, and others carry the rest.
        """
        return self.waits or self.state.failures > 0 or self.state.attempts > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the group takes, W, import +, at an instant. `at_meter`: devices' output included.

    `watts` None: it should be measured and is not; `detail` says so. `lost`: not for long.
    """

    watts: Decimal | None
    at: datetime | None = None
    at_meter: bool = False
    detail: str | None = None
    lost: bool = False


def carried_load(
    devices: Sequence[Steered],
    usable: Sequence[Steered],
    cells: Sequence[Steered],
    envelope: Envelope,
    measured: Measured,
    now: datetime,
) -> tuple[Decimal, str]:
    """Return the load that the usable devices have to carry, and from what it is known."""
    if measured.watts is None or measured.at_meter:
        load_w = behind_meter.load_w(
            measured.watts or Decimal(0),
            measured.at,
            [_output(d) for d in usable],
            before_w=_load_before(devices, usable, now),
        )
        return load_w, measured.detail or "measured by the meter"
    out_of_reach = [d for d in devices if d not in usable]
    others_w = sum((_assumed_w(d, envelope, now) for d in out_of_reach), Decimal(0))
    others_w += sum((_cell_w(d, envelope, now) for d in cells), Decimal(0))
    return measured.watts - others_w, measured.detail or "that of the uncontrolled assets"


def _output(device: Steered) -> behind_meter.Output:
    reading = device.reading
    if reading is None or reading.output_w is None:
        return behind_meter.Output(seen=())
    # What it was seen to follow shows in its readings, exactly; until then it may come any moment.
    coming = device.state.told != device.state.confirmed
    return behind_meter.Output(
        seen=(*reading.recent, (reading.at, reading.output_w)),
        told_w=told_w(device) if coming else None,
        told_at=device.state.told_at,
    )


def _load_before(
    devices: Sequence[Steered], carriers: Sequence[Steered], now: datetime
) -> int | None:
    """Return what the last decision took the load for, if that was a moment ago.

    Who does not carry it any more delivers a part of it now, and the other way round.
    """
    known = [
        (device.state.wanted_at, load_w, (device.state.plan or {}).get("carried_by"))
        for device in devices
        if device.state.wanted_at is not None
        and timedelta(0) <= now - device.state.wanted_at <= _JUST_DECIDED
        and isinstance(load_w := (device.state.plan or {}).get("net_load_w"), int)
    ]
    if not known:
        return None
    _, load_w, carried_by = max(known, key=lambda one: one[0])
    names = {device.name for device in carriers}
    before = names if carried_by is None else set(carried_by)
    outputs = {d.name: d.reading.output_w or 0 for d in devices if d.reading is not None}
    joined = sum(outputs.get(name, 0) for name in names - before)
    left = sum(outputs.get(name, 0) for name in before - names)
    return round(load_w + joined - left)


def told_w(device: Steered) -> int | None:
    told = device.state.told or {}
    power_w = told.get("power_w")
    return power_w if isinstance(power_w, int) else None


def _assumed_w(device: Steered, envelope: Envelope, now: datetime) -> Decimal:
    """Return what a device out of reach delivers: what it was told, or left to itself, does.

    Of the two the worse for the limits; under both the one that it was told. One that was read
    lately does what it was seen to do.
    """
    if device.usable(now) and device.reading is not None and device.reading.output_w is not None:
        return Decimal(str(device.reading.output_w))
    ability, last_w = device.ability, told_w(device)
    rest_w = ability.rest_w if isinstance(ability, Adjustable) else 0
    if last_w is None:
        return Decimal(rest_w)
    if envelope.min_w is None:
        return Decimal(min(last_w, rest_w))
    return Decimal(last_w if envelope.max_w is not None else max(last_w, rest_w))


def _cell_w(device: Steered, envelope: Envelope, now: datetime) -> Decimal:
    """Return what a fuel cell delivers; unknown, its most if that may be too much, else nothing."""
    reading = device.reading
    if reading is not None and device.fresh(now) and reading.output_w is not None:
        return Decimal(str(reading.output_w))
    if envelope.min_w is None or reading is None or reading.limits is None:
        return Decimal(0)
    return Decimal(reading.limits.max_w)
