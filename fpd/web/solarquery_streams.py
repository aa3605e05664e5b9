"""`/solarquery/api/v1/sec/datum/stream/…`: datum as arrays, their names told once per stream.

Source: SolarQuery Stream API and "Datum stream datum", "Datum stream aggregate" of SolarQuery API
global objects, as `solarnetwork-api-core` 3.x reads them: `meta` describes streams, each array of
`data` begins with the place of its stream there and its time (ms since 1970; of a period its start
and end), then come values in the order of `i`, `a` and `s`, then tags. Of a period an `i` is [mean,
count, least, most], an `a` [gained, level at the start, level at the end].

Interpretation: streams have numbers here, so the UUID that they are told by is made of what names
them. Interpretation: without `max` at most 10,000 are told, where SolarNetwork tells all;
`totalResults` says whether there are more. JSON only.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec
from aiohttp import web

from fpd.domain.aggregate import Aggregation, Calendar
from fpd.domain.datum import EPOCH
from fpd.flows import datum_out as flow
from fpd.flows.datum_out import Asked, Row
from fpd.flows.datum_readings import Read
from fpd.store.datum_out import Stream, Told
from fpd.web import solarquery
from fpd.web.datum_out import listed, paced
from fpd.web.keys import CONTEXT

_NAMESPACE: Final = uuid.UUID("3f0c2f6e-8a55-4b43-9a0f-0a0f1c9b7d52")
_MILLISECOND: Final = timedelta(milliseconds=1)
_BREATH: Final = 250  # datum written without letting others work
_encode = msgspec.json.Encoder(decimal_format="number").encode


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of these doors."""
    prefix = f"{solarquery.PREFIX}/datum/stream"
    return [web.get(f"{prefix}/datum", _datum), web.get(f"{prefix}/reading", _reading)]


class _Samples(msgspec.Struct, gc=False):
    i: dict[str, msgspec.Raw] = {}
    a: dict[str, msgspec.Raw] = {}
    s: dict[str, msgspec.Raw] = {}
    t: list[str] = []


class _Line(msgspec.Struct, rename="camel", gc=False):
    created: datetime
    node_id: int
    source_id: str
    samples: _Samples


_lines: Final = msgspec.json.Decoder(list[_Line]).decode


class _Table:
    """Streams and their datum as they are told."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._streams: dict[tuple[int, str], int] = {}
        self._names: list[dict[str, dict[str, None]]] = []  # of each stream by class, in order
        self._rows: list[tuple[int, Any, Mapping[str, Mapping[str, Any]], Sequence[str]]] = []

    def add(
        self,
        node_id: int,
        source_id: str,
        at: Any,
        values: Mapping[str, Mapping[str, Any]],
        tags: Sequence[str] = (),
    ) -> None:
        """Add a datum: its values by class and name."""
        place = self._streams.setdefault((node_id, source_id), len(self._streams))
        if place == len(self._names):
            self._names.append({"i": {}, "a": {}, "s": {}})
        for kind, names in self._names[place].items():
            names |= dict.fromkeys(values.get(kind, ()))
        self._rows.append((place, at, values, tags))

    async def told(self, offset: int, total: int | None) -> web.Response:
        """Return the answer."""
        parts = []
        for first in range(0, len(self._rows), _BREATH):
            rows = [self._row(*row) for row in self._rows[first : first + _BREATH]]
            parts.append(_encode(rows)[1:-1])
            await asyncio.sleep(0)
        head: dict[str, Any] = {"success": True}
        if total is not None:
            head["totalResults"] = total
        head |= {"startingOffset": offset, "returnedResultCount": len(self._rows)}
        head["meta"] = [self._meta(*key, place) for key, place in self._streams.items()]
        body = _encode(head)[:-1] + b',"data":[' + b",".join(parts) + b"]}"
        return web.Response(body=body, content_type="application/json")

    def _row(
        self, place: int, at: Any, values: Mapping[str, Mapping[str, Any]], tags: Sequence[str]
    ) -> list[Any]:
        row = [place, at]
        for kind, names in self._names[place].items():
            found = values.get(kind, {})
            row += [found.get(name) for name in names]
        return [*row, *tags]

    def _meta(self, node_id: int, source_id: str, place: int) -> dict[str, Any]:
        return {
            "streamId": _stream_id(self._asked.user_id, node_id, source_id.lstrip("/")),
            "zone": "UTC",
            "kind": "n",
            "objectId": node_id,
            "sourceId": source_id,
            **{kind: list(names) for kind, names in self._names[place].items()},
        }


def _stream_id(user_id: int | None, node_id: int, source_id: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{user_id}/{node_id}/{source_id}"))


async def _datum(request: web.Request) -> web.Response:
    """List datum of streams as they are, aggregated, or the newest of each: `mostRecent=true`."""
    query, asked = await solarquery.question(request)
    limit, offset = solarquery.page_of(query, solarquery.MOST)
    aggregation = solarquery.aggregation_of(query)
    wanted = await _streams(request, asked)
    table = _Table(asked)
    if aggregation is not None:
        rows = await solarquery.rows_of(
            request, asked, wanted, aggregation, limit, offset, with_levels=True
        )
        for row in rows:
            _add_period(table, asked, row, aggregation)
        return await table.told(offset, None)
    told = Told(form="samples", separator=",", slash=asked.slash, properties=asked.properties)
    if query.text("mostRecent") == "true":
        pages = flow.latest(
            request.app[CONTEXT], wanted[: solarquery.MOST], told, limit=solarquery.MOST
        )
        found = [page.text async for page in paced(request, pages)]
        text, total, offset = ",".join(filter(None, found)), None, 0
    else:
        text, _, total = await solarquery.texts_of(
            request, query, asked, wanted, told, limit, offset
        )
    for line in _lines(f"[{text}]"):
        _add_line(table, asked, line)
    return await table.told(offset, total)


async def _reading(request: web.Request) -> web.Response:
    """List what registers of streams read: `readingType` as for `/datum/reading`."""
    query, asked = await solarquery.question(request)
    wanted = await _streams(request, asked)
    found, total, offset = await solarquery.readings_of(request, query, asked, wanted)
    table = _Table(asked)
    aggregation = solarquery.aggregation_of(query)
    for one in found:
        if isinstance(one, Read):
            _add_read(table, asked, one)
        elif aggregation is not None:
            _add_period(table, asked, one, aggregation)
    return await table.told(offset, total)


async def _streams(request: web.Request, asked: Asked) -> list[Stream]:
    """Return the streams that are meant, also by `streamIds`."""
    wanted = await flow.streams(request.app[CONTEXT], asked)
    ids = frozenset(map(str.lower, listed(request, "streamId", "streamIds")))
    if not ids:
        return wanted
    return [s for s in wanted if _stream_id(s.user_id, s.node_id, s.source_id) in ids]


def _add_line(table: _Table, asked: Asked, line: _Line) -> None:
    samples = line.samples
    known = {name: value for name, value in samples.i.items() if name in asked.registers}
    i = {name: value for name, value in samples.i.items() if name not in known}
    values = {"i": i, "a": {**known, **samples.a}, "s": samples.s}
    table.add(line.node_id, line.source_id, _ms(line.created), values, samples.t)


def _add_period(table: _Table, asked: Asked, row: Row, aggregation: Aggregation | Calendar) -> None:
    if isinstance(aggregation, Calendar):
        end_at = aggregation.following(row.at)
    else:
        end_at = row.at + aggregation.length
    i = {
        name: [value, row.i[f"{name}_count"], row.i[f"{name}_min"], row.i[f"{name}_max"]]
        for name, value in row.i.items()
        if f"{name}_count" in row.i
    }
    _add(table, asked, row.stream, [_ms(row.at), _ms(end_at)], {"i": i, "a": _levels(row.a)})


def _add_read(table: _Table, asked: Asked, read: Read) -> None:
    end = None if read.end_at is None else _ms(read.end_at)
    _add(table, asked, read.stream, [_ms(read.start_at), end], {"a": _levels(read.values)})


def _add(
    table: _Table,
    asked: Asked,
    stream: Stream,
    span: Sequence[int | None],
    values: Mapping[str, Mapping[str, Any]],
) -> None:
    table.add(stream.node_id, "/" * asked.slash + stream.source_id, span, values)


def _levels(values: Mapping[str, Decimal]) -> dict[str, list[Decimal | None]]:
    """Return what each register gained and its levels; of a reading at an instant, its level."""
    edges = {f"{name}{edge}" for name in values for edge in ("_start", "_end")}
    return {
        name: [value, values.get(f"{name}_start"), values.get(f"{name}_end")]
        for name, value in values.items()
        if name not in edges or f"{name}_start" in values
    }


def _ms(at: datetime) -> int:
    return (at - EPOCH) // _MILLISECOND
