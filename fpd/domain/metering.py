"""From an asset's settings and the readings of its properties to what it did in a period.

Source: the SolarUser OSCP API's `instantaneous` and `energy` objects, decision M5 for defaults.
Interpretation: a value of several properties is their sum, and while one of them is missing there
is none. The statistic Count is a number of readings and not a value in the asset's unit, so the
multiplier does not apply to it. The statistic Difference of an energy is what decision P9 says;
the others are taken of the register's readings as of any other property.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import msgspec

from fpd.domain import entities
from fpd.domain.entities import EnergyDirection, EnergyType, MeasurementUnit, StatisticType
from fpd.domain.measurement import (
    UNKNOWN,
    Carry,
    Energy,
    Period,
    Reading,
    Register,
    Rules,
    Summary,
    statistic,
    sum_of,
    summary,
    together,
)
from fpd.errors import Malformed


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What of a stream is measured; `direction` and `type` mean something for an energy only."""

    properties: tuple[str, ...]
    unit: MeasurementUnit
    multiplier: Fraction
    statistic: StatisticType
    direction: EnergyDirection
    type: EnergyType


def read(given: Mapping[str, Any], *, of_energy: bool) -> Settings:
    """Read an `instantaneous` or `energy` object. Raises Malformed for what cannot be meant."""
    default = StatisticType.DIFFERENCE if of_energy else StatisticType.AVERAGE
    units = entities.ENERGY_UNITS if of_energy else tuple(MeasurementUnit)
    names = given.get("propertyNames")
    if not isinstance(names, list | tuple) or not names:
        raise Malformed("propertyNames: missing")
    multiplier = given.get("multiplier")
    try:
        factor = Fraction(1) if multiplier is None else Fraction(Decimal(str(multiplier)))
    except (InvalidOperation, ValueError, OverflowError):
        raise Malformed("multiplier: not a number") from None
    return Settings(
        properties=tuple(str(name) for name in names),
        unit=entities.parse(given.get("unit"), units),
        multiplier=factor,
        statistic=entities.parse(given.get("statisticType") or default.value, tuple(StatisticType)),
        direction=entities.parse(given.get("direction") or "Import", tuple(EnergyDirection)),
        type=entities.parse(given.get("type") or "Total", tuple(EnergyType)),
    )


class Read(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was read of a property: before a period, inside it, and the first one after it."""

    carry: Carry = UNKNOWN
    inside: Summary | None = None
    after: Reading | None = None

    def carried(self) -> Carry:
        """Return what the next period takes over, if the property is no register."""
        return self.carry if self.inside is None else Carry(before=self.inside.last)


def as_one(series: Sequence[Sequence[Reading]], period: Period) -> Read:
    """Return the sum of instantaneous properties, each held until its next reading."""
    if not all(series):
        return Read()
    both = together(series)
    before = [r for r in both if r.at < period.start_at][-1:]
    inside = [r for r in both if period.start_at <= r.at < period.end_at]
    return Read(carry=Carry(before=before[0] if before else None), inside=summary(inside))


def instantaneous(settings: Settings, read: Read, period: Period, rules: Rules) -> Fraction | None:
    """Return the value of a period in the settings' unit; None when nothing was read in it."""
    value = statistic(
        settings.statistic, read.inside, period, before=read.carry.before, rules=rules
    )
    if value is None or settings.statistic is StatisticType.COUNT or settings.multiplier == 1:
        return value
    return value * settings.multiplier


class Metered(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An energy in the settings' unit; what its registers leave behind, if it is of registers."""

    energy: Energy | None = None
    carries: tuple[Carry, ...] = ()
    multiplier: Fraction = Fraction(1)

    @property
    def standing(self) -> Fraction | None:
        """The last level known at the period's end, also when the period itself says nothing."""
        if not self.carries:
            return None if self.energy is None else self.energy.register
        levels = [level for carry in self.carries if (level := carry.standing) is not None]
        if len(levels) < len(self.carries):
            return None
        return sum(levels, Fraction(0)) * self.multiplier


def taken(settings: Settings, read: Read, period: Period, rules: Rules) -> Metered:
    """Return a statistic of a register's readings, as of any other property."""
    value = instantaneous(settings, read, period, rules)
    if value is None:
        return Metered()
    energy = Energy(register=value, gained=value, from_at=period.start_at, until_at=period.end_at)
    return Metered(energy=energy)


def metered(settings: Settings, reads: Sequence[Read], period: Period, rules: Rules) -> Metered:
    """Return what registers, one of each property, say about a period.

    Interpretation: while one of them is missing nothing is told, since a part would pass for the
    sum, and zero in place of the missing one would be invented. What the others gained meanwhile
    is kept back and told with the next sum that is whole, from where the last one that was told
    ended, so that all that is told adds up to what the registers moved. What is kept back for
    longer than `rules.reach` is not told, as after a silence of that length.
    """
    found, known = [], []
    for read in reads:
        register = Register(carry=read.carry, inside=read.inside, after=read.after)
        energy = register.energy(period, rules)
        found.append((register, energy))
        if energy is not None:
            known.append(energy)
    whole = sum_of(known) if len(known) == len(reads) else None
    kept_back = len(reads) > 1 and (whole is None or whole.gained is None)
    return Metered(
        energy=None if whole is None else _scaled(whole, settings.multiplier),
        carries=tuple([one.carried(period, said, kept_back=kept_back) for one, said in found]),
        multiplier=settings.multiplier,
    )


def _scaled(energy: Energy, factor: Fraction) -> Energy:
    if factor == 1:
        return energy
    return Energy(
        register=energy.register * factor,
        gained=None if energy.gained is None else energy.gained * factor,
        from_at=energy.from_at,
        until_at=energy.until_at,
    )
