"""The doors of a daemon that somebody looks at: a real database, real HTTP, a clock that stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography.fernet import Fernet
from psycopg.types.json import Jsonb

from fpd.adapters.battery_keys import BatteryDevice
from fpd.config import Config, Oscp
from fpd.crew import Crew
from fpd.embedded.broker import BrokerAddress
from fpd.flows.context import Context
from fpd.flows.loop import Loop
from fpd.metrics import Metrics
from fpd.mqtt.client import MqttClient
from fpd.oscp.client import PeerClient
from fpd.store import accounts
from fpd.store.db import Database
from fpd.store.vault import Vault
from fpd.web.server import application

NOON = datetime(2026, 3, 12, 12, tzinfo=UTC)
NOBODY = BrokerAddress(host="127.0.0.1", port=1, username="", password="")


def ago(**span: float) -> datetime:
    return NOON - timedelta(**span)


def ahead(**span: float) -> datetime:
    return NOON + timedelta(**span)


def battery(name: str, *, user_id: int = 1) -> BatteryDevice:
    return BatteryDevice(
        name=name,
        type="battery",
        user_id=user_id,
        base_url="http://127.0.0.1:1",
        capacity_wh=10_000,
        max_charge_w=3300,
        max_discharge_w=3300,
    )


@dataclass
class Lookout:
    """One daemon's doors; `client` asks from this machine."""

    context: Context
    client: TestClient[web.Request, web.Application]
    loops: list[Loop]

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Ask for a path; underscores in names of headers are hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.get(path, headers=named) as answer:
            return answer.status, await answer.text()

    async def get_json(self, path: str, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.get(path, headers=named) as answer:
            return answer.status, await answer.json()

    async def bearer(self, user_id: int, *, admin: bool = False) -> str:
        """Return an Authorization header of the user."""
        async with self.context.db.transaction() as conn:
            made = await accounts.create_token(
                conn, user_id=user_id, name=None, admin=admin, vault=self.context.vault, now=NOON
            )
        return f"Bearer {made.bearer}"

    async def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement, as an operator with psql would."""
        async with self.context.db.connection() as conn:
            cursor = await conn.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []


@web.middleware
async def _from_elsewhere(request: web.Request, handler: Any) -> web.StreamResponse:
    """Let a test be on another machine, as far as the doors can see."""
    remote = request.headers.get("Test-Remote")
    return await handler(request.clone(remote=remote) if remote else request)


@asynccontextmanager
async def lookout(
    database_url: str,
    *,
    devices: Sequence[BatteryDevice] = (),
    broker: BrokerAddress = NOBODY,
) -> AsyncIterator[Lookout]:
    """Open the doors on the database. Without another address the broker is away."""
    crew = Crew()
    db = Database(database_url, clock=lambda: NOON)
    await db.open()
    context = Context(
        config=Config(data_dir=Path("/nonexistent"), devices=tuple(devices)),
        clock=lambda: NOON,
        db=db,
        vault=Vault(Fernet.generate_key()),
        metrics=Metrics(),
        peers=PeerClient(Oscp()),
        mqtt=MqttClient(
            broker.url,
            username=broker.username,
            password=broker.password,
            ca_file=None,
            instance="lookout",
        ),
        spawn=crew.spawn,
    )
    crew.spawn(context.mqtt.run(), name="mqtt")
    loops: list[Loop] = []
    app = application(context, loops)
    app.middlewares.insert(0, _from_elsewhere)
    try:
        async with TestClient(TestServer(app)) as client:
            yield Lookout(context, client, loops)
    finally:
        await crew.cancel()
        await db.close()
        assert not crew.has_failed


async def a_site(look: Lookout) -> None:
    """Fill the database as a day of work would: two users, a provider that went offline."""
    await look.sql("insert into account values (1, %s), (2, %s)", NOON, NOON)
    for user_id, role, name, link, since, heard in (
        (1, "CapacityProvider", "Lines Co.", "online", ago(hours=3), ago(seconds=14)),
        (1, "CapacityProvider", "Stadtwerke", "offline", ago(minutes=12), ago(minutes=15)),
        (1, "CapacityOptimizer", "Optimal", "online", ago(minutes=50), ago(seconds=41)),
        (2, "CapacityProvider", "Elsewhere", "provisioned", ago(hours=5), None),
    ):
        await look.sql(
            """
            insert into peer (user_id, role, name, enabled, base_url, oscp_version, link,
                              link_changed_at, last_heard_at, created_at, modified_at)
            values (%s, %s, %s, true, 'https://' || %s, '2.0', %s, %s, %s, %s, %s)
            """,
            *(user_id, role, name, name, link, since, heard, NOON, NOON),
        )
    await look.sql("update peer set offline_mode_at = %s where id = 1", ahead(seconds=166))
    await look.sql("insert into heartbeat_due values (1, %s, null, %s)", NOON, ago(seconds=8))
    meter = {"meter": {"nodeId": 5, "sourceId": "/depot/meter", "property": "watts"}}
    await add_group(look, user_id=1, provider_id=1, name="Depot", control=meter)
    await add_group(look, user_id=2, provider_id=4, name="Foreign")
    await look.sql(
        """
        insert into envelope (group_id, from_at, min_w, max_w, optimum_w, reason, forecast_ids)
        values (1, %s, -2000, 5000, 1500, 'forecast', '{}')
        """,
        ago(minutes=37),
    )
    await add_datum(look, source_id="depot/meter", at=ago(seconds=4), watts=3150.25)
    await add_device(look, "cellar", health="ok", power_w=500)
    for number in range(3):
        await look.sql(
            """
            insert into outbox (peer_id, lane, operation, request_id, body, created_at, due_at)
            values (2, 'group:1', 'update_group_measurements', %s, '{}', %s, %s)
            """,
            *(f"request-{number}", ago(minutes=4 + number), NOON),
        )
    await look.sql(
        "insert into publication (topic, payload, created_at) values ('user/1/x', '{}', %s)", NOON
    )


async def add_group(
    look: Lookout,
    *,
    user_id: int,
    provider_id: int,
    name: str,
    control: Mapping[str, Any] | None = None,
) -> None:
    await look.sql(
        """
        insert into capacity_group (user_id, name, identifier, enabled, provider_id,
                                    provider_period_s, optimizer_period_s, control, created_at,
                                    modified_at)
        values (%s, %s, lower(%s), true, %s, 900, 900, %s, %s, %s)
        """,
        *(user_id, name, name, provider_id, None if control is None else Jsonb(control)),
        *(NOON, NOON),
    )


async def add_datum(look: Lookout, *, source_id: str, at: datetime, watts: float) -> None:
    await look.sql(
        """
        with s as (
            insert into stream (user_id, node_id, source_id, created_at) values (1, 5, %s, %s)
            on conflict (user_id, node_id, source_id) do update set source_id = excluded.source_id
            returning id
        )
        insert into datum (stream_id, at, i, received_at)
        select s.id, %s, jsonb_build_object('watts', %s::numeric), %s from s
        """,
        *(source_id, NOON, at, watts, NOON),
    )


async def add_device(look: Lookout, name: str, *, health: str, power_w: int) -> None:
    """Add a battery that was told a setpoint and confirmed it."""
    setpoint = Jsonb({"kind": "setpoint", "power_w": power_w})
    await look.sql(
        """
        insert into device_state (name, type, health, reading, reading_at, wanted, wanted_at,
                                  plan, told, told_at, confirmed, confirmed_at, due_at,
                                  modified_at)
        values (%s, 'battery', %s, %s, %s, %s, %s, '{"reason": "meter"}', %s, %s, %s, %s, %s, %s)
        """,
        *(name, health, Jsonb({"output_w": power_w - 20, "soc": 62}), ago(seconds=6)),
        *(setpoint, ago(seconds=7), setpoint, ago(seconds=20), setpoint, ago(seconds=6)),
        *(NOON, NOON),
    )
