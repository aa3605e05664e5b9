"""A house whose meter and load are a Reengen tenant's: forecast, command, row that shows it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from adapters.tenant import simulated
from flows.polled_house import Home
from flows.steered_house import WEDNESDAY, Hands

from fpd.adapters.reengen_keys import ReengenDevice
from fpd.config_reengen import ReengenPlatform, ReengenStream
from fpd.flows.letting_go import at_the_end
from fpd.flows.releasing import release, release_straight
from fpd.sim.reengen import Reengen
from fpd.store.db import Database

MINUTE = timedelta(minutes=1)
LOAD_W = 3000
METER = {"nodeId": 1, "sourceId": "/load", "property": "watts"}
KEYS = {"type": "reengen", "tenant": "demo", "user": "demo", "password": "demo",
        "min_interval_s": 0, "timeout_s": 5, "poll_s": 10}  # fmt: skip


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def tenant(clock: Hands) -> AsyncIterator[Reengen]:
    async with simulated(clock, period_s=20, irregular=False) as simulator:
        execute(simulator, -LOAD_W, WEDNESDAY - 5 * MINUTE)
        yield simulator


def execute(tenant: Reengen, power_w: float, at: Any) -> None:
    place = tenant.tenant.place("xFabrikaDepo")
    assert place is not None
    tenant.tenant.execute(place, "power-set", power_w, at)


def told(tenant: Reengen) -> list[Any]:
    return [each["parameter"] for each in tenant.tenant.executed[1:]]


@pytest.fixture(params=["xFabrikaDepo", None], ids=["shown by a point", "by its word"])
async def home(
    request: pytest.FixtureRequest, database_url: str, clock: Hands, tenant: Reengen
) -> AsyncIterator[Home]:
    db = Database(database_url, clock=clock)
    await db.open()
    url = f"{tenant.url}/api/do/"
    load: dict[str, Any] = KEYS | {
        "name": "load", "base_url": url, "point": "xFabrikaDepo", "command": "power-set",
        "confirm": request.param, "least_w": -LOAD_W, "most_w": 0, "rest_w": -LOAD_W,
    }  # fmt: skip
    home = Home(db, clock, [ReengenDevice(**load)])
    row = ReengenStream(
        point="xFabrikaDepo", definition="activePower", variant="phase", node_id=1,
        source_id="/load", unit="W", property_name="watts",
    )  # fmt: skip
    keys: dict[str, Any] = KEYS | {"backfill_days": 0.02, "stream": (row,)}
    home.watch(ReengenPlatform(name="factory", base_url=url, **keys))
    yield home
    await home.close()
    await db.close()


async def test_a_load_is_throttled_and_let_go_of(home: Home, tenant: Reengen, clock: Hands) -> None:
    group_id = await home.group({"load": {}}, {"meter": METER, "marginPercent": 0})
    await home.live(seconds=60)
    assert told(tenant) == [], "nothing is limited: it is left to itself"
    until = clock() + 20 * MINUTE
    await home.forecast(group_id, "CONSUMPTION", 1200, start_at=clock(), end_at=until)
    await home.live(seconds=360)
    assert set(told(tenant)) == {-1200}, "the meter lags, and it is not told to go back"
    state = await home.state("load")
    assert state["confirmed"] == {"kind": "setpoint", "power_w": -1200}

    (found,) = await release(home.context, after_stop=False)
    assert (found.ok, told(tenant)[-1]) == (True, -LOAD_W)
    await home.live(seconds=120)
    assert told(tenant)[-1] == -1200
    (found,) = await release_straight(home.context.config, clock=clock, after_stop=True)
    assert (found.ok, told(tenant)[-1]) == (True, -LOAD_W)


async def test_a_daemon_that_ends_lets_go(home: Home, tenant: Reengen, clock: Hands) -> None:
    group_id = await home.group({"load": {}}, {"capacityScope": "Flexible", "marginPercent": 0})
    until = clock() + 3 * MINUTE
    await home.forecast(group_id, "CONSUMPTION", 1200, start_at=clock(), end_at=until)
    await home.live(seconds=60)
    assert set(told(tenant)) == {-1200}
    await at_the_end(home.context, home.devices)
    assert told(tenant)[-1] == -LOAD_W
    await home.live(seconds=60)
    assert told(tenant)[-1] == -1200, "one that goes on takes it up again"
    await home.live(seconds=120)
    assert told(tenant)[-1] == -LOAD_W
    assert (await home.state("load"))["confirmed"] == {"kind": "release"}
