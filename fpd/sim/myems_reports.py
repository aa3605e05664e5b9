"""The reports of a simulated MyEMS: latest values, the last hour, trends, energy per hour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from fpd.sim.answers import Refusal
from fpd.sim.myems_answers import no
from fpd.sim.myems_plant import ANALOG, DIGITAL, ENERGY, TEXT, Plant, Point, Row

_FORM = "%Y-%m-%dT%H:%M:%S"
_HOUR = timedelta(hours=1)
_EXCEL = "UEsDBBQAAAAIAHyhdF1Gx01IlQAAAM0AAAAQAAAA"  # the beginning of the file that it sends


class Reports:
    """`points` are those in force, as edited; stamps are moved by `ahead`."""

    def __init__(
        self,
        plant: Plant,
        points: Callable[[], dict[int, Point]],
        *,
        offset: timedelta,
        ahead: timedelta,
        instead: dict[int, Decimal],
    ) -> None:
        self._plant = plant
        self._points = points()
        self._offset, self._ahead = offset, ahead
        self._instead = instead

    def latest(self, now: datetime, absent: Sequence[int]) -> list[dict[str, Any]]:
        """Return what pointrealtime says: analog, then energy, then digital."""
        rows = self._plant.since(now - _HOUR, now)
        values = self._row(rows[-1]) if rows else {}
        ordered = [
            point
            for kind in (ANALOG, ENERGY, DIGITAL)
            for point in sorted(self._points.values(), key=lambda p: p.id)
            if point.object_type == kind and point.id in values and point.id not in absent
        ]
        return [{"point_id": p.id, "value": self._written(p, values[p.id])} for p in ordered]

    def realtime(self, ids: Sequence[int], now: datetime, *, quick: bool) -> dict[str, Any]:
        rows = self._plant.since(now - _HOUR, now)
        energy = next((i for i in ids if self._points[i].object_type == ENERGY), None)
        others = [i for i in ids if self._points[i].object_type in (ANALOG, DIGITAL)]
        if quick:
            energy, others, rows = None, [], []
        return {
            "meter": _meter(),
            "energy_value": {
                "name": None if energy is None else self._named(energy),
                "timestamps": [] if energy is None else self._stamps(rows, energy),
                "values": [] if energy is None else self._values(rows, energy),
            },
            "parameters": self._columns(rows, others),
        }

    def trend(
        self, ids: Sequence[int], since: datetime, until: datetime, *, quick: bool
    ) -> dict[str, Any]:
        """Return the rows of a period, both ends included."""
        rows = self._plant.since(since, until)
        shown = [i for i in ids if self._points[i].object_type == ENERGY] if quick else list(ids)
        return {
            "meter": _meter() | {"kgce": Decimal("0.122"), "kgco2e": Decimal("0.928")},
            "reporting_period": self._columns(rows, shown),
            "parameters": {"names": [], "timestamps": [], "values": []},
            "excel_bytes_base64": None if quick else _EXCEL,
        }

    def hourly(
        self, key: str, ids: Sequence[int], since: datetime, until: datetime, *, zero: bool
    ) -> dict[str, Any]:
        """Return energy per hour of UTC, the hour at the end included as MyEMS does."""
        stamps: list[str] = []
        values: list[Decimal] = []
        at = since.replace(minute=0, second=0)
        while at <= until:
            stamps.append(self._local(at))
            values.append(Decimal(0) if zero else self._gained(ids, at))
            at += _HOUR
        return {
            key: _meter() | {"kgce": Decimal("0.122"), "kgco2e": Decimal("0.928")},
            "base_period": {"total_in_category": 0, "timestamps": [], "values": []},
            "reporting_period": {
                "increment_rate": None,
                "total_in_category": sum(values, Decimal(0)),
                "timestamps": stamps,
                "values": values,
                "rates": [None] * len(values),
            },
            "parameters": {"names": [], "timestamps": [], "values": []},
        }

    def instant(self, text: str | None, description: str) -> datetime:
        """Read a local time of a request; anything else is refused."""
        try:
            return datetime.strptime(text or "", _FORM).replace(tzinfo=UTC) - self._offset
        except ValueError:
            raise no(400, description) from None

    def _gained(self, ids: Sequence[int], at: datetime) -> Decimal:
        rows = self._plant.since(at, at + _HOUR)
        energy = [i for i in ids if self._points[i].object_type == ENERGY]
        if len(rows) < 2 or rows[-1][0] - rows[0][0] < _HOUR / 2:
            return Decimal(0)  # an hour that it knows too little of
        return sum((rows[-1][1][i] - rows[0][1][i] for i in energy), Decimal(0))

    def _columns(self, rows: Sequence[Row], ids: Sequence[int]) -> dict[str, Any]:
        return {
            "names": [self._named(i) for i in ids],
            "timestamps": [self._stamps(rows, i) for i in ids],
            "values": [self._values(rows, i) for i in ids],
        }

    def _named(self, point_id: int) -> str:
        point = self._points[point_id]
        return f"{point.name} ({point.units})"

    def _stamps(self, rows: Sequence[Row], point_id: int) -> list[str]:
        if not self._has_rows(point_id):
            return []
        return [self._local(at) for at, values in rows if point_id in values]

    def _values(self, rows: Sequence[Row], point_id: int) -> list[Decimal | int]:
        if not self._has_rows(point_id):
            return []
        point = self._points[point_id]
        read = (self._row(row) for row in rows if point_id in row[1])
        return [self._written(point, values[point_id]) for values in read]

    def _has_rows(self, point_id: int) -> bool:
        point = self._points[point_id]
        return point.is_trend and point.object_type != TEXT

    def _row(self, row: Row) -> dict[int, Decimal]:
        return row[1] | {i: value for i, value in self._instead.items() if i in row[1]}

    def _written(self, point: Point, value: Decimal) -> Decimal | int:
        return int(value) if point.object_type == DIGITAL else value

    def _local(self, at: datetime) -> str:
        return (at + self._offset + self._ahead).strftime(_FORM)


def _meter() -> dict[str, Any]:
    return {
        "cost_center_id": 1,
        "energy_category_id": 1,
        "energy_category_name": "Electricity",
        "unit_of_measure": "kWh",
    }


def number(text: str | None, description: str) -> int:
    """Read an id of a request."""
    if text is None or not text.isdigit():
        raise no(400, description)
    return int(text)


def missing(what: str) -> Refusal:
    return no(404, f"API.{what}_NOT_FOUND")
