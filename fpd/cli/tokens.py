"""The tokens with which the management API is used: as bearer, or to sign requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fpd.cli.frame import config_option, in_database, load, print_table

if TYPE_CHECKING:
    from fpd.store import accounts
    from fpd.store.db import Database


@click.group()
def token() -> None:
    """The tokens with which the management API is used: as bearer, or to sign requests.

    \b
    Examples:
      fpd token create --user-id 1 --name grafana
      fpd token list
      fpd token revoke aB3dE5gH7jK9mN1pQ3sT
    """


@token.command("create")
@config_option
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

    config = load(file)

    async def create(db: Database) -> accounts.NewToken:
        vault = Vault.open(config.key_file or config.data_dir / "fpd.key")
        async with db.transaction() as conn:
            return await accounts.create_token(
                conn, user_id=user_id, name=name, vault=vault, now=clock()
            )

    made = in_database(config, create)
    said = {"userId": made.user_id, "id": made.id, "secret": made.secret, "bearer": made.bearer}
    if as_json:
        click.echo(json.dumps(said))
        return
    for key, value in said.items():
        click.echo(f"{key:7} {value}")
    click.echo("Keep it now: it is not shown again.")


@token.command("list")
@config_option
def token_list(file: Path | None) -> None:
    """Show every token, without its secret."""
    from fpd.store import accounts

    async def read(db: Database) -> tuple[accounts.TokenRow, ...]:
        async with db.transaction() as conn:
            return await accounts.list_tokens(conn)

    rows = [
        [row.id, row.user_id, row.name, row.created_at, row.last_used_at, row.revoked_at]
        for row in in_database(load(file), read)
    ]
    print_table("", ["id", "user", "name", "created", "last used", "revoked"], rows)


@token.command("revoke")
@config_option
@click.argument("token_id", metavar="ID")
def token_revoke(file: Path | None, token_id: str) -> None:
    """Make a token worthless, at once."""
    from fpd.app import clock
    from fpd.store import accounts

    async def revoke(db: Database) -> bool:
        async with db.transaction() as conn:
            return await accounts.revoke_token(conn, id=token_id, now=clock())

    if not in_database(load(file), revoke):
        raise click.ClickException(f"there is no token {token_id} that could be revoked")
    click.echo(f"{token_id} is revoked")
