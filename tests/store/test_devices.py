"""Devices and control in a real PostgreSQL: who may visit, what is wanted, what was told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from fpd.store import control, devices, plans, watch
from fpd.store.control import EnvelopeRow, Property
from fpd.store.db import Database
from fpd.store.devices import DeviceState, Wish

A = {"holder": "a"}
NOW = datetime(2025, 3, 12, 10, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
IDLE = {"kind": "setpoint", "power_w": 0}
DISCHARGE = {"kind": "setpoint", "power_w": 1200}


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database(database_url, clock=lambda: NOW)
    await db.open()
    yield db
    await db.close()


@pytest.fixture
async def conn(db: Database) -> AsyncIterator[AsyncConnection]:
    async with db.connection() as conn:
        await devices.enrol(conn, devices=[("cellar", "battery"), ("cell", "bluegen")], now=NOW)
        yield conn


async def claim(conn: AsyncConnection, name: str = "cellar", at: datetime = NOW) -> DeviceState:
    (state,) = await devices.claim(conn, **A, leases={name: at + timedelta(seconds=40)}, now=at)
    return state


async def commands(conn: AsyncConnection) -> list[tuple[Any, ...]]:
    cursor = await conn.execute("select wanted, outcome, detail from device_command order by id")
    return await cursor.fetchall()


async def test_a_device_is_visited_by_one_daemon_at_a_time(conn: AsyncConnection) -> None:
    assert (await claim(conn)).health == "unknown"
    soon = {"cellar": NOW + timedelta(seconds=40)}
    assert await devices.claim(conn, **A, leases=soon, now=NOW + timedelta(seconds=39)) == []
    again = {"cellar": NOW + timedelta(seconds=90)}
    assert len(await devices.claim(conn, **A, leases=again, now=NOW + timedelta(seconds=40))) == 1


async def test_only_devices_asked_for_and_due_are_claimed(conn: AsyncConnection) -> None:
    state = await claim(conn)
    waiting = replace(state, due_at=LATER)
    assert await devices.save(conn, waiting, seen=state, release=True, now=NOW)
    leases = {"cellar": LATER, "elsewhere": LATER}
    assert await devices.claim(conn, **A, leases=leases, now=NOW) == []
    assert [s.name for s in await devices.claim(conn, **A, leases={"cell": LATER}, now=NOW)] == [
        "cell"
    ]


async def test_who_lost_the_lease_may_not_write(conn: AsyncConnection) -> None:
    first = await claim(conn)
    second = await claim(conn, at=LATER)
    stale = replace(first, detail="from the past", due_at=LATER)
    assert not await devices.save(conn, stale, seen=first, release=True, now=LATER)
    assert await devices.save(conn, second, seen=second, release=True, now=LATER)
    assert (await devices.load(conn, names=["cellar"]))["cellar"].detail is None


async def test_a_change_of_mind_during_a_visit_is_due_at_once(conn: AsyncConnection) -> None:
    await devices.want(conn, [Wish(name="cellar", wanted=IDLE, plan={})], now=NOW)
    state = await claim(conn)
    await devices.want(conn, [Wish(name="cellar", wanted=DISCHARGE, plan={})], now=NOW)
    done = replace(state, due_at=LATER, command_due_at=None)
    assert await devices.save(conn, done, seen=state, release=True, now=NOW)
    assert (await claim(conn)).wanted == DISCHARGE


async def test_the_same_wish_again_sends_nothing(conn: AsyncConnection) -> None:
    await devices.want(conn, [Wish(name="cellar", wanted=IDLE, plan={})], now=NOW)
    state = await claim(conn)
    hour = timedelta(hours=1)
    done = replace(state, due_at=LATER + hour, command_due_at=None, confirmed=IDLE)
    await devices.save(conn, done, seen=state, release=True, now=NOW)
    await devices.want(conn, [Wish(name="cellar", wanted=IDLE, plan={"why": "new"})], now=LATER)
    row = (await devices.load(conn, names=["cellar"]))["cellar"]
    assert (row.command_due_at, row.wanted_at, row.plan) == (None, LATER, {"why": "new"})


async def test_a_wish_that_comes_while_a_device_is_out_of_reach_is_not_lost(
    conn: AsyncConnection,
) -> None:
    state = await claim(conn)
    await devices.want(conn, [Wish(name="cellar", wanted=DISCHARGE, plan={})], now=NOW)
    away = replace(state, failures=1, due_at=LATER, command_due_at=None)
    await devices.save(conn, away, seen=state, release=True, now=NOW)
    assert (await devices.load(conn, names=["cellar"]))["cellar"].command_due_at == LATER


async def test_a_wish_that_nobody_is_about_to_tell_is_due(conn: AsyncConnection) -> None:
    wishes = [Wish(name="cellar", wanted=DISCHARGE, plan={})]
    await devices.want(conn, wishes, now=NOW)
    state = await claim(conn)
    lost = replace(state, told=IDLE, confirmed=IDLE, command_due_at=None, due_at=LATER)
    await devices.save(conn, lost, seen=state, release=False, now=NOW)
    await devices.want(conn, wishes, now=NOW)
    assert (await devices.load(conn, names=["cellar"]))["cellar"].command_due_at is None, "visited"
    await devices.let_go(conn, state)
    await devices.want(conn, wishes, now=NOW)
    assert (await claim(conn)).command_due_at == NOW


async def test_a_device_out_of_reach_keeps_its_time(conn: AsyncConnection) -> None:
    state = await claim(conn)
    away = replace(state, failures=3, command_due_at=LATER, due_at=LATER)
    await devices.save(conn, away, seen=state, release=True, now=NOW)
    wishes = [Wish(name="cellar", wanted=DISCHARGE, plan={})]
    await devices.want(conn, wishes, now=NOW)
    assert (await devices.load(conn, names=["cellar"]))["cellar"].command_due_at == LATER


async def test_commands_are_on_record_before_they_are_sent(conn: AsyncConnection) -> None:
    for wanted in (IDLE, DISCHARGE):
        await devices.begin_command(
            conn, name="cellar", wanted=wanted, group_id=99, envelope_id=None, now=NOW
        )
    await devices.settle_command(conn, name="cellar", outcome="confirmed", detail=None, now=LATER)
    assert await commands(conn) == [(IDLE, "superseded", None), (DISCHARGE, "confirmed", None)]


async def test_a_restart_has_every_device_read_at_once(conn: AsyncConnection) -> None:
    state = await claim(conn)
    stopped = replace(
        state, attempts=3, health="stopped", due_at=NOW + timedelta(days=30), command_due_at=LATER
    )
    await devices.save(conn, stopped, seen=state, release=True, now=NOW)
    await devices.enrol(conn, devices=[("cellar", "battery")], now=NOW)
    again = await claim(conn)
    assert (again.attempts, again.command_due_at) == (0, NOW)


async def group(conn: AsyncConnection, *, device: str | None = None, link: str = "online") -> int:
    await conn.execute("insert into account values (1, %s) on conflict do nothing", (NOW,))
    cursor = await conn.execute(
        """
        with cp as (
            insert into peer (user_id, role, name, enabled, oscp_version, link, link_changed_at,
                              created_at, modified_at)
            values (1, 'CapacityProvider', 'CP', true, '2.0', %(link)s, %(now)s, %(now)s, %(now)s)
            returning id
        )
        insert into capacity_group (user_id, name, identifier, enabled, provider_id,
                                    provider_period_s, optimizer_period_s, created_at, modified_at)
        select 1, 'G', gen_random_uuid()::text, true, id, 900, 900, %(now)s, %(now)s from cp
        returning id
        """,
        {"now": NOW, "link": link},
    )
    row = await cursor.fetchone()
    assert row is not None
    if device is not None:
        await asset(conn, row[0], device=device)
    return int(row[0])


async def asset(
    conn: AsyncConnection, group_id: int, *, device: str | None = None, enabled: bool = True
) -> None:
    await conn.execute(
        """
        insert into asset (user_id, group_id, name, identifier, enabled, audience, node_id,
                           source_id, category, phase, control, created_at, modified_at)
        values (1, %s, 'A', gen_random_uuid()::text, %s, 'CapacityProvider', 1, '/a', 'Storage',
                'All', %s, %s, %s)
        """,
        (group_id, enabled, None if device is None else Jsonb({"device": device}), NOW, NOW),
    )


async def test_groups_come_under_control(conn: AsyncConnection) -> None:
    bare = await group(conn)
    watched = await group(conn, device="cellar", link="offline")
    await control.enrol(conn, now=NOW)
    await control.enrol(conn, now=LATER)
    due = await control.claim(conn, **A, now=NOW, lease=timedelta(seconds=30), limit=10)
    assert [(one.group_id, one.provider_online, one.optimizer_online) for one in due] == [
        (bare, True, True),
        (watched, False, True),
    ]
    assert await control.claim(conn, **A, now=NOW, lease=timedelta(seconds=30), limit=10) == []
    await control.settle(conn, due={bare: LATER, watched: LATER}, until={bare: None, watched: None})
    assert await control.claim(conn, **A, now=NOW, lease=timedelta(seconds=30), limit=10) == []
    assert (
        len(await control.claim(conn, **A, now=LATER, lease=timedelta(seconds=30), limit=10)) == 2
    )


async def test_only_what_is_steered_or_measured_is_planned_and_watched(
    conn: AsyncConnection,
) -> None:
    await group(conn)
    watched = await group(conn, device="cellar")
    lease = {"now": NOW, "lease": timedelta(seconds=30), "limit": 10}
    for store in (plans, watch):
        await store.enrol(conn, now=NOW)
        assert [due.group_id for due in await store.claim(conn, **lease)] == [watched]
    await control.enrol(conn, now=NOW)
    assert [due.group_id for due in await control.claim(conn, **A, **lease | {"limit": 1})] == [
        watched
    ]


async def test_a_group_woken_while_it_is_looked_at_is_due_again(conn: AsyncConnection) -> None:
    group_id = await group(conn, device="cellar")
    await control.enrol(conn, now=NOW)
    await control.claim(conn, **A, now=NOW, lease=timedelta(seconds=30), limit=10)
    await control.wake(conn, device="cellar", now=NOW)
    await control.settle(conn, due={group_id: LATER}, until={group_id: None})
    assert len(await control.claim(conn, **A, now=NOW, lease=timedelta(seconds=30), limit=10)) == 1


async def test_a_daemon_that_died_gives_its_groups_back(conn: AsyncConnection) -> None:
    await group(conn, device="cellar")
    await control.enrol(conn, now=NOW)
    await control.claim(conn, **A, now=NOW, lease=timedelta(seconds=30), limit=10)
    assert (
        len(await control.claim(conn, **A, now=LATER, lease=timedelta(seconds=30), limit=10)) == 1
    )


async def test_a_device_is_driven_through_one_asset(conn: AsyncConnection) -> None:
    first, second = await group(conn, device="cellar"), await group(conn, device="cellar")
    await asset(conn, first, enabled=False, device="cell")
    found = await control.assets(conn, group_ids=[first, second])
    assert [(a.group_id, a.device, a.drives) for a in found] == [
        (first, "cellar", True),
        (second, "cellar", False),
    ]


async def test_a_device_without_asset_is_an_orphan_until_released(conn: AsyncConnection) -> None:
    group_id = await group(conn, device="cellar")
    await devices.want(conn, [Wish(name="cellar", wanted=DISCHARGE, plan={})], now=NOW)
    assert await devices.orphans(conn, names=["cellar", "cell"]) == []
    await conn.execute("delete from capacity_group where id = %s", (group_id,))
    assert await devices.orphans(conn, names=["cellar", "cell"]) == ["cellar"]
    await devices.want(conn, [Wish(name="cellar", wanted={"kind": "release"}, plan={})], now=NOW)
    assert await devices.orphans(conn, names=["cellar", "cell"]) == []


async def test_envelopes_are_appended_and_the_newest_counts(conn: AsyncConnection) -> None:
    group_id = await group(conn)
    row = EnvelopeRow(
        group_id=group_id, from_at=NOW, min_w=None, max_w=3000, optimum_w=None,
        reason="forecast", forecast_ids=[1, 2],
    )  # fmt: skip
    await control.append_envelopes(conn, [row])
    later = replace(row, from_at=LATER, max_w=0, forecast_ids=[])
    ids = await control.append_envelopes(conn, [later])
    newest = (await control.newest_envelopes(conn, group_ids=[group_id]))[group_id]
    assert newest == replace(later, id=ids[group_id])
    assert not newest.says_the_same(row)
    assert newest.says_the_same(replace(later, from_at=NOW))


async def test_the_latest_value_of_a_property_is_found(conn: AsyncConnection) -> None:
    await conn.execute("insert into account values (1, %s)", (NOW,))
    await conn.execute("insert into stream values (default, 1, 7, 'site/meter', %s)", (NOW,))
    for minute, values in enumerate(({"watts": 100}, {"watts": 250.5}, {"soc": 50})):
        await conn.execute(
            "insert into datum (stream_id, at, i, received_at) select id, %s, %s, %s from stream",
            (NOW + timedelta(minutes=minute), Jsonb(values), NOW),
        )
    watts = Property(1, 7, "/site/meter", "watts")
    other = Property(1, 7, "/site/other", "watts")
    found = await control.latest(conn, properties=[other, watts], now=NOW + timedelta(minutes=5))
    assert found == {watts: control.Latest(NOW + timedelta(minutes=1), Decimal("250.5"))}
    before = await control.latest(conn, properties=[watts], now=NOW)
    assert before[watts].value == 100
