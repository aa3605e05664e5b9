"""However the daemon ends, no battery keeps a setpoint that nobody stands by."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from support import processes
from support.daemon import Daemon, MakeDaemon, free_port, make_site
from support.waiting import wait_for

from fpd.sim.battery import Battery, BatteryOptions

DEVICE = """
[control]
interval_s = 0.5
[[device]]
name = "cellar"
type = "battery"
base_url = "{url}"
capacity_wh = 10000
max_charge_w = 3300
max_discharge_w = 3300
node_id = 1
source_id = "site/battery"
"""
METER = {"nodeId": 1, "sourceId": "site/battery", "property": "gridWatts"}


def _now() -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time.time())


async def test_every_way_out_ends_at_rest(make_daemon: MakeDaemon, database_url: str) -> None:
    battery = Battery(BatteryOptions(usoc=60, response_lag_s=0.0), clock=_now)
    battery.switch({"consumption_w": 4200})
    await battery.start()

    def delivers() -> float:
        return float(battery.state()["pac_w"])

    async def obeys() -> None:
        await wait_for(lambda: delivers() == 1200, timeout=15, what="the battery to obey")

    daemon = await make_daemon(database_url, more=DEVICE.format(url=battery.url)).start()
    await daemon.log_in()
    site = await make_site(daemon)
    group = await daemon.manage("GET", f"capacity-groups/{site.group_id}")
    group["control"] = {"meter": METER, "marginPercent": 0, "staticImportLimit": 3000}
    await daemon.manage("PUT", f"capacity-groups/{site.group_id}", group)
    asset = {
        "name": "cellar", "identifier": "cellar", "capacityGroupId": site.group_id, "enabled": True,
        "audience": "CapacityOptimizer", "nodeId": 1, "sourceId": "site/battery",
        "category": "Storage", "phase": "All", "control": {"device": "cellar"},
        "instantaneous": {"propertyNames": ["watts"], "unit": "W"},
    }  # fmt: skip
    await daemon.manage("POST", "assets", asset)
    await obeys()

    assert await daemon.terminate() == 0
    assert delivers() == -5, "SIGTERM: told to rest before the process ended"
    code, out, err = await _release(daemon, "--after-stop")
    assert (code, "it was at rest" in out) == (0, True), out + err

    await daemon.start()
    await obeys()
    await daemon.kill()
    assert delivers() == 1200, "a killed one can do nothing"
    code, out, err = await _release(daemon, "--after-stop")
    assert (code, delivers()) == (0, -5), out + err
    assert "cellar" in out and "released" in out

    await daemon.start()
    await obeys()
    await daemon.kill()
    nowhere = {"FPD_DATABASE__URL": f"postgresql://x@127.0.0.1:{free_port()}/x"}
    code, out, err = await _release(daemon, **nowhere)
    assert (code, delivers()) == (0, -5), out + err
    assert "without the database" in err

    await battery.stop()
    code, out, err = await _release(daemon, "--after-stop", **nowhere)
    assert code == 1
    assert "FAILED" in out


async def _release(daemon: Daemon, *arguments: str, **environ: str) -> tuple[int | None, Any, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FPD_")}
    ended = await asyncio.to_thread(
        *(processes.run, "release", "-c", str(daemon.config), *arguments),
        cwd=Path.cwd(),
        env=kept | environ,
    )
    return ended.returncode, ended.stdout, ended.stderr
