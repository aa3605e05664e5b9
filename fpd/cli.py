"""The command line: finds the configuration, calls one thing, says how it went.

Exit codes: 0 it worked; 1 it did not; 2 the command, its input or the configuration is wrong.
What is heavy is imported by the command that needs it: `fpd translate` opens no database.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from fpd import __version__
from fpd.errors import FpdError, Malformed, Misconfigured, Unavailable

if TYPE_CHECKING:
    import ssl
    from datetime import datetime

    from fpd.config import Config, Http
    from fpd.store.db import Database

T = TypeVar("T")

_CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class _Commands(click.Group):
    """Turns an FpdError of any command into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FpdError as error:
            click.echo(str(error), err=True)
            return ctx.exit(2 if isinstance(error, Misconfigured | Malformed) else 1)


def _config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "-c",
        "--config",
        "file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The configuration (else $FPD_CONFIG, else /etc/fpd/config.toml, else defaults).",
    )(command)


def _load(file: Path | None) -> Config:
    from fpd.config_file import load

    return load(file, os.environ)


def _in_database(config: Config, action: Callable[[Database], Awaitable[T]]) -> T:
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


@click.group(cls=_Commands, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="fpd")
def main() -> None:
    """A self-hosted OSCP 2.0 Flexibility Provider.

    See it work with `fpd demo`; then `fpd check-config -c FILE` and `fpd run -c FILE`.
    """


@main.command()
@_config_option
def run(file: Path | None) -> None:
    """Run the daemon until SIGTERM.

    \b
    Examples:
      fpd run
      FPD_HTTP__LISTEN=0.0.0.0:8484 fpd run -c /etc/fpd/config.toml
    """
    config = _load(file)

    from fpd import app
    from fpd.logs import configure

    configure(config.log)
    sys.exit(app.run(config))


@main.command("check-config")
@_config_option
def check_config(file: Path | None) -> None:
    """Tell everything that is wrong with the configuration, or what it says.

    \b
    Example:
      fpd check-config -c /etc/fpd/config.toml
    """
    from fpd.config_file import config_file

    config = _load(file)
    devices = [f"{device.name} ({device.type})" for device in config.devices]
    said = {
        "file": config_file(file, os.environ) or "none: built-in defaults",
        "data": config.data_dir,
        "listen": f"{config.http.listen}, told to peers as {config.public_url}",
        "database": "given by url" if config.database.url else "our own PostgreSQL",
        "broker": config.mqtt.url or f"our own, on 127.0.0.1:{config.mqtt.port}",
        "devices": ", ".join(devices) or "none",
    }
    for name, value in said.items():
        click.echo(f"{name:9} {value}")
    click.echo("ok")


@main.command()
@_config_option
def migrate(file: Path | None) -> None:
    """Make or update the tables of the database. The daemon does so itself when it starts.

    \b
    Example:
      FPD_DATABASE__URL=postgresql://fpd@db.example.org/fpd fpd migrate
    """

    async def nothing_more(_: Database) -> None:
        """Opening it migrates it."""

    _in_database(_load(file), nothing_more)
    click.echo("the database is up to date")


@main.group()
def token() -> None:
    """The bearer tokens with which the management API is used.

    \b
    Examples:
      fpd token create --user-id 1 --name grafana
      fpd token list
      fpd token revoke aB3dE5gH7jK9mN1pQ3sT
    """


@token.command("create")
@_config_option
@click.option("--user-id", type=click.IntRange(1, 2**63 - 1), required=True, help="Whose it is.")
@click.option("--name", default="", help="What it is for.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def token_create(file: Path | None, user_id: int, name: str, as_json: bool) -> None:
    """Make a token; the user too, if new. Its secret is shown once.

    \b
    Example:
      fpd token create --user-id 1 --name grafana --json
    """
    from fpd.app import clock
    from fpd.store import accounts
    from fpd.store.vault import Vault

    config = _load(file)

    async def create(db: Database) -> accounts.NewToken:
        vault = Vault.open(config.key_file or config.data_dir / "fpd.key")
        async with db.transaction() as conn:
            return await accounts.create_token(
                conn, user_id=user_id, name=name, vault=vault, now=clock()
            )

    made = _in_database(config, create)
    said = {"userId": made.user_id, "id": made.id, "secret": made.secret, "bearer": made.bearer}
    if as_json:
        click.echo(json.dumps(said))
        return
    for key, value in said.items():
        click.echo(f"{key:7} {value}")
    click.echo("Keep it now: it is not shown again.")


@token.command("list")
@_config_option
def token_list(file: Path | None) -> None:
    """Show every token, without its secret."""
    from fpd.store import accounts

    async def read(db: Database) -> tuple[accounts.TokenRow, ...]:
        async with db.transaction() as conn:
            return await accounts.list_tokens(conn)

    rows = [
        [row.id, row.user_id, row.name, row.created_at, row.last_used_at, row.revoked_at]
        for row in _in_database(_load(file), read)
    ]
    _print_table("", ["id", "user", "name", "created", "last used", "revoked"], rows)


@token.command("revoke")
@_config_option
@click.argument("token_id", metavar="ID")
def token_revoke(file: Path | None, token_id: str) -> None:
    """Make a token worthless, at once."""
    from fpd.app import clock
    from fpd.store import accounts

    async def revoke(db: Database) -> bool:
        async with db.transaction() as conn:
            return await accounts.revoke_token(conn, id=token_id, now=clock())

    if not _in_database(_load(file), revoke):
        raise click.ClickException(f"there is no token {token_id} that could be revoked")
    click.echo(f"{token_id} is revoked")


@main.command()
@_config_option
@click.option("--json", "as_json", is_flag=True, help="Print what the daemon said, as it is.")
@click.option(
    "--bearer-file",
    type=click.File(),
    help="A token for a daemon that listens on no loopback address (`fpd token create`).",
)
def status(file: Path | None, as_json: bool, bearer_file: TextIO | None) -> None:
    """Ask the running daemon how peers, groups and devices are.

    \b
    Examples:
      fpd status
      fpd status --json | jq .peers
    """
    bearer = bearer_file.read().strip() if bearer_file else None
    body = _ask(_load(file).http, "/api/v1/status", bearer)
    if as_json:
        click.echo(body)
        return
    said = json.loads(body)
    outbox = said["outbox"]
    since = f", the oldest since {outbox['oldestAt']}" if outbox["oldestAt"] else ""
    parts = ", ".join(f"{p} {'ok' if said[p]['ok'] else 'away'}" for p in ("database", "broker"))
    click.echo(f"fpd {said['version']}: {parts}, {outbox['pending']} messages to deliver{since}")
    for title, columns in _STATUS_TABLES.items():
        paths = columns.split()
        _print_table(title, paths, [[_at(row, path) for path in paths] for row in said[title]])


# Where the columns stand in a row of the answer.
_STATUS_TABLES = {
    "peers": "id role name link lastHeardAt offlineModeAt",
    "groups": "id identifier envelope.minW envelope.maxW envelope.optimumW envelope.reason "
    "envelope.until measuredW measuredAt",
    "devices": "name type health wanted confirmed readingAt",
}


def _ask(door: Http, path: str, bearer: str | None) -> str:
    """Return the daemon's answer to a GET. Raises Unavailable when there is none."""
    from http.client import HTTPConnection, HTTPException, HTTPSConnection

    # An address that means "all of them" is bound, but cannot be connected to everywhere.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(door.host, door.host)
    connection = HTTPConnection(host, door.port, timeout=10)
    if door.tls_cert is not None:
        connection = HTTPSConnection(host, door.port, timeout=10, context=_trust(door.tls_cert))
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise Unavailable(f"no fpd answers at {door.listen} ({error}): is `fpd run` up?") from error
    finally:
        connection.close()
    if response.status != 200:
        raise Unavailable(f"fpd at {door.listen} said {response.status}: {body[:300]}")
    return body


def _trust(certificate: Path) -> ssl.SSLContext:
    """Trust exactly the daemon's own certificate, under whatever name it is reached."""
    import ssl

    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def _at(row: Any, path: str) -> Any:
    """Return what stands at a dotted path, None where it ends early."""
    for name in path.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return row


def _print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(_printable(value)) for value in row))
    # A file or a pipe has no width: there nothing is folded.
    Console(width=None if sys.stdout.isatty() else 250, highlight=False).print(table)


def _printable(value: Any) -> str:
    """Return a value for a terminal; names come from others and may hold escape sequences."""
    text = "–" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)


@main.command()
@_config_option
@click.argument("document", metavar="[FILE|-]", type=click.File(encoding="utf-8"), default="-")
def translate(file: Path | None, document: TextIO) -> None:
    """Work out what a device would be told: {"kind": …, "in": {…}} → JSON.

    Reads no configuration, database or device.

    \b
    Examples:
      fpd translate question.json
      echo '{"kind": "tick_index", "in": {…}}' | fpd translate
    """
    from fpd.domain.translate import translate as answer

    try:
        question = json.load(document)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{document.name}: not JSON: {error}") from error
    click.echo(json.dumps(answer(question), indent=1, ensure_ascii=False))


@main.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def sim(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Play the other side of a door: a peer, a fuel cell, a battery, a site.

    \b
    Examples:
      fpd sim --help
      fpd sim capacity-provider --help
    """
    from fpd.app import clock
    from fpd.sim.command import sim as roles

    ctx.obj = Tools(clock=clock)
    with roles.make_context("sim", list(arguments), parent=ctx.parent, obj=ctx.obj) as inner:
        roles.invoke(inner)


@dataclass(frozen=True, slots=True)
class Tools:
    """What the simulators are lent: they tell time by our one clock."""

    clock: Callable[[], datetime]


@main.command()
@_config_option
@click.option("--once", is_flag=True, help="End after the tour: 0 only if every stage was seen.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep logs and data.")
def demo(file: Path | None, once: bool, keep: Path | None) -> None:
    """See it all work: the daemon with simulated peers and devices, on loopback.

    \b
    Examples:
      fpd demo
      fpd demo --once --keep /tmp/demo
    """
    from fpd.app import clock
    from fpd.sim.demo import demo as tour

    sys.exit(tour(once=once, clock=clock, keep=keep))
