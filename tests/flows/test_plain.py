"""A forecast has the same fate whether the database judges it in one statement or we do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from flows.linked_peers import (
    DOOR,
    OPTIMIZER,
    PROVIDER,
    Hands,
    LinkedDaemon,
    PlayedPeers,
    execute,
    fetch,
    forecast,
    furnish,
)

from fpd.errors import Unavailable
from fpd.flows import forwarding, intake
from fpd.store.db import Database


@dataclass(frozen=True)
class Said:
    body: Any
    peer: int = PROVIDER
    request_id: str = "a"
    correlation_id: str | None = None


MORNING, LATER = forecast([(0, 60, 100)]), forecast([(30, 90, 200)])
WISH = forecast([(0, 60, 50)], "OPTIMUM")
FIRST = Said(MORNING)


@dataclass(frozen=True)
class Case:
    """What is different from two peers that are online; what they say at once, then after that."""

    name: str
    given: str = ""
    said: tuple[Said, ...] = (FIRST,)
    before: tuple[Said, ...] = ()
    plain: bool = False


CASES = (
    Case("nothing", plain=True),
    Case("several", said=(FIRST, Said(LATER, request_id="b")), plain=True),
    Case("a wish", said=(Said(WISH, OPTIMIZER),), plain=True),
    Case("a provider's wish", said=(Said(WISH),), plain=True),
    Case("both peers", said=(FIRST, Said(WISH, OPTIMIZER)), plain=True),
    Case("no optimizer", "update capacity_group set optimizer_id = null", plain=True),
    Case("optimizer disabled", "update peer set enabled = false where id = 2", plain=True),
    Case("optimizer without URL", "update peer set base_url = null where id = 2", plain=True),
    Case("optimizer offline", "update peer set link = 'offline' where id = 2", plain=True),
    Case("control", "insert into control_due values (1, '2030-01-01')", plain=True),
    Case("control that is due", "insert into control_due values (1, '2020-01-01')", plain=True),
    Case("heard long ago", "update peer set last_heard_at = '2020-01-01'", plain=True),
    Case("waiting, partly covered", before=(FIRST,), said=(Said(LATER, request_id="b"),),
         plain=True),
    Case("waiting, wholly covered", before=(Said(LATER, request_id="b"),),
         said=(Said(forecast([(0, 120, 1)])),), plain=True),
    Case("datum without a node", "insert into publish_settings (user_id, created_at, modified_at)"
         " values (1, now(), now())", plain=True),
    Case("datum", "insert into publish_settings (user_id, node_id, created_at, modified_at)"
         " values (1, 5, '2026-01-01', '2026-01-01')"),
    Case("datum of the group", "insert into publish_settings (user_id, group_id, node_id,"
         " created_at, modified_at) values (1, 1, 5, '2026-01-01', '2026-01-01')"),
    Case("an answer", said=(replace(FIRST, correlation_id="x"),)),
    Case("ids kept by the provider",
         """update peer set service_props = '{"forward-request-id": true}' where id = 1"""),
    Case("ids kept by the optimizer",
         """update peer set service_props = '{"forward-request-id": true}' where id = 2"""),
    Case("ids that may come again",
         """update peer set service_props = '{"lenient-request-id": true}' where id = 1"""),
    Case("no heartbeats",
         """update peer set service_props = '{"heartbeats": "none"}' where id = 1"""),
    Case("again", before=(FIRST,)),
    Case("again with other content", before=(FIRST,), said=(Said(LATER),)),
    Case("twice at once", said=(FIRST, FIRST)),
    Case("disabled", "update peer set enabled = false where id = 1"),
    Case("offline", "update peer set link = 'offline' where id = 1"),
    Case("no handshake", "update peer set link = 'registered' where id = 1"),
    Case("broken", "update peer set link = 'broken' where id = 1"),
    Case("group disabled", "update capacity_group set enabled = false"),
    Case("another's group", "update capacity_group set provider_id = 3",
         said=(FIRST, Said(WISH, OPTIMIZER))),
    Case("unknown group", said=(Said({**MORNING, "group_id": "groups"}),)),
    Case("a limit from an optimizer", said=(Said(MORNING, OPTIMIZER),)),
    Case("token expired", "update peer_token set valid_until = '2026-01-01'"),
    Case("token gone", "delete from peer_token"),
    Case("token of another", "update peer_token set peer_id = 3"),
)  # fmt: skip

TABLES = {
    "peer": "id, link, last_heard_at, offline_at",
    "message_in": "*",
    "forecast": "group_id, peer_id, request_id, correlation_id, type, body, received_at, ends_at,"
    " open",
    "outbox": "peer_id, lane, operation, correlation_id, body, sealed, group_id, created_at, "
    "due_at, expires_at, attempts, settled_at, outcome, sender_id, sender_request_id",
    "lane": "*",
    "control_due": "*",
    "event": "kind, peer_id",
    "publication": "topic, payload",
}


@pytest.fixture
async def daemon(database_url: str) -> AsyncIterator[LinkedDaemon]:
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    daemon = LinkedDaemon(db, clock, PlayedPeers())
    await daemon.start()
    yield daemon
    await daemon.stop()
    await db.close()


async def fate(daemon: LinkedDaemon, case: Case) -> tuple[list[int], dict[str, list[Any]]]:
    """Return how the messages are answered, and what the database holds afterwards."""
    db = daemon.db
    await furnish(db, now=daemon.clock())
    await execute(
        db,
        """
        insert into peer (user_id, role, name, enabled, oscp_version, link_changed_at, created_at,
                          modified_at)
        select user_id, role, 'another', enabled, oscp_version, created_at, created_at, created_at
          from peer where id = 1
        """,
    )
    await execute(db, "update peer set link = 'online', base_url = 'https://p' || id || '.example'")
    await execute(db, "delete from control_due")
    if "service_props" in case.given:
        await execute(db, case.given)
        await daemon.restart()
    # The token was good a moment ago: what is judged with the message is what has changed.
    for peer in (PROVIDER, OPTIMIZER):
        await daemon.hears(DOOR, forecast([]), token=f"first-{peer}")
    for said in case.before:
        assert await hear(daemon, said) == 204
    if case.given:
        await execute(db, case.given)
    answers = await asyncio.gather(*(hear(daemon, said) for said in case.said))
    return answers, {
        table: await fetch(db, f"select {columns} from {table} order by {columns}".replace(
            "order by *", "order by 1, 2"))
        for table, columns in TABLES.items()
    }  # fmt: skip


async def hear(daemon: LinkedDaemon, said: Said) -> int:
    return await daemon.hears(
        DOOR,
        said.body,
        token=f"first-{said.peer}",
        request_id=said.request_id,
        correlation_id=said.correlation_id,
    )


async def test_the_fate_of_a_forecast_does_not_depend_on_who_judges_it(
    daemon: LinkedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    by_us = intake.Intake._take_judged

    async def watched(self: intake.Intake, arrived: Any) -> Any:
        judged.append(case.name)
        return await by_us(self, arrived)

    monkeypatch.setattr(intake.Intake, "_take_judged", watched)
    for case in CASES:
        told = await fate(daemon, case)
        with monkeypatch.context() as patch:
            patch.setattr(intake.Arrived, "may_be_plain", False)
            before = len(judged)
            expected = await fate(daemon, case)
        assert told == expected, case.name
        assert (case.name not in judged[:before]) == case.plain, case.name
        if case.plain:
            assert set(told[0]) == {204}, case.name


async def test_what_is_kept_is_answered_204_whatever_follows(
    daemon: LinkedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("the database is away")

    monkeypatch.setattr(forwarding, "drop_superseded", away)
    case = next(case for case in CASES if case.name == "waiting, wholly covered")
    answers, rows = await fate(daemon, case)
    assert answers == [204]
    assert len(rows["outbox"]) == 2, "the older goes before the newer"
