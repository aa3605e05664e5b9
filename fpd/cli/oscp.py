"""What an operator has us do with a peer: register, shake hands, leave, hand out a new token."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from fpd.cli import outlook
from fpd.cli.entities import (
    ASSETS,
    GROUPS,
    OPTIMIZERS,
    PROVIDERS,
    Kind,
    add_commands,
    entity_of,
    print_entities,
    shown,
)
from fpd.cli.frame import config_option, in_context, in_database, load
from fpd.cli.groups import groups
from fpd.cli.settings import settings
from fpd.errors import Malformed, Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from fpd.config import Config
    from fpd.flows.context import Context
    from fpd.store.db import Database
    from fpd.store.entities import Connection

T = TypeVar("T")

_COLUMNS = "id name link since reason lastHeard offlineModeAt waiting dead"
_ID = click.IntRange(1, 2**63 - 1)
_LONGEST_TOKEN = 4096


@click.group()
def oscp() -> None:
    """Providers, optimizers, groups, assets and settings, as the management API has them.

    \b
    Examples:
      fpd oscp providers list
      fpd oscp providers create --name 'Lines Co.' --enabled
      fpd oscp groups update 1 --set control.staticImportLimit=11000
      fpd oscp assets list --group 1 --json
      fpd oscp providers register 1 --token-file first-token
      fpd oscp optimizers handshake 2
      fpd oscp groups explain 1
    """


def _peers(kind: Kind, role: str) -> click.Group:
    """Return the commands for the peers of one role."""
    name, noun = kind.name, kind.noun
    group = click.Group(
        name,
        help=f"The {noun}s, and the links with them. What comes of a command is in "
        f"`fpd oscp {name} list`.\n\n"
        f"\b\nExamples:\n  fpd oscp {name} list\n"
        f"  fpd oscp {name} create --name 'A name' --enabled\n"
        f"  fpd oscp {name} show 1\n"
        f"  fpd oscp {name} register 1 --token-file - < first-token",
    )
    group.add_command(_list(kind, role))
    add_commands(group, kind, listed=False)
    group.add_command(_register(name, noun, role))
    group.add_command(_token(name, noun, role))
    group.add_command(_handshake(name, noun, role))
    group.add_command(_unregister(name, noun, role))
    return group


def _list(kind: Kind, role: str) -> click.Command:
    name = kind.name

    @click.command(
        "list",
        help=f"Show every {kind.noun}: how its link is, why, and what waits for it.\n\n"
        f"\b\nExamples:\n  fpd oscp {name} list\n"
        f"  fpd oscp {name} list --user-id 1 --max 100 --offset 200\n"
        f"  fpd oscp {name} list --json | jq '.[] | select(.link == \"broken\")'",
    )
    @config_option
    @click.option("--user-id", type=_ID, help="Of this user; else of all.")
    @click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many first.")
    @click.option("--max", "limit", type=click.IntRange(1), help="Show at most so many.")
    @click.option("--json", "as_json", is_flag=True, help="Print a JSON list, with every field.")
    def command(
        file: Path | None, user_id: int | None, offset: int, limit: int | None, as_json: bool
    ) -> None:
        from fpd.store import overview
        from fpd.web.history import document

        async def read(db: Database) -> list[dict[str, Any]]:
            async with db.connection() as conn:
                every = await overview.peers(conn, user_id=user_id)
                peers = [peer for peer in every if peer.role == role][offset:][:limit]
                fields = await _fields(conn, kind, {peer.user_id for peer in peers})
            return [document(peer) | fields.get(peer.id, {}) for peer in peers]

        print_entities(in_database(load(file), read), _COLUMNS, as_json=as_json)

    return command


async def _fields(
    conn: Connection, kind: Kind, user_ids: Iterable[int | None]
) -> dict[int, dict[str, Any]]:
    """Return the peers of these users as the management API shows them, by their ids."""
    from fpd.store import entities

    entity, found = entity_of(kind), {}
    for user_id in filter(None, user_ids):
        async with aclosing(entities.page(conn, entity.table, user_id=user_id)) as rows:
            async for row in rows:
                found[row["id"]] = shown(entity, row)
    return found


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


def _assets() -> click.Group:
    group = click.Group(
        "assets",
        help="The assets of capacity groups: what is measured, and which devices obey.\n\n"
        "\b\nExamples:\n  fpd oscp assets list --group 1\n  fpd oscp assets show 1\n"
        "  fpd oscp assets update 1 --set control.device=battery-1",
    )
    add_commands(group, ASSETS)
    return group


add_commands(groups, GROUPS)
groups.add_command(outlook.groups_plan)
groups.add_command(outlook.groups_troubles)
oscp.add_command(_peers(PROVIDERS, "CapacityProvider"))
oscp.add_command(_peers(OPTIMIZERS, "CapacityOptimizer"))
oscp.add_command(groups)
oscp.add_command(_assets())
oscp.add_command(settings)
