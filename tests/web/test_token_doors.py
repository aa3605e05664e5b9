"""Tokens by HTTP: an administrator makes and revokes everybody's, and nobody else does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.signing import Request
from web.lookout import NOON, Lookout, lookout

from fpd.store import accounts
from fpd.web.manage import PREFIX

TOKENS = "/api/v1/tokens"
JSON = "application/json"


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        yield look


async def made(look: Lookout, user_id: int = 1, *, admin: bool = True) -> accounts.NewToken:
    async with look.context.db.transaction() as conn:
        return await accounts.create_token(
            conn, user_id=user_id, name="test", admin=admin, vault=look.context.vault, now=NOON
        )


async def ask(
    look: Lookout, bearer: str, method: str = "GET", path: str = "", body: Any = None
) -> tuple[int, Any]:
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": JSON}
    async with look.client.request(method, TOKENS + path, data=raw, headers=headers) as answer:
        if answer.status == 201:
            said = await answer.json()
            assert answer.headers["Location"] == f"{TOKENS}/{said['data']['id']}"
            assert answer.headers["Cache-Control"] == "no-store"
            return 201, said
        return answer.status, await answer.json()


async def manages(look: Lookout, bearer: str) -> int:
    return (await look.get(f"{PREFIX}/settings", Authorization=f"Bearer {bearer}"))[0]


async def test_the_life_of_a_token_of_another_user(look: Lookout) -> None:
    admin = await made(look)
    status, said = await ask(look, admin.bearer, "POST", "", {"userId": 7, "name": "grafana"})
    token = said["data"]
    assert status == 201
    assert list(token) == ["userId", "id", "name", "admin", "secret", "bearer"]
    assert (token["userId"], token["name"], token["admin"]) == (7, "grafana", False)
    assert await manages(look, token["bearer"]) == 200
    assert (await ask(look, token["bearer"]))[0] == 403, "it is no administrator's"

    _, listed = await ask(look, admin.bearer, path="?user=7")
    shown = {
        "userId": 7, "id": token["id"], "name": "grafana", "admin": False,
        "created": "2026-03-12T12:00:00.000Z", "lastUsed": "2026-03-12T12:00:00.000Z",
        "revoked": None,
    }  # fmt: skip
    assert listed["data"] == [shown]
    assert await ask(look, admin.bearer, path=f"/{token['id']}") == (200, {**listed, "data": shown})

    revoked = {**shown, "revoked": "2026-03-12T12:00:00.000Z"}
    for _ in range(2):
        status, said = await ask(look, admin.bearer, "DELETE", f"/{token['id']}")
        assert (status, said["data"]) == (200, revoked)
    assert await manages(look, token["bearer"]) == 401, "at once"
    told = await look.sql("select kind, user_id, data from event order by id")
    data = {"token": token["id"], "user": 7, "by": admin.id}
    assert told == [("token.created", 1, data), ("token.revoked", 1, data)]


async def test_secrets_are_shown_once_and_kept_sealed(look: Lookout) -> None:
    admin = await made(look)
    _, said = await ask(look, admin.bearer, "POST", "", {"userId": 7})
    token = said["data"]
    _, listed = await ask(look, admin.bearer)
    assert {one["id"] for one in listed["data"]} == {admin.id, token["id"]}
    for secret in (token["secret"], admin.secret):
        assert secret not in json.dumps(listed)
        rows = await look.sql(
            "select a::text, e::text from access_token a left join event e on true"
        )
        assert secret not in str(rows)


async def test_an_administrator_makes_another_and_may_be_revoked_by_it(look: Lookout) -> None:
    first = await made(look)
    _, said = await ask(look, first.bearer, "POST", "", {"userId": 2, "admin": True})
    second = said["data"]["bearer"]
    assert (await ask(look, second, "DELETE", f"/{first.id}"))[0] == 200
    assert (await ask(look, first.bearer))[0] == 401
    assert len((await ask(look, second))[1]["data"]) == 2


async def test_a_signed_request_may_do_the_same(look: Lookout) -> None:
    admin, other = await made(look), await made(look, admin=False)
    host = f"127.0.0.1:{look.client.port}"
    for token, status in ((admin, 201), (other, 403)):
        asks = Request(
            token_id=token.id, secret=token.secret, at=NOON, host=host, path=TOKENS,
            method="POST", body=b'{"userId": 3}', headers={"Content-Type": JSON},
        )  # fmt: skip
        async with look.client.post(TOKENS, data=asks.body, headers=asks.sent_headers()) as answer:
            assert answer.status == status, await answer.text()


async def test_who_is_no_administrator_learns_nothing(look: Lookout) -> None:
    user, victim = await made(look, admin=False), await made(look, 2)
    for method, path, body in (
        ("GET", "", None),
        ("POST", "", {"userId": 1, "admin": True}),
        ("POST", "", b"nonsense"),
        ("GET", f"/{victim.id}", None),
        ("DELETE", f"/{victim.id}", None),
        ("DELETE", "/nonsense", None),
    ):
        status, said = await ask(look, user.bearer, method, path, body)
        assert (status, list(said)) == (403, ["message"]), (method, path)
        assert (await ask(look, "wrong", method, path, body))[0] == 401
    assert await manages(look, victim.bearer) == 200


async def test_guessers_are_slowed_down(look: Lookout) -> None:
    admin = await made(look)
    statuses = [(await ask(look, "guess"))[0] for _ in range(31)]
    assert statuses == [401] * 30 + [429]
    assert (await ask(look, admin.bearer))[0] == 200


async def test_the_pages_of_the_list(look: Lookout) -> None:
    tokens = [await made(look, user_id) for user_id in (1, 2, 3)]
    _, said = await ask(look, tokens[0].bearer, path="?max=1&offset=1")
    assert [one["id"] for one in said["data"]] == [tokens[1].id]


async def test_a_token_that_cannot_be_meant(look: Lookout) -> None:
    admin = await made(look)
    for body in (
        b"", b"{", [], {}, {"userId": 0}, {"userId": -1}, {"userId": 2**63}, {"userId": 1e30},
        {"userId": "1"}, {"userId": True}, {"userId": 1, "name": "x" * 256},
        {"userId": 1, "name": "\0"}, {"userId": 1, "name": "\ud800"}, {"userId": 1, "admin": 1},
        {"userId": 1, "secret": "mine"}, b'{"userId": 1, "userId": 2}', b"[" * 5000, b"\xff",
    ):  # fmt: skip
        status, said = await ask(look, admin.bearer, "POST", "", body)
        assert (status, list(said)) == (400, ["message"]), body
    assert len((await ask(look, admin.bearer))[1]["data"]) == 1


async def test_what_is_not_there(look: Lookout) -> None:
    admin = await made(look)
    for method, path, status in (
        *(("GET", f"?{query}", 400) for query in ("max=0", "offset=-1", "user=x", "colour=1")),
        *((method, f"/{id}", 404) for method in ("GET", "DELETE") for id in ("x", "%00", "é" * 20)),
        ("GET", "/" + "x" * 20, 404),
        ("PUT", "", 405),
        ("PATCH", "/x", 405),
    ):
        assert (await ask(look, admin.bearer, method, path))[0] == status, (method, path)
