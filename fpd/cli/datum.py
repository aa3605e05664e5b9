"""Datum at a terminal: the latest, a range of them, or all of them into a file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fpd.cli.frame import config_option, in_context, in_database, load, print_table
from fpd.errors import Malformed

if TYPE_CHECKING:
    from fpd.flows.context import Context
    from fpd.flows.datum_out import Asked
    from fpd.store.db import Database
    from fpd.web.datum_texts import Wanted

_REFUSED = "last source outcome count reason size head"
_AGGREGATIONS = (
    *("None", "Minute", "FiveMinute", "TenMinute", "FifteenMinute", "TwentyMinute"),
    *("ThirtyMinute", "Hour", "Day"),
)
_ID = click.IntRange(1, 2**63 - 1)


@click.group()
def datum() -> None:
    """Datum: timed readings of streams, each of a node and a source.

    A source id may have wildcards: ? a character, * any number of them, ** levels.

    \b
    Examples:
      fpd datum latest
      fpd datum list --source '/load/**' --start 2026-01-31T12:00Z --aggregation FiveMinute
      fpd datum export --start 2026-01-01 --end 2026-02-01 --format csv -o january.csv
      fpd datum refused
    """


def _streams(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--source", "sources", multiple=True, help="Its id, or a pattern."),
        click.option("--node", "nodes", multiple=True, type=_ID, help="The id of its node."),
        click.option("--user-id", type=_ID, help="Whose they are; else everybody's."),
        config_option,
    ):
        command = option(command)
    return command


def _range(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--register", "registers", multiple=True, help="A property that counts."),
        click.option("--property", "properties", multiple=True, help="Only this one."),
        click.option(
            "--aggregation",
            type=click.Choice(_AGGREGATIONS),
            default="None",
            show_default=True,
            help="One for each period: means, and what registers gained.",
        ),
        click.option("--end", metavar="INSTANT", help="Before then; else up to now."),
        click.option("--start", metavar="INSTANT", help="From then on; else of the last day."),
    ):
        command = option(command)
    return command


@datum.command("latest")
@_streams
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def datum_latest(file: Path | None, as_json: bool, **streams: Any) -> None:
    """Show the newest datum of each stream.

    \b
    Examples:
      fpd datum latest
      fpd datum latest --node 7 --source '/load/*' --json
    """
    lines = _read(file, latest=True, **streams)
    click.echo("\n".join(lines)) if as_json else _print(lines)


@datum.command("list")
@_streams
@_range
@click.option("--max", "limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def datum_list(file: Path | None, limit: int, as_json: bool, **asked: Any) -> None:
    """Show datum, stream by stream, the oldest first.

    \b
    Examples:
      fpd datum list --source /load/1 --start 2026-01-31T12:00Z --end 2026-01-31T13:00Z
      fpd datum list --aggregation Hour --property watts --json
    """
    lines = _read(file, limit=limit, **asked)
    click.echo("\n".join(lines)) if as_json else _print(lines)


@datum.command("export")
@_streams
@_range
@click.option("--format", "kind", type=click.Choice(("ndjson", "csv")), default="ndjson")
@click.option("-o", "--output", type=click.File("w", encoding="utf-8"), default="-")
def datum_export(file: Path | None, kind: Any, output: Any, **asked: Any) -> None:
    """Write datum to a file or to standard output, however many there are.

    Each line of NDJSON can be taken in again. CSV has a column for each property.

    \b
    Examples:
      fpd datum export --start 2026-01-01 --format csv -o year.csv
      fpd datum export --source '/load/**' --start 2026-01-01 | gzip > loads.ndjson.gz
    """

    async def write(context: Context) -> None:
        async for text in await _texts(context, kind, **asked):
            if text:
                output.write(text + "\n")

    in_context(load(file), write)


def _read(file: Path | None, *, limit: int | None = None, **asked: Any) -> list[str]:
    async def read(context: Context) -> list[str]:
        lines: list[str] = []
        async for text in await _texts(context, "ndjson", **asked):
            lines += text.splitlines()
            if limit is not None and len(lines) >= limit:
                break
        return lines[:limit]

    return in_context(load(file), read)


async def _texts(context: Context, kind: Any, **asked: Any) -> AsyncIterator[str]:
    from fpd.web.datum_texts import texts

    return texts(context, await _wanted(context, **asked), kind=kind)


async def _wanted(
    context: Context,
    *,
    user_id: int | None,
    nodes: tuple[int, ...],
    sources: tuple[str, ...],
    start: str | None = None,
    end: str | None = None,
    aggregation: str = "None",
    properties: tuple[str, ...] = (),
    registers: tuple[str, ...] = (),
    latest: bool = False,
) -> Wanted:
    from fpd.domain.aggregate import Aggregation
    from fpd.flows import datum_out as flow
    from fpd.web.datum_texts import Wanted
    from fpd.web.query import instant

    if any("\0" in text for text in (*sources, *properties, *registers)):
        raise Malformed("--source, --property, --register: expected names")
    end_at = context.clock() if end is None else instant(end, "--end")
    day_before = end_at - timedelta(days=1)
    asked: Asked = flow.Asked(
        user_id=user_id,
        start_at=day_before if start is None else instant(start, "--start"),
        end_at=end_at,
        node_ids=nodes,
        sources=sources,
        properties=properties,
        registers=registers,
    )
    return Wanted(
        asked=asked,
        streams=await flow.streams(context, asked),
        aggregation=None if aggregation == "None" else Aggregation[aggregation],
        latest=latest,
    )


def _print(lines: list[str]) -> None:
    found = [json.loads(line) for line in lines]
    rows = []
    for one in found:
        samples = one["samples"]
        told = {**samples.get("i", {}), **samples.get("a", {}), **samples.get("s", {})}
        values = ", ".join(f"{name} {value}" for name, value in told.items())
        rows.append([one["created"], one["nodeId"], one["sourceId"], values])
    print_table("", ["created", "nodeId", "sourceId", "properties"], rows)


@datum.command("refused")
@config_option
@click.option("--max", "limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def datum_refused(file: Path | None, limit: int, as_json: bool) -> None:
    """Show whose datum were refused and why, with the newest example of each source.

    \b
    Examples:
      fpd datum refused
      fpd datum refused --max 5 --json
    """
    from fpd.store import refusals
    from fpd.web.status import refusal

    async def read(db: Database) -> list[dict[str, Any]]:
        async with db.connection() as conn:
            rows = await refusals.listed(conn, user_id=None, limit=limit)
            return [refusal(row) for row in rows]

    found = in_database(load(file), read)
    if as_json:
        click.echo(json.dumps(found))
        return
    columns = _REFUSED.split()
    print_table("", columns, [[row[name] for name in columns] for row in found])
