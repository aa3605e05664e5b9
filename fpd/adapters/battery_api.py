"""The two versions of the battery's interface: how to read it, set its power and let it go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fpd.adapters import battery_parse
from fpd.adapters.battery_parse import Status
from fpd.adapters.device import Excluded, Stopped, Unreachable
from fpd.adapters.http import DeviceHttp, Reply
from fpd.adapters.lenient import integer, mapping
from fpd.domain.control.actions import MODE, battery_rest
from fpd.domain.control.setpoint import BatteryApi, calls

MANUAL = "1"
_INVERTER_W = "IC_InverterMaxPower_w"
_INVALID_PATH, _INTERNAL_ERROR = 5, 13
_INTERNAL_ERROR_WAITS_S = (0.5, 1.0, 2.0)
_AGAIN_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The operating mode and the most (W) that the inverter can do; None where it does not say."""

    mode: str | None = None
    most_w: int | None = None


class Api(Protocol):
    async def status(self) -> Status:
        """Read the status. Raises Unreachable."""
        ...

    async def settings(self) -> Settings:
        """Read how it is set up."""
        ...

    async def set_power(self, power_w: int, *, told_w: int | None) -> None:
        """Set the power, discharge positive; `told_w` is what was set before, None if unknown."""
        ...

    async def release(self, mode: str | None) -> bool:
        """Stop and change to `mode`; tell whether the device was seen to be in it."""
        ...


class V1:
    """Seed 002: PUT without body, return codes; the last value holds until the next one."""

    def __init__(self, http: DeviceHttp) -> None:
        self._http = http

    async def status(self) -> Status:
        return battery_parse.status(await self._http.request("GET", "/api/v1/status"))

    async def settings(self) -> Settings:
        return Settings()

    async def set_power(self, power_w: int, *, told_w: int | None) -> None:
        for method, path in calls(BatteryApi.V1, power_w, told_w):
            await self._write(method, path)

    async def release(self, mode: str | None) -> bool:
        for method, path, *_ in battery_rest(BatteryApi.V1, mode):
            await self._write(method, path)
        return False

    async def _write(self, method: str, path: str) -> None:
        code = await self._code(method, path)
        for wait_s in _INTERNAL_ERROR_WAITS_S:
            if code != _INTERNAL_ERROR:
                break
            await asyncio.sleep(wait_s)
            code = await self._code(method, path)
        if code == _INTERNAL_ERROR:
            raise Unreachable(f"return code {code} (internal error), four times in a row")
        if code == _INVALID_PATH:
            raise Stopped('return code 5 (invalid path): try api = "v2"', retry_s=_AGAIN_S)
        if code != 0:
            raise Stopped(f"return code {code} to the setpoint", retry_s=_AGAIN_S)

    async def _code(self, method: str, path: str) -> int:
        reply = await self._http.request(method, path)
        code = battery_parse.return_code(reply)
        if code is not None and (reply.ok or code != 0):
            return code
        if reply.status in (404, 405):
            raise Stopped(
                f"HTTP {reply.status} to the setpoint: wrong api version?", retry_s=_AGAIN_S
            )
        raise Unreachable(f"HTTP {reply.status} without a return code to the setpoint")


class V2:
    """Newer firmware: a token, manual mode before any setpoint, and a mode to give back."""

    def __init__(self, http: DeviceHttp, token: str | None) -> None:
        self._http = http
        self._headers = {} if token is None else {"Auth-Token": token}

    async def status(self) -> Status:
        reply = await self._http.request("GET", "/api/v2/status", headers=self._headers)
        return battery_parse.status(reply)

    async def settings(self) -> Settings:
        reply = await self._http.request("GET", "/api/v2/configurations", headers=self._headers)
        _check(reply, "GET configurations")
        found = mapping(reply.json())
        if not found:
            raise _token_refused()
        mode, most_w = found.get(MODE), integer(found.get(_INVERTER_W))
        return Settings(
            mode=None if mode is None else str(mode),
            most_w=most_w if most_w is not None and most_w > 0 else None,
        )

    async def set_power(self, power_w: int, *, told_w: int | None) -> None:
        # The device obeys in manual mode only, and entering it revives the last command.
        if (await self.settings()).mode != MANUAL:
            await self._change_mode({MODE: MANUAL})
            await self._post("/api/v2/setpoint/discharge/0")
            await self._post("/api/v2/setpoint/charge/0")
            if power_w == 0:
                return
        for _, path in calls(BatteryApi.V2, power_w, told_w):
            await self._post(path)

    async def release(self, mode: str | None) -> bool:
        if (await self.settings()).mode != MANUAL:
            return True  # no setpoint counts there, and whoever has chosen it since may keep it
        wanted = None
        for _, path, *settings in battery_rest(BatteryApi.V2, mode):
            if settings:
                wanted = settings[0][MODE]
                await self._change_mode(settings[0])
            else:
                await self._post(path)
        return (await self.settings()).mode == wanted

    async def _change_mode(self, settings: Mapping[str, str]) -> None:
        reply = await self._http.request(
            "PUT",
            "/api/v2/configurations",
            headers={**self._headers, "Content-Type": "application/json"},
            body=json.dumps(dict(settings)).encode(),
        )
        _check(reply, "PUT configurations")

    async def _post(self, path: str) -> None:
        reply = await self._http.request("POST", path, headers=self._headers)
        _check(reply, "POST setpoint")
        if reply.text.strip() == "false":
            raise Excluded("the battery does not take setpoints now", retry_s=_AGAIN_S)


def _check(reply: Reply, what: str) -> None:
    """Raise what an answer of v2 means. Old firmware says `{}` instead of 401 (devices §2.3)."""
    if reply.status == 401 or (reply.ok and reply.text.strip() == "{}"):
        raise _token_refused()
    if reply.status == 403:
        raise Excluded("VPP has priority", retry_s=_AGAIN_S)
    if reply.status in (400, 404, 405):
        raise Stopped(f"HTTP {reply.status} to {what}: wrong api version?", retry_s=_AGAIN_S)
    if not reply.ok:
        raise Unreachable(f"HTTP {reply.status} to {what}")


def _token_refused() -> Stopped:
    return Stopped("the token is refused, or the write API is disabled", retry_s=_AGAIN_S)
