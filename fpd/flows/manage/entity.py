"""What the management API does with every kind of entity, and where a kind has its own rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fpd.flows.context import Context
from fpd.flows.manage.fields import Field
from fpd.flows.manage.refusals import Fault
from fpd.store.entities import Connection, Row, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one entity, inside its transaction.

    `before` is the row as it was, None for a new one; `values` what the request wants it to be,
    by column, None for a removal.
    """

    context: Context
    conn: Connection
    user_id: int
    now: datetime
    before: Row | None
    values: Mapping[str, Any] | None


def _nothing_more(given: Mapping[str, Any]) -> list[Fault]:
    return []


def _as_they_are(change: Change) -> Mapping[str, Any]:
    return change.values or {}


async def _no_consequence(change: Change, after: Row) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One kind of entity.

    `path` is where it lives below the prefix, `id_name` what its id is called in paths. `check`
    finds faults that no single field shows; `columns` turns what a request wants into what is
    stored; `follow` does what the change entails and returns what is shown once. For a removal
    it gets the row that was.
    """

    noun: str
    path: str
    id_name: str
    table: Table
    fields: tuple[Field, ...]
    check: Callable[[Mapping[str, Any]], list[Fault]] = _nothing_more
    columns: Callable[[Change], Mapping[str, Any]] = _as_they_are
    follow: Callable[[Change, Row], Awaitable[Mapping[str, Any]]] = _no_consequence
