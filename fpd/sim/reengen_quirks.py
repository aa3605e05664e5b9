"""How a simulated Reengen platform misbehaves, and what that does to its answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from fpd.sim.quirks import Quirks


class Failure(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`succeeded` false for `method` (all if empty), `times` times (None: for ever)."""

    method: str = ""
    message: str | None = "SocketTimeoutException: connect timed out"
    times: int | None = None
    after: bool = False


class ReengenQuirks(Quirks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fail: Annotated[
        Failure | None,
        Meta(
            description="{method, message, times, after}: succeeded false; after: but it was done"
        ),
    ] = None
    page: Annotated[
        int | None, Meta(description="so many requests get a maintenance page with status 200")
    ] = None
    connection_life_s: Annotated[
        float | None, Meta(description="connection ids are good for this long")
    ] = None
    refuse_connections: Annotated[bool, Meta(description="no connection id is ever good")] = False
    refusal: Annotated[
        str, Meta(description="what is said of a connection id that is not good; page: a page")
    ] = "Invalid connection id"
    refuse_login: Annotated[bool, Meta(description="Authenticate says no")] = False
    null_data: Annotated[
        Literal["", "series", "data", "missing"],
        Meta(description="GetData: null for each series, for all of data, or no keys at all"),
    ] = ""
    odd_rows: Annotated[bool, Meta(description="GetData rows that are too short or too long")] = (
        False
    )
    no_point_column: Annotated[bool, Meta(description="GetData rows of length 2 anyway")] = False
    null_values: Annotated[bool, Meta(description="every other value is null")] = False
    text_values: Annotated[bool, Meta(description="values are texts")] = False
    unit: Annotated[
        str, Meta(description="ListDataEx tells energies in this unit; mixed: Wh and kWh in turn")
    ] = ""
    no_unit: Annotated[bool, Meta(description="ListDataEx leaves the unit out")] = False
    late_s: Annotated[float, Meta(ge=0, description="rows appear this long after their date")] = 0.0
    shuffled: Annotated[bool, Meta(description="ListDataEx rows in reverse, some twice")] = False
    no_message: Annotated[bool, Meta(description="leave `message` out")] = False
    command_s: Annotated[float, Meta(ge=0, description="ExecuteCommand takes this long")] = 0.0
    command_ignored: Annotated[
        bool, Meta(description="ExecuteCommand succeeds and does nothing")
    ] = False
    lost_points: Annotated[tuple[str, ...], Meta(description="points that are there no more")] = ()


def aggregates(quirks: ReengenQuirks, found: dict[str, Any]) -> dict[str, Any] | None:
    """Return `data` of GetData as the quirks have it."""
    if quirks.null_data == "data":
        return None
    if quirks.null_data:
        return dict.fromkeys(found) if quirks.null_data == "series" else {}
    for name, rows in found.items():
        for position, row in enumerate(rows or ()):
            if quirks.no_point_column and len(row) == 3:
                del row[1]
            row[-1] = _value(quirks, row[-1], position)
        if rows and quirks.odd_rows:
            found[name] = [[], ["2020-01-20T00:00:00"], *rows, [*rows[0], 1, 2], None]
    return found


def raw(quirks: ReengenQuirks, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `data` of ListDataEx as the quirks have it."""
    for position, row in enumerate(rows):
        in_kwh = quirks.unit == "kWh" or (quirks.unit == "mixed" and position % 2)
        if in_kwh and row.get("definition.unit.code") == "Wh":
            row["definition.unit.code"] = "kWh"
            for name in ("value", "original"):
                if row.get(name) is not None:
                    row[name] = row[name] / 1000
        elif quirks.unit not in ("", "mixed", "kWh"):
            row["definition.unit.code"] = quirks.unit
        for name in ("value", "original"):
            if name in row:
                row[name] = _value(quirks, row[name], position)
        if quirks.no_unit:
            row.pop("definition.unit.code", None)
    return [*reversed(rows), *rows[:2]] if quirks.shuffled else rows


def _value(quirks: ReengenQuirks, value: Any, position: int) -> Any:
    if quirks.null_values and position % 2:
        return None
    return f"{value:.2f}" if quirks.text_values and value is not None else value
