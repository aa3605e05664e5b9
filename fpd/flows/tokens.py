"""Tokens are made and revoked, by an administrator's or at a terminal: an event tells of it.

It is an event of the administrator's user, and of nobody's when it happened at a terminal.
"""

from __future__ import annotations

from datetime import datetime

import structlog
from psycopg import AsyncConnection

from fpd.flows.context import Context
from fpd.store import accounts, events
from fpd.store.accounts import Bearer, NewToken, TokenRow
from fpd.store.db import retried

log = structlog.get_logger()


@retried
async def create(
    context: Context, *, user_id: int, name: str, admin: bool, by: Bearer | None
) -> NewToken:
    """Make a token, and the user's account if it is new; `by` None: at a terminal."""
    now = context.clock()
    async with context.db.transaction() as conn:
        made = await accounts.create_token(
            conn, user_id=user_id, name=name, admin=admin, vault=context.vault, now=now
        )
        await _tell(conn, "token.created", at=now, user_id=user_id, id=made.id, by=by)
    return made


@retried
async def revoke(context: Context, *, id: str, by: Bearer | None) -> tuple[TokenRow | None, bool]:
    """Make a token worthless from now on.

    Return it as it is now, None when it is unknown, and whether it was still valid. No daemon on
    the database takes it any more: where it is remembered, it is judged with what is done with it.
    """
    now = context.clock()
    async with context.db.transaction() as conn:
        revoked = await accounts.revoke_token(conn, id=id, now=now)
        row = await accounts.find_token(conn, id=id)
        if row is not None and revoked:
            await _tell(conn, "token.revoked", at=now, user_id=row.user_id, id=id, by=by)
    return row, revoked


async def _tell(
    conn: AsyncConnection, kind: str, *, at: datetime, user_id: int, id: str, by: Bearer | None
) -> None:
    data = {"token": id, "user": user_id, "by": by.token_id if by else "terminal"}
    await events.record(conn, kind=kind, at=at, user_id=by.user_id if by else None, data=data)
    log.info(kind, id=id, user=user_id, by=data["by"])
