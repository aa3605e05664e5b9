"""What one MQTT message brings: a datum, or a list of them, each judged on its own.

Interpretation: a list is an array in JSON or CBOR. Under a topic that names a stream all its datum
are of that stream (decision D4); under SolarNetwork's `node/{nodeId}/datum`, which names none, each
says its `sourceId`, and the node is still the topic's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from fpd.domain.datum import StreamKey, stream_key
from fpd.domain.packed import Packed
from fpd.errors import Malformed
from fpd.flows.judging import Judge, Refused
from fpd.mqtt import codec

MOST: Final = 2000
"""Datum in one message; to judge more would keep all others waiting."""


class Node(NamedTuple):
    """Whose datum a topic brings that names no stream."""

    user_id: int
    node_id: int


class _Whose(msgspec.Struct, rename="camel", gc=False):
    source_id: str


_read_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_whose: Final = msgspec.json.Decoder(_Whose).decode

Refuse = Callable[[Refused, bytes], None]


def is_plain(payload: bytes) -> bool:
    """Return whether a payload is an object in JSON, as nearly all are: one datum at most."""
    return payload[:1] == b"{"


def read(
    payload: bytes, place: StreamKey | Node, judge: Judge, *, received_us: int, refuse: Refuse
) -> list[Packed]:
    """Return the datum that a message brings; `refuse` is told of each that is none.

    Without a time of its own each is of a microsecond of its own from `received_us` on. Raises
    Refused when nothing of the message can be read.
    """
    if len(payload) <= codec.LONGEST and payload.lstrip(b" \t\r\n")[:1] in (b"{", b"["):
        parts: Sequence[object] = _of_json(payload)
    else:
        parts = _of_cbor(payload)
    if len(parts) > MOST:
        raise Refused("malformed", f"{len(parts)} datum in one message, not at most {MOST}")
    found = []
    for at_us, part in enumerate(parts, received_us):
        try:
            stream = _stream(place, part)
            if isinstance(part, bytes):
                found.append(judge.read(part, stream=stream, received_us=at_us))
            else:
                found.append(judge.judged(part, stream=stream, received_us=at_us))
        except Refused as why:
            refuse(why, part if isinstance(part, bytes) else payload)
    return found


def _of_json(payload: bytes) -> list[bytes]:
    """Return the texts of all datum in a payload."""
    if payload.lstrip(b" \t\r\n")[:1] == b"{":
        return [payload]
    try:
        return [bytes(one) for one in _read_list(payload)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("malformed", f"not JSON: {error}") from None


def _of_cbor(payload: bytes) -> Sequence[object]:
    try:
        document = codec.decode(payload)
    except Malformed as error:
        raise Refused("malformed", str(error)) from None
    # A text in CBOR is no datum; as bytes it would be taken for one in JSON.
    found = document if isinstance(document, list | tuple) else [document]
    return [None if isinstance(one, bytes) else one for one in found]


def _stream(place: StreamKey | Node, part: object) -> StreamKey:
    if isinstance(place, StreamKey):
        return place
    stream = stream_key(*place, _source_id(part))
    if stream is None:
        raise Refused("malformed", "sourceId: no stream may be called so")
    return stream


def _source_id(part: object) -> str:
    if isinstance(part, bytes):
        try:
            return _read_whose(part).source_id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refused("malformed", f"sourceId: {error}") from None
    source_id = part.get("sourceId") if isinstance(part, Mapping) else None
    if not isinstance(source_id, str):
        raise Refused("malformed", "sourceId: not a text")
    return source_id
