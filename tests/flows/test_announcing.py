"""What peers are told of measurements is published too, where the settings say so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from flows.measured_site import NOON, Hands, Site

from fpd.flows import measurements
from fpd.store.db import Database

POWER = {
    "propertyNames": ["watts"],
    "unit": "W",
    "statisticType": "Average",
}
ENERGY = {
    "propertyNames": ["wattHours"],
    "unit": "Wh",
    "statisticType": "Difference",
    "type": "Total",
    "direction": "Import",
}
PREFIX = "user/1/node/2/datum/0/oscp/fp"


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    site = Site(db, clock)
    await site.add_peers()
    await site.add_group()
    await measurements.step(site.context)
    yield site
    await db.close()


async def report(site: Site) -> list[tuple[str, dict[str, Any]]]:
    """Close the first minute; return what is owed to the broker."""
    await site.add_asset("cp-1", instantaneous=POWER, energy=ENERGY)
    await site.add_asset(
        "co-1", audience="CapacityOptimizer", instantaneous=POWER, energy=ENERGY, phase="A"
    )
    await site.read("load/1", {-5: 200, 30: 100, 61: 900}, name="watts")
    await site.read("load/1", {-10: 1000, 20: 1009, 50: 1021, 80: 1051}, name="wattHours", kind="a")
    site.clock.move(seconds=62)
    while await measurements.step(site.context):
        pass
    rows = await site.fetch("select topic, payload from publication order by topic")
    return [(topic, json.loads(payload)) for topic, payload in rows]


async def publish(site: Site, **settings: Any) -> None:
    columns = {"node_id": 2, **settings}
    await site.execute(
        f"""
        insert into publish_settings (user_id, created_at, modified_at, {", ".join(columns)})
        values (1, %(now)s, %(now)s, {", ".join(f"%({name})s" for name in columns)})
        """,
        **columns,
    )


async def test_a_group_for_the_provider_and_assets_for_the_optimizer(site: Site) -> None:
    await publish(site)
    group, asset = sorted(await report(site), key=lambda one: "Asset" in one[0])
    ids = {op: id for op, id in await site.fetch("select operation, request_id from outbox")}
    at = (int(NOON.timestamp()) + 60) * 1000
    assert group == (
        f"{PREFIX}/UpdateGroupMeasurements/1/2/my-group/cp",
        {
            "created": at,
            "nodeId": 2,
            "sourceId": "/oscp/fp/UpdateGroupMeasurements/1/2/my-group/cp",
            "energyImport": 28,
            "unitImport": "Wh",
            "reportIdentifier": ids["update_group_measurements"],
        },
    )
    assert asset == (
        f"{PREFIX}/UpdateAssetMeasurements/1/2/my-group/co/co-1",
        {
            "created": at,
            "nodeId": 2,
            "sourceId": "/oscp/fp/UpdateAssetMeasurements/1/2/my-group/co/co-1",
            "energyImport_a": 28,
            "unitImport_a": "Wh",
            "amount_a": 150,
            "unit_a": "W",
            "reportIdentifier": ids["update_asset_measurements"],
        },
    )
    assert await site.fetch("select from stream where is_own") == []


async def test_a_correction_is_published_as_one(site: Site) -> None:
    await publish(site)
    await report(site)
    await site.execute("delete from publication")
    await site.read("load/1", {60: 1035}, name="wattHours", kind="a")
    while await measurements.step(site.context):
        pass
    rows = [json.loads(p) for (p,) in await site.fetch("select payload from publication")]
    assert {(row.get("energyImport", row.get("energyImport_a")), row["revision"]) for row in rows} \
        == {(32, 1)}  # fmt: skip


async def test_energies_in_several_units_are_added_in_watt_hours(site: Site) -> None:
    await publish(site)
    await site.execute(
        'update peer set service_props = \'{"group-measurement-entries": "per-asset"}\''
    )
    in_kwh = ENERGY | {"unit": "kWh", "multiplier": 0.001}
    await site.add_asset("cp-2", energy=in_kwh)
    rows = dict(await report(site))
    told = rows[f"{PREFIX}/UpdateGroupMeasurements/1/2/my-group/cp"]
    assert (told["energyImport"], told["unitImport"]) == (56, "Wh")


@pytest.mark.parametrize("settings", [None, {"publish_to_solar_flux": False}])
async def test_without_settings_nothing_is_published(
    site: Site, settings: dict[str, Any] | None
) -> None:
    if settings is not None:
        await publish(site, **settings)
    assert await report(site) == []
    assert len(await site.owed()) == 2


async def test_long_reports_are_published_run_by_run(site: Site) -> None:
    """As many assets as are never read at once, and a report of each of their energies."""
    await publish(site)
    switch = '{"group-measurement-entries": "per-asset"}'
    await site.execute("update peer set service_props = %(s)s where id = 1", s=switch)
    for number in range(200):
        for audience in ("CapacityProvider", "CapacityOptimizer"):
            await site.add_asset(f"{audience}-{number}", audience=audience, energy=ENERGY)
    rows = await report(site)
    energies = [
        row["energyImport"] for topic, row in rows if "UpdateAsset" in topic and "co-1" not in topic
    ]
    assert energies == [28] * 200
    (of_group,) = [row for topic, row in rows if "UpdateGroup" in topic]
    assert of_group["energyImport"] == 201 * 28
