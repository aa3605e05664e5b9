"""New entities: a few at a time each by itself, and those that come meanwhile together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from fpd.flows.context import Context
from fpd.flows.manage.changes import no_such, read, strangers, taken, tell
from fpd.flows.manage.entity import Along, Change, Entity
from fpd.flows.manage.refusals import Invalid
from fpd.flows.together import Together
from fpd.store import additions, entities
from fpd.store.db import retried
from fpd.store.entities import Connection, Row

log = structlog.get_logger()

_TOGETHER = 32  # work of a few ms
_AT_ONCE = 4  # by themselves: of the connections to the database others have the most


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """A new entity of which nothing is wrong in itself. `token_id`: as `additions.New` has it."""

    entity: Entity
    change: Change
    columns: Mapping[str, Any]
    along: Along
    token_id: str | None = None

    def new(self) -> additions.New:
        return additions.New(
            table=self.entity.table,
            user_id=self.change.user_id,
            values=self.columns,
            now=self.change.now,
            along=self.along.parameters,
            references={f.key: kind.table for f, kind in self.entity.references()},
            token_id=self.token_id,
        )

    def shown(self, row: Row) -> Row:
        return {**row, **self.along.shown}

    def order(self) -> tuple[str, ...]:
        """Return where it stands among others: who takes the same has to take it in one order."""
        columns = self.columns
        keys = (columns.get(name) for name in ("group_id", "identifier", "base_url"))
        return (self.entity.table.name, str(self.change.user_id), *map(str, keys))


class Creates:
    """The creates of one daemon: they share trips and commits when there are many."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._together = Together("creates", self._make, spawn=context.spawn, most=_TOGETHER)
        self._alone = 0

    async def create(
        self, entity: Entity, *, user_id: int, given: Mapping[str, Any], token_id: str
    ) -> Row:
        """Add an entity while a token is valid; as `create`. Raises also Unauthenticated."""
        one = await draft(self._context, entity, user_id, given, token_id=token_id)
        row: Row | None = None
        if self._alone >= _AT_ONCE and not one.along.more:
            row = await self._together.ask(one)
        if row is None:
            self._alone += 1
            try:
                row = await _keep(self._context, one)
            finally:
                self._alone -= 1
        _tell(self._context, one, row)
        return one.shown(row)

    async def _make(self, drafts: Sequence[Draft]) -> list[Row | None]:
        """Keep those that can be kept; why one cannot it is told when it comes by itself."""
        order = sorted(range(len(drafts)), key=lambda index: drafts[index].order())
        try:
            async with self._context.db.transaction(pipelined=True) as conn:
                rows = await additions.insert_many(conn, [drafts[i].new() for i in order])
        except additions.Spoilt as error:  # before the commit, so none of them is kept
            log.info("creates.apart", count=len(drafts), reason=str(error))
            return [None] * len(drafts)
        made = dict(zip(order, rows, strict=True))
        return [made[index] for index in range(len(drafts))]


async def create(
    context: Context, entity: Entity, *, user_id: int, given: Mapping[str, Any]
) -> Row:
    """Add an entity and return its row, with what is shown once. Raises Invalid, Taken."""
    one = await draft(context, entity, user_id, given)
    row = await _keep(context, one)
    _tell(context, one, row)
    return one.shown(row)


async def draft(
    context: Context,
    entity: Entity,
    user_id: int,
    given: Mapping[str, Any],
    *,
    token_id: str | None = None,
) -> Draft:
    """Return what is wanted. Raises Invalid with everything that is wrong."""
    values, faults = read(context, entity, user_id, given, None)
    if faults:
        async with context.db.connection() as conn:
            raise Invalid(faults + await strangers(conn, entity, user_id, values))
    return drafted(
        entity,
        Change(context=context, user_id=user_id, now=context.clock(), before=None, values=values),
        token_id=token_id,
    )


def drafted(entity: Entity, change: Change, *, token_id: str | None = None) -> Draft:
    """Return a draft of what is wanted; nothing is wrong with it."""
    columns, along = entity.columns(change), entity.along(change)
    return Draft(entity=entity, change=change, columns=columns, along=along, token_id=token_id)


@retried
async def _keep(context: Context, one: Draft) -> Row:
    lend = context.db.transaction(pipelined=True) if one.along.more else context.db.connection()
    async with lend as conn:
        return await add(conn, one)


async def add(conn: Connection, one: Draft) -> Row:
    """Store a new entity and what it entails; return its row.

    Raises Taken, Invalid when it refers to what is not there, Unauthenticated.
    """
    try:
        row = await additions.insert(conn, one.new())
    except additions.Missing as error:
        raise Invalid(
            no_such(field, kind, one.columns)
            for field, kind in one.entity.references()
            if field.key in error.columns
        ) from None
    except entities.Duplicate as error:
        raise taken(one.entity, error) from None
    if one.along.more:
        await one.entity.follow(conn, one.change, row)
    return row


def _tell(context: Context, one: Draft, row: Row) -> None:
    entity, user_id = one.entity, one.change.user_id
    tell(context, entity, user_id, row["id"], "created", steering=entity.steers(row))
