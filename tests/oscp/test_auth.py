"""OAuth 2.0 both ways, against an authorization server over real HTTP with real keys."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import KeySet
from support.issuer import Issuer, ec_key, rsa_key
from support.peer import RecordingPeer

from fpd.config import Oscp
from fpd.errors import Forbidden, Unavailable
from fpd.oscp import auth, tls
from fpd.oscp.client import Answer, Call, PeerClient, Verdict
from fpd.oscp.dialects import ClientCredentials

LOCAL = Oscp(require_https=False, allowed_networks=(ip_network("127.0.0.0/8"),))


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer() as issuer:
        yield issuer


@pytest.fixture
async def peer() -> AsyncIterator[RecordingPeer]:
    async with RecordingPeer("cp") as peer:
        yield peer


@pytest.fixture
async def client() -> AsyncIterator[PeerClient]:
    client = PeerClient(LOCAL)
    await client.open()
    yield client
    await client.close()


def credentials(issuer: Issuer, **changes: Any) -> ClientCredentials:
    values = {
        "token_url": issuer.token_url,
        "client_id": issuer.client[0],
        "client_secret": issuer.client[1],
        **changes,
    }
    return ClientCredentials(**values)


def call(peer: RecordingPeer, oauth: ClientCredentials | None, **changes: Any) -> Call:
    values = {
        "base_url": peer.base_url,
        "path": "/heartbeat",
        "request_id": "r-1",
        "token": "token of the peer",
        "credentials": oauth,
        "body": b"{}",
        **changes,
    }
    return Call(**values)


def presented(peer: RecordingPeer) -> list[str]:
    return [heard.headers["authorization"] for heard in peer.heard]


async def test_one_token_serves_all_messages_that_wait_for_it(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer
) -> None:
    oauth = credentials(issuer)
    answers = await asyncio.gather(*(client.send(call(peer, oauth)) for _ in range(20)))
    assert answers == [Answer(204)] * 20
    assert presented(peer) == ["Bearer access-1"] * 20
    ((client_is, headers, form),) = issuer.requests
    assert client_is == "client-123:Secret.123"
    assert form == {"grant_type": "client_credentials"}
    assert headers["content-type"] == "application/x-www-form-urlencoded"


async def test_a_peer_without_oauth_gets_its_own_token(
    client: PeerClient, peer: RecordingPeer
) -> None:
    await client.send(call(peer, None))
    await client.send(call(peer, None, headers={"authorization": "Basic dTpw"}))
    assert presented(peer) == ["Token token of the peer", "Basic dTpw"]


async def test_a_token_is_renewed_before_it_ends(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer
) -> None:
    issuer.life_s = 1
    oauth = credentials(issuer)
    await client.send(call(peer, oauth))
    await asyncio.sleep(0.8)  # a quarter of its life is left
    await client.send(call(peer, oauth))
    assert presented(peer) == ["Bearer access-1", "Bearer access-2"]


async def test_a_token_lives_on_while_its_server_is_away(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer
) -> None:
    issuer.life_s = 2
    oauth = credentials(issuer)
    await client.send(call(peer, oauth))
    await asyncio.sleep(1.6)
    issuer.answers = [(503, "")]
    assert await client.send(call(peer, oauth)) == Answer(204)
    assert presented(peer) == ["Bearer access-1"] * 2 and len(issuer.requests) == 2


@pytest.mark.parametrize("refusal", [401, 403])
async def test_a_token_that_is_refused_is_replaced_once(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer, refusal: int
) -> None:
    oauth = credentials(issuer)
    await client.send(call(peer, oauth))
    peer.answers["heartbeat"] = [refusal]
    assert await client.send(call(peer, oauth)) == Answer(204)
    assert presented(peer) == ["Bearer access-1", "Bearer access-1", "Bearer access-2"]
    assert len({heard.headers["x-request-id"] for heard in peer.heard}) == 1


async def test_a_peer_that_refuses_every_token_costs_no_token_requests(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer
) -> None:
    oauth = credentials(issuer)
    peer.answers["heartbeat"] = [403] * 5
    for _ in range(5):
        assert (await client.send(call(peer, oauth))).verdict is Verdict.REFUSED
    assert len(issuer.requests) == 1


async def test_other_credentials_of_a_peer_get_another_token(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer
) -> None:
    await client.send(call(peer, credentials(issuer)))
    issuer.client = ("client-123", "rotated")
    await client.send(call(peer, credentials(issuer, client_secret="rotated", scope="a b")))
    assert presented(peer) == ["Bearer access-1", "Bearer access-2"]
    assert issuer.requests[1][2] == {"grant_type": "client_credentials", "scope": "a b"}


async def test_extra_headers_go_with_the_token_request_too_and_replace_nothing_of_ours(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer
) -> None:
    extra = {"x-api-key": "k-1", "authorization": "Basic b3RoZXI=", "accept": "text/html"}
    oauth = credentials(issuer, headers=tuple(extra.items()))
    answer = await client.send(call(peer, oauth, headers={**extra, "content-type": "text/plain"}))
    assert answer == Answer(204)
    client_is, headers, _ = issuer.requests[0]
    assert (client_is, headers["x-api-key"]) == ("client-123:Secret.123", "k-1")
    assert headers["accept"] == "application/json"
    heard = peer.heard[0].headers
    assert (heard["x-api-key"], heard["authorization"]) == ("k-1", "Bearer access-1")
    assert heard["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((401, {"error": "invalid_client"}), "401 invalid_client"),
        ((500, "Traceback Secret.123"), "500"),
        ((302, ""), "302"),
        ((200, "not json"), "200"),
        ((200, []), "200"),
        ((200, {"access_token": "t", "token_type": "mac"}), "200"),
        ((200, {"access_token": "two\r\nlines", "token_type": "Bearer"}), "200"),
        ((200, {"access_token": "", "token_type": "Bearer"}), "200"),
        ((200, {"access_token": "x" * 20_000}), "200"),
        ((200, {"padding": "x" * 300_000}), "too long"),
    ],
)
async def test_without_a_token_the_message_waits_and_says_why(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer, answer: Any, told: str
) -> None:
    issuer.answers = [answer]
    oauth = credentials(issuer)
    refused = await client.send(call(peer, oauth))
    assert refused.status is None and refused.verdict is Verdict.LATER
    assert refused.detail is not None and told in refused.detail and "\n" not in refused.detail
    assert "Secret.123" not in refused.detail and peer.heard == []
    assert await client.send(call(peer, oauth)) == Answer(204)


@pytest.mark.parametrize("expires_in", [None, "3600", 3600.5, "soon", -1, [], True, 1e300])
async def test_a_life_that_is_told_strangely_does_no_harm(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer, expires_in: Any
) -> None:
    issuer.answers = [(200, {"access_token": "odd", "expires_in": expires_in})]
    assert await client.send(call(peer, credentials(issuer))) == Answer(204)
    assert presented(peer) == ["Bearer odd"]


@pytest.mark.parametrize(
    "token_url",
    ["http://169.254.169.254/token", "http://10.0.0.1/token?x=1", "http://2852039166/", "ftp://x/"],
)
async def test_a_token_endpoint_may_not_be_inside(
    client: PeerClient, peer: RecordingPeer, issuer: Issuer, token_url: str
) -> None:
    answer = await client.send(call(peer, credentials(issuer, token_url=token_url)))
    assert answer.status is None and answer.detail is not None
    assert "not allowed" in answer.detail or "expected an absolute" in answer.detail
    assert peer.heard == []


async def test_a_token_endpoint_that_hangs_ends_with_the_message(peer: RecordingPeer) -> None:
    async with _silent_server() as url:
        client = PeerClient(LOCAL, longest_s=0.3)
        await client.open()
        oauth = ClientCredentials(token_url=url, client_id="c", client_secret="s")
        started_s = time.monotonic()
        answers = await asyncio.gather(*(client.send(call(peer, oauth)) for _ in range(5)))
        assert {answer.detail for answer in answers} == {"no answer in time"}
        assert time.monotonic() - started_s < 2
        await client.close()


class _silent_server:
    async def __aenter__(self) -> str:
        self._open: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(
            lambda _, writer: self._open.append(writer), "127.0.0.1", 0
        )
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/token"

    async def __aexit__(self, *_: object) -> None:
        for writer in self._open:
            writer.close()
        self._server.close()


# Inbound.

RSA, EC = rsa_key("rsa-1"), ec_key("ec-1")


@pytest.fixture
async def judge(issuer: Issuer) -> AsyncIterator[auth.Issuer]:
    issuer.keys = [RSA, EC]
    async for judge in _judge(issuer):
        yield judge


async def _judge(
    issuer: Issuer, pause_s: float = 0.0, **settings: Any
) -> AsyncIterator[auth.Issuer]:
    config = Oscp(jwt_issuer=issuer.url, **settings)
    judge = auth.Issuer(config, pause_s=pause_s)
    await judge.open(tls.of_issuers(config))
    yield judge
    await judge.close()


def now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (RSA, "PS256"), (EC, "ES256")])
async def test_a_token_of_the_issuer_names_its_subject(
    issuer: Issuer, judge: auth.Issuer, key: Any, alg: str
) -> None:
    names = await judge.subjects(issuer.signs(key, alg), now=now())
    assert names == (f"{issuer.url}/lines-co",)
    with_client = issuer.signs(key, alg, client_id="client-123")
    assert await judge.subjects(with_client, now=now()) == (*names, "client-123")
    assert await judge.subjects(issuer.signs(sub=None), now=now()) == ()
    assert issuer.key_requests == 1


async def test_time_has_a_leeway_and_no_more(issuer: Issuer, judge: auth.Issuer) -> None:
    at = int(time.time())
    for claims in ({"exp": at - 20}, {"nbf": at + 20}, {"iat": at + 20}):
        assert await judge.subjects(issuer.signs(**claims), now=now())
    for claims in ({"exp": at - 40}, {"nbf": at + 40}, {"iat": at + 40}):
        with pytest.raises(Forbidden, match="not valid"):
            await judge.subjects(issuer.signs(**claims), now=now())
    with pytest.raises(Forbidden):
        await judge.subjects(issuer.signs(), now=now() + timedelta(hours=1))


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": "tomorrow"},
        {"iss": None},
        {"iss": "https://other.example.org"},
        {"sub": 7},
    ],
)
async def test_a_token_with_other_claims_proves_nothing(
    issuer: Issuer, judge: auth.Issuer, claims: dict[str, Any]
) -> None:
    with pytest.raises(Forbidden, match="the bearer token is not valid"):
        await judge.subjects(issuer.signs(**claims), now=now())


async def test_the_audience_is_judged_when_one_is_configured(issuer: Issuer) -> None:
    issuer.keys = [RSA]
    async for judge in _judge(issuer, jwt_audience="fpd"):
        assert await judge.subjects(issuer.signs(aud="fpd"), now=now())
        assert await judge.subjects(issuer.signs(aud=["other", "fpd"]), now=now())
        for wrong in (None, "other", ["other"], ["fpd-2"]):
            with pytest.raises(Forbidden, match="aud"):
                await judge.subjects(issuer.signs(aud=wrong), now=now())


async def test_only_allowed_signatures_count(issuer: Issuer, judge: auth.Issuer) -> None:
    with pytest.raises(Forbidden):
        await judge.subjects(issuer.signs(RSA, "RS512"), now=now())
    async for strict in _judge(issuer, jwt_algorithms=("ES256",)):
        assert await strict.subjects(issuer.signs(EC, "ES256"), now=now())
        with pytest.raises(Forbidden):
            await strict.subjects(issuer.signs(RSA), now=now())


async def test_forged_tokens_prove_nothing(issuer: Issuer, judge: auth.Issuer) -> None:
    stranger = rsa_key("rsa-1")  # same name, other key
    good = issuer.signs()
    header, claims, signature = good.split(".")
    hmac_head = f"{_part(alg='HS256', kid='rsa-1')}.{claims}"
    public = RSA.as_pem(private=False)  # as if it were a shared secret
    forged = [
        issuer.signs(stranger),
        f"{hmac_head}.{_base64(hmac.digest(public, hmac_head.encode(), 'sha256'))}",
        f"{_part(alg='none')}.{claims}.",
        f"{_part(alg='none', kid='rsa-1')}.{claims}.{signature}",
        f"{_part(alg='RS256', kid='ec-1')}.{claims}.{signature}",
        f"{_part(alg='RS256', jwk=stranger.as_dict(private=False))}.{claims}.{signature}",
        f"{_part(alg=['RS256'], kid='rsa-1')}.{claims}.{signature}",
        f"{_part(alg='RS256', kid={'a': 1})}.{claims}.{signature}",
        f"{header}.{_part(sub='other', iss=issuer.url)}.{signature}",
        f"{header}.{claims}",
        f"{header}.{claims}.{signature}.{signature}",
        good + "x",
    ]
    for token in forged:
        with pytest.raises(Forbidden) as refusal:
            await judge.subjects(token, now=now())
        assert token[:20] not in str(refusal.value)
    assert await judge.subjects(good, now=now())


def _part(**values: Any) -> str:
    return _base64(json.dumps(values).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def test_keys_rotate(issuer: Issuer, judge: auth.Issuer) -> None:
    old = issuer.signs()
    assert await judge.subjects(old, now=now())
    issuer.keys = [rsa_key("rsa-2")]
    assert await judge.subjects(issuer.signs(), now=now())
    with pytest.raises(Forbidden, match="unknown key"):
        await judge.subjects(old, now=now())


async def test_unknown_keys_do_not_make_us_ask_without_end(issuer: Issuer) -> None:
    issuer.keys = [RSA]
    async for judge in _judge(issuer, pause_s=60):
        good, strange = issuer.signs(), issuer.signs(rsa_key("strange"))
        assert await judge.subjects(good, now=now())
        for _ in range(10):
            with pytest.raises(Forbidden, match="unknown key"):
                await judge.subjects(strange, now=now())
        assert issuer.key_requests == 1


async def test_many_at_once_ask_once(issuer: Issuer) -> None:
    issuer.keys = [RSA]
    async for judge in _judge(issuer, pause_s=60):
        tokens = [judge.subjects(issuer.signs(), now=now()) for _ in range(10)]
        assert len(set(await asyncio.gather(*tokens))) == 1
        assert issuer.key_requests == 1


async def test_an_issuer_that_is_away_is_told_from_a_bad_token(issuer: Issuer) -> None:
    issuer.keys, issuer.down = [RSA], True
    async for judge in _judge(issuer):
        token = issuer.signs()
        with pytest.raises(Unavailable):
            await judge.subjects(token, now=now())
        issuer.down = False
        assert await judge.subjects(token, now=now())
        issuer.down = True
        assert await judge.subjects(token, now=now())
        with pytest.raises(Forbidden):
            await judge.subjects(issuer.signs(rsa_key("strange")), now=now())


async def test_keys_that_are_no_use_do_not_spoil_the_others(issuer: Issuer) -> None:
    given: list[Any] = [{"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}, {"kty": "RSA"}, 7, {}]
    given += KeySet([RSA]).as_dict(private=False)["keys"]
    assert [key.kid for key in auth._key_set({"keys": given})] == ["rsa-1"]
    for useless in (None, [], {}, {"keys": None}, {"keys": {}}):
        assert not auth._key_set(useless)


def test_any_text_in_place_of_a_token_is_forbidden() -> None:
    judge = auth.Issuer(Oscp(jwt_issuer="https://auth.example.org"))
    keys = KeySet([RSA])
    headers = st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["alg", "kid"]), inner),
    )
    parts = headers.map(lambda value: _base64(json.dumps(value).encode())) | st.text(max_size=20)

    @given(st.lists(parts, min_size=1, max_size=4).map(".".join))
    def judged(token: str) -> None:
        with pytest.raises(Forbidden):
            try:
                judge._claims(token, keys, now())
            except auth.InvalidKeyIdError:
                raise Forbidden("unknown key") from None

    judged()
