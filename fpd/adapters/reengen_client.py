"""Every method of the Reengen platform's API, typed (seed 003; reference: devices §3.2).

Instants are aware, ranges half-open; the tenant's local time stands in requests and answers only.
All raise Unreachable, Refused or Stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from fpd.adapters import reengen_commands, reengen_parse, reengen_zone
from fpd.adapters.device import Unreachable
from fpd.adapters.reengen_door import COMMAND_RETRIES, Door
from fpd.adapters.reengen_errors import Kind, Refused, classify
from fpd.adapters.reengen_parse import Command, Cost, Flag, Measured, Point, Raw

Resolution = Literal["fifteenmin", "hour", "day", "week", "month"]
Function = Literal["sum", "avg", "max", "min"]
Operation = Literal["C", "U", "D"]

PROPERTIES: Final = (
    *("point.code", "definition.code", "variant.code", "index", "type.code", "date"),
    *("definition.unit.code", "value", "original", "note"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One aggregate: of which measurement, how, and in which unit it is wanted."""

    definition: str
    variant: str
    function: Function
    unit: str
    type: str = "actual"
    decimals: int = 2

    def written(self) -> dict[str, Any]:
        return {
            "definition": self.definition,
            "variant": self.variant,
            "type": self.type,
            "xFunction": self.function,
            "unit": self.unit,
            "decimalPoints": self.decimals,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSeries:
    """One cost: `utility` electricity, water, gas or medicalGas, `group` such as waterCost."""

    utility: str
    group: str
    include_tax: str = "None"
    selection: str = "own"
    type: str = "actual"
    decimals: int = 0

    def written(self) -> dict[str, Any]:
        return {
            "calculator": "cost",
            "type": self.type,
            "selection": self.selection,
            "utility": self.utility,
            "decimalPoints": self.decimals,
            "group": self.group,
            "includeTax": self.include_tax,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A value to be written, changed or deleted: `operation` C, U, D; None says nothing, so C."""

    point: str
    definition: str
    variant: str
    index: int
    value: Decimal
    at: datetime
    type: str = "actual"
    operation: Operation | None = None

    def written(self, tz: ZoneInfo) -> dict[str, Any]:
        said = {} if self.operation is None else {"#": self.operation}
        return said | {
            "point": self.point,
            "definition": self.definition,
            "variant": self.variant,
            "index": self.index,
            "value": self.value,
            "type": self.type,
            "date": reengen_zone.written(self.at, tz),
        }


class Client:
    """One tenant, whose local time is `tz`."""

    def __init__(self, door: Door, tz: ZoneInfo) -> None:
        self.door = door
        self.tz = tz

    async def hierarchy(self) -> tuple[Point, ...]:
        """GetPointHierarchy: every point of the tenant, the root included."""
        return reengen_parse.points(await self.door.ask("GetPointHierarchy"))

    async def measurements(
        self,
        series: Sequence[Series],
        *,
        points: Sequence[str] | None,
        start_at: datetime,
        end_at: datetime,
        resolution: Resolution,
        by_point: bool = True,
    ) -> tuple[tuple[Measured, ...], ...]:
        """GetData of measurements: the rows of each series. `points` None: all of them."""
        properties = {
            "series": [each.written() for each in series],
            **self._asked(points, start_at, end_at, by_point),
            "resolution": resolution,
        }
        return reengen_parse.measured(await self.door.ask("GetData", properties), len(series))

    async def costs(
        self,
        series: Sequence[CostSeries],
        *,
        points: Sequence[str] | None,
        start_at: datetime,
        end_at: datetime,
        by_point: bool = True,
    ) -> tuple[tuple[Cost, ...], ...]:
        """GetData of costs: (point, cost) of each series."""
        properties = {
            "series": [each.written() for each in series],
            **self._asked(points, start_at, end_at, by_point),
        }
        return reengen_parse.costs(await self.door.ask("GetData", properties), len(series))

    async def raw(
        self,
        *,
        points: Sequence[str],
        definitions: Sequence[str],
        variants: Sequence[str],
        start_at: datetime,
        end_at: datetime,
        types: Sequence[str] = ("actual",),
    ) -> tuple[Raw, ...]:
        """ListDataEx: rows whose interval ended in the range, in no particular order."""
        start, end = reengen_zone.asked(start_at, end_at, self.tz)
        properties = {
            "requestType": "code",
            "point": list(points),
            "definition": list(definitions),
            "variant": list(variants),
            "type": list(types),
            "properties": list(PROPERTIES),
            "start": start,
            "end": end,
        }
        return reengen_parse.raw(await self.door.ask("ListDataEx", properties))

    async def import_data(self, rows: Sequence[Imported]) -> None:
        """ImportData, once: whether a row arrived that was not confirmed is not known."""
        data = [row.written(self.tz) for row in rows]
        await self.door.ask("ImportData", {"data": data}, retries=0)

    async def put(self, rows: Sequence[Imported]) -> None:
        """Write values whether they are there or not: create, and after a failure update.

        Importing is neither atomic nor idempotent by contract (reference: devices §3.3), so where
        neither works, since some are there and some are not, each half goes by itself.
        """
        refused = await self._failed(rows, "C") and await self._failed(rows, "U")
        if refused is None:
            return
        if len(rows) > 1:
            half = len(rows) // 2
            await self.put(rows[:half])
            await self.put(rows[half:])
        elif await self._failed(rows, "C") is not None:  # the first one may not have arrived
            what = f"{rows[0].point} takes neither a new value nor an update"
            raise Refused("ImportData", f"{what}: {refused}")

    async def _failed(self, rows: Sequence[Imported], operation: Operation) -> str | None:
        """Return why the platform did not take the rows, None if it did."""
        try:
            await self.import_data([replace(row, operation=operation) for row in rows])
        except Refused as refused:
            if classify(refused.message) is Kind.PERMISSION:
                raise
            return refused.message
        except Unreachable as fault:
            if operation != "C" or fault.retry_s is not None:
                raise
            return str(fault)
        return None

    async def flags(self, *, points: Sequence[str], type: str, tenant: str) -> tuple[Flag, ...]:
        """GetDCData: values of the data-science table."""
        properties = {"point": list(points), "type": type, "tenant": tenant}
        return reengen_parse.flags(await self.door.ask("GetDCData", properties, cache=None))

    async def manage_flags(
        self, flags: Sequence[Flag], *, operation: Literal["C", "U", "CU", "D"] = "CU"
    ) -> tuple[Flag, ...]:
        """ManageDCData: write or delete values of the data-science table."""
        data = [
            {
                "point": flag.point,
                "type": flag.type,
                "tenant": flag.tenant,
                "value": flag.value,
                "#": operation,
            }
            for flag in flags
        ]
        # Creating or updating, and deleting, may be repeated.
        retries = 0 if operation == "C" else COMMAND_RETRIES
        return reengen_parse.flags(
            await self.door.ask("ManageDCData", {"data": data}, retries=retries)
        )

    async def commands(self, point: str) -> tuple[Command, ...]:
        """ListAvailableCommands: what the point can be told."""
        properties = {"point": point}
        return reengen_parse.commands(await self.door.ask("ListAvailableCommands", properties))

    async def execute(
        self, point: str, code: str, parameter: Any = None, *, listed: Sequence[Command]
    ) -> None:
        """ExecuteCommand, if it is one of those `listed` for the point and takes the parameter.

        One that sets something is tried again at most twice, if the point still lists it. Raises
        Unfit before anything is sent, Withdrawn after it was sent once.
        """
        command = reengen_commands.checked(listed, code, parameter)
        properties = {"point": point, "command": code}
        if command.kind != reengen_commands.NO_PARAMETER:
            properties["parameter"] = parameter
        retries = COMMAND_RETRIES if reengen_commands.repeatable(command) else 0

        async def is_listed() -> None:
            reengen_commands.still(await self.commands(point), code, parameter)

        await self.door.ask("ExecuteCommand", properties, retries=retries, before_again=is_listed)

    def _asked(
        self, points: Sequence[str] | None, start_at: datetime, end_at: datetime, by_point: bool
    ) -> dict[str, Any]:
        start, end = reengen_zone.asked(start_at, end_at, self.tz)
        broken = {"break": {"type": "point"}} if by_point else {}
        named = None if points is None else list(points)
        return {"point": named, "start": start, "end": end, **broken}
