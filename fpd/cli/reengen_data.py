"""`fpd reengen data`, `cost`, `import`, `flags`: what a Reengen platform keeps."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fpd.cli.reengen_frame import ask, asking, tell
from fpd.errors import Malformed

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from fpd.adapters.reengen_client import Client, Imported
    from fpd.adapters.reengen_parse import Raw

_AT_ONCE = 200  # rows of one import
_LONG_S = 2 * 86_400
_RAW = ("date", "point", "definition", "variant", "index", "value", "original", "unit", "note")
_FUNCTIONS = click.Choice(("sum", "avg", "max", "min"))
_RESOLUTIONS = click.Choice(("fifteenmin", "hour", "day", "week", "month"))


def _range(command: Any) -> Any:
    for option in (
        click.option("--end", metavar="INSTANT", help="Before then; else up to now."),
        click.option("--start", metavar="INSTANT", help="From then on; else of the last day."),
    ):
        command = option(command)
    return command


def _instants(client: Client, start: str | None, end: str | None) -> tuple[datetime, datetime]:
    """Read a half-open range; what has no zone is the tenant's local time. Raises Malformed."""
    from fpd.app import clock

    end_at = clock().replace(microsecond=0) if end is None else _instant(end, client.tz, "--end")
    start_at = end_at - timedelta(days=1)
    if start is not None:
        start_at = _instant(start, client.tz, "--start")
    if start_at >= end_at:
        raise Malformed("--start: expected an instant before --end")
    return start_at, end_at


def _instant(text: str, tz: ZoneInfo, name: str) -> datetime:
    from fpd.adapters.reengen_zone import read

    found = read(text, tz)
    if found is None:
        raise Malformed(f"{name}: expected an instant such as 2026-01-31T12:00, local or with zone")
    return found


@click.command("data")
@click.argument("points", nargs=-1, required=True)
@click.option("--definition", "definitions", multiple=True, default=("activeEnergy",))
@click.option("--variant", "variants", multiple=True, default=("import",))
@_range
@click.option("--function", type=_FUNCTIONS, help="Aggregates in place of raw rows.")
@click.option("--resolution", type=_RESOLUTIONS, default="hour", show_default=True)
@click.option("--unit", help="Of aggregates; else kWh, VArh, W, V, A, as is usual.")
@asking
def data(
    points: tuple[str, ...],
    definitions: tuple[str, ...],
    variants: tuple[str, ...],
    start: str | None,
    end: str | None,
    function: Any,
    resolution: Any,
    unit: str | None,
    file: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Show what was measured at POINTS: raw rows, or aggregates of each --resolution.

    A raw row is dated at the end of its interval, an aggregate at its start, in the tenant's
    local time. `original` is what the register shows.

    \b
    Examples:
      fpd reengen data xFabrikaTrafo6
      fpd reengen data xyzBesiktas --variant import --variant export --start 2026-01-01 --json
      fpd reengen data xFabrikaTrafo6 --function sum --resolution day --start 2026-01-01
    """

    async def read_raw(client: Client) -> list[dict[str, Any]]:
        from fpd.adapters.reengen_long import slices

        start_at, end_at = _instants(client, start, end)
        found: list[Raw] = []
        with _progress(start_at, end_at) as show:
            async for until, rows in slices(
                client,
                points=points,
                definitions=definitions,
                variants=variants,
                start_at=start_at,
                end_at=end_at,
            ):
                found += rows
                show(until)
        return [asdict(row) for row in dict.fromkeys(found)]

    async def read_aggregates(client: Client) -> list[dict[str, Any]]:
        from fpd.adapters.reengen_client import Series
        from fpd.domain.reengen_units import USUAL

        usual = {**USUAL, "activeEnergy": "kWh"}
        start_at, end_at = _instants(client, start, end)
        asked = [
            Series(
                definition=definition,
                variant=variant,
                function=function,
                unit=unit or usual.get(definition, ""),
            )
            for definition in definitions
            for variant in variants
        ]
        found = await client.measurements(
            asked,
            points=points,
            start_at=start_at,
            end_at=end_at,
            resolution=resolution,
        )
        codes = {point.id: point.code for point in await client.hierarchy()}
        return [
            {"date": row.date, "point": codes.get(row.point_id), "definition": one.definition}
            | {"variant": one.variant, "value": row.value, "unit": one.unit}
            for one, rows in zip(asked, found, strict=True)
            for row in rows
        ]

    rows = ask(file, name, read_aggregates if function else read_raw)
    columns = ("date", "point", "definition", "variant", "value", "unit") if function else _RAW
    tell(rows, as_json=as_json, columns=columns)


@contextlib.contextmanager
def _progress(start_at: datetime, end_at: datetime) -> Iterator[Any]:
    """Show on a terminal how far a long range has been read."""
    length_s = int((end_at - start_at).total_seconds())
    if length_s < _LONG_S or not sys.stderr.isatty():
        yield lambda until: None
        return
    with click.progressbar(length=length_s, label="reading", file=sys.stderr) as bar:
        yield lambda until: bar.update(int((until - start_at).total_seconds()) - bar.pos)


@click.command("cost")
@click.argument("points", nargs=-1)
@click.option(
    "--utility",
    type=click.Choice(("electricity", "water", "gas", "medicalGas")),
    default="electricity",
    show_default=True,
)
@click.option("--group", default="activeEnergyCost", show_default=True, help="Which cost.")
@click.option("--tax", type=click.Choice(("None", "Internal")), default="None", show_default=True)
@_range
@asking
def cost(
    points: tuple[str, ...],
    utility: str,
    group: str,
    tax: str,
    start: str | None,
    end: str | None,
    file: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Show what was used at POINTS, or at all of them, has cost.

    \b
    Examples:
      fpd reengen cost --start 2026-01-01 --end 2026-02-01
      fpd reengen cost xFabrikaTrafo6 --group reactiveEnergyCost --json
    """

    async def read(client: Client) -> list[dict[str, Any]]:
        from fpd.adapters.reengen_client import CostSeries

        start_at, end_at = _instants(client, start, end)
        (found,) = await client.costs(
            [CostSeries(utility=utility, group=group, include_tax=tax, decimals=2)],
            points=points or None,
            start_at=start_at,
            end_at=end_at,
        )
        codes = {point.id: point.code for point in await client.hierarchy()}
        return [{"point": codes.get(row.point_id), "cost": row.cost} for row in found]

    tell(ask(file, name, read), as_json=as_json, columns=("point", "cost"))


@click.command("import")
@click.argument("source", type=click.File("r", encoding="utf-8"), default="-")
@click.option(
    "--operation",
    type=click.Choice(("put", "C", "U", "D")),
    default="put",
    show_default=True,
    help="C create, U update, D delete; put: whichever of C and U it takes.",
)
@asking
def import_(
    source: Any, operation: Any, file: Path | None, name: str | None, as_json: bool
) -> None:
    """Write values of points from a file: CSV with a head, or a JSON object a line.

    Columns: point, definition, variant, index (1), date (local, or with zone), value, type
    (actual).

    \b
    Examples:
      fpd reengen import values.csv
      echo '{"point": "p", "definition": "activeEnergy", "variant": "import",
             "date": "2026-01-31T12:00:00", "value": 121}' | tr -d '\\n' | fpd reengen import
      fpd reengen import wrong.csv --operation D
    """

    async def write(client: Client) -> int:
        from dataclasses import replace

        rows = [_imported(n, row, client.tz) for n, row in enumerate(_rows(source.read()), 1)]
        for first in range(0, len(rows), _AT_ONCE):
            part = rows[first : first + _AT_ONCE]
            if operation == "put":
                await client.put(part)
            else:
                await client.import_data([replace(row, operation=operation) for row in part])
            if len(rows) > _AT_ONCE:
                click.echo(f"{first + len(part)} of {len(rows)}", err=True)
        return len(rows)

    count = ask(file, name, write)
    click.echo(json.dumps({"rows": count}) if as_json else f"{count} rows: taken")


def _rows(text: str) -> list[dict[str, Any]]:
    if not text.lstrip().startswith("{"):
        return list(csv.DictReader(io.StringIO(text)))
    try:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise Malformed(f"not JSON lines: {error}") from error


def _imported(number: int, row: dict[str, Any], tz: ZoneInfo) -> Imported:
    from fpd.adapters.lenient import integer
    from fpd.adapters.reengen_client import Imported
    from fpd.adapters.reengen_parse import number as value_of

    value, index = value_of(row.get("value")), integer(row.get("index") or 1)
    if value is None or index is None or not all(row.get(n) for n in ("point", "definition")):
        raise Malformed(f"row {number}: expected point, definition, variant, date, value")
    return Imported(
        point=str(row["point"]),
        definition=str(row["definition"]),
        variant=str(row.get("variant") or "import"),
        index=index,
        value=value,
        at=_instant(str(row.get("date")), tz, f"row {number}: date"),
        type=str(row.get("type") or "actual"),
    )


@click.command("flags")
@click.argument("points", nargs=-1, required=True)
@click.option("--type", "kind", required=True, help="Which values.")
@click.option("--tenant", help="Whose; else the platform's own.")
@click.option("--set", "value", help="Write this value.")
@click.option("--delete", is_flag=True, help="Delete the value.")
@asking
def flags(
    points: tuple[str, ...],
    kind: str,
    tenant: str | None,
    value: str | None,
    delete: bool,
    file: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Show, write or delete values of POINTS in the data-science table.

    \b
    Examples:
      fpd reengen flags xyzBesiktas --type test
      fpd reengen flags xyzBesiktas --type test --set 3
      fpd reengen flags xyzBesiktas --type test --delete
    """
    if delete and value is not None:
        raise Malformed("--set, --delete: expected one of them")

    async def run(client: Client) -> list[dict[str, Any]]:
        from fpd.adapters.reengen_parse import Flag

        whose = tenant or client.door.tenant
        if value is None and not delete:
            found = await client.flags(points=points, type=kind, tenant=whose)
        else:
            rows = [Flag(point=p, type=kind, tenant=whose, value=value or "") for p in points]
            found = await client.manage_flags(rows, operation="D" if delete else "CU")
        return [asdict(flag) for flag in found]

    rows = ask(file, name, run)
    tell(rows, as_json=as_json, columns=("tenant", "point", "type", "value"))
