"""A simulated Reengen (Faradai) platform: every method of seed 003 for one small tenant.

The status is 200 whatever happens; `succeeded` and `message` say how it went. Where the document
is silent the reference, devices §3, says what it does.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from aiohttp import web

from fpd.sim import reengen_quirks
from fpd.sim.answers import Refusal, reply
from fpd.sim.journal import Clock
from fpd.sim.reengen_data import FORM, Failed, Library, local
from fpd.sim.reengen_quirks import Failure, ReengenQuirks
from fpd.sim.reengen_tenant import Key, Tenant
from fpd.sim.simulator import ENTRY, Options, Simulator, option
from fpd.sim.zones import zone

Method = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReengenOptions(Options):
    tenant: str = option("demo", "name of the tenant")
    user: str = option("demo", "who may log in")
    password: str = option("demo", "with which password", secret=True)
    tz: str = option("Europe/Istanbul", "zone of the tenant's local times")
    period_s: float = option(900.0, "about how often meters are read")
    irregular: bool = option(True, "meters are read up to some minutes late")
    min_interval_s: float = option(1.0, "requests closer than this are noted as wrong")


class Reengen(Simulator[ReengenQuirks]):
    """One tenant. Logs in anybody with its password, as often as they like."""

    role = "reengen"

    def __init__(self, options: ReengenOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock, quirks=ReengenQuirks)
        self.options = options
        self.tenant = Tenant(period_s=options.period_s, irregular=options.irregular)
        self._tz = zone(options.tz)
        self._library = Library(self.tenant, self._tz)
        self._connections: dict[str, datetime] = {}
        self._spent: dict[str, int] = {}
        self._in_flight = 0
        self._last_s = float("-inf")
        self._counts: dict[str, int] = {}
        self.actions = {"reset": self._reset, "correct": self._correct, "power": self._power}
        self._methods: dict[str, Method] = {
            "GetPointHierarchy": self._hierarchy,
            "GetData": self._data,
            "ListDataEx": self._list,
            "ImportData": self._import,
            "GetDCData": self._get_flags,
            "ManageDCData": self._manage_flags,
            "ListAvailableCommands": self._list_commands,
            "ExecuteCommand": self._execute,
        }

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return (web.post("/api/do/", self._do), web.post("/api/do", self._do))

    def switch(self, changes: Any) -> None:
        super().switch(changes)
        self._spent.clear()

    def state(self) -> dict[str, Any]:
        """Return what the meters show now (`original`, or the value) and what was done."""
        now = self.clock()
        return {
            "role": self.role,
            "meters": [
                {
                    "point": meter.point,
                    "definition": meter.definition,
                    "variant": meter.variant,
                    "index": meter.index,
                    "unit": meter.unit,
                    "rate": meter.rate_at(now),
                    "value": meter.register(now) if meter.is_register else meter.rate_at(now),
                }
                for meter in self.tenant.meters
            ],
            "executed": self.tenant.executed,
            "imported": [
                {"point": key[0], "definition": key[1], "variant": key[2], "index": key[3]}
                | {"date": at.astimezone(self._tz).strftime(FORM), "value": value}
                for (key, _, at), value in sorted(
                    self.tenant.imported.items(), key=lambda pair: (pair[0][2], pair[0][0])
                )
            ],
            "flags": [
                {"tenant": tenant, "point": point, "type": kind, "value": value}
                for (tenant, point, kind), value in self.tenant.flags.items()
            ],
            "requests": self._counts,
        }

    async def _do(self, request: web.Request) -> web.Response:
        self._watch_pace(request)
        self._in_flight += 1
        try:
            return await self._answered(request)
        except Failed as failed:
            return self._told(None, succeeded=False, message=str(failed))
        finally:
            self._in_flight -= 1
            self._last_s = asyncio.get_running_loop().time()

    async def _answered(self, request: web.Request) -> web.Response:
        try:
            said = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.DecodeError as error:
            request[ENTRY].invalid += (f"not a JSON object: {error}",)
            raise Failed("Invalid JSON") from error
        method = str(said.get("$"))
        self._counts[method] = self._counts.get(method, 0) + 1
        if self._spends("page", self.quirks.page, given=self.quirks.page is not None):
            return _page()
        if request.content_type != "application/json":
            request[ENTRY].invalid += ("Content-Type must be application/json",)
        properties = said.get("properties")
        asked = properties if isinstance(properties, dict) else {}
        if method == "Authenticate":
            return self._told(self._authenticate(asked))
        if not self._is_connected(request):
            if self.quirks.refusal == "page":
                return _page()
            raise Failed(self.quirks.refusal)
        act = self._methods.get(method)
        if act is None:
            request[ENTRY].invalid += (f"no such method: {method}",)
            raise Failed(f"Unknown method {method}")
        failure = self._failure(method)
        if failure is not None and not failure.after:
            return self._told({}, succeeded=False, message=failure.message)
        found = await act(asked)
        if failure is not None:
            return self._told({}, succeeded=False, message=failure.message)
        return self._told(found, without_message=method == "ExecuteCommand")

    def _watch_pace(self, request: web.Request) -> None:
        """Note who asks faster than is polite; the loop's time is real even if the clock is not."""
        gap_s = asyncio.get_running_loop().time() - self._last_s
        if self._in_flight:
            request[ENTRY].invalid += ("another request of the tenant is in flight",)
        elif gap_s < self.options.min_interval_s:
            request[ENTRY].invalid += (f"only {gap_s:.3f} s after the request before",)

    def _authenticate(self, asked: dict[str, Any]) -> dict[str, Any]:
        options = self.options
        wanted = {"tenant": options.tenant, "user": options.user, "password": options.password}
        if self.quirks.refuse_login or asked != wanted:
            raise Failed("Invalid tenant, user or password")
        connection_id = str(uuid.uuid4())
        self._connections[connection_id] = self.clock()
        return {"connectionId": connection_id}

    def _is_connected(self, request: web.Request) -> bool:
        if request.headers.get("XLang") != f"en,{self.options.tenant}":
            request[ENTRY].invalid += (f"XLang must be en,{self.options.tenant}",)
            raise Failed("XLang header is missing or wrong")
        since = self._connections.get(request.headers.get("XConnectionId", ""))
        life_s = self.quirks.connection_life_s
        expired = (
            since is not None
            and life_s is not None
            and self.clock() - since >= timedelta(seconds=life_s)
        )
        return since is not None and not expired and not self.quirks.refuse_connections

    def _failure(self, method: str) -> Failure | None:
        failure = self.quirks.fail
        if failure is None or failure.method not in ("", method):
            return None
        return failure if self._spends("fail", failure.times) else None

    def _spends(self, what: str, times: int | None, *, given: bool = True) -> bool:
        if not given or (times is not None and self._spent.get(what, 0) >= times):
            return False
        self._spent[what] = self._spent.get(what, 0) + 1
        return True

    def _told(
        self,
        properties: dict[str, Any] | None,
        *,
        succeeded: bool = True,
        message: str | None = None,
        without_message: bool = False,
    ) -> web.Response:
        told: dict[str, Any] = {} if properties is None else {"properties": properties}
        told["succeeded"] = succeeded
        if not self.quirks.no_message and not without_message:
            told["message"] = message
        return reply(told | {"statistics": {}})

    def refused(self, refusal: Refusal) -> web.Response:
        return web.Response(status=refusal.status, text=refusal.message)

    async def _hierarchy(self, asked: dict[str, Any]) -> dict[str, Any]:
        root = ["All", {"parent": None, "code": None, "name": None, "id": None}]
        return {
            "data": [
                root,
                *(
                    [
                        place.name,
                        {
                            "parent": place.parent,
                            "code": place.code,
                            "name": place.name,
                            "id": place.id,
                            "startingDate": None,
                        },
                    ]
                    for place in self.tenant.places
                    if place.code not in self.quirks.lost_points
                ),
            ]
        }

    async def _data(self, asked: dict[str, Any]) -> dict[str, Any]:
        series = asked.get("series")
        if not isinstance(series, list) or not series:
            raise Failed("series: an array is expected")
        rows = self._library.rows(self._codes(asked.get("point")), asked, now=self._known_at())
        found: dict[str, Any] = {}
        for position, each in enumerate(series):
            is_cost = each.get("calculator") == "cost"
            tell = self._library.costs if is_cost else self._library.aggregates
            found[str(position)] = tell(each, rows, asked) or None
        data = reengen_quirks.aggregates(self.quirks, found)
        return {"data": data, "start": asked["start"], "end": asked["end"]}

    async def _list(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("requestType") not in ("code", "id"):
            raise Failed("requestType: code or id is expected")
        rows = self._library.rows(self._codes(asked.get("point")), asked, now=self._known_at())
        data = reengen_quirks.raw(self.quirks, list(self._library.listed(rows, asked)))
        return {"data": data, "rowCount": len(data)}

    def _known_at(self) -> datetime:
        return self.clock() - timedelta(seconds=self.quirks.late_s)

    def _codes(self, named: object) -> list[str]:
        codes = self._library.codes(named)
        for code in codes if named is not None else ():
            self._check_there(code)
        return codes

    def _check_there(self, code: str) -> None:
        if code in self.quirks.lost_points:
            raise Failed(f"Point not found: {code}")

    async def _import(self, asked: dict[str, Any]) -> None:
        """Take rows one by one: what came before one that fails stays."""
        for row in asked.get("data") or ():
            key: Key = (
                self._codes([row.get("point")])[0],
                str(row.get("definition")),
                str(row.get("variant")),
                int(row.get("index", 1)),
            )
            at = local(row.get("date")).replace(tzinfo=self._tz)
            where = key, str(row.get("type")), at
            operation = row.get("#", "C")
            if operation == "C" and where in self.tenant.imported:
                raise Failed(f"Data already exists: {row.get('date')}")
            if operation in ("U", "D") and where not in self.tenant.imported:
                raise Failed(f"Data not found: {row.get('date')}")
            if operation == "D":
                del self.tenant.imported[where]
            elif isinstance(row.get("value"), int | float) and operation in ("C", "U"):
                self.tenant.imported[where] = float(row["value"])
            else:
                raise Failed(f"Invalid operation {operation} or value {row.get('value')}")

    async def _get_flags(self, asked: dict[str, Any]) -> dict[str, Any]:
        wanted = asked.get("tenant"), asked.get("type")
        return {
            "data": [
                {"tenant": tenant, "point": point, "type": kind, "value": value}
                for (tenant, point, kind), value in self.tenant.flags.items()
                if (tenant, kind) == wanted and point in (asked.get("point") or ())
            ]
        }

    async def _manage_flags(self, asked: dict[str, Any]) -> dict[str, Any]:
        data = asked.get("data") or ()
        for row in data:
            where = str(row.get("tenant")), self._codes([row.get("point")])[0], str(row.get("type"))
            operation, there = row.get("#"), where in self.tenant.flags
            if operation == "D":
                self.tenant.flags.pop(where, None)
            elif operation == "CU" or operation == ("U" if there else "C"):
                if not isinstance(row.get("value"), str):
                    raise Failed("value: a string is expected")
                self.tenant.flags[where] = row["value"]
            else:
                raise Failed(f"Operation {operation} is not possible")
        return {"data": [{k: v for k, v in row.items() if k != "#"} for row in data]}

    async def _list_commands(self, asked: dict[str, Any]) -> dict[str, Any]:
        place = self.tenant.place(asked.get("point"))
        if place is None:
            raise Failed(f"Point not found: {asked.get('point')}")
        self._check_there(place.code)
        return {"data": self.tenant.commands.get(place.code, [])}

    async def _execute(self, asked: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(self.quirks.command_s)
        place = self.tenant.place(asked.get("point"))
        listed = self.tenant.commands.get(place.code, []) if place is not None else []
        if place is None or asked.get("command") not in [each["code"] for each in listed]:
            raise Failed(f"Command not found: {asked.get('command')}")
        if not self.quirks.command_ignored:
            parameter = asked.get("parameter")
            self.tenant.execute(place, str(asked["command"]), parameter, self.clock())
        return {}

    async def _reset(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The meters of `point` are exchanged: their registers begin at 0 again."""
        for meter in self.tenant.meters:
            if meter.point == asked.get("point") and meter.is_register:
                meter.resets.append(self.clock())
        return {}

    async def _correct(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The register at the local time `date` was wrong by `by`."""
        key = asked["point"], asked["definition"], asked["variant"], int(asked.get("index", 1))
        at = local(asked["date"]).replace(tzinfo=self._tz)
        self.tenant.corrections[key, at] = float(asked["by"])
        return {}

    async def _power(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The meter of `point`, `definition`, `variant` sees `rate` from now on."""
        for meter in self.tenant.meters:
            if (meter.point, meter.definition, meter.variant) == (
                *(asked["point"], asked.get("definition", "activeEnergy")),
                asked.get("variant", "import"),
            ):
                meter.change(float(asked["rate"]), self.clock())
        return {}


def _page() -> web.Response:
    return web.Response(text="<html>maintenance</html>", content_type="text/html")
