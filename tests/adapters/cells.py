"""A fuel cell of a simulated service, and a ledger that is a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.rig import Remembering

from fpd.adapters.bluegen import Bluegen
from fpd.adapters.device import Profile, Tally, Wiring
from fpd.config import BluegenDevice
from fpd.sim.bluegen import BlueGen
from fpd.sim.journal import Filter

FLAT = Profile(points=((0, 1200), (671, 1200)))
LOWER = Profile(points=((0, 1000), (671, 1000)))


class Book:
    """Keeps accounts as the database does, so that several processes can share it."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self.away = False

    async def recall(self, account: str) -> Tally | None:
        return None if self.away else self.tallies.get(account, Tally())

    async def count(self, account: str, *, day: str) -> int | None:
        if self.away:
            return None
        known = self.tallies.get(account, Tally())
        requests = known.requests + 1 if known.day == day else 1
        self.tallies[account] = Tally(day, requests, known.notes)
        return requests

    async def note(self, account: str, notes: Mapping[str, Any]) -> bool:
        known = self.tallies.get(account, Tally())
        self.tallies[account] = Tally(known.day, known.requests, dict(notes))
        return True


def cell(service: BlueGen, wiring: Wiring, **settings: Any) -> Remembering:
    given = {"unit_id": 249, "username": "demo", "password": "demo", **settings}
    device = BluegenDevice(name="cell", type="bluegen", base_url=service.url, **given)
    return Remembering(Bluegen(device, wiring))


def asked(service: BlueGen, path: str = "") -> list[str]:
    found = service.journal.find(Filter(path=path))
    return [f"{entry.method} {entry.path}" for entry in found]


def logins(service: BlueGen) -> int:
    return len(asked(service, "/customer/login"))


def assigned(service: BlueGen, unit_id: int = 249) -> int:
    found: int = service.state()["units"][str(unit_id)]["pid"]
    return found
