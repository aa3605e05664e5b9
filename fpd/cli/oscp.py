"""What an operator has us do with a peer: register, shake hands, leave, hand out a new token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

import click

from fpd.cli.frame import config_option, in_context, in_database, load, print_table
from fpd.cli.groups import groups
from fpd.errors import Malformed, Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fpd.config import Config
    from fpd.flows.context import Context
    from fpd.store import overview
    from fpd.store.db import Database

T = TypeVar("T")

_COLUMNS = "id name link since reason lastHeard offlineModeAt waiting dead"
_ID = click.IntRange(1, 2**63 - 1)
_LONGEST_TOKEN = 4096


@click.group()
def oscp() -> None:
    """The links with capacity providers and capacity optimizers; what groups may do.

    \b
    Examples:
      fpd oscp providers list
      fpd oscp providers register 1 --token-file first-token
      fpd oscp optimizers handshake 2
      fpd oscp groups explain 1
    """


def _peers(name: str, noun: str, role: str) -> click.Group:
    """Return the commands for the peers of one role."""
    group = click.Group(
        name,
        help=f"The links with {noun}s. What comes of a command is in `fpd oscp {name} list`.\n\n"
        f"\b\nExamples:\n  fpd oscp {name} list\n"
        f"  fpd oscp {name} register 1 --token-file - < first-token",
    )
    group.add_command(_list(name, noun, role))
    group.add_command(_register(name, noun, role))
    group.add_command(_token(name, noun, role))
    group.add_command(_handshake(name, noun, role))
    group.add_command(_unregister(name, noun, role))
    return group


def _list(name: str, noun: str, role: str) -> click.Command:
    @click.command(
        "list",
        help=f"Show every {noun}: how its link is, why, and what waits for it.\n\n"
        f"\b\nExamples:\n  fpd oscp {name} list\n"
        f"  fpd oscp {name} list --json | jq '.[] | select(.link == \"broken\")'",
    )
    @config_option
    @click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
    def command(file: Path | None, as_json: bool) -> None:
        from fpd.store import overview
        from fpd.web.history import document

        async def read(db: Database) -> tuple[overview.Peer, ...]:
            async with db.connection() as conn:
                return await overview.peers(conn, user_id=None)

        rows = [document(peer) for peer in in_database(load(file), read) if peer.role == role]
        if as_json:
            click.echo(json.dumps(rows))
            return
        columns = _COLUMNS.split()
        print_table("", columns, [[row[column] for column in columns] for row in rows])

    return command


def _register(name: str, noun: str, role: str) -> click.Command:
    @click.command(
        "register",
        help=f"Register with a {noun} that gave us a first token.\n\n"
        "The token is read from a file (- is standard input), so that it is seen in no list of "
        "processes.\n\n"
        f"\b\nExamples:\n  fpd oscp {name} register 1 --token-file first-token\n"
        f"  fpd oscp {name} register 1 --token-file - --base-url https://peer.example/oscp/2.0",
    )
    @config_option
    @click.argument("peer_id", metavar="ID", type=_ID)
    @click.option("--token-file", type=click.File(), required=True, help="The first token.")
    @click.option("--base-url", help="Where it is, unless that is known.")
    def command(file: Path | None, peer_id: int, token_file: TextIO, base_url: str | None) -> None:
        from fpd.flows import initiative

        token = _read(token_file)

        async def act(context: Context) -> None:
            await initiative.register(
                context, user_id=None, role=role, peer_id=peer_id, token=token, base_url=base_url
            )

        _act(load(file), noun, peer_id, act)
        click.echo(f"a Register is owed to {noun} {peer_id}")

    return command


def _token(name: str, noun: str, role: str) -> click.Command:
    @click.command(
        "token",
        help=f"Make a new first token for a {noun}, to register with us. It is shown once.\n\n"
        f"\b\nExample:\n  fpd oscp {name} token 1",
    )
    @config_option
    @click.argument("peer_id", metavar="ID", type=_ID)
    def command(file: Path | None, peer_id: int) -> None:
        from fpd.flows import initiative

        async def act(context: Context) -> str:
            return await initiative.reset_token(context, user_id=None, role=role, peer_id=peer_id)

        click.echo(_act(load(file), noun, peer_id, act))

    return command


def _handshake(name: str, noun: str, role: str) -> click.Command:
    @click.command(
        "handshake",
        help=f"Shake hands with a {noun} now.\n\n\b\nExample:\n  fpd oscp {name} handshake 1",
    )
    @config_option
    @click.argument("peer_id", metavar="ID", type=_ID)
    def command(file: Path | None, peer_id: int) -> None:
        from fpd.flows import initiative

        async def act(context: Context) -> None:
            await initiative.shake_hands(context, user_id=None, role=role, peer_id=peer_id)

        _act(load(file), noun, peer_id, act)
        click.echo(f"a Handshake is owed to {noun} {peer_id}")

    return command


def _unregister(name: str, noun: str, role: str) -> click.Command:
    @click.command(
        "unregister",
        help=f"End the registration with a {noun}, and tell it.\n\n"
        f"\b\nExample:\n  fpd oscp {name} unregister 1",
    )
    @config_option
    @click.argument("peer_id", metavar="ID", type=_ID)
    def command(file: Path | None, peer_id: int) -> None:
        from fpd.flows import initiative

        async def act(context: Context) -> None:
            await initiative.unregister(context, user_id=None, role=role, peer_id=peer_id)

        _act(load(file), noun, peer_id, act)
        click.echo(f"the registration with {noun} {peer_id} has ended")

    return command


def _act(config: Config, noun: str, peer_id: int, action: Callable[[Context], Awaitable[T]]) -> T:
    try:
        return in_context(config, action)
    except Unknown:
        raise Unknown(f"there is no {noun} {peer_id}") from None


def _read(token_file: TextIO) -> str:
    """Return the token in a file. Raises Malformed when there is none or more than a token."""
    try:
        token = token_file.read(_LONGEST_TOKEN + 2).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"--token-file: {error}") from None
    if not token or len(token) > _LONGEST_TOKEN or len(token.split()) != 1:
        raise Malformed(f"--token-file: expected one token of up to {_LONGEST_TOKEN} characters")
    return token


oscp.add_command(groups)
oscp.add_command(_peers("providers", "capacity provider", "CapacityProvider"))
oscp.add_command(_peers("optimizers", "capacity optimizer", "CapacityOptimizer"))
