"""A simulated MyEMS v6.7.0 with a battery and a BlueGen behind it, faults of the real one included.

Facts: exchanges recorded from a real server. Commands reach the simulated device by MQTT when
there is a broker, directly when there is none, and what it does can be read back.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

from aiohttp import web

from fpd.sim import myems_answers as answers
from fpd.sim import myems_commands as commands
from fpd.sim import myems_site as lists
from fpd.sim import myems_writes as writes
from fpd.sim.answers import Refusal
from fpd.sim.journal import Clock
from fpd.sim.mqtt_link import MqttLink, Received
from fpd.sim.myems_accounts import Accounts
from fpd.sim.myems_answers import told
from fpd.sim.myems_lists import Lists
from fpd.sim.myems_plant import Plant, Point
from fpd.sim.myems_quirks import MyEmsOptions, MyEmsQuirks
from fpd.sim.myems_report_doors import ReportDoors
from fpd.sim.myems_reports import Reports, missing, number
from fpd.sim.myems_site import FAMILIES, Site
from fpd.sim.simulator import ENTRY, Simulator

Door = Callable[[web.Request], Awaitable[web.Response]]
_COMMANDS = "myems/command/#"


class MyEms(Simulator[MyEmsQuirks]):
    """One server, with one API key and the users administrator, readonly and operator."""

    role = "myems"

    def __init__(self, options: MyEmsOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock, quirks=MyEmsQuirks)
        self.options = options
        self.site = Site()
        self.accounts = Accounts(options.password, options.api_key, options.session_s)
        self.plant = Plant(clock().replace(microsecond=0), options.interval_s, options.lag_s)
        self.plant.remember(options.history_h)
        self.published: list[commands.Published] = []
        self._link: MqttLink | None = None
        self.actions = {
            "end-sessions": self._end_sessions,
            "bind": self._bind,
            "reset-register": self._reset_register,
            "unlock": self._unlock,
        }

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        keyed, admin, user = self._keyed, self._admin, self._user
        shown, values = Lists(self), ReportDoors(self)
        rows: list[tuple[str, str, Door]] = [
            ("GET", "/version", self._version),
            ("PUT", "/users/login", self._login),
            ("PUT", "/users/logout", self._logout),
            ("GET", "/meters", keyed(shown.meters)),
            ("GET", "/meters/{id}/points", keyed(shown.meter_points)),
            ("GET", "/meters/{id}/commands", keyed(shown.meter_commands)),
            ("GET", "/virtualmeters", keyed(shown.virtual_meters)),
            ("GET", "/offlinemeters", keyed(shown.offline_meters)),
            ("GET", "/energycategories", keyed(shown.categories)),
            ("GET", "/commands", keyed(shown.commands)),
            ("GET", "/commands/{id}", keyed(shown.command)),
            ("PUT", "/commands/{id}/send", admin(self._send)),
            ("GET", "/points", admin(shown.points)),
            ("GET", "/logs", admin(shown.logs)),
            ("GET", "/reports/pointrealtime", keyed(values.point_realtime)),
            ("GET", "/reports/meterrealtime", keyed(values.meter_realtime)),
            ("GET", "/reports/metertrend", keyed(values.meter_trend)),
            ("GET", "/reports/meterenergy", keyed(values.energy("meter"))),
            ("GET", "/reports/virtualmeterenergy", keyed(values.energy("virtualmeter"))),
            ("GET", "/reports/offlinemeterenergy", keyed(values.energy("offlinemeter"))),
            ("POST", "/reports/offlinemeterinput", keyed(self._offline_input)),
            ("POST", "/offlinemeterfiles", admin(self._offline_file)),
        ]
        rows.append(("GET", f"/{FAMILIES[0]}/{{owner}}/commands", user(shown.owner_commands)))
        for family in FAMILIES:
            rows += [
                ("GET", f"/{family}", user(shown.owners(family))),
                ("GET", f"/{family}/{{owner}}/schedules", user(self._schedules(family))),
                ("POST", f"/{family}/{{owner}}/schedules", admin(self._schedules(family))),
                ("PUT", f"/{family}/{{owner}}/schedules/{{id}}", admin(self._schedules(family))),
                ("DELETE", f"/{family}/{{owner}}/schedules/{{id}}", admin(self._schedules(family))),
                ("GET", f"/{family}/{{owner}}/{{part}}", user(shown.parts)),
            ]
        return [web.route(method, path, self._door(door)) for method, path, door in rows]

    async def begin(self) -> None:
        if self.options.mqtt_url:
            self._link = MqttLink(
                self.options, self.changes, topics=((_COMMANDS, 1),), receive=self._received
            )
            self.spawn(self._link.run())
        if self.options.publish_s:
            self.spawn(self._publish_values())

    @property
    def is_connected(self) -> bool:
        """Whether its broker has let it in."""
        return self._link is not None and self._link.connected

    @property
    def is_ordered(self) -> bool:
        """Whether the device has been told something that it has not done yet."""
        return self.plant.is_ordered

    def advance(self) -> None:
        quirks = self.quirks
        self.plant.advance(
            self.clock(), clamp_kw=quirks.clamp_kw, acquiring=not quirks.acquisition_stopped
        )

    def state(self) -> dict[str, Any]:
        self.advance()
        return {
            "role": self.role,
            "battery_kw": self.plant.battery_kw,
            "bluegen_w": self.plant.bluegen_w,
            "soc": round(self.plant.soc, 3),
            "grid_kw": round(self.plant.grid_kw, 6),
            "published": [dataclasses.asdict(one) for one in self.published[-100:]],
            "sessions": len(self.accounts.sessions),
            "logins": self.accounts.logins,
            "locked": [u.name for u in self.accounts.users.values() if u.locked],
            "schedules": {
                f"{family}/{owner}": [row | {"power": float(row["power"])} for row in rows.values()]
                for (family, owner), rows in self.site.schedules.items()
            },
            "offline_days": {
                f"{meter} {day}": float(total)
                for (meter, day), total in self.site.offline_days.items()
            },
            "offline_files": self.site.offline_files,
        }

    # doors

    def _door(self, door: Door) -> Door:
        """Apply what goes wrong inside of the server."""

        async def opened(request: web.Request) -> web.Response:
            self.advance()
            entry, path = request[ENTRY], request.path
            if any(part in path for part in self.quirks.swallows):
                entry.invalid += ("swallowed",)
                return answers.nothing()
            try:
                if self.quirks.database_down and path != "/version":
                    raise answers.Swallowed if self._logs(request) else answers.broken()
                return await door(request)
            except answers.Swallowed:
                entry.invalid += ("swallowed",)
                return answers.nothing()
            except Refusal as refusal:
                entry.invalid += refusal.invalid
                return answers.refused(refusal, request.headers.get("Accept", ""))

        return opened

    def _logs(self, request: web.Request) -> bool:
        """Whether it is one of the handlers that note who did what, and swallow what goes wrong."""
        written = request.method != "GET" and "schedules" in request.path
        return written or request.path.endswith("/logout")

    def refused(self, refusal: Refusal) -> web.Response:
        return answers.refused(refusal, "")

    def _keyed(self, door: Door) -> Door:
        async def opened(request: web.Request) -> web.Response:
            self.accounts.check_key(
                request.headers, self.clock(), expired=self.quirks.api_key_expired
            )
            return await door(request)

        return opened

    def _admin(self, door: Door) -> Door:
        async def opened(request: web.Request) -> web.Response:
            self.accounts.check_admin(request.headers, self.clock(), demoted=self.quirks.demoted)
            return await door(request)

        return opened

    def _user(self, door: Door) -> Door:
        async def opened(request: web.Request) -> web.Response:
            self.accounts.check_user(request.headers, self.clock())
            return await door(request)

        return opened

    async def _version(self, _: web.Request) -> web.Response:
        return told(
            {
                "version": f"MyEMS v{self.quirks.version}",
                "release-date": "2026-07-26",
                "licensed-to": "COMMUNITY",
                "website": "https://myems.cn",
            }
        )

    async def _login(self, request: web.Request) -> web.Response:
        return told(self.accounts.login(await answers.data(request), self.clock()))

    async def _logout(self, request: web.Request) -> web.Response:
        self.accounts.logout(request.headers)
        return told("OK")

    # what it knows

    def points(self) -> dict[int, Point]:
        """Return the points as they were edited."""
        quirks = self.quirks
        return {
            point.id: dataclasses.replace(
                point,
                units=quirks.units.get(str(point.id), point.units),
                name=quirks.names.get(str(point.id), point.name),
                is_trend=point.id not in quirks.no_trend,
            )
            for point in self.site.points.values()
        }

    def meter(self, text: str | None) -> int:
        meter_id = number(text, "API.INVALID_METER_ID")
        if meter_id not in self.site.meters:
            raise missing("METER")
        return meter_id

    def ids(self, meter_id: int) -> list[int]:
        return self.site.point_ids(meter_id, with_text=self.quirks.text_point)

    def known_command(self, request: web.Request) -> lists.Command:
        command_id = number(request.match_info["id"], "API.INVALID_COMMAND_ID")
        return commands.refuse_unknown(self.site.commands.get(command_id))

    @property
    def offset(self) -> timedelta:
        text = self.quirks.utc_offset or self.options.utc_offset
        hours, minutes = text[1:].split(":")
        ahead = timedelta(hours=int(hours), minutes=int(minutes))
        return -ahead if text.startswith("-") else ahead

    @property
    def reports(self) -> Reports:
        """Reports as of now, as the quirks have them."""
        return Reports(
            self.plant,
            self.points,
            offset=self.offset,
            ahead=timedelta(seconds=self.quirks.ahead_s),
            instead={int(i): Decimal(str(v)) for i, v in self.quirks.values.items()},
        )

    # writes

    def _schedules(self, family: str) -> Door:
        async def door(request: web.Request) -> web.Response:
            return await writes.schedules(self.site, family, request)

        return door

    async def _offline_input(self, request: web.Request) -> web.Response:
        return await writes.offline_input(self.site, request)

    async def _offline_file(self, request: web.Request) -> web.Response:
        return await writes.offline_file(self.site, request)

    async def _send(self, request: web.Request) -> web.Response:
        command = self.known_command(request)
        published = commands.send(command, await answers.data(request), self.quirks)
        if published is not None:
            await self._publish(published)
        return told("success")

    async def _publish(self, published: commands.Published) -> None:
        self.published.append(published)
        if self._link is None:
            self._carry_out(published)
        else:
            await self._link.publish(published.topic, published.payload.encode(), qos=0)

    def _received(self, message: Received) -> None:
        found = commands.Published(message.topic, message.payload.decode("utf-8", "replace"))
        self._carry_out(found)

    def _carry_out(self, published: commands.Published) -> None:
        self.advance()
        if not self.quirks.ignores_commands:
            commands.carry_out(published, self._order)

    def _order(self, device: str, value: float) -> None:
        self.plant.order(device, value, self.clock())
        self.changes.notify()

    async def _publish_values(self) -> None:
        """Publish all values again and again, retained, as the publisher of 2020 does."""
        while True:
            await asyncio.sleep(self.options.publish_s)
            self.advance()
            if self._link is None or not self.plant.rows:
                continue
            at, values = self.plant.rows[-1]
            for point_id, value in values.items():
                said = {
                    "data_source_id": 15,
                    "point_id": point_id,
                    "object_type": self.site.points[point_id].object_type,
                    "utc_date_time": at.strftime("%Y-%m-%dT%H:%M:%S"),
                    "value": value,
                }
                with suppress(RuntimeError):
                    await self._link.publish(
                        f"myems/point/{point_id}", answers.text(said).encode(), qos=0
                    )

    # actions

    async def _end_sessions(self, said: dict[str, Any]) -> dict[str, Any]:
        self.accounts.end_sessions(forget=bool(said.get("forget")))
        return {}

    async def _unlock(self, _: dict[str, Any]) -> dict[str, Any]:
        for user in self.accounts.users.values():
            user.failed, user.locked = 0, False
        return {}

    async def _bind(self, said: dict[str, Any]) -> dict[str, Any]:
        """Give a meter other points, or none: then it is deleted."""
        meter_id, ids = int(said["meter"]), tuple(map(int, said.get("points", ())))
        if ids:
            self.site.meters[meter_id] = (f"Meter {meter_id}", ids)
        else:
            self.site.meters.pop(meter_id, None)
        return {"points": list(ids)}

    async def _reset_register(self, said: dict[str, Any]) -> dict[str, Any]:
        self.advance()
        self.plant.registers[int(said["point"])] = float(said.get("value", 0))
        return {}
