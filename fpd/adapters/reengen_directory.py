"""Which points a tenant has: looked up once a day, and when something may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from fpd.adapters.device import Clock, Stopped
from fpd.adapters.reengen_client import Client
from fpd.adapters.reengen_errors import Refused
from fpd.adapters.reengen_parse import Point

log = structlog.get_logger()

_DAY = timedelta(days=1)
_SOON = timedelta(minutes=10)


class Directory:
    """The points of one tenant by their codes, shared by all of its polls."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._looking = asyncio.Lock()
        self._looked_at: datetime | None = None
        self._points: Mapping[str, Point] | None = None

    async def check(self, code: str, *, again_s: float, anew: bool = False) -> None:
        """Raise Stopped if the tenant has no such point. It may not tell whether it has.

        `anew`: what was known may be wrong; it is looked up again unless that was just now.
        """
        points = await self.points(anew=anew)
        if points is not None and code not in points:
            raise Stopped(f"the tenant has no point {code!r}: misconfigured", retry_s=again_s)

    async def points(self, *, anew: bool = False) -> Mapping[str, Point] | None:
        """Return the points by code, None if the tenant may not see them. Raises DeviceFault.

        They are looked up again, too, if the platform was away: who has nothing else to ask would
        not know that it still is.
        """
        async with self._looking:
            patience = _SOON if anew else _DAY
            is_old = self._looked_at is None or self._clock() - self._looked_at >= patience
            if is_old or self._client.door.is_away:
                await self._look()
            return self._points

    async def _look(self) -> None:
        try:
            found = await self._client.hierarchy()
        except Refused as refused:
            log.warning("reengen.hierarchy_refused", reason=str(refused))
            self._points = None
        else:
            self._points = {point.code: point for point in found if point.code is not None}
        self._looked_at = self._clock()
