"""Platforms are told of datum, limits, setpoints and forecasts: what is new is found here.

Cursors are ids where there are any, so that what was committed late is told too; a datum that is
older than one that was told is not (Interpretation: a listener follows, it does not keep books).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from fpd.adapters import reengen_platform
from fpd.adapters.device import Source, Wiring
from fpd.adapters.reengen_directory import Directory
from fpd.adapters.reengen_listener import Listener
from fpd.adapters.telling import Item, News, Topic
from fpd.config_reengen import ReengenPlatform
from fpd.domain.datum import StreamKey
from fpd.flows.context import Context
from fpd.store import streams
from fpd.store import telling as store
from fpd.store.telling import Envelope

_AT_ONCE: Final = 20  # each may take two requests of its own, a second apart
_LATE: Final = timedelta(hours=1)  # so long after its time something may be committed
_FIRST: Final = timedelta(minutes=15)
_INSTANT: Final = timedelta(microseconds=1)


class Telling:
    """Brings what is new of a topic."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, topic: Topic, cursor: Mapping[str, Any]) -> News:
        """Return what is new after `cursor`; of an empty one the newest. Raises Unavailable."""
        if topic.of == "datum":
            return await self._datum(topic, cursor)
        if topic.of == "setpoint":
            return await self._setpoints(topic, cursor)
        return await self._envelopes(topic, cursor)

    async def _datum(self, topic: Topic, cursor: Mapping[str, Any]) -> News:
        now = self._context.clock()
        told = cursor.get("at")
        start_at = now - _FIRST if told is None else datetime.fromisoformat(told) + _INSTANT
        assert topic.node_id is not None and topic.source_id is not None
        stream = StreamKey(topic.user_id, topic.node_id, topic.source_id.lstrip("/"))
        async with self._context.db.connection() as conn:
            found = await streams.between(
                conn, stream=stream, start_at=start_at, end_at=now, limit=_AT_ONCE
            )
        name = topic.property_name or ""
        values = [(each.at, each.a.get(name, each.i.get(name))) for each in found]
        items = tuple(Item(at, value) for at, value in values if value is not None)
        if found:
            cursor = {"at": found[-1].at.isoformat()}
        return News(items=items, cursor=cursor, more=len(found) == _AT_ONCE)

    async def _setpoints(self, topic: Topic, cursor: Mapping[str, Any]) -> News:
        assert topic.device is not None
        if topic.device not in {device.name for device in self._context.config.devices}:
            trouble = f"no device is called {topic.device!r}: misconfigured"
            return News(items=(), cursor=cursor, trouble=trouble)
        async with self._context.db.connection() as conn:
            if cursor:
                after, since = _place(cursor)
                sent = await store.commands(
                    conn, device=topic.device, after=after, since=since, limit=_AT_ONCE
                )
            else:
                sent = await store.newest_command(conn, device=topic.device)
        items = tuple(
            Item(each.sent_at, Decimal(int(each.wanted.get("power_w", 0))))
            for each in sent
            if each.wanted.get("kind") != "profile"
        )
        return _news(items, [(each.id, each.sent_at) for each in sent], cursor)

    async def _envelopes(self, topic: Topic, cursor: Mapping[str, Any]) -> News:
        async with self._context.db.connection() as conn:
            group_id = await store.group_id(
                conn, user_id=topic.user_id, identifier=topic.group or ""
            )
            if group_id is None:
                trouble = f"user {topic.user_id} has no group {topic.group!r}: misconfigured"
                return News(items=(), cursor=cursor, trouble=trouble)
            if cursor:
                after, since = _place(cursor)
                found = await store.envelopes(
                    conn, group_id=group_id, after=after, since=since, limit=_AT_ONCE
                )
            else:
                found = await store.newest_envelope(conn, group_id=group_id)
        items = tuple(Item(each.from_at, _value(topic, each)) for each in found)
        return _news(items, [(each.id, each.from_at) for each in found], cursor)


def listeners(context: Context, config: ReengenPlatform, wiring: Wiring) -> Mapping[str, Source]:
    """Return what tells a Reengen tenant, by job: polls as any other."""
    client = reengen_platform.client(config, wiring)
    directory, news = Directory(client, wiring.clock), Telling(context)
    return {
        row.job: Listener(
            client,
            row,
            read_every_s=config.listen_s,
            news=news,
            directory=directory,
            clock=wiring.clock,
        )
        for row in config.listen
    }


def _value(topic: Topic, envelope: Envelope) -> Decimal | None:
    if topic.of == "forecast":
        return Decimal(int(envelope.is_forecast))
    limit_w = envelope.max_w if topic.of == "import-limit" else envelope.min_w
    return None if limit_w is None else abs(Decimal(limit_w))


def _place(cursor: Mapping[str, Any]) -> tuple[int, datetime]:
    """Return the id that a cursor stands at, and since when anything after it may be."""
    return int(cursor["id"]), datetime.fromisoformat(cursor["at"]) - _LATE


def _news(
    items: tuple[Item, ...], places: Sequence[tuple[int, datetime]], cursor: Mapping[str, Any]
) -> News:
    if places:
        last_id, last_at = places[-1]
        cursor = {"id": last_id, "at": last_at.isoformat()}
    return News(items=items, cursor=cursor, more=len(places) == _AT_ONCE)
