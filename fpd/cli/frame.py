"""What commands have in common: configuration, database, exit codes, tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fpd.errors import FpdError, Malformed, Misconfigured, Unavailable

if TYPE_CHECKING:
    from fpd.config import Config
    from fpd.flows.context import Context
    from fpd.store.db import Database

T = TypeVar("T")

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class Commands(click.Group):
    """Turns an FpdError of any command into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FpdError as error:
            click.echo(str(error), err=True)
            return ctx.exit(2 if isinstance(error, Misconfigured | Malformed) else 1)


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-c",
        "--config",
        "file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The configuration (else $FPD_CONFIG, else /etc/fpd/config.toml, else defaults).",
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
    from fpd.app import beside

    return in_database(config, lambda db: action(beside(config, db)))


def at(row: Any, path: str) -> Any:
    """Return what stands at a dotted path, None where it ends early."""
    for name in path.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    # A file or a pipe has no width: there nothing is folded.
    Console(width=None if sys.stdout.isatty() else 250, highlight=False).print(table)


def printable(value: Any) -> str:
    """Return a value for a terminal; names come from others and may hold escape sequences."""
    text = "–" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)
