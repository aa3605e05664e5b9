"""The message that reports a period of a group: to whom, in which style, from which assets.

Sources: OSCP 2.0 §4.5 (measurements), decision P9 (styles, one entry or several).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

import structlog
from msgspec import Struct

from fpd.domain import metering
from fpd.domain.entities import AssetCategory as Category
from fpd.domain.entities import EnergyDirection, EnergyType, MeasurementUnit, Role, parse
from fpd.domain.entities import Phase as PhaseTerm
from fpd.domain.measurement import Period, Reading, period_at, reported
from fpd.domain.metering import Metered, Settings
from fpd.domain.units import Phase, Unit
from fpd.errors import Malformed
from fpd.oscp import messages
from fpd.store.measurements import Due
from fpd.store.readings import Asset, Sought

log = structlog.get_logger()

_NAMESPACE: Final = uuid.UUID("7a3f6f0c-6c52-4f0e-9d52-0b7f2f1f4c11")
_WH: Final = {MeasurementUnit.WH: 1, MeasurementUnit.KWH: 1000}
_PATIENCE: Final = 12  # the part of a period that its last registers may be waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Metering:
    """An asset of a group whose period is to be closed, and what is measured of it."""

    asset: Asset
    phase: Phase
    category: messages.AssetCategory
    instantaneous: Settings | None
    energy: Settings | None

    def sought(self, period: Period) -> list[Sought]:
        """Return which readings are needed: of the instantaneous properties, then the registers."""
        return [
            Sought(
                asset=self.asset,
                property=name,
                accumulating=settings is self.energy,
                start_at=period.start_at,
                end_at=period.end_at,
            )
            for settings in (self.instantaneous, self.energy)
            if settings is not None
            for name in settings.properties
        ]


def metering_of(asset: Asset) -> Metering | None:
    """Read an asset's settings; None, and a warning, when they cannot be meant."""
    now, over_time = asset.instantaneous, asset.energy
    try:
        return Metering(
            asset=asset,
            phase=Phase(parse(asset.phase, tuple(PhaseTerm)).wire),
            category=messages.AssetCategory(parse(asset.category, tuple(Category)).wire),
            instantaneous=None if now is None else metering.read(now, of_energy=False),
            energy=None if over_time is None else metering.read(over_time, of_energy=True),
        )
    except Malformed as error:
        log.warning("asset.unusable", asset=asset.id, reason=str(error))
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an asset did: an instantaneous value in its unit, and its registers."""

    metering: Metering
    value: Fraction | None
    metered: Metered


def result(
    of: Metering,
    period: Period,
    readings: Sequence[Sequence[Reading]],
    bridges: Mapping[str, Decimal],
) -> Result:
    """Measure an asset; `readings` are in the order of its `sought`."""
    count = len(of.instantaneous.properties) if of.instantaneous else 0
    value, metered = None, Metered()
    if of.instantaneous:
        value = metering.instantaneous(of.instantaneous, readings[:count], period)
    if of.energy:
        metered = metering.metered(of.energy, readings[count:], period, bridges)
    return Result(metering=of, value=value, metered=metered)


def period_of(due: Due) -> Period:
    """Return the period that is to be closed."""
    return period_at(due.start_at, due.period_s)


def is_awaited(due: Due, results: Iterable[Result], *, now: datetime, settle: timedelta) -> bool:
    """Tell whether it is worth waiting a little longer for readings after the period's end.

    A register that is read, but not yet after the end, cannot be interpolated there. It is waited
    for a twelfth of the period at most.
    """
    end_at = period_of(due).end_at
    if now >= end_at + settle + timedelta(seconds=due.period_s) / _PATIENCE:
        return False
    energies = [result.metered.energy for result in results]
    return any(energy is not None and energy.until_at < end_at for energy in energies)


def request_id(due: Due) -> str:
    """Return the id of a period's message: the same whenever it is made.

    The instant at which the group was made tells two installations of fpd apart.
    """
    name = (
        f"{due.created_at.isoformat()} {due.group_id} {due.audience} "
        f"{due.period_s} {due.start_at.isoformat()}"
    )
    return str(uuid.uuid5(_NAMESPACE, name))


def report(due: Due, results: Sequence[Result]) -> tuple[str, Struct] | None:
    """Return (operation, message), or None when there is nothing to report.

    Groups are reported to a provider and assets to an optimizer, unless the peer's switch
    `group-asset-measurement` says otherwise.
    """
    continuous = _is_continuous(due)
    period = period_of(due)
    if _is_of_assets(due):
        assets = [entry for r in results if (entry := _asset_entry(r, period, continuous))]
        if assets:
            return "update_asset_measurements", messages.UpdateAssetMeasurements(
                group_id=due.identifier, measurements=tuple(assets)
            )
        return None
    per_asset = due.service_props.get("group-measurement-entries") == "per-asset"
    entries = _group_entries(results, continuous, summed=not per_asset)
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
