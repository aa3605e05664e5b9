"""Our two profiles of one unit in the service, found by their names (reference: devices §1.11)."""

from __future__ import annotations

from contextlib import suppress

import structlog

from fpd.adapters.bluegen_account import Account
from fpd.adapters.bluegen_errors import Kind, Refusal
from fpd.adapters.device import Stopped, Unreachable
from fpd.domain import bluegen_answers
from fpd.domain.bluegen_answers import Points
from fpd.errors import Malformed

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

    async def all(self) -> dict[str, int]:
        """Return the ids of all profiles of the account by their names."""
        return await self._account.get("/profiles", bluegen_answers.profiles)

    async def find(self) -> tuple[int, ...]:
        """Return the ids of those that exist."""
        profiles = await self.all()
        return tuple(profiles[name] for name in self._names if name in profiles)

    async def ensure(self, power_w: int) -> tuple[int, ...]:
        """Return the ids, made flat at `power_w` where missing; one alone if there is room for no
        more. Raises Stopped if there is room for none.
        """
        profiles = await self.all()
        for name in self._names:
            if name in profiles:
                continue
            try:
                profiles[name] = await self._create(name, power_w)
            except Refusal as refusal:
                if refusal.kind is Kind.EXISTS:
                    profiles |= await self.all()
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
        return await self._account.get(f"/profile/{profile_id}", bluegen_answers.points)

    async def write(self, profile_id: int, points: Points) -> None:
        """Replace all points of a profile."""
        await self._account.post(f"/profiles/{profile_id}/points", self._body(points))

    async def assign(self, profile_id: int) -> None:
        await self._account.put(f"/unit/{self._unit_id}/profile/{profile_id}")

    async def assigned(self) -> int | None:
        """Return the profile that the unit is to follow, None if none."""
        return await self._account.get(
            f"/unit/{self._unit_id}/profile", bluegen_answers.assigned_profile
        )

    async def delete(self) -> tuple[str, ...]:
        """Delete those that are ours and that no unit uses; return their names.

        Raises Stopped for one that is in use: what uses it must follow another profile first.
        """
        profiles = await self.all()
        gone = []
        for name in self._names:
            if name not in profiles:
                continue
            path = f"/profiles/{profiles[name]}/members"
            members = await self._account.get(path, bluegen_answers.units)
            if members:
                raise Stopped(f"{name} is in use by unit {', '.join(map(str, members))}")
            await self._account.delete(f"/profile/{profiles[name]}")
            gone.append(name)
        return tuple(gone)

    async def _create(self, name: str, power_w: int) -> int:
        body = {"name": name, "description": "written by fpd"}
        points = self._body(((0, power_w), (671, power_w)))
        reply = await self._account.post("/profiles", {**body, **points})
        with suppress(Malformed, Unreachable):  # what a write answers is not to be relied on
            return bluegen_answers.created(reply.json())
        created = (await self.all()).get(name)
        if created is None:
            raise Unreachable("the new profile is not among the account's")
        return created

    def _body(self, points: Points) -> dict[str, object]:
        def shown(value: int) -> int | str:
            return str(value) if self._as_text else value

        return {
            "points": [{"tick": shown(tick), "power": shown(power)} for tick, power in points],
            "unit_id": shown(self._unit_id),
        }
