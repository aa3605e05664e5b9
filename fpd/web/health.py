"""`/healthz`, `/readyz` and `/metrics`: for systemd, load balancers and Prometheus."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import get_args

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from fpd.domain.link import Link
from fpd.domain.stream_health import State
from fpd.errors import Unavailable
from fpd.flows.context import Context
from fpd.flows.loop import Loop
from fpd.store import migrations, overview, stream_health
from fpd.web.keys import CONTEXT
from fpd.web.status import PATIENCE_S, viewer, within

LOOPS = web.AppKey[Sequence[Loop]]("loops")

_LEAST_PATIENCE_S = 30.0
_MISSED_ROUNDS = 10


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of these doors."""
    return (
        web.get("/healthz", _healthz),
        web.get("/readyz", _readyz),
        web.get("/metrics", _metrics),
    )


def stuck(loops: Sequence[Loop], *, now_s: float) -> list[str]:
    """Return the names of loops without progress for 30 s or ten of their rounds.

    `now_s` is the event loop's time. One that was never rung yet is young, not stuck.
    """
    return [
        loop.name
        for loop in loops
        if loop.progress_at
        and now_s - loop.progress_at > max(_LEAST_PATIENCE_S, _MISSED_ROUNDS * loop.every_s)
    ]


async def _healthz(request: web.Request) -> web.Response:
    names = stuck(request.app[LOOPS], now_s=asyncio.get_running_loop().time())
    reason = f"no progress: {', '.join(names)}" if names else None
    return _answer({"healthy": not names}, reason)


async def _readyz(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    broker = context.mqtt.connected
    reasons = [] if broker else ["the broker is away"]
    database = migrated = False
    try:
        landed = await within(context, PATIENCE_S, lambda: _landed(context), name="readyz")
    except Unavailable as error:
        reasons.insert(0, str(error))
    else:
        database, migrated = True, landed == _newest()
        if not migrated:
            reasons.append(f"the database has migration {landed:04}, not {_newest():04}")
    parts = {"database": database, "migrations": migrated, "broker": broker}
    return _answer(parts, "; ".join(reasons) or None)


async def _landed(context: Context) -> int:
    async with context.db.connection() as conn:
        return await overview.migrated(conn)


@cache
def _newest() -> int:
    return migrations.available()[-1].number


def _answer(parts: dict[str, bool], reason: str | None) -> web.Response:
    return web.json_response(
        {**parts, "reason": reason},
        status=503 if reason else 200,
        headers={"Cache-Control": "no-store"},
    )


async def _metrics(request: web.Request) -> web.Response:
    await viewer(request)
    context = request.app[CONTEXT]
    await _refresh(context)
    return web.Response(
        body=generate_latest(context.metrics.registry),
        headers={"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"},
    )


async def _refresh(context: Context) -> None:
    """Set the gauges that are read from the database; without it they have no value."""
    metrics = context.metrics
    counts: overview.Counts | None
    streams: dict[str, int]
    try:
        counts, streams = await within(
            context, PATIENCE_S, lambda: _counts(context), name="metrics"
        )
    except Unavailable:
        counts, streams = None, {}
    metrics.up.labels("database").set(counts is not None)
    metrics.up.labels("broker").set(context.mqtt.connected)
    metrics.outbox.set(math.nan if counts is None else counts.outbox_pending)
    for link in Link:
        metrics.links.labels(link).set(math.nan if counts is None else counts.links.get(link, 0))
    for state in get_args(State):
        metrics.streams.labels(state).set(math.nan if counts is None else streams.get(state, 0))


async def _counts(context: Context) -> tuple[overview.Counts, dict[str, int]]:
    async with context.db.connection() as conn:
        return await overview.counts(conn), await stream_health.counts(conn)
