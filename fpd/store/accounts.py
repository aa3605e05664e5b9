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

from psycopg import AsyncConnection
from psycopg.rows import class_row

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A token as it may be shown. `revoked_at` None: it is valid."""

    id: str
    user_id: int
    name: str | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a valid token belongs to, and its id."""

    user_id: int
    token_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A valid token as those need it who judge what was signed with its secret."""

    user_id: int
    token_id: str
    secret_sealed: bytes
    last_used_at: datetime | None


def sha256(bearer: str) -> bytes:
    """Return what is stored of a bearer token. Any text will do, also one that no token can be."""
    return hashlib.sha256(bearer.encode("utf-8", "surrogateescape")).digest()


async def create_token(
    conn: AsyncConnection, *, user_id: int, name: str | None, vault: Vault, now: datetime
) -> NewToken:
    """Make a token, and the user's account if it is new."""
    id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    made = NewToken(user_id=user_id, id=id, secret=secret, bearer=f"{id}.{secret}")
    await conn.execute(
        """
        with user_account as (
            insert into account (user_id, created_at) values (%(user_id)s, %(now)s)
            on conflict do nothing
        )
        insert into access_token (id, user_id, name, bearer_sha256, secret_sealed, created_at)
        values (%(id)s, %(user_id)s, %(name)s, %(sha256)s, %(sealed)s, %(now)s)
        """,
        {
            "id": id,
            "user_id": user_id,
            "name": name or None,
            "sha256": sha256(made.bearer),
            "sealed": vault.seal(secret),
            "now": now,
        },
    )
    return made


async def list_tokens(conn: AsyncConnection) -> tuple[TokenRow, ...]:
    """Return every user's tokens, revoked ones too, oldest first."""
    cursor = conn.cursor(row_factory=class_row(TokenRow))
    await cursor.execute(
        """
        select id, user_id, name, created_at, last_used_at, revoked_at
          from access_token
         order by user_id, created_at, id
        """
    )
    return tuple(await cursor.fetchall())


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
            select id, user_id, last_used_at
              from access_token
             where bearer_sha256 = %(sha256)s and revoked_at is null
        ), noted as (
            update access_token as t
               set last_used_at = %(now)s
              from found
             where t.id = found.id
               and (t.last_used_at is null or t.last_used_at <= %(noted)s)
        )
        select user_id, id as token_id from found
        """,
        {"sha256": bearer_sha256, "now": now, "noted": now - NOTED_EVERY},
    )
    return await cursor.fetchone()


async def find_signer(conn: AsyncConnection, *, id: str) -> Signer | None:
    """Return a token by its id, which proves nothing; None when it is unknown or revoked."""
    cursor = conn.cursor(row_factory=class_row(Signer))
    await cursor.execute(
        """
        select user_id, id as token_id, secret_sealed, last_used_at
          from access_token
         where id = %s and revoked_at is null
        """,
        (id,),
    )
    return await cursor.fetchone()


async def note_use(conn: AsyncConnection, *, id: str, now: datetime) -> None:
    """Note that a token was used."""
    await conn.execute("update access_token set last_used_at = %s where id = %s", (now, id))
