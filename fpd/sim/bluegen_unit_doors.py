"""The calls of the BlueGen web service that are about the account and its units."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fpd.sim.answers import reply
from fpd.sim.bluegen_errors import no
from fpd.sim.bluegen_requests import json_body
from fpd.sim.bluegen_unit import EFFICIENCY, LHV_KWH_M3, Unit

if TYPE_CHECKING:
    from fpd.sim.bluegen import BlueGen

_PERIODS = {"d": 1, "w": 7, "m": 31, "y": 366, "t": 366}


class UnitDoors:
    """GET calls about the account and its units (3.3.2), and the PUT calls that name things."""

    def __init__(self, service: BlueGen) -> None:
        self._service = service
        self._prefs = {"fname": "Test", "lname": "Pilot", "email": "test.pilot@example.org"}

    def routes(self) -> Iterable[web.RouteDef]:
        gated = self._service.gated
        reads = {
            "/": self._greeting,
            "/version": self._version,
            "/units": self._units,
            "/unit/{unit}": self._status,
            "/unit/{unit}/limits": self._limits,
            "/unit/{unit}/current": self._current,
            "/unit/{unit}/accumulated": self._accumulated,
            "/unit/{unit}/version": self._unit_version,
            "/unit/{unit}/location": self._location,
            "/unit/{unit}/history": self._history,
            "/unit/{unit}/chart": self._chart,
            "/customer/prefs": self._read_prefs,
        }
        return (
            *(web.get(path, gated(handler)) for path, handler in reads.items()),
            web.put("/unit/{unit}/clientname", gated(self._name)),
            web.put("/unit/{unit}/customername", gated(self._name)),
            web.put("/customer/prefs", gated(self._write_prefs)),
        )

    def _unit(self, request: web.Request) -> Unit:
        return self._service.unit(request.match_info["unit"])

    async def _greeting(self, request: web.Request) -> web.Response:
        return web.Response(text="BGN Restalicious", content_type="text/html")

    async def _version(self, request: web.Request) -> web.Response:
        return reply({"version": {"maj": 1, "min": 3, "inf": 0, "pro": 1, "api": "1"}})

    async def _units(self, request: web.Request) -> web.Response:
        number = self._service.number
        units = self._service.units()
        return reply({"units": [{"id": number(unit.id), "name": unit.name} for unit in units]})

    async def _status(self, request: web.Request) -> web.Response:
        unit, number = self._unit(request), self._service.number
        orders = self._service.orders(unit)
        status = {
            "model": "BG15",
            "pp": number(int(orders.profiling)),
            "status": orders.status,
            "tz": self._service.options.unit_tz,
            "gid": number(0),
            "pid": number(unit.profile_id),
        }
        return reply({"status": status})

    async def _limits(self, request: web.Request) -> web.Response:
        self._unit(request)
        limits, number = self._service.limits(), self._service.number
        shown = {
            "minpower": number(limits.min_w, "g"),
            "maxpower": number(limits.max_w, "g"),
            "slew_up": number(limits.slew_up_w, ".3f"),
            "slew_dn": number(limits.slew_dn_w, ".3f"),
        }
        return reply({"limits": shown})

    async def _current(self, request: web.Request) -> web.Response:
        sample = self._service.reported(self._unit(request))[-1]
        return reply({"current": self._shown(sample.at, sample.power_w, sample.gas_slm, "current")})

    async def _accumulated(self, request: web.Request) -> web.Response:
        sample = self._service.accumulated(self._unit(request))
        shown = self._shown(sample.accumulated_at, sample.energy_kwh, sample.gas_m3, "acc")
        return reply({"acc": shown})

    def _shown(self, at: datetime, power: float, gas: float, of: str = "") -> dict[str, Any]:
        spoilt: dict[str, Any] = {}
        for door, values in self._service.quirks.spoil.items():
            spoilt.update({key: value for key, value in values.items() if door == of})
        return {
            "when" if self._service.quirks.other_spelling else "timestamp": (
                self._service.timestamp(at)
            ),
            "power": self._service.number(power, ".6f"),
            "gas": self._service.number(gas, ".6f"),
            **spoilt,
        }

    async def _unit_version(self, request: web.Request) -> web.Response:
        self._unit(request)
        number = self._service.number
        version = {"ccp": 34, "maint": 3, "alarm": 2, "protocol": 5}
        return reply({"version": {name: number(value) for name, value in version.items()}})

    async def _location(self, request: web.Request) -> web.Response:
        self._unit(request)
        lhv = "LHV" if self._service.quirks.other_spelling else "lhv"
        return reply(
            {
                "location": "Dandenong South, Australia",
                "region": "Melbourne - Victoria",
                lhv: self._service.number(LHV_KWH_M3, ".5f"),
            }
        )

    async def _history(self, request: web.Request) -> web.Response:
        unit, query = self._unit(request), request.query
        first, last = (
            self._service.instant(query.get("from", "")),
            self._service.instant(query.get("to", "")),
        )
        if first > last:
            raise no("Invalid data range")
        rows = [
            self._shown(sample.at, sample.power_w, sample.gas_slm)
            for sample in self._service.reported(unit)
            if first <= sample.at <= last
        ]
        if query.get("format", "json").strip('"').lower() != "csv":
            return reply({"data": rows})
        lines = [",".join(map(str, row.values())) for row in rows]
        return web.Response(text="\n".join(["timestamp,power,gas", *lines, ""]))

    async def _chart(self, request: web.Request) -> web.Response:
        unit, period = self._unit(request), request.query.get("period", "")
        if period not in _PERIODS:
            raise no("Malformed request")
        begin = self._service.clock() - timedelta(days=_PERIODS[period])
        output = [round(s.power_w, 3) for s in self._service.reported(unit) if s.at >= begin]
        return reply(
            {
                "o": output,
                "i": [round(power_w / EFFICIENCY, 3) for power_w in output],
                "e": [EFFICIENCY for _ in output],
                "coe": 0.0,
                "cos": 0.0,
            }
        )

    async def _read_prefs(self, request: web.Request) -> web.Response:
        return reply(self._prefs)

    async def _write_prefs(self, request: web.Request) -> web.Response:
        self._prefs |= {key: str(value) for key, value in (await json_body(request)).items()}
        return web.Response()

    async def _name(self, request: web.Request) -> web.Response:
        unit, name = self._unit(request), (await json_body(request)).get("name")
        if not isinstance(name, str) or not name:
            raise no(f"Malformed request {request.path.rpartition('/')[2]}")
        unit.name = name
        return web.Response()
