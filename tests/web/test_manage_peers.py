"""Providers and optimizers: first tokens, secrets, and the state of the link."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from support.management import OSCP, Management, User, make_group, management

from fpd.config import Oscp
from fpd.flows import registration
from fpd.store import senders
from fpd.store.service_props import join_secrets

OAUTH = {
    "oauth-token-url": "https://auth.example.com/oauth2/token",
    "oauth-client-id": "client-123",
    "oauth-client-secret": "Secret.123",
}
PATH = "capacity-providers/1"


@pytest.fixture
async def api(database_url: str, clock: Callable[[], datetime]) -> AsyncIterator[Management]:
    async with management(database_url, clock) as api:
        yield api


@pytest.fixture
async def user(api: Management) -> User:
    return await api.user()


async def make(user: User, **changes: Any) -> Any:
    return (await user("POST", "capacity-providers", {"name": "Lines Co.", **changes})).data


async def put(user: User, **changes: Any) -> Any:
    return (await user("PUT", PATH, {"name": "Lines Co.", **changes})).data


async def full(api: Management) -> dict[str, Any]:
    """Return the service properties as they are used to speak to the peer."""
    ((props, sealed),) = await api.rows("select service_props, secrets_sealed from peer")
    return join_secrets(props, sealed, api.context.vault)


async def owner(api: Management, token: str) -> int:
    """Return whose token this is to the protocol's door."""
    digest = registration.sha256(token)
    async with api.context.db.connection() as conn:
        now = api.context.clock()
        found = await senders.find_by_tokens(conn, sha256s=[digest], now=now)
    return found[digest].peer_id


async def test_the_first_token_lets_the_peer_in_and_is_stored_as_a_hash(
    api: Management, user: User
) -> None:
    peer = await make(user, enabled=True)
    assert await owner(api, peer["token"]) == peer["configId"]
    tokens = await api.rows("select peer_id, state, valid_until, sha256 from peer_token")
    assert tokens == [(1, "current", None, registration.sha256(peer["token"]))]
    updated = await put(user, enabled=True)
    assert "token" not in updated
    assert "token" not in (await user("GET", "capacity-providers")).data[0]
    assert await owner(api, peer["token"]) == peer["configId"]


async def test_tokens_of_two_peers_differ(user: User) -> None:
    assert (await make(user))["token"] != (await make(user))["token"]


async def test_no_secret_lies_open_in_the_database(api: Management, user: User) -> None:
    headers = {"x-api-key": "2j9TZbnC5luyNlSj1ZsT", "X-Auth-Thing": "geheim", "x-site": "north"}
    await make(user, serviceProps={**OAUTH, "http-headers": headers})
    stored = str(await api.rows("select peer::text from peer"))
    assert "north" in stored and "client-123" in stored
    for secret in ("Secret.123", "2j9TZbnC5luyNlSj1ZsT", "geheim"):
        assert secret not in stored
    assert await full(api) == {**OAUTH, "http-headers": headers}


async def test_service_properties_keep_their_order_and_their_kind(user: User) -> None:
    props = {
        "zeta": [1, 2.5, {"b": None, "a": True}],
        "alpha": "Ω",
        "http-headers": {"x-zulu": 5, "x-alpha": True, "x-none": None, "x-pi": 3.14},
    }
    shown = (await make(user, serviceProps=props))["serviceProps"]
    assert list(shown) == ["zeta", "alpha", "http-headers"]
    assert shown["zeta"] == props["zeta"]
    assert list(shown["zeta"][2]) == ["b", "a"]
    assert shown["http-headers"] == {"x-zulu": "5", "x-alpha": "true", "x-pi": "3.14"}
    assert list(shown["http-headers"]) == ["x-zulu", "x-alpha", "x-pi"]


async def test_a_client_secret_stays_until_it_is_taken_back(api: Management, user: User) -> None:
    await make(user, serviceProps=OAUTH)
    shown = {name: value for name, value in OAUTH.items() if "secret" not in name}
    assert (await put(user, serviceProps=shown))["serviceProps"] == shown
    assert await full(api) == OAUTH
    await put(user, serviceProps={**shown, "oauth-client-secret": "New"})
    assert (await full(api))["oauth-client-secret"] == "New"
    await put(user, serviceProps={**shown, "oauth-client-secret": None})
    assert await full(api) == shown
    await put(user, serviceProps=OAUTH)
    await put(user, serviceProps={"oauth-token-url": OAUTH["oauth-token-url"]})
    assert "oauth-client-secret" not in await full(api), "the client id is gone"


async def test_leaving_out_service_properties_deletes_all(api: Management, user: User) -> None:
    for without in ({}, {"serviceProps": None}, {"serviceProps": {}}):
        await make(user) if without == {} else None
        await put(user, serviceProps={**OAUTH, "http-headers": {"x-api-key": "k"}})
        assert "serviceProps" not in await put(user, **without)
        assert await api.rows("select secrets_sealed from peer") == [(None,)]


async def test_a_masked_header_keeps_its_value(api: Management, user: User) -> None:
    headers = {"X-Api-Key": "first", "Cookie": "c", "x-site": "north"}
    made = await make(user, serviceProps={"http-headers": headers})
    masked = {"X-Api-Key": "***", "Cookie": "***", "x-site": "north"}
    assert made["serviceProps"]["http-headers"] == masked
    await put(user, serviceProps=made["serviceProps"])
    assert (await full(api))["http-headers"] == headers
    await put(user, serviceProps={"http-headers": {"x-api-key": "***", "x-site": "***"}})
    kept = {"x-api-key": "first", "x-site": "***"}
    assert (await full(api))["http-headers"] == kept, "names have no case; x-site is no secret"
    await put(user, serviceProps={"http-headers": {"x-api-key": "second"}})
    assert (await full(api))["http-headers"] == {"x-api-key": "second"}


@pytest.mark.parametrize(
    ("props", "location"),
    [
        ({"http-headers": {"x-api-key": "***"}}, "http-headers"),
        ({"http-headers": {"x-a": "1", "X-A": "2"}}, "http-headers"),
        ({"http-headers": {"x-a": "1\r\nHost: evil"}}, "http-headers"),
        ({"http-headers": {"x a": "1"}}, "http-headers"),
        ({"http-headers": {"": "1"}}, "http-headers"),
        ({"http-headers": {"Content-Length": "1"}}, "http-headers"),
        ({"http-headers": {"host": "evil"}}, "http-headers"),
        ({"http-headers": {"x-a": {}}}, "http-headers"),
        ({"http-headers": ["x-a"]}, "http-headers"),
        ({"url-paths": {"Heartbeat": "hb"}}, "url-paths"),
        ({"url-paths": {"Heartbeat": ".evil.example.com/"}}, "url-paths"),
        ({"url-paths": {"Heartbeat": "/h b"}}, "url-paths"),
        ({"url-paths": {"Hartbeat": "/hb"}}, "url-paths"),
        ({"oauth-token-url": "http://169.254.169.254/latest"}, "oauth-token-url"),
        ({"oauth-token-url": "ftp://auth.example.com"}, "oauth-token-url"),
        ({"oauth-token-url": "https://auth.example.com/#x"}, "oauth-token-url"),
        ({"oauth-client-id": 5}, "oauth-client-id"),
        ({"oauth-client-secret": ""}, "oauth-client-secret"),
        ({"x": "\ud800"}, "x"),
        ({"x": ["\0"]}, "x"),
        ({"x": {"\0": 1}}, "x"),
        ({"x": 2**63}, "x"),
        ({"x": [[[[[[[[[]]]]]]]]]}, "x"),
    ],
)
async def test_service_properties_that_cannot_be_used(
    user: User, props: dict[str, Any], location: str
) -> None:
    answer = await user("POST", "capacity-providers", {"name": "Lines Co.", "serviceProps": props})
    assert (answer.status, list(answer.faults)) == (422, [f"serviceProps.{location}"])


async def test_service_properties_are_bounded(user: User) -> None:
    body = {"name": "Lines Co.", "serviceProps": {"x": "y" * 70_000}}
    answer = await user("POST", "capacity-providers", body)
    assert (answer.status, list(answer.faults)) == (422, ["serviceProps"])


async def test_a_token_url_is_kept_as_it_is(user: User) -> None:
    url = "https://login.example.com/Tenant/token/?p=Policy"
    made = await make(user, serviceProps={"oauth-token-url": url})
    assert made["serviceProps"]["oauth-token-url"] == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "oscp.example.com",
        "ftp://oscp.example.com",
        "https://",
        "https://user:pass@oscp.example.com",
        "https://oscp.example.com/#x",
        "https://oscp.example.com/?x=1",
        "https://oscp.example.com:99999",
        "http://10.0.0.1/oscp",
        "http://[::1]/oscp",
        "http://169.254.169.254/latest/meta-data",
        "http://0x0a000001/",
        "https://oscp.example.com/\ud800",
        "https://oscp.example.com/" + "x" * 256,
        "https://[::1",
        "javascript:alert(1)",
        7,
        ["https://oscp.example.com"],
    ],
)
async def test_a_base_url_where_no_peer_may_live(user: User, url: Any) -> None:
    answer = await user("POST", "capacity-providers", {"name": "Lines Co.", "baseUrl": url})
    assert (answer.status, list(answer.faults)) == (422, ["baseUrl"]), answer.text


async def test_allowed_networks_and_plain_http_are_the_operator_s_choice(
    database_url: str, clock: Callable[[], datetime]
) -> None:
    assert OSCP.allowed_networks and not OSCP.require_https
    for oscp, status in ((OSCP, 201), (Oscp(), 422)):
        async with management(database_url, clock, oscp=oscp) as api:
            body = {"name": "Lines Co.", "baseUrl": "http://127.0.0.1:9000/oscp"}
            assert (await (await api.user())("POST", "capacity-providers", body)).status == status


async def link(api: Management) -> str:
    ((state,),) = await api.rows("select link from peer where id = 1")
    return str(state)


@pytest.mark.parametrize(
    ("said", "link_is"),
    [("Registered", "registered"), ("f", "failed"), ("pending", "provisioned")],
)
async def test_the_status_may_be_given_when_the_peer_is_made(
    api: Management, user: User, said: str, link_is: str
) -> None:
    made = await make(user, registrationStatus=said)
    assert made["registrationStatus"][0].lower() == said[0].lower()
    assert await link(api) == link_is


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        ("online", None, "online"),
        ("online", "Registered", "online"),
        ("offline", "Registered", "offline"),
        ("online", "Failed", "failed"),
        ("online", "Pending", "provisioned"),
        ("registering", "Pending", "registering"),
        ("unregistered", "Pending", "unregistered"),
        ("failed", None, "failed"),
        ("failed", "Registered", "registered"),
        ("registering", "Registered", "registered"),
    ],
)
async def test_the_link_moves_only_when_its_status_does(
    api: Management, user: User, before: str, said: str | None, after: str
) -> None:
    await make(user, baseUrl="https://oscp.example.com")
    changed_at = await api.rows("update peer set link = %s returning link_changed_at", before)
    await put(user, registrationStatus=said, baseUrl="https://new.example.com", enabled=True)
    assert await link(api) == after
    moved = await api.rows("select link_changed_at from peer") != changed_at
    told = await api.rows("select kind, data from event")
    assert moved == (before != after)
    assert told == ([("peer.link_set", {"link": after})] if moved else [])


async def test_a_status_that_is_none(user: User) -> None:
    body = {"name": "Lines Co.", "registrationStatus": "online"}
    answer = await user("POST", "capacity-providers", body)
    assert (answer.status, list(answer.faults)) == (422, ["registrationStatus"])


async def test_an_optimizer_registered_by_hand_is_shaken_hands_with(
    api: Management, user: User
) -> None:
    group = await make_group(user)
    path = f"capacity-optimizers/{group['capacityOptimizerId']}"
    waiting = "select id from peer where handshake_due_at is not null"
    assert await api.rows(waiting) == []
    await user("PUT", path, {"name": "Optimizer Co.", "registrationStatus": "Registered"})
    assert await api.rows(waiting) == [(group["capacityOptimizerId"],)]


async def test_a_first_token_is_gone_with_its_peer(api: Management, user: User) -> None:
    await make(user)
    assert (await user("DELETE", PATH)).status == 200
    assert await api.rows("select 1 from peer_token") == []
