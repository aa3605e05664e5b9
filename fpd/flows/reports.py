"""The message that reports a period of a group: to whom, in which style, from which assets.

Sources: OSCP 2.0 §4.5 (measurements), decision P9 (styles, one entry or several).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import zip_longest
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from fpd.domain import metering
from fpd.domain.entities import AssetCategory as Category
from fpd.domain.entities import (
    EnergyDirection,
    EnergyType,
    MeasurementUnit,
    Role,
    StatisticType,
    parse,
)
from fpd.domain.entities import Phase as PhaseTerm
from fpd.domain.measurement import Carry, Energy, Period, Reading, Rules, reported
from fpd.domain.metering import Metered, Read, Settings
from fpd.domain.units import Phase, Unit
from fpd.errors import Malformed
from fpd.oscp import messages
from fpd.store.measurements import Due
from fpd.store.parts import Part, PartKey
from fpd.store.readings import Asset, Sought

log = structlog.get_logger()

_NAMESPACE: Final = uuid.UUID("7a3f6f0c-6c52-4f0e-9d52-0b7f2f1f4c11")
_WH: Final = {MeasurementUnit.WH: 1, MeasurementUnit.KWH: 1000}
_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """An asset of a group whose period is to be closed, and what is measured of it."""

    asset: Asset
    phase: Phase
    category: messages.AssetCategory
    instantaneous: Settings | None
    energy: Settings | None

    @property
    def keys(self) -> list[PartKey]:
        """What is summed up for it."""
        of_value = self.instantaneous.properties if self.instantaneous else ()
        of_energy = self.energy.properties if self.energy else ()
        return [PartKey(self.asset.id, "i", name) for name in dict.fromkeys(of_value)] + [
            PartKey(self.asset.id, "a", name) for name in dict.fromkeys(of_energy)
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
    is_register = of_energy and settings.statistic is StatisticType.DIFFERENCE
    return len(settings.properties) > 1 and not is_register


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
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
    carries: dict[PartKey, Carry] = {}
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
        metered, told = metering.metered(of.energy, registers, period, rules)
        carries = dict(zip(keys, told, strict=True))
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


def request_id(due: Due) -> str:
    """Return the id of a period's message: the same whenever it is made.

    The instant at which the group was made tells two installations of fpd apart.
    """
    name = (
        f"{due.created_at.isoformat()} {due.group_id} {due.audience} "
        f"{due.period_s} {due.start_at.isoformat()}"
    )
    return str(uuid.uuid5(_NAMESPACE, name))


def ids(due: Due, revision: int) -> tuple[str, str | None]:
    """Return X-Request-ID and X-Correlation-ID of a period's message or of its correction.

    A correction has the id of what it corrects; for peers that take an id once only it has one of
    its own, and the other as correlation id.
    """
    first = request_id(due)
    if revision and due.service_props.get("measurement-corrections") == "new-id":
        return str(uuid.uuid5(_NAMESPACE, f"{first} {revision}")), first
    return first, None


def hears_corrections(due: Due) -> bool:
    """Tell whether the peer is told when a report has changed."""
    return due.service_props.get("measurement-corrections") != "none"


def report(due: Due, results: Sequence[Result]) -> tuple[str, Struct] | None:
    """Return (operation, message), or None when there is nothing to report.

    Groups are reported to a provider and assets to an optimizer, unless the peer's switch
    `group-asset-measurement` says otherwise.
    """
    continuous = _is_continuous(due)
    period = due.period
    if _is_true(due.service_props.get("measurement-zero-fill")):
        results = [_zero_filled(r, period) for r in results]
    combined = due.service_props.get("group-combined-asset-id")
    if _is_of_assets(due):
        if combined and len(results) > 1:
            assets = _combined(results, period, continuous, asset_id=str(combined))
        else:
            assets = [entry for r in results if (entry := _asset_entry(r, period, continuous))]
        if assets:
            return "update_asset_measurements", messages.UpdateAssetMeasurements(
                group_id=due.identifier, measurements=tuple(assets)
            )
        return None
    per_asset = due.service_props.get("group-measurement-entries") == "per-asset"
    entries = _group_entries(results, continuous, summed=bool(combined) or not per_asset)
    if entries:
        return "update_group_measurements", messages.UpdateGroupMeasurements(
            group_id=due.identifier, measurements=tuple(entries)
        )
    return None


def is_reportable(due: Due, results: Iterable[Result]) -> bool:
    """Tell whether any asset's settings could give an entry of a message to this peer."""
    of_assets = _is_of_assets(due)
    wanted = [(r.metering.energy, r.metering.instantaneous) for r in results]
    return any(energy is not None or (of_assets and now is not None) for energy, now in wanted)


def _is_of_assets(due: Due) -> bool:
    switch = due.service_props.get("group-asset-measurement")
    return due.audience == Role.CAPACITY_OPTIMIZER if switch is None else _is_true(switch)


def _is_continuous(due: Due) -> bool:
    """Tell whether registers are reported as they stand, not the energy of the period (P9)."""
    style = due.service_props.get("measurement-style")
    if style in ("continuous", "intermittent"):
        return bool(style == "continuous")
    return list(due.measurement_configuration) == ["CONTINUOUS"]


def _is_true(switch: object) -> bool:
    if isinstance(switch, str):
        return switch.strip().lower() in ("true", "yes", "on", "1")
    return bool(switch)


def _zero_filled(result: Result, period: Period) -> Result:
    """Return a result in which nothing is missing, for peers that insist.

    Interpretation: an energy that is not known is zero for the whole period; a register that is
    not read stands where it stood, and one that never was read stays missing.
    """
    value, metered = result.value, result.metered
    if value is None and result.metering.instantaneous is not None:
        value = Fraction(0)
    if result.metering.energy is not None and (
        metered.energy is None or metered.energy.gained is None
    ):
        energy = Energy(
            register=metered.standing or Fraction(0),
            gained=Fraction(0),
            from_at=period.start_at,
            until_at=period.end_at,
        )
        metered = replace(metered, energy=energy)
    return replace(result, value=value, metered=metered)


def _combined(
    results: Sequence[Result], period: Period, continuous: bool, *, asset_id: str
) -> list[messages.AssetMeasurement]:
    """Return all assets as one: an entry for each kind of energy, and values by phase and unit.

    Interpretation: what is not of one kind is not added up, so there may be several entries.
    """
    energies = _group_entries(results, continuous, summed=True)
    sums: dict[tuple[Phase, Unit], Fraction] = {}
    for r in results:
        settings = r.metering.instantaneous
        if settings is not None and r.value is not None:
            kind = r.metering.phase, Unit(settings.unit.wire)
            sums[kind] = sums.get(kind, Fraction(0)) + r.value
    values = [
        messages.InstantaneousMeasurement(
            value=reported(value), phase=phase, unit=unit, measure_time=period.end_at
        )
        for (phase, unit), value in sums.items()
    ]
    return [
        messages.AssetMeasurement(
            asset_id=asset_id,
            asset_category=results[0].metering.category,
            energy_measurement=energy,
            instantaneous_measurement=value,
        )
        for energy, value in zip_longest(energies, values)
    ]


def _asset_entry(
    result: Result, period: Period, continuous: bool
) -> messages.AssetMeasurement | None:
    energies = _entries([result], continuous)
    value = None
    settings = result.metering.instantaneous
    if settings is not None and result.value is not None:
        value = messages.InstantaneousMeasurement(
            value=reported(result.value),
            phase=result.metering.phase,
            unit=Unit(settings.unit.wire),
            measure_time=period.end_at,
        )
    if not energies and value is None:
        return None
    return messages.AssetMeasurement(
        asset_id=result.metering.asset.identifier,
        asset_category=result.metering.category,
        energy_measurement=energies[0] if energies else None,
        instantaneous_measurement=value,
    )


def _group_entries(
    results: Sequence[Result], continuous: bool, *, summed: bool
) -> list[messages.EnergyMeasurement]:
    metered = [r for r in results if r.metering.energy is not None]
    if not summed:
        return [entry for r in metered for entry in _entries([r], continuous)]
    kinds: dict[object, list[Result]] = {}
    for r in metered:
        kinds.setdefault(_kind(r), []).append(r)
    return [entry for parts in kinds.values() for entry in _entries(parts, continuous)]


def _kind(result: Result) -> tuple[Phase, EnergyDirection, EnergyType]:
    settings = result.metering.energy
    assert settings is not None
    return result.metering.phase, settings.direction, settings.type


def _entries(results: Sequence[Result], continuous: bool) -> list[messages.EnergyMeasurement]:
    """Return one entry for assets of one kind, none when nothing is known of any of them.

    Interpretation: an asset that is silent in the period adds nothing to an energy, but its last
    level to a sum of registers, which would fall without it.
    """
    spoke = [r for r in results if _amount(r, continuous) is not None]
    if not spoke:
        return []
    units = {r.metering.energy.unit for r in results if r.metering.energy}
    unit = units.pop() if len(units) == 1 else MeasurementUnit.WH
    total = Fraction(0)
    for r in results:
        amount = _amount(r, continuous)
        if amount is None and continuous:
            amount = r.metered.standing
        if amount is not None and r.metering.energy is not None:
            total += amount * _WH[r.metering.energy.unit] / _WH[unit]
    energies = [r.metered.energy for r in spoke if r.metered.energy is not None]
    phase, direction, kind = _kind(spoke[0])
    return [
        messages.EnergyMeasurement(
            value=reported(total),
            phase=phase,
            unit=messages.EnergyUnit(unit.wire),
            direction=messages.EnergyDirection(direction.wire),
            measure_time=max(energy.until_at for energy in energies),
            energy_type=messages.EnergyType(kind.wire),
            initial_measure_time=None if continuous else min(e.from_at for e in energies),
        )
    ]


def _amount(result: Result, continuous: bool) -> Fraction | None:
    energy = result.metered.energy
    if energy is None:
        return None
    return energy.register if continuous else energy.gained
