"""A datum as it is kept: its properties as JSON text, its time as a number.

What most sources send, short JSON with plain numbers and texts, is taken over as it stands, at a
third of the cost of reading it property by property. Whatever is not plain is judged by
`fpd.domain.datum`, and a test holds the two to the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from fpd.domain.datum import ABOUT, EPOCH, MOST_PROPERTIES, Datum, StreamKey, is_name

_MICROSECOND: Final = timedelta(microseconds=1)
_FUTURE_US: Final = timedelta(days=1) // _MICROSECOND  # clocks may be wrong, but not by more
_MOST_NAMES: Final = 10_000

# Of a plain number all digits count, so what is kept is exact; a plain text has no escapes.
_number: Final = re.compile(rb"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?").fullmatch
_created: Final = re.compile(rb"[1-9][0-9]{0,13}").fullmatch
_status: Final = re.compile(
    rb'-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?|true|false|"[ !#-\[\]-~]{0,4096}"'
).fullmatch
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Samples(msgspec.Struct, gc=False):
    i: dict[str, msgspec.Raw] | None = None
    a: dict[str, msgspec.Raw] | None = None
    s: dict[str, msgspec.Raw] | None = None
    t: msgspec.Raw = msgspec.Raw()


_samples: Final = msgspec.json.Decoder(_Samples).decode

# By name, how it begins a property. Names are few, and to judge one costs more than its value.
_names: dict[str, bytes] = {}


class Packed(NamedTuple):
    """`at_us`: µs since 1970. `i`, `a`, `s`: a JSON object each, empty when there is none."""

    stream: StreamKey
    at_us: int
    i: bytes
    a: bytes
    s: bytes
    t: tuple[str, ...]

    @property
    def key(self) -> tuple[StreamKey, int]:
        """What there is one datum of."""
        return self.stream, self.at_us

    @property
    def at(self) -> datetime:
        return instant(self.at_us)


def pack(datum: Datum) -> Packed:
    """Return a datum as it is kept."""
    return Packed(
        datum.stream,
        microseconds(datum.at),
        _encode(datum.i) if datum.i else b"",
        _encode(datum.a) if datum.a else b"",
        _encode(datum.s) if datum.s else b"",
        datum.t,
    )


def microseconds(instant: datetime) -> int:
    """Return an instant as µs since 1970."""
    return (instant - EPOCH) // _MICROSECOND


def instant(microseconds: int) -> datetime:
    """Return what is so many µs after 1970."""
    return EPOCH + microseconds * _MICROSECOND


def is_timely(datum: Packed, *, now_us: int, retention_us: int) -> bool:
    """Return whether the datum is neither absurdly new nor older than what is kept."""
    return -retention_us <= datum.at_us - now_us <= _FUTURE_US


def read_plain(payload: bytes, *, stream: StreamKey, received_us: int) -> Packed | None:
    """Return what `datum.read` says of a JSON document, if that is plain to see.

    None says nothing about the document but that it must be read the long way.
    """
    try:
        fields = _fields(payload)
        created, samples = fields.pop("created", None), fields.get("samples")
        at_us = received_us
        if created is not None:
            text = bytes(created)
            if not _created(text):
                return None
            at_us = int(text) * 1000
        if samples is None:
            return _flat(stream, at_us, fields)
        return _classed(stream, at_us, _samples(samples))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _flat(stream: StreamKey, at_us: int, fields: Mapping[str, msgspec.Raw]) -> Packed | None:
    numbers, statuses = [], []
    for name, raw in fields.items():
        if name in ABOUT:
            if name == "tags":
                return None
            continue
        begins = _names.get(name) or _begin(name)
        value = bytes(raw)
        if not begins:
            return None
        if _number(value):
            numbers.append(begins + value)
        elif _status(value):
            statuses.append(begins + value)
        else:
            return None
    if not 0 < len(numbers) + len(statuses) <= MOST_PROPERTIES:
        return None
    return Packed(stream, at_us, _object(numbers), b"", _object(statuses), ())


def _classed(stream: StreamKey, at_us: int, samples: _Samples) -> Packed | None:
    if samples.t:
        return None
    i, a, s = (
        _properties(samples.i, _number),
        _properties(samples.a, _number),
        _properties(samples.s, _status),
    )
    if i is None or a is None or s is None:
        return None
    if not 0 < len(i) + len(a) + len(s) <= MOST_PROPERTIES:
        return None
    return Packed(stream, at_us, _object(i), _object(a), _object(s), ())


def _properties(
    fields: Mapping[str, msgspec.Raw] | None, is_plain: Callable[[bytes], object]
) -> list[bytes] | None:
    found: list[bytes] = []
    for name, raw in (fields or {}).items():
        begins, value = _names.get(name) or _begin(name), bytes(raw)
        if not begins or not is_plain(value):
            return None
        found.append(begins + value)
    return found


def _object(properties: list[bytes]) -> bytes:
    return b"{" + b",".join(properties) + b"}" if properties else b""


def _begin(name: str) -> bytes:
    """Return how a property of this name begins, empty when it may not be called so."""
    if not is_name(name):
        return b""
    if len(_names) >= _MOST_NAMES:
        _names.clear()
    begins = _names[name] = _encode(name) + b":"
    return begins
