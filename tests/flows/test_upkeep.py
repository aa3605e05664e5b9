"""What would grow for ever is dropped, and nothing that is still wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from flows.measured_site import NOON, Hands, Site

from fpd.flows import measurements, upkeep
from fpd.store.db import Database

COUNTED = ("message_in", "outbox", "event", "device_command", "envelope", "forecast")


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    site = Site(db, clock)
    await site.add_peers()
    await site.add_group()
    yield site
    await db.close()


async def add_history(site: Site, days: float) -> None:
    """One row of each kind, as old as that."""
    at = NOON - timedelta(days=days)
    for statement in (
        "insert into message_in values (1, %(at)s::text, 'POST heartbeat', '', %(at)s)",
        """
        insert into outbox (peer_id, lane, operation, request_id, body, created_at, due_at,
                            settled_at, outcome)
        values (1, 'link', 'register', %(at)s::text, '', %(at)s, %(at)s, %(at)s, 'delivered')
        """,
        "insert into event (at, kind) values (%(at)s, 'peer.online')",
        "insert into device_command (device, wanted, sent_at) values ('b', '{}', %(at)s)",
        """
        insert into envelope (group_id, from_at, reason, forecast_ids)
        values (1, %(at)s, 'none', '{}')
        """,
        """
        insert into forecast (group_id, peer_id, request_id, type, body, received_at, ends_at)
        values (1, 1, %(at)s::text, 'CONSUMPTION', '', %(at)s, %(at)s)
        """,
    ):
        await site.execute(statement, at=at)


async def counts(site: Site) -> dict[str, int]:
    return {name: (await site.fetch(f"select count(*) from {name}"))[0][0] for name in COUNTED}


async def test_what_is_recent_stays(site: Site) -> None:
    await add_history(site, 0.5)
    assert await upkeep.step(site.context) is False
    assert await counts(site) == dict.fromkeys(COUNTED, 1)


async def test_what_is_old_goes_but_the_envelope_in_force(site: Site) -> None:
    await add_history(site, 500)
    await upkeep.step(site.context)
    assert await counts(site) == {**dict.fromkeys(COUNTED, 0), "envelope": 1}
    await add_history(site, 450)
    await upkeep.step(site.context)
    assert (await counts(site))["envelope"] == 1


async def test_unsettled_messages_are_kept_however_old(site: Site) -> None:
    await add_history(site, 500)
    await site.execute("update outbox set settled_at = null, outcome = null")
    await upkeep.step(site.context)
    assert (await counts(site))["outbox"] == 1


async def test_reports_and_their_parts_are_kept_while_they_may_be_corrected(site: Site) -> None:
    energy = {"propertyNames": ["wh"], "unit": "Wh"}
    await site.add_asset("cp", energy=energy)
    for n in range(5):
        await site.read("load/1", {3600 * n: n}, name="wh")
        site.clock.at = NOON + timedelta(hours=n, seconds=62)
        while await measurements.step(site.context):
            pass
    await upkeep.step(site.context)
    oldest = "select min(start_at) from"
    ((report,),) = await site.fetch(f"{oldest} measurement_report")
    ((part,),) = await site.fetch(f"{oldest} measured_part")
    assert report >= NOON + timedelta(hours=1) and part >= NOON + timedelta(hours=1)
    site.clock.move(days=400)
    await upkeep.step(site.context)
    assert await site.fetch("select count(*) from measurement_report") == [(0,)]
    assert await site.fetch("select count(*) from measured_part") == [(1,)]
