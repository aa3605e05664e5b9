"""`GET /api/v1/datum`: one's own datum, in a range of time, the latest or aggregated, as JSON page
by page, or all of it as CSV or NDJSON.

Each line of NDJSON is a document as the doors that take datum in read it. What is long is written
as it is read; an answer that cannot be finished is cut off, so that it does not pass for whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeVar

import msgspec
import structlog
from aiohttp import web

from fpd.domain.aggregate import AGGREGATIONS, Aggregation
from fpd.errors import FpdError, Malformed
from fpd.flows import datum_out as flow
from fpd.flows.datum_out import Asked, Row
from fpd.store.datum_out import Place, Stream, Told
from fpd.web.connections import Connection
from fpd.web.credentials import authenticate
from fpd.web.datum_texts import Wanted, line, texts
from fpd.web.keys import CONTEXT
from fpd.web.query import Query

log = structlog.get_logger()

T = TypeVar("T")

PREFIX: Final = "/api/v1/datum"
PARAMETERS: Final = (
    "nodeId", "sourceId", "start", "end", "aggregation", "properties", "registers",
    "view", "format", "after", "max",
)  # fmt: skip
VIEWS: Final = ("range", "latest")
KINDS: Final = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
}
MOST: Final = 10_000
READERS = web.AppKey("readers of datum", asyncio.Semaphore)
MOST_READERS: Final = 3  # pages that the database is asked for at once

_USUAL: Final = 1000
_USUAL_SPAN: Final = timedelta(days=1)
_MOST_NAMED: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_encode = msgspec.json.Encoder(decimal_format="number").encode


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    return (web.get(PREFIX, _datum), web.get(f"{PREFIX}/latest", _newest))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    asked: Asked
    kind: str
    latest: bool
    aggregation: Aggregation | None
    after: Place | None
    limit: int


async def _datum(request: web.Request) -> web.StreamResponse:
    """Tell datum of a range of time, stream by stream; `next` is the `after` of the next page."""
    return await _answered(request, latest=False)


async def _newest(request: web.Request) -> web.StreamResponse:
    """Tell the newest datum of each stream."""
    return await _answered(request, latest=True)


async def _answered(request: web.Request, *, latest: bool) -> web.StreamResponse:
    user_id = await authenticate(request)
    question = _question(request, user_id, latest=latest)
    wanted = await flow.streams(request.app[CONTEXT], question.asked)
    if question.kind == "json":
        return await _one_page(request, question, wanted)
    return await _everything(request, question, wanted)


def _question(request: web.Request, user_id: int, *, latest: bool) -> _Question:
    query = Query(request.query, PARAMETERS)
    view = query.one_of("view", VIEWS)
    given = query.one_of("aggregation", AGGREGATIONS)
    now = request.app[CONTEXT].clock()
    end_at = query.instant("end")
    asked = Asked(
        user_id=user_id,
        start_at=query.instant("start") or max(min(end_at or now, now), _EPOCH) - _USUAL_SPAN,
        end_at=end_at or now + _USUAL_SPAN,
        node_ids=numbers(listed(request, "nodeId"), "query.nodeId"),
        sources=listed(request, "sourceId"),
        properties=listed(request, "properties"),
        registers=listed(request, "registers"),
    )
    aggregation = None if given in (None, "None") else Aggregation[given]
    latest = latest or view == "latest"
    if latest and aggregation is not None:
        raise Malformed("query.aggregation: the latest datum is not aggregated")
    kind = _kind(request, query)
    if kind != "json" and ("after" in request.query or "max" in request.query):
        raise Malformed("query.after, query.max: of JSON only; others are told whole")
    return _Question(
        asked=asked,
        kind=kind,
        latest=latest,
        aggregation=aggregation,
        after=place(query.text("after")),
        limit=query.number("max", most=MOST) or _USUAL,
    )


def listed(request: web.Request, *names: str) -> tuple[str, ...]:
    """Return what is given with commas between, or several times. Raises Malformed."""
    given = [text for name in names for text in request.query.getall(name, [])]
    found = [part for text in given for part in text.split(",")]
    if len(found) > _MOST_NAMED or any(not 0 < len(p) <= 255 or "\0" in p for p in found):
        raise Malformed(f"query.{names[0]}: expected 1 to 255 characters, at most {_MOST_NAMED}")
    return tuple(found)


def numbers(given: Sequence[str], name: str) -> tuple[int, ...]:
    """Return whole numbers. Raises Malformed."""
    if all(t.isascii() and t.isdecimal() and len(t) <= 18 for t in given):
        return tuple(int(text) for text in given)
    raise Malformed(f"{name}: expected whole numbers")


def place(text: str | None) -> Place | None:
    """Return the place that a page's `next` means. Raises Malformed."""
    if text is None:
        return None
    id, _, at = text.partition(".")
    if all(t.isascii() and t.removeprefix("-").isdecimal() and len(t) <= 18 for t in (id, at)):
        try:
            return Place(int(id), _EPOCH + int(at) * _MICROSECOND)
        except OverflowError:
            pass
    raise Malformed("query.after: expected the next of a page")


def _cursor(last: Place | None) -> str | None:
    return None if last is None else f"{last.stream_id}.{(last.at - _EPOCH) // _MICROSECOND}"


def _kind(request: web.Request, query: Query) -> str:
    """Return the format that is asked for by name, or else by Accept."""
    given = query.one_of("format", tuple(KINDS))
    if given is not None:
        return given
    accepted = request.headers.get("Accept", "")
    return next((name for name, kind in KINDS.items() if kind in accepted), "json")


async def _one_page(
    request: web.Request, question: _Question, wanted: Sequence[Stream]
) -> web.Response:
    text, count, last = await _first(request, question, wanted)
    head = f'{{"success":true,"data":{{"returnedResultCount":{count},"results":['
    tail = f'],"next":{_encode(_cursor(last)).decode()}}}}}'
    return web.Response(text=f"{head}{text}{tail}", content_type="application/json")


async def _first(
    request: web.Request, question: _Question, wanted: Sequence[Stream]
) -> tuple[str, int, Place | None]:
    context, asked = request.app[CONTEXT], question.asked
    told = Told(form="samples", separator=",", slash=asked.slash, properties=asked.properties)
    if question.aggregation is not None:
        rows: list[Row] = []
        found = flow.aggregated(context, asked, wanted, question.aggregation, after=question.after)
        async for some in paced(request, found):
            rows += some
            if len(rows) > question.limit:
                break
        shown = rows[: question.limit]
        last = Place(shown[-1].stream.id, shown[-1].at) if len(rows) > len(shown) else None
        return ",".join(line(row, slash=asked.slash) for row in shown), len(shown), last
    if question.latest:
        after = question.after
        rest = [s for s in wanted if after is None or s.id > after.stream_id]
        async for page in paced(request, flow.latest(context, rest, told, limit=question.limit)):
            return page.text, page.count, page.last
        return "", 0, None
    async with request.app[READERS]:
        page = await flow.page(
            context, asked, wanted, told, after=question.after, limit=question.limit
        )
    return page.text, page.count, page.last


async def paced(request: web.Request, found: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield the same, while few ask the database at once, however many are told at once."""
    while True:
        async with request.app[READERS]:
            try:
                some = await anext(found)
            except StopAsyncIteration:
                return
        yield some


async def _everything(
    request: web.Request, question: _Question, wanted: Sequence[Stream]
) -> web.StreamResponse:
    told = Wanted(
        asked=question.asked,
        streams=wanted,
        aggregation=question.aggregation,
        latest=question.latest,
    )
    kind: Literal["csv", "ndjson"] = "csv" if question.kind == "csv" else "ndjson"
    found = paced(request, texts(request.app[CONTEXT], told, kind=kind))
    first = await anext(found, "")  # what is refused is refused before the answer begins
    response = web.StreamResponse()
    response.content_type = KINDS[kind]
    response.charset = "utf-8"
    await response.prepare(request)
    try:
        await _write(request, response, first)
        async for text in found:
            await _write(request, response, text)
    except FpdError as error:
        log.warning("datum.cut_off", reason=str(error))
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer cannot be finished") from error
    await response.write_eof()
    return response


async def _write(request: web.Request, response: web.StreamResponse, text: str) -> None:
    if text:
        await response.write(f"{text}\n".encode())
    if isinstance(request.protocol, Connection):
        request.protocol.goes_on()
