"""From an asset's settings and the readings of its properties to what it did in a period.

Source: the SolarUser OSCP API's `instantaneous` and `energy` objects, decision M5 for defaults.
Interpretation: a value of several properties is their sum, and while one of them is missing there
is none. The statistic Count is a number of readings and not a value in the asset's unit, so the
multiplier does not apply to it. The statistic Difference of an energy is what decision P9 says;
the others are taken of the register's readings as of any other property.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from fpd.domain import entities
from fpd.domain.entities import EnergyDirection, EnergyType, MeasurementUnit, StatisticType
from fpd.domain.measurement import Energy, Period, Reading, Register, statistic, sum_of, together
from fpd.errors import Malformed

Bridges = Mapping[str, Decimal]
"""Property → what resets have taken from its register."""


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


def instantaneous(
    settings: Settings, series: Sequence[Sequence[Reading]], period: Period
) -> Fraction | None:
    """Return the value of a period in the settings' unit; None when nothing was read in it.

    `series` are the readings of each of the settings' properties.
    """
    if not all(series):
        return None
    value = statistic(settings.statistic, together(series), period)
    if value is None or settings.statistic is StatisticType.COUNT:
        return value
    return value * settings.multiplier


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """An energy in the settings' unit.

    `standing` is the register's last level known at the period's end, also when the period itself
    says nothing about it. `bridges` are for the next period.
    """

    energy: Energy | None = None
    standing: Fraction | None = None
    bridges: Bridges = field(default_factory=dict)


def metered(
    settings: Settings,
    series: Sequence[Sequence[Reading]],
    period: Period,
    bridges: Bridges,
) -> Metered:
    """Return what registers say about a period; `series` are the readings of each property."""
    if settings.statistic is not StatisticType.DIFFERENCE:
        value = instantaneous(settings, series, period)
        if value is None:
            return Metered()
        energy = Energy(
            register=value, gained=value, from_at=period.start_at, until_at=period.end_at
        )
        return Metered(energy=energy, standing=value)
    registers = {
        name: Register(readings, bridges.get(name, Decimal(0)))
        for name, readings in zip(settings.properties, series, strict=True)
    }
    energies = [register.energy(period) for register in registers.values()]
    levels = [register.standing(period.end_at) for register in registers.values()]
    known = [energy for energy in energies if energy is not None]
    standing = [level for level in levels if level is not None]
    return Metered(
        energy=_scaled(sum_of(known), settings.multiplier)
        if len(known) == len(registers)
        else None,
        standing=sum(standing, Fraction(0)) * settings.multiplier
        if len(standing) == len(registers)
        else None,
        bridges={
            name: taken
            for name, register in registers.items()
            if (taken := register.bridge_at(period.end_at))
        },
    )


def _scaled(energy: Energy, factor: Fraction) -> Energy:
    return Energy(
        register=energy.register * factor,
        gained=None if energy.gained is None else energy.gained * factor,
        from_at=energy.from_at,
        until_at=energy.until_at,
    )
