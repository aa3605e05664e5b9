"""Tokens: made once, compared by hash, revoked at once."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from psycopg import AsyncConnection

from fpd.store import accounts
from fpd.store.accounts import Bearer, NewToken
from fpd.store.vault import Vault

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
VAULT = Vault(Fernet.generate_key())


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(database_url, autocommit=True) as conn:
        yield conn


async def make(conn: AsyncConnection, user_id: int = 1, name: str | None = None) -> NewToken:
    return await accounts.create_token(conn, user_id=user_id, name=name, vault=VAULT, now=NOON)


async def find(conn: AsyncConnection, bearer: str, now: datetime = NOON) -> Bearer | None:
    return await accounts.find_by_bearer(conn, bearer_sha256=accounts.sha256(bearer), now=now)


async def test_a_token_identifies_its_user_until_it_is_revoked(conn: AsyncConnection) -> None:
    made = await make(conn, user_id=7)
    assert await find(conn, made.bearer) == Bearer(7, made.id)
    assert await find(conn, made.bearer + "x") is None
    assert await find(conn, made.secret) is None
    assert await accounts.revoke_token(conn, id=made.id, now=NOON)
    assert await find(conn, made.bearer) is None
    assert not await accounts.revoke_token(conn, id=made.id, now=NOON), "it is revoked already"
    assert not await accounts.revoke_token(conn, id="nonsense", now=NOON)


async def test_tokens_are_long_and_never_the_same(conn: AsyncConnection) -> None:
    made = [await make(conn) for _ in range(20)]
    for token in made:
        assert len(token.id) == 20 and token.id.isascii() and token.id.isalnum()
        assert len(token.secret) >= 43, "32 bytes in base64"
        assert token.secret in token.bearer and " " not in token.bearer
    assert len({token.id for token in made}) == len({token.secret for token in made}) == 20


async def test_the_database_alone_lets_nobody_in(conn: AsyncConnection) -> None:
    made = await make(conn)
    cursor = await conn.execute("select * from access_token")
    row = await cursor.fetchone()
    assert row is not None
    stored = b"|".join(v if isinstance(v, bytes) else str(v).encode() for v in row)
    assert made.secret.encode() not in stored
    assert hashlib.sha256(made.bearer.encode()).digest() in row
    cursor = await conn.execute("select secret_sealed from access_token")
    (sealed,) = await cursor.fetchone() or (b"",)
    assert VAULT.unseal(sealed) == made.secret.encode(), "request signing needs it"


async def test_the_account_is_made_with_the_first_token(conn: AsyncConnection) -> None:
    for user_id in (2, 1, 2):
        await make(conn, user_id)
    cursor = await conn.execute("select user_id, created_at from account order by user_id")
    assert await cursor.fetchall() == [(1, NOON), (2, NOON)]


async def test_the_list_shows_every_token_and_no_secret(conn: AsyncConnection) -> None:
    first, second = await make(conn, 1, "grafana"), await make(conn, 2, "")
    await accounts.revoke_token(conn, id=second.id, now=NOON)
    rows = await accounts.list_tokens(conn)
    assert [(row.id, row.user_id, row.name, row.revoked_at) for row in rows] == [
        (first.id, 1, "grafana", None),
        (second.id, 2, None, NOON),
    ]
    assert not any(secret in repr(rows) for secret in (first.secret, second.secret))


async def test_the_last_use_is_noted_at_most_once_a_minute(conn: AsyncConnection) -> None:
    made = await make(conn)
    noted = []
    for seconds in (0, 30, 59, 60, 90, 120):
        await find(conn, made.bearer, NOON + timedelta(seconds=seconds))
        (row,) = await accounts.list_tokens(conn)
        assert row.last_used_at is not None
        noted.append((row.last_used_at - NOON).total_seconds())
    assert noted == [0, 0, 0, 60, 60, 120]


async def test_any_header_can_be_asked_for(conn: AsyncConnection) -> None:
    """A header's bytes need not be UTF-8; aiohttp hands such ones on as surrogates."""
    assert await find(conn, "\udcff\udcfe") is None
