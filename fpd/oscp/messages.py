"""OSCP 2.0 messages, field by field as in the Open Charge Alliance's JSON Schemas.

Names are the wire's, so nothing is converted. Unknown fields are ignored (no schema forbids
them); numbers are numbers, enumerations are exact, date-times carry a zone, capacities are
finite and not negative. Interpretation: decision P16, null for an optional field is absence.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from fpd.domain.forecast import ForecastType
from fpd.domain.units import Phase, Unit
from fpd.errors import Malformed

# PostgreSQL keeps every character but this one.
_NO_NUL = "^[^\\x00]*$"
Text = Annotated[str, Meta(min_length=1, pattern=_NO_NUL)]
Instant = Annotated[datetime, Meta(tz=True)]
# Read as a double because a Decimal field would also take strings. The shortest text of a double
# gives back every number of up to 15 digits exactly; what was received is kept byte for byte too.
Capacity = Annotated[float, Meta(ge=0)]


class MeasurementConfiguration(StrEnum):
    CONTINUOUS = "CONTINUOUS"
    INTERMITTENT = "INTERMITTENT"


class EnergyDirection(StrEnum):
    NET = "NET"
    IMPORT = "IMPORT"
    EXPORT = "EXPORT"


class EnergyType(StrEnum):
    FLEXIBLE = "FLEXIBLE"
    NONFLEXIBLE = "NONFLEXIBLE"
    TOTAL = "TOTAL"


class EnergyUnit(StrEnum):
    WH = "WH"
    KWH = "KWH"


class AssetCategory(StrEnum):
    CHARGING = "CHARGING"
    CONSUMPTION = "CONSUMPTION"
    GENERATION = "GENERATION"
    STORAGE = "STORAGE"


class VersionUrl(Struct, frozen=True):
    version: Text
    base_url: Annotated[str, Meta(min_length=1, max_length=256, pattern=_NO_NUL)]


class Register(Struct, frozen=True):
    """`token` is what the receiver must use towards the sender."""

    token: Annotated[str, Meta(min_length=1, max_length=4096, pattern=_NO_NUL)]
    version_url: Annotated[tuple[VersionUrl, ...], Meta(min_length=1, max_length=64)]


class RequiredBehaviour(Struct, frozen=True, omit_defaults=True):
    """How often (s) the sender wants heartbeats, and how it wants energy accumulated."""

    measurement_configuration: tuple[MeasurementConfiguration, ...] | None = None
    heartbeat_interval: Annotated[float, Meta(ge=1)] | None = None


class Handshake(Struct, frozen=True, omit_defaults=True):
    required_behaviour: RequiredBehaviour | None = None


class HandshakeAcknowledge(Handshake, frozen=True):
    pass


class Heartbeat(Struct, frozen=True):
    offline_mode_at: Instant


class ForecastedBlock(Struct, frozen=True):
    """`capacity` in `unit` on `phase` during [start_time, end_time)."""

    capacity: Capacity
    phase: Phase
    unit: Unit
    start_time: Instant
    end_time: Instant


class UpdateGroupCapacityForecast(Struct, frozen=True):
    group_id: Text
    type: ForecastType
    forecasted_blocks: Annotated[tuple[ForecastedBlock, ...], Meta(min_length=1)]


class AdjustGroupCapacityForecast(UpdateGroupCapacityForecast, frozen=True):
    """A wish for other capacities: absolute ones, not a difference."""


class GroupCapacityComplianceError(Struct, frozen=True, omit_defaults=True):
    """Why a forecast, the one named by X-Correlation-ID, cannot be kept, and in which blocks."""

    message: str
    forecasted_blocks: Annotated[tuple[ForecastedBlock, ...], Meta(min_length=1)] | None = None


class EnergyMeasurement(Struct, frozen=True, omit_defaults=True):
    value: Decimal
    phase: Phase
    unit: EnergyUnit
    direction: EnergyDirection
    measure_time: Instant
    energy_type: EnergyType | None = None
    initial_measure_time: Instant | None = None


class InstantaneousMeasurement(Struct, frozen=True):
    value: Decimal
    phase: Phase
    unit: Unit
    measure_time: Instant


class AssetMeasurement(Struct, frozen=True, omit_defaults=True):
    asset_id: str
    asset_category: AssetCategory
    energy_measurement: EnergyMeasurement | None = None
    instantaneous_measurement: InstantaneousMeasurement | None = None


class UpdateGroupMeasurements(Struct, frozen=True):
    group_id: str
    measurements: Annotated[tuple[EnergyMeasurement, ...], Meta(min_length=1)]


class UpdateAssetMeasurements(Struct, frozen=True):
    group_id: str
    measurements: Annotated[tuple[AssetMeasurement, ...], Meta(min_length=1)]


# A date-time is printed with Z, a Decimal as a JSON number with all its digits.
_encoder = msgspec.json.Encoder(decimal_format="number")

T = TypeVar("T", bound=Struct)
_DECODERS: dict[type[Struct], msgspec.json.Decoder[Any]] = {
    message: msgspec.json.Decoder(message)
    for message in (
        Register,
        Handshake,
        HandshakeAcknowledge,
        Heartbeat,
        UpdateGroupCapacityForecast,
        AdjustGroupCapacityForecast,
        GroupCapacityComplianceError,
    )
}


_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(2400, 1, 1, tzinfo=UTC)


def plausible(at: datetime, field: str) -> datetime:
    """Return an instant of a peer's in UTC. Raises Malformed for one before 1970 or after 2399.

    Interpretation: OSCP sets no bounds, but instants at the ends of the calendar can be neither
    converted nor added to, and nobody means them.
    """
    if not plausible_span(at, at):
        raise Malformed(f"{field}: expected an instant from 1970 to 2399")
    return at.astimezone(UTC)


def plausible_span(start_at: datetime, end_at: datetime) -> bool:
    """Tell whether what lies from one to the other is `plausible`."""
    return start_at >= _EARLIEST and end_at < _LATEST


def encode(message: Struct) -> bytes:
    """Write a message as it goes over the wire."""
    return _encoder.encode(message)


def encode_list(entries: Sequence[Struct]) -> bytes:
    """Write a part of a list of a message, without brackets."""
    return _encoder.encode(entries)[1:-1]


def decode(body: bytes, message: type[T]) -> T:
    """Read a message. Raises Malformed with one line that names the field."""
    try:
        decoded: T = _DECODERS[message].decode(body)
    except msgspec.ValidationError as error:
        raise Malformed(_plain(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None
    return decoded


def plain_forecast(body: bytes) -> UpdateGroupCapacityForecast | None:
    """Return a forecast that says nothing but what it has to, each name once; else None.

    Every name of it and of its blocks is required, and their values are no containers. So when
    there are just as many quotes as that takes, no name is there twice or unknown, no string has
    an escaped quote, and nothing is nested. Whoever is not sure looks at all names.
    """
    try:
        message = decode(body, UpdateGroupCapacityForecast)
    except Malformed:
        return None
    plainly = _FORECAST_QUOTES + _BLOCK_QUOTES * len(message.forecasted_blocks)
    return message if body.count(b'"') == plainly else None


def _quotes(message: type[Struct], *, numbers: int = 0, lists: int = 0) -> int:
    names = len(message.__struct_fields__)
    return 2 * (names + names - numbers - lists)


_FORECAST_QUOTES: Final = _quotes(UpdateGroupCapacityForecast, lists=1)
_BLOCK_QUOTES: Final = _quotes(ForecastedBlock, numbers=1)


def _plain(message: str) -> str:
    """Turn "Expected `int`, got `str` - at `$.a[0].b`" into "a[0].b: expected int, got str"."""
    text, _, path = message.partition(" - at ")
    path = path.strip("`").removeprefix("$").removeprefix(".")
    text = text.replace("`", "")
    return f"{path}: {text[:1].lower()}{text[1:]}" if path else text
