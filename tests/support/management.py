"""The management API on a real database and a real port, and somebody who uses it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from cryptography.fernet import Fernet

from fpd.adapters.battery_keys import BatteryDevice
from fpd.config import Config, Http, Oscp
from fpd.crew import Crew
from fpd.flows.context import Context
from fpd.flows.manage.creating import Creates
from fpd.metrics import Metrics
from fpd.mqtt.client import MqttClient
from fpd.oscp.client import PeerClient
from fpd.store import accounts
from fpd.store.db import Database
from fpd.store.vault import Vault
from fpd.web import manage
from fpd.web.credentials import BEARERS, Bearers
from fpd.web.keys import CONTEXT, CREATES
from fpd.web.limits import LIMITS, Limits

OSCP = Oscp(require_https=False, allowed_networks=(ip_network("127.0.0.0/8"),))
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def data(self) -> Any:
        """What a success holds; anything else fails the test."""
        assert self.status in (200, 201), self.text
        assert self.body["success"] is True
        return self.body["data"]

    @property
    def faults(self) -> dict[str, str]:
        """The messages of a refusal by location."""
        assert self.status >= 400, self.text
        assert list(self.body) == ["success", "code", "message", "errors"]
        assert self.body["success"] is False
        return {fault["location"]: fault["message"] for fault in self.body["errors"]}


@dataclass(frozen=True)
class User:
    """Somebody with a token, or without one."""

    url: str
    session: aiohttp.ClientSession
    bearer: str = ""

    async def __call__(
        self, method: str, path: str, body: Any = None, **more: str | None
    ) -> Answer:
        """Send `body`, bytes as they are and anything else as JSON; `more` are headers."""
        headers = {"Content-Type": JSON, "Authorization": f"Bearer {self.bearer}"}
        if not self.bearer:
            del headers["Authorization"]
        headers |= {name.replace("_", "-"): value for name, value in more.items() if value}
        left_out = [name for name, value in more.items() if value is None]
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self.session.request(
            method,
            self.url + (path if path.startswith("/") else f"{manage.PREFIX}/{path}"),
            data=raw,
            headers={name: value for name, value in headers.items() if name not in left_out},
            skip_auto_headers=["Content-Type"],
        ) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())


@dataclass(frozen=True)
class Management:
    """The API of one installation."""

    url: str
    session: aiohttp.ClientSession
    context: Context
    app: web.Application

    async def user(self, user_id: int = 1) -> User:
        async with self.context.db.transaction() as conn:
            token = await accounts.create_token(
                conn,
                user_id=user_id,
                name=None,
                vault=self.context.vault,
                now=self.context.clock(),
            )
        return User(self.url, self.session, token.bearer)

    def nobody(self, bearer: str = "") -> User:
        return User(self.url, self.session, bearer)

    async def rows(self, query: str, *parameters: Any) -> list[Any]:
        """Look into the database."""
        async with self.context.db.connection() as conn:
            return await (await conn.execute(query.encode(), parameters)).fetchall()


def battery(name: str, user_id: int = 1) -> BatteryDevice:
    return BatteryDevice(
        name=name,
        type="battery",
        user_id=user_id,
        base_url="http://battery.example.org",
        capacity_wh=10_000,
        max_charge_w=3_300,
        max_discharge_w=3_300,
    )


@asynccontextmanager
async def management(
    database_url: str,
    clock: Callable[[], datetime],
    *,
    http: Http | None = None,
    oscp: Oscp = OSCP,
) -> AsyncIterator[Management]:
    """Serve the API. Devices: battery-1 and battery-2 of user 1, battery-x of user 2."""
    config = Config(
        data_dir=Path("nowhere"),
        http=http or Http(),
        oscp=oscp,
        devices=(battery("battery-1"), battery("battery-2"), battery("battery-x", 2)),
    )
    db = Database(database_url, clock=clock, max_size=4)
    await db.open()
    crew = Crew()
    context = Context(
        config=config,
        clock=clock,
        db=db,
        vault=Vault(Fernet.generate_key()),
        metrics=Metrics(),
        peers=PeerClient(config.oscp),
        mqtt=MqttClient(
            "mqtt://127.0.0.1:1", username=None, password=None, ca_file=None, instance="test"
        ),
        spawn=crew.spawn,
    )
    app = web.Application(
        middlewares=[manage.say_no],
        client_max_size=int(config.http.max_body_mb * 1024 * 1024),
    )
    app[CONTEXT], app[BEARERS], app[LIMITS] = context, Bearers(context), Limits(config.http)
    app[CREATES] = Creates(context)
    app.add_routes(manage.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, lingering_time=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with aiohttp.ClientSession() as session:
            yield Management(url, session, context, app)
    finally:
        await runner.cleanup()
        await crew.finish(within_s=5)
        await db.close()
        assert not crew.has_failed


async def make_group(user: User, **changes: Any) -> dict[str, Any]:
    """Create a provider, an optimizer and a group of both; return the group."""
    provider = (await user("POST", "capacity-providers", {"name": "Lines Co."})).data
    optimizer = (await user("POST", "capacity-optimizers", {"name": "Optimizer Co."})).data
    answer = await user(
        "POST",
        "capacity-groups",
        group_body(provider["configId"], capacityOptimizerId=optimizer["configId"], **changes),
    )
    made: dict[str, Any] = answer.data
    return made


def group_body(provider_id: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": "My Group",
        "identifier": "my-group",
        "capacityProviderId": provider_id,
        "capacityProviderMeasurementPeriod": "FifteenMinute",
        "capacityOptimizerMeasurementPeriod": "FiveMinute",
        "enabled": True,
        **changes,
    }


def asset_body(group_id: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": "Charger 1",
        "capacityGroupId": group_id,
        "identifier": "XYZ.ABC.123",
        "audience": "CapacityProvider",
        "enabled": True,
        "nodeId": 123,
        "sourceId": "charger/1",
        "category": "Charging",
        "phase": "All",
        **changes,
    }
