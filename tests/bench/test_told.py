"""A breach that a meter shows reaches the provider of the real daemon, once, over `kill -9`.

It takes a minute: a breach must last before anybody is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import aiohttp
from support.daemon import Daemon, MakeDaemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer

METER = {"nodeId": 7, "sourceId": "/grid", "property": "watts"}
CONTROL = {"meter": METER, "requestAdjustment": True}


async def measure(daemon: Daemon, watts: float) -> None:
    """Be a meter for ever; while the daemon is dead nobody listens."""
    headers = {"Authorization": f"Bearer {daemon.bearer}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        while True:
            created = int(datetime.now(UTC).timestamp() * 1000)
            datum = {"nodeId": 7, "sourceId": "/grid", "created": created, "watts": watts}
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(f"{daemon.url}/api/v1/datum", json=datum) as answer:
                    assert answer.status in (200, 503), await answer.text()
            await asyncio.sleep(2)


async def test_a_measured_breach_is_told_once_with_its_block_also_after_a_kill(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    daemon = await make_daemon(database_url).start()
    await daemon.log_in()
    site = await make_site(daemon, optimizer=False)
    group = await daemon.manage("GET", f"capacity-groups/{site.group_id}")
    await daemon.manage("PUT", f"capacity-groups/{site.group_id}", group | {"control": CONTROL})
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        said = forecast(3.0)
        status, _, _ = await cp.says(
            daemon.url, "update_group_capacity_forecast", said, token=token, request_id="day-ahead"
        )
        assert status == 204
        meter = asyncio.create_task(measure(daemon, 4200))
        try:
            told = await cp.hears("group_capacity_compliance_error", within_s=90)
            assert told.headers["x-correlation-id"] == "day-ahead"
            (block,) = told.body["forecasted_blocks"]
            assert (block["capacity"], block["unit"]) == (3.0, "KW")
            assert "measured-breach" in told.body["message"]
            print(f"\ntold: {told.body}")
            counted = 'fpd_compliance_errors_total{reason="measured-breach"} 1.0'
            assert counted in await daemon.answers("/metrics")
            await daemon.kill()
            await daemon.start()
            await asyncio.sleep(45)
        finally:
            meter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await meter
        # Killed before its answer was noted, the same message may come again, under the same id.
        errors = cp.of("group_capacity_compliance_error")
        assert {heard.headers["x-request-id"] for heard in errors} == {told.headers["x-request-id"]}
        assert cp.of("adjust_group_capacity_forecast") == [], "a breach may have any reason"
        shown = await daemon.command("oscp", "groups", "troubles", str(site.group_id))
        assert "measured-breach" in shown and "delivered" in shown
        print(shown)
        assert "cannot keep 1 block of its import limit" in await daemon.answers("/")
