"""What somebody at a terminal says of an entity: options become the document that the API takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from fpd.errors import Malformed

if TYPE_CHECKING:
    from fpd.flows.manage.entity import Entity
    from fpd.flows.manage.fields import Field, Kind

_LARGEST = 4 * 1024 * 1024  # bytes, as the management API by default


def field_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options by which a command is told the fields of an entity: `Given`'s."""
    for option in (
        click.option(
            "--set-file",
            "from_files",
            metavar="FIELD=FILE",
            multiple=True,
            help="A field whose value is in a file (- is standard input), such as a secret: it is "
            "seen in no list of processes.",
        ),
        click.option(
            "--set",
            "assigned",
            metavar="FIELD=VALUE",
            multiple=True,
            help="Any field by its name, its parts by dots.",
        ),
        click.option("--enabled/--disabled", "enabled", default=None, help="Whether it is used."),
        click.option("--name", help="What people call it."),
        click.option(
            "--from",
            "document",
            type=click.File("rb"),
            metavar="FILE",
            help="JSON as the management API takes it (- is standard input).",
        ),
    ):
        command = option(command)
    return command


class Given:
    """What the options of `field_options` say; `unset` are fields that are to go."""

    def __init__(
        self,
        entity: Entity,
        *,
        document: Any = None,
        name: str | None = None,
        enabled: bool | None = None,
        assigned: Sequence[str] = (),
        from_files: Sequence[str] = (),
        unset: Sequence[str] = (),
    ) -> None:
        self._entity = entity
        self.document: dict[str, Any] | None = None if document is None else _read(document)
        self._assigned = [_pair("--set", text) for text in assigned]
        for text in from_files:
            path, file = _pair("--set-file", text)
            self._assigned.append((path, _content(path, file)))
        if name is not None:
            self._assigned.append(("name", name))
        if enabled is not None:
            self._assigned.append(("enabled", json.dumps(enabled)))
        self._unset = unset
        if self.document is None and not self._assigned and not unset:
            raise click.UsageError("say what it is: --from FILE, or --set FIELD=VALUE and the like")

    def revise(self, shown: dict[str, Any]) -> dict[str, Any]:
        """Return `shown`, or the document in its place, with what was said field by field.

        Raises Malformed for a field that is none.
        """
        revised = dict(shown) if self.document is None else self.document
        for path in self._unset:
            _place(revised, self._entity.fields, path, None)
        for path, text in self._assigned:
            _place(revised, self._entity.fields, path, text)
        return revised


def fields_epilog(of: Sequence[Field], before: str = "") -> list[str]:
    """Return the names of all fields that can be set."""
    from fpd.flows.manage.fields import Access, Part

    names = []
    for field in of:
        if field.access is Access.SHOWN:
            continue
        if isinstance(field.kind, Part):
            names += fields_epilog(field.kind.fields, f"{before}{field.name}.")
        else:
            names.append(before + field.name)
    return names


def _place(
    given: dict[str, Any], of: Sequence[Field], path: str, text: str | None, before: str = ""
) -> None:
    from fpd.flows.manage.fields import Access, Part
    from fpd.flows.manage.service_props import ServiceProps

    name, dot, rest = path.partition(".")
    field = next((f for f in of if f.name == name and f.access is Access.BOTH), None)
    if field is None or (dot and not isinstance(field.kind, Part | ServiceProps)):
        known = ", ".join(fields_epilog(of, before))
        raise Malformed(f"{before}{path}: expected one of {known}")
    if not dot:
        given[name] = None if text is None else _value(field.kind, text)
        return
    inner = given[name] = dict(given.get(name) or {})
    if isinstance(field.kind, Part):
        _place(inner, field.kind.fields, rest, text, f"{before}{name}.")
    else:
        _place_property(inner, rest, text)


def _place_property(given: dict[str, Any], path: str, text: str | None) -> None:
    """Set a service property; names of headers and of properties may have dots themselves."""
    from fpd.flows.manage.service_props import KNOWN
    from fpd.store.service_props import HEADERS, URL_PATHS

    name, dot, rest = path.partition(".")
    if dot and name in (HEADERS, URL_PATHS):
        given[name] = {**(given.get(name) or {}), rest: text}
    elif text is None or (path in KNOWN and path not in (HEADERS, URL_PATHS)):
        given[path] = text
    else:
        given[path] = _json(text)


def _value(kind: Kind, text: str) -> Any:
    from fpd.flows.manage import fields

    match kind:
        case fields.Text() | fields.Choice() | fields.Period() | fields.Status():
            return text
        case fields.Names() if not text.startswith("["):
            return [name.strip() for name in text.split(",")]
    return _json(text)


def _json(text: str) -> Any:
    """Return what a text says in JSON, else the text: whoever takes it says what is wrong."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _pair(option: str, text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise Malformed(f"{option} {text}: expected FIELD=VALUE")
    return path, value


def _content(path: str, file: str) -> str:
    try:
        with click.open_file(file) as stream:
            text: str = stream.read(_LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"--set-file {path}: {error}") from None
    return text.rstrip("\r\n")


def _read(stream: Any) -> dict[str, Any]:
    from fpd.web.body import shallow
    from fpd.web.manage.requests import read_document

    raw = stream.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise Malformed(f"--from: expected at most {_LARGEST} bytes")
    return read_document(shallow(raw))
