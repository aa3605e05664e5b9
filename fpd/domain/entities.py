"""SolarNetwork's words for managed entities: name, one-letter code, value on the OSCP wire.

Sources: the SolarUser OSCP API names the values; codes and wire values are those of SolarNetwork's
own Flexibility Provider. The names are what fpd stores and shows; periods are stored in seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self, TypeVar

from fpd.domain.link import Link
from fpd.errors import Malformed

T = TypeVar("T", bound=StrEnum)
W = TypeVar("W", bound="Term")


class Term(StrEnum):
    """One value of an enumeration; as text it is its name.

    `wire` is "" where OSCP has no such value, `alias` "" where there is no other short form.
    """

    code: str
    wire: str
    alias: str

    def __new__(cls, name: str, code: str, wire: str = "", alias: str = "") -> Self:
        term = str.__new__(cls, name)
        term._value_ = name
        term.code, term.wire, term.alias = code, wire, alias
        return term


class MeasurementPeriod(Term):
    """How often measurements are reported; the code is the period in seconds."""

    MINUTE = "Minute", "60"
    FIVE_MINUTE = "FiveMinute", "300"
    TEN_MINUTE = "TenMinute", "600"
    FIFTEEN_MINUTE = "FifteenMinute", "900"
    TWENTY_MINUTE = "TwentyMinute", "1200"
    THIRTY_MINUTE = "ThirtyMinute", "1800"
    HOUR = "Hour", "3600"

    @property
    def seconds(self) -> int:
        return int(self.code)


class RegistrationStatus(Term):
    PENDING = "Pending", "p"
    REGISTERED = "Registered", "r"
    FAILED = "Failed", "f"


class MeasurementStyle(Term):
    CONTINUOUS = "Continuous", "c", "CONTINUOUS"
    INTERMITTENT = "Intermittent", "i", "INTERMITTENT"


class AssetCategory(Term):
    CHARGING = "Charging", "v", "CHARGING"
    CONSUMPTION = "Consumption", "c", "CONSUMPTION"
    GENERATION = "Generation", "g", "GENERATION"
    STORAGE = "Storage", "s", "STORAGE"


class Phase(Term):
    UNKNOWN = "Unknown", "u", "UNKNOWN"
    A = "A", "a", "ONE"
    B = "B", "b", "TWO"
    C = "C", "c", "THREE"
    ALL = "All", "z", "ALL"


class MeasurementUnit(Term):
    A = "A", "a", "A"
    W = "W", "p", "W"
    KW = "kW", "P", "KW"
    WH = "Wh", "e", "WH"
    KWH = "kWh", "E", "KWH"


class StatisticType(Term):
    AVERAGE = "Average", "a"
    COUNT = "Count", "c"
    MINIMUM = "Minimum", "m"
    MAXIMUM = "Maximum", "M"
    START = "Start", "s"
    END = "End", "e"
    DIFFERENCE = "Difference", "d"


class EnergyType(Term):
    FLEXIBLE = "Flexible", "f", "FLEXIBLE"
    NON_FLEXIBLE = "NonFlexible", "n", "NONFLEXIBLE"
    TOTAL = "Total", "t", "TOTAL"


class EnergyDirection(Term):
    NET = "Net", "n", "NET"
    IMPORT = "Import", "i", "IMPORT"
    EXPORT = "Export", "e", "EXPORT"


class ForecastType(Term):
    """The code is also the last part of a forecast's source id."""

    CONSUMPTION = "Consumption", "c", "CONSUMPTION"
    GENERATION = "Generation", "g", "GENERATION"
    FALLBACK_CONSUMPTION = "FallbackConsumption", "C", "FALLBACK_CONSUMPTION"
    FALLBACK_GENERATION = "FallbackGeneration", "G", "FALLBACK_GENERATION"
    OPTIMUM = "Optimum", "o", "OPTIMUM"


class Role(Term):
    FLEXIBILITY_PROVIDER = "FlexibilityProvider", "f", "", "fp"
    CAPACITY_PROVIDER = "CapacityProvider", "p", "", "cp"
    CAPACITY_OPTIMIZER = "CapacityOptimizer", "o", "", "co"


AUDIENCES = (Role.CAPACITY_PROVIDER, Role.CAPACITY_OPTIMIZER)
ENERGY_UNITS = (MeasurementUnit.WH, MeasurementUnit.KWH)


class CapacityScope(StrEnum):
    """What capacity forecasts limit: the group's net power, or its flexible devices alone."""

    NET = "Net"
    FLEXIBLE = "Flexible"


def parse(given: object, among: tuple[T, ...]) -> T:
    """Return the one of `among` that is meant by its name in any case, its code or its alias.

    Raises Malformed, naming all of them. Codes are case-sensitive: m is Minimum, M Maximum.

    >>> parse("chARGing", tuple(AssetCategory)), parse("P", tuple(MeasurementUnit))
    (<AssetCategory.CHARGING: 'Charging'>, <MeasurementUnit.KW: 'kW'>)
    >>> parse(900, tuple(MeasurementPeriod))
    <MeasurementPeriod.FIFTEEN_MINUTE: 'FifteenMinute'>
    """
    is_number = isinstance(given, int) and not isinstance(given, bool)
    if is_number or isinstance(given, str):
        text = str(given)
        for term in among:
            if isinstance(term, Term) and text == term.code:
                return term
        for term in among:
            alias = term.alias if isinstance(term, Term) else ""
            if text and text.lower() in (term.lower(), alias):
                return term
    raise Malformed(f"expected one of {', '.join(among)}")


def of_wire(kind: type[W], wire: str) -> W:
    """Return the term that OSCP calls `wire`. Raises Malformed when there is none."""
    for term in kind:
        if wire and term.wire == wire:
            return term
    raise Malformed(f"{wire!r} is no {kind.__name__}")


# Decision M8. Of several links with one status the first is the one that the status stands for.
_STATUS_OF_LINK = {
    Link.PROVISIONED: RegistrationStatus.PENDING,
    Link.REGISTERING: RegistrationStatus.PENDING,
    Link.UNREGISTERED: RegistrationStatus.PENDING,
    Link.REGISTERED: RegistrationStatus.REGISTERED,
    Link.ONLINE: RegistrationStatus.REGISTERED,
    Link.OFFLINE: RegistrationStatus.REGISTERED,
    Link.FAILED: RegistrationStatus.FAILED,
    Link.BROKEN: RegistrationStatus.FAILED,
}


def status_of(link: Link) -> RegistrationStatus:
    """Return what the state of a link is called in the management API."""
    return _STATUS_OF_LINK[link]


def link_of(status: RegistrationStatus) -> Link:
    """Return the state in which a link is when somebody sets its status by hand."""
    return next(link for link, its in _STATUS_OF_LINK.items() if its is status)
