from __future__ import annotations

import asyncio

import aiohttp
import pytest
from sim.provider import TinyProvider
from sim.talk import in_an_hour, measurements, switch
from support.waiting import wait_for

from fpd.sim.capacity_provider import CapacityProvider


async def test_network_quirks(
    fp: TinyProvider, cp: CapacityProvider, http: aiohttp.ClientSession
) -> None:
    beat = {"offline_mode_at": in_an_hour()}
    rule = {"status": 500, "path": "heartbeat", "times": 2, "body": {"message": "tired"}}
    await switch(http, cp, answer_status=rule, stop_heartbeats=True)
    for _ in range(2):
        assert await fp.send("heartbeat", beat) == (500, {"message": "tired"})
    assert (await fp.send("heartbeat", beat))[0] == 204
    later = {"status": 429, "headers": {"Retry-After": "7"}}
    await switch(http, cp, answer_status=[later])
    async with http.post(f"{cp.url}/oscp/cp/2.0/heartbeat") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")

    await switch(http, cp, answer_status=None, delay_s=0.2)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert (await fp.send("heartbeat", beat))[0] == 204
    assert loop.time() - begun >= 0.2
    await switch(http, cp, delay_s=0, drop=True)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await fp.send("heartbeat", beat)
    taken = cp.received["update_group_measurements"]
    await switch(http, cp, drop=False, lose_answer=True)
    for _ in range(2):  # the second is a repetition
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await fp.send("update_group_measurements", measurements(), request_id="m-1")
    assert cp.received["update_group_measurements"] == taken + 1
    await switch(http, cp, lose_answer=False)
    short = aiohttp.ClientTimeout(total=0.2)
    await switch(http, cp, tarpit=True, fault_path="heartbeat")
    with pytest.raises(TimeoutError):
        await http.post(f"{cp.url}/oscp/cp/2.0/heartbeat", timeout=short)
    assert (await fp.send("update_group_measurements", measurements()))[0] == 204
    await switch(http, cp, tarpit=False, hang_after_headers=True)
    async with http.post(f"{cp.url}/oscp/cp/2.0/heartbeat", timeout=short) as response:
        assert response.status == 200
        with pytest.raises(TimeoutError):
            await response.read()
    async with http.get(f"{cp.url}/_sim/log", params={"path": "/cp/2.0/heartbeat"}) as response:
        notes = [entry["note"] for entry in await response.json() if entry["note"]]
    assert notes == ["dropped", "tarpit", "hung after headers"]

    await switch(http, cp, hang_after_headers=False, refuse_connections_s=1)
    await wait_for(lambda: refused(http, cp))
    await wait_for(lambda: serves(http, cp))


async def refused(http: aiohttp.ClientSession, peer: CapacityProvider) -> bool:
    return not await serves(http, peer)


async def serves(http: aiohttp.ClientSession, peer: CapacityProvider) -> bool:
    try:
        async with http.get(f"{peer.url}/_sim/state") as response:
            return bool((await response.json())["role"] == "capacity-provider")
    except aiohttp.ClientConnectorError:
        return False
