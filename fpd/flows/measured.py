"""What an asset did in a period: from its settings and what was read of it to its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

import msgspec
import structlog

from fpd.domain import metering
from fpd.domain.entities import AssetCategory as Category
from fpd.domain.entities import Phase as PhaseTerm
from fpd.domain.entities import StatisticType, parse
from fpd.domain.measurement import Carry, Period, Reading, Rules
from fpd.domain.metering import Metered, Read, Settings
from fpd.domain.units import Phase
from fpd.errors import Malformed
from fpd.oscp import messages
from fpd.store.parts import Part, PartKey
from fpd.store.readings import Asset, Sought

log = structlog.get_logger()

_NONE: Final[Mapping[PartKey, Carry]] = {}
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


class Metering(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An asset of a group whose period is to be closed, and what is measured of it."""

    asset: Asset
    phase: Phase
    category: messages.AssetCategory
    instantaneous: Settings | None
    energy: Settings | None

    @property
    def group(self) -> tuple[int, str]:
        """The group and audience that it is measured for."""
        return self.asset.group_id, self.asset.audience

    @property
    def keys(self) -> list[PartKey]:
        """What is summed up for it."""
        return [
            PartKey(self.asset.id, kind, name)
            for kind, settings in (("i", self.instantaneous), ("a", self.energy))
            if settings is not None
            for name in dict.fromkeys(settings.properties)
        ]

    def sought(self, period: Period) -> list[Sought]:
        """Return which readings are needed one by one: those of values that are sums over time."""
        return [
            Sought(
                asset=self.asset,
                property=name,
                accumulating=settings is self.energy,
                start_at=period.start_at,
                end_at=period.end_at,
            )
            for settings in (self.instantaneous, self.energy)
            if settings is not None and _is_sum(settings, of_energy=settings is self.energy)
            for name in settings.properties
        ]


def _is_sum(settings: Settings, *, of_energy: bool) -> bool:
    if len(settings.properties) == 1:
        return False
    is_register = of_energy and settings.statistic is StatisticType.DIFFERENCE
    return not is_register


def metering_of(asset: Asset) -> Metering | None:
    """Read an asset's settings; None, and a warning, when they cannot be meant."""
    try:
        return Metering(
            asset=asset,
            phase=_phase(asset.phase),
            category=_category(asset.category),
            instantaneous=_settings(asset.instantaneous, of_energy=False),
            energy=_settings(asset.energy, of_energy=True),
        )
    except Malformed as error:
        log.warning("asset.unusable", asset=asset.id, reason=str(error))
        return None


@lru_cache
def _phase(given: str) -> Phase:
    return Phase(parse(given, tuple(PhaseTerm)).wire)


@lru_cache
def _category(given: str) -> messages.AssetCategory:
    return messages.AssetCategory(parse(given, tuple(Category)).wire)


@lru_cache(maxsize=4096)
def _settings(text: str | None, *, of_energy: bool) -> Settings | None:
    """Ten thousand assets have few settings among them."""
    return None if text is None else metering.read(_decode(text), of_energy=of_energy)


class Result(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an asset did: an instantaneous value in its unit, and its registers.

    `carries` is what the next period takes over.
    """

    metering: Metering
    value: Fraction | None
    metered: Metered
    carries: Mapping[PartKey, Carry]


def result(
    of: Metering,
    period: Period,
    found: Mapping[PartKey, Part],
    series: Iterator[Sequence[Reading]],
    rules: Rules,
) -> Result:
    """Measure an asset.

    `found` is what was summed up; `series` are the readings of its `sought`, in that order.
    """
    value, metered = None, Metered()
    carries = _NONE
    if of.instantaneous:
        value = metering.instantaneous(
            of.instantaneous, _read(of, of.instantaneous, period, found, series), period, rules
        )
    if of.energy and of.energy.statistic is not StatisticType.DIFFERENCE:
        read = _read(of, of.energy, period, found, series)
        metered = metering.taken(of.energy, read, period, rules)
    elif of.energy:
        keys = [PartKey(of.asset.id, "a", name) for name in of.energy.properties]
        registers = [_read_of(found.get(key)) for key in keys]
        metered = metering.metered(of.energy, registers, period, rules)
        carries = dict(zip(keys, metered.carries, strict=True))
    return Result(metering=of, value=value, metered=metered, carries=carries)


def _read(
    of: Metering,
    settings: Settings,
    period: Period,
    found: Mapping[PartKey, Part],
    series: Iterator[Sequence[Reading]],
) -> Read:
    of_energy = settings is of.energy
    if _is_sum(settings, of_energy=of_energy):
        return metering.as_one([next(series) for _ in settings.properties], period)
    key = PartKey(of.asset.id, "a" if of_energy else "i", settings.properties[0])
    return _read_of(found.get(key))


def _read_of(part: Part | None) -> Read:
    return Read() if part is None else part.read
