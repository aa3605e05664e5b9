"""What a simulated Reengen tenant answers to questions for data: raw rows, aggregates, costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from fpd.errors import FpdError
from fpd.sim.reengen_tenant import Row, Tenant
from fpd.sim.reengen_units import factor

FORM = "%Y-%m-%dT%H:%M:%S"
_RESOLUTIONS = ("fifteenmin", "hour", "day", "week", "month")
_TARIFF = {"electricity": 0.15, "water": 2.0, "gas": 0.6, "medicalGas": 3.0}
_DAY = timedelta(days=1)


class Failed(FpdError):
    """The platform's way to say no: `succeeded` false and this as its message."""


def local(text: object) -> datetime:
    """Read a local time as it stands, without a zone. Raises Failed."""
    try:
        return datetime.strptime(str(text), FORM)  # noqa: DTZ007 (local times have no zone)
    except ValueError as error:
        raise Failed(f"Invalid date: {text}") from error


class Library:
    """Looks things up; `now`: rows that are later do not exist yet."""

    def __init__(self, tenant: Tenant, tz: ZoneInfo) -> None:
        self._tenant = tenant
        self._tz = tz

    def codes(self, named: object) -> list[str]:
        """Return the codes of points given as a list of codes or numbers, or null for all."""
        if named is None:
            return [place.code for place in self._tenant.places]
        if not isinstance(named, list):
            raise Failed("point: an array is expected")
        found = [self._tenant.place(each) for each in named]
        for given, place in zip(named, found, strict=True):
            if place is None:
                raise Failed(f"Point not found: {given}")
        return [place.code for place in found if place is not None]

    def rows(self, codes: Sequence[str], asked: Mapping[str, Any], *, now: datetime) -> list[Row]:
        """Return every row of the points from `start` to `end`, both included, local time."""
        start, end = local(asked.get("start")), local(asked.get("end"))
        if end < start:
            raise Failed("end is before start")
        first = start.replace(tzinfo=self._tz) - timedelta(hours=1)
        last = min(end.replace(tzinfo=self._tz, fold=1) + timedelta(hours=1), now)
        found: list[Row] = list(self._tenant.imports(first, last))
        wanted = _wanted(asked)
        for meter in self._tenant.meters:
            if meter.point in codes and meter.definition in (wanted or (meter.definition,)):
                found += self._tenant.rows(meter, first, last)
        # As a database does that knows local times only.
        return sorted(
            (row for row in found if row.key[0] in codes and start <= self.naive(row) <= end),
            key=lambda row: (row.key, self.naive(row)),
        )

    def naive(self, row: Row) -> datetime:
        return row.at.astimezone(self._tz).replace(tzinfo=None, fold=0)

    def bucket(self, row: Row, resolution: str) -> datetime:
        """Return where the bucket of a row begins, in local time. A row ends its interval."""
        at = self.naive(row)
        day = at.replace(hour=0, minute=0, second=0)
        match resolution:
            case "fifteenmin":
                return at.replace(minute=at.minute // 15 * 15, second=0)
            case "hour":
                return at.replace(minute=0, second=0)
            case "day":
                return day
            case "week":
                return day - day.weekday() * _DAY
        return day.replace(day=1)

    def aggregates(
        self, series: Mapping[str, Any], rows: Iterable[Row], asked: Mapping[str, Any]
    ) -> list[list[Any]]:
        """Return (date, point id, value), or (date, value) without a break by point."""
        resolution = asked.get("resolution")
        if resolution not in _RESOLUTIONS:
            raise Failed(f"Invalid resolution: {resolution}")
        by_point = (asked.get("break") or {}).get("type") == "point"
        buckets: dict[tuple[datetime, int | None], list[float]] = {}
        for row in rows:
            if row.key[1:3] != (series.get("definition"), series.get("variant")):
                continue
            scale = factor(row.unit, str(series.get("unit")))
            if scale is None:
                raise Failed(f"Cannot convert {row.unit} to {series.get('unit')}")
            place = self._tenant.place(row.key[0])
            point_id = place.id if by_point and place is not None else None
            key = self.bucket(row, resolution), point_id
            buckets.setdefault(key, []).append(row.value * scale)
        function = _FUNCTIONS.get(str(series.get("xFunction")))
        if function is None:
            raise Failed(f"Invalid xFunction: {series.get('xFunction')}")
        decimals = int(series.get("decimalPoints", 2))
        return [
            [at.strftime(FORM), *([] if point_id is None else [point_id]), round(value, decimals)]
            for (at, point_id), values in sorted(buckets.items(), key=lambda pair: pair[0][0])
            for value in (function(values),)
        ]

    def costs(
        self, series: Mapping[str, Any], rows: Iterable[Row], asked: Mapping[str, Any]
    ) -> list[list[Any]]:
        """Return (point id, cost); of electricity 0.15 per kWh, of the rest nothing."""
        tariff = _TARIFF.get(str(series.get("utility")))
        if tariff is None or series.get("selection") != "own":
            raise Failed("Invalid cost series")
        sums: dict[str, float] = {}
        for row in rows:
            if row.key[1:3] == ("activeEnergy", "import") and series["utility"] == "electricity":
                sums[row.key[0]] = sums.get(row.key[0], 0.0) + row.value / 1000 * tariff
        decimals = int(series.get("decimalPoints", 0))
        if (asked.get("break") or {}).get("type") != "point":
            return [[round(sum(sums.values()), decimals)]] if sums else []
        ids = {place.code: place.id for place in self._tenant.places}
        return [[ids[code], round(cost, decimals)] for code, cost in sums.items()]

    def listed(self, rows: Iterable[Row], asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield raw rows with the properties that were asked for."""
        wanted = asked.get("properties")
        if not isinstance(wanted, list) or not wanted:
            raise Failed("properties: an array is expected")
        for row in rows:
            point, definition, variant, index = row.key
            if not (
                definition in asked.get("definition", ())
                and variant in asked.get("variant", ())
                and row.type in asked.get("type", ())
            ):
                continue
            told = {
                "point.code": point,
                "definition.code": definition,
                "variant.code": variant,
                "index": index,
                "type.code": row.type,
                "date": self.naive(row).strftime(FORM),
                "definition.unit.code": row.unit,
                "value": row.value,
                "original": row.original,
                "note": row.note,
            }
            yield {name: told[name] for name in wanted if name in told}


def _wanted(asked: Mapping[str, Any]) -> set[str] | None:
    """Return the definitions that a question is about, None if it does not say."""
    series = [each for each in asked.get("series") or () if isinstance(each, dict)]
    if not series:
        return set(map(str, asked.get("definition") or ()))
    return {str(each.get("definition", "activeEnergy")) for each in series}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


_FUNCTIONS: Mapping[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "avg": _mean,
    "max": max,
    "min": min,
}
