"""Peers behind TLS: an authority of their own, and a certificate of ours when they ask for one."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from fpd.config import Oscp
from fpd.errors import Misconfigured
from fpd.oscp.client import Answer, Call, PeerClient
from fpd.oscp.dialects import ClientCredentials


class Authority:
    """A certificate authority, and the files that it leaves with an operator of fpd."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.settings = Oscp(
            allowed_networks=(ip_network("127.0.0.0/8"),),
            ca_file=folder / "ca.crt",
            client_cert=folder / "client.crt",
            client_key=folder / "client.key",
        )
        self.ca.cert_pem.write_to_path(str(self.settings.ca_file))
        ours = self.ca.issue_cert("fpd@example.org")
        ours.cert_chain_pems[0].write_to_path(str(self.settings.client_cert))
        ours.private_key_pem.write_to_path(str(self.settings.client_key))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def https(ca: trustme.CA, *, clients_of: trustme.CA | None) -> AsyncIterator[str]:
    """Serve a peer and a token endpoint that want to see a certificate of `clients_of`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    if clients_of is not None:
        clients_of.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED

    async def heartbeat(_: web.Request) -> web.Response:
        return web.Response(status=204)

    async def token(_: web.Request) -> web.Response:
        return web.json_response({"access_token": "t", "token_type": "Bearer"})

    app = web.Application()
    app.router.add_post("/heartbeat", heartbeat)
    app.router.add_post("/token", token)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def url(authority: Authority) -> AsyncIterator[str]:
    async with https(authority.ca, clients_of=authority.ca) as url:
        yield url


async def answer(settings: Oscp, url: str, *, oauth: bool = False, token_url: str = "") -> Answer:
    credentials = ClientCredentials(
        token_url=token_url or f"{url}/token", client_id="client-123", client_secret="Secret.123"
    )
    client = PeerClient(settings)
    await client.open()
    try:
        return await client.send(
            Call(
                base_url=url,
                path="/heartbeat",
                request_id="r-1",
                credentials=credentials if oauth else None,
            )
        )
    finally:
        await client.close()


@pytest.mark.parametrize("oauth", [False, True])
async def test_the_peer_sees_our_certificate(authority: Authority, url: str, oauth: bool) -> None:
    assert await answer(authority.settings, url, oauth=oauth) == Answer(204)


@pytest.mark.parametrize("oauth", [False, True])
async def test_without_it_the_peer_hangs_up(authority: Authority, url: str, oauth: bool) -> None:
    without = replace(authority.settings, client_cert=None, client_key=None)
    assert (await answer(without, url, oauth=oauth)).status is None


@pytest.mark.parametrize("oauth", [False, True])
async def test_a_peer_of_an_unknown_authority_is_not_spoken_to(
    authority: Authority, url: str, oauth: bool
) -> None:
    refused = await answer(replace(authority.settings, ca_file=None), url, oauth=oauth)
    assert refused.status is None and "certificate verify failed" in (refused.detail or "")


async def test_a_token_endpoint_may_live_under_the_system_s_authorities(
    authority: Authority, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer with an authority of its own, whose tokens come from a public cloud."""
    public = trustme.CA()
    public.cert_pem.write_to_path(str(tmp_path / "system.crt"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "system.crt"))
    async with https(public, clients_of=None) as cloud:
        given = await answer(authority.settings, url, oauth=True, token_url=f"{cloud}/token")
        assert given == Answer(204)
        # Peers themselves must be of the authority that was given for them.
        refused = await answer(authority.settings, cloud)
        assert "certificate verify failed" in (refused.detail or "")


@pytest.mark.parametrize("key", ["ca_file", "client_cert", "client_key"])
async def test_a_file_that_is_none_is_named(authority: Authority, tmp_path: Path, key: str) -> None:
    (tmp_path / "empty").touch()
    client = PeerClient(replace(authority.settings, **{key: tmp_path / "empty"}))
    with pytest.raises(Misconfigured, match="ca_file" if key == "ca_file" else "client_cert"):
        await client.open()


@asynccontextmanager
async def showing(certificate: trustme.LeafCert) -> AsyncIterator[str]:
    """Serve a peer that shows this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    runner = web.AppRunner(web.Application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_why_a_certificate_is_not_taken_is_told(authority: Authority) -> None:
    """In one line for the operator, without a path of ours."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for certificate, why in (
        (authority.ca.issue_cert("cp.example.org"), "not valid for '127.0.0.1'"),
        (authority.ca.issue_cert("127.0.0.1", not_after=yesterday), "expired"),
        (trustme.CA().issue_cert("127.0.0.1"), "unable to get local issuer certificate"),
    ):
        async with showing(certificate) as url:
            refused = await answer(authority.settings, url)
            assert refused.status is None and refused.detail is not None
            assert "certificate verify failed" in refused.detail and why in refused.detail
            assert "\n" not in refused.detail
            assert str(authority.settings.client_key) not in refused.detail
            assert str(authority.settings.ca_file) not in refused.detail
