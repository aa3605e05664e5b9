"""Peers that speak OSCP in their own way, through the real daemon: switched on, and not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg import AsyncConnection
from support.daemon import Daemon, MakeDaemon, Site, make_site
from support.issuer import Issuer, rsa_key
from support.messages import forecast
from support.peer import RecordingPeer

DOOR = "update_group_capacity_forecast"
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
BEHAVIOUR = {"heartbeat_interval": 60, "measurement_configuration": ["CONTINUOUS"]}


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer() as issuer:
        yield issuer


async def set_switches(daemon: Daemon, path: str, **more: Any) -> Any:
    """Give the only provider or optimizer these service properties, and whatever else."""
    (peer,) = await daemon.manage("GET", path)
    body = {"name": peer["name"], "enabled": True, "baseUrl": peer.get("baseUrl"), **more}
    return await daemon.manage("PUT", f"{path}/{peer['configId']}", body)


async def provider(daemon: Daemon, **switches: Any) -> Any:
    props = {name.replace("_", "-"): value for name, value in switches.items()}
    return await set_switches(daemon, "capacity-providers", serviceProps=props)


async def optimizer(daemon: Daemon, **switches: Any) -> Any:
    props = {name.replace("_", "-"): value for name, value in switches.items()}
    return await set_switches(daemon, "capacity-optimizers", serviceProps=props)


async def link(daemon: Daemon) -> str:
    peers = (await daemon.status())["peers"]
    return next(str(p["link"]) for p in peers if p["role"] == "CapacityProvider")


async def becomes(daemon: Daemon, wanted: str, *, within_s: float = 5) -> None:
    async with asyncio.timeout(within_s):
        while await link(daemon) != wanted:
            await asyncio.sleep(0.05)


async def test_a_provider_behind_a_gateway_gets_its_paths_headers_and_access_tokens(
    make_daemon: MakeDaemon, database_url: str, issuer: Issuer
) -> None:
    more = '[log]\nlevel = "debug"\nformat = "json"'
    daemon = await make_daemon(database_url, more=more).start()
    await daemon.log_in()
    site = await make_site(daemon, optimizer=False)
    await provider(
        daemon,
        url_paths={"Heartbeat": "/hb", "HandshakeAcknowledge": "/ack", "Register": "/sign-up"},
        http_headers={"x-api-key": "Key.456", "x-api-id": "id-7"},
        oauth_token_url=issuer.token_url,
        oauth_client_id="client-123",
        oauth_client_secret="Secret.123",
    )
    async with RecordingPeer("cp") as cp:
        body = {"token": "t-1", "version_url": [{"version": "2.0", "base_url": cp.base_url}]}
        status, said, _ = await cp.says(daemon.url, "register", body, token=site.provider_token)
        assert status == 204, said
        token = (await cp.hears("sign-up")).body["token"]
        behaviour = {"required_behaviour": {**BEHAVIOUR, "heartbeat_interval": 1}}
        await cp.says(daemon.url, "handshake", behaviour, token=token)
        await cp.hears("ack")
        await cp.hears("hb", 2)
        for heard in cp.heard:
            assert heard.headers["authorization"] == "Bearer access-1"
            assert (heard.headers["x-api-key"], heard.headers["x-api-id"]) == ("Key.456", "id-7")
        assert [form for _, _, form in issuer.requests] == [{"grant_type": "client_credentials"}]
        assert issuer.requests[0][1]["x-api-key"] == "Key.456"

        # The token is revoked there: the message that met it goes once more with a new one.
        cp.answers["hb"] = [401]
        count = len(cp.of("hb"))
        renewed = await cp.hears("hb", count + 2)
        assert renewed.headers["authorization"] == "Bearer access-2"

        shown = [daemon.log.read_text(), await daemon.answers("/metrics")]
        shown.append(json.dumps(await daemon.manage("GET", "capacity-providers")))
        async with await AsyncConnection.connect(database_url) as conn:
            for table in ("peer", "outbox", "event"):
                rows = await (await conn.execute(f"select t::text from {table} as t")).fetchall()
                shown += [text for (text,) in rows]
        for secret in ("Secret.123", "Key.456", "access-1", "access-2"):
            assert not [text for text in shown if secret in text]


def local(instant: datetime) -> str:
    return instant.astimezone(AMSTERDAM).replace(tzinfo=None).isoformat(" ")


def in_its_own_words() -> dict[str, Any]:
    """A forecast with a text for a capacity, and local times without a zone."""
    message = forecast("3.50")
    for block in message["forecasted_blocks"]:
        for name in ("start_time", "end_time"):
            block[name] = local(datetime.fromisoformat(block[name]))
    return message


async def test_what_a_provider_says_in_its_own_words_is_kept_and_passed_on_as_standard(
    daemon: Daemon,
) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        await set_switches(
            daemon,
            "capacity-providers",
            baseUrl=f"http://127.0.0.1:{cp.port}/",
            serviceProps={
                "lenient-base-url": True,
                "lenient-handshake": True,
                "lenient-capacity": "yes",
                "lenient-no-request-id": True,
                "time-zone": "Europe/Amsterdam",
            },
        )
        offer = {"token": "t", "version_url": [{"version": "2.0", "base_url": "/oscp/cp/2.0"}]}
        status, said, _ = await cp.says(
            daemon.url, "register", offer, token=site.provider_token, X_Request_ID=""
        )
        assert status == 204, said
        token = (await cp.hears("register")).body["token"]
        status, said, _ = await cp.says(daemon.url, "handshake", BEHAVIOUR, token=token)
        assert status == 204, said
        await cp.hears("handshake_acknowledge")
        await cp.hears("heartbeat")  # its interval was understood
        promise = {"offline_mode_at": local(datetime.now(UTC) + timedelta(seconds=60))}
        status, said, _ = await cp.says(daemon.url, "heartbeat", promise, token=token)
        assert status == 204, said
        sent = in_its_own_words()
        for _ in range(2):
            status, said, _ = await cp.says(daemon.url, DOOR, sent, token=token, request_id="f-1")
            assert status == 204, said
        block = (await co.hears(DOOR)).body["forecasted_blocks"][0]
        assert (block["capacity"], block["unit"]) == (3.5, "KW")
        told = datetime.fromisoformat(sent["forecasted_blocks"][0]["start_time"])
        assert datetime.fromisoformat(block["start_time"]) == told.replace(tzinfo=AMSTERDAM)
        await becomes(daemon, "online")
        assert len(co.of(DOOR)) == 1


async def test_a_provider_without_switches_is_held_to_the_standard(daemon: Daemon) -> None:
    site = await make_site(daemon, optimizer=False)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        offer = {"token": "t", "version_url": [{"version": "2.0", "base_url": "/oscp/cp/2.0"}]}
        naive = {"offline_mode_at": local(datetime.now(UTC))}
        cases: list[tuple[str, Any, int, str]] = [
            ("register", offer, 400, "base_url"),
            ("heartbeat", naive, 400, "offline_mode_at"),
            (DOOR, in_its_own_words(), 400, "forecasted_blocks"),
            ("handshake_acknowledgment", {}, 404, "nothing is here"),
            ("handshake_acknowledgement", {}, 404, "nothing is here"),
        ]
        for operation, body, expected, named in cases:
            status, said, _ = await cp.says(daemon.url, operation, body, token=token)
            assert status == expected and named in said["message"]
        status, said, _ = await cp.says(daemon.url, DOOR, forecast(), token=token, X_Request_ID="")
        assert status == 400 and "X-Request-ID" in said["message"]


async def test_an_optimizer_with_generated_code_is_met_half_way(daemon: Daemon) -> None:
    """It writes and reads bare behaviours and capacities as texts, and misspells a path."""
    site = await make_site(daemon)
    await optimizer(
        daemon,
        lenient_paths=True,
        lenient_handshake=True,
        lenient_correlation=True,
        write_flat_handshake=True,
        write_text_capacity=True,
        handshake_acknowledge_path="/handshake_acknowledgement",
    )
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        token = await co.registers(daemon.url, site.optimizer_token)
        handshake = await co.hears("handshake")
        assert handshake.body["heartbeat_interval"] == 60
        status, said, _ = await co.says(
            daemon.url, "handshake_acknowledgement", BEHAVIOUR, token=token
        )
        assert status == 204, said
        await co.says(daemon.url, "handshake", BEHAVIOUR, token=token)
        acknowledge = await co.hears("handshake_acknowledgement")
        assert acknowledge.body["heartbeat_interval"] == 60
        cp_token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, cp_token)
        await cp.says(daemon.url, DOOR, forecast(4.25), token=cp_token)
        heard = await co.hears(DOOR)
        assert heard.body["forecasted_blocks"][0]["capacity"] == "4.25"


async def test_an_acknowledge_that_answers_nothing_opens_nothing(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("co") as co:
        token = await co.registers(daemon.url, site.optimizer_token)
        await co.hears("handshake")
        for headers in ({}, {"X_Correlation_ID": "another"}):
            status, said, _ = await co.says(
                daemon.url, "handshake_acknowledge", {}, token=token, **headers
            )
            assert status == 400 and "X-Correlation-ID" in said["message"]
        await co.acknowledges(daemon.url, token)


async def test_a_peer_without_heartbeats_is_judged_by_its_last_message(daemon: Daemon) -> None:
    site = await make_site(daemon, optimizer=False)
    await provider(daemon, heartbeats="none", offline_after_s=1.5)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token, interval_s=1)
        asked = cp.of("handshake_acknowledge")[0].body["required_behaviour"]
        assert asked == {"measurement_configuration": ["CONTINUOUS"]}
        for number in range(4):  # longer than it may be silent
            await asyncio.sleep(0.6)
            status, said, _ = await cp.says(daemon.url, DOOR, forecast(number), token=token)
            assert status == 204, said
            assert await link(daemon) == "online"
        await becomes(daemon, "offline")
        status, _, _ = await cp.says(daemon.url, DOOR, forecast(group_id="nobody's"), token=token)
        assert (status, await link(daemon)) == (404, "offline")
        status, said, _ = await cp.says(daemon.url, DOOR, forecast(), token=token)
        assert (status, await link(daemon)) == (204, "online")
        assert cp.of("heartbeat") == []


async def test_a_heartbeat_ends_offline_mode_where_that_is_allowed(daemon: Daemon) -> None:
    site = await make_site(daemon, optimizer=False)

    def promise(seconds: float) -> dict[str, str]:
        return {"offline_mode_at": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}

    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        await cp.says(daemon.url, "heartbeat", promise(0.2), token=token)
        await becomes(daemon, "offline")
        status, _, _ = await cp.says(daemon.url, "heartbeat", promise(60), token=token)
        assert status == 403
        await set_switches(daemon, "capacity-providers", serviceProps={"lenient-heartbeat": True})
        status, _, _ = await cp.says(daemon.url, DOOR, forecast(), token=token)
        assert status == 403
        status, said, _ = await cp.says(daemon.url, "heartbeat", promise(60), token=token)
        assert status == 204, said
        status, said, _ = await cp.says(daemon.url, DOOR, forecast(), token=token)
        assert status == 204, said


async def test_a_provider_that_counts_badly_may_use_an_id_again(daemon: Daemon) -> None:
    site = await make_site(daemon)
    await provider(daemon, lenient_request_id=True)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        for capacity in (1, 1, 2, 2, 1):
            sent = forecast(capacity, type="GENERATION" if capacity == 2 else "CONSUMPTION")
            sent["forecasted_blocks"][0]["start_time"] = "2026-01-01T00:00:00Z"
            sent["forecasted_blocks"][0]["end_time"] = "2099-01-01T00:00:00Z"
            status, said, _ = await cp.says(daemon.url, DOOR, sent, token=token, request_id="same")
            assert status == 204, said
        last = forecast(3, type="FALLBACK_CONSUMPTION")
        await cp.says(daemon.url, DOOR, last, token=token, request_id="last")
        await co.hears(DOOR, 3)
        heard = [h.body["forecasted_blocks"][0]["capacity"] for h in co.of(DOOR)]
        assert heard == [1, 2, 3]


@pytest.fixture
async def trusting(make_daemon: MakeDaemon, database_url: str, issuer: Issuer) -> Daemon:
    """A daemon that takes bearer tokens of the issuer."""
    issuer.keys = [rsa_key("k-1")]
    more = f'jwt_issuer = "{issuer.url}"\njwt_audience = "fpd"'
    daemon = await make_daemon(database_url, more=more).start()
    await daemon.log_in()
    return daemon


@pytest.mark.parametrize("by", ["subject", "client id"])
async def test_a_peer_of_the_trusted_issuer_needs_no_oscp_token(
    trusting: Daemon, issuer: Issuer, by: str
) -> None:
    site = await make_site(trusting, optimizer=False)
    subject = f"{issuer.url}/lines-co" if by == "subject" else "client-123"
    async with RecordingPeer("cp") as cp:
        await set_switches(
            trusting,
            "capacity-providers",
            baseUrl=cp.base_url,
            registrationStatus="Registered",
            serviceProps={"jwt-subject": subject},
        )
        good = issuer.signs(aud="fpd", client_id="client-123")
        behaviour = {"required_behaviour": BEHAVIOUR}
        status, said, _ = await bearer(cp, trusting, "handshake", behaviour, good)
        assert status == 204, said
        await cp.hears("handshake_acknowledge")
        status, said, _ = await bearer(cp, trusting, DOOR, forecast(), good)
        assert status == 204, said
        # OSCP's own token is as good as before.
        status, _, _ = await cp.says(trusting.url, DOOR, forecast(), token=site.provider_token)
        assert status == 204
        bad = {
            "of somebody else": issuer.signs(aud="fpd", sub="stranger"),
            "for somebody else": issuer.signs(aud="other", client_id="client-123"),
            "ended": issuer.signs(aud="fpd", exp=1, client_id="client-123"),
            "forged": issuer.signs(rsa_key("k-1"), aud="fpd", client_id="client-123"),
            "no token": "x.y.z",
        }
        for why, token in bad.items():
            status, said, _ = await bearer(cp, trusting, DOOR, forecast(), token)
            assert (status, list(said)) == (403, ["message"]), why
        for scheme in ("Basic dTpw", "Digest x", "Bearer", "Bearer "):
            status, _, _ = await cp.says(
                trusting.url, DOOR, forecast(), token=None, Authorization=scheme
            )
            assert status == 401, scheme
        issuer.keys = [rsa_key("k-2")]
        rotated = issuer.signs(aud="fpd", client_id="client-123")
        async with asyncio.timeout(5):  # within the pause between two requests for keys
            while (await bearer(cp, trusting, DOOR, forecast(), rotated))[0] != 204:
                await asyncio.sleep(0.2)


async def bearer(
    cp: RecordingPeer, daemon: Daemon, operation: str, body: Any, token: str
) -> tuple[int, Any, dict[str, str]]:
    return await cp.says(daemon.url, operation, body, token=None, Authorization=f"Bearer {token}")


async def test_without_an_issuer_a_bearer_token_is_no_credential(
    daemon: Daemon, issuer: Issuer
) -> None:
    issuer.keys = [rsa_key("k-1")]
    await make_site(daemon, optimizer=False)
    await provider(daemon, jwt_subject=f"{issuer.url}/lines-co")
    async with RecordingPeer("cp") as cp:
        status, _, _ = await bearer(cp, daemon, "handshake", {}, issuer.signs())
        assert status == 401


async def test_two_peers_cannot_be_the_same_subject(daemon: Daemon) -> None:
    site: Site = await make_site(daemon)
    assert site.optimizer_token
    await provider(daemon, jwt_subject="client-123")
    with pytest.raises(AssertionError, match="taken"):
        await optimizer(daemon, jwt_subject="client-123")
    for wrong in ({"time_zone": "Nowhere"}, {"lenient_paths": "perhaps"}, {"jwt_subject": ""}):
        with pytest.raises(AssertionError, match=next(iter(wrong)).replace("_", "-")):
            await provider(daemon, **wrong)
