"""Creates share what they cost, and each is judged as if it had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import pytest
from support.management import Answer, Management, User, asset_body, group_body, make_group
from support.management import management as manage_on

from fpd.config import Http
from fpd.flows.manage import creating
from fpd.store import accounts, additions
from fpd.web.credentials import BEARERS


@pytest.fixture
async def api(database_url: str, clock: Callable[[], datetime]) -> AsyncIterator[Management]:
    async with manage_on(database_url, clock, http=Http(max_body_mb=0.1)) as api:
        yield api


@pytest.fixture
async def elsewhere(database_url: str, clock: Callable[[], datetime]) -> AsyncIterator[Management]:
    """The doors of another daemon on the same database."""
    async with manage_on(database_url, clock, http=Http(failed_auth_per_min=3)) as api:
        yield api


@pytest.fixture
async def user(api: Management) -> User:
    return await api.user()


async def revoke(api: Management, user: User) -> None:
    async with api.context.db.transaction() as conn:
        id = user.bearer.partition(".")[0]
        assert await accounts.revoke_token(conn, id=id, now=api.context.clock())


async def count(api: Management, table: str) -> int:
    return int((await api.rows(f"select count(*) from {table}"))[0][0])


PEER = {"name": "Lines Co."}


async def test_a_revoked_token_creates_nothing_though_it_was_good_a_moment_ago(
    api: Management, elsewhere: Management, user: User
) -> None:
    there = elsewhere.nobody(user.bearer)
    for door in (user, there, user, there):
        assert (await door("POST", "capacity-providers", PEER)).status == 201
    await revoke(elsewhere, user)
    for door in (user, there):
        answer = await door("POST", "capacity-providers", PEER)
        assert (answer.status, answer.body["code"]) == (401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"] == "Bearer, SNWS2"
    assert await count(api, "peer") == await count(api, "peer_token") == 4
    for door in (user, there):
        assert (await door("POST", "capacity-providers", PEER)).status == 401, "and again"


@pytest.mark.parametrize(
    "body", [b"{", b'{"a": 1, "a": 2}', {}, {"name": "x" * 65}, b"x" * 200_000]
)
async def test_whoever_has_no_valid_token_hears_of_nothing_else(
    api: Management, user: User, body: Any
) -> None:
    assert (await user("POST", "capacity-providers", PEER)).status == 201
    before = await user("POST", "capacity-groups", body)
    assert before.status in (400, 413, 422)
    await revoke(api, user)
    assert (await user("POST", "capacity-groups", body)).status == 401
    taken = await user("POST", "capacity-groups", group_body(77))
    assert (taken.status, taken.faults) == (401, {})


async def test_the_failures_of_a_remembered_token_count_like_others(elsewhere: Management) -> None:
    user = await elsewhere.user()
    assert (await user("POST", "capacity-providers", PEER)).status == 201
    await revoke(elsewhere, user)
    said = [(await user("POST", "capacity-providers", PEER)).status for _ in range(5)]
    assert said == [401, 401, 401, 429, 429]


async def test_a_remembered_token_has_its_rate(
    database_url: str, clock: Callable[[], datetime]
) -> None:
    http = Http(rate_per_token_s=0.001, rate_burst=3)
    async with manage_on(database_url, clock, http=http) as api:
        user = await api.user()
        answers = [await user("POST", "capacity-providers", PEER) for _ in range(4)]
        assert [answer.status for answer in answers] == [201, 201, 201, 429]
        await revoke(api, user)
        assert (await user("POST", "capacity-providers", PEER)).status == 401
        assert await count(api, "peer") == 3


async def test_a_token_revoked_while_its_create_waits(
    api: Management, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between being presumed and being judged: the statement itself has the last word."""
    assert (await user("POST", "capacity-providers", PEER)).status == 201
    draft = creating.draft

    async def revoked_meanwhile(*args: Any, **kwargs: Any) -> Any:
        found = await draft(*args, **kwargs)
        await revoke(api, user)
        return found

    monkeypatch.setattr(creating, "draft", revoked_meanwhile)
    assert (await user("POST", "capacity-providers", PEER)).status == 401
    assert await count(api, "peer") == 1


async def together(*asked: Any) -> list[Answer]:
    return list(await asyncio.gather(*asked))


async def test_many_at_once_share_a_transaction_and_are_judged_one_by_one(
    api: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_AT_ONCE", 0)
    mine, other, gone = await api.user(), await api.user(2), await api.user(3)
    group = (await make_group(mine))["configId"]
    assert (await gone("POST", "capacity-providers", PEER)).status == 201
    await revoke(api, gone)
    good = [mine("POST", "assets", asset_body(group, identifier=f"a{n}")) for n in range(20)]
    url = {"baseUrl": "http://127.0.0.1/oscp"}
    answers = await together(
        *good,
        mine("POST", "assets", asset_body(group, identifier="a3")),
        other("POST", "assets", asset_body(group)),
        gone("POST", "assets", asset_body(group)),
        gone("POST", "capacity-providers", PEER),
        mine("POST", "capacity-providers", PEER | url),
        mine("POST", "capacity-providers", PEER | url),
        other("POST", "capacity-providers", PEER | url),
        mine("POST", "capacity-optimizers", PEER | {"registrationStatus": "Registered"}),
    )
    made, others = answers[:20], answers[20:]
    same = [answer for answer in (*made, others[0]) if answer.status == 409]
    assert len(same) == 1 and same[0].faults == {"identifier": "is taken"}
    assert [answer.status for answer in others[1:4]] == [422, 401, 401]
    assert others[1].faults == {"capacityGroupId": f"there is no capacity group {group}"}
    peers = sorted(answer.status for answer in others[4:6])
    assert peers == [201, 409] and others[6].status == others[7].status == 201
    transactions = await api.rows(
        "select count(distinct xmin::text), count(*), count(distinct identifier) from asset"
    )
    assert transactions[0][0] < 20 and transactions[0][1:] == (20, 20)
    assert sorted(row[0] for row in await api.rows("select user_id from peer")) == [
        1,
        1,
        1,
        1,
        2,
        3,
    ]
    for answer in others[4:8]:
        if answer.status == 201:
            token = accounts.sha256(answer.data["token"])
            found = await api.rows("select peer_id from peer_token where sha256 = %s", token)
            assert found == [(answer.data["configId"],)]
    assert {answer.data["identifier"] for answer in made if answer.status == 201} | {"a3"} == {
        f"a{n}" for n in range(20)
    }


async def test_one_that_the_database_cannot_take_spoils_nothing_for_the_others(
    api: Management, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_AT_ONCE", 0)
    group = (await make_group(user))["configId"]
    statement = additions.New.statement

    def poisoned(new: additions.New, *, forgiving: bool) -> Any:
        said, parameters = statement(new, forgiving=forgiving)
        if new.values.get("identifier") == "bad":
            parameters = {**parameters, "node_id": 2**80}
        return said, parameters

    monkeypatch.setattr(additions.New, "statement", poisoned)
    names = ["a", "b", "bad", "c", "d"]
    answers = await together(
        *(user("POST", "assets", asset_body(group, identifier=name)) for name in names)
    )
    assert [answer.status for answer in answers] == [201, 201, 500, 201, 201]
    assert [row[0] for row in await api.rows("select identifier from asset order by 1")] == [
        "a", "b", "c", "d",
    ]  # fmt: skip


async def test_who_waits_for_somebody_s_lock_holds_up_no_others(
    api: Management, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_AT_ONCE", 0)
    group = (await make_group(user))["configId"]
    other = await api.user(2)
    async with api.context.db.transaction() as conn:
        await conn.execute("select from capacity_group where id = %s for update", (group,))
        waiting = asyncio.create_task(user("POST", "assets", asset_body(group)))
        answers = await together(*(other("POST", "capacity-providers", PEER) for _ in range(5)))
        assert [answer.status for answer in answers] == [201] * 5
        assert not waiting.done()
    assert (await waiting).status == 201


async def test_control_looks_at_once_at_what_concerns_it(api: Management, user: User) -> None:
    rung = []
    api.context.bells.control = lambda: rung.append(1)
    group = (await make_group(user))["configId"]
    await user("POST", "assets", asset_body(group, identifier="a"))
    assert rung == [], "nobody is under control"
    await user("POST", "assets", asset_body(group, identifier="b", control={"device": "battery-1"}))
    assert rung == [1]
    now = api.context.clock()
    due = "values (%s, %s + interval '1 minute') returning 1"
    await api.rows(f"insert into control_due (group_id, due_at) {due}", group, now)
    await user("POST", "assets", asset_body(group, identifier="c"))
    assert rung == [1], "it has limits, but nothing to keep them with"
    await api.rows(f"insert into compliance_due (group_id, due_at) {due}", group, now)
    await user("POST", "assets", asset_body(group, identifier="d"))
    assert rung == [1, 1]
    due_at = (await api.rows("select due_at from control_due"))[0][0]
    assert now <= due_at <= api.context.clock(), "a minute earlier"


async def test_what_is_remembered_of_tokens_is_looked_up_again_in_time(
    api: Management, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    find = accounts.find_by_bearer

    async def counted(*args: Any, **kwargs: Any) -> Any:
        asked.append(1)
        return await find(*args, **kwargs)

    monkeypatch.setattr(accounts, "find_by_bearer", counted)
    bearers = api.app[BEARERS]
    times = [0.0]
    monkeypatch.setattr(bearers, "_steady", lambda: times[-1])
    for at_s in (0.0, 1.0, 9.0, 11.0, 12.0):
        times.append(at_s)
        assert (await user("POST", "capacity-providers", PEER)).status == 201
    assert len(asked) == 2
    times.append(30.0)
    await together(*(user("POST", "capacity-providers", PEER) for _ in range(8)))
    assert len(asked) == 3, "one for all"


async def test_what_may_have_been_kept_is_not_tried_again(
    api: Management, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks in the commit of many: who asked has to look."""
    monkeypatch.setattr(creating, "_AT_ONCE", 0)
    many = additions.insert_many

    async def cut(conn: Any, news: Any) -> Any:
        rows = await many(conn, news)
        conn.pgconn.finish()
        return rows

    assert (await user("POST", "capacity-providers", PEER)).status == 201
    monkeypatch.setattr(additions, "insert_many", cut)
    tries = []
    insert = additions.insert
    monkeypatch.setattr(additions, "insert", lambda *args: tries.append(1) or insert(*args))
    answers = await together(*(user("POST", "capacity-providers", PEER) for _ in range(3)))
    assert [answer.status for answer in answers] == [503] * 3
    assert tries == []
