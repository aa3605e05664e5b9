"""`/solarquery/api/v1/sec/…`: what SolarNetwork's own tools ask to plot streams.

Source: SolarQuery API as `solarnetwork-api-core` 3.x and `solarnetwork-datum-loader` 3.x call it.
Interpretation: nodes have no time zone here, so what is local is UTC, days, weeks, months and
years too. Interpretation: source ids are told with a leading slash when they are asked for with
one. What is asked for streams in SolarNetwork's shorter writing is in `solarquery_streams`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec
from aiohttp import web

from fpd.domain.aggregate import AGGREGATIONS, Aggregation, Calendar
from fpd.errors import Malformed
from fpd.flows import datum_out as flow
from fpd.flows import datum_readings
from fpd.flows.datum_out import Asked, Row
from fpd.flows.datum_readings import TYPES, Read
from fpd.store import datum_sorted
from fpd.store.datum_out import EARLIEST, Stream, Told
from fpd.web import sorts as orders
from fpd.web.credentials import authenticate
from fpd.web.datum_out import READERS, listed, numbers, paced
from fpd.web.keys import CONTEXT
from fpd.web.query import Query

PREFIX: Final = "/solarquery/api/v1/sec"
MOST: Final = 10_000
EVERY: Final = (*AGGREGATIONS, *Calendar)
_MOST_SORTED: Final = 200_000  # rows that may be compared for an answer
_USUAL: Final = 1000
_MOST_OFFSET: Final = 10**9
_AHEAD: Final = timedelta(days=1)
_AGES: Final = timedelta(days=366 * 500)  # forecasts may be of any time to come
_FILTER: Final = (
    "nodeId", "nodeIds", "sourceId", "sourceIds", "startDate", "endDate", "localStartDate",
    "localEndDate", "aggregation", "mostRecent", "withoutTotalResultsCount", "propertyName",
    "propertyNames", "instantaneousPropertyName", "instantaneousPropertyNames",
    "accumulatingPropertyName", "accumulatingPropertyNames", "statusPropertyName",
    "statusPropertyNames", "withNodeIds", "readingType", "tolerance", "max", "offset",
)  # fmt: skip
_STREAM: Final = (*_FILTER, "streamId", "streamIds")
# What is asked where.
PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "/datum/list": (*_FILTER, *orders.NAMES),
    "/datum/mostRecent": _FILTER,
    "/datum/most-recent": _FILTER,
    "/datum/reading": (*_FILTER, *orders.NAMES),
    "/datum/stream/datum": (*_STREAM, *orders.NAMES),
    "/datum/stream/reading": (*_STREAM, *orders.NAMES),
    "/range/interval": _FILTER,
    "/range/sources": _FILTER,
    "/nodes": (),
    "/nodes/sources": _FILTER,
}
_TOLERANCE = re.compile(r"P(?:(\d{1,4})D)?(?:T(?:(\d{1,4})H)?(?:(\d{1,5})M)?(?:(\d{1,6})S)?)?")
_encode = msgspec.json.Encoder(decimal_format="number").encode


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of these doors."""
    doors = {
        "/datum/list": _list,
        "/datum/mostRecent": _most_recent,
        "/datum/most-recent": _most_recent,
        "/datum/reading": _reading,
        "/range/interval": _interval,
        "/range/sources": _sources,
        "/nodes": _nodes,
        "/nodes/sources": _node_sources,
    }
    return [web.get(PREFIX + path, door) for path, door in doors.items()]


async def _list(request: web.Request) -> web.Response:
    """List datum as they are, aggregated, or the newest of each stream: `mostRecent=true`."""
    query, asked = await question(request)
    if query.text("mostRecent") == "true":
        return await _newest(request, asked)
    aggregation = aggregation_of(query)
    limit, offset = page_of(query)
    wanted = await flow.streams(request.app[CONTEXT], asked)
    if aggregation is not None:
        rows = await rows_of(request, asked, wanted, aggregation, limit, offset)
        return _results([_flat(row, asked) for row in rows], offset)
    text, count, total = await texts_of(request, query, asked, wanted, _told(asked), limit, offset)
    return _text_results(text, count, offset, total)


async def texts_of(
    request: web.Request,
    query: Query,
    asked: Asked,
    wanted: Sequence[Stream],
    told: Told,
    limit: int,
    offset: int,
) -> tuple[str, int, int | None]:
    """Return a page of datum as text, how many they are, and how many there are if that is asked.

    Raises Malformed when too many would have to be put in order.
    """
    context = request.app[CONTEXT]
    sorts = orders.read(request.query)
    counting = query.text("withoutTotalResultsCount") != "true"
    total, after = None, None
    if counting or (offset and not sorts):
        total, after = await flow.counted(context, asked, wanted, offset=0 if sorts else offset)
    if not sorts:
        async with request.app[READERS]:
            page = await flow.page(context, asked, wanted, told, after=after, limit=limit)
        return page.text, page.count, total if counting else None
    if (offset + limit) * len(wanted) > _MOST_SORTED:
        raise Malformed("query.sorts: too many streams or too large an offset to put in order")
    async with request.app[READERS], context.db.connection() as conn:
        text, count = await datum_sorted.page(
            conn,
            wanted,
            told,
            sorts,
            start_at=asked.start_at,
            end_at=asked.end_at,
            offset=offset,
            limit=limit,
        )
    return text, count, total


def _told(asked: Asked) -> Told:
    return Told(form="flat", separator=",", slash=asked.slash, properties=asked.properties)


async def _most_recent(request: web.Request) -> web.Response:
    """List the newest datum of each stream."""
    _, asked = await question(request)
    return await _newest(request, asked)


async def _newest(request: web.Request, asked: Asked) -> web.Response:
    wanted = await flow.streams(request.app[CONTEXT], asked)
    told = _told(asked)
    pages = flow.latest(request.app[CONTEXT], wanted[:MOST], told, limit=MOST)
    texts, count = [], 0
    async for page in paced(request, pages):
        texts.append(page.text)
        count += page.count
    return _text_results(",".join(filter(None, texts)), count, 0, count)


async def _reading(request: web.Request) -> web.Response:
    """List what registers read: `readingType` Difference, CalculatedAtDifference and others."""
    query, asked = await question(request)
    wanted = await flow.streams(request.app[CONTEXT], asked)
    found, total, offset = await readings_of(request, query, asked, wanted)
    rows = [_flat(one, asked) if isinstance(one, Row) else _read(one, asked) for one in found]
    return _results(rows, offset, total=total)


async def readings_of(
    request: web.Request, query: Query, asked: Asked, wanted: Sequence[Stream]
) -> tuple[Sequence[Row | Read], int | None, int]:
    """Return what registers read, of how many streams if that is known, and from which one on."""
    kind = query.one_of("readingType", TYPES)
    if kind is None:
        raise Malformed(f"query.readingType: expected one of {', '.join(TYPES)}")
    tolerance = _tolerance(query.text("tolerance"))
    aggregation = aggregation_of(query)
    limit, offset = page_of(query)
    if aggregation is not None:
        rows = await rows_of(request, asked, wanted, aggregation, limit, offset, kind="a")
        return rows, None, offset
    if "startDate" not in request.query and "localStartDate" not in request.query:
        raise Malformed("query.startDate: missing")
    wanted = orders.ordered(
        wanted, orders.read(request.query), lambda stream: (stream, asked.start_at)
    )
    async with request.app[READERS]:
        found = await datum_readings.read(
            request.app[CONTEXT], asked, wanted[offset : offset + limit], kind, tolerance=tolerance
        )
    return found, len(wanted), offset


async def _interval(request: web.Request) -> web.Response:
    """Tell from when to when there are datum."""
    _, asked = await question(request)
    context = request.app[CONTEXT]
    wanted = await flow.streams(context, asked)
    found = await flow.interval(context, wanted)
    if found is None:
        return _success({"timeZone": "UTC", "dayCount": 0, "monthCount": 0, "yearCount": 0})
    start, end = found
    months = (end.year - start.year) * 12 + end.month - start.month + 1
    return _success(
        {
            "timeZone": "UTC",
            "startDate": _written(start),
            "endDate": _written(end),
            "startDateMillis": int(start.timestamp() * 1000),
            "endDateMillis": int(end.timestamp() * 1000),
            "dayCount": (end.date() - start.date()).days + 1,
            "monthCount": months,
            "yearCount": end.year - start.year + 1,
        }
    )


async def _sources(request: web.Request) -> web.Response:
    """List the source ids there are, with `withNodeIds=true` each with its node."""
    query, asked = await question(request)
    wanted = await flow.streams(request.app[CONTEXT], asked)
    if query.text("withNodeIds") == "true":
        pairs = [{"nodeId": s.node_id, "sourceId": _source_id(s, asked)} for s in wanted]
        return _success(sorted(pairs, key=lambda pair: (pair["nodeId"], pair["sourceId"])))
    return _success(sorted({_source_id(stream, asked) for stream in wanted}))


async def _node_sources(request: web.Request) -> web.Response:
    """List the source ids of nodes, with `withNodeIds=true` each with its node."""
    return await _sources(request)


async def _nodes(request: web.Request) -> web.Response:
    """List the ids of the nodes that have streams."""
    _, asked = await question(request)
    wanted = await flow.streams(request.app[CONTEXT], asked)
    return _success(sorted({stream.node_id for stream in wanted}))


async def question(request: web.Request) -> tuple[Query, Asked]:
    """Return what is asked of these doors. Raises Malformed, and what `authenticate` does."""
    user_id = await authenticate(request)
    others = {name: text for name, text in request.query.items() if not orders.is_sort(name)}
    query = Query(others, PARAMETERS[request.path.removeprefix(PREFIX)])
    start_at = query.instant("startDate") or query.instant("localStartDate")
    end_at = query.instant("endDate") or query.instant("localEndDate")
    now = request.app[CONTEXT].clock()
    registers = listed(request, "accumulatingPropertyName", "accumulatingPropertyNames")
    plain = listed(
        request,
        *("propertyName", "propertyNames", "instantaneousPropertyName"),
        *("instantaneousPropertyNames", "statusPropertyName", "statusPropertyNames"),
    )
    return query, Asked(
        user_id=user_id,
        start_at=start_at or EARLIEST,
        end_at=end_at or (now + _AHEAD if aggregation_of(query) else now + _AGES),
        node_ids=numbers(listed(request, "nodeId", "nodeIds"), "query.nodeId"),
        sources=listed(request, "sourceId", "sourceIds"),
        properties=(*registers, *plain),
        registers=registers,
    )


def aggregation_of(query: Query) -> Aggregation | Calendar | None:
    """Return the periods that are asked for; None: each datum."""
    given = query.one_of("aggregation", EVERY)
    if given in (None, "None"):
        return None
    return Calendar(given) if given in tuple(Calendar) else Aggregation[given]


def page_of(query: Query, usual: int = _USUAL) -> tuple[int, int]:
    """Return how many are wanted, and behind how many."""
    limit = query.number("max", most=MOST) or usual
    return limit, query.number("offset", least=0, most=_MOST_OFFSET) or 0


def _tolerance(text: str | None) -> timedelta | None:
    """Return an ISO 8601 duration of days, hours, minutes and seconds. Raises Malformed."""
    if text is None:
        return None
    found = _TOLERANCE.fullmatch(text)
    if found is None or not any(found.groups()):
        raise Malformed("query.tolerance: expected a duration such as P1D or PT15M")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


async def rows_of(
    request: web.Request,
    asked: Asked,
    wanted: Sequence[Stream],
    aggregation: Aggregation | Calendar,
    limit: int,
    offset: int,
    *,
    with_levels: bool = False,
    kind: str | None = None,
) -> Sequence[Row]:
    """Return at most `limit` rows behind the first `offset`. Raises Malformed."""
    context = request.app[CONTEXT]
    sorts = orders.read(request.query)
    rows: list[Row] = []
    found = flow.aggregated(
        context, asked, wanted, aggregation, with_levels=with_levels or kind == "a", kind=kind
    )
    async for some in paced(request, found):
        rows += some
        if not sorts and len(rows) >= offset + limit:
            break
        if len(rows) > _MOST_SORTED:
            raise Malformed("query.sorts: too many rows to put in order")
    return orders.ordered(rows, sorts, lambda row: (row.stream, row.at))[offset : offset + limit]


def _source_id(stream: Stream, asked: Asked) -> str:
    return "/" * asked.slash + stream.source_id


def _about(stream: Stream, at: datetime, asked: Asked) -> dict[str, Any]:
    return {
        "created": _written(at),
        "nodeId": stream.node_id,
        "sourceId": _source_id(stream, asked),
        "localDate": f"{at:%Y-%m-%d}",
        "localTime": f"{at:%H:%M}",
    }


def _flat(row: Row, asked: Asked) -> dict[str, Any]:
    about = _about(row.stream, row.at, asked)
    values = {name: value for name, value in row.i.items() if not name.endswith("_count")}
    return values | row.a | about


def _read(read: Read, asked: Asked) -> dict[str, Any]:
    about = _about(read.stream, read.start_at, asked)
    end = read.end_at
    until = {} if end is None else {
        "endDate": _written(end), "localEndDate": f"{end:%Y-%m-%d}",
        "localEndTime": f"{end:%H:%M}",
    }  # fmt: skip
    values: dict[str, Decimal] = dict(read.values)
    return values | about | until | {"timeZone": "UTC"}


def _written(at: datetime) -> str:
    """Return an instant as SolarNetwork writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.") + f"{at.microsecond // 1000:03}Z"


def _results(rows: Sequence[Any], offset: int, *, total: int | None = None) -> web.Response:
    return _text_results(_encode(rows)[1:-1].decode(), len(rows), offset, total)


def _text_results(text: str, count: int, offset: int, total: int | None) -> web.Response:
    counted = "" if total is None else f'"totalResults":{total},'
    body = (
        f'{{"success":true,"data":{{{counted}"startingOffset":{offset},'
        f'"returnedResultCount":{count},"results":[{text}]}}}}'
    )
    return web.Response(text=body, content_type="application/json")


def _success(data: Any) -> web.Response:
    return web.Response(
        body=_encode({"success": True, "data": data}), content_type="application/json"
    )
