"""What the commands of `fpd reengen` have in common: which platform, its client, how it is told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fpd.cli.frame import config_option, load, print_table
from fpd.errors import Misconfigured

if TYPE_CHECKING:
    from fpd.adapters.reengen_client import Client
    from fpd.config_reengen import ReengenPlatform

T = TypeVar("T")


def asking(command: Callable[..., Any]) -> Callable[..., Any]:
    """Declare what says which platform, and how it is told."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line."),
        click.option("--platform", "name", help="The name of a [[platform]] of type reengen."),
        config_option,
    ):
        command = option(command)
    return command


def ask(file: Path | None, name: str | None, action: Callable[[Client], Awaitable[T]]) -> T:
    """Run `action` with the client of the platform. Raises Misconfigured, DeviceFault."""
    import asyncio

    platform = _platform(file, name)

    async def run() -> T:
        from fpd.adapters import http
        from fpd.adapters.device import Wiring
        from fpd.adapters.reengen_platform import client
        from fpd.app import clock
        from fpd.config import Log
        from fpd.logs import configure

        configure(Log(level="warning"))  # on stderr: stdout is for the answer
        async with http.session() as session:
            wiring = Wiring(session=session, clock=clock, instance="command", interval_s=10.0)
            return await action(client(platform, wiring))

    return asyncio.run(run())


def _platform(file: Path | None, name: str | None) -> ReengenPlatform:
    from fpd.config_reengen import ReengenPlatform

    known = [one for one in load(file).platforms if isinstance(one, ReengenPlatform)]
    named = [one for one in known if name in (None, one.name)]
    if len(named) == 1:
        return named[0]
    names = ", ".join(one.name for one in known)
    if name is not None or not known:
        what = "no platform of type reengen" + ("" if name is None else f" is called {name}")
        raise Misconfigured(f"--platform: {what} (configured: {names or 'none'})")
    raise Misconfigured(f"--platform: one of {names}")


def tell(rows: Sequence[dict[str, Any]], *, as_json: bool, columns: Sequence[str]) -> None:
    """Print rows as a table, or one JSON object a line."""
    if as_json:
        click.echo("\n".join(json.dumps(row, default=number, ensure_ascii=False) for row in rows))
    else:
        print_table("", list(columns), [[row.get(name) for name in columns] for row in rows])


def number(value: Any) -> float | int:
    """Return a decimal as JSON has it."""
    found = float(value)
    return int(found) if found.is_integer() else found
