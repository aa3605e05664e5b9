"""`fpd reengen …`: a Reengen (Faradai) platform at a terminal, beside any daemon."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fpd.cli import reengen_data
from fpd.cli.reengen_frame import ask, asking, number, tell
from fpd.errors import Malformed

if TYPE_CHECKING:
    from fpd.adapters.reengen_client import Client


@click.group()
def reengen() -> None:
    """A Reengen (Faradai) platform: its points, data and commands.

    Which one is said by --platform, the name of a [[platform]] in the configuration; where there
    is only one it need not be named.

    \b
    Examples:
      fpd reengen points
      fpd reengen data xFabrikaTrafo6 --start 2026-01-31 --end 2026-02-01
      fpd reengen commands xFabrikaTrafo6
      fpd reengen execute xFabrikaTrafo6 lights-on-off true
    """


@reengen.command("points")
@asking
def points(file: Path | None, name: str | None, as_json: bool) -> None:
    """Show the tenant's points, each below the one that it is in.

    \b
    Examples:
      fpd reengen points
      fpd reengen points --json | jq -r .code
    """
    from fpd.adapters.reengen_parse import Point

    found = ask(file, name, lambda client: client.hierarchy())
    children: dict[str | None, list[Point]] = {}
    codes = {point.code for point in found}
    for point in found:
        if point.code is not None:
            children.setdefault(point.parent if point.parent in codes else None, []).append(point)
    rows: list[dict[str, Any]] = []
    shown: set[str | None] = set()

    def add(parent: str | None, depth: int) -> None:
        for point in sorted(children.get(parent, []), key=lambda point: point.name):
            if point.code in shown:
                continue
            shown.add(point.code)
            told = asdict(point)
            rows.append(told if as_json else told | {"name": "  " * depth + point.name})
            add(point.code, depth + 1)

    add(None, 0)
    tell(rows, as_json=as_json, columns=("name", "code", "id", "parent"))


@reengen.command("commands")
@click.argument("point")
@asking
def commands(point: str, file: Path | None, name: str | None, as_json: bool) -> None:
    """Show what a point can be told.

    \b
    Examples:
      fpd reengen commands xFabrikaTrafo6
      fpd reengen commands xFabrikaTrafo6 --json
    """
    found = ask(file, name, lambda client: client.commands(point))
    rows = [
        {
            "code": one.code,
            "name": one.name,
            "kind": one.kind,
            "parameter": one.parameter_type
            if not one.options
            else dict(one.options)
            if as_json
            else ", ".join(code for code, _ in one.options),
        }
        for one in found
    ]
    tell(rows, as_json=as_json, columns=("code", "name", "kind", "parameter"))


@reengen.command("execute")
@click.argument("point")
@click.argument("command")
@click.argument("parameter", required=False)
@asking
def execute(
    point: str,
    command: str,
    parameter: str | None,
    file: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Tell a point what to do, if it lists the command and takes the parameter.

    A switch takes true or false, a MultiOption the code of one of its options.

    \b
    Examples:
      fpd reengen execute xFabrikaTrafo6 lights-on-off true
      fpd reengen execute xFabrikaTrafo6 generator-mode-set auto
    """
    from fpd.adapters.reengen_commands import parsed

    async def run(client: Client) -> Any:
        listed = await client.commands(point)
        known = next((each for each in listed if each.code == command), None)
        value = parsed(known, parameter)
        await client.execute(point, command, value, listed=listed)
        return value

    value = ask(file, name, run)
    told = {"point": point, "command": command, "parameter": value, "succeeded": True}
    said = f"{point}: {command} {'' if parameter is None else parameter}".rstrip()
    click.echo(json.dumps(told, default=number) if as_json else f"{said}: taken")


@reengen.command("call")
@click.argument("method")
@click.argument("properties", required=False)
@asking
def call(
    method: str, properties: str | None, file: Path | None, name: str | None, as_json: bool
) -> None:
    """Call any method with PROPERTIES (JSON), once, and print the properties of the answer.

    \b
    Examples:
      fpd reengen call GetPointHierarchy
      fpd reengen call ListAvailableCommands '{"point": "xFabrikaTrafo6"}'
    """
    try:
        given = None if properties is None else json.loads(properties)
    except ValueError as error:
        raise Malformed(f"PROPERTIES: not JSON: {error}") from error
    if given is not None and not isinstance(given, dict):
        raise Malformed("PROPERTIES: not a JSON object")
    found = ask(file, name, lambda client: client.door.ask(method, given, retries=0))
    click.echo(json.dumps(found, default=number, indent=None if as_json else 2))


for _command in (reengen_data.data, reengen_data.cost, reengen_data.import_, reengen_data.flags):
    reengen.add_command(_command)
