"""Who carries what: real-time shares of several assets, and the energies around them.

Powers are whole W. A need is what must be delivered more (positive) or less (negative).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import groupby

from fpd.domain.control.caps import ceil_w

_ONE = Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """How much more and less (W, both ≥ 0) an asset can deliver; priority 1 is asked first."""

    id: str
    priority: int
    headroom_up_w: int
    headroom_down_w: int


@dataclass(frozen=True, slots=True)
class Dispatch:
    """By how much each asset changes, and what of the need nobody can carry."""

    delta_w: Mapping[str, int]
    residual_w: int


def dispatch(need_w: int, assets: Sequence[Asset]) -> Dispatch:
    """Return who changes by how much: tier by tier, inside a tier in proportion to headroom.

    1500 W over headrooms of 3000 and 1000 W: 1125 and 375.
    """
    sign = 1 if need_w >= 0 else -1
    left_w = abs(need_w)
    delta_w = {asset.id: 0 for asset in assets}
    in_order = sorted(assets, key=lambda asset: asset.priority)
    for _, members in groupby(in_order, key=lambda asset: asset.priority):
        tier = list(members)
        headrooms = [a.headroom_up_w if sign > 0 else a.headroom_down_w for a in tier]
        carried = proportional(min(left_w, sum(headrooms)), headrooms)
        for asset, share_w in zip(tier, carried, strict=True):
            delta_w[asset.id] = sign * share_w
        left_w -= sum(carried)
    return Dispatch(delta_w, sign * left_w)


def proportional(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Return whole shares of `total` in proportion to `weights`, by largest remainder.

    The shares add up to `total` (to 0 if all weights are 0); of equal remainders the first gets
    the odd watt. No share exceeds its weight unless the total exceeds their sum.
    """
    whole = sum(weights)
    if whole == 0:
        return (0,) * len(weights)
    exact = [Fraction(total * weight, whole) for weight in weights]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: shares[i] - exact[i])
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


@dataclass(frozen=True, slots=True)
class RampBridge:
    minutes: Decimal
    energy_wh: Decimal


def ramp_bridge(
    from_w: Decimal, to_w: Decimal, *, slew_w_per_min: Decimal, units: Decimal = _ONE
) -> RampBridge:
    """Return how long units ramp at once and what a battery must deliver or absorb meanwhile.

    For each it is the triangle ½ · ΔP · ΔP / slew: 600 W at 10 W/min take an hour and 300 Wh.
    Minutes and Wh are rounded to three places.
    """
    change_w = abs(to_w - from_w)
    minutes = change_w / slew_w_per_min
    return RampBridge(
        minutes=_three_places(minutes), energy_wh=_three_places(units * change_w * minutes / 120)
    )


def _three_places(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.001"))


@dataclass(frozen=True, slots=True)
class Waterfill:
    """The lowest flat import that an energy can buy: W rounded up, exactly, and per period."""

    level_w: int
    exact_level_w: Decimal
    discharge_w: tuple[int, ...]


def waterfill(load_w: Sequence[Decimal], *, period_s: Decimal, energy_wh: Decimal) -> Waterfill:
    """Return how to spend `energy_wh` on the peaks of a load of equal periods.

    Interpretation: more energy than the load needs brings the import to 0, not below.
    """
    budget_w = energy_wh * 3600 / period_s  # the energy as W during one period
    peaks = sorted(load_w, reverse=True)
    level = max(peaks[0], Decimal(0))
    for count in range(1, len(peaks) + 1):
        level = (sum(peaks[:count], Decimal(0)) - budget_w) / count
        if count == len(peaks) or level >= peaks[count]:
            break
    level = max(level, Decimal(0))
    whole_w = ceil_w(level)
    return Waterfill(whole_w, level, tuple(max(ceil_w(load - whole_w), 0) for load in load_w))
