"""Flows that speak to peers, on a real database and real HTTP, by a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from support.peer import RecordingPeer

from fpd.config import Config, Http, Oscp
from fpd.flows import handshake
from fpd.flows.context import Context
from fpd.flows.delivery import Delivery
from fpd.flows.inbound import Inbound
from fpd.metrics import Metrics
from fpd.mqtt.client import MqttClient
from fpd.oscp import messages
from fpd.oscp.client import PeerClient
from fpd.store import outbox
from fpd.store.db import Database
from fpd.store.outbox import Owed
from fpd.store.vault import Vault

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
PROVIDER, OPTIMIZER = "CapacityProvider", "CapacityOptimizer"


@dataclass
class Scene:
    """What is under test, and how far its clock has come."""

    context: Context
    now: list[datetime]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def wait(self, **span: float) -> None:
        self.now[0] += timedelta(**span)

    async def settle(self) -> None:
        """Let everything that was begun arrive."""
        while self.tasks:
            tasks, self.tasks[:] = list(self.tasks), []
            await asyncio.gather(*tasks)

    async def deliver(self, delivery: Delivery | None = None) -> None:
        """Send what is due, once, and write down what came of it."""
        delivery = delivery or Delivery(self.context)
        await delivery.step()
        await self.settle()
        await delivery.drain()

    async def rows(self, query: str, *parameters: Any) -> list[Any]:
        async with self.context.db.connection() as conn:
            return await (await conn.execute(query.encode(), parameters)).fetchall()

    async def peer(self, peer: RecordingPeer, role: str, *, link: str = "online") -> int:
        """Make a peer that wants heartbeats every minute and is heard for an hour."""
        ((id,),) = await self.rows(
            """
            with account as (
                insert into account values (1, %s) on conflict do nothing
            )
            insert into peer (user_id, role, name, enabled, base_url, oscp_version, link,
                              link_changed_at, heartbeat_interval_s, offline_at,
                              outbound_token_sealed, created_at, modified_at)
            values (1, %s, 'Peer', true, %s, '2.0', %s, %s, 60, %s, %s, %s, %s)
            returning id
            """,
            *(NOON, role, peer.base_url, link, NOON, NOON + timedelta(hours=1)),
            *(self.context.vault.seal(b"our-token"), NOON, NOON),
        )
        return int(id)

    async def owe(self, peer_id: int, request_id: str, *, lane: str = "group:1") -> None:
        owed = Owed(
            peer_id=peer_id,
            lane=lane,
            operation="update_group_measurements",
            body=b'{"n":1}',
            request_id=request_id,
            due_at=self.now[0],
            expires_at=self.now[0] + timedelta(days=1),
        )
        async with self.context.db.transaction() as conn:
            await outbox.owe(conn, [owed], now=self.now[0])

    async def link(self, peer_id: int) -> str:
        ((link,),) = await self.rows("select link from peer where id = %s", peer_id)
        return str(link)

    async def outcomes(self) -> dict[str, str | None]:
        return dict(await self.rows("select request_id, outcome from outbox where lane <> 'link'"))

    async def kinds(self) -> list[str]:
        return [kind for (kind,) in await self.rows("select kind from event order by id")]

    async def shake_hands(self, peer: RecordingPeer, peer_id: int, count: int = 1) -> None:
        """Let an optimizer be shaken hands with and acknowledge it."""
        await handshake.step(self.context)
        await self.deliver()
        heard = await peer.hears("handshake", count)
        inbound = Inbound(
            peer_id=peer_id,
            operation="POST handshake_acknowledge",
            request_id=f"ack-{count}",
            correlation_id=heard.headers["x-request-id"],
            body=b"{}",
        )
        await handshake.acknowledged(self.context, inbound, messages.HandshakeAcknowledge())


@asynccontextmanager
async def scene(database_url: str) -> AsyncIterator[Scene]:
    now = [NOON]
    tasks: list[asyncio.Task[None]] = []

    def clock() -> datetime:
        return now[0]

    def spawn(work: Coroutine[Any, Any, None], *, name: str) -> None:
        tasks.append(asyncio.create_task(work, name=name))

    oscp = Oscp(require_https=False, allowed_networks=(ip_network("127.0.0.0/8"),))
    config = Config(
        data_dir=Path("nowhere"),
        http=Http(public_url="http://127.0.0.1:1"),
        oscp=oscp,
    )
    db = Database(database_url, clock=clock, max_size=4)
    await db.open()
    peers = PeerClient(config.oscp)
    await peers.open()
    try:
        context = Context(
            config=config,
            clock=clock,
            steady=lambda: clock().timestamp(),
            db=db,
            vault=Vault(Fernet.generate_key()),
            metrics=Metrics(),
            peers=peers,
            mqtt=MqttClient(
                "mqtt://127.0.0.1:1", username=None, password=None, ca_file=None, instance="test"
            ),
            spawn=spawn,
        )
        yield Scene(context, now, tasks)
    finally:
        await peers.close()
        await db.close()
