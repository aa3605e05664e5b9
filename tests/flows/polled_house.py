"""A house under control that also polls a platform."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

from flows.steered_house import House

from fpd.config import AnyPlatform
from fpd.flows.platforms import Platforms


class Home(House):
    """A house that also polls a platform."""

    def watch(self, platform: AnyPlatform) -> None:
        self.polling: set[asyncio.Task[None]] = set()
        self.context = replace(
            self.context, config=replace(self.context.config, platforms=(platform,))
        )
        self.platforms = Platforms(replace(self.context, spawn=self._poll))

    def _poll(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self.polling.add(task)

    async def poll(self) -> None:
        await self.platforms.step()
        done, self.polling = self.polling, set()
        await asyncio.gather(*done)

    async def live(self, *, seconds: float) -> None:
        until = self.clock() + timedelta(seconds=seconds)
        while self.clock() < until:
            self.clock.move(seconds=10)
            await self.poll()
            await self.look()

    async def close(self) -> None:
        await super().close()
        await self.platforms.close()
