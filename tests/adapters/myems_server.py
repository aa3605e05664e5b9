"""A simulated MyEMS and what talks to it, under one clock that is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.rig import Hands, wired

from fpd.adapters.device import Wiring
from fpd.adapters.myems_api import Myems
from fpd.adapters.myems_platform import Platform
from fpd.adapters.myems_server import server
from fpd.adapters.platform import Polled
from fpd.config_myems import MyemsPlatform, PlatformStream
from fpd.sim.journal import Filter
from fpd.sim.myems import MyEms, MyEmsOptions

OFFSET = "+05:30"


@dataclass
class Bench:
    """`poll` drives a poll as the flow does: what it is to remember is given back."""

    sim: MyEms
    clock: Hands
    wiring: Wiring
    memory: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    platforms: dict[str, Platform] = field(default_factory=dict)

    def client(self, **account: Any) -> Myems:
        return server(self.config(**account), self.wiring)

    def config(self, *rows: PlatformStream, **settings: Any) -> MyemsPlatform:
        known: dict[str, Any] = {"api_key": "fpd-key", "utc_offset": OFFSET}
        if settings.pop("admin", False):
            known |= {"username": "administrator", "password": "!MyEMS1"}
        return MyemsPlatform(
            name="site", type="myems", base_url=self.sim.url, stream=rows, **(known | settings)
        )

    async def poll(self, job: str, *rows: PlatformStream, **settings: Any) -> Polled:
        platform = self.platforms.get(job)
        if platform is None:
            platform = Platform(self.config(*rows, **settings), self.wiring)
            self.platforms[job] = platform
        reading = await platform.polls[job].read(self.memory.get(job, {}))
        self.memory[job] = reading.memory
        assert isinstance(reading, Polled)
        return reading

    def restart(self) -> None:
        """Forget everything but what is kept in the database."""
        self.platforms.clear()
        self.wiring.accounts.clear()

    def asked(self, path: str) -> list[str]:
        return [entry.path for entry in self.sim.journal.find(Filter(path=path))]


@asynccontextmanager
async def bench(folder: Path | None = None, **options: Any) -> AsyncIterator[Bench]:
    clock = Hands()
    known = {"utc_offset": OFFSET, "interval_s": 60.0, "history_h": 2.0} | options
    sim = MyEms(MyEmsOptions(**known), clock=clock)
    await sim.start()
    async with wired(clock) as wiring:
        wiring.folder = folder
        yield Bench(sim, clock, wiring)
    await sim.stop()


def row(**settings: Any) -> PlatformStream:
    return PlatformStream(**({"node_id": 7, "source_id": "/battery"} | settings))
