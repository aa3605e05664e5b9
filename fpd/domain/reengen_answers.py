"""What the Reengen platform answers, read leniently (seed 003; reference: devices §3).

Times carry no zone and are handed on as they are written. What cannot be meant raises Malformed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fpd.domain.lenient import integer, mapping, number
from fpd.errors import Malformed

_ROUNDING = 0.5  # of the last digit that meters print


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was counted up to `end`, and since `start` (None: not known). `original`: the meter."""

    start: str | None
    end: str
    value: float | None
    original: float | None
    unit: str | None


def list_data(body: Any) -> tuple[Row, ...]:
    """Read ListDataEx: `date` is the end of an interval, which began where the row before ended.

    Rows come in any order and may come twice; of the same date the last one counts.
    """
    by_date = {
        str(fields["date"]): fields
        for fields in map(mapping, _rows(_data(body)))
        if isinstance(fields.get("date"), str)
    }
    rows: list[Row] = []
    for date in sorted(by_date):
        fields = by_date[date]
        unit = fields.get("definition.unit.code")
        rows.append(
            Row(
                start=rows[-1].end if rows else None,
                end=date,
                value=number(fields.get("value")),
                original=number(fields.get("original")),
                unit=unit if isinstance(unit, str) else None,
            )
        )
    return tuple(rows)


def consistent(rows: Iterable[Row]) -> bool:
    """Tell whether each value is what its meter gained; rows without a meter do not disagree."""
    metered = [row for row in rows if row.original is not None and row.value is not None]
    return all(
        abs((after.original or 0) - (before.original or 0) - (after.value or 0)) <= _ROUNDING
        for before, after in pairwise(metered)
        if after.start == before.end
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One value of GetData, at the start of its bucket. `point` None: not broken down."""

    at: str
    point: int | None
    value: float


def get_data(body: Any) -> tuple[tuple[Measure, ...], ...]:
    """Read GetData, series by series: a series that is null or missing holds nothing, which is
    not 0; neither is a row without number.
    """
    data = _data(body)
    if data is None:
        return ()
    if not isinstance(data, dict):
        raise Malformed("the answer's data is not an object of series")
    numbers = [integer(key) for key in data]
    if any(key is None or not 0 <= key < 10_000 for key in numbers):
        raise Malformed("the answer's series are not numbered")
    most = max((key for key in numbers if key is not None), default=-1)
    return tuple(tuple(_measures(data.get(str(key)))) for key in range(most + 1))


def _measures(rows: Any) -> Iterable[Measure]:
    for row in _rows(rows):
        if not isinstance(row, list) or len(row) not in (2, 3) or not isinstance(row[0], str):
            continue
        value = number(row[-1])
        if value is not None:
            point = integer(row[1]) if len(row) == 3 else None
            yield Measure(at=row[0], point=point, value=value)


def _data(body: Any) -> Any:
    """Return the data of an answer; `succeeded` decides, whatever the HTTP status was."""
    fields = mapping(body)
    if fields.get("succeeded") is False:
        raise Malformed(f"the platform did not succeed: {fields.get('message') or 'no reason'}")
    inner = mapping(fields["properties"]) if "properties" in fields else fields
    return inner.get("data")


def _rows(found: Any) -> list[Any]:
    if found is None:
        return []
    if not isinstance(found, list):
        raise Malformed("the answer holds no list of rows")
    return found
