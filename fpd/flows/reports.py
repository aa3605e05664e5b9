"""The message that reports a period of a group: to whom, in which style, from which assets.

Sources: OSCP 2.0 §4.5 (measurements), decision P9 (styles, one entry or several).
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from itertools import zip_longest
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from fpd.domain.entities import EnergyDirection, EnergyType, MeasurementUnit, Role
from fpd.domain.measurement import Energy, Period
from fpd.domain.metering import Metered, Settings
from fpd.domain.reported import Total, reported
from fpd.domain.units import Phase, Unit
from fpd.flows.measured import Result
from fpd.oscp import messages
from fpd.store.measurements import Due

_NAMESPACE: Final = uuid.UUID("7a3f6f0c-6c52-4f0e-9d52-0b7f2f1f4c11")
_OF_ASSETS: Final = messages.UpdateAssetMeasurements
_OF_GROUP: Final = messages.UpdateGroupMeasurements
_WH: Final = {MeasurementUnit.WH: 1, MeasurementUnit.KWH: 1000}
_UNITS: Final = {unit: messages.EnergyUnit(unit.wire) for unit in _WH}
_OF_VALUES: Final = {unit: Unit(unit.wire) for unit in MeasurementUnit}
_DIRECTIONS: Final = {term: messages.EnergyDirection(term.wire) for term in EnergyDirection}
_TYPES: Final = {term: messages.EnergyType(term.wire) for term in EnergyType}


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


class Made(NamedTuple):
    """A message of a peer, and what it is recognised by.

    `cuts`: where in the body runs of some entries begin and end, for who reads it piece by piece.
    """

    operation: str
    body: bytes | bytearray
    sha256: bytes
    cuts: Sequence[tuple[int, int]]


class Report:
    """The message of a period, made of its assets some at a time.

    Groups are reported to a provider and assets to an optimizer, unless the peer's switch
    `group-asset-measurement` says otherwise. A group may have very many assets, so nothing is
    kept of one but its entry or what it adds to the sums.

    `is_possible`: any asset's settings could give an entry of a message to this peer.
    """

    def __init__(self, due: Due) -> None:
        self._due = due
        self._period = due.period
        self._continuous = _is_continuous(due)
        self._of_assets = _is_of_assets(due)
        self._zero_fill = _is_true(due.service_props.get("measurement-zero-fill"))
        self._combined = due.service_props.get("group-combined-asset-id")
        per_asset = due.service_props.get("group-measurement-entries") == "per-asset"
        self._entry_each = not self._combined and (self._of_assets or per_asset)
        self._count = 0
        self._first: Result | None = None
        self._is_empty = True
        self._body = bytearray()
        self._cuts: list[tuple[int, int]] = []
        self._digest = hashlib.sha256()
        self._energies: dict[_Kind, _Sum] = {}
        self._values: dict[tuple[Phase, Unit], Total] = {}
        self.is_possible = False
        of = _OF_ASSETS if self._of_assets else _OF_GROUP
        self._write(messages.encode(of(group_id=due.identifier, measurements=()))[:-2])

    @property
    def is_empty(self) -> bool:
        """Whether so far there is nothing to report."""
        sums = self._energies.values()
        return self._is_empty and not self._values and all(one.is_empty for one in sums)

    def add(self, results: Sequence[Result]) -> None:
        """Take in what these assets did."""
        for result in results:
            of = result.metering
            if of.energy is not None or (self._of_assets and of.instantaneous is not None):
                self.is_possible = True
                break
        if self._zero_fill:
            results = [_zero_filled(result, self._period) for result in results]
        if self._entry_each:
            self._add_entries(results)
        else:
            self._add_sums(results)

    def finished(self) -> Made | None:
        """Return the message when all assets are in it; None when there is nothing to report."""
        if not self._entry_each:
            self._enter(self._summed())
        if self._is_empty:
            return None
        self._write(b"]}")
        of = "asset" if self._of_assets else "group"
        operation = f"update_{of}_measurements"
        return Made(operation, self._body, self._digest.digest(), self._cuts)

    def _write(self, json: bytes) -> None:
        self._body += json
        self._digest.update(json)

    def _enter(self, entries: Sequence[Struct]) -> None:
        if entries:
            json = messages.encode_list(entries)
            self._write(json if self._is_empty else b"," + json)
            self._cuts.append((len(self._body) - len(json), len(self._body)))
            self._is_empty = False

    def _add_entries(self, results: Sequence[Result]) -> None:
        if self._of_assets:
            assets = [_asset_entry(r, self._period, self._continuous) for r in results]
            self._enter([entry for entry in assets if entry is not None])
        else:
            energies = [_energy_entry(r, self._continuous) for r in results]
            self._enter([entry for entry in energies if entry is not None])

    def _add_sums(self, results: Sequence[Result]) -> None:
        for r in results:
            of = r.metering
            self._count += 1
            self._first = self._first or r
            if of.energy is not None:
                kind = _Kind(of.phase, of.energy.direction, of.energy.type)
                self._energies.setdefault(kind, _Sum(kind)).add(r, of.energy, self._continuous)
            if self._of_assets and of.instantaneous is not None and r.value is not None:
                of_value = of.phase, _OF_VALUES[of.instantaneous.unit]
                self._values.setdefault(of_value, Total()).add(r.value)

    def _summed(self) -> Sequence[Struct]:
        sums = self._energies.values()
        energies = [entry for one in sums if (entry := one.entry(self._continuous))]
        return self._as_one(energies) if self._of_assets else energies

    def _as_one(self, energies: Sequence[messages.EnergyMeasurement]) -> Sequence[Struct]:
        """Return all assets as one: an entry for each kind of energy, and values by phase and unit.

        Interpretation: what is not of one kind is not added up, so there may be several entries.
        """
        if self._first is None:
            return ()
        if self._count == 1:
            alone = _asset_entry(self._first, self._period, self._continuous)
            return () if alone is None else (alone,)
        values = [
            messages.InstantaneousMeasurement(
                value=total.reported(), phase=phase, unit=unit, measure_time=self._period.end_at
            )
            for (phase, unit), total in self._values.items()
        ]
        return [
            messages.AssetMeasurement(
                asset_id=str(self._combined),
                asset_category=self._first.metering.category,
                energy_measurement=energy,
                instantaneous_measurement=value,
            )
            for energy, value in zip_longest(energies, values)
        ]


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
        metered = Metered(energy=energy)
    return replace(result, value=value, metered=metered)


def _asset_entry(
    result: Result, period: Period, continuous: bool
) -> messages.AssetMeasurement | None:
    energy, value = _energy_entry(result, continuous), None
    of = result.metering
    if of.instantaneous is not None and result.value is not None:
        value = messages.InstantaneousMeasurement(
            value=reported(result.value),
            phase=of.phase,
            unit=_OF_VALUES[of.instantaneous.unit],
            measure_time=period.end_at,
        )
    if energy is None and value is None:
        return None
    return messages.AssetMeasurement(
        asset_id=of.asset.identifier,
        asset_category=of.category,
        energy_measurement=energy,
        instantaneous_measurement=value,
    )


def _energy_entry(result: Result, continuous: bool) -> messages.EnergyMeasurement | None:
    energy, settings = result.metered.energy, result.metering.energy
    amount = _amount(energy, continuous)
    if energy is None or settings is None or amount is None:
        return None
    kind = _Kind(result.metering.phase, settings.direction, settings.type)
    from_at = None if continuous else energy.from_at
    return kind.entry(reported(amount), settings.unit, from_at, energy.until_at)


class _Kind(NamedTuple):
    """Energies of one kind may be added up."""

    phase: Phase
    direction: EnergyDirection
    type: EnergyType

    def entry(
        self, value: Decimal, unit: MeasurementUnit, from_at: datetime | None, until_at: datetime
    ) -> messages.EnergyMeasurement:
        return messages.EnergyMeasurement(
            value=value,
            phase=self.phase,
            unit=_UNITS[unit],
            direction=_DIRECTIONS[self.direction],
            measure_time=until_at,
            energy_type=_TYPES[self.type],
            initial_measure_time=from_at,
        )


class _Sum:
    """What assets of one kind have metered.

    Interpretation: an asset that is silent in the period adds nothing to an energy, but its last
    level to a sum of registers, which would fall without it.
    """

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind
        self._units: set[MeasurementUnit] = set()
        self._total_wh = Total()
        self._from_at: datetime | None = None
        self._until_at: datetime | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of any of them."""
        return self._until_at is None

    def add(self, result: Result, settings: Settings, continuous: bool) -> None:
        self._units.add(settings.unit)
        energy = result.metered.energy
        amount = _amount(energy, continuous)
        if energy is not None and amount is not None:
            self._from_at = min(self._from_at or energy.from_at, energy.from_at)
            self._until_at = max(self._until_at or energy.until_at, energy.until_at)
        elif continuous:
            amount = result.metered.standing
        if amount is not None:
            self._total_wh.add(amount, _WH[settings.unit])

    def entry(self, continuous: bool) -> messages.EnergyMeasurement | None:
        """Return the sum; None when nothing is known of any of them."""
        if self._until_at is None:
            return None
        unit = next(iter(self._units)) if len(self._units) == 1 else MeasurementUnit.WH
        value = self._total_wh.reported(_WH[unit])
        return self._kind.entry(value, unit, None if continuous else self._from_at, self._until_at)


def _amount(energy: Energy | None, continuous: bool) -> Fraction | None:
    if energy is None:
        return None
    return energy.register if continuous else energy.gained
