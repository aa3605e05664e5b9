"""The real daemon as a process of its own, and a site to manage on it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from psycopg import AsyncConnection

from fpd.config_file import load
from fpd.store import accounts
from fpd.store.vault import Vault
from support import processes

MANAGE = "/solaruser/api/v1/sec/user/oscp"


@dataclass
class Daemon:
    """`fpd run` on `config`; started, killed and started again as the story wants."""

    config: Path
    url: str
    log: Path
    bearer: str = ""

    async def start(self, *, ready: bool = True) -> Daemon:
        with self.log.open("ab") as output:
            self._process = await processes.start(
                "run", "-c", str(self.config), env=_environment(), output=output
            )
        await self.answers("/readyz" if ready else "/healthz")
        return self

    async def answers(self, path: str, status: int = 200, *, within_s: float = 20) -> Any:
        """Wait until `path` answers with `status` and return the text."""
        seen: object = None
        try:
            async with asyncio.timeout(within_s), aiohttp.ClientSession() as session:
                while True:
                    try:
                        async with session.get(self.url + path) as answer:
                            seen = text = await answer.text()
                            if answer.status == status:
                                return text
                    except aiohttp.ClientError as error:
                        seen = error
                    assert self._process.returncode is None, f"the daemon ended:\n{self.said()}"
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{path}: no {status}, last {seen}\n{self.said()}") from None

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def terminate(self, *, within_s: float = 20) -> int:
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), within_s)

    def hang_up(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    async def ended(self, *, within_s: float = 20) -> int:
        return await asyncio.wait_for(self._process.wait(), within_s)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    async def command(self, *arguments: str) -> str:
        """Run another fpd command on the same configuration and return what it printed."""
        ended = await asyncio.to_thread(
            processes.run, *arguments, "-c", str(self.config), cwd=Path.cwd(), env=_environment()
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    async def log_in(self, user_id: int = 1, *, admin: bool = False) -> None:
        """Make a token as `fpd token create` does, which would take a second each time."""
        config = load(self.config, {})
        if config.database.url is None:  # its own database: for the command to find
            more = ["--admin"] if admin else []
            text = await self.command("token", "create", "--user-id", str(user_id), "--json", *more)
            self.bearer = json.loads(text)["bearer"]
            return
        async with await AsyncConnection.connect(config.database.url) as conn:
            made = await accounts.create_token(
                conn,
                user_id=user_id,
                name="",
                admin=admin,
                vault=Vault.open(config.key_file or config.data_dir / "fpd.key"),
                now=datetime.now(UTC),
            )
        self.bearer = made.bearer

    async def manage(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management API and return `data`; a refusal fails the test."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method,
                f"{self.url}{MANAGE}/{path}",
                json=body,
                headers={"Authorization": f"Bearer {self.bearer}"},
            ) as answer,
        ):
            said = await answer.json()
            assert answer.status in (200, 201), said
            return said.get("data")

    async def status(self) -> Any:
        return json.loads(await self.answers("/api/v1/status"))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("FPD_")}


@dataclass(frozen=True)
class Site:
    """One group between one provider and one optimizer, and their first tokens."""

    provider_token: str
    optimizer_token: str
    group_id: int


async def make_site(daemon: Daemon, *, optimizer: bool = True) -> Site:
    """Create the entities through the management API."""
    provider = await daemon.manage(
        "POST", "capacity-providers", {"name": "Lines Co.", "enabled": True}
    )
    group: dict[str, Any] = {
        "name": "My Group",
        "identifier": "my-group",
        "capacityProviderId": provider["configId"],
        "capacityProviderMeasurementPeriod": "FifteenMinute",
        "capacityOptimizerMeasurementPeriod": "FiveMinute",
        "enabled": True,
    }
    optimizer_token = ""
    if optimizer:
        co = await daemon.manage(
            "POST", "capacity-optimizers", {"name": "Optimizer Co.", "enabled": True}
        )
        group["capacityOptimizerId"] = co["configId"]
        optimizer_token = co["token"]
    created = await daemon.manage("POST", "capacity-groups", group)
    return Site(provider["token"], optimizer_token, created["configId"])


MakeDaemon = Callable[..., Daemon]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
