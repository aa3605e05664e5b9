"""One property of an entity: what is accepted for it, how it is kept and how it is shown.

An entity is a tuple of fields in the order in which they are shown; reading, storing and showing
all follow it. A kind returns what is kept and raises Malformed for anything else, Invalid when it
has parts of its own. Everything kept is a text, a number, a truth value, a list or a dict.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw

from fpd.config import Oscp
from fpd.domain import entities, source_id
from fpd.domain.link import Link
from fpd.domain.units import MOST_W
from fpd.errors import Malformed
from fpd.flows.manage.refusals import Fault, Invalid
from fpd.oscp.guard import check_url
from fpd.store.entities import Table

MOST: Final = 2**63 - 1
_MOST_NAMES: Final = 100
_LONGEST_NAME: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a value is held against beside its own form.

    `devices` are those that the user may name; `masked` the headers, in lower case, of which a
    value is stored that is shown masked.
    """

    oscp: Oscp
    devices: Sequence[str] = ()
    masked: frozenset[str] = frozenset()


class Kind(Protocol):
    """What the values of a field are."""

    def read(self, given: Any, site: Site) -> Any:
        """Return what is kept of a value that is not null."""
        ...

    def show(self, kept: Any) -> Any:
        """Return what is shown of a kept value that is not null."""
        ...


class Access(Enum):
    """Whether a field is part of answers, of requests, or of both."""

    BOTH = "both"
    SHOWN = "shown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One property. `column` is where it is kept, "" under its own name; `default` as kept.

    Interpretation: decision P16, null is absence; what is absent is not shown.
    """

    name: str
    kind: Kind
    column: str = ""
    required: bool = False
    default: Any = None
    access: Access = Access.BOTH
    key: str = dataclasses.field(init=False)
    show: Callable[[Any], Any] | None = dataclasses.field(init=False)
    """None: it is shown as it is kept, of which a long list has much."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", self.column or self.name)
        plain = isinstance(self.kind, _Plain)
        object.__setattr__(self, "show", None if plain else self.kind.show)

    def read(self, given: Mapping[str, Any], site: Site) -> Any:
        value = given.get(self.name)
        if value is not None:
            return self.kind.read(value, site)
        if self.required:
            raise Malformed("is required")
        return self.default


def read(
    fields: Sequence[Field], given: Mapping[str, Any], site: Site
) -> tuple[dict[str, Any], list[Fault]]:
    """Return what is kept of an object, by column, and everything that is wrong with it.

    Unknown properties are ignored (decision M5).
    """
    kept: dict[str, Any] = {}
    faults: list[Fault] = []
    for field in fields:
        if field.access is Access.SHOWN:
            continue
        try:
            kept[field.key] = field.read(given, site)
        except Invalid as error:
            faults += [Fault(f"{field.name}.{f.location}", f.message) for f in error.faults]
        except Malformed as error:
            faults.append(Fault(field.name, str(error)))
    return kept, faults


def show(fields: Sequence[Field], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object as it is shown, in the order of its fields."""
    shown = {}
    for field in fields:
        kept = row.get(field.key)
        if kept is not None and field.show is not None:
            kept = field.show(kept)
        if kept is not None:
            shown[field.name] = kept
    return shown


def storable(text: str) -> str:
    """Return a text that PostgreSQL and UTF-8 can hold. Raises Malformed."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Malformed("has a character that cannot be stored")
    return text


class _Plain:
    """Shown as it is kept."""

    __slots__ = ()

    def show(self, kept: Any) -> Any:
        return kept


class _Told:
    """What fpd tells and nobody sets."""

    __slots__ = ()

    def read(self, given: Any, site: Site) -> Any:
        raise Malformed("cannot be set")


@dataclass(frozen=True, slots=True)
class Text(_Plain):
    """A text that is not blank, of at most `longest` characters."""

    longest: int

    def read(self, given: Any, site: Site) -> str:
        return _text(given, self.longest)


def _text(given: Any, longest: int) -> str:
    if not isinstance(given, str):
        raise Malformed("expected a text")
    if not given.strip():
        raise Malformed("must not be blank")
    if len(given) > longest:
        raise Malformed(f"expected at most {longest} characters")
    return storable(given)


@dataclass(frozen=True, slots=True)
class Url(Text):
    """Where a peer lives: an address that may be connected to (decision M2)."""

    def read(self, given: Any, site: Site) -> str:
        url = check_url(
            _text(given, self.longest),
            require_https=site.oscp.require_https,
            allowed_networks=site.oscp.allowed_networks,
        )
        return _text(url, self.longest)  # normalising may lengthen it


@dataclass(frozen=True, slots=True)
class Template(Text):
    """A source ID template; what would break a topic of MQTT is refused (decision M11)."""

    def read(self, given: Any, site: Site) -> str:
        return source_id.checked(_text(given, self.longest))


@dataclass(frozen=True, slots=True)
class DeviceName(Text):
    """The name of a device that is configured for the user."""

    def read(self, given: Any, site: Site) -> str:
        name = _text(given, self.longest)
        if name not in site.devices:
            known = ", ".join(site.devices) or "none is configured"
            raise Malformed(f"expected the name of a configured device: {known}")
        return name


@dataclass(frozen=True, slots=True)
class Flag(_Plain):
    def read(self, given: Any, site: Site) -> bool:
        if not isinstance(given, bool):
            raise Malformed("expected true or false")
        return given


@dataclass(frozen=True, slots=True)
class Id(_Plain):
    """A whole number from 1 on; numeric texts are taken too (decision M5)."""

    def read(self, given: Any, site: Site) -> int:
        if isinstance(given, str) and given.isascii() and given.isdecimal():
            given = int(given[:20])
        if isinstance(given, float) and given.is_integer():
            given = int(given)
        if not isinstance(given, int) or isinstance(given, bool) or not 0 < given <= MOST:
            raise Malformed("expected a whole number from 1 on")
        return given


@dataclass(frozen=True, slots=True)
class Reference(Id):
    """The id of another entity of the user, which is called `noun`."""

    table: Table
    noun: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(_Plain):
    """A number from `least` to `most`, inclusive; `among`: one of these only."""

    least: float = -MOST_W
    most: float = MOST_W
    whole: bool = False
    among: tuple[int, ...] = ()

    def read(self, given: Any, site: Site) -> float:
        if not isinstance(given, int | float) or isinstance(given, bool):
            raise Malformed("expected a number")
        if not self.least <= given <= self.most:
            raise Malformed(f"expected a number from {self.least:g} to {self.most:g}")
        if self.whole and given != int(given):
            raise Malformed("expected a whole number")
        if self.among and given not in self.among:
            raise Malformed(f"expected {' or '.join(map(str, self.among))}")
        return int(given) if given == int(given) else given


@dataclass(frozen=True, slots=True)
class Choice(_Plain):
    """One of SolarNetwork's words, however it is written; kept by name."""

    among: tuple[StrEnum, ...]

    def read(self, given: Any, site: Site) -> str:
        return entities.parse(given, self.among).value


@dataclass(frozen=True, slots=True)
class Period:
    """A measurement period, kept in seconds."""

    def read(self, given: Any, site: Site) -> int:
        return entities.parse(given, tuple(entities.MeasurementPeriod)).seconds

    def show(self, kept: int) -> str:
        return entities.parse(kept, tuple(entities.MeasurementPeriod)).value


@dataclass(frozen=True, slots=True)
class Status:
    """A registration status, kept as the state of the link (decision M8)."""

    def read(self, given: Any, site: Site) -> entities.RegistrationStatus:
        return entities.parse(given, tuple(entities.RegistrationStatus))

    def show(self, kept: str) -> str:
        return entities.status_of(Link(kept)).value


@dataclass(frozen=True, slots=True)
class Styles(_Told):
    """The measurement styles that a peer has asked for, kept as on the wire."""

    def show(self, kept: Sequence[str]) -> list[str]:
        return [entities.of_wire(entities.MeasurementStyle, wire).value for wire in kept]


@dataclass(frozen=True, slots=True)
class Names(_Plain):
    """Names of datum properties, one at least."""

    def read(self, given: Any, site: Site) -> list[str]:
        if not isinstance(given, list) or not given:
            raise Malformed("expected a list of one or more names")
        if len(given) > _MOST_NAMES:
            raise Malformed(f"expected at most {_MOST_NAMES} names")
        return [_text(name, _LONGEST_NAME) for name in given]


@dataclass(frozen=True, slots=True)
class Instant(_Told):
    """An instant in UTC to the microsecond; whole seconds are shown without a fraction."""

    def show(self, kept: datetime) -> str:
        return f"{kept.astimezone(UTC).isoformat(sep=' ').removesuffix('+00:00')}Z"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An object of its own; what is absent in it is not kept. It is shown from its text, too."""

    fields: tuple[Field, ...]

    def read(self, given: Any, site: Site) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise Malformed("expected an object")
        kept, faults = read(self.fields, given, site)
        if faults:
            raise Invalid(faults)
        return {name: value for name, value in kept.items() if value is not None}

    def show(self, kept: Mapping[str, Any] | str) -> dict[str, Any] | Raw:
        if isinstance(kept, str):
            return _seen(self, kept) if len(kept) <= _SHORT else _raw(self, kept)
        return show(self.fields, kept)


def _raw(part: Part, text: str) -> Raw:
    return Raw(msgspec.json.encode(show(part.fields, msgspec.json.decode(text))))


_SHORT: Final = 1000
_seen = functools.lru_cache(maxsize=1024)(_raw)  # in long lists most are like others
