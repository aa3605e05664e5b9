"""A daemon in this process between a provider and an optimizer, who are played by hand.

The real doors over HTTP, the real flows, a real database; the clock is moved by hand, and what
the daemon sends is answered as the test says. `Daemon.restart` is a `kill -9` and a new start.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography.fernet import Fernet
from psycopg.types.json import Jsonb
from support.mqtt import client_at

from fpd.config import Config, Http, Oscp
from fpd.flows import handshake, initiative
from fpd.flows.context import Context
from fpd.flows.control import Control
from fpd.flows.delivery import Delivery
from fpd.flows.devices import Devices
from fpd.flows.heartbeat import Heartbeats
from fpd.flows.registration import sha256
from fpd.flows.set_back import Watch
from fpd.flows.silence import Silence
from fpd.metrics import Metrics
from fpd.oscp.client import Answer, Call, PeerClient
from fpd.store.db import Database
from fpd.store.vault import Vault
from fpd.web.server import application

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
GRACE_S = 5
PROVIDER, OPTIMIZER, GROUP = 1, 2, 1
DOOR = "update_group_capacity_forecast"
_OSCP = Oscp(clock_skew_grace_s=GRACE_S)
_KEY = Fernet.generate_key()


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Sent:
    """What the daemon sent, and the answer that it got (None: none)."""

    peer_id: int
    operation: str
    request_id: str
    correlation_id: str | None
    token: str | None
    raw: bytes
    status: int | None

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class PlayedPeers(PeerClient):
    """Answers what `answer` says in place of the peers; nobody is called."""

    def __init__(self) -> None:
        super().__init__(_OSCP)
        self.sent: list[Sent] = []
        self.answer: Callable[[Call], int | None] = lambda call: 204

    async def send(self, call: Call, *, within_s: float | None = None) -> Answer:
        status = self.answer(call)
        self.sent.append(
            Sent(
                peer_id=PROVIDER if "//cp." in call.base_url else OPTIMIZER,
                operation=call.path.removeprefix("/"),
                request_id=call.request_id,
                correlation_id=call.correlation_id,
                token=call.token,
                raw=bytes(call.body),
                status=status,
            )
        )
        return Answer(status)


async def beat(context: Context) -> None:
    """Send the heartbeats that are due by a clock that only we move."""
    heartbeats = Heartbeats(context)
    for _ in range(2):  # the first may pull in what a set back clock has put off
        while await heartbeats.step():
            pass
    heartbeats.stop()


class LinkedDaemon:
    """One daemon of any number on the database at `db`."""

    def __init__(self, db: Database, clock: Hands, peers: PlayedPeers) -> None:
        self.db = db
        self.clock = clock
        self.peers = peers
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._quiet = asyncio.Condition()

    async def start(self) -> None:
        self.context = Context(
            config=Config(
                data_dir=Path("/nonexistent"),
                http=Http(rate_per_token_s=1e6, rate_burst=10**6, failed_auth_per_min=10**6),
                oscp=_OSCP,
            ),
            clock=self.clock,
            steady=lambda: self.clock().timestamp(),
            db=self.db,
            vault=Vault(_KEY),
            metrics=Metrics(),
            peers=self.peers,
            mqtt=client_at("mqtt://127.0.0.1:1"),
            spawn=self._spawn,
        )
        self.delivery = Delivery(self.context)
        self._watch_of_clock = Watch(self.context)
        self._control = Control(self.context, Devices(self.context))
        app = application(self.context, [])
        app.middlewares.insert(0, self._watch)
        self._client = TestClient(TestServer(app))
        await self._client.start_server()

    async def stop(self) -> None:
        await self._client.close()
        await self.finished()

    async def restart(self) -> None:
        """Forget all that was only in memory."""
        await self.stop()
        await self.start()

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)

    async def finished(self) -> None:
        while self._tasks:
            tasks, self._tasks = self._tasks, set()
            await asyncio.gather(*tasks)

    @web.middleware
    async def _watch(
        self, request: web.Request, handler: Callable[[web.Request], Any]
    ) -> web.StreamResponse:
        """Know when a request is over: some of what it does follows its answer."""
        self._under_way += 1
        try:
            response: web.StreamResponse = await handler(request)
            return response
        finally:
            async with self._quiet:
                self._under_way -= 1
                self._quiet.notify_all()

    async def hears(
        self, operation: str, body: Any, *, token: str, method: str = "POST",
        request_id: str | None = None, correlation_id: str | None = None,
    ) -> int:  # fmt: skip
        """Return the status that a peer's message is answered with."""
        headers = {
            "Authorization": f"Token {token}",
            "X-Request-ID": request_id or secrets.token_hex(8),
            "Content-Type": "application/json",
        }
        if correlation_id is not None:
            headers["X-Correlation-ID"] = correlation_id
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._client.request(
            method, f"/oscp/fp/2.0/{operation}", data=data, headers=headers
        ) as answer:
            text = await answer.text()
            assert answer.status < 500 or answer.status in (501, 503), text
        async with self._quiet:
            await self._quiet.wait_for(lambda: not self._under_way)
        return answer.status

    async def works(self) -> list[Sent]:
        """Run the protocol's loops until nothing is left to do now; return what was sent."""
        first = len(self.peers.sent)
        while True:
            before = len(self.peers.sent)
            await self._watch_of_clock.look()
            await Silence(self.context).step()
            await handshake.step(self.context)
            await beat(self.context)
            await self.delivery.step()
            await self.finished()
            await self.delivery.drain()
            if len(self.peers.sent) == before:
                return self.peers.sent[first:]

    async def decides(self) -> None:
        """Look at the groups whose control is due."""
        await self._control.step()
        await self.finished()

    async def resets_token(self, peer_id: int) -> str:
        """As the operator: have a new first token issued."""
        role = "CapacityProvider" if peer_id == PROVIDER else "CapacityOptimizer"
        return await initiative.reset_token(self.context, user_id=1, role=role, peer_id=peer_id)

    async def dies_after_sending(self) -> list[Sent]:
        """Send what is owed and be killed before the answers are written down."""
        first = len(self.peers.sent)
        await self.delivery.step()
        await self.finished()
        await self.restart()
        return self.peers.sent[first:]


async def execute(db: Database, statement: str, **values: Any) -> None:
    async with db.connection() as conn:
        await conn.execute(statement, values)


async def fetch(db: Database, query: str, **values: Any) -> list[Any]:
    async with db.connection() as conn:
        return await (await conn.execute(query, values)).fetchall()


async def furnish(db: Database, *, now: datetime) -> None:
    """Replace whatever is there by provider 1, optimizer 2 and group 1 between them.

    The first tokens are "first-1" and "first-2". The group is under control of a device that is
    not configured, so its envelope is kept.
    """
    await execute(db, "truncate account, control_due, event, publication restart identity cascade")
    await execute(db, "insert into account values (1, %(now)s)", now=now)
    for role, peer_id in (("CapacityProvider", PROVIDER), ("CapacityOptimizer", OPTIMIZER)):
        await execute(
            db,
            """
            insert into peer (user_id, role, name, enabled, oscp_version, link_changed_at,
                              created_at, modified_at)
            values (1, %(role)s, %(role)s, true, '2.0', %(now)s, %(now)s, %(now)s)
            """,
            role=role,
            now=now,
        )
        await execute(
            db,
            """
            insert into peer_token (sha256, peer_id, state, created_at)
            values (%(sha256)s, %(peer_id)s, 'current', %(now)s)
            """,
            sha256=sha256(f"first-{peer_id}"),
            peer_id=peer_id,
            now=now,
        )
    await execute(
        db,
        """
        insert into capacity_group (user_id, name, identifier, enabled, provider_id, optimizer_id,
            provider_period_s, optimizer_period_s, created_at, modified_at)
        values (1, 'Group', 'group', true, 1, 2, 3600, 3600, %(now)s, %(now)s)
        """,
        now=now,
    )
    await execute(
        db,
        """
        insert into asset (user_id, group_id, name, identifier, enabled, audience, node_id,
            source_id, category, phase, control, created_at, modified_at)
        values (1, 1, 'a', 'a', true, 'CapacityProvider', 1, '/a', 'Storage', 'All', %(control)s,
                %(now)s, %(now)s)
        """,
        control=Jsonb({"device": "elsewhere"}),
        now=now,
    )


def register(peer_id: int, token: str) -> dict[str, Any]:
    """A peer's Register; the host tells who it is."""
    host = "cp" if peer_id == PROVIDER else "co"
    url = f"https://{host}.example/oscp/{host}/2.0"
    return {"token": token, "version_url": [{"version": "2.0", "base_url": url}]}


def behaviour(interval_s: float | None = 60) -> dict[str, Any]:
    required: dict[str, Any] = {"measurement_configuration": ["CONTINUOUS"]}
    if interval_s is not None:
        required["heartbeat_interval"] = interval_s
    return {"required_behaviour": required}


def forecast(blocks: Sequence[tuple[int, int, int]], type: str = "CONSUMPTION") -> dict[str, Any]:
    """Blocks of (start, end, capacity): minutes after NOON, W."""
    return {
        "group_id": "group",
        "type": type,
        "forecasted_blocks": [
            {
                "capacity": capacity, "phase": "ALL", "unit": "W",
                "start_time": (NOON + timedelta(minutes=start)).isoformat(),
                "end_time": (NOON + timedelta(minutes=end)).isoformat(),
            }
            for start, end, capacity in blocks
        ],
    }  # fmt: skip
