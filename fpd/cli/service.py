"""The daemon: run it, check what it would be run with, ask how it is."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from fpd.cli.frame import at, config_option, in_database, load, print_table
from fpd.errors import Unavailable

if TYPE_CHECKING:
    import ssl

    from fpd.config import Http
    from fpd.store.db import Database


@click.command()
@config_option
def run(file: Path | None) -> None:
    """Run the daemon until SIGTERM.

    \b
    Examples:
      fpd run
      FPD_HTTP__LISTEN=0.0.0.0:8484 fpd run -c /etc/fpd/config.toml
    """
    config = load(file)

    from fpd import app
    from fpd.logs import configure

    configure(config.log, for_good=True)
    sys.exit(app.run(config, again=lambda: load(file)))


@click.command("check-config")
@config_option
def check_config(file: Path | None) -> None:
    """Tell everything that is wrong with the configuration, or what it says.

    \b
    Example:
      fpd check-config -c /etc/fpd/config.toml
    """
    from fpd.adapters import TYPES
    from fpd.config_file import config_file

    config = load(file)
    devices = [f"{device.name} ({device.type})" for device in config.devices]
    said = {
        "file": config_file(file, os.environ) or "none: built-in defaults",
        "data": config.data_dir,
        "listen": f"{config.http.listen}, told to peers as {config.public_url}",
        "database": "given by url" if config.database.url else "our own PostgreSQL",
        "broker": config.mqtt.url or f"our own, on 127.0.0.1:{config.mqtt.port}",
        "devices": ", ".join(devices) or "none",
        "platforms": ", ".join(f"{one.name} ({one.type})" for one in config.platforms) or "none",
    }
    for name, value in said.items():
        click.echo(f"{name:9} {value}")
    for device in config.devices:
        for caution in TYPES[device.type].cautions(device):
            click.echo(f"caution   {device.name}: {caution}")
    click.echo("ok")


@click.command()
@config_option
def migrate(file: Path | None) -> None:
    """Make or update the tables of the database. The daemon does so itself when it starts.

    \b
    Example:
      FPD_DATABASE__URL=postgresql://fpd@db.example.org/fpd fpd migrate
    """

    async def nothing_more(_: Database) -> None:
        """Opening it migrates it."""

    in_database(load(file), nothing_more)
    click.echo("the database is up to date")


@click.command()
@config_option
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
    body = _ask(load(file).http, "/api/v1/status", bearer)
    if as_json:
        click.echo(body)
        return
    said = json.loads(body)
    outbox = said["outbox"]
    since = f", the oldest since {outbox['oldestAt']}" if outbox["oldestAt"] else ""
    parts = ", ".join(f"{p} {'ok' if said[p]['ok'] else 'away'}" for p in ("database", "broker"))
    click.echo(f"fpd {said['version']}: {parts}, {outbox['pending']} messages to deliver{since}")
    for title, columns in _TABLES.items():
        paths = columns.split()
        print_table(title, paths, [[at(row, path) for path in paths] for row in said[title]])


# Where the columns stand in a row of the answer.
_TABLES = {
    "peers": "id role name link trouble lastHeardAt offlineModeAt",
    "groups": "id identifier envelope.minW envelope.maxW envelope.optimumW envelope.reason "
    "envelope.until measuredW measuredAt",
    "devices": "name type health wanted confirmed readingAt",
    "platforms": "name health since detail",
    "streams": "nodeId sourceId health since latestAt cadenceS",
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
