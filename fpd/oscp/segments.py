"""Segments on the wire: which one of how many a request is, and the message that they make.

Interpretation: what X-Segment-Index orders is read both ways (decision P18). Bodies that are each
a message of their own are merged: one list goes on through all of them, everything else must be
the same. Otherwise they are pieces of one text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from fpd.domain.segments import MOST, Place
from fpd.errors import Malformed

INDEX: Final = "X-Segment-Index"
COUNT: Final = "X-Segment-Count"
_LISTS: Final = ("forecasted_blocks", "measurements")
_INTEGER: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)

_Object = dict[str, msgspec.Raw]
_objects: Final = msgspec.json.Decoder(_Object)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def are_told(headers: Mapping[str, str]) -> bool:
    """Tell whether a request says that it is a segment, in whatever way."""
    return INDEX in headers or COUNT in headers


def read(headers: Mapping[str, str]) -> Place | None:
    """Return the place of a segment, None for a message that comes whole. Raises Malformed."""
    if not are_told(headers):
        return None
    index, count = headers.get(INDEX), headers.get(COUNT)
    place = Place(_integer(INDEX, index), _integer(COUNT, count))
    if not 1 <= place.count <= MOST:
        raise Malformed(f"{COUNT}: expected 1 to {MOST}")
    if not 1 <= place.index <= place.count:
        raise Malformed(f"{INDEX}: expected 1 to {place.count}")
    return place if place.count > 1 else None


def _integer(name: str, value: str | None) -> int:
    if value is None:
        raise Malformed(f"{name}: missing")
    if not _INTEGER.fullmatch(value.strip()):
        raise Malformed(f"{name}: expected an integer")
    return int(value)


def whole(bodies: Sequence[bytes]) -> bytes:
    """Return the body that segments make, given in the order of their places.

    Raises Malformed when they are messages of their own that cannot be merged. Whether the
    result is a valid message is for others to judge.

    >>> whole([b'{"a":1,"measurements":[1.50]}', b'{"a":1,"measurements":[2]}'])
    b'{"a":1,"measurements":[1.50,2]}'
    >>> whole([b'{"a"', b":1}"])
    b'{"a":1}'
    """
    messages = []
    for body in bodies:
        try:
            messages.append(_objects.decode(body))
        except _UNREADABLE:
            # If every one were an object, all of them in a row could never be one.
            return b"".join(bodies)
    try:
        return _merged(messages)
    except _UNREADABLE as error:
        raise Malformed(f"the body is not JSON: {error}") from None


def _merged(messages: Sequence[_Object]) -> bytes:
    first = messages[0]
    shared = next((name for name in _LISTS if name in first), None)
    if shared is None:
        raise Malformed(f"segment 1: has none of {', '.join(_LISTS)} that could go on")
    lists = []
    for number, message in enumerate(messages, start=1):
        _check_equal(first, message, but=shared, number=number)
        lists.append(_inside(message, shared, number))
    joined = msgspec.Raw(b"[" + b",".join(lists) + b"]")
    return msgspec.json.encode({**first, shared: joined})


def _inside(message: _Object, name: str, number: int) -> bytes:
    """Return the text between a list's brackets."""
    text = bytes(message.get(name, b"")).strip()
    inside = text[1:-1].strip()
    if not text.startswith(b"[") or not inside:
        raise Malformed(f"segment {number}: {name}: expected a list that is not empty")
    return inside


def _check_equal(first: _Object, other: _Object, *, but: str, number: int) -> None:
    for name in sorted((first.keys() | other.keys()) - {but}):
        here, there = (message.get(name) for message in (other, first))
        if here is None or there is None or msgspec.json.decode(here) != msgspec.json.decode(there):
            raise Malformed(f"segment {number}: {name}: not as in segment 1")
