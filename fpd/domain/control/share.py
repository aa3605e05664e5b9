"""Who of several devices that follow setpoints delivers how much, so that limits hold.

Powers are whole W, as delivered to the site: discharge and generation positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from fpd.domain.control.dispatch import Asset, dispatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a device can be told now: from `least_w` to `most_w`; `rest_w` if nothing is needed.

    `running_w` is what it was told last (None: not known); a change of at most `deadband_w` is
    not worth a command. `bound_to` 1: for a mere wish it does not go below 0, -1: not above; it
    has changed direction a moment ago. Nor does it go above `spare_w` for one (None: nothing is to
    be kept). Devices of priority 1 are asked first.
    """

    id: str
    priority: int
    least_w: int
    most_w: int
    rest_w: int = 0
    running_w: int | None = None
    deadband_w: Decimal | int = 50
    bound_to: int = 0
    spare_w: int | None = None


def narrowed(device: Reach, least_w: int | None, most_w: int | None) -> Reach:
    """Return the device with no more than it can do anyway, and within these bounds."""
    least = device.least_w if least_w is None else max(device.least_w, least_w)
    most = device.most_w if most_w is None else min(device.most_w, most_w)
    return replace(
        device, least_w=min(least, device.most_w), most_w=max(most, min(least, device.most_w))
    )


@dataclass(frozen=True, slots=True)
class Shared:
    """What each device is told; those in `kept` go on with what runs."""

    setpoint_w: Mapping[str, int]
    kept: frozenset[str] = frozenset()

    @property
    def total_w(self) -> int:
        return sum(self.setpoint_w.values())


def share(
    devices: Sequence[Reach], *, low: int | None, high: int | None, wanted_w: int | None
) -> Shared:
    """Return who delivers how much so that the sum lies within [low, high], as far as possible.

    Inside that `wanted_w` is aimed at (None: everybody rests). From rest on what is needed is
    dispatched in order of priority and in proportion to headroom. At least 1500 W, of two at
    rest that can deliver 3000 and 1000 W: 1125 and 375.

    Interpretation: where both limits leave no whole watt between them, `high` (that of the
    export) is kept. Running setpoints are kept all together or not at all where it is a limit
    that decides, so that no deadband hides a breach.
    """
    resting_w = sum(_rest_w(device) for device in devices)
    wish_w = resting_w if wanted_w is None else wanted_w
    found = _split([_steady(device) for device in devices], within(wish_w, low, high))
    if not _holds(found, low, high):
        found = _split(devices, within(resting_w, low, high))
    near = {
        device.id: device.running_w
        for device in devices
        if device.running_w is not None
        and device.least_w <= device.running_w <= device.most_w
        and abs(found.setpoint_w[device.id] - device.running_w) <= device.deadband_w
    }
    held = Shared({**found.setpoint_w, **near}, frozenset(near))
    return held if _holds(held, low, high) else found


def within(value: int, low: int | None, high: int | None) -> int:
    """Return the nearest value not below `low` and not above `high`; `high` wins."""
    value = value if low is None else max(value, low)
    return value if high is None else min(value, high)


def _holds(shared: Shared, low: int | None, high: int | None) -> bool:
    return shared.total_w == within(shared.total_w, low, high)


def _rest_w(device: Reach) -> int:
    return within(device.rest_w, device.least_w, device.most_w)


def _steady(device: Reach) -> Reach:
    """Return the device without what it may not do for a mere wish."""
    if device.spare_w is not None:
        device = narrowed(device, None, max(device.spare_w, 0))
    if device.bound_to > 0:
        return replace(device, least_w=min(max(device.least_w, 0), device.most_w))
    if device.bound_to < 0:
        return replace(device, most_w=max(min(device.most_w, 0), device.least_w))
    return device


def _split(devices: Sequence[Reach], total_w: int) -> Shared:
    rests = {device.id: _rest_w(device) for device in devices}
    assets = [
        Asset(
            id=device.id,
            priority=device.priority,
            headroom_up_w=device.most_w - rests[device.id],
            headroom_down_w=rests[device.id] - device.least_w,
        )
        for device in devices
    ]
    found = dispatch(total_w - sum(rests.values()), assets)
    return Shared({id: rest_w + found.delta_w[id] for id, rest_w in rests.items()})
