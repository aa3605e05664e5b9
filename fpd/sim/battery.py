"""A simulated battery: the REST API of seed 002 (v1) and that of newer firmware (v2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from fpd.sim.answers import Refusal, reply
from fpd.sim.battery_pack import Character, Circumstances, Pack
from fpd.sim.journal import Clock
from fpd.sim.quirks import Quirks
from fpd.sim.simulator import ENTRY, Options, Simulator, option
from fpd.sim.zones import zone

RECEIVED, INVALID_PATH, INVALID_METHOD = 0, 5, 16
MANUAL, SELF_CONSUMPTION = "1", "2"
_RESERVE_PERCENT = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryOptions(Options):
    api: Literal["v1", "v2", "both"] = option("v1", "which API it has")
    auth_token: str = option("demo", "what v2 expects in Auth-Token", secret=True)
    capacity_wh: float = option(10_000.0, "usable energy, Wh")
    max_charge_w: float = option(3300.0, "greatest charging power, W")
    max_discharge_w: float = option(3300.0, "greatest discharging power, W")
    usoc: float = option(50.0, "user state of charge at the start, %")
    efficiency: float = option(0.95, "of charging, and again of discharging")
    idle_w: float = option(5.0, "what the electronics draw, W")
    response_lag_s: float = option(1.0, "from a setpoint to its power (real ones: 5-15 s)")
    tz: str = option("UTC", "zone of Timestamp, which does not name it")


class BatteryQuirks(Quirks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    consumption_w: Annotated[float, Meta(description="what the house uses, W")] = 0.0
    production_w: Annotated[float, Meta(description="what its PV makes, W")] = 0.0
    return_code: Annotated[
        int, Meta(description="v1 return code for setpoints: 5 path, 13 internal, 16 method")
    ] = 0
    return_code_form: Annotated[
        Literal["int", "string", "bare"], Meta(description="how the return code is written")
    ] = "int"
    status_return_code: Annotated[
        int, Meta(description="a v1 return code instead of the status")
    ] = 0
    missing: Annotated[tuple[str, ...], Meta(description="status fields left out")] = ()
    null: Annotated[tuple[str, ...], Meta(description="status fields that are null")] = ()
    blank_key: Annotated[bool, Meta(description='write "Pac total_W", as in the seed')] = False
    frozen: Annotated[bool, Meta(description="the status stands still, Timestamp included")] = False
    clock_off_s: Annotated[float, Meta(description="how far Timestamp is off, s")] = 0.0
    no_discharge: Annotated[bool, Meta(description="dischargeNotAllowed (not on v1 alone)")] = False
    not_installed: Annotated[bool, Meta(description="IsSystemInstalled is 0")] = False
    off: Annotated[bool, Meta(description="inverter not running: Fac, Uac and power are 0")] = False
    derated_w: Annotated[
        float | None, Meta(description="cap that the BMS puts on both directions, W")
    ] = None
    ignores_setpoints: Annotated[bool, Meta(description="acknowledge setpoints and do nothing")] = (
        False
    )
    foreign_w: Annotated[
        float | None,
        Meta(description="another controller's setpoint (discharging positive), W"),
    ] = None
    foreign_after_s: Annotated[
        float, Meta(description="how soon it overwrites a setpoint of ours")
    ] = 20.0
    vpp: Annotated[bool, Meta(description="a virtual power plant has priority: 403")] = False
    old_firmware: Annotated[bool, Meta(description="v2 answers {} where it should answer 401")] = (
        False
    )


class Battery(Simulator[BatteryQuirks]):
    """Keeps the last setpoint for ever; nothing here times out."""

    role = "battery"

    def __init__(self, options: BatteryOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock, quirks=BatteryQuirks)
        self.options = options
        self._zone = zone(options.tz)
        self._mode = MANUAL if options.api == "v1" else SELF_CONSUMPTION
        self._pack = Pack(
            Character(
                capacity_wh=options.capacity_wh,
                max_charge_w=options.max_charge_w,
                max_discharge_w=options.max_discharge_w,
                efficiency_charge=options.efficiency,
                efficiency_discharge=options.efficiency,
                idle_w=options.idle_w,
                response_lag_s=options.response_lag_s,
            ),
            energy_wh=options.capacity_wh * options.usoc / 100,
            started_at=clock(),
        )
        self._frozen_status: dict[str, Any] | None = None

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        first = (
            web.get("/api/v1/status", self._status_v1),
            web.route("*", "/api/v1/setpoint/{direction}/{watts}", self._setpoint_v1),
            web.route("*", "/api/v1/status", self._wrong_method),
            web.route("*", "/{tail:.*}", self._wrong_path),
        )
        second = (
            web.get("/api/v2/status", self._status_v2),
            web.post("/api/v2/setpoint/{direction}/{watts}", self._setpoint_v2),
            web.get("/api/v2/configurations", self._configurations),
            web.put("/api/v2/configurations", self._configure),
            web.get("/api/v2/latestdata", self._latest),
        )
        both = {"v1": first, "v2": second, "both": (*second, *first)}
        return both[self.options.api]

    def advance(self) -> None:
        self._pack.advance(self.clock(), self._around())
        if not self.quirks.frozen:
            self._frozen_status = None
        elif self._frozen_status is None:
            self._frozen_status = self._live_status()

    def state(self) -> dict[str, Any]:
        """Return what the battery really does now; `pac_w` is discharging positive."""
        self.advance()
        return {
            "role": self.role,
            "pac_w": self._pack.watts(self._around()),
            "usoc": round(self._pack.soc_percent, 3),
            "energy_wh": round(self._pack.energy_wh, 3),
            "setpoint_w": self._pack.setpoint_w,
            "mode": self._mode,
        }

    def refused(self, refusal: Refusal) -> web.Response:
        return reply({"error": refusal.message}, status=refusal.status)

    def _around(self) -> Circumstances:
        quirks = self.quirks
        return Circumstances(
            manual=self._mode == MANUAL,
            house_w=quirks.consumption_w - quirks.production_w,
            running=not quirks.off,
            derated_w=quirks.derated_w,
        )

    def _order(self, watts: float) -> None:
        """Take a setpoint, unless something keeps us from it."""
        self.advance()
        quirks, now = self.quirks, self.clock()
        if quirks.ignores_setpoints or self._mode != MANUAL:
            return
        self._pack.order(watts, now)
        if quirks.foreign_w is not None:
            self._pack.overwrite(quirks.foreign_w, now + timedelta(seconds=quirks.foreign_after_s))

    def _asked(self, request: web.Request) -> float | None:
        """Return the setpoint in the path, discharging positive; None if it names none."""
        direction, text = request.match_info["direction"], request.match_info["watts"]
        sign = {"discharge": 1, "charge": -1}.get(direction)
        if sign is None or not text.isdigit():
            request[ENTRY].invalid += (f"not a setpoint: {direction}/{text}",)
            return None
        most_w = self.options.max_discharge_w if sign > 0 else self.options.max_charge_w
        if int(text) > most_w:
            request[ENTRY].invalid += (f"{text} W is more than the {most_w:g} W it can",)
        return sign * float(text)

    async def _status_v1(self, request: web.Request) -> web.Response:
        if self.quirks.status_return_code:
            return self._returned(self.quirks.status_return_code)
        return reply(self._status())

    async def _setpoint_v1(self, request: web.Request) -> web.Response:
        if request.method != "PUT":
            return await self._wrong_method(request)
        if request.match_info["direction"] not in ("charge", "discharge"):
            return await self._wrong_path(request)
        # Garbage is acknowledged too (a public client's readme says so).
        watts = self._asked(request)
        if watts is not None and not self.quirks.return_code and not self.quirks.vpp:
            self._order(watts)
        return self._returned(self.quirks.return_code)

    async def _wrong_method(self, request: web.Request) -> web.Response:
        request[ENTRY].invalid += (f"{request.method} is not for {request.path}",)
        return self._returned(INVALID_METHOD)

    async def _wrong_path(self, request: web.Request) -> web.Response:
        request[ENTRY].invalid += (f"no such path: {request.path}",)
        return self._returned(INVALID_PATH)

    def _returned(self, code: int) -> web.Response:
        """Write a return code; 0 is 18 bytes long in either form, as in the seed."""
        forms = {
            "int": f'{{"ReturnCode": {code}}}\n',
            "string": f'{{"ReturnCode":"{code}"}}',
            "bare": str(code),
        }
        text = forms[self.quirks.return_code_form]
        return web.Response(text=text, content_type="text/html", charset="UTF-8")

    async def _status_v2(self, request: web.Request) -> web.Response:
        return reply(self._status())

    async def _setpoint_v2(self, request: web.Request) -> web.Response:
        if (refused := self._unauthorized(request)) is not None:
            return refused
        self._refuse_for_vpp()
        watts = self._asked(request)
        if watts is None:
            raise Refusal(400, "invalid setpoint")
        if self._mode != MANUAL:
            request[ENTRY].invalid += ("a setpoint outside manual mode is ignored",)
        self._order(watts)
        return reply(True, status=201)

    async def _configurations(self, request: web.Request) -> web.Response:
        if (refused := self._unauthorized(request)) is not None:
            return refused
        return reply(
            {
                "EM_OperatingMode": self._mode,
                "EM_USOC": "0",
                "IC_InverterMaxPower_w": f"{self.options.max_discharge_w:.0f}",
                "IC_BatteryModules": "2",
                "CM_MarketingModuleCapacity": f"{self.options.capacity_wh / 2:.0f}",
                "DepthOfDischargeLimit": 93,
            }
        )

    async def _configure(self, request: web.Request) -> web.Response:
        if (refused := self._unauthorized(request)) is not None:
            return refused
        mode = (await _settings(request)).get("EM_OperatingMode")
        if mode not in ("1", "2", "6", "10", "11"):
            raise Refusal(400, "unknown mode", invalid=(f"EM_OperatingMode {mode!r}",))
        self._refuse_for_vpp()
        self.advance()
        self._mode = mode
        return reply({"EM_OperatingMode": mode})

    async def _latest(self, request: web.Request) -> web.Response:
        if (refused := self._unauthorized(request)) is not None:
            return refused
        status = self._status()
        offset = self.clock().astimezone(self._zone).utcoffset() or timedelta(0)
        return reply(
            {
                "SetPoint_W": round(self._pack.setpoint_w),
                "FullChargeCapacity": round(self.options.capacity_wh),
                "UTC_Offet": offset / timedelta(hours=1),
                **{name: status.get(name) for name in ("Pac_total_W", "USOC", "Timestamp")},
            }
        )

    def _unauthorized(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Auth-Token") == self.options.auth_token:
            return None
        if self.quirks.old_firmware:
            return reply({})
        raise Refusal(401, "Unauthorized", invalid=("Auth-Token is missing or wrong",))

    def _refuse_for_vpp(self) -> None:
        if self.quirks.vpp:
            raise Refusal(403, "VPP has priority")

    def _status(self) -> dict[str, Any]:
        self.advance()
        status = self._frozen_status or self._live_status()
        shown = {
            name: None if name in self.quirks.null else value
            for name, value in status.items()
            if name not in self.quirks.missing
        }
        if self.quirks.blank_key and "Pac_total_W" in shown:
            shown["Pac total_W"] = shown.pop("Pac_total_W")
        return shown

    def _live_status(self) -> dict[str, Any]:
        quirks, soc = self.quirks, self._pack.soc_percent
        watts = round(self._pack.watts(self._around()))
        status = {
            "Consumption_W": round(quirks.consumption_w),
            "Fac": 0 if quirks.off else 50.01,
            "IsSystemInstalled": 0 if quirks.not_installed else 1,
            "Pac_total_W": watts,
            "Production_W": round(quirks.production_w),
            # A silent reserve: what is left for the user is not what is left.
            "RSOC": round(_RESERVE_PERCENT + soc * (1 - _RESERVE_PERCENT / 100)),
            "Timestamp": self._timestamp(self.clock() + timedelta(seconds=quirks.clock_off_s)),
            "USOC": round(soc),
            "Uac": 0 if quirks.off else 231,
            "Ubat": 52,
        }
        return status if self.options.api == "v1" else status | self._newer_fields(watts)

    def _newer_fields(self, watts: int) -> dict[str, Any]:
        quirks = self.quirks
        return {
            "GridFeedIn_W": round(quirks.production_w - quirks.consumption_w) + watts,
            "BatteryCharging": watts < -self.options.idle_w,
            "BatteryDischarging": watts > 0,
            "OperatingMode": self._mode,
            "dischargeNotAllowed": quirks.no_discharge,
            "SystemStatus": "OffGrid" if quirks.off else "OnGrid",
            # Twice too high on real firmware as well.
            "RemainingCapacity_Wh": round(self._pack.energy_wh * 2),
            "Sac1": watts,
            "Sac2": None,
            "Sac3": None,
        }

    def _timestamp(self, instant: datetime) -> str:
        return instant.astimezone(self._zone).strftime("%Y-%m-%d %H:%M:%S")


async def _settings(request: web.Request) -> dict[str, str]:
    """Read settings sent as a form or as JSON; values are strings in both."""
    if request.content_type == "application/json":
        try:
            return msgspec.json.decode(await request.read(), type=dict[str, str])
        except msgspec.DecodeError as error:
            raise Refusal(400, "not settings", invalid=(str(error),)) from error
    return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
