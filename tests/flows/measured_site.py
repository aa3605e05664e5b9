"""A site with peers, a group and assets on a real database, and a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from psycopg.types.json import Jsonb
from support.mqtt import client_at

from fpd.config import Config, Measurements, Mqtt, Oscp
from fpd.domain.datum import Datum, StreamKey
from fpd.flows import ingest
from fpd.flows.context import Context
from fpd.metrics import Metrics
from fpd.mqtt.client import MqttClient
from fpd.oscp.client import PeerClient
from fpd.store import streams
from fpd.store.db import Database
from fpd.store.vault import Vault

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


class Site:
    """Provider 1 and optimizer 2, both online, user 1; group 1 between them."""

    def __init__(self, db: Database, clock: Hands, mqtt: MqttClient | None = None) -> None:
        self.db = db
        self.clock = clock
        self.rung = 0
        self.context = Context(
            config=Config(
                data_dir=Path("/nonexistent"),
                mqtt=Mqtt(),
                measurements=Measurements(settle_s=2),
            ),
            clock=clock,
            db=db,
            vault=Vault(Fernet.generate_key()),
            metrics=Metrics(),
            peers=PeerClient(Oscp()),
            mqtt=mqtt or client_at("mqtt://127.0.0.1:1"),
            spawn=self._spawn,
        )
        self.context.bells.delivery = self._ring

    def _ring(self) -> None:
        self.rung += 1

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        raise AssertionError(f"nothing is spawned here: {name}")

    def configure(self, **mqtt: Any) -> None:
        """Change keys of [mqtt]."""
        config = replace(self.context.config, mqtt=replace(self.context.config.mqtt, **mqtt))
        self.context = replace(self.context, config=config)

    def measure(self, **measurements: Any) -> None:
        """Change keys of [measurements]."""
        config = self.context.config
        changed = replace(config.measurements, **measurements)
        self.context = replace(self.context, config=replace(config, measurements=changed))

    async def add_peers(self) -> None:
        await self.execute("insert into account values (1, %(now)s) on conflict do nothing")
        for role, name in (("CapacityProvider", "Lines Co."), ("CapacityOptimizer", "Opt")):
            await self.execute(
                """
                insert into peer (user_id, role, name, enabled, oscp_version, link, base_url,
                                  link_changed_at, created_at, modified_at)
                values (1, %(role)s, %(name)s, true, '2.0', 'online',
                        'https://' || %(role)s || '.example', %(now)s, %(now)s, %(now)s)
                """,
                role=role,
                name=name,
            )

    async def add_group(
        self, identifier: str = "my-group", *, period_s: int = 60, optimizer: bool = True
    ) -> None:
        await self.execute(
            """
            insert into capacity_group (user_id, name, identifier, enabled, provider_id,
                optimizer_id, provider_period_s, optimizer_period_s, created_at, modified_at)
            values (1, 'My Group', %(id)s, true, 1, %(co)s, %(s)s, %(s)s, %(now)s, %(now)s)
            """,
            id=identifier,
            s=period_s,
            co=2 if optimizer else None,
        )

    async def add_asset(
        self,
        identifier: str,
        *,
        audience: str = "CapacityProvider",
        source: str = "/load/1",
        group_id: int = 1,
        phase: str = "All",
        instantaneous: Mapping[str, Any] | None = None,
        energy: Mapping[str, Any] | None = None,
    ) -> None:
        await self.execute(
            """
            insert into asset (user_id, group_id, name, identifier, enabled, audience, node_id,
                source_id, category, phase, instantaneous, energy, created_at, modified_at)
            values (1, %(group)s, %(id)s, %(id)s, true, %(audience)s, 7, %(source)s, 'Charging',
                    %(phase)s, %(now_value)s, %(energy)s, %(now)s, %(now)s)
            """,
            group=group_id,
            id=identifier,
            audience=audience,
            source=source,
            phase=phase,
            now_value=instantaneous and Jsonb(instantaneous),
            energy=energy and Jsonb(energy),
        )

    async def execute(self, statement: str, **values: Any) -> None:
        async with self.db.connection() as conn:
            await conn.execute(statement, {"now": self.clock.at, **values})

    async def fetch(self, query: str, **values: Any) -> list[Any]:
        async with self.db.connection() as conn:
            cursor = await conn.execute(query, values)
            return await cursor.fetchall()

    async def read(
        self, source: str, seconds: Mapping[float, float | str], *, name: str, kind: str = "i"
    ) -> None:
        """Store readings of a property by seconds after noon."""
        await ingest.store(
            self.context,
            [
                Datum(
                    stream=StreamKey(1, 7, source),
                    at=NOON + timedelta(seconds=second),
                    **{kind: {name: Decimal(str(value))}},
                )
                for second, value in seconds.items()
            ],
        )

    async def owed(self) -> list[tuple[str, str, dict[str, Any]]]:
        """The messages owed to peers: role, operation, body; oldest first."""
        rows = await self.fetch(
            """
            select p.role, o.operation, o.body from outbox as o join peer as p on p.id = o.peer_id
             order by o.id
            """
        )
        return [(role, operation, json.loads(body)) for role, operation, body in rows]

    async def stored(self, source: str, *, node_id: int = 7, user_id: int = 1) -> list[Datum]:
        async with self.db.connection() as conn:
            return await streams.between(
                conn,
                stream=StreamKey(user_id, node_id, source),
                start_at=NOON - timedelta(days=30),
                end_at=NOON + timedelta(days=30),
                limit=100_000,
            )

    def counted(self, name: str, **labels: str) -> float:
        return self.context.metrics.registry.get_sample_value(f"{name}_total", labels) or 0.0

    async def events(self) -> Sequence[str]:
        return [row[0] for row in await self.fetch("select kind from event order by id")]


async def cancel(task: asyncio.Task[None]) -> None:
    """End a task that never ends by itself; what it raised is raised here."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
