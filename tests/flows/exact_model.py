"""What a period amounts to, by brute force and rational arithmetic, apart from fpd's own domain."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise

Series = Mapping[datetime, Fraction]


def seconds(duration: timedelta) -> Fraction:
    return Fraction(duration // timedelta(microseconds=1), 1_000_000)


def movement(series: Series, from_at: datetime, until_at: datetime) -> Fraction:
    """What a register counted between two instants: its rises, each spread evenly."""
    total = Fraction(0)
    for (a, low), (b, high) in pairwise(sorted(series.items())):
        overlap = min(b, until_at) - max(a, from_at)
        if high > low and overlap > timedelta(0):
            total += (high - low) * seconds(overlap) / seconds(b - a)
    return total


def together(registers: Collection[Series], from_at: datetime, until_at: datetime) -> Fraction:
    """What several registers counted between two instants, whichever of them was silent when."""
    return sum((movement(one, from_at, until_at) for one in registers), Fraction(0))


def is_silent(series: Series, start_at: datetime) -> bool:
    """Whether nothing at all tells what a register did from an instant on."""
    return all(at < start_at for at in series)


def average(
    series: Series, start_at: datetime, end_at: datetime, hold: timedelta
) -> Fraction | None:
    """The mean over every stretch of time in which one value holds."""
    inside = [at for at in series if start_at <= at < end_at]
    if not inside:
        return None
    area, length = Fraction(0), Fraction(0)
    edges = sorted({*inside, start_at, end_at})
    for a, b in pairwise(edges):
        holding = [at for at in series if at <= a and (at >= start_at or at > start_at - hold)]
        if holding:
            area += series[max(holding)] * seconds(b - a)
            length += seconds(b - a)
    return area / length


def statistic(kind: str, series: Series, start_at: datetime, end_at: datetime) -> Fraction | None:
    """Those that are of the readings of the period itself."""
    inside = [series[at] for at in sorted(series) if start_at <= at < end_at]
    if not inside:
        return None
    found = {
        "Minimum": min(inside),
        "Maximum": max(inside),
        "Count": Fraction(len(inside)),
        "End": inside[-1],
    }
    return found[kind]
