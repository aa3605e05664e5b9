"""SolarNetwork's words, however they are written."""

from __future__ import annotations

from enum import StrEnum

import pytest

from fpd.domain import entities, forecast, units
from fpd.domain.entities import (
    AUDIENCES,
    ENERGY_UNITS,
    AssetCategory,
    CapacityScope,
    EnergyDirection,
    EnergyType,
    ForecastType,
    MeasurementPeriod,
    MeasurementStyle,
    MeasurementUnit,
    Phase,
    RegistrationStatus,
    Role,
    StatisticType,
    Term,
    link_of,
    of_wire,
    parse,
    status_of,
)
from fpd.domain.link import Link
from fpd.errors import Malformed
from fpd.oscp import messages

KINDS: list[type[Term]] = [
    MeasurementPeriod,
    RegistrationStatus,
    MeasurementStyle,
    AssetCategory,
    Phase,
    MeasurementUnit,
    StatisticType,
    EnergyType,
    EnergyDirection,
    ForecastType,
    Role,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_is_known_by_its_name_in_any_case_and_by_its_code(kind: type[Term]) -> None:
    among = tuple(kind)
    for term in among:
        for given in (term.value, term.upper(), term.lower(), term.code):
            assert parse(given, among) is term, given
    assert len({term.code for term in among}) == len(among)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", ["", " ", "nonsense", None, True, 7, 1.5, [], {}, "\0"])
def test_what_is_no_word_is_refused_with_all_that_are(kind: type[Term], given: object) -> None:
    with pytest.raises(Malformed) as refusal:
        parse(given, tuple(kind))
    assert all(term.value in str(refusal.value) for term in kind)


@pytest.mark.parametrize(
    ("given", "among", "meant"),
    [
        ("M", tuple(StatisticType), StatisticType.MAXIMUM),
        ("m", tuple(StatisticType), StatisticType.MINIMUM),
        ("p", tuple(MeasurementUnit), MeasurementUnit.W),
        ("P", tuple(MeasurementUnit), MeasurementUnit.KW),
        ("e", tuple(MeasurementUnit), MeasurementUnit.WH),
        ("E", tuple(MeasurementUnit), MeasurementUnit.KWH),
        ("w", tuple(MeasurementUnit), MeasurementUnit.W),
        ("C", tuple(ForecastType), ForecastType.FALLBACK_CONSUMPTION),
        ("c", tuple(ForecastType), ForecastType.CONSUMPTION),
        ("C", tuple(Phase), Phase.C),
        ("v", tuple(AssetCategory), AssetCategory.CHARGING),
        ("z", tuple(Phase), Phase.ALL),
        (900, tuple(MeasurementPeriod), MeasurementPeriod.FIFTEEN_MINUTE),
        ("900", tuple(MeasurementPeriod), MeasurementPeriod.FIFTEEN_MINUTE),
        ("fifteenMINUTE", tuple(MeasurementPeriod), MeasurementPeriod.FIFTEEN_MINUTE),
        ("cp", AUDIENCES, Role.CAPACITY_PROVIDER),
        ("CO", AUDIENCES, Role.CAPACITY_OPTIMIZER),
        ("o", AUDIENCES, Role.CAPACITY_OPTIMIZER),
        ("flexible", tuple(CapacityScope), CapacityScope.FLEXIBLE),
    ],
)
def test_short_forms(given: object, among: tuple[StrEnum, ...], meant: StrEnum) -> None:
    assert parse(given, among) is meant


@pytest.mark.parametrize(
    ("given", "among"),
    [("FlexibilityProvider", AUDIENCES), ("fp", AUDIENCES), ("W", ENERGY_UNITS)],
)
def test_not_every_word_fits_everywhere(given: str, among: tuple[StrEnum, ...]) -> None:
    with pytest.raises(Malformed):
        parse(given, among)


def test_periods_are_seconds() -> None:
    assert [period.seconds for period in MeasurementPeriod] == [
        60, 300, 600, 900, 1200, 1800, 3600,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "wire"),
    [
        (MeasurementStyle, messages.MeasurementConfiguration),
        (AssetCategory, messages.AssetCategory),
        (EnergyType, messages.EnergyType),
        (EnergyDirection, messages.EnergyDirection),
        (Phase, units.Phase),
        (MeasurementUnit, units.Unit),
        (ForecastType, forecast.ForecastType),
    ],
)
def test_the_wire_has_a_value_for_every_word_and_no_other(
    kind: type[Term], wire: type[StrEnum]
) -> None:
    assert sorted(term.wire for term in kind) == sorted(wire)
    assert all(of_wire(kind, value).wire == value for value in wire)


def test_the_wire_has_no_nothing() -> None:
    for wire in ("", "continuous", "NEVER"):
        with pytest.raises(Malformed):
            of_wire(MeasurementStyle, wire)
        with pytest.raises(Malformed):
            of_wire(StatisticType, wire)


def test_the_status_of_every_link_and_the_link_of_every_status() -> None:
    by_status = {
        status: [link for link in Link if status_of(link) is status]
        for status in RegistrationStatus
    }
    assert by_status == {
        RegistrationStatus.PENDING: [Link.PROVISIONED, Link.REGISTERING, Link.UNREGISTERED],
        RegistrationStatus.REGISTERED: [Link.REGISTERED, Link.ONLINE, Link.OFFLINE],
        RegistrationStatus.FAILED: [Link.BROKEN, Link.FAILED],
    }
    assert [link_of(status) for status in entities.RegistrationStatus] == [
        Link.PROVISIONED,
        Link.REGISTERED,
        Link.FAILED,
    ]
