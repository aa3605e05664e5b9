"""Home Assistant is told by one daemon at a time, so that every entity is there once.

The teller holds a lease and points the entities at its own part of the tree; when it goes another
one takes over, and the entities stay what they were. Each daemon also clears away what instances
that are there no more have left with the broker.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

import structlog
from psycopg import AsyncConnection

from fpd.flows.context import Context
from fpd.mqtt import discovery, topics
from fpd.store import home_assistant as store
from fpd.store import tree
from fpd.store.home_assistant import SHARED

log = structlog.get_logger()

Part = tuple[discovery.Kind, str, str, str, bool]
"""What is in the tree: kind, key, name, model, and whether it stores energy."""

_BREATH: Final = 200  # parts announced without letting others work
_LEASE_S: Final = 15.0  # and some looks at the tree
_LOOKS: Final = 3
_SEEN: Final = timedelta(seconds=10)  # how often who is there says so
# A daemon that was renamed has only just been seen under its old name.
_RENAMED: Final = timedelta(seconds=30)
_LOST: Final = timedelta(days=1)


class Teller:
    """What one daemon does about Home Assistant; remembers what that was told."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._home = f"{platform.node()}:{context.config.data_dir}"
        self._seen_at: datetime | None = None
        self._term: int | None = None  # of which `_told` is known
        self._told: dict[str, bytes] = {}

    def doubt(self) -> None:
        """Forget what was told: it is not sure that it was committed."""
        self._term = None
        self._seen_at = None

    async def tell(
        self, conn: AsyncConnection, parts: Iterable[Part], *, anew: bool, now: datetime
    ) -> bool:
        """Owe what has changed, all of it if `anew`; return whether anything was owed."""
        settings = self._context.config.mqtt
        if not settings.home_assistant:
            return await self._end(conn, now)
        if not self._context.mqtt.connected:
            return False  # who cannot be heard leaves it to the others
        lease = timedelta(seconds=max(_LEASE_S, _LOOKS * settings.tree_s))
        lead = await store.lead(conn, instance=settings.instance, now=now, lease=lease)
        if lead is None:
            self._term = None
            return False
        if lead.term != self._term:
            log.info("home_assistant.told_by_us", identity=lead.identity, term=lead.term)
            self._told = await tree.known(conn, instance=SHARED)
        wanted = await self._wanted(lead.identity, parts)
        owed = await self._change(conn, wanted, now)
        if anew:
            owed = bool(await tree.restate(conn, instance=SHARED, now=now)) or owed
        self._term = lead.term
        return owed

    async def _wanted(self, identity: str, parts: Iterable[Part]) -> dict[str, bytes]:
        settings = self._context.config.mqtt
        names = {
            "identity": identity,
            "instance": settings.instance,
            "prefix": settings.home_assistant_prefix,
        }
        wanted = dict([discovery.announced_daemon(**names)])
        for number, (kind, key, name, model, stores) in enumerate(parts):
            wanted |= discovery.announced(kind, key, name, model=model, stores=stores, **names)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        return wanted

    async def _change(
        self, conn: AsyncConnection, wanted: Mapping[str, bytes], now: datetime
    ) -> bool:
        known = self._told
        changed = {topic: doc for topic, doc in wanted.items() if known.get(topic) != doc}
        gone = known.keys() - wanted.keys()
        if changed or gone:
            await tree.change(conn, instance=SHARED, changed=changed, gone=gone, now=now)
        self._told = dict(wanted)
        return bool(changed or gone)

    async def _end(self, conn: AsyncConnection, now: datetime) -> bool:
        instance = self._context.config.mqtt.instance
        if not await store.is_over(conn, instance=instance, now=now, patience=_LOST):
            return False
        self._told = await tree.known(conn, instance=SHARED)
        return await self._change(conn, {}, now)

    async def clear(self, conn: AsyncConnection, *, now: datetime) -> bool:
        """Say that we are there, and owe the end of what those have left who are not."""
        if self._seen_at is not None and now - self._seen_at < _SEEN:
            return False
        if self._seen_at is None:
            await store.adopt(conn, now=now)
        instance = self._context.config.mqtt.instance
        await store.seen(conn, instance=instance, home=self._home, now=now)
        left = await store.gone(
            conn, instance=instance, home=self._home, now=now, renamed=_RENAMED, lost=_LOST
        )
        for one in left:
            log.info("tree.cleared", instance=one)
            known = await tree.known(conn, instance=one)
            await tree.change(
                conn, instance=one, changed={}, gone=[*known, topics.status(one)], now=now
            )
        self._seen_at = now
        return bool(left)
