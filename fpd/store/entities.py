"""The managed entities: rows of one user, written as the management API's field tables say.

A row is a mapping of columns to values. Names of tables and columns are texts of this program,
never of a request; every statement is narrowed to one user. Each text is put together once: that
takes as long as having the statement carried out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, LiteralString, cast

from psycopg import AsyncConnection
from psycopg.errors import ForeignKeyViolation, UniqueViolation
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composed, Identifier, Literal, Placeholder
from psycopg.types.json import Json
from psycopg.types.string import TextLoader

from fpd.errors import Conflict

Row = dict[str, Any]
Connection = AsyncConnection  # for those who hand one on without knowing the driver

_AT_ONCE = 100  # rows; what is done with them takes a few ms

# The column that was to be unique, by the name of the constraint that said so.
_UNIQUE = {
    "peer_base_url": "base_url",
    "peer_jwt_subject": "service_props",
    "capacity_group_user_id_identifier_key": "identifier",
    "asset_group_id_identifier_key": "identifier",
}


class Duplicate(Conflict):
    """Another row of the user has this value already; `column` says which."""

    def __init__(self, column: str) -> None:
        super().__init__("this value is taken")
        self.column = column


class InUse(Conflict):
    """A group needs the row, so it stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One kind of managed row.

    `role` is that of all of its rows, for peers; `only` is a condition that they meet; `more` is
    read beside the columns; `single` says when a new row replaces the one that is there; `along`
    is carried out with each new row, which it finds as `made`, and returns what it did.
    """

    name: LiteralString
    id: LiteralString = "id"
    role: str | None = None
    only: LiteralString = "true"
    more: LiteralString = ""
    single: LiteralString = ""
    along: LiteralString = ""

    def read(self) -> Composed:
        """Return what is selected or returned of a row."""
        return SQL("{}.*" + self.more).format(Identifier(self.name))

    def fixed(self, user_id: int) -> dict[str, Any]:
        """Return the columns whose values are the same in all rows of a user."""
        return (
            {"user_id": user_id} if self.role is None else {"user_id": user_id, "role": self.role}
        )

    def where(self, columns: Collection[str]) -> Composed:
        """Return the condition for the rows that have certain values of these columns."""
        conditions = [SQL("{} = %s").format(Identifier(column)) for column in columns]
        return SQL(" and ").join([*conditions, SQL(self.only)])

    def named(self, column: str) -> Composed:
        """Return the condition for the row that `column` of a row of the same user names."""
        of_role = SQL("true") if self.role is None else SQL("role = {}").format(Literal(self.role))
        return SQL("user_id = %(user_id)s and {} = {} and {}").format(
            Identifier(self.id), Placeholder(column), of_role
        )


_OF_THE_LINK = """,
    (select sent_at from heartbeat_due where peer_id = peer.id) as heartbeat_sent_at,
    json_build_object('heartbeat_interval_s', heartbeat_interval_s,
                      'measurement_configuration', measurement_configuration) as behaviour
"""

# The token with which a new peer is let in; it is given to it outside OSCP.
_FIRST_TOKEN = """
    insert into peer_token (sha256, peer_id, state, created_at)
    select %(first_token)s, id, 'current', created_at from made
    returning peer_id
"""
# A new asset changes what is done only where something is steered or measured.
_WANT_CONTROL = """
    update control_due as c set due_at = made.created_at
      from made
     where c.group_id = made.group_id and c.due_at > made.created_at
       and (made.control is not null
            or exists (select from compliance_due as w where w.group_id = c.group_id))
    returning c.group_id
"""

PROVIDERS = Table(name="peer", role="CapacityProvider", more=_OF_THE_LINK, along=_FIRST_TOKEN)
OPTIMIZERS = Table(name="peer", role="CapacityOptimizer", more=_OF_THE_LINK, along=_FIRST_TOKEN)
GROUPS = Table(name="capacity_group")
ASSETS = Table(name="asset", along=_WANT_CONTROL)
USER_SETTINGS = Table(
    name="publish_settings",
    id="user_id",
    only="group_id is null",
    single="(user_id) where group_id is null",
)
GROUP_SETTINGS = Table(
    name="publish_settings", id="group_id", only="group_id is not null", single="(group_id)"
)


async def find(
    conn: AsyncConnection, table: Table, *, user_id: int, id: int, lock: bool = False
) -> Row | None:
    """Return one row; with `lock` others cannot change it until the transaction ends."""
    wanted = {**table.fixed(user_id), table.id: id}
    return await first(conn, _find(table, tuple(wanted), lock), list(wanted.values()))


@lru_cache
def _find(table: Table, wanted: tuple[str, ...], lock: bool) -> bytes:
    statement = SQL("select {} from {} where {}").format(
        table.read(), Identifier(table.name), table.where(wanted)
    )
    return (statement + SQL(" for no key update" if lock else "")).as_bytes(None)


async def exists(conn: AsyncConnection, table: Table, *, user_id: int, id: int) -> bool:
    """Tell whether the row is there, and keep it there until the transaction ends."""
    wanted = {**table.fixed(user_id), table.id: id}
    return await first(conn, _exists(table, tuple(wanted)), list(wanted.values())) is not None


@lru_cache
def _exists(table: Table, wanted: tuple[str, ...]) -> bytes:
    return (
        SQL("select 1 from {} where {} for key share")
        .format(Identifier(table.name), table.where(wanted))
        .as_bytes(None)
    )


async def count(
    conn: AsyncConnection, table: Table, *, user_id: int, group_id: int | None = None
) -> int:
    """Return how many rows `page` has in all."""
    wanted = {**table.fixed(user_id), **_of(group_id)}
    statement = SQL("select count(*) as rows from {} where {}").format(
        Identifier(table.name), table.where(wanted)
    )
    row = await first(conn, statement, list(wanted.values()))
    return int(row["rows"]) if row else 0


async def page(
    conn: AsyncConnection,
    table: Table,
    *,
    user_id: int,
    group_id: int | None = None,
    limit: int | None = None,
    offset: int = 0,
    lock: bool = False,
    unread: bool = False,
) -> AsyncGenerator[Row]:
    """Yield rows by rising id, all of them or those of one group; `limit` None: to the end.

    They are read in pieces, between which others have their turn. Close it when you leave early.
    With `lock` others cannot change them until the transaction ends; with `unread` what is JSON
    is left as its text.
    """
    wanted = {**table.fixed(user_id), **_of(group_id)}
    statement = SQL("select {} from {} where {} order by {} limit %s offset %s").format(
        table.read(), Identifier(table.name), table.where(wanted), Identifier(table.id)
    )
    if lock:
        statement += SQL(" for no key update")
    cursor = conn.cursor(row_factory=dict_row)
    if unread:
        for name in ("json", "jsonb"):
            cursor.adapters.register_loader(name, TextLoader)
    rows = cursor.stream(statement, [*wanted.values(), limit, offset], size=_AT_ONCE)
    async with aclosing(cast(AsyncGenerator[Row], rows)):
        async for row in rows:
            yield row


async def put(
    conn: AsyncConnection, table: Table, *, user_id: int, values: Mapping[str, Any], now: datetime
) -> Row:
    """Set the single row of a user or group, and return it; it keeps its date of creation."""
    columns = {**table.fixed(user_id), **values, "created_at": now, "modified_at": now}
    statement = _put(table, tuple(columns), tuple(values))
    row = await first(conn, statement, list(parameters(columns).values()))
    assert row is not None
    return row


@lru_cache
def _put(table: Table, columns: tuple[str, ...], replaced: tuple[str, ...]) -> bytes:
    replacing = SQL(", ").join(
        SQL("{0} = excluded.{0}").format(Identifier(column))
        for column in (*replaced, "modified_at")
    )
    return (
        SQL("insert into {} ({}) values ({}) on conflict " + table.single + " do update set {}")
        .format(
            Identifier(table.name),
            SQL(", ").join(map(Identifier, columns)),
            SQL(", ").join(SQL("%s") * len(columns)),
            replacing,
        )
        .as_bytes(None)
        + b" returning *"
    )


async def update(
    conn: AsyncConnection,
    table: Table,
    *,
    user_id: int,
    id: int,
    values: Mapping[str, Any],
    now: datetime,
) -> Row:
    """Replace the given columns of a row that is locked, and return it. Raises Duplicate."""
    columns, wanted = {**values, "modified_at": now}, {**table.fixed(user_id), table.id: id}
    statement = _update(table, tuple(columns), tuple(wanted))
    row = await first(conn, statement, [*parameters(columns).values(), *wanted.values()])
    assert row is not None
    return row


@lru_cache
def _update(table: Table, columns: tuple[str, ...], wanted: tuple[str, ...]) -> bytes:
    return (
        SQL("update {} set {} where {} returning {}")
        .format(
            Identifier(table.name),
            SQL(", ").join(SQL("{} = %s").format(Identifier(name)) for name in columns),
            table.where(wanted),
            table.read(),
        )
        .as_bytes(None)
    )


async def delete(conn: AsyncConnection, table: Table, *, user_id: int, id: int) -> Row | None:
    """Remove a row and return what it was. Raises InUse while a group needs it."""
    wanted = {**table.fixed(user_id), table.id: id}
    statement = SQL("delete from {} where {} returning *").format(
        Identifier(table.name), table.where(wanted)
    )
    try:
        return await first(conn, statement, list(wanted.values()))
    except ForeignKeyViolation as error:
        raise InUse("a capacity group uses it") from error


async def as_of_now(conn: AsyncConnection) -> None:
    """Let all that this transaction reads be of one instant; it changes nothing."""
    await conn.execute("set transaction isolation level repeatable read, read only")


async def step_aside(conn: AsyncConnection, *, peer_ids: Collection[int]) -> None:
    """Give up what must be unique among peers, so that they can take it from each other."""
    await conn.execute(
        "update peer set base_url = null, service_props = null where id = any(%s)",
        (list(peer_ids),),
    )


async def groups_of_peer(conn: AsyncConnection, *, peer_id: int) -> tuple[str, ...]:
    """Return the identifiers of the groups that need a peer."""
    cursor = await conn.execute(
        """
        select identifier from capacity_group where provider_id = %(id)s or optimizer_id = %(id)s
         order by identifier
        """,
        {"id": peer_id},
    )
    return tuple(row[0] for row in await cursor.fetchall())


def _of(group_id: int | None) -> dict[str, int]:
    return {} if group_id is None else {"group_id": group_id}


def parameters(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they are sent."""
    # json also for jsonb columns, which take it: it alone leaves the order of keys to the column.
    return {
        name: Json(value) if isinstance(value, dict) else value for name, value in columns.items()
    }


async def first(
    conn: AsyncConnection,
    statement: Composed | bytes,
    parameters: Sequence[Any] | Mapping[str, Any],
) -> Row | None:
    """Return the first row that a statement gives; in a pipeline its faults come with that."""
    cursor = conn.cursor(row_factory=dict_row)
    try:
        return await (await cursor.execute(statement, parameters)).fetchone()
    except UniqueViolation as error:
        raise duplicate(error) from error


def duplicate(error: UniqueViolation) -> Exception:
    """Return what tells of the column that was to be unique, or the error if none was known."""
    column = _UNIQUE.get(error.diag.constraint_name or "")
    return error if column is None else Duplicate(column)
