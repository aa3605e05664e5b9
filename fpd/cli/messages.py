"""Messages owed to peers: look through them, replay dead letters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fpd.cli.frame import config_option, in_context, in_database, load, print_table
from fpd.errors import Malformed, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from fpd.flows.replay import Replayed
    from fpd.store.db import Database
    from fpd.store.messages import Message, Wanted

_STATES = ("owed", "delivered", "refused", "expired", "superseded", "dead")
_ID = click.IntRange(1, 2**63 - 1)
_COLUMNS = "id peerId operation groupId state attempts status created due error"


@click.group()
def messages() -> None:
    """What fpd owes to peers, or did; dead letters can go again.

    A dead letter is a message that its peer refused, or that expired before it was taken.

    \b
    Examples:
      fpd messages list --state dead
      fpd messages show 4711
      fpd messages replay 4711
      fpd messages replay --all-dead --peer 2
    """


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--until", metavar="INSTANT", help="Owed before then."),
        click.option("--since", metavar="INSTANT", help="Owed then or later."),
        click.option("--operation", help="Its name in the protocol."),
        click.option("--group", type=_ID, help="About the group with this id."),
        click.option("--peer", type=_ID, help="To the peer with this id."),
    ):
        command = option(command)
    return command


@messages.command("list")
@config_option
@_filters
@click.option("--state", type=click.Choice(_STATES), help="dead: refused or expired.")
@click.option("--before", type=_ID, metavar="ID", help="Older than this message.")
@click.option("--max", "limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def messages_list(
    file: Path | None,
    state: str | None,
    before: int | None,
    limit: int,
    as_json: bool,
    **filters: Any,
) -> None:
    """Show messages, newest first.

    \b
    Examples:
      fpd messages list --state owed
      fpd messages list --peer 2 --since 2026-01-31T12:00Z --json
    """
    from fpd.store import messages as store
    from fpd.web.messages import document, states

    wanted = replace(_wanted(**filters), states=states(state), before=before)

    async def read(db: Database) -> list[Message]:
        async with db.connection() as conn:
            return await store.listed(conn, wanted, limit=limit)

    found = [document(row) for row in in_database(load(file), read)]
    if as_json:
        click.echo(json.dumps(found))
        return
    columns = _COLUMNS.split()
    print_table("", columns, [[row[name] for name in columns] for row in found])


@messages.command("show")
@config_option
@click.argument("message_id", metavar="ID", type=_ID)
def messages_show(file: Path | None, message_id: int) -> None:
    """Show one message with its body, as JSON. A body that holds a token is not shown.

    \b
    Example:
      fpd messages show 4711
    """
    import msgspec

    from fpd.store import messages as store
    from fpd.web.messages import document, said

    async def read(db: Database) -> dict[str, Any]:
        async with db.connection() as conn:
            rows = await store.listed(conn, store.Wanted(id=message_id), limit=1)
            if not rows:
                raise Unknown(f"there is no message {message_id}")
            return document(rows[0]) | said(await store.body(conn, id=message_id))

    found = in_database(load(file), read)
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


@messages.command("replay")
@config_option
@click.argument("message_id", metavar="[ID]", type=_ID, required=False)
@click.option("--all-dead", is_flag=True, help="Every dead letter, of those that the filters mean.")
@_filters
def messages_replay(
    file: Path | None, message_id: int | None, all_dead: bool, **filters: Any
) -> None:
    """Owe a dead letter again: the same bytes under the same id. The daemon delivers it.

    \b
    Examples:
      fpd messages replay 4711
      fpd messages replay --all-dead --peer 2
    """
    from fpd.flows import replay
    from fpd.flows.context import Context
    from fpd.store.messages import DEAD

    if (message_id is None) is not all_dead:
        raise click.UsageError("give either the ID of a message or --all-dead")
    if message_id is not None and any(filters.values()):
        raise click.UsageError("filters go with --all-dead")
    wanted = replace(_wanted(**filters), states=DEAD)

    async def one(context: Context) -> Replayed:
        await replay.one(context, user_id=None, id=message_id or 0)
        return replay.Replayed(1, {})

    async def every(context: Context) -> Replayed:
        return await replay.many(context, wanted)

    came = in_context(load(file), every if all_dead else one)
    click.echo(f"{came.replayed} owed again")
    for reason, count in came.refused.items():
        click.echo(f"{count} not: {reason}")


def _wanted(
    *,
    peer: int | None,
    group: int | None,
    operation: str | None,
    since: str | None,
    until: str | None,
) -> Wanted:
    from fpd.store.messages import Wanted
    from fpd.web.query import instant

    if operation is not None and "\0" in operation:
        raise Malformed("--operation: expected a name")
    return Wanted(
        peer_id=peer,
        group_id=group,
        operation=operation,
        since=None if since is None else instant(since, "--since"),
        until=None if until is None else instant(until, "--until"),
    )
