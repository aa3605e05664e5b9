"""The customer of a BlueGen service, who uses its website while fpd does its work."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import datetime
from email.utils import format_datetime
from typing import Any

import aiohttp

from fpd.sim.bluegen import BlueGen


class Customer:
    """Makes, assigns and deletes profiles through the documented calls (seed 000)."""

    def __init__(self, service: BlueGen, session: aiohttp.ClientSession) -> None:
        self._service = service
        self._session = session

    async def makes_and_assigns(self, name: str = "own", *, unit: int = 249) -> int:
        """Make a flat profile, assign it to the unit and return its id."""
        points = [{"tick": "0", "power": "1450"}, {"tick": "671", "power": "1450"}]
        body = {"name": name, "description": "", "points": points, "unit_id": str(unit)}
        profile_id = int((await self._ask("POST", "/profiles", body))["pid"])
        await self.assigns(profile_id, unit=unit)
        return profile_id

    async def makes(self, name: str) -> None:
        body = {"name": name, "description": "", "unit_id": "249"}
        await self._ask("POST", "/profiles", body)

    async def assigns(self, profile_id: int, *, unit: int = 249) -> None:
        await self._ask("PUT", f"/unit/{unit}/profile/{profile_id}")

    async def deletes(self, profile_id: int) -> None:
        await self._ask("DELETE", f"/profile/{profile_id}")

    async def sees_points(self, profile_id: int) -> list[tuple[int, int]]:
        found = await self._ask("GET", f"/profile/{profile_id}")
        return [(int(p["tick"]), int(float(p["power"]))) for p in found["points"]]

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        login = await self._send(
            "POST", "/customer/login", {"username": "demo", "password": "demo"}
        )
        return await self._send(method, path, body, f"Bearer {login['jwt']}")

    async def _send(self, method: str, path: str, body: Any, bearer: str | None = None) -> Any:
        now: datetime = self._service.clock()
        raw = b"" if body is None else json.dumps(body).encode()
        headers = {
            "Date": format_datetime(now, usegmt=True),
            "Content-Type": "application/json",
            "Content-MD5": base64.b64encode(hashlib.md5(raw).digest()).decode(),
        }
        if bearer is not None:
            headers["Authorization"] = bearer
        async with self._session.request(
            method, self._service.url + path, data=raw or None, headers=headers
        ) as answer:
            text = await answer.text()
            assert answer.status == 200, f"{method} {path}: {answer.status} {text}"
            return json.loads(text) if text else None
