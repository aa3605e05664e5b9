"""A point of Reengen that is told of ours: values by ImportData, flags of the data-science table.

What was told is remembered once it has been taken. Told again after a crash it is an update of the
same value (reference: devices §3.3), so nothing is there twice.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from fpd.adapters.device import Clock, Memory, Stopped, recalled
from fpd.adapters.lenient import mapping
from fpd.adapters.platform import Polled
from fpd.adapters.reengen_client import Client, Imported
from fpd.adapters.reengen_directory import Directory
from fpd.adapters.reengen_parse import Flag
from fpd.adapters.telling import Item, Newsroom
from fpd.config_reengen import ReengenListen

_NEXT_S: Final = 1.0
_SAID_AGAIN_S: Final = 3600.0


class _Memory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`cursor`: up to where it was told. `flag`, `flag_at`: the flag as told last, and when."""

    cursor: dict[str, Any] = {}
    flag: str | None = None
    flag_at: datetime | None = None


class Listener:
    """One row of `[[platform.listen]]`."""

    def __init__(
        self,
        client: Client,
        config: ReengenListen,
        *,
        read_every_s: float,
        news: Newsroom,
        directory: Directory,
        clock: Clock,
    ) -> None:
        self.read_every_s = read_every_s
        self._client = client
        self._config = config
        self._news = news
        self._directory = directory
        self._clock = clock

    async def read(self, memory: Memory) -> Polled:
        """Tell what is new. Raises DeviceFault."""
        kept = recalled(memory, _Memory) or _Memory()
        await self._directory.check(self._config.point, again_s=self.read_every_s)
        news = await self._news(self._config, kept.cursor)
        if news.trouble is not None:
            raise Stopped(news.trouble, retry_s=self.read_every_s)
        if self._config.of == "forecast":
            await self._flag(kept, news.items)
        else:
            await self._import(news.items)
        kept.cursor = dict(news.cursor)
        return Polled(
            at=self._clock(),
            dispatchable=True,
            memory=mapping(msgspec.to_builtins(kept)),
            again_s=_NEXT_S if news.more else None,
        )

    async def _import(self, items: tuple[Item, ...]) -> None:
        row, scale = self._config, Decimal(str(self._config.multiplier))
        values: dict[datetime, Decimal] = {}
        for item in items:
            value = None if item.value is None else item.value * scale
            if value is None and row.no_limit is not None:
                value = Decimal(str(row.no_limit))
            if value is not None:
                # Two values of the same second are one row there: the later one.
                values[item.at.replace(microsecond=0)] = value
        if values:
            await self._client.put(
                [
                    Imported(
                        point=row.point,
                        definition=row.definition,
                        variant=row.variant,
                        index=row.index,
                        value=value,
                        at=at,
                    )
                    for at, value in values.items()
                ]
            )

    async def _flag(self, kept: _Memory, items: tuple[Item, ...]) -> None:
        """Say 1 while forecasts are in force, else 0; once when it changes and once an hour."""
        value = str(items[-1].value) if items else kept.flag or "0"
        now = self._clock()
        is_old = kept.flag_at is None or (now - kept.flag_at).total_seconds() >= _SAID_AGAIN_S
        if value == kept.flag and not is_old:
            return
        flag = Flag(
            point=self._config.point,
            type=self._config.flag,
            tenant=self._client.door.tenant,
            value=value,
        )
        await self._client.manage_flags([flag])
        kept.flag, kept.flag_at = value, now
