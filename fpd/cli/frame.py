"""What commands have in common: configuration, database, exit codes, tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fpd.errors import FpdError, Malformed, Misconfigured, Unavailable

if TYPE_CHECKING:
    from fpd.config import Config
    from fpd.flows.context import Context
    from fpd.store.db import Database

T = TypeVar("T")

_MANY = 200  # rows

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class Commands(click.Group):
    """Turns an FpdError of any command into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FpdError as error:
            click.echo(_told(error), err=True)
            return ctx.exit(2 if isinstance(error, Misconfigured | Malformed) else 1)


def _told(error: FpdError) -> str:
    """Return what an error says; of a refusal each place that it names."""
    from fpd.flows.manage.refusals import Refused

    if not isinstance(error, Refused) or not error.faults:
        return str(error)
    return "\n".join(
        printable(f"{fault.location}: {fault.message}" if fault.location else fault.message)
        for fault in error.faults
    )


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-c",
        "--config",
        "file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The configuration (else $FPD_CONFIG, else /etc/fpd/config.toml, else defaults).",
    )(command)


def user_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--user-id",
        type=click.IntRange(1, 2**63 - 1),
        default=1,
        show_default=True,
        help="Whose they are.",
    )(command)


def load(file: Path | None) -> Config:
    """Return the configuration. Raises Misconfigured with every fault."""
    from fpd import config_file

    return config_file.load(file, os.environ)


def in_database(config: Config, action: Callable[[Database], Awaitable[T]]) -> T:
    """Run `action` on the configured database. Raises Unavailable when it cannot be reached."""
    import asyncio

    import psycopg

    from fpd.app import with_database
    from fpd.config import Log
    from fpd.logs import configure

    configure(Log(level="warning"))  # on stderr: stdout is for the answer
    try:
        return asyncio.run(with_database(config, action))
    except psycopg.OperationalError as error:
        reason = " ".join(str(error).split())
        raise Unavailable(f"the database cannot be reached: {reason}") from error


def in_context(config: Config, action: Callable[[Context], Awaitable[T]]) -> T:
    """Run `action` with what flows need, on the configured database; raises as `in_database`.

    A running daemon finds by itself what was owed.
    """
    from fpd.app import beside, brief_mqtt

    async def act(db: Database) -> T:
        mqtt = brief_mqtt(config)
        try:
            return await action(beside(config, db, mqtt))
        finally:
            mqtt.close()

    return in_database(config, act)


def at(row: Any, path: str) -> Any:
    """Return what stands at a dotted path, None where it ends early."""
    for name in path.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    if len(rows) > _MANY:
        return _print_long(title, columns, rows)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    # A file or a pipe has no width: there nothing is folded.
    Console(width=None if sys.stdout.isatty() else 250, highlight=False).print(table)


def _print_long(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a long table without lines; laying it out in style would take seconds."""
    texts = [columns, *([printable(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)
    click.echo("\n".join([*filter(None, [title]), *lines]))


def print_entity(shown: Mapping[str, Any]) -> None:
    """Print an object line by line; what has parts is told by dotted names."""
    lines = dict(_lines(shown))
    width = max(map(len, lines), default=0)
    for name, value in lines.items():
        click.echo(f"{printable(name):{width}}  {printable(value)}")


def _lines(shown: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in shown.items():
        if isinstance(value, dict) and value:
            yield from _lines(value, f"{before}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield before + name, text


def printable(value: Any) -> str:
    """Return a value for a terminal; names come from others and may hold escape sequences."""
    text = "–" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)
