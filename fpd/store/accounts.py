"""Users and the tokens with which they manage what is theirs.

A bearer token is compared by its SHA-256 only. The secret is kept too, sealed, because request
signing needs the secret itself.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.sql import SQL

from fpd.store.vault import Vault

_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 20
_SECRET_BYTES = 32
NOTED_EVERY = timedelta(minutes=1)
"""That a token was used is noted no more often, so that most requests only read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token just made; `secret` and `bearer` are known now and never again."""

    user_id: int
    id: str
    secret: str
    bearer: str
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A token as it may be shown. `admin`: may manage tokens; `revoked_at` None: it is valid."""

    id: str
    user_id: int
    name: str | None
    admin: bool
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a valid token belongs to, its id, and whether it may manage tokens."""

    user_id: int
    token_id: str
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A valid token as those need it who judge what was signed with its secret."""

    user_id: int
    token_id: str
    admin: bool
    secret_sealed: bytes
    last_used_at: datetime | None


def is_id(text: str) -> bool:
    """Tell whether a token could have this id."""
    return len(text) == _ID_LENGTH and text.isascii() and text.isalnum()


def sha256(bearer: str) -> bytes:
    """Return what is stored of a bearer token. Any text will do, also one that no token can be."""
    return hashlib.sha256(bearer.encode("utf-8", "surrogateescape")).digest()


async def create_token(
    conn: AsyncConnection,
    *,
    user_id: int,
    name: str | None,
    admin: bool = False,
    vault: Vault,
    now: datetime,
) -> NewToken:
    """Make a token, and the user's account if it is new."""
    id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    made = NewToken(user_id=user_id, id=id, secret=secret, bearer=f"{id}.{secret}", admin=admin)
    await conn.execute(
        """
        with user_account as (
            insert into account (user_id, created_at) values (%(user_id)s, %(now)s)
            on conflict do nothing
        )
        insert into access_token
               (id, user_id, name, admin, bearer_sha256, secret_sealed, created_at)
        values (%(id)s, %(user_id)s, %(name)s, %(admin)s, %(sha256)s, %(sealed)s, %(now)s)
        """,
        {
            "id": id,
            "user_id": user_id,
            "name": name or None,
            "admin": admin,
            "sha256": sha256(made.bearer),
            "sealed": vault.seal(secret),
            "now": now,
        },
    )
    return made


async def ensure(conn: AsyncConnection, *, user_id: int, now: datetime) -> None:
    """Make the user's account if it is new."""
    await conn.execute(
        "insert into account (user_id, created_at) values (%s, %s) on conflict do nothing",
        (user_id, now),
    )


_SHOWN: LiteralString = "id, user_id, name, admin, created_at, last_used_at, revoked_at"


async def list_tokens(
    conn: AsyncConnection,
    *,
    user_id: int | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> tuple[TokenRow, ...]:
    """Return tokens, revoked ones too, by user, oldest first; `user_id` None: everybody's."""
    cursor = conn.cursor(row_factory=class_row(TokenRow))
    await cursor.execute(
        SQL(
            """
            select {shown}
              from access_token
             where %(user_id)s::bigint is null or user_id = %(user_id)s
             order by user_id, created_at, id
             limit %(limit)s offset %(offset)s
            """
        ).format(shown=SQL(_SHOWN)),
        {"user_id": user_id, "limit": limit, "offset": offset},
    )
    return tuple(await cursor.fetchall())


async def find_token(conn: AsyncConnection, *, id: str) -> TokenRow | None:
    """Return a token as it may be shown, also a revoked one."""
    cursor = conn.cursor(row_factory=class_row(TokenRow))
    await cursor.execute(
        SQL("select {shown} from access_token where id = %s").format(shown=SQL(_SHOWN)), (id,)
    )
    return await cursor.fetchone()


async def revoke_token(conn: AsyncConnection, *, id: str, now: datetime) -> bool:
    """Make a token worthless from now on; False when there is none that is still valid."""
    cursor = await conn.execute(
        "update access_token set revoked_at = %s where id = %s and revoked_at is null", (now, id)
    )
    return cursor.rowcount == 1


async def find_by_bearer(
    conn: AsyncConnection, *, bearer_sha256: bytes, now: datetime
) -> Bearer | None:
    """Return whose token this is, or None when it is unknown or revoked. Notes that it was used."""
    cursor = conn.cursor(row_factory=class_row(Bearer))
    await cursor.execute(
        """
        with found as (
            select id, user_id, admin, last_used_at
              from access_token
             where bearer_sha256 = %(sha256)s and revoked_at is null
        ), noted as (
            update access_token as t
               set last_used_at = %(now)s
              from found
             where t.id = found.id
               and (t.last_used_at is null or t.last_used_at <= %(noted)s)
        )
        select user_id, id as token_id, admin from found
        """,
        {"sha256": bearer_sha256, "now": now, "noted": now - NOTED_EVERY},
    )
    return await cursor.fetchone()


async def find_signer(conn: AsyncConnection, *, id: str) -> Signer | None:
    """Return a token by its id, which proves nothing; None when it is unknown or revoked."""
    cursor = conn.cursor(row_factory=class_row(Signer))
    await cursor.execute(
        """
        select user_id, id as token_id, admin, secret_sealed, last_used_at
          from access_token
         where id = %s and revoked_at is null
        """,
        (id,),
    )
    return await cursor.fetchone()


async def note_use(conn: AsyncConnection, *, id: str, now: datetime) -> None:
    """Note that a token was used."""
    await conn.execute("update access_token set last_used_at = %s where id = %s", (now, id))
