"""Which of a provider's forecasts an optimizer hears that was away, and which it hears again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from support.daemon import Daemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer
from support.waiting import wait_for

UPDATE = "update_group_capacity_forecast"


def hours(capacity: float, start: int, end: int, **changes: Any) -> dict[str, Any]:
    """Return a forecast of one block, from `start` to `end` hours after the last full hour."""
    full = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    said = forecast(capacity, **changes)
    said["forecasted_blocks"][0] |= {
        "start_time": (full + timedelta(hours=start)).isoformat(),
        "end_time": (full + timedelta(hours=end)).isoformat(),
    }
    return said


def capacities(co: RecordingPeer) -> list[float]:
    return [heard.body["forecasted_blocks"][0]["capacity"] for heard in co.of(UPDATE)]


async def all_accepted(daemon: Daemon, cp: RecordingPeer, token: str, *said: Any) -> None:
    for body in said:
        status, answer, _ = await cp.says(daemon.url, UPDATE, body, token=token)
        assert status == 204, answer


async def test_an_undelivered_forecast_is_dropped_once_newer_ones_cover_all_of_it(
    daemon: Daemon, database_url: str
) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        async with RecordingPeer("co") as co:
            await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
            port = co.port
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        await all_accepted(daemon, cp, token, hours(1, 0, 4))
        await wait_for(lambda: _tried(database_url), what="a first try that failed")
        await all_accepted(
            daemon,
            cp,
            token,
            hours(2, 0, 3),  # a part of 1 stays in force
            hours(3, 0, 4, type="GENERATION"),  # of another type
            hours(4, 2, 4),  # nothing of 1 is left
            hours(5, 5, 6),
        )
        async with RecordingPeer("co", port=port) as co:
            await co.hears(UPDATE, 4, within_s=30)
            assert capacities(co) == [2, 3, 4, 5]
        assert await _outcomes(database_url) == {"superseded": 1, "delivered": 4}


async def test_an_optimizer_that_was_offline_hears_again_what_is_in_force(
    daemon: Daemon, database_url: str
) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        co_token = await co.registers(daemon.url, site.optimizer_token)
        await co.acknowledges(daemon.url, co_token)
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        await all_accepted(
            daemon,
            cp,
            token,
            hours(1, 0, 2),
            hours(2, -3, 0),  # ended
            hours(3, 0, 2),  # instead of 1
            hours(4, 1, 6, type="FALLBACK_CONSUMPTION"),
        )
        # 2 has ended, so it was never worth sending.
        await co.hears(UPDATE, 3)
        assert capacities(co) == [1, 3, 4]
        known = {heard.headers["x-request-id"] for heard in co.of(UPDATE)}

        await _goes_offline(daemon, co, co_token)
        await all_accepted(daemon, cp, token, hours(5, 4, 6))
        co.heard[:] = co.of("handshake")[1:]
        await co.acknowledges(daemon.url, co_token)
        await co.hears(UPDATE, 3)
        await all_accepted(daemon, cp, token, hours(6, 7, 8))
        await co.hears(UPDATE, 4)
        assert capacities(co) == [3, 4, 5, 6]
        again = [heard.headers["x-request-id"] for heard in co.of(UPDATE)]
        assert len({*again, *known}) == len(again) + len(known)
        assert co.of(UPDATE)[0].body == hours(3, 0, 2)

        # What it heard again is correlated like what it heard first.
        complaint = {"X_Correlation_ID": again[0]}
        status, said, _ = await co.says(
            daemon.url,
            "group_capacity_compliance_error",
            {"message": "no"},
            token=co_token,
            **complaint,
        )
        assert status == 204, said
        heard = await cp.hears("group_capacity_compliance_error")
        assert heard.headers["x-correlation-id"] == await _id_of(database_url, again[0])


async def test_an_optimizer_that_registers_late_hears_what_is_in_force(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        await all_accepted(daemon, cp, token, hours(1, 0, 2), hours(2, 0, 2))
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        await co.hears(UPDATE)
        await all_accepted(daemon, cp, token, hours(3, 2, 3))
        await co.hears(UPDATE, 2)
        assert capacities(co) == [2, 3]


async def test_our_own_restart_is_nobodys_return(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        await all_accepted(daemon, cp, token, hours(1, 0, 2))
        await co.hears(UPDATE)
        assert await daemon.terminate() == 0
        await daemon.start()
        await all_accepted(daemon, cp, token, hours(2, 2, 3))
        await co.hears(UPDATE, 2)
        assert capacities(co) == [1, 2]
        assert len(co.of("handshake")) == 1


async def test_an_optimizer_without_a_base_url_is_owed_nothing_and_gets_datum(
    daemon: Daemon, database_url: str
) -> None:
    await daemon.manage("PUT", "settings", {"nodeId": 7})
    silent = {"name": "Datum only", "enabled": True, "registrationStatus": "Registered"}
    optimizer = await daemon.manage("POST", "capacity-optimizers", silent)
    site = await make_site(daemon, optimizer=False)
    group = await daemon.manage("GET", f"capacity-groups/{site.group_id}")
    group |= {
        "capacityOptimizerId": optimizer["configId"],
        "capacityOptimizerMeasurementPeriod": "FiveMinute",
    }
    await daemon.manage("PUT", f"capacity-groups/{site.group_id}", group)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        await all_accepted(daemon, cp, token, hours(1, 0, 2))
    async with await AsyncConnection.connect(database_url) as conn:
        owed = await conn.execute("select count(*) from outbox where operation = %s", (UPDATE,))
        assert await owed.fetchone() == (0,)
        datum = await conn.execute(
            "select (i ->> 'amount')::float from datum join stream on stream.id = stream_id"
            " where source_id like 'oscp/cp/UpdateGroupCapacityForecast/%'"
        )
        assert await datum.fetchall() == [(1,)]


async def _goes_offline(daemon: Daemon, co: RecordingPeer, token: str) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    await co.says(daemon.url, "heartbeat", {"offline_mode_at": soon}, token=token)

    async def is_offline() -> bool:
        peers = (await daemon.status())["peers"]
        return any(p["role"] == "CapacityOptimizer" and p["link"] == "offline" for p in peers)

    await wait_for(is_offline)
    await co.hears("handshake", 2)


async def _tried(database_url: str) -> bool:
    async with await AsyncConnection.connect(database_url) as conn:
        cursor = await conn.execute(
            "select count(*) from outbox as o join lane as l"
            " on l.peer_id = o.peer_id and l.name = o.lane"
            " where o.operation = %s and o.attempts > 0 and o.settled_at is null"
            " and l.leased_until is null",
            (UPDATE,),
        )
        return await cursor.fetchone() == (1,)


async def _outcomes(database_url: str) -> dict[str, int]:
    async def settled() -> dict[str, int]:
        async with await AsyncConnection.connect(database_url) as conn:
            cursor = await conn.execute(
                "select coalesce(outcome, 'owed'), count(*) from outbox"
                " where operation = %s group by 1",
                (UPDATE,),
            )
            found = dict(await cursor.fetchall())
        return {} if "owed" in found else found

    return await wait_for(settled)


async def _id_of(database_url: str, forwarded_as: str) -> str:
    async with await AsyncConnection.connect(database_url) as conn:
        cursor = await conn.execute(
            "select f.request_id from outbox as o join forecast as f on f.id = o.forecast_id"
            " where o.request_id = %s",
            (forwarded_as,),
        )
        row = await cursor.fetchone()
        assert row is not None
        return str(row[0])
