"""What adapters need around them, and a clock that moves when it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fpd.adapters import http
from fpd.adapters.device import Adapter as Device
from fpd.adapters.device import Command, Outcome, Reading, Wiring

WEDNESDAY = datetime(2025, 3, 12, 6, tzinfo=UTC)


class Hands:
    """Wednesday 12 March 2025, 06:00 UTC, until moved."""

    def __init__(self) -> None:
        self.at = WEDNESDAY

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


@asynccontextmanager
async def wired(clock: Hands) -> AsyncIterator[Wiring]:
    async with http.session() as session:
        yield Wiring(session=session, clock=clock, instance="test", interval_s=10.0)


class Remembering:
    """Drives a device as the flow does: what it is to remember is given back the next time."""

    def __init__(self, device: Device, memory: Mapping[str, Any] | None = None) -> None:
        self.device = device
        self.memory: Mapping[str, Any] = memory or {}

    async def read(self) -> Reading:
        reading = await self.device.read(self.memory)
        self.memory = reading.memory
        return reading

    async def apply(self, command: Command) -> Outcome:
        outcome = await self.device.apply(command, self.memory)
        self.memory = outcome.memory
        return outcome

    def shows(self, command: Command, reading: Reading) -> bool:
        return self.device.shows(command, replace(reading, memory=self.memory))
