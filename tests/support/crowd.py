"""Peers under load that insist as real ones do, and the judge who counts at the end.

Everything a peer says it says with the same id and bytes until somebody answers, at whichever
door; the judge compares what was answered 204 with the database and with what was delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from aiohttp import web
from psycopg import AsyncConnection

from support.daemon import Daemon
from support.peer import RecordingPeer
from support.waiting import wait_for

DOOR = "update_group_capacity_forecast"
_AGAIN = frozenset({408, 429, 502, 503, 504})
_ids = itertools.count(1)


@dataclass
class Insisting(RecordingPeer):
    """A peer that keeps the newest token it was given and says everything until it is heard.

    `doors` are the daemons, tried in turn; `advertised` is the port under which it is reached.
    """

    doors: Sequence[str] = ()
    advertised: int | None = None
    token: str = ""
    tries: int = 0
    patience_s: float = 3.0
    first: str = field(init=False)
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Insisting:
        await super().__aenter__()
        self.first = self.token
        self.hold.set()
        await self._session.close()
        timeout = aiohttp.ClientTimeout(total=self.patience_s)
        self._session = aiohttp.ClientSession(timeout=timeout)
        self._turns = itertools.count()
        return self

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.advertised or self.port}/oscp/{self.role}/2.0"

    async def _hear(self, request: web.Request) -> web.Response:
        response = await super()._hear(request)
        heard = self.heard[-1]
        if (heard.operation, heard.method) == ("register", "POST") and response.status == 204:
            self.token = heard.body["token"]
        await self.hold.wait()
        return response

    async def insists(
        self, operation: str, body: Any, *, method: str = "POST", within_s: float = 60, **more: str
    ) -> int:
        """Say it until it is answered, and return the answer; the token is the newest each time."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request_id = more.pop("request_id", f"{self.role}-insists-{next(_ids)}")
        refused = None
        async with asyncio.timeout(within_s):
            while True:
                self.tries += 1
                door = self.doors[next(self._turns) % len(self.doors)]
                try:
                    status, said, _ = await self.says(
                        door, operation, data, token=self.token, method=method,
                        request_id=request_id, **more,
                    )  # fmt: skip
                except (aiohttp.ClientError, OSError, TimeoutError):
                    await asyncio.sleep(0.03)
                    continue
                assert status != 500, (operation, said)
                if status == 403 and refused != self.token:
                    refused = self.token  # our new token may just have come
                    await asyncio.sleep(0.05)
                elif status in _AGAIN:
                    await asyncio.sleep(0.05)
                else:
                    return status

    async def joins(self, *, patience_s: float = 20, within_s: float = 90) -> None:
        """Register with the token at hand, anew whenever the Register back does not come."""
        async with asyncio.timeout(within_s):
            while True:
                before = len(self.of("register"))
                body = self._register()
                status = await self.insists("register", body)
                assert status == 204, (status, self.role)
                try:
                    await self.hears("register", before + 1, within_s=patience_s)
                except AssertionError:
                    continue
                return

    def _register(self) -> dict[str, Any]:
        return {
            "token": f"token-of-{self.role}-{next(_ids)}",
            "version_url": [{"version": "2.0", "base_url": self.base_url}],
        }

    async def moves(self) -> None:
        """PUT register: a new token for the daemon, the same address."""
        assert await self.insists("register", self._register(), method="PUT") == 204

    async def beats(self, ahead_s: float = 3600) -> int:
        until = datetime.now(UTC) + timedelta(seconds=ahead_s)
        return await self.insists("heartbeat", {"offline_mode_at": until.isoformat()})


@dataclass
class Optimizer(Insisting):
    role: str = "co"
    shaken: int = 0

    async def follows(self) -> None:
        """Register, and acknowledge the daemon's handshake."""
        await self.joins()
        await self.acknowledges_newest()

    async def acknowledges_newest(self) -> None:
        """Acknowledge handshakes that come from now on until one of them counts."""
        behaviour = {"required_behaviour": {"heartbeat_interval": 60,
                                            "measurement_configuration": []}}  # fmt: skip
        status = 0
        async with asyncio.timeout(90):
            while status != 204:
                await self.hears("handshake", self.shaken + 1, within_s=60)
                self.shaken = len(self.of("handshake"))
                newest = self.of("handshake")[-1].headers["x-request-id"]
                status = await self.insists(
                    "handshake_acknowledge", behaviour, X_Correlation_ID=newest
                )


@dataclass(frozen=True)
class Kept:
    """A forecast that was answered 204."""

    request_id: str
    group: str
    body: bytes


@dataclass
class Provider(Insisting):
    """Sends forecasts for its group one after the other, and now and then upsets the link."""

    group: str = ""
    entity_id: int = 0
    kept: list[Kept] = field(default_factory=list)
    restless: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    upsets: Counter[str] = field(default_factory=Counter)

    async def enters(self) -> None:
        await self.joins()
        await self.shakes()

    async def shakes(self, interval_s: float = 60) -> None:
        required = {"heartbeat_interval": interval_s, "measurement_configuration": ["CONTINUOUS"]}
        status = await self.insists("handshake", {"required_behaviour": required})
        assert status == 204, f"{self.group} is locked out: {status}"

    async def sends(self, number: int) -> None:
        """Have one forecast accepted; no two of a group speak of the same time."""
        start = datetime(2100, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
        block = {
            "capacity": number, "phase": "ALL", "unit": "W", "start_time": start.isoformat(),
            "end_time": (start + timedelta(minutes=1)).isoformat(),
        }  # fmt: skip
        body = json.dumps({"group_id": self.group, "type": "CONSUMPTION",
                           "forecasted_blocks": [block]}).encode()  # fmt: skip
        request_id = f"{self.group}-{number}"
        while (status := await self.insists(DOOR, body, request_id=request_id)) != 204:
            assert status == 403, status
            await self.shakes()
        self.kept.append(Kept(request_id, self.group, body))

    async def goes_on(self, stop: asyncio.Event, daemon: Daemon | None = None) -> None:
        """Send until told to stop; be `restless` in that share of the rounds."""
        for number in itertools.count():
            if stop.is_set():
                return
            await self.sends(number)
            if self.rng.random() < self.restless:
                await self._upset(daemon)
            await asyncio.sleep(self.rng.uniform(0, 0.02))

    async def _upset(self, daemon: Daemon | None) -> None:
        ways = ["register", "put", "handshake", "beat", "past"] + ["leave"] * (daemon is not None)
        way = self.rng.choice(ways)
        self.upsets[way] += 1
        if way == "register":
            await self.enters()
        elif way == "put":
            await self.moves()
            await self.shakes()
        elif way == "handshake":
            await self.shakes()
        elif way == "beat":
            assert await self.beats() in (204, 403)
        elif way == "past":
            assert await self.beats(-5) in (204, 403)
        elif daemon is not None:
            await self._leaves(daemon)

    async def _leaves(self, daemon: Daemon) -> None:
        """Unregister, and come back with a token that the operator hands over."""
        status = await self.insists("register", b"", method="DELETE")
        assert status in (204, 403), status  # 403: the answer was lost, the token has gone
        self.token = await new_token(daemon, self.entity_id)
        await self.enters()


async def new_token(daemon: Daemon, provider_id: int) -> str:
    """As the operator: have a new first token issued, whenever the daemon is there."""
    path = f"/api/v1/oscp/capacity-providers/{provider_id}/token"
    headers = {"Authorization": f"Bearer {daemon.bearer}"}
    timeout = aiohttp.ClientTimeout(total=3)
    async with asyncio.timeout(60), aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            try:
                async with session.post(daemon.url + path, headers=headers) as answer:
                    said = await answer.json()
                    if answer.status == 200:
                        return str(said["token"])
                    assert answer.status == 503, said
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # the daemon is being killed: ask again
            await asyncio.sleep(0.1)


async def settle_in(daemon: Daemon, count: int) -> tuple[list[tuple[int, str]], str]:
    """Create `count` providers with a group each, `group-0` …, and one optimizer.

    Return the providers' ids and first tokens, and the optimizer's first token.
    """
    optimizer = await daemon.manage(
        "POST", "capacity-optimizers", {"name": "Optimizer Co.", "enabled": True}
    )
    providers = []
    for number in range(count):
        entity = await daemon.manage(
            "POST", "capacity-providers", {"name": f"Lines {number}", "enabled": True}
        )
        group = {
            "name": f"Group {number}", "identifier": f"group-{number}", "enabled": True,
            "capacityProviderId": entity["configId"],
            "capacityOptimizerId": optimizer["configId"],
            "capacityProviderMeasurementPeriod": "Hour",
            "capacityOptimizerMeasurementPeriod": "Hour",
        }  # fmt: skip
        await daemon.manage("POST", "capacity-groups", group)
        providers.append((entity["configId"], entity["token"]))
    return providers, optimizer["token"]


@contextlib.asynccontextmanager
async def crowd(
    daemons: Sequence[Daemon], *, count: int, restless: float, seed: int = 1
) -> AsyncIterator[tuple[list[Provider], Optimizer]]:
    """Lend providers with a link each, and the optimizer of all their groups.

    The first daemon has to be logged in at.
    """
    entities, token = await settle_in(daemons[0], count)
    doors = [daemon.url for daemon in daemons]
    async with contextlib.AsyncExitStack() as stack:
        optimizer = Optimizer(doors=doors, token=token)
        await stack.enter_async_context(optimizer)
        providers = [
            Provider(
                doors=doors, token=first, entity_id=entity_id, group=f"group-{number}",
                restless=restless, rng=random.Random(seed * 1000 + number),
            )
            for number, (entity_id, first) in enumerate(entities)
        ]  # fmt: skip
        for provider in providers:
            await stack.enter_async_context(provider)
        await asyncio.gather(optimizer.follows(), *(p.enters() for p in providers))
        yield providers, optimizer


@dataclass(frozen=True)
class Count:
    """What the judge found. `repeated`: deliveries beyond the first, each under the same id."""

    accepted: int
    delivered: int
    repeated: int

    def __str__(self) -> str:
        return (
            f"answered 204: {self.accepted}, delivered: {self.delivered}, "
            f"repeated under the same id: {self.repeated}"
        )


async def owed(database_url: str) -> list[Any]:
    """Return what is owed to peers and not settled."""
    query = """
        select o.operation, o.attempts, l.leased_until, l.due_at
          from outbox as o left join lane as l on l.peer_id = o.peer_id and l.name = o.lane
         where o.settled_at is null
    """
    async with await AsyncConnection.connect(database_url) as conn:
        return await (await conn.execute(query)).fetchall()


async def lapse(database_url: str) -> None:
    """Let the time pass that claims of the dead are respected for."""
    async with await AsyncConnection.connect(database_url) as conn:
        await conn.execute(
            "update lane set due_at = least(due_at, '2000-01-01') where leased_until is not null"
        )
        await conn.execute("update lane set leased_until = null")


async def soon(database_url: str) -> None:
    """Let the time pass that messages wait for after a failure."""
    async with await AsyncConnection.connect(database_url) as conn:
        await conn.execute("update lane set due_at = '2000-01-01' where due_at < 'infinity'")
        await conn.execute("delete from unreachable")


async def judge(
    providers: Sequence[Provider],
    optimizer: Optimizer,
    database_url: str,
    *,
    drained_s: float,
    probe: bool = True,
) -> Count:
    """Wait until nothing is owed, then compare: nothing lost, doubled, reordered or invented."""

    async def drained() -> bool:
        return not await owed(database_url)

    await wait_for(drained, timeout=drained_s, what="the outbox to be empty")
    kept = [one for provider in providers for one in provider.kept]
    async with await AsyncConnection.connect(database_url) as conn:
        cursor = await conn.execute("select request_id, body from forecast order by id")
        rows = [(row[0], bytes(row[1])) for row in await cursor.fetchall()]
    assert sorted(rows) == sorted((one.request_id, one.body) for one in kept), "lost or doubled"
    heard = optimizer.of(DOOR)
    ids: dict[bytes, set[str]] = {}
    for one in heard:
        ids.setdefault(one.raw, set()).add(one.headers["x-request-id"])
    assert set(ids) == {one.body for one in kept}, "not delivered, or invented"
    assert {raw: many for raw, many in ids.items() if len(many) > 1} == {}
    first = list(dict.fromkeys(one.raw for one in heard))
    for provider in providers:
        sent = [one.body for one in provider.kept]
        mine = set(sent)
        assert [raw for raw in first if raw in mine] == sent, f"{provider.group}: order"
        if probe:
            await provider.shakes()  # nobody is locked out
            assert await provider.beats() == 204
    return Count(accepted=len(kept), delivered=len(ids), repeated=len(heard) - len(ids))


def says_no_bug(*daemons: Daemon) -> None:
    """Fail when a daemon met what it should never meet."""
    for daemon in daemons:
        said = daemon.log.read_text(errors="replace")
        for word in ("Traceback", "task.failed", "request.failed"):
            assert word not in said, said[max(0, said.index(word) - 500) :][:4000]
