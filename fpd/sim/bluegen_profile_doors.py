"""The calls of the BlueGen web service that read, write and assign power profiles (3.3.5-3.3.9)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fpd.sim.answers import reply
from fpd.sim.bluegen_errors import no
from fpd.sim.bluegen_profiles import TICKS, Point, Profile, edited, refuse_unfit, without_range
from fpd.sim.bluegen_requests import json_body
from fpd.sim.bluegen_unit import Unit

if TYPE_CHECKING:
    from fpd.sim.bluegen import BlueGen


class ProfileDoors:
    """Writes answer 200 with an empty body as soon as they are stored; the units follow later."""

    def __init__(self, service: BlueGen) -> None:
        self._service = service

    def routes(self) -> Iterable[web.RouteDef]:
        gated = self._service.gated
        return (
            web.get("/profiles", gated(self._list)),
            web.post("/profiles", gated(self._create)),
            web.get("/profile/{profile}", gated(self._show)),
            web.put("/profile/{profile}", gated(self._rename)),
            web.delete("/profile/{profile}", gated(self._delete)),
            web.get("/profiles/{profile}/members", gated(self._members)),
            web.post("/profiles/{profile}/points", gated(self._replace_points)),
            web.put("/profiles/{profile}/point/{point}", gated(self._edit_point)),
            web.delete("/profiles/{profile}/range/{first}:{last}", gated(self._delete_range)),
            web.get("/unit/{unit}/profile", gated(self._assigned)),
            web.put("/unit/{unit}/profile/{profile}", gated(self._assign)),
        )

    def _profile(self, request: web.Request) -> Profile:
        return self._service.profiles.get(request.match_info["profile"])

    def _using(self, profile: Profile) -> list[Unit]:
        return [unit for unit in self._service.units() if unit.profile_id == profile.id]

    async def _list(self, request: web.Request) -> web.Response:
        number = self._service.number
        shown = [{"id": number(p.id), "name": p.name} for p in self._service.profiles]
        return reply({"profiles": shown})

    async def _show(self, request: web.Request) -> web.Response:
        profile, number = self._profile(request), self._service.number
        points = [
            {"id": number(p.id), "tick": number(p.tick), "power": number(p.power_w, "g")}
            for p in profile.points
        ]
        shown = {
            "id": number(profile.id),
            "name": profile.name,
            "description": profile.description,
        }
        return reply({"profile": shown, "points": points})

    async def _members(self, request: web.Request) -> web.Response:
        number = self._service.number
        members = self._using(self._profile(request))
        return reply({"members": [{"id": number(unit.id), "name": unit.name} for unit in members]})

    async def _create(self, request: web.Request) -> web.Response:
        body = await json_body(request)
        points = self._service.profiles.read_points(body.get("points", []))
        unit = self._named_unit(body)
        if unit is not None:
            self._refuse_unfit(points)
        profile = self._service.profiles.create(body.get("name"), body.get("description"), points)
        self._assign_if_so(unit, profile)
        spelling = "id" if self._service.quirks.other_spelling else "pid"
        return reply({spelling: self._service.number(profile.id)})

    async def _rename(self, request: web.Request) -> web.Response:
        profile, body = self._profile(request), await json_body(request)
        self._service.profiles.rename(
            profile,
            body.get("name", profile.name),
            body.get("description", profile.description),
        )
        return self._ok()

    async def _delete(self, request: web.Request) -> web.Response:
        profile = self._profile(request)
        if self._using(profile):
            raise no("ProfileInUse")
        self._service.profiles.delete(profile)
        return self._ok()

    async def _replace_points(self, request: web.Request) -> web.Response:
        profile, body = self._profile(request), await json_body(request)
        points = self._service.profiles.read_points(body.get("points"))
        if not points:
            raise no("No profile points")
        unit = self._named_unit(body)
        if unit is not None or self._using(profile):
            self._refuse_unfit(points)
        profile = self._store(profile, points)
        self._assign_if_so(unit, profile)
        return self._ok()

    async def _edit_point(self, request: web.Request) -> web.Response:
        profile = self._profile(request)
        points = edited(profile, request.match_info["point"], await json_body(request))
        if self._using(profile):
            self._refuse_unfit(points)
        self._store(profile, points)
        return self._ok()

    async def _delete_range(self, request: web.Request) -> web.Response:
        profile, ends = self._profile(request), request.match_info
        self._store(profile, without_range(profile, ends["first"], ends["last"]))
        return self._ok()

    async def _assigned(self, request: web.Request) -> web.Response:
        unit = self._service.unit(request.match_info["unit"])
        # The example shows a bare 0 where the table speaks of a timestamp.
        since = int(unit.assigned_at.timestamp()) if unit.assigned_at else 0
        return reply({"pid": self._service.number(unit.profile_id), "when": since})

    async def _assign(self, request: web.Request) -> web.Response:
        unit = self._service.unit(request.match_info["unit"])
        profile = self._profile(request)
        if not profile.points:
            raise no("No profile points")
        self._refuse_unfit(profile.points)
        if not self._service.quirks.assign_ignored:
            self._assign_to(unit, profile)
        return self._ok()

    def _ok(self) -> web.Response:
        return web.Response(text="200 Ok" if self._service.quirks.ok_text else None)

    def _named_unit(self, body: dict[str, Any]) -> Unit | None:
        unit_id = body.get("unit_id")
        return None if unit_id is None else self._service.unit(str(unit_id))

    def _refuse_unfit(self, points: tuple[Point, ...]) -> None:
        service = self._service
        refuse_unfit(points, service.limits(), service.week, service.quirks.ramp_check)

    def _store(self, profile: Profile, points: tuple[Point, ...]) -> Profile:
        stored = self._service.profiles.replace_points(profile, points)
        for unit in self._using(stored):
            self._deliver(unit, points)
        return stored

    def _assign_if_so(self, unit: Unit | None, profile: Profile) -> None:
        if unit is not None and self._service.quirks.create_assigns:
            self._assign_to(unit, profile)

    def _assign_to(self, unit: Unit, profile: Profile) -> None:
        now = self._service.clock()
        unit.profile_id, unit.assigned_at = profile.id, now
        self._deliver(unit, profile.points)

    def _deliver(self, unit: Unit, points: tuple[Point, ...]) -> None:
        if not self._service.quirks.delivery_lost:
            unit.deliver(points, self._service.clock())

    def assign_foreign(self, unit: Unit, power_w: float) -> int:
        """Make a flat profile as somebody else would, assign it, and return its id."""
        profiles = self._service.profiles
        given = [{"tick": 0, "power": power_w}, {"tick": TICKS - 1, "power": power_w}]
        name = f"somebody else's {len(list(profiles)) + 1}"
        profile = profiles.create(name, "", profiles.read_points(given))
        self._assign_to(unit, profile)
        return profile.id
