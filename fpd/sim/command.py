"""`fpd sim ROLE`: one subcommand for each simulator, built from its options.

The command line that mounts this puts an object with a `clock` (aware UTC) into `ctx.obj`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import typing
from typing import Any, Literal, Protocol

import click
import structlog

from fpd.errors import FpdError
from fpd.sim.journal import Clock
from fpd.sim.quirks import Switchboard
from fpd.sim.roles import ROLES, Role, run
from fpd.sim.simulator import Options


class Tools(Protocol):
    """What simulators are lent."""

    @property
    def clock(self) -> Clock: ...


@click.group()
def sim() -> None:
    """Play the other side of a door: a peer, a fuel cell, a battery, a platform, a site.

    Each prints one line of JSON with its URL when it is ready, and ends at Ctrl-C or SIGTERM.
    Below /_sim/ of that URL are its log (log, log/wait), quirks, state and actions.

    \b
    Examples:
      fpd sim bluegen --port 8091
      curl http://127.0.0.1:8091/_sim/log
      curl -X PUT -d '{"tarpit": true}' http://127.0.0.1:8091/_sim/quirks
    """


def _command(name: str, role: Role) -> click.Command:
    def play(tools: Tools, **values: Any) -> None:
        def ready(url: str) -> None:
            click.echo(json.dumps({"role": name, "url": url}))

        _log_to_stderr()
        try:
            asyncio.run(run(name, role.options(**values), tools.clock, ready=ready))
        except FpdError as error:
            raise click.UsageError(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{name}: {error}") from error

    return click.Command(
        name,
        callback=click.pass_obj(play),
        params=_parameters(role.options),
        help=f"{role.help}\n\n\b\nExample:\n  fpd sim {role.example}",
        epilog=_quirks(role),
        context_settings={"show_default": True},
    )


def _log_to_stderr() -> None:
    """Keep standard output for the line that says where the simulator is."""
    if not structlog.is_configured():
        structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def _parameters(options: type[Options]) -> list[click.Parameter]:
    hints = typing.get_type_hints(options)
    return [_option(field, hints[field.name]) for field in dataclasses.fields(options)]


def _option(field: dataclasses.Field[Any], hint: Any) -> click.Option:
    flag, secret = field.name.replace("_", "-"), field.metadata["secret"]
    multiple = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if multiple else hint
    if typing.get_origin(kind) is Literal:
        kind = click.Choice(typing.get_args(kind))
    return click.Option(
        [f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"],
        type=kind,
        multiple=multiple,
        default=field.default,
        help=field.metadata["help"],
        envvar=f"FPD_SIM_{field.name.upper()}" if secret else None,
        show_envvar=secret,
        show_default=not secret and field.default not in ("", ()),
    )


def _quirks(role: Role) -> str:
    known = Switchboard(role.quirks).known()
    lines = [f"  {name}: {description}" for name, description in known.items()]
    return "\b\n" + "\n".join(["Quirks (--quirk NAME=VALUE, or PUT /_sim/quirks):", *lines])


for _name, _role in ROLES.items():
    sim.add_command(_command(_name, _role))
