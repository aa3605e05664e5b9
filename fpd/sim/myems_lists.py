"""The lists of a simulated MyEMS: what is configured there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fpd.sim import myems_site as lists
from fpd.sim.answers import Refusal
from fpd.sim.myems_answers import told
from fpd.sim.simulator import ENTRY

if TYPE_CHECKING:
    from fpd.sim.myems import MyEms

Door = Callable[[web.Request], Awaitable[web.Response]]


class Lists:
    """Doors that show what there is."""

    def __init__(self, server: MyEms) -> None:
        self._server = server
        self._spoilt: list[dict[str, Any]] | None = None

    async def meters(self, _: web.Request) -> web.Response:
        return told(
            [lists.shown_meter(i, name) for i, (name, _) in self._server.site.meters.items()]
        )

    async def meter_points(self, request: web.Request) -> web.Response:
        known = self._server.points()
        found = [known[i] for i in self._server.ids(self._server.meter(request.match_info["id"]))]
        found.sort(key=lambda point: point.name.lower())
        return told(
            [
                {
                    "id": p.id,
                    "name": p.name,
                    "data_source": lists.SOURCE,
                    "address": lists.address(p.id),
                }
                for p in found
            ]
        )

    async def meter_commands(self, request: web.Request) -> web.Response:
        bound = {6: 1, 8: 2}.get(self._server.meter(request.match_info["id"]))
        return told(self.bound(bound))

    async def owner_commands(self, _: web.Request) -> web.Response:
        return told(self.bound(1))

    def bound(self, command_id: int | None) -> list[dict[str, Any]]:
        command = None if command_id is None else self._server.site.commands.get(command_id)
        if command is None:
            return []
        shown = command.shown()
        return [{name: shown[name] for name in ("id", "name", "uuid")}]

    async def virtual_meters(self, _: web.Request) -> web.Response:
        return told(lists.virtual_meters())

    async def offline_meters(self, _: web.Request) -> web.Response:
        return told(lists.offline_meters())

    async def categories(self, _: web.Request) -> web.Response:
        units = {"unit_of_measure": "kWh", "kgce": Decimal("0.122"), "kgco2e": Decimal("0.928")}
        return told([lists.CATEGORY | units])

    async def commands(self, _: web.Request) -> web.Response:
        return told([command.shown() for command in self._server.site.commands.values()])

    async def command(self, request: web.Request) -> web.Response:
        return told(self._server.known_command(request).shown())

    async def points(self, request: web.Request) -> web.Response:
        """A filter spoils the list for everybody, as with the server's cache."""
        shown = [lists.shown_point(point) for point in self._server.points().values()]
        if request.query_string:
            request[ENTRY].invalid += ("a filter spoils the list of points for everybody",)
            self._spoilt = shown[:1]
        return told(shown if self._spoilt is None else self._spoilt)

    async def logs(self, request: web.Request) -> web.Response:
        now = self._server.clock()
        form = "%Y-%m-%dT%H:%M:%S"
        entry = {
            "id": 106,
            "user_uuid": request.headers["User-UUID"],
            "user_name": "administrator",
            "user_display_name": "Administrator",
            "request_datetime": (now + self._server.offset).strftime(form),
            "request_datetime_utc": now.strftime(form),
            "request_method": "PUT",
            "resource_type": "UserLogin",
            "resource_id": None,
            "request_body": None,
        }
        if tuple(map(int, self._server.quirks.version.split("."))) < (5, 11, 0):
            raise Refusal(404, "404 Not Found")
        return told([entry])

    def owners(self, family: str) -> Door:
        async def door(_: web.Request) -> web.Response:
            return told([lists.owner(family)])

        return door

    async def parts(self, request: web.Request) -> web.Response:
        found = lists.parts(self._server.site, request.match_info["part"])
        family = request.path.split("/")[1]
        if found is None or request.match_info["part"] not in lists.PARTS[family]:
            raise Refusal(404, "404 Not Found")
        return told(found)
