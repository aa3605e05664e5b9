"""New managed rows: each is one statement, with all that decides about it and comes along with it.

So it takes one trip and one commit, and nothing can come between what was judged and what is kept.
Several may share both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, LiteralString

from psycopg import AsyncConnection, DatabaseError
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier, Placeholder

from fpd.errors import FpdError, Unauthenticated, Unknown
from fpd.store.entities import Row, Table, first, parameters

_VALID: LiteralString = (
    "exists (select from access_token where id = %(token_id)s and revoked_at is null)"
)


class Missing(Unknown):
    """The user has nothing that these columns refer to."""

    def __init__(self, columns: Collection[str]) -> None:
        super().__init__("what it refers to is not there")
        self.columns = columns


class Spoilt(FpdError):
    """Because of one of several rows the database has taken none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """A row to add. `along` are the parameters of what its table carries out along with it.

    `references` says of which table the row is that a column names; with `token_id` it is added
    only while this token is valid.
    """

    table: Table
    user_id: int
    values: Mapping[str, Any]
    now: datetime
    along: Mapping[str, Any]
    references: Mapping[str, Table]
    token_id: str | None = None

    def columns(self) -> dict[str, Any]:
        own = {**self.table.fixed(self.user_id), **self.values}
        return {**own, "created_at": self.now, "modified_at": self.now}

    def named(self) -> tuple[tuple[str, Table], ...]:
        """Return the references that name something."""
        return tuple(one for one in self.references.items() if self.values[one[0]] is not None)

    def statement(self, *, forgiving: bool) -> tuple[bytes, Mapping[str, Any]]:
        """Return what adds it; `forgiving`: with no fault when another row is in the way."""
        columns = self.columns()
        statement = _insert(
            self.table, tuple(columns), self.named(), self.token_id is not None, forgiving
        )
        return statement, {**parameters(columns), **self.along, "token_id": self.token_id}


async def insert(conn: AsyncConnection, new: New) -> Row:
    """Add a row and return it; `along`: whether anything came along.

    Raises Duplicate, Missing, Unauthenticated.
    """
    row = await first(conn, *new.statement(forgiving=False))
    assert row is not None
    if not row.pop("is_valid"):
        raise Unauthenticated("Authorization: the token is unknown or revoked")
    missing = [name for name, _ in new.named() if not row.pop(_has(name))]
    if missing:
        raise Missing(missing)
    return row


async def insert_many(conn: AsyncConnection, news: Sequence[New]) -> list[Row | None]:
    """Add rows inside one pipelined transaction; None for one that cannot be: ask it alone why.

    Who is in the way of one of them does not keep the others waiting for long. Raises Spoilt.
    """
    try:
        await conn.execute("set local lock_timeout = '500ms'")
        cursors = [conn.cursor(row_factory=dict_row) for _ in news]
        for cursor, new in zip(cursors, news, strict=True):
            await cursor.execute(*new.statement(forgiving=True))
        rows = [await cursor.fetchone() for cursor in cursors]
    except (DatabaseError, UnicodeError) as error:
        raise Spoilt(type(error).__name__) from error
    return [row if row is not None and row["id"] is not None else None for row in rows]


def _has(column: str) -> str:
    return f"has_{column}"


@lru_cache
def _insert(
    table: Table,
    columns: tuple[str, ...],
    references: tuple[tuple[str, Table], ...],
    judged: bool,
    forgiving: bool,
) -> bytes:
    """What is referred to stays until the transaction ends."""
    valid = SQL(_VALID if judged else "true")
    parts: list[SQL | Composed] = [SQL("token as (select {} as is_valid)").format(valid)]
    conditions: list[SQL | Composed] = [SQL("(select is_valid from token)")]
    told: list[SQL | Composed] = [SQL("token.is_valid")]
    for name, target in references:
        found, has = Identifier(name), Identifier(_has(name))
        parts.append(
            SQL("{} as (select from {} where {} for key share)").format(
                found, Identifier(target.name), target.named(name)
            )
        )
        conditions.append(SQL("exists (select from {})").format(found))
        told.append(SQL("exists (select from {}) as {}").format(found, has))
    parts.append(
        SQL("made as (insert into {} ({}) select {} where {} {} returning {})").format(
            Identifier(table.name),
            SQL(", ").join(map(Identifier, columns)),
            SQL(", ").join(map(Placeholder, columns)),
            SQL(" and ").join(conditions),
            SQL("on conflict do nothing" if forgiving else ""),
            table.read(),
        )
    )
    if table.along:
        parts.append(SQL("along as (" + table.along + ")"))
        told.append(SQL("exists (select from along) as along"))
    statement = SQL("with {} select {}, made.* from token left join made on true").format(
        SQL(", ").join(parts), SQL(", ").join(told)
    )
    return statement.as_bytes(None)
