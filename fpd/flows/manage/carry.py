"""Make what a user has be what a file asks for: first the plan, then all of it in one transaction.

Names are who is who: a peer of another name is another peer. Of several peers with one name those
at the same address are the same, and the others by their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import structlog

from fpd.flows.context import Context
from fpd.flows.manage import changes, creating
from fpd.flows.manage.archive import (
    KINDS,
    SETTINGS,
    Address,
    Holdings,
    label,
    load,
)
from fpd.flows.manage.asked import Asked, read
from fpd.flows.manage.entity import Change, Entity
from fpd.flows.manage.groups import GROUP_SETTINGS, USER_SETTINGS
from fpd.flows.manage.refusals import Fault, Invalid, Taken
from fpd.store import accounts, entities
from fpd.store.db import retried
from fpd.store.entities import Connection, Row
from fpd.store.service_props import same_secrets

log = structlog.get_logger()

_PEERS: Final = ("capacityProvider", "capacityOptimizer")
_OF_GROUP: Final = f"capacityGroup.{SETTINGS}"
_SECRETS: Final = "secrets_sealed"


class Deed(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What becomes of one thing. `fields` are those that change; `asked` None: it is to go."""

    deed: Deed
    address: Address
    entity: Entity
    before: Row | None
    asked: Asked | None = None
    fields: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What was done, or would be: each step, and the first tokens of new peers by name."""

    steps: Sequence[Step]
    tokens: Mapping[str, str]

    def count(self, deed: Deed) -> int:
        return sum(step.deed is deed for step in self.steps)


async def carry(
    context: Context, text: str, *, user_id: int, prune: bool = False, dry: bool = False
) -> Carried:
    """Make it so, all or nothing; with `prune` what the file does not name goes.

    `dry`: only say what would be done. Raises Unreadable, Invalid with every fault.
    """
    asked = read(text, context, user_id=user_id)
    carried = await _carry(context, asked, user_id, prune, dry)
    if not dry:
        log.info("site.imported", user=user_id, **{deed: carried.count(deed) for deed in Deed})
        context.bells.control()
    return carried


@retried
async def _carry(
    context: Context, asked: Sequence[Asked], user_id: int, prune: bool, dry: bool
) -> Carried:
    now = context.clock()
    async with context.db.transaction() as conn:
        held = await load(conn, user_id=user_id, lock=True)
        work = _Work(context, conn, user_id, now, held, asked, prune)
        steps = work.plan()
        if dry:
            return Carried(steps=steps, tokens={})
        await accounts.ensure(conn, user_id=user_id, now=now)
        return Carried(steps=steps, tokens=await work.act(steps))


class _Work:
    """One import in its transaction. `ids` are those of what is there, by address in the file."""

    def __init__(
        self,
        context: Context,
        conn: Connection,
        user_id: int,
        now: datetime,
        held: Holdings,
        asked: Sequence[Asked],
        prune: bool,
    ) -> None:
        self._context, self._conn, self._user_id, self._now = context, conn, user_id, now
        self._held, self._asked, self._prune = held, asked, prune
        self._rows = _matched(held, asked)
        self._ids = {address: row["id"] for address, row in self._rows.items() if row}
        self._faults: list[Fault] = []

    def plan(self) -> list[Step]:
        """Return what is to be done, in the order in which it can. Raises Invalid."""
        self._unknown_names()
        self._addresses_taken()
        if self._faults:
            raise Invalid(self._faults)
        return [*map(self._step, self._asked), *(self._leavers() if self._prune else ())]

    def _unknown_names(self) -> None:
        named = {one.address for one in self._asked}
        there = set() if self._prune else self._rows.keys()
        for one in self._asked:
            for target in one.references.values():
                if target not in named and target not in there:
                    fault = Fault(one.place, f"there is no {label(target)} for it to refer to")
                    self._faults.append(fault)

    def _addresses_taken(self) -> None:
        """Find base URLs of peers that stay as they are."""
        named = {one.address for one in self._asked}
        taken: dict[tuple[str | int, str | None], Address] = {
            (address[0], row["base_url"]): address
            for address, row in self._rows.items()
            if address[0] in _PEERS and row is not None and address not in named
        }
        for one in self._asked:
            url = one.values.get("base_url")
            by = taken.get((one.address[0], url)) if url else None
            if by is not None and not self._prune:
                told = f"is taken by {label(by)}, which the file does not name"
                self._faults.append(Fault(f"{one.place}, baseUrl", told))

    def _step(self, one: Asked) -> Step:
        before = self._before(one)
        changed = () if before is None else self._changed(one, before)
        deed = Deed.CREATE if before is None else Deed.UPDATE if changed else Deed.UNCHANGED
        return Step(
            deed=deed,
            address=one.address,
            entity=one.entity,
            before=before,
            asked=one,
            fields=changed,
        )

    def _before(self, one: Asked) -> Row | None:
        if one.entity is USER_SETTINGS:
            return self._held.user_settings
        if one.entity is GROUP_SETTINGS:
            group_id = self._ids.get(one.references["group_id"], 0)
            return self._held.group_settings.get(group_id)
        return self._rows.get(one.address)

    def _changed(self, one: Asked, before: Row) -> tuple[str, ...]:
        """Return the names of the fields that differ from what is there."""
        columns = self._columns(one, before)
        changed = [
            field.name
            for field in one.entity.fields
            if field.key in columns and _said(columns[field.key]) != _said(before[field.key])
        ]
        if _SECRETS in columns and not self._same(columns[_SECRETS], before[_SECRETS]):
            changed.append("secrets")
        return tuple(changed)

    def _columns(self, one: Asked, before: Row | None) -> dict[str, Any]:
        """Return what is stored; a reference to what is yet to be made is None."""
        values = dict(one.values)
        for column, target in one.references.items():
            values[column] = self._ids.get(target)
        columns = dict(one.entity.columns(self._change(before, values)))
        if one.sealed is not None and self._same(columns[_SECRETS], one.sealed):
            columns[_SECRETS] = one.sealed
        return columns

    def _same(self, one: bytes | None, other: bytes | None) -> bool:
        return same_secrets(one, other, self._context.vault)

    def _change(self, before: Row | None, values: Mapping[str, Any] | None) -> Change:
        return Change(
            context=self._context,
            user_id=self._user_id,
            now=self._now,
            before=before,
            values=values,
        )

    def _leavers(self) -> list[Step]:
        """Return what the file does not name, dependants first; what goes with another is left."""
        named = {one.address for one in self._asked}
        gone = [(a, row) for a, row in self._rows.items() if row is not None and a not in named]
        groups = {a[1] for a, _ in gone if a[0] == "capacityGroup"}
        steps = [
            _leaver(address, KINDS[str(address[0])], row)
            for address, row in gone
            if address[0] != "asset" or address[1] not in groups
        ]
        order = ["asset", "capacityGroup", *_PEERS]
        steps.sort(key=lambda step: order.index(str(step.address[0])))
        return [*self._settings_leaving(named, groups), *steps]

    def _settings_leaving(self, named: set[Address], groups: set[str | int]) -> list[Step]:
        steps = []
        if self._held.user_settings is not None and (SETTINGS,) not in named:
            steps.append(_leaver((SETTINGS,), USER_SETTINGS, self._held.user_settings))
        addresses = {id: address for address, id in self._ids.items() if _is_group(address)}
        for group_id, row in self._held.group_settings.items():
            address = (_OF_GROUP, *addresses[group_id][1:])
            if address not in named and address[1] not in groups:
                steps.append(_leaver(address, GROUP_SETTINGS, row))
        return steps

    async def act(self, steps: Sequence[Step]) -> dict[str, str]:
        """Do it; return the first tokens of new peers. Raises Taken."""
        changing = (Deed.UPDATE, Deed.DELETE)
        aside = [
            step.before["id"]
            for step in steps
            if step.before and step.deed in changing and step.address[0] in _PEERS
        ]
        await entities.step_aside(self._conn, peer_ids=aside)
        tokens = {}
        for step in steps:
            if step.deed is Deed.DELETE:
                await self._remove(step)
            elif step.asked is not None and step.deed is not Deed.UNCHANGED:
                row = await self._keep(step, step.asked)
                if "token" in row:
                    tokens[label(step.address)] = row["token"]
        return tokens

    async def _keep(self, step: Step, one: Asked) -> Row:
        columns = self._columns(one, step.before)
        if step.entity in (USER_SETTINGS, GROUP_SETTINGS):
            columns = {step.entity.table.id: self._user_id} | columns
            return await entities.put(
                self._conn,
                step.entity.table,
                user_id=self._user_id,
                values=columns,
                now=self._now,
            )
        try:
            row = await self._kept(step.entity, self._change(step.before, one.values), columns)
        except Taken as error:
            raise Taken(
                str(error), [Fault(f"{one.place}, {f.location}", f.message) for f in error.faults]
            ) from None
        self._ids[one.address] = row["id"]
        return row

    async def _kept(self, entity: Entity, change: Change, columns: Mapping[str, Any]) -> Row:
        if change.before is not None:
            return await changes.replace(self._conn, entity, change, columns)
        one = replace(creating.drafted(entity, change), columns=columns)
        return one.shown(await creating.add(self._conn, one))

    async def _remove(self, step: Step) -> None:
        assert step.before is not None
        id = step.before[step.entity.table.id]
        if step.entity in (USER_SETTINGS, GROUP_SETTINGS):
            await entities.delete(self._conn, step.entity.table, user_id=self._user_id, id=id)
            return
        await changes.remove(
            self._context,
            self._conn,
            step.entity,
            user_id=self._user_id,
            id=id,
            now=self._now,
        )


def _said(kept: Any) -> Any:
    """Return what a kept value says: no service properties are as good as none."""
    return None if kept == {} else kept


def _leaver(address: Address, entity: Entity, row: Row) -> Step:
    return Step(deed=Deed.DELETE, address=address, entity=entity, before=row)


def _is_group(address: Address) -> bool:
    return address[0] == "capacityGroup"


def _matched(held: Holdings, asked: Sequence[Asked]) -> dict[Address, Row | None]:
    """Return the rows by the address that the file gives them, None for what is new.

    What the file does not name keeps an address of its own.
    """
    rows: dict[Address, Row | None] = {
        address: row for address, row in held.rows.items() if address[0] not in _PEERS
    }
    theirs: dict[Address, list[Row]] = {}
    ours: dict[Address, list[Asked]] = {}
    for address, row in held.rows.items():
        if address[0] in _PEERS:
            theirs.setdefault(address[:2], []).append(row)
    for one in asked:
        if one.address[0] in _PEERS:
            ours.setdefault(one.address[:2], []).append(one)
    for named in theirs | ours:
        rows |= _paired(named, theirs.get(named, []), ours.get(named, []))
    return rows


def _paired(named: Address, theirs: list[Row], ours: Sequence[Asked]) -> dict[Address, Row | None]:
    """Pair peers of one name: first those at the same address, then by their order."""
    found: dict[Address, Row | None] = {}
    for one in ours:
        url = one.values.get("base_url")
        same = next((row for row in theirs if url and row["base_url"] == url), None)
        if same is not None:
            theirs.remove(same)
            found[one.address] = same
    for one in ours:
        if one.address not in found:
            found[one.address] = theirs.pop(0) if theirs else None
    for number, row in enumerate(theirs, len(ours) + 1):
        found[*named, number] = row
    return found
