"""Units and phases of OSCP 2.0 capacities, and what a capacity is worth in watts.

Sources: OSCP 2.0 UpdateGroupCapacityForecast (units A, W, KW, WH, KWH; phases). The protocol
gives no conversion from ampere, so the nominal voltage of the group is part of every question.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from decimal import ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Final

# No grid carries a petawatt: beyond it a limit is as good as none, and numbers stay storable.
MOST_W: Final = 10**15

_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_PER_HOUR = 3_600_000_000


class Phase(StrEnum):
    """Phase of a capacity: one of three, the sum of all, or not known (which reads as ALL)."""

    UNKNOWN = "UNKNOWN"
    ONE = "ONE"
    TWO = "TWO"
    THREE = "THREE"
    ALL = "ALL"


class Unit(StrEnum):
    A = "A"
    W = "W"
    KW = "KW"
    WH = "WH"
    KWH = "KWH"


class AmpereAll(StrEnum):
    """How an ampere value for phase ALL is meant."""

    SUM = "sum"
    PER_PHASE = "per_phase"


SINGLE_PHASES: Final[tuple[Phase, ...]] = (Phase.ONE, Phase.TWO, Phase.THREE)


def watts(
    capacity: Decimal,
    unit: Unit,
    phase: Phase,
    *,
    duration: timedelta,
    v_ln: Decimal | int,
    phases: int,
    ampere_all: AmpereAll,
) -> Decimal:
    """Return `capacity` in W, unrounded, on the phase it speaks of.

    `duration` (> 0) is that of the block, `v_ln` the volts from phase to neutral, `phases` how
    many phases the group has (1 or 3).

    >>> day = {"duration": timedelta(hours=1), "v_ln": 230, "phases": 3}
    >>> watts(Decimal(6), Unit.A, Phase.ALL, **day, ampere_all=AmpereAll.SUM)
    Decimal('1380')

    Interpretation: an energy is spread evenly over its block; a constant limit at that average
    is sufficient. Interpretation: ALL in ampere is the sum over the phases (the stricter
    reading) unless `ampere_all` says per phase; UNKNOWN in ampere is one phase's worth; the
    power factor is 1.
    """
    match unit:
        case Unit.W:
            value = capacity
        case Unit.KW:
            value = capacity * 1000
        case Unit.WH | Unit.KWH:
            energy_wh = capacity * (1000 if unit is Unit.KWH else 1)
            value = energy_wh * _MICROSECONDS_PER_HOUR / (duration // _MICROSECOND)
        case Unit.A:
            every_phase = phase is Phase.ALL and ampere_all is AmpereAll.PER_PHASE
            value = capacity * v_ln * (phases if every_phase else 1)
    return min(value, Decimal(MOST_W))


def floor_w(value: Decimal) -> int:
    """Return whole watts not above `value`: how a maximum is rounded."""
    return int(value.to_integral_value(rounding=ROUND_FLOOR))


def device_limit_w(
    limits_a: Mapping[Phase, Decimal | None],
    *,
    device_phases: Collection[Phase],
    v_ln: Decimal | int,
    ampere_all: AmpereAll,
) -> int | None:
    """Return the most (W) that a device on `device_phases` may draw under limits in ampere.

    None: nothing limits it. A device loads its phases equally, so the tightest of them counts
    once for each; a limit of the sum (ALL, UNKNOWN) applies beside it.

    >>> limits = {Phase.ONE: Decimal(10), Phase.TWO: Decimal(16), Phase.THREE: None}
    >>> device_limit_w(limits, device_phases=[Phase.TWO], v_ln=230, ampere_all=AmpereAll.SUM)
    3680
    """
    named = {phase: limit for phase, limit in limits_a.items() if limit is not None}
    each_a = [named[phase] for phase in device_phases if phase in named]
    if Phase.ALL in named and ampere_all is AmpereAll.PER_PHASE:
        each_a.append(named.pop(Phase.ALL))
    total_a = [named[phase] for phase in (Phase.ALL, Phase.UNKNOWN) if phase in named]
    if each_a:
        total_a.append(min(each_a) * len(device_phases))
    return floor_w(min(total_a) * v_ln) if total_a else None
