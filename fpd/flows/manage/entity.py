"""What the management API does with every kind of entity, and where a kind has its own rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fpd.flows.context import Context
from fpd.flows.manage.fields import Field, Reference
from fpd.flows.manage.refusals import Fault
from fpd.store.entities import Connection, Row, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one entity.

    `before` is the row as it was, None for a new one; `values` what the request wants it to be,
    by column, None for a removal.
    """

    context: Context
    user_id: int
    now: datetime
    before: Row | None
    values: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Along:
    """What comes along with a new entity.

    `parameters` are for what its table carries out along with the row, `shown` is shown this
    once; `more`: something is to follow in the same transaction.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    shown: Mapping[str, Any] = field(default_factory=dict)
    more: bool = False


def _nothing_more(given: Mapping[str, Any]) -> list[Fault]:
    return []


def _as_they_are(change: Change) -> Mapping[str, Any]:
    return change.values or {}


def _nothing_along(change: Change) -> Along:
    return Along()


async def _no_consequence(conn: Connection, change: Change, after: Row) -> None:
    pass


def _of_no_concern(made: Row) -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One kind of entity.

    `path` is where it lives below the prefix, `id_name` what its id is called in paths. `check`
    finds faults that no single field shows; `columns` turns what a request wants into what is
    stored; `along` says what comes along with a new one, and `steers` whether control is to look
    at it; `follow` does, inside the transaction, what any other change entails. For a removal it
    gets the row that was.
    """

    noun: str
    path: str
    id_name: str
    table: Table
    fields: tuple[Field, ...]
    check: Callable[[Mapping[str, Any]], list[Fault]] = _nothing_more
    columns: Callable[[Change], Mapping[str, Any]] = _as_they_are
    along: Callable[[Change], Along] = _nothing_along
    steers: Callable[[Row], bool] = _of_no_concern
    follow: Callable[[Connection, Change, Row], Awaitable[None]] = _no_consequence

    def references(self) -> Sequence[tuple[Field, Reference]]:
        """Return the fields that hold the id of another entity of the user."""
        return [(field, field.kind) for field in self.fields if isinstance(field.kind, Reference)]
