"""Our two profiles of one unit in the service, found by their names (reference: devices §1.11)."""

from __future__ import annotations

import structlog

from fpd.adapters import bluegen_parse
from fpd.adapters.bluegen_account import Account
from fpd.adapters.bluegen_errors import Kind, Refusal
from fpd.adapters.bluegen_parse import Points
from fpd.adapters.device import Stopped

log = structlog.get_logger()

_SUFFIXES = ("a", "b")
_FULL_AGAIN_S = 3600.0


class Slots:
    """Profiles `{prefix}-a` and `{prefix}-b`. Profiles of others are never written or deleted."""

    def __init__(self, account: Account, *, unit_id: int, prefix: str, as_text: bool) -> None:
        self._account = account
        self._unit_id = unit_id
        self._names = tuple(f"{prefix}-{suffix}" for suffix in _SUFFIXES)
        self._as_text = as_text

    async def find(self) -> tuple[int, ...]:
        """Return the ids of those that exist."""
        profiles = bluegen_parse.profiles(await self._account.get("/profiles"))
        return tuple(profiles[name] for name in self._names if name in profiles)

    async def ensure(self, power_w: int) -> tuple[int, ...]:
        """Return the ids, made flat at `power_w` where missing; one alone if there is room for no
        more. Raises Stopped if there is room for none.
        """
        profiles = bluegen_parse.profiles(await self._account.get("/profiles"))
        for name in self._names:
            if name in profiles:
                continue
            try:
                profiles[name] = await self._create(name, power_w)
            except Refusal as refusal:
                if refusal.kind is Kind.EXISTS:
                    profiles |= bluegen_parse.profiles(await self._account.get("/profiles"))
                elif refusal.kind is not Kind.FULL:
                    raise
        found = tuple(profiles[name] for name in self._names if name in profiles)
        if not found:
            raise Stopped(
                "the account holds its maximum of profiles and none is ours: delete one",
                retry_s=_FULL_AGAIN_S,
            )
        if len(found) < len(self._names):
            log.warning("bluegen.single_slot", unit=self._unit_id, profile=found[0])
        return found

    async def points(self, profile_id: int) -> Points:
        return bluegen_parse.points(await self._account.get(f"/profile/{profile_id}"))

    async def write(self, profile_id: int, points: Points) -> None:
        """Replace all points of a profile."""
        await self._account.post(f"/profiles/{profile_id}/points", self._body(points))

    async def assign(self, profile_id: int) -> None:
        await self._account.put(f"/unit/{self._unit_id}/profile/{profile_id}")

    async def assigned(self) -> int | None:
        """Return the profile that the unit is to follow, None if none."""
        return bluegen_parse.assigned_profile(
            await self._account.get(f"/unit/{self._unit_id}/profile")
        )

    async def _create(self, name: str, power_w: int) -> int:
        body = {"name": name, "description": "written by fpd"}
        points = self._body(((0, power_w), (671, power_w)))
        reply = await self._account.post("/profiles", {**body, **points})
        return bluegen_parse.created(reply.json())

    def _body(self, points: Points) -> dict[str, object]:
        def shown(value: int) -> int | str:
            return str(value) if self._as_text else value

        return {
            "points": [{"tick": shown(tick), "power": shown(power)} for tick, power in points],
            "unit_id": shown(self._unit_id),
        }
