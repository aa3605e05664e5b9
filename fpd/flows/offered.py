"""Datum that somebody offers all at once, by HTTP: judged one by one, kept in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from fpd.domain.datum import StreamKey, stream_key
from fpd.domain.packed import Packed, microseconds
from fpd.errors import Malformed
from fpd.flows import ingest
from fpd.flows.context import Context
from fpd.flows.judging import Batch, Judge, Refused

MOST: Final = 50_000
"""Datum that are taken at once."""

_SLICE: Final = 200  # judged before others get their turn
_MOST_COMMAS: Final = 40 * MOST


class _Many(msgspec.Struct, gc=False):
    datum: list[msgspec.Raw]


class _Whose(msgspec.Struct, rename="camel", gc=False):
    node_id: int
    source_id: str


_read_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_many: Final = msgspec.json.Decoder(_Many).decode
_read_any: Final = msgspec.json.Decoder(msgspec.Raw).decode
_read_whose: Final = msgspec.json.Decoder(_Whose).decode


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Why one of them was not kept; `index` counts from 0 in the order given."""

    index: int
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of the datum that were offered; those kept are committed."""

    kept: int
    faults: Sequence[Fault]


def split(body: bytes) -> list[bytes]:
    """Return the documents of a JSON body: one, an array of them, or `{"datum": […]}`.

    Raises Malformed.
    """
    if body.count(b",") > _MOST_COMMAS:
        raise Malformed(f"expected at most {MOST} datum")
    try:
        found: list[msgspec.Raw]
        if body.lstrip()[:1] == b"[":
            found = _read_array(body)
        else:
            found = [_read_any(body)]
            if b'"datum"' in body:
                found = _nested(body) or found
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {error}") from None
    return _few([bytes(one) for one in found])


def _nested(body: bytes) -> list[msgspec.Raw] | None:
    try:
        return _read_many(body).datum
    except msgspec.ValidationError:
        return None  # a property is called so


def lines(body: bytes) -> list[bytes]:
    """Return the documents of newline-delimited JSON; empty lines are none. Raises Malformed."""
    if body.count(b"\n") > 2 * MOST:
        raise Malformed(f"expected at most {MOST} datum")
    return _few([line for line in map(bytes.strip, body.split(b"\n")) if line])


def _few(documents: list[bytes]) -> list[bytes]:
    if len(documents) > MOST:
        raise Malformed(f"expected at most {MOST} datum, not {len(documents)}")
    return documents


async def keep(context: Context, judge: Judge, documents: Sequence[bytes], *, user_id: int) -> Kept:
    """Keep what can be kept, as streams of the user. Raises Unavailable: nothing is kept then."""
    now = context.clock()
    received_us = microseconds(now)
    batch = Batch("http")
    faults = []
    places: dict[tuple[StreamKey, int], int] = {}
    for index, document in enumerate(documents):
        if index and not index % _SLICE:
            await asyncio.sleep(0)
        try:
            datum = _judged(judge, document, user_id, received_us + index)
        except Refused as why:
            faults.append(Fault(index, why.outcome, str(why)))
            batch.refuse(why, source=f"user {user_id}", user_id=user_id, payload=document, at=now)
            continue
        batch.keep(datum)
        places[datum.key] = index
    await ingest.commit(context, batch)
    judge.tell(batch)
    lost = places.keys() - batch.rows.keys()
    faults += [Fault(places[key], "unstorable", "it cannot be stored") for key in lost]
    return Kept(batch.kept, sorted(faults))


def _judged(judge: Judge, document: bytes, user_id: int, received_us: int) -> Packed:
    try:
        whose = _read_whose(document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Refused("malformed", str(error)) from None
    stream = stream_key(user_id, whose.node_id, whose.source_id)
    if stream is None:
        raise Refused("malformed", "nodeId and sourceId: no stream may be called so")
    return judge.read(document, stream=stream, received_us=received_us)
