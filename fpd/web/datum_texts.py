"""Datum as text, as much of it as there is, a portion at a time: NDJSON, or CSV with its head."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from fpd.domain.aggregate import Aggregation
from fpd.errors import Malformed
from fpd.flows import datum_out as flow
from fpd.flows.context import Context
from fpd.flows.datum_out import Asked, Row
from fpd.store.datum_out import Page, Stream, Told, quoted

_encode = msgspec.json.Encoder(decimal_format="number").encode
_MOST_COLUMNS: Final = 1000
_ABOUT: Final = ("created", "nodeId", "sourceId")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is told of which streams: the latest, aggregates, or (both unset) all as it is."""

    asked: Asked
    streams: Sequence[Stream]
    aggregation: Aggregation | None = None
    latest: bool = False


async def texts(
    context: Context, wanted: Wanted, *, kind: Literal["ndjson", "csv"]
) -> AsyncIterator[str]:
    """Yield lines, many at a time; of CSV first the names of the columns.

    Those are the properties asked for, or else all there are, for which all datum are looked
    through once. Raises Malformed when there are too many of them.
    """
    asked = wanted.asked
    columns: Sequence[str] = ()
    if kind == "csv":
        columns = asked.properties or await _names(context, wanted)
        if len(columns) > _MOST_COLUMNS:
            raise Malformed(f"query.properties: there are {len(columns)}, name those to be told")
        yield ",".join(map(quoted, (*_ABOUT, *columns)))
    told = Told(
        form="csv" if kind == "csv" else "samples",
        columns=tuple(columns),
        slash=asked.slash,
        properties=() if kind == "csv" else asked.properties,
    )
    if wanted.aggregation is None:
        async for page in _pages(context, wanted, told):
            yield page.text
        return
    async for rows in flow.aggregated(context, asked, wanted.streams, wanted.aggregation):
        if kind == "csv":
            yield "\n".join(_fields(row, told) for row in rows)
        else:
            yield "\n".join(line(row, slash=asked.slash) for row in rows)


def _pages(context: Context, wanted: Wanted, told: Told) -> AsyncIterator[Page]:
    if wanted.latest:
        return flow.latest(context, wanted.streams, told)
    return flow.pages(context, wanted.asked, wanted.streams, told)


async def _names(context: Context, wanted: Wanted) -> list[str]:
    if not wanted.latest:
        return await flow.names(context, wanted.asked, wanted.streams)
    found: set[str] = set()
    async for page in flow.latest(context, wanted.streams, Told(form="samples")):
        for text in page.text.splitlines():
            samples = msgspec.json.decode(text)["samples"]
            found.update(name for of in "ias" for name in samples.get(of, ()))
    return sorted(found)


def line(row: Row, *, slash: bool) -> str:
    """Return an aggregate as a document of the form that datum are told in."""
    samples = {name: values for name, values in (("i", row.i), ("a", row.a)) if values}
    document: dict[str, Any] = {
        "created": _written(row.at),
        "nodeId": row.stream.node_id,
        "sourceId": "/" * slash + row.stream.source_id,
        "samples": samples,
    }
    return _encode(document).decode()


def _fields(row: Row, told: Told) -> str:
    values = {**row.i, **row.a}
    fields = [f"{values[name]:f}" if name in values else "" for name in told.columns]
    return ",".join([_written(row.at) + told.head(row.stream), *fields])


def _written(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
