"""The doors of the reports of a simulated MyEMS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fpd.sim import myems_answers as answers
from fpd.sim.myems_answers import told
from fpd.sim.myems_reports import missing, number

if TYPE_CHECKING:
    from fpd.sim.myems import MyEms

Door = Callable[[web.Request], Awaitable[web.Response]]


class ReportDoors:
    """Doors that tell values."""

    def __init__(self, server: MyEms) -> None:
        self._server = server
        self._cached: dict[str, Any] = {}

    async def point_realtime(self, request: web.Request) -> web.Response:
        if len(request.query.getall("data_source_ids", [])) > 1:
            raise answers.broken()
        absent = [*self._server.quirks.absent, self._server.quirks.absent_once]
        if self._server.quirks.absent_once:
            self._server.switchboard.change({"absent_once": None})
        return told(self._server.reports.latest(self._server.clock(), absent))

    async def meter_realtime(self, request: web.Request) -> web.Response:
        ids = self._server.ids(self._server.meter(request.query.get("meterid")))
        quick = request.query.get("quickmode") == "true"
        said = self._server.reports.realtime(ids, self._server.clock(), quick=quick)
        if self._server.quirks.null_meter:
            said = {"meter": None, "energy_value": None, "parameters": None}
        if self._server.quirks.empty_arrays:
            said["energy_value"] |= {"timestamps": [], "values": []}
            empty: list[list[Any]] = [[] for _ in said["parameters"]["names"]]
            said["parameters"] |= {"timestamps": empty, "values": empty}
        return told(said)

    async def meter_trend(self, request: web.Request) -> web.Response:
        ids = self._server.ids(self._server.meter(request.query.get("meterid")))
        since, until = self.period(request, floored=True)
        said = self._server.reports.trend(
            ids, since, until, quick=request.query.get("quickmode") == "true"
        )
        if self._server.quirks.stale_trend:
            said = self._cached.setdefault(request.query_string, said)
        return told(said)

    def energy(self, kind: str) -> Door:
        async def door(request: web.Request) -> web.Response:
            meter_id = number(request.query.get(f"{kind}id"), f"API.INVALID_{kind.upper()}_ID")
            known = self._server.site.meters if kind == "meter" else {1: ("", (11,))}
            if request.query.get("periodtype") != "hourly":
                raise answers.no(400, "API.INVALID_PERIOD_TYPE")
            key = {"virtualmeter": "virtual_meter", "offlinemeter": "offline_meter"}.get(kind, kind)
            if meter_id not in known:
                raise missing(key.upper())
            since, until = self.period(request)
            return told(
                self._server.reports.hourly(
                    key, known[meter_id][1], since, until, zero=self._server.quirks.hourly_zero
                )
            )

        return door

    def period(self, request: web.Request, *, floored: bool = False) -> tuple[datetime, datetime]:
        """Return a report's period; an end that is not after the beginning is refused."""
        reports, query = self._server.reports, request.query
        since = reports.instant(
            query.get("reportingperiodstartdatetime"), "API.INVALID_REPORTING_PERIOD_START_DATETIME"
        )
        until = reports.instant(
            query.get("reportingperiodenddatetime"), "API.INVALID_REPORTING_PERIOD_END_DATETIME"
        )
        since = since.replace(minute=0, second=0) if floored else since
        if since >= until:
            raise answers.no(400, "API.INVALID_REPORTING_PERIOD_END_DATETIME")
        return since, until
