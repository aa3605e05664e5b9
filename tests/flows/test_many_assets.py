"""Groups of more assets than are read at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from flows.measured_site import NOON, Hands, Site
from psycopg.types.json import Jsonb

from fpd.flows import measurements, measuring, upkeep
from fpd.flows.measuring import PAGE
from fpd.store.db import Database
from fpd.store.spans import Span, pages, pieces

MANY = 2 * PAGE + 1


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    db = Database(database_url, clock=Hands())
    await db.open()
    site = Site(db, Hands())
    await site.add_peers()
    yield site
    await db.close()


async def add_assets(site: Site, group_id: int, count: int, *, audience: str) -> None:
    """Assets that all measure the same load: its power for the optimizer, else its energy."""
    power = Jsonb({"propertyNames": ["watts"], "unit": "W", "statisticType": "End"})
    energy = Jsonb({"propertyNames": ["wattHours"], "unit": "Wh"})
    of_power = audience == "CapacityOptimizer"
    await site.execute(
        """
        insert into asset (user_id, group_id, name, identifier, enabled, audience, node_id,
            source_id, category, phase, instantaneous, energy, created_at, modified_at)
        select 1, %(group)s, 'a', %(audience)s || n, true, %(audience)s, 7, '/load/1', 'Charging',
               'All', %(power)s, %(energy)s, %(now)s, %(now)s
          from generate_series(1, %(count)s) as n
        """,
        group=group_id,
        audience=audience,
        count=count,
        power=power if of_power else None,
        energy=None if of_power else energy,
    )


async def close(site: Site, *, seconds: float) -> None:
    site.clock.at = NOON + timedelta(seconds=seconds)
    while await measurements.step(site.context):
        pass


async def test_a_group_of_many_pages_is_one_message(site: Site) -> None:
    await site.add_group(period_s=120)
    await add_assets(site, 1, MANY, audience="CapacityOptimizer")
    await add_assets(site, 1, MANY, audience="CapacityProvider")
    await site.add_group("small", period_s=120)
    await add_assets(site, 2, 1, audience="CapacityProvider")
    await close(site, seconds=1)
    await site.read("load/1", {0: 0, 40: 4, 120: 12}, name="wattHours")
    await site.read("load/1", {30: 100, 100: 300}, name="watts")
    site.clock.at = NOON + timedelta(seconds=70)
    await measurements.sum_up(site.context)
    await close(site, seconds=122)
    owed = {(role, body["group_id"]): body for role, _, body in await site.owed()}
    assert len(owed) == 3
    (sum_of_many,) = owed["CapacityProvider", "my-group"]["measurements"]
    (small,) = owed["CapacityProvider", "small"]["measurements"]
    assert (sum_of_many["value"], small["value"]) == (12 * MANY, 12)
    told = owed["CapacityOptimizer", "my-group"]["measurements"]
    assert [one["asset_id"] for one in told] == [
        f"CapacityOptimizer{n}" for n in range(1, MANY + 1)
    ]
    assert {one["instantaneous_measurement"]["value"] for one in told} == {300}


@pytest.mark.parametrize(
    ("lost", "then"),
    [
        ("12", [{"1": 10, "2": 10}, {"1": 5, "2": 5}]),  # nothing of it is left: it stands
        ("1", [{"1": 10, "2": 10}, {"2": 10}, {"1": 3, "2": 5}]),
        ("2", [{"1": 10, "2": 10}, {"1": 10}, {"1": 5, "2": 3}]),
    ],
)
@pytest.mark.parametrize("is_sum", [False, True])
async def test_a_report_of_several_pages_loses_readings(
    site: Site, monkeypatch: pytest.MonkeyPatch, lost: str, then: list[dict[str, int]], is_sum: bool
) -> None:
    monkeypatch.setattr(measuring, "PAGE", 1)
    audience = "CapacityProvider" if is_sum else "CapacityOptimizer"
    if is_sum:
        await site.execute(
            """update peer set service_props = '{"group-combined-asset-id": "all"}'"""
        )
    await site.add_group(period_s=120)
    for load in "12":
        energy = {"propertyNames": ["v"], "unit": "Wh"}
        await site.add_asset(load, audience=audience, source=f"/load/{load}", energy=energy)
    await close(site, seconds=1)
    for load in "12":
        await site.read(f"load/{load}", {0: 0, 100: 10}, name="v")
    await close(site, seconds=125)
    for load in lost:
        await site.read(f"load/{load}", {0: 0, 100: 0}, name="other")
    await close(site, seconds=126)
    for load in "12":
        await site.read(f"load/{load}", {150: 12, 240: 15}, name="v")
    await close(site, seconds=245)
    told = [body["measurements"] for _, _, body in await site.owed()]
    if is_sum:
        assert [entry["value"] for (entry,) in told] == [sum(one.values()) for one in then]
    else:
        values = [
            {entry["asset_id"]: entry["energy_measurement"]["value"] for entry in entries}
            for entries in told
        ]
        assert values == then


async def test_parts_go_with_their_assets(site: Site) -> None:
    await site.add_group()
    await add_assets(site, 1, 2, audience="CapacityProvider")
    await close(site, seconds=1)
    await site.read("load/1", {0: 0, 60: 1}, name="wattHours")
    await close(site, seconds=62)
    count = "select count(*) from measured_part"
    assert await site.fetch(count) == [(4,)]  # of two periods
    await site.execute("delete from asset where id = 1")
    assert await site.fetch(count) == [(2,)]
    # As if it had been written while its asset was deleted.
    await site.execute("update measured_part set asset_id = 1")
    site.clock.move(days=400)
    await upkeep.step(site.context)
    assert await site.fetch(count) == [(0,)]


async def test_spans_are_cut_and_put_together(site: Site) -> None:
    for number, count in enumerate((5, 0, 1, 2), start=1):
        await site.add_group(f"group-{number}")
        await add_assets(site, number, count, audience="CapacityProvider")
    await site.execute("update asset set enabled = false where id = 2")
    spans = [
        Span(group_id=n, audience="CapacityProvider", start_at=NOON, end_at=NOON)
        for n in range(1, 5)
    ]
    async with site.db.connection() as conn:
        cut = await pieces(conn, spans, most=3)
    ids = [[(p.span.first_id, p.span.last_id, p.assets) for p in some] for some in cut]
    assert ids == [[(1, 4, 3), (5, 5, 1)], [], [(6, 6, 1)], [(7, 8, 2)]]
    together = pages([piece for some in cut for piece in some], most=3)
    assert [[(s.group_id, s.first_id) for s in page] for page in together] == [
        [(1, 1)],
        [(1, 5), (3, 6)],
        [(4, 7)],
    ]
