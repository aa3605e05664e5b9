"""What a provider is told of a minute, told again when datum come late, over a kill -9."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from psycopg import AsyncConnection
from support.daemon import MakeDaemon, make_site
from support.peer import Heard, RecordingPeer
from support.waiting import wait_for

from fpd.domain.datum import Datum, StreamKey
from fpd.store import streams

ASSET = {
    "name": "Load",
    "enabled": True,
    "identifier": "load",
    "audience": "CapacityProvider",
    "nodeId": 7,
    "sourceId": "/load/1",
    "category": "Charging",
    "phase": "All",
    "energy": {"propertyNames": ["wattHours"], "unit": "Wh"},
}


async def test_a_late_datum_is_told_under_the_same_id_by_whoever_is_there(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    daemon = await make_daemon(database_url).start()
    await daemon.log_in()
    site = await make_site(daemon, optimizer=False)
    minute = datetime.now(UTC).replace(second=0, microsecond=0)

    async def read(*readings: tuple[int, int]) -> None:
        datums = [
            Datum(
                stream=StreamKey(1, 7, "load/1"),
                at=minute + timedelta(seconds=second),
                a={"wattHours": Decimal(value)},
            )
            for second, value in readings
        ]
        async with (
            await AsyncConnection.connect(database_url) as conn,
            conn.transaction(),
        ):
            await streams.write(conn, datums, now=datetime.now(UTC))

    async def is_delivered() -> bool:
        async with await AsyncConnection.connect(database_url) as conn:
            found = await conn.execute(
                "select from outbox where outcome = 'delivered' and operation like '%measurements'"
            )
            return await found.fetchone() is not None

    await read(*((second, 9000 + second) for second in range(-1800, 1, 20)))
    await daemon.manage("POST", "assets", ASSET | {"capacityGroupId": site.group_id})
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        first = await cp.hears("update_group_measurements")
        (told,) = first.body["measurements"]
        end = datetime.fromisoformat(told["measure_time"])
        seconds = int((end - minute).total_seconds())
        assert told["value"] == 9000 + seconds  # it asked for CONTINUOUS
        await wait_for(is_delivered)
        await daemon.kill()
        await read((seconds, 9030 + seconds))
        await daemon.start()

        def told_again() -> list[Heard]:
            same = first.headers["x-request-id"]
            heard = cp.of("update_group_measurements")
            return [h for h in heard if h is not first and h.headers["x-request-id"] == same]

        (again,) = await wait_for(told_again, timeout=20)
        assert again.body["measurements"][0]["value"] == 9030 + seconds
