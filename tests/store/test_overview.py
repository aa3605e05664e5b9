"""What an operator looks at, in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from fpd.store import migrations, overview
from fpd.store.db import Database
from fpd.store.overview import Measured

NOW = datetime(2026, 3, 12, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database(database_url, clock=lambda: NOW)
    await db.open()
    yield db
    await db.close()


@pytest.fixture
async def conn(db: Database) -> AsyncIterator[AsyncConnection]:
    """Two users; user 1 has a provider (1), an optimizer without address (2) and a group (1)."""
    async with db.connection() as conn:
        await conn.execute("insert into account values (1, %s), (2, %s)", (NOW, NOW))
        for user_id, role, url in (
            (1, "CapacityProvider", "https://cp.example.com"),
            (1, "CapacityOptimizer", None),
            (2, "CapacityProvider", "https://cp.example.com"),
        ):
            await conn.execute(
                """
                insert into peer (user_id, role, name, enabled, base_url, oscp_version,
                                  link_changed_at, created_at, modified_at)
                values (%s, %s, 'a peer', true, %s, '2.0', %s, %s, %s)
                """,
                (user_id, role, url, NOW, NOW, NOW),
            )
        await add_group(conn)
        yield conn


async def add_group(
    conn: AsyncConnection, *, user_id: int = 1, identifier: str = "depot", control: Any = None
) -> int:
    cursor = await conn.execute(
        """
        insert into capacity_group (user_id, name, identifier, enabled, provider_id,
                                    provider_period_s, optimizer_period_s, control, created_at,
                                    modified_at)
        values (%s, 'Depot', %s, true, 1, 900, 900, %s, %s, %s)
        returning id
        """,
        (user_id, identifier, None if control is None else Jsonb(control), NOW, NOW),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def add_asset(
    conn: AsyncConnection,
    source_id: str,
    *,
    audience: str = "CapacityProvider",
    enabled: bool = True,
    properties: tuple[str, ...] = ("watts",),
    **instantaneous: Any,
) -> None:
    await conn.execute(
        """
        insert into asset (user_id, group_id, name, identifier, enabled, audience, node_id,
                           source_id, category, phase, instantaneous, created_at, modified_at)
        values (1, 1, 'an asset', %s, %s, %s, 5, %s, 'Consumption', 'All', %s, %s, %s)
        """,
        (
            f"{source_id} {audience}",
            enabled,
            audience,
            source_id,
            Jsonb({"propertyNames": properties, "unit": "W", **instantaneous}),
            NOW,
            NOW,
        ),
    )


async def add_datum(
    conn: AsyncConnection, source_id: str, at: datetime, *, user_id: int = 1, **values: Any
) -> None:
    await conn.execute(
        """
        with s as (
            insert into stream (user_id, node_id, source_id, created_at) values (%s, 5, %s, %s)
            on conflict (user_id, node_id, source_id) do update set source_id = excluded.source_id
            returning id
        )
        insert into datum (stream_id, at, i, received_at) select s.id, %s, %s, %s from s
        """,
        (user_id, source_id, NOW, at, Jsonb(values), NOW),
    )


async def measured(conn: AsyncConnection, group_id: int = 1) -> Measured | None:
    return (await overview.measured(conn, user_id=None, now=NOW)).get(group_id)


async def test_peers_tell_what_they_are_owed_and_when_we_spoke(conn: AsyncConnection) -> None:
    await conn.execute("insert into heartbeat_due values (1, %s, null, %s)", (NOW, NOW - MINUTE))
    for request_id, settled_at in (("a", None), ("b", None), ("c", NOW)):
        await conn.execute(
            """
            insert into outbox (peer_id, lane, operation, request_id, body, created_at, due_at,
                                settled_at)
            values (1, 'link', 'heartbeat', %s, '{}', %s, %s, %s)
            """,
            (request_id, NOW - 3 * MINUTE, NOW, settled_at),
        )
    provider, optimizer = await overview.peers(conn, user_id=1)
    assert (provider.owed, provider.heartbeat_sent_at, provider.silent) == (2, NOW - MINUTE, False)
    assert (optimizer.owed, optimizer.heartbeat_sent_at, optimizer.silent) == (0, None, True)
    assert await overview.debts(conn, user_id=None) == overview.Debts(
        outbox_pending=2, outbox_oldest_at=NOW - 3 * MINUTE, publications_pending=0
    )
    assert (await overview.debts(conn, user_id=2)).outbox_pending == 0


async def test_everybody_sees_their_own(conn: AsyncConnection) -> None:
    await add_group(conn, user_id=2, identifier="foreign")
    assert [peer.id for peer in await overview.peers(conn, user_id=2)] == [3]
    assert [peer.id for peer in await overview.peers(conn, user_id=None)] == [1, 3, 2]
    groups = await overview.groups(conn, user_id=2, now=NOW)
    assert [group.identifier for group in groups] == ["foreign"]


async def test_the_newest_envelope_counts_until_control_says_it_ends(
    conn: AsyncConnection,
) -> None:
    await conn.execute(
        "insert into control_due (group_id, due_at, until_at) values (1, %s, %s)",
        (NOW, NOW + 15 * MINUTE),
    )
    for start, max_w, ids in ((-60, 9000, []), (-5, 5000, [1, 2])):
        await conn.execute(
            "insert into envelope (group_id, from_at, max_w, reason, forecast_ids)"
            " values (1, %s, %s, 'forecast', %s)",
            (NOW + start * MINUTE, max_w, ids),
        )
    (group,) = await overview.groups(conn, user_id=None, now=NOW)
    assert group.envelope == overview.Envelope(
        min_w=None,
        max_w=5000,
        optimum_w=None,
        reason="forecast",
        since_at=NOW - 5 * MINUTE,
        until_at=NOW + 15 * MINUTE,
    )


async def test_a_group_without_envelope_and_measurement_has_neither(conn: AsyncConnection) -> None:
    (group,) = await overview.groups(conn, user_id=None, now=NOW)
    assert (group.envelope, group.measured, group.flexible) == (None, None, False)


async def test_the_scope_of_a_groups_limits_is_told(conn: AsyncConnection) -> None:
    await add_group(conn, identifier="flexible", control={"capacityScope": "Flexible"})
    groups = await overview.groups(conn, user_id=None, now=NOW)
    assert [group.flexible for group in groups] == [False, True]


async def test_a_meter_counts_alone(conn: AsyncConnection) -> None:
    meter = {"nodeId": 5, "sourceId": "/grid/1", "property": "p", "multiplier": -1000}
    group_id = await add_group(conn, identifier="metered", control={"meter": meter})
    await add_asset(conn, "heater")
    await conn.execute("update asset set group_id = %s", (group_id,))
    await add_datum(conn, "heater", NOW, watts=700)
    await add_datum(conn, "grid/1", NOW - 2 * MINUTE, p=9)
    await add_datum(conn, "grid/1", NOW - MINUTE, p=1.25)
    await add_datum(conn, "grid/1", NOW + MINUTE, p=8)  # a clock ahead of ours
    await add_datum(conn, "grid/1", NOW, user_id=2, p=7)  # somebody else's
    assert await measured(conn, group_id) == Measured(
        power_w=Decimal(-1250), at=NOW - MINUTE, source="meter", parts=1, of=1
    )


async def test_assets_are_summed_in_watts_and_are_as_old_as_the_oldest(
    conn: AsyncConnection,
) -> None:
    await add_asset(conn, "/heater", unit="kW", multiplier=0.001)
    await add_asset(conn, "pv", multiplier=-1, properties=("east", "west"))
    await add_asset(conn, "pump", unit="kW")
    await add_asset(conn, "off", enabled=False)
    await add_asset(conn, "store", unit="Wh")
    await add_datum(conn, "heater", NOW - MINUTE, watts=2000)
    await add_datum(conn, "pv", NOW - 3 * MINUTE, east=300.5, west=200)
    await add_datum(conn, "pump", NOW, watts=0.25)
    for source_id in ("off", "store"):
        await add_datum(conn, source_id, NOW, watts=10_000)
    assert await measured(conn) == Measured(
        power_w=Decimal("1749.5"), at=NOW - 3 * MINUTE, source="assets", parts=4, of=4
    )


async def test_what_is_reported_to_both_audiences_counts_once(conn: AsyncConnection) -> None:
    await add_asset(conn, "heater")
    await add_asset(conn, "/heater", audience="CapacityOptimizer", unit="kW", multiplier=0.001)
    await add_datum(conn, "heater", NOW, watts=2000)
    found = await measured(conn)
    assert found is not None
    assert (found.power_w, found.parts, found.of) == (2000, 1, 1)


async def test_a_missing_reading_is_a_gap_and_not_a_zero(conn: AsyncConnection) -> None:
    await add_asset(conn, "heater")
    await add_asset(conn, "pump")
    await add_datum(conn, "pump", NOW - timedelta(days=32), watts=4)
    assert await measured(conn) == Measured(power_w=None, at=None, source="assets", parts=0, of=2)
    await add_datum(conn, "heater", NOW, watts=2000)
    assert await measured(conn) == Measured(
        power_w=Decimal(2000), at=NOW, source="assets", parts=1, of=2
    )


async def test_a_datum_without_the_property_or_without_a_number_is_passed_over(
    conn: AsyncConnection,
) -> None:
    await add_asset(conn, "heater")
    await add_datum(conn, "heater", NOW - 2 * MINUTE, watts=2000)
    await add_datum(conn, "heater", NOW - MINUTE, watts="n/a")
    await add_datum(conn, "heater", NOW, volts=230)
    found = await measured(conn)
    assert found is not None
    assert (found.power_w, found.at) == (2000, NOW - 2 * MINUTE)


async def test_devices_can_be_asked_for_by_name(conn: AsyncConnection) -> None:
    await conn.execute(
        """
        insert into device_state (name, type, health, plan, due_at, modified_at)
        select name, 'battery', 'ok', '{"reason": "meter"}', %(now)s, %(now)s
          from unnest('{garage,cellar}'::text[]) as name
        """,
        {"now": NOW},
    )
    everything = await overview.devices(conn, names=None)
    assert [(device.name, device.why) for device in everything] == [
        ("cellar", "meter"),
        ("garage", "meter"),
    ]
    assert [device.name for device in await overview.devices(conn, names=["garage", "x"])] == [
        "garage"
    ]
    assert await overview.devices(conn, names=[]) == ()


async def test_all_of_it_is_of_one_instant_and_changes_nothing(
    db: Database, conn: AsyncConnection
) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        async with db.transaction() as looking:
            before = await overview.load(looking, user_id=None, device_names=None, now=NOW)
            await conn.execute("delete from capacity_group")
            assert await overview.groups(looking, user_id=None, now=NOW) == before.groups
            await looking.execute("delete from peer")
    assert len(before.peers) == 3


async def test_counts_for_the_monitoring(conn: AsyncConnection) -> None:
    await conn.execute("update peer set link = 'online' where id <> 2")
    counts = await overview.counts(conn)
    assert counts.links == {"online": 2, "provisioned": 1}
    assert counts.outbox_pending == 0
    await conn.execute("truncate capacity_group, peer cascade")
    assert (await overview.counts(conn)).links == {}


async def test_the_newest_migration_is_told(conn: AsyncConnection) -> None:
    assert await overview.migrated(conn) == migrations.available()[-1].number
    await conn.execute("truncate migration")
    assert await overview.migrated(conn) == 0
