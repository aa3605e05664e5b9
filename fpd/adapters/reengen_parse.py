"""What Reengen answers, read leniently: rows that are none are left out (reference: devices §3.2).

Numbers come as numbers, as texts or as null; a null is a gap, never a zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from fpd.adapters.lenient import integer, mapping

_MOST_DIGITS = 40
_MAGNITUDE = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A location. `parent` is the code of the one that it is in; the root has neither."""

    name: str
    code: str | None
    id: int | None
    parent: str | None
    starting_date: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An aggregate: of the bucket that begins at the local time `date`, None where there is none.

    `point_id` None: of all the points that were asked for.
    """

    date: str
    point_id: int | None
    value: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    point_id: int | None
    cost: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A measurement as it was taken, at the local time `date`, which ends its interval.

    `original` is the register as the meter shows it, `value` what it gained since the row before;
    of what is no register `value` alone says it. `unit` is that of both.
    """

    date: str
    point: str | None
    definition: str | None
    variant: str | None
    index: int | None
    type: str | None
    unit: str | None
    value: Decimal | None
    original: Decimal | None
    note: str | None

    @property
    def order(self) -> Decimal | None:
        """What tells the rows of an hour that there is twice apart."""
        return self.original


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that a point takes; `options`: (code, name) of each, for a MultiOption."""

    code: str
    name: str
    kind: str
    parameter_type: str | None = None
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A row of the data-science table; its value is a text."""

    point: str
    type: str
    tenant: str
    value: str | None


def number(value: object) -> Decimal | None:
    """Return a finite number given as number or text, exactly; None for anything else.

    >>> number("237.00"), number(282052078.5), number(True), number("NaN"), number(None)
    (Decimal('237.00'), Decimal('282052078.5'), None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        found = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    if not found.is_finite() or len(found.as_tuple().digits) > _MOST_DIGITS:
        return None
    return found if not found or abs(found.adjusted()) < _MAGNITUDE else None


def points(properties: Mapping[str, Any]) -> tuple[Point, ...]:
    """Read GetPointHierarchy: pairs of a name and what else is known."""
    return tuple(_points(properties.get("data")))


def _points(data: object) -> Iterator[Point]:
    for entry in _rows(data):
        if isinstance(entry, list) and len(entry) >= 2 and isinstance(entry[1], dict):
            about = entry[1]
            yield Point(
                name=str(_text(about.get("name")) or _text(entry[0]) or ""),
                code=_text(about.get("code")),
                id=integer(about.get("id")),
                parent=_text(about.get("parent")),
                starting_date=_text(about.get("startingDate")),
            )


def measured(properties: Mapping[str, Any], series: int) -> tuple[tuple[Measured, ...], ...]:
    """Read GetData of measurements: of each series its rows, none where there are no data.

    Rows are (date, point id, value), or (date, value) where nothing was broken down by point.
    """
    return tuple(
        tuple(
            Measured(
                date=row[0],
                point_id=integer(row[1]) if len(row) == 3 else None,
                value=number(row[-1]),
            )
            for row in rows
            if len(row) in (2, 3) and isinstance(row[0], str)
        )
        for rows in _series(properties, series)
    )


def costs(properties: Mapping[str, Any], series: int) -> tuple[tuple[Cost, ...], ...]:
    """Read GetData of costs: of each series (point id, cost), or the cost alone."""
    return tuple(
        tuple(
            Cost(point_id=integer(row[0]) if len(row) == 2 else None, cost=number(row[-1]))
            for row in rows
            if len(row) in (1, 2)
        )
        for rows in _series(properties, series)
    )


def _series(properties: Mapping[str, Any], series: int) -> Iterator[list[list[Any]]]:
    """Yield the rows of each series; `data`, or that of a series, may be null or not there."""
    data = mapping(properties.get("data"))
    for position in range(series):
        yield [row for row in _rows(data.get(str(position))) if isinstance(row, list)]


def raw(properties: Mapping[str, Any]) -> tuple[Raw, ...]:
    """Read ListDataEx; what was not asked for, or is null, is None."""
    return tuple(
        Raw(
            date=row["date"],
            point=_text(row.get("point.code", row.get("point.id"))),
            definition=_text(row.get("definition.code", row.get("definition.id"))),
            variant=_text(row.get("variant.code", row.get("variant.id"))),
            index=integer(row.get("index")),
            type=_text(row.get("type.code", row.get("type.id"))),
            unit=_text(row.get("definition.unit.code")),
            value=number(row.get("value")),
            original=number(row.get("original")),
            note=_text(row.get("note")),
        )
        for row in map(mapping, _rows(properties.get("data")))
        if isinstance(row.get("date"), str)
    )


def commands(properties: Mapping[str, Any]) -> tuple[Command, ...]:
    """Read ListAvailableCommands."""
    return tuple(
        Command(
            code=row["code"],
            name=_text(row.get("name")) or row["code"],
            kind=_text(row.get("commandType")) or "",
            parameter_type=_text(row.get("parameterType")),
            options=tuple(
                (option["code"], _text(option.get("name")) or option["code"])
                for option in map(mapping, _rows(row.get("options")))
                if isinstance(option.get("code"), str)
            ),
        )
        for row in map(mapping, _rows(properties.get("data")))
        if isinstance(row.get("code"), str)
    )


def flags(properties: Mapping[str, Any]) -> tuple[Flag, ...]:
    """Read GetDCData or ManageDCData."""
    return tuple(
        Flag(
            point=row["point"],
            type=_text(row.get("type")) or "",
            tenant=_text(row.get("tenant")) or "",
            value=_text(row.get("value")),
        )
        for row in map(mapping, _rows(properties.get("data")))
        if isinstance(row.get("point"), str)
    )


def _rows(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str | None:
    """Return a text; numbers as they are written."""
    if isinstance(value, bool) or value is None or not isinstance(value, str | int | Decimal):
        return None
    return str(value)
