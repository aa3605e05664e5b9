"""The tokens with which the management API is used: as bearer, or to sign requests."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fpd.cli.frame import config_option, in_context, in_database, load, print_table

if TYPE_CHECKING:
    from fpd.flows.context import Context
    from fpd.store import accounts
    from fpd.store.db import Database


@click.group()
def token() -> None:
    """The tokens with which the management API is used: as bearer, or to sign requests.

    \b
    Examples:
      fpd token create --user-id 1 --name grafana
      fpd token create --user-id 1 --name office --admin
      fpd token list --user-id 1
      fpd token revoke aB3dE5gH7jK9mN1pQ3sT
    """


@token.command("create")
@config_option
@click.option("--user-id", type=click.IntRange(1, 2**63 - 1), required=True, help="Whose it is.")
@click.option("--name", default="", help="What it is for.")
@click.option("--admin", is_flag=True, help="It may manage everybody's tokens by HTTP.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def token_create(file: Path | None, user_id: int, name: str, admin: bool, as_json: bool) -> None:
    """Make a token; the user too, if new. Its secret is shown once.

    \b
    Example:
      fpd token create --user-id 1 --name grafana --json
    """
    from fpd.flows import tokens

    def create(context: Context) -> Awaitable[accounts.NewToken]:
        return tokens.create(context, user_id=user_id, name=name, admin=admin, by=None)

    made = in_context(load(file), create)
    said: dict[str, Any] = {
        "userId": made.user_id,
        "id": made.id,
        "secret": made.secret,
        "bearer": made.bearer,
    }
    if made.admin:
        said["admin"] = True
    if as_json:
        click.echo(json.dumps(said))
        return
    for key, value in said.items():
        click.echo(f"{key:7} {value}")
    click.echo("Keep it now: it is not shown again.")


@token.command("list")
@config_option
@click.option("--user-id", type=click.IntRange(1, 2**63 - 1), help="Only those of this user.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def token_list(file: Path | None, user_id: int | None, as_json: bool) -> None:
    """Show every token, without its secret."""
    from fpd.store import accounts
    from fpd.web.tokens import document

    async def read(db: Database) -> tuple[accounts.TokenRow, ...]:
        async with db.transaction() as conn:
            return await accounts.list_tokens(conn, user_id=user_id)

    found = in_database(load(file), read)
    if as_json:
        click.echo(json.dumps([document(row) for row in found]))
        return
    columns = ["id", "user", "name", "admin", "created", "last used", "revoked"]
    rows = [
        [row.id, row.user_id, row.name, "yes" if row.admin else None,
         row.created_at, row.last_used_at, row.revoked_at]
        for row in found
    ]  # fmt: skip
    print_table("", columns, rows)


@token.command("revoke")
@config_option
@click.argument("token_id", metavar="ID")
def token_revoke(file: Path | None, token_id: str) -> None:
    """Make a token worthless, at once."""
    from fpd.flows import tokens

    async def revoke(context: Context) -> bool:
        return (await tokens.revoke(context, id=token_id, by=None))[1]

    if not in_context(load(file), revoke):
        raise click.ClickException(f"there is no token {token_id} that could be revoked")
    click.echo(f"{token_id} is revoked")
