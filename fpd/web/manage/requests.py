"""What a request says: its body, the id in its path, the page that it wants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from aiohttp import web

from fpd.errors import Malformed
from fpd.flows.manage.fields import MOST
from fpd.flows.manage.refusals import Fault, Invalid, Unreadable, absent
from fpd.web.body import Undecodable, json_body

_LARGEST_PAGE = 10_000


class _Repeated(ValueError):
    """An object has a key twice; the text is the key."""


async def document(request: web.Request) -> Mapping[str, Any]:
    """Return the JSON object in the body. Raises as `read_document` and `json_body`."""
    try:
        raw = await json_body(request)
    except Undecodable as error:
        raise Unreadable(str(error), []) from None
    return read_document(raw)


def read_document(raw: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises Unreadable when it is not JSON or repeats a key, Invalid when it is no object.
    """
    try:
        # RFC 8259 says UTF-8; left to itself json would guess at other encodings.
        said = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_not_json)
    except _Repeated as error:
        fault = Fault(str(error), "is given twice")
        raise Unreadable("the body repeats a key", [fault]) from None
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the body is not JSON: {error}", []) from None
    if not isinstance(said, dict):
        raise Invalid([Fault("", "expected an object")])
    return said


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for name, value in pairs:
        if name in seen:
            raise _Repeated(name)
        seen[name] = value
    return seen


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def path_id(request: web.Request, name: str) -> int:
    """Return an id out of the path. Raises Absent for what no id can be."""
    try:
        return whole_number(request.match_info[name], 1, MOST)
    except Malformed:
        raise absent(name) from None


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted (decision M9)."""

    offset: int
    limit: int


def wanted_page(request: web.Request) -> Page | None:
    """Return the page that `max` and `offset` ask for, None when the whole list is wanted.

    Raises Invalid, naming each that is out of range.
    """
    if not {"max", "offset"} & set(request.query):
        return None
    faults: list[Fault] = []

    def number(name: str, default: int, least: int, most: int) -> int:
        text = request.query.get(name, str(default))
        try:
            return whole_number(text, least, most)
        except Malformed as error:
            faults.append(Fault(f"query.{name}", str(error)))
            return default

    page = Page(number("offset", 0, 0, MOST), number("max", _LARGEST_PAGE, 1, _LARGEST_PAGE))
    if faults:
        raise Invalid(faults)
    return page


def whole_number(text: str, least: int, most: int) -> int:
    """Return a number that is written in digits. Raises Malformed."""
    if text.isascii() and text.isdecimal() and len(text) <= len(str(most)):
        number = int(text)
        if least <= number <= most:
            return number
    raise Malformed(f"expected a whole number from {least} to {most}")
