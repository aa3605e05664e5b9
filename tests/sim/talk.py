"""How the tests talk to a simulated Capacity Provider, and what they say through its FP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from fpd.sim.capacity_provider import CapacityProvider


def now() -> datetime:
    return datetime.now(UTC)


async def act(
    http: aiohttp.ClientSession, peer: CapacityProvider, action: str, **command: Any
) -> dict[str, Any]:
    async with http.post(f"{peer.url}/_sim/actions/{action}", json=command) as response:
        assert response.status == 200, await response.text()
        told: dict[str, Any] = await response.json()
        return told


async def switch(http: aiohttp.ClientSession, peer: CapacityProvider, **quirks: Any) -> None:
    async with http.put(f"{peer.url}/_sim/quirks", json=quirks) as response:
        assert response.status == 200, await response.text()


async def wrongs(http: aiohttp.ClientSession, peer: CapacityProvider) -> list[str]:
    async with http.get(f"{peer.url}/_sim/log", params={"invalid": "1"}) as response:
        return [problem for entry in await response.json() for problem in entry["invalid"]]


def in_an_hour() -> str:
    return (now() + timedelta(hours=1)).isoformat()


def measurements(**changes: Any) -> dict[str, Any]:
    reading = {
        "value": 1200.5,
        "phase": "ALL",
        "unit": "WH",
        "direction": "IMPORT",
        "measure_time": "2025-03-12T10:00:00Z",
    }
    return {"group_id": "north", "measurements": [{**reading, **changes}]}
