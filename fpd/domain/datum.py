"""A datum: one timed set of readings of a stream, and how documents are read as one.

Properties are instantaneous (`i`), accumulating (`a`) or status (`s`); `t` are tags. Sources:
SolarNetwork's datum documents (flat as SolarFlux sends them, with `samples` as SolarIn takes
them) and decision D4.

Interpretation: a flat document does not tell instantaneous from accumulating, so its numbers are
kept in `i`; texts and booleans are status properties and stay what they are. A null is no value.
Anything else — a nested value, a number that is not finite or beyond 10^±30 — makes the whole
document unusable: a part of a datum would pass for all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from fpd.domain import entities
from fpd.domain import source_id as source_ids
from fpd.domain.forecast import ForecastType
from fpd.domain.supersede import Stated
from fpd.domain.units import Phase, Unit
from fpd.errors import Malformed

Status = str | bool | Decimal

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

MOST_PROPERTIES: Final = 256
_LONGEST_NAME: Final = 64  # characters
_LONGEST_TEXT: Final = 4096  # characters
_MOST_DIGITS: Final = 40
_BIGGEST_ID: Final = 2**63 - 1
_MAGNITUDE: Final = 30  # decimal places before and after the point

ABOUT: Final = frozenset({"created", "nodeId", "sourceId", "tags", "samples"})


class StreamKey(NamedTuple):
    """What names a stream. `source_id` has no leading slash (decision D4)."""

    user_id: int
    node_id: int
    source_id: str


def stream_key(user_id: int, node_id: int, source_id: str) -> StreamKey | None:
    """Return what names a stream, None when nothing may be called so."""
    source_id = source_ids.identity(source_id)
    fits = (
        0 < user_id <= _BIGGEST_ID
        and 0 < node_id <= _BIGGEST_ID
        and 0 < len(source_id) <= source_ids.LONGEST
        and source_id.isprintable()
    )
    return StreamKey(user_id, node_id, source_id) if fits else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Datum:
    """The readings of one stream at one instant; numbers are exact."""

    stream: StreamKey
    at: datetime
    i: Mapping[str, Decimal] = field(default_factory=dict)
    a: Mapping[str, Decimal] = field(default_factory=dict)
    s: Mapping[str, Status] = field(default_factory=dict)
    t: tuple[str, ...] = ()


def read(document: object, *, stream: StreamKey, received_at: datetime) -> Datum:
    """Return the datum that a decoded JSON or CBOR document means for `stream`.

    The node and source that the document names itself do not count: who may publish to a topic
    may not write to another stream (decision D4). Without `created` it is of `received_at`.
    Raises Malformed with the first thing that is wrong.
    """
    if not isinstance(document, Mapping):
        raise Malformed("not an object")
    created = document.get("created")
    at = received_at if created is None else _instant(created)
    samples = document.get("samples")
    if isinstance(samples, Mapping):
        datum = Datum(
            stream=stream,
            at=at,
            i=_numbers(samples.get("i"), "i"),
            a=_numbers(samples.get("a"), "a"),
            s=_statuses(samples.get("s")),
            t=_tags(samples.get("t")),
        )
    else:
        datum = _flat(document, stream, at)
    count = len(datum.i) + len(datum.a) + len(datum.s)
    if not 0 < count + len(datum.t) <= MOST_PROPERTIES:
        raise Malformed(f"{count} properties, not 1 to {MOST_PROPERTIES}")
    return datum


def flat(datum: Datum, source_id: str) -> dict[str, object]:
    """Return the document that is published: `created` in ms since 1970, then all properties.

    A property that is in several classes is written as the most lasting one: status, then
    accumulating, then instantaneous.
    """
    document: dict[str, object] = {
        "created": (datum.at - EPOCH) // timedelta(milliseconds=1),
        "nodeId": datum.stream.node_id,
        "sourceId": source_id,
        **datum.i,
        **datum.a,
        **datum.s,
    }
    if datum.t:
        document["tags"] = list(datum.t)
    return document


# A forecast's source ids end with the code of its type; single phases' properties with theirs.
FORECAST_ALIAS: Final[Mapping[ForecastType, str]] = {
    ForecastType(term.wire): term.code for term in entities.ForecastType
}
_UNIT_NAME: Final[Mapping[Unit, str]] = {
    Unit(term.wire): str(term) for term in entities.MeasurementUnit
}
_PHASE_SUFFIX: Final[Mapping[Phase, str]] = {
    Phase(term.wire): "" if term is entities.Phase.ALL else f"_{term.code}"
    for term in entities.Phase
}


def of_forecast(
    starts: Mapping[datetime, Sequence[Stated]], *, stream: StreamKey, request_id: str
) -> Iterator[Datum]:
    """Make one datum per block start, at that start; its phases beside each other.

    Phase ALL has plain names, the others a suffix: `amount_a`, `unit_a`. `duration` (s) and
    `forecastIdentifier` are those of phase ALL, without it of the first block; where those of
    another phase differ, they have its suffix too.

    Interpretation: SolarNetwork lets phases share a datum within one message; whatever has been
    said of them holds side by side, so here they do from message to message.
    Interpretation: neither MQTT nor a datum store can take back what was said, so where nothing
    holds any more it is said that nothing is to be read there, without amount and by whom.
    """
    for start_at in sorted(starts):
        if starts[start_at]:
            yield _of_start(start_at, starts[start_at], stream)
        else:
            yield Datum(
                stream=stream,
                at=start_at,
                i={"duration": Decimal(0)},
                s={"forecastIdentifier": request_id, "withdrawn": True},
            )


def _of_start(start_at: datetime, stated: Sequence[Stated], stream: StreamKey) -> Datum:
    first = next((one for one in stated if one.block.phase is Phase.ALL), stated[0])
    i = {"duration": _seconds(first.block.end_at - start_at)}
    s: dict[str, Status] = {"forecastIdentifier": first.request_id}
    for one in stated:
        suffix = phase_suffix(one.block.phase)
        i[f"amount{suffix}"] = one.block.capacity
        s[f"unit{suffix}"] = unit_name(one.block.unit)
        if one.block.end_at != first.block.end_at:
            i[f"duration{suffix}"] = _seconds(one.block.end_at - start_at)
        if one.request_id != first.request_id:
            s[f"forecastIdentifier{suffix}"] = one.request_id
    return Datum(stream=stream, at=start_at, i=i, s=s)


def phase_suffix(phase: Phase) -> str:
    """Return how the properties of a phase end: `_a`; those of all phases do not."""
    return _PHASE_SUFFIX[phase]


def unit_name(unit: Unit) -> str:
    """Return how a unit is written in a datum: kW."""
    return _UNIT_NAME[unit]


def _seconds(duration: timedelta) -> Decimal:
    whole, rest = divmod(duration // _MICROSECOND, 1_000_000)
    return whole + Decimal(rest).scaleb(-6) if rest else Decimal(whole)


def of_heartbeat(offline_mode_at: datetime, *, stream: StreamKey, at: datetime) -> Datum:
    """Return the datum of a heartbeat received at `at`: when the peer's promise runs out."""
    return Datum(stream=stream, at=at, s={"expires": _written(offline_mode_at)})


def _written(instant: datetime) -> str:
    """Return an instant as SolarNetwork writes it, with the digits that it has.

    >>> _written(datetime(2030, 3, 10, 12, 3, 0, 500_000, tzinfo=UTC))
    '2030-03-10 12:03:00.500Z'
    """
    utc = instant.astimezone(UTC).replace(tzinfo=None)
    digits = "seconds"
    if utc.microsecond:
        digits = "microseconds" if utc.microsecond % 1000 else "milliseconds"
    return utc.isoformat(sep=" ", timespec=digits) + "Z"


def _flat(document: Mapping[object, object], stream: StreamKey, at: datetime) -> Datum:
    numbers: dict[str, Decimal] = {}
    statuses: dict[str, Status] = {}
    for name, value in document.items():
        if value is None or name in ABOUT:
            continue
        known = _name(name)
        if isinstance(value, str | bool):
            statuses[known] = _status(known, value)
        else:
            numbers[known] = _number(known, value)
    return Datum(stream=stream, at=at, i=numbers, s=statuses, t=_tags(document.get("tags")))


def _instant(created: object) -> datetime:
    """Read ms since 1970 or an ISO 8601 date-time with a zone, as JSON and CBOR bring them."""
    try:
        if isinstance(created, str):
            created = datetime.fromisoformat(created)
        if isinstance(created, datetime):
            if created.tzinfo is None:
                raise Malformed("created: no zone")
            return created.astimezone(UTC)
        return EPOCH + int(_number("created", created) * 1000) * _MICROSECOND
    except (ValueError, OverflowError):
        raise Malformed("created: not an instant") from None


def _numbers(found: object, where: str) -> dict[str, Decimal]:
    return {(known := _name(name)): _number(known, value) for name, value in _class(found, where)}


def _statuses(found: object) -> dict[str, Status]:
    return {(known := _name(name)): _status(known, value) for name, value in _class(found, "s")}


def _class(found: object, where: str) -> list[tuple[object, object]]:
    if found is None:
        return []
    if not isinstance(found, Mapping):
        raise Malformed(f"samples.{where}: not an object")
    return [(name, value) for name, value in found.items() if value is not None]


def _tags(found: object) -> tuple[str, ...]:
    if found is None:
        return ()
    if not isinstance(found, list | tuple):
        raise Malformed("tags: not an array")
    return tuple(_name(tag) for tag in found)


def _name(name: object) -> str:
    if not isinstance(name, str) or not is_name(name):
        raise Malformed(f"a property is not named by 1 to {_LONGEST_NAME} printable characters")
    return name


def is_name(name: str) -> bool:
    """Return whether a property or a tag may be called so."""
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable()


def _status(name: str, value: object) -> Status:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT or "\x00" in value:
            raise Malformed(f"{name}: not a text of at most {_LONGEST_TEXT} characters")
        return value
    return _number(name, value)


def _number(name: str, value: object) -> Decimal:
    """Return the number exactly; a binary float is the shortest decimal that gives it back."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise Malformed(f"{name}: neither a number, nor a text, nor a boolean")
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise Malformed(f"{name}: not a finite number")
    if number and not (
        -_MAGNITUDE <= number.adjusted() < _MAGNITUDE
        and len(number.as_tuple().digits) <= _MOST_DIGITS
    ):
        raise Malformed(f"{name}: a number out of reach")
    return number
