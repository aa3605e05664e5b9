"""Read a decoded JSON document field by field; every complaint names the field by its path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Final, TypeVar
from zoneinfo import ZoneInfo

from fpd.errors import Malformed

E = TypeVar("E", bound=StrEnum)

# Enough for any power of a grid and any reading in µW, and small enough to calculate with.
_MOST_DIGITS: Final = 15


class Fields:
    """The fields of one JSON object. Every method raises Malformed for what it cannot read.

    A method with a `default` returns it when the field is absent or null; without one the field
    must be there.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise Malformed(f"{path}: not an object")
        self._fields: Mapping[str, object] = value
        self.path = path

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def has(self, name: str) -> bool:
        return self._fields.get(name) is not None

    def fault(self, name: str, what: str) -> Malformed:
        """Return the exception that says what is wrong with a field."""
        return Malformed(f"{self._path(name)}: {what}")

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put this object's path before a complaint about it that does not know where it stood."""
        try:
            yield
        except Malformed as error:
            raise Malformed(f"{self.path}.{error}") from None

    def value(self, name: str) -> object:
        if name not in self._fields:
            raise self.fault(name, "missing")
        return self._fields[name]

    def child(self, name: str) -> Fields:
        return Fields(self.value(name), self._path(name))

    def items(self, name: str) -> Fields:
        """Return the items of an array, whose names are [0], [1], …"""
        found = self.value(name)
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise self.fault(name, "not an array")
        return Fields({f"[{i}]": item for i, item in enumerate(found)}, self._path(name))

    def children(self, name: str) -> list[Fields]:
        items = self.items(name)
        return [items.child(item) for item in items]

    def number(self, name: str, default: Decimal | int | None = None) -> Decimal:
        """Return a finite number; devices print theirs as strings, which are read too."""
        if default is not None and not self.has(name):
            return Decimal(default)
        found = self.value(name)
        if isinstance(found, bool) or not isinstance(found, int | float | Decimal | str):
            raise self.fault(name, "not a number")
        try:
            number = Decimal(str(found))
        except (InvalidOperation, ValueError):
            raise self.fault(name, "not a number") from None
        if not number.is_finite():
            raise self.fault(name, "not a finite number")
        if number and not -_MOST_DIGITS < number.adjusted() < _MOST_DIGITS:
            raise self.fault(name, "out of range")
        return number

    def positive(self, name: str, default: Decimal | int | None = None) -> Decimal:
        number = self.number(name, default)
        if number <= 0:
            raise self.fault(name, "must be above 0")
        return number

    def optional_number(self, name: str) -> Decimal | None:
        return self.number(name) if self.has(name) else None

    def integer(self, name: str, default: int | None = None) -> int:
        number = self.number(name, default)
        if number != number.to_integral_value():
            raise self.fault(name, "not a whole number")
        return int(number)

    def optional_integer(self, name: str) -> int | None:
        return self.integer(name) if self.has(name) else None

    def flag(self, name: str, default: bool) -> bool:
        found = self._fields.get(name)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise self.fault(name, "not true or false")
        return found

    def text(self, name: str, default: str | None = None) -> str:
        if default is not None and not self.has(name):
            return default
        found = self.value(name)
        if not isinstance(found, str):
            raise self.fault(name, "not a string")
        return found

    def choice(self, name: str, kind: type[E], default: E | None = None) -> E:
        found = self.text(name, default)
        try:
            return kind(found)
        except ValueError:
            known = ", ".join(kind)
            raise self.fault(name, f"{found!r} is none of {known}") from None

    def instant(self, name: str) -> datetime:
        """Return an RFC 3339 instant in UTC; it must carry its zone."""
        found = self.text(name)
        try:
            instant = datetime.fromisoformat(found)
            if instant.tzinfo is None:
                raise self.fault(name, f"{found!r} has no zone")
            return instant.astimezone(UTC)
        except (ValueError, OverflowError):
            raise self.fault(name, f"{found!r} is no RFC 3339 instant") from None

    def zone(self, name: str, default: str) -> ZoneInfo:
        found = self.text(name, default)
        try:
            return ZoneInfo(found)
        except (KeyError, ValueError, OSError):
            raise self.fault(name, f"{found!r} is no time zone") from None

    def _path(self, name: str) -> str:
        return f"{self.path}{name}" if name.startswith("[") else f"{self.path}.{name}"
