"""TLS at our own doors: who we are, whose certificates we want, and renewal under way."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from support.daemon import free_port
from support.waiting import wait_for

from fpd.config import Http
from fpd.errors import Misconfigured
from fpd.metrics import Metrics
from fpd.web import listener
from fpd.web.listener import Certificate, listening


class Place:
    """Authorities, and the files that they leave with an operator of fpd."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.clients, self.strangers = trustme.CA(), trustme.CA(), trustme.CA()
        self.http = Http(
            listen=f"127.0.0.1:{free_port()}",
            tls_cert=folder / "fpd.crt",
            tls_key=folder / "fpd.key",
        )
        self.client_ca = folder / "clients.crt"
        self.clients.cert_pem.write_to_path(str(self.client_ca))
        self.renew(self.ours)

    def renew(self, authority: trustme.CA) -> None:
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(str(self.http.tls_key))
        issued.cert_chain_pems[0].write_to_path(str(self.http.tls_cert))

    def wants(self, auth: str) -> Http:
        return replace(self.http, tls_client_ca=self.client_ca, tls_client_auth=auth)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@asynccontextmanager
async def served(http: Http) -> AsyncIterator[Certificate]:
    async def here(request: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application()
    app.add_routes([web.get("/", here)])
    async with listening(app, http, Metrics()) as certificate:
        assert certificate is not None
        yield certificate


async def ask(http: Http, trusted: trustme.CA, shown: trustme.LeafCert | None = None) -> str:
    context = ssl.create_default_context()
    trusted.configure_trust(context)
    if shown is not None:
        shown.configure_cert(context)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://{http.listen}/", ssl=context) as answer,
    ):
        return await answer.text()


@pytest.mark.parametrize("auth", ["optional", "required"])
async def test_whose_client_certificates_are_taken(place: Place, auth: str) -> None:
    http = place.wants(auth)
    expired = place.clients.issue_cert(
        "peer@example.org", not_after=datetime.now(UTC) - timedelta(days=1)
    )
    async with served(http):
        good = place.clients.issue_cert("peer@example.org")
        assert await ask(http, place.ours, good) == "here"
        for bad in (place.strangers.issue_cert("peer@example.org"), expired):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await ask(http, place.ours, bad)
        if auth == "optional":
            assert await ask(http, place.ours) == "here"
        else:
            with pytest.raises((aiohttp.ClientError, OSError)):
                await ask(http, place.ours)


async def test_without_an_authority_nobody_is_asked(place: Place) -> None:
    async with served(place.http):
        assert await ask(place.http, place.ours) == "here"
        assert await ask(place.http, place.ours, place.strangers.issue_cert("a@b")) == "here"
        with pytest.raises(aiohttp.ClientError):
            await ask(place.http, place.strangers)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_old_versions_of_tls_are_not_spoken(place: Place) -> None:
    async with served(place.http) as certificate:
        assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2
        context = ssl.create_default_context()
        place.ours.configure_trust(context)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session:
                await session.get(f"https://{place.http.listen}/", ssl=context)


async def test_who_never_finishes_the_handshake_is_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_HANDSHAKE_S", 0.2)
    async with served(place.http):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.http.port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        assert await ask(place.http, place.ours) == "here"


@pytest.mark.parametrize("told", [True, False])
async def test_a_renewed_certificate_is_shown(
    place: Place, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_LOOK_S", 60 if told else 0.05)
    async with served(place.http) as certificate:
        watching = asyncio.create_task(certificate.watch())
        assert await ask(place.http, place.ours) == "here"

        async def renewed() -> bool:
            try:
                return await ask(place.http, place.strangers) == "here"
            except aiohttp.ClientError:
                return False

        # A key that does not belong to the certificate changes nothing.
        stranger = place.strangers.issue_cert("127.0.0.1")
        assert place.http.tls_key is not None and place.http.tls_cert is not None
        stranger.private_key_pem.write_to_path(str(place.http.tls_key))
        if told:
            certificate.look()
        await asyncio.sleep(0.3)
        assert await ask(place.http, place.ours) == "here"
        stranger.cert_chain_pems[0].write_to_path(str(place.http.tls_cert))
        if told:
            certificate.look()
        await wait_for(renewed, what="the new certificate")
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching


@pytest.mark.parametrize("key", ["tls_cert", "tls_key", "tls_client_ca"])
def test_a_file_that_is_none_is_named(place: Place, tmp_path: Path, key: str) -> None:
    (tmp_path / "empty").touch()
    http = replace(place.wants("required"), **{key: tmp_path / "empty"})
    with pytest.raises(Misconfigured, match="tls_client_ca" if "client" in key else "tls_cert"):
        Certificate(http)


def test_an_encrypted_key_is_refused_and_not_asked_about(place: Place) -> None:
    assert place.http.tls_key is not None
    key = load_pem_private_key(place.http.tls_key.read_bytes(), None)
    place.http.tls_key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    )
    with pytest.raises(Misconfigured, match="tls_cert"):
        Certificate(place.http)


def test_as_many_files_as_are_granted() -> None:
    assert listener._files() >= 1024 or os.environ.get("CI")
