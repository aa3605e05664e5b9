"""All that a user has, as one TOML file that people can read, compare and keep.

What it refers to has names, not ids: peers their name (several of one name are counted, in the
order of the file: `["Lines Co.", 2]`), groups and assets their identifiers. Links, registrations
and tokens are not in it. Secrets are left out, or sealed with the key of this installation.

The same content makes the same bytes, whatever the ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tomli_w

from fpd.flows.context import Context
from fpd.flows.manage import fields
from fpd.flows.manage.entity import Entity
from fpd.flows.manage.fields import Access, Field
from fpd.flows.manage.groups import ASSET, GROUP, GROUP_SETTINGS, USER_SETTINGS
from fpd.flows.manage.peers import OPTIMIZER, PROVIDER
from fpd.store import entities
from fpd.store.entities import Connection, Row
from fpd.store.service_props import missing_secrets

FORMAT: Final = 1
SETTINGS: Final = "settings"
SECRETS: Final = "secrets"
AS_JSON: Final = "servicePropsJson"
"""Service properties that TOML has no words for, null somewhere inside, each as JSON."""

KINDS: Final[Mapping[str, Entity]] = {
    "capacityProvider": PROVIDER,
    "capacityOptimizer": OPTIMIZER,
    "capacityGroup": GROUP,
    "asset": ASSET,
}
"""The arrays of tables of a file, in the order in which they refer to each other."""

REFERENCES: Final[Mapping[str, str]] = {
    "capacityProviderId": "capacityProvider",
    "capacityOptimizerId": "capacityOptimizer",
    "capacityGroupId": "capacityGroup",
}
"""How a file calls the property that holds an id, which is also the array it refers to."""

LEFT_OUT: Final = frozenset({"registrationStatus"})
"""What belongs to a link and not to what somebody has set up."""

Address = tuple[str | int, ...]
"""What names one thing of a user: its array, then name and number, or identifiers."""

_HEAD = """\
Capacity providers, optimizers, groups, assets and settings of one user of fpd.

  fpd import FILE --dry-run    shows what would change
  fpd import FILE              makes it so; what the file does not name stays, unless --prune

Registrations and tokens are not part of it: a peer that is new gets a first token on import.
"""
_SEALED = "Secrets are sealed: they open with the key file of the installation they come from only."
_WITHOUT = "Secrets are not in this file. An import keeps those that are stored already."


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """The rows of a user, by address, in a fixed order. `user_settings` None: never set."""

    rows: Mapping[Address, Row]
    user_settings: Row | None
    group_settings: Mapping[int, Row]

    def by_id(self) -> dict[tuple[str, int], Address]:
        """Return the addresses by array and id."""
        return {(str(address[0]), row["id"]): address for address, row in self.rows.items()}


async def export(context: Context, *, user_id: int, with_secrets: bool) -> str:
    """Return the file of a user."""
    async with context.db.transaction() as conn:
        await entities.as_of_now(conn)
        held = await load(conn, user_id=user_id)
    return _text(held, with_secrets=with_secrets)


async def load(conn: Connection, *, user_id: int, lock: bool = False) -> Holdings:
    """Return all that a user has; with `lock` others cannot change it meanwhile."""

    async def every(entity: Entity) -> list[Row]:
        pages = entities.page(conn, entity.table, user_id=user_id, lock=lock)
        return [row async for row in pages]

    rows: dict[Address, Row] = {}
    for array in ("capacityProvider", "capacityOptimizer"):
        rows |= numbered(array, await every(KINDS[array]))
    groups = {row["id"]: row for row in await every(GROUP)}
    rows |= _sorted({("capacityGroup", row["identifier"]): row for row in groups.values()})
    rows |= _sorted(
        {
            ("asset", groups[row["group_id"]]["identifier"], row["identifier"]): row
            for row in await every(ASSET)
        }
    )
    return Holdings(
        rows=rows,
        user_settings=await entities.find(conn, USER_SETTINGS.table, user_id=user_id, id=user_id),
        group_settings={row["group_id"]: row for row in await every(GROUP_SETTINGS)},
    )


def numbered(array: str, rows: Iterable[Row]) -> dict[Address, Row]:
    """Return peers by address; those of one name are counted by their ids, from 1."""
    found: dict[Address, Row] = {}
    for row in sorted(rows, key=lambda row: (row["name"], row["id"])):
        number = 1
        while (array, row["name"], number) in found:
            number += 1
        found[array, row["name"], number] = row
    return found


def label(address: Address) -> str:
    """Return how a thing is called in what people read."""
    array, *names = address
    if names and names[-1] == 1:
        names = names[:-1]
    return " ".join([str(array), *map(quoted, names)])


def quoted(name: object) -> str:
    """Return a name so that it takes one line, whatever is in it."""
    return json.dumps(name).replace("\x7f", "\\u007f")


def shown_of(of: Sequence[Field], row: Row) -> dict[str, Any]:
    """Return what can be set of an entity, as it is shown."""
    settable = [f for f in of if f.access is Access.BOTH and f.name not in LEFT_OUT]
    return fields.show(settable, row)


def _sorted(rows: dict[Address, Row]) -> dict[Address, Row]:
    return dict(sorted(rows.items(), key=lambda item: [str(name) for name in item[0]]))


def _text(held: Holdings, *, with_secrets: bool) -> str:
    named = held.by_id()
    parts = [f"format = {FORMAT}\n"]
    if held.user_settings is not None:
        settings = shown_of(USER_SETTINGS.fields, held.user_settings)
        parts.append(f"[{SETTINGS}]\n{tomli_w.dumps(settings)}")
    missing = []
    for address, row in held.rows.items():
        array = str(address[0])
        table = _table(array, row, named)
        if array == "capacityGroup" and row["id"] in held.group_settings:
            settings = held.group_settings[row["id"]]
            table[SETTINGS] = shown_of(GROUP_SETTINGS.fields, settings)
        if with_secrets and row.get("secrets_sealed"):
            table[SECRETS] = bytes(row["secrets_sealed"]).decode()
        elif names := missing_secrets(row.get("service_props")):
            missing.append(f"  {label(address)}: {', '.join(map(quoted, names))}")
        parts.append(_written(array, table))
    told = [_SEALED] if with_secrets else [_WITHOUT, *(["They are those of:"] if missing else [])]
    head = [*_HEAD.splitlines(), "", *told, *([] if with_secrets else missing)]
    return "\n".join(["".join(f"# {line}".rstrip() + "\n" for line in head), *parts])


def _table(array: str, row: Row, named: Mapping[tuple[str, int], Address]) -> dict[str, Any]:
    """Return an entity as the file has it, what names it first."""
    shown = shown_of(KINDS[array].fields, row)
    table: dict[str, Any] = {}
    for name in ("capacityGroupId", "identifier", "name"):
        if name in shown:
            table[name] = shown[name]
    table |= shown
    for name, target in REFERENCES.items():
        if name in table:
            table[name] = _reference(named[target, table[name]])
    table = {REFERENCES.get(name, name): value for name, value in table.items()}
    properties = table.get("serviceProps") or {}
    in_json = {name: value for name, value in properties.items() if _has_null(value)}
    if in_json:
        table["serviceProps"] = {n: v for n, v in properties.items() if n not in in_json}
        table[AS_JSON] = {name: json.dumps(value) for name, value in in_json.items()}
    return table


def _reference(address: Address) -> str | list[str | int]:
    _, name, *number = address
    return str(name) if number in ([], [1]) else [name, *number]


def _has_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_null, value.values()))
    if isinstance(value, list):
        return any(map(_has_null, value))
    return value is None


def _written(array: str, table: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in table.items() if not isinstance(value, dict)}
    parts = {name: value for name, value in table.items() if isinstance(value, dict)}
    text = f"[[{array}]]\n{tomli_w.dumps(plain)}"
    return text + f"\n{tomli_w.dumps({array: parts})}" if parts else text
