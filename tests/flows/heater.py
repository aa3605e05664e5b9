"""A third type of devices, as small as one can be: a heater that can be throttled over HTTP.

This file is all that a type takes, but for its line in `fpd.adapters.TYPES`.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from fpd.adapters.device import (
    Command,
    DeviceType,
    Memory,
    Outcome,
    Profile,
    Reading,
    Release,
    Result,
    Sample,
    Setpoint,
    Stopped,
    Wiring,
)
from fpd.adapters.http import LAN_TIMEOUT_S, DeviceHttp
from fpd.config import Device
from fpd.config_key import key, required
from fpd.domain.control.ability import Adjustable


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaterDevice(Device):
    power_w: int = required("what it takes when nobody throttles it, W", minimum=1, example=3000)
    deadband_w: int = key(50, "smaller changes are not sent unless a limit needs them", minimum=0)


class Heater:
    """One heater: GET /power says what it takes, PUT /limit/<W> throttles it."""

    visit_s = 15.0
    tries = 3
    keepalive_s: float | None = None
    verify_after_s: float | None = 15.0
    backoff_s = (5.0, 60.0)

    def __init__(self, device: HeaterDevice, wiring: Wiring) -> None:
        self.read_every_s = wiring.interval_s
        self._power_w = device.power_w
        self._clock = wiring.clock
        self._http = DeviceHttp(
            wiring.session, device.base_url, timeout_s=LAN_TIMEOUT_S, steady=wiring.steady
        )

    async def read(self, memory: Memory) -> Reading:
        taken_w = float((await self._http.request("GET", "/power")).text)
        now = self._clock()
        sample = Sample(at=now, instantaneous={"watts": taken_w})
        return Reading(
            at=now, output_w=-taken_w, dispatchable=True, samples=(sample,), memory=memory
        )

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        await self._http.request("PUT", f"/limit/{-self._limit_w(command)}")
        return Outcome(result=Result.ACCEPTED, memory=memory)

    def shows(self, command: Command, reading: Reading) -> bool:
        return reading.output_w is not None and reading.output_w >= self._limit_w(command)

    def _limit_w(self, command: Command) -> int:
        match command:
            case Setpoint(power_w=power_w):
                return power_w
            case Release():
                return -self._power_w
            case Profile():
                raise Stopped("a heater follows setpoints, not profiles")


TYPE = DeviceType(
    keys=HeaterDevice,
    adapter=Heater,
    ability=lambda device: Adjustable(
        least_w=-device.power_w,
        most_w=0,
        rest_w=-device.power_w,
        deadband_w=device.deadband_w,
    ),
)


class SimulatedHeater:
    """The heater itself. `limits`: what it was told, in order."""

    def __init__(self, power_w: int) -> None:
        self.power_w = power_w
        self.limits: list[int] = []
        app = web.Application()
        app.add_routes(
            [web.get("/power", self._power), web.put(r"/limit/{watts:\d+}", self._limit)]
        )
        self._runner = web.AppRunner(app)

    @property
    def taken_w(self) -> int:
        return min([self.power_w, *self.limits[-1:]])

    async def start(self) -> str:
        """Return the address that it answers at."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _power(self, _: web.Request) -> web.Response:
        return web.Response(text=str(self.taken_w))

    async def _limit(self, request: web.Request) -> web.Response:
        self.limits.append(int(request.match_info["watts"]))
        return web.Response()
