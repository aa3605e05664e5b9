"""A whole run, and everything that it said or kept searched for everything that was secret."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import quote

import aiohttp
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier
from support.daemon import MANAGE, Daemon, MakeDaemon, Site, make_site
from support.issuer import Issuer
from support.messages import forecast
from support.peer import RecordingPeer
from support.waiting import wait_for

MORE = """
[log]
level = "debug"
format = "json"
[[device]]
type = "battery"
name = "cellar"
api = "v2"
base_url = "http://127.0.0.1:9"
token = "Battery.Secret.1"
capacity_wh = 10000
max_charge_w = 3300
max_discharge_w = 3300
[[device]]
type = "bluegen"
name = "fuel-cell"
base_url = "http://127.0.0.1:9"
username = "customer"
password = "BlueGen.Secret.2"
unit_id = 1
"""
PROPS = {
    "oauth-client-id": "client-123",
    "oauth-client-secret": "Secret.123",
    "http-headers": {"X-Api-Key": "Header.Secret.3", "Cookie": "Cookie.Secret.4"},
}
PAGES = ("/", "/dashboard/live", "/api/v1/status", "/metrics", "/readyz", "/openapi.json")


async def test_nothing_secret_is_logged_kept_or_shown(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    daemon = make_daemon(database_url, more=MORE)
    text = daemon.config.read_text()
    account = 'port = 0\nusername = "somebody"\npassword = "Mqtt.Secret.5"'
    daemon.config.write_text(text.replace("port = 0", account))
    await daemon.start()
    await daemon.log_in()
    site = await make_site(daemon)
    secrets = ["Battery.Secret.1", "BlueGen.Secret.2", "Header.Secret.3", "Cookie.Secret.4"]
    secrets += ["Mqtt.Secret.5", "Secret.123", site.provider_token, site.optimizer_token]
    secrets += [daemon.bearer, daemon.bearer.partition(".")[2]]
    shown: list[str] = []
    async with Issuer() as issuer, RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        issuer.answers = [(500, {"error": "echo", "client_secret": "Secret.123"})]
        props = {**PROPS, "oauth-token-url": issuer.token_url}
        body = {"name": "Optimizer Co.", "enabled": True, "serviceProps": props}
        optimizers = await daemon.manage("GET", "capacity-optimizers")
        path = f"capacity-optimizers/{optimizers[0]['configId']}"
        shown.append(json.dumps(await daemon.manage("PUT", path, body)))

        secrets += await _meet(daemon, site, cp, co)
        first = await _acts(daemon, f"capacity-providers/{await _provider(daemon)}/token")
        secrets.append(first["token"])
        shown += await _refusals(daemon, cp, secrets)
        await wait_for(lambda: "cellar" in daemon.log.read_text(), timeout=15)
        shown += await _everything(daemon, database_url)
    shown.append(daemon.log.read_text())
    assert await daemon.terminate() == 0
    shown.append(daemon.log.read_text())
    for secret in secrets:
        raw = secret.encode()
        forms = {secret, raw.hex(), base64.b64encode(raw).decode(), quote(secret, safe="")}
        forms.add(base64.b64encode(f"client-123:{secret}".encode()).decode())
        found = [text for text in shown for form in forms if form in text]
        assert not found, (
            secret,
            [text[max(text.find(secret) - 200, 0) :][:400] for text in found],
        )


async def _meet(daemon: Daemon, site: Site, cp: RecordingPeer, co: RecordingPeer) -> list[str]:
    """Bring both online and a forecast from one to the other; return the tokens exchanged."""
    cp_token = await cp.registers(daemon.url, site.provider_token)
    await cp.shakes_hands(daemon.url, cp_token, interval_s=1)
    offer = {
        "token": "Co.Secret.6",
        "version_url": [{"version": "2.0", "base_url": co.base_url}],
    }
    status, said, _ = await co.says(daemon.url, "register", offer, token=site.optimizer_token)
    assert status == 204, said
    co_token = (await co.hears("register", within_s=20)).body["token"]
    await co.acknowledges(daemon.url, co_token)
    status, said, _ = await cp.says(
        daemon.url, "update_group_capacity_forecast", forecast(), token=cp_token
    )
    assert status == 204, said
    heard = await co.hears("update_group_capacity_forecast")
    assert heard.headers["authorization"].startswith("Bearer access-")
    assert heard.headers["x-api-key"] == "Header.Secret.3"
    access_token = heard.headers["authorization"].removeprefix("Bearer ")
    return [cp_token, co_token, "Co.Secret.6", cp.of("register")[0].token, access_token]


async def _provider(daemon: Daemon) -> int:
    return int((await daemon.manage("GET", "capacity-providers"))[0]["configId"])


async def _acts(daemon: Daemon, path: str) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{daemon.url}/api/v1/oscp/{path}",
            headers={"Authorization": f"Bearer {daemon.bearer}"},
        ) as answer,
    ):
        assert answer.status == 200
        return await answer.json()


async def _refusals(daemon: Daemon, cp: RecordingPeer, secrets: list[str]) -> list[str]:
    """Present each secret where it is wrong; return what is answered."""
    told = []
    for secret in secrets:
        _, said, headers = await cp.says(daemon.url, "handshake", {}, token=f"{secret}x")
        told += [json.dumps(said), str(headers)]
        _, said, headers = await cp.says(
            daemon.url, "handshake", {}, token=None, Authorization=f"Basic {secret}"
        )
        told += [json.dumps(said), str(headers)]
    port = int(daemon.url.rpartition(":")[2])
    for head in (
        f"GET / HTTP/1.1\r\nAuthorization: Token {secrets[0]}\r\nA b: {secrets[1]}\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: [{secrets[2]}\r\n\r\n",
        f"{secrets[3]} / HTTP/9\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode())
        told.append((await asyncio.wait_for(reader.read(500), 5)).decode())
        writer.close()
    return told


async def _everything(daemon: Daemon, database_url: str) -> list[str]:
    """Return all that the doors, the database and the commands show."""
    shown = [await daemon.answers(path) for path in PAGES]
    described = json.loads(await daemon.answers("/openapi.json"))["paths"]
    managed = [path for path in described if path.startswith(MANAGE) and "get" in described[path]]
    assert len(managed) >= 8
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {daemon.bearer}"}
    ) as session:
        for path in managed:
            for id in ("1", "2"):
                url = daemon.url + "/".join(id if "{" in part else part for part in path.split("/"))
                async with session.get(url) as answer:
                    shown.append(await answer.text())
    assert any('"X-Api-Key":"***"' in text for text in shown)
    for command in (["status"], ["status", "--json"], ["token", "list"], ["check-config"]):
        shown.append(await daemon.command(*command))
    async with await AsyncConnection.connect(database_url) as conn:
        tables = await conn.execute(
            "select table_name from information_schema.tables where table_schema = 'public'"
        )
        for (table,) in await tables.fetchall():
            rows = await conn.execute(SQL("select t::text from {} as t").format(Identifier(table)))
            shown += [text for (text,) in await rows.fetchall()]
    return shown
