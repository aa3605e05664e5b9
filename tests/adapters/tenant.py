"""A Reengen tenant for tests: the simulator, a client of it, and what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from adapters.rig import Hands

from fpd.adapters import http
from fpd.adapters.http import DeviceHttp
from fpd.adapters.reengen_client import Client
from fpd.adapters.reengen_door import Door, Login
from fpd.sim.journal import Filter
from fpd.sim.reengen import Reengen, ReengenOptions

LOGIN = Login("demo", "demo", "demo")


@asynccontextmanager
async def simulated(clock: Hands, **options: Any) -> AsyncIterator[Reengen]:
    simulator = Reengen(ReengenOptions(min_interval_s=0, **options), clock=clock)
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.stop()


@asynccontextmanager
async def client_of(
    simulator: Reengen,
    *,
    login: Login = LOGIN,
    tz: str = "Europe/Istanbul",
    min_interval_s: float = 0.0,
    timeout_s: float = 5.0,
) -> AsyncIterator[Client]:
    async with http.session() as session:
        way = DeviceHttp(session, f"{simulator.url}/api/do/", timeout_s=timeout_s)
        door = Door(way, login, min_interval_s=min_interval_s, retry_after_s=0.01)
        yield Client(door, ZoneInfo(tz))


def asked(simulator: Reengen, method: str | None = None) -> list[dict[str, Any]]:
    """Return the bodies of what the simulator was asked, in order."""
    bodies: list[dict[str, Any]] = [
        msgspec.json.decode(bytes(entry.body)) for entry in simulator.journal.find(Filter())
    ]
    return [body for body in bodies if method in (None, body["$"])]


def methods(simulator: Reengen) -> list[str]:
    return [body["$"] for body in asked(simulator)]
