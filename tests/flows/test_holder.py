"""What a killed daemon held is free at once; what others hold is not."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

from flows.steered_house import Hands, House, battery

from fpd.flows import holder
from fpd.sim.battery import Battery, BatteryOptions
from fpd.store.db import Database

SAY = "from fpd.flows import holder; print(holder.own())"


def name_of_the_dead() -> str:
    said = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True)
    return said.stdout.strip()


async def test_only_what_the_dead_held_is_taken_up_at_once(database_url: str) -> None:
    dead, alive = name_of_the_dead(), holder.own()
    assert holder.gone(dead) and not holder.gone(alive)
    host, number, started = alive.split("/")
    assert holder.gone(f"{host}/{number}/{int(started) + 1}"), "the number was given anew"
    for unknown in (f"elsewhere/{number}/1", "", "nobody"):
        assert not holder.gone(unknown)
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    cellar = Battery(BatteryOptions(usoc=60), clock=clock)
    await cellar.start()
    cellar.switch({"consumption_w": 4200})
    meter = {"nodeId": 1, "sourceId": "/site/battery", "property": "gridWatts"}
    limited = {"meter": meter, "marginPercent": 0, "staticImportLimit": 3000}
    async with House(db, clock, [battery(cellar.url)]) as first:
        await first.group({"cellar": {}}, limited)
        await first.look()
    until = clock() + timedelta(seconds=30)
    for held_by in (alive, dead):
        cellar.switch({"consumption_w": 5000})
        clock.move(seconds=10)
        async with db.transaction() as conn:
            for table in ("control_due", "device_state"):
                await conn.execute(
                    f"update {table} set leased_until = %s, leased_by = %s", (until, held_by)
                )
        async with House(db, clock, [battery(cellar.url)]) as second:
            told = len(await second.commands("cellar"))
            await second.look()
            assert (len(await second.commands("cellar")) > told) == (held_by == dead)
    await cellar.stop()
    await db.close()


async def test_one_that_runs_on_does_not_wait_for_a_dead_ones_lease(
    database_url: str,
) -> None:
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    cellar = Battery(BatteryOptions(usoc=60), clock=clock)
    await cellar.start()
    cellar.switch({"consumption_w": 4200})
    meter = {"nodeId": 1, "sourceId": "/site/battery", "property": "gridWatts"}
    async with House(db, clock, [battery(cellar.url)]) as site:
        await site.group(
            {"cellar": {}}, {"meter": meter, "marginPercent": 0, "staticImportLimit": 3000}
        )
        await site.live(seconds=20)
        cellar.switch({"consumption_w": 5000})
        async with db.transaction() as conn:
            for table in ("control_due", "device_state"):
                await conn.execute(
                    f"update {table} set leased_until = %s, leased_by = %s",
                    (clock() + timedelta(seconds=30), name_of_the_dead()),
                )
        await site.live(seconds=10)
        clock.move(seconds=2)
        assert cellar.state()["pac_w"] == 2000
    await cellar.stop()
    await db.close()
