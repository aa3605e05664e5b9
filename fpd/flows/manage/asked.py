"""What a file asks for: every entity in it as rows are kept, and every fault with its line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from typing import Any

import msgspec

from fpd.config_lines import Where, locate
from fpd.errors import Misconfigured
from fpd.flows.context import Context
from fpd.flows.manage import changes, fields
from fpd.flows.manage.archive import (
    AS_JSON,
    FORMAT,
    KINDS,
    LEFT_OUT,
    REFERENCES,
    SECRETS,
    SETTINGS,
    Address,
    label,
)
from fpd.flows.manage.entity import Entity
from fpd.flows.manage.fields import Access, Field, Part
from fpd.flows.manage.groups import GROUP_SETTINGS, USER_SETTINGS
from fpd.flows.manage.refusals import Fault, Invalid, Unreadable
from fpd.store.service_props import (
    CLIENT_SECRET,
    HEADERS,
    MASK,
    join_secrets,
    masked_headers,
)

_PEERS = ("capacityProvider", "capacityOptimizer")
_SOME_ID = 1  # stands for what a reference will become


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One entity that a file asks for: `values` by column, `references` column → what it names.

    `sealed` are its secrets as the file has them, None: it has none. `place` says where it is.
    """

    address: Address
    entity: Entity
    values: dict[str, Any]
    references: Mapping[str, Address]
    place: str
    sealed: bytes | None = None


def read(text: str, context: Context, *, user_id: int) -> list[Asked]:
    """Return what a file asks for, in its order. Raises Unreadable, Invalid with every fault."""
    try:
        said = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Unreadable(f"the file is not TOML: {error}", []) from None
    reader = _Reader(context, user_id, locate(text))
    asked = list(reader.entities(said))
    reader.twice(asked)
    if reader.faults:
        raise Invalid(reader.faults)
    return asked


class _Reader:
    def __init__(self, context: Context, user_id: int, lines: Mapping[Where, int]) -> None:
        self._context = context
        self._lines = lines
        self._site = changes.site(context, user_id, None)
        self.faults: list[Fault] = []

    def entities(self, said: dict[str, Any]) -> Iterator[Asked]:
        if said.get("format") != FORMAT:
            self._fault(("format",), "format", f"expected {FORMAT}: is this a file of fpd export?")
        for name in said.keys() - {"format", SETTINGS, *KINDS}:
            self._fault((name,), name, "is not known")
        if SETTINGS in said:
            yield from self._entity((SETTINGS,), (SETTINGS,), USER_SETTINGS, said[SETTINGS])
        for array, entity in KINDS.items():
            tables = said.get(array, [])
            if not isinstance(tables, list):
                self._fault((array,), array, f"expected tables: [[{array}]]")
                continue
            counts: dict[Address, int] = {}
            for index, table in enumerate(tables):
                way = (array, index)
                if not isinstance(table, dict):
                    self._fault(way, array, "expected a table")
                    continue
                yield from self._entity(way, _address(array, table, counts), entity, table)

    def _entity(self, way: Where, address: Address, entity: Entity, table: Any) -> Iterator[Asked]:
        place = self._place(way, label(address))
        if not isinstance(table, dict):
            self.faults.append(Fault(place, "expected a table"))
            return
        given = dict(table)
        settings = given.pop(SETTINGS, None) if address[0] == "capacityGroup" else None
        sealed = self._sealed(way, place, given) if address[0] in _PEERS else None
        references = self._references(way, place, entity, given)
        if address[0] in _PEERS:
            self._join(way, place, given)
        self._strangers(way, place, entity.fields, given)
        headers = masked_headers(given.get("serviceProps") if address[0] in _PEERS else None)
        values, faults = fields.read(entity.fields, given, replace(self._site, masked=headers))
        for fault in [*faults, *entity.check(given)]:
            self._fault((*way, *fault.location.split(".")), place, fault.message, fault.location)
        if sealed is not None and values.get("service_props") is not None:
            values["service_props"] = self._with_secrets(values["service_props"], sealed)
        yield Asked(
            address=address,
            entity=entity,
            values=values,
            references=references,
            place=place,
            sealed=sealed,
        )
        if settings is not None:
            of_group = (f"{address[0]}.{SETTINGS}", *address[1:])
            for one in self._entity((*way, SETTINGS), of_group, GROUP_SETTINGS, settings):
                yield replace(one, references={"group_id": address})

    def _references(
        self, way: Where, place: str, entity: Entity, given: dict[str, Any]
    ) -> dict[str, Address]:
        """Take the names out of `given` and put a stand-in for each id."""
        references: dict[str, Address] = {}
        for field in entity.fields:
            array = REFERENCES.get(field.name)
            if array is None:
                continue
            for name in {field.name} & given.keys():
                self._fault((*way, name), place, f"expected {array}, which has a name", name)
            said = given.pop(array, None)
            if said is None:
                if field.required:
                    self._fault(way, place, "is required", array)
                    given[field.name] = _SOME_ID
                continue
            given[field.name] = _SOME_ID
            match said:
                case str():
                    number = (1,) if array in _PEERS else ()
                    references[field.key] = (array, said, *number)
                case [str() as name, int() as number] if array in _PEERS and number >= 1:
                    references[field.key] = (array, name, number)
                case _:
                    self._fault((*way, array), place, "expected a name", array)
        return references

    def _sealed(self, way: Where, place: str, given: dict[str, Any]) -> bytes | None:
        text = given.pop(SECRETS, None)
        if text is None:
            return None
        try:
            sealed = str(text).encode("ascii")
            msgspec.json.decode(self._context.vault.unseal(sealed), type=dict[str, Any])
        except (Misconfigured, UnicodeEncodeError, msgspec.DecodeError):
            self._fault((*way, SECRETS), place, "do not open with this key file", SECRETS)
            return None
        return sealed

    def _join(self, way: Where, place: str, given: dict[str, Any]) -> None:
        """Put the service properties that are written as JSON to the others."""
        in_json = given.pop(AS_JSON, {})
        if not isinstance(in_json, dict):
            self._fault((*way, AS_JSON), place, "expected a table", AS_JSON)
            return
        for name, text in in_json.items():
            try:
                value = json.loads(text)
            except (ValueError, TypeError, RecursionError):
                self._fault((*way, AS_JSON, name), place, "expected JSON", f"{AS_JSON}.{name}")
            else:
                given["serviceProps"] = {**given.get("serviceProps", {}), name: value}

    def _with_secrets(self, properties: dict[str, Any], sealed: bytes) -> dict[str, Any]:
        """Return the properties with their secrets; those that the file says in clear count."""
        joined = join_secrets(properties, sealed, self._context.vault)
        if CLIENT_SECRET in properties:
            joined[CLIENT_SECRET] = properties[CLIENT_SECRET]
        if headers := properties.get(HEADERS):
            clear = {name: value for name, value in headers.items() if value != MASK}
            joined[HEADERS] = {**headers, **joined[HEADERS], **clear}
        return joined

    def _strangers(
        self, way: Where, place: str, of: Sequence[Field], given: dict[str, Any], before: str = ""
    ) -> None:
        """In a file, unlike in a request, what is not known is a slip of somebody's pen."""
        known = {field.name: field for field in of if field.access is Access.BOTH}
        for name, value in given.items():
            field = known.get(name)
            told = before + name
            if field is None or (not before and name in LEFT_OUT):
                self._fault((*way, name), place, "is not known", told)
            elif isinstance(field.kind, Part) and isinstance(value, dict):
                self._strangers((*way, name), place, field.kind.fields, value, f"{told}.")
            elif _has_date(value):
                self._fault((*way, name), place, "dates are written as texts", told)

    def twice(self, asked: Sequence[Asked]) -> None:
        """Find what a file says of two entities and can be true of one."""
        seen: dict[tuple[Any, ...], str] = {}
        for one in asked:
            keys: list[tuple[str, tuple[Any, ...]]] = [("", one.address)]
            if url := one.values.get("base_url"):
                keys.append(("baseUrl", (one.address[0], "at", url)))
            for name, key in keys:
                if key in seen:
                    told = f"{one.place}, {name}" if name else one.place
                    self.faults.append(Fault(told, f"is there already: {seen[key]}"))
                seen.setdefault(key, one.place)

    def _fault(self, way: Where, place: str, message: str, name: str = "") -> None:
        where = self._place(way, place.partition(": ")[2] or place)
        self.faults.append(Fault(f"{where}, {name}" if name else where, message))

    def _place(self, way: Where, told: str) -> str:
        """Return `told` behind the line of what is nearest above `way`."""
        while way and way not in self._lines:
            way = way[:-1]
        return f"line {self._lines[way]}: {told}" if way else told


def _address(array: str, table: Mapping[str, Any], counts: dict[Address, int]) -> Address:
    """Return what names an entity; what should and does not is a fault that is told elsewhere."""
    if array in _PEERS:
        name = str(table.get("name", ""))
        counts[array, name] = counts.get((array, name), 0) + 1
        return (array, name, counts[array, name])
    identifier = str(table.get("identifier", ""))
    if array == "asset":
        return (array, str(table.get("capacityGroup", "")), identifier)
    return (array, identifier)


def _has_date(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_date, value.values()))
    if isinstance(value, list):
        return any(map(_has_date, value))
    return isinstance(value, date | datetime | time)
