"""A house whose meter and battery are a MyEMS: forecast, command, device, point read back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flows.polled_house import Home
from flows.steered_house import WEDNESDAY, Hands

from fpd.adapters.myems_keys import MyemsDevice
from fpd.config_myems import MyemsPlatform, PlatformListener, PlatformStream
from fpd.domain.datum import Datum, StreamKey
from fpd.domain.forecast import Envelope, Reason
from fpd.flows import ingest
from fpd.flows.letting_go import at_the_end
from fpd.flows.myems_listener import Shown, shown
from fpd.flows.releasing import release, release_straight
from fpd.sim.myems import MyEms, MyEmsOptions
from fpd.sim.myems_site import Command
from fpd.store.db import Database

HOUR = timedelta(hours=1)
LOGIN = {"api_key": "fpd-key", "username": "administrator", "password": "!MyEMS1"}
METER = {"nodeId": 1, "sourceId": "/grid", "property": "watts"}
GRID = PlatformStream(meter=4, point=10, node_id=1, source_id="/grid")
OWNER = "energystoragecontainers/1"


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def server(clock: Hands) -> AsyncIterator[MyEms]:
    options = MyEmsOptions(utc_offset="+02:00", interval_s=5.0, history_h=0.5)
    sim = MyEms(options, clock=clock)
    await sim.start()
    yield sim
    await sim.stop()


@pytest.fixture
async def home(database_url: str, clock: Hands, server: MyEms) -> AsyncIterator[Home]:
    db = Database(database_url, clock=clock)
    await db.open()
    battery = MyemsDevice(
        name="battery", type="myems", base_url=server.url, command_id=1, point_id=14, meter_id=6,
        soc_point_id=13, utc_offset="+02:00", capacity_wh=200_000, max_charge_w=100_000,
        max_discharge_w=100_000, verify_after_s=10, node_id=1, source_id="/battery", **LOGIN,
    )  # fmt: skip
    home = Home(db, clock, [battery])
    home.watch(platform(server, stream=(GRID,)))
    yield home
    await home.close()
    await db.close()


def platform(server: MyEms, **settings: Any) -> MyemsPlatform:
    return MyemsPlatform(
        name="site", type="myems", base_url=server.url, utc_offset="+02:00", poll_s=10.0,
        **(LOGIN | settings),
    )  # fmt: skip


async def test_the_loop_is_closed_and_let_go_of(home: Home, server: MyEms, clock: Hands) -> None:
    group_id = await home.group({"battery": {}}, {"meter": METER})
    await home.live(seconds=20)
    await home.forecast(group_id, "CONSUMPTION", 10_000, start_at=WEDNESDAY, end_at=clock() + HOUR)
    await home.live(seconds=40)
    assert server.state()["grid_kw"] == pytest.approx(9.8, abs=0.15)
    state = await home.state("battery")
    assert state["confirmed"] == state["told"] == {"kind": "setpoint", "power_w": 4400}
    assert state["health"] == "ok"
    logins = server.accounts.logins
    server.accounts.end_sessions(forget=True)  # restarted in between
    await home.live(seconds=60)
    sends = server.state()["published"]
    assert len(sends) >= 3, "it is told again inside the block"
    assert server.accounts.logins <= logins + 2
    clock.move(hours=1)
    await home.live(seconds=40)
    assert server.state()["battery_kw"] == 0
    assert server.state()["published"][-1]["payload"].endswith('"set_value":0}')


async def test_it_is_given_back_with_the_database_and_without(
    home: Home, server: MyEms, clock: Hands
) -> None:
    group_id = await home.group({"battery": {}}, {"meter": METER})
    await home.live(seconds=20)
    until = clock() + 2 * HOUR
    await home.forecast(group_id, "CONSUMPTION", 10_000, start_at=WEDNESDAY, end_at=until)

    async def obeys() -> None:
        await home.live(seconds=40)
        assert abs(server.state()["battery_kw"]) == 4.4

    def rests() -> bool:
        clock.move(seconds=10)
        return server.state()["battery_kw"] == 0

    await obeys()
    (found,) = await release(home.context, after_stop=False)
    assert (found.device, found.ok, rests()) == ("battery", True, True)
    await obeys()
    (found,) = await release_straight(home.context.config, clock=clock, after_stop=True)
    assert (found.ok, found.outcome, rests()) == (True, "told to rest", True)
    await obeys()
    await at_the_end(home.context, home.devices)
    assert rests()
    assert server.state()["published"][-1]["payload"].endswith('"set_value":0}')


async def test_a_broker_that_refuses_myems_is_noticed(
    home: Home, server: MyEms, clock: Hands
) -> None:
    server.switch({"broker": "refuses"})
    group_id = await home.group({"battery": {}}, {"meter": METER})
    await home.live(seconds=20)
    await home.forecast(group_id, "CONSUMPTION", 10_000, start_at=WEDNESDAY, end_at=clock() + HOUR)
    await home.live(seconds=110)
    state = await home.state("battery")
    assert state["health"] == "degraded" and "controlled by others?" in state["detail"]
    assert "unfollowed" in {outcome for _, outcome in await home.commands("battery")}
    await home.poll()
    assert (await home.row("select health from platform"))[0] == "ok"


async def test_a_group_is_shown_as_schedules_an_event_and_a_days_energy(
    home: Home, server: MyEms, clock: Hands
) -> None:
    server.site.commands[7] = Command(7, "oscp_event", "myems/command/e", "$s1", None, None)
    group_id = await home.group({"battery": {}})
    row = PlatformListener(
        group_id=group_id, schedules_of=OWNER, event_command_id=7, offline_meter=1, node_id=1,
        source_id="/fed",
    )  # fmt: skip
    home.watch(platform(server, listener=(row,)))
    midnight = datetime(2025, 3, 11, 22, tzinfo=UTC)  # the server's
    fed = StreamKey(1, 1, "fed")
    readings = {midnight - 24 * HOUR: 1000, midnight - HOUR: 3500, midnight: 4000}
    await ingest.store(
        home.context,
        [Datum(stream=fed, at=at, a={"wattHours": value}) for at, value in readings.items()],  # type: ignore[dict-item]
    )
    evening = midnight + 23 * HOUR
    await home.forecast(
        group_id, "CONSUMPTION", 35_500, start_at=evening, end_at=evening + 2 * HOUR
    )
    for _ in range(5):
        clock.move(seconds=3)
        await home.poll()
    plan = server.state()["schedules"][OWNER]
    assert [(r["start_time_of_day"], r["end_time_of_day"], r["power"]) for r in plan] == [
        ("23:00:00", "24:00:00", 35.5), ("00:00:00", "01:00:00", 35.5),
    ]  # fmt: skip
    assert server.state()["offline_days"] == {"1 2025-03-11": 3.0}
    assert [one["payload"] for one in server.state()["published"]] == ["0"]

    # An operator drops one and edits the other; a process ends before it has noted what it wrote.
    rows = server.site.schedules["energystoragecontainers", 1]
    first, second = rows
    del rows[first]
    rows[second]["power"] *= 2
    await home.row(
        """update platform_poll set memory = jsonb_set(memory, '{rows,0,id}', 'null')
            where job = 'listener/' || %s returning 1""",
        group_id,
    )
    await home.platforms.close()
    home.watch(platform(server, listener=(row,)))
    for _ in range(4):
        clock.move(seconds=5)
        await home.poll()
    assert len(rows) == 3 and rows[second]["power"] == 71
    assert sorted(r["power"] for r in rows.values()) == [35.5, 35.5, 71]

    clock.at = evening + timedelta(minutes=30)
    for _ in range(3):
        clock.move(seconds=11)
        await home.poll()
    assert server.state()["published"][-1]["payload"] == "1"
    clock.at = evening + 3 * HOUR
    for _ in range(3):
        clock.move(seconds=11)
        await home.poll()
    assert server.state()["published"][-1]["payload"] == "0"
    assert [*rows] == [second], "ours are gone, the operator's stays"


async def test_what_was_shown_is_withdrawn_when_it_is_configured_no_more(
    home: Home, server: MyEms, clock: Hands
) -> None:
    server.site.commands[7] = Command(7, "oscp_event", "myems/command/e", "$s1", None, None)
    group_id = await home.group({"battery": {}})
    row = PlatformListener(group_id=group_id, schedules_of=OWNER, event_command_id=7)

    async def configured(*rows: PlatformListener) -> None:
        await home.platforms.close()
        home.watch(platform(server, stream=(GRID,), listener=rows))
        for _ in range(4):
            clock.move(seconds=11)
            await home.poll()

    def told() -> tuple[int, int, str]:
        shown = server.state()["schedules"]
        last = server.state()["published"][-1]["payload"]
        return len(shown[OWNER]), len(shown["microgrids/1"]), last

    until = clock() + 2 * HOUR
    await home.forecast(group_id, "CONSUMPTION", 35_500, start_at=WEDNESDAY, end_at=until)
    await configured(row)
    assert told() == (1, 0, "1")
    await configured(replace(row, schedules_of="microgrids/1"))
    assert told() == (0, 1, "1"), "it moves"
    await configured()
    assert told() == (0, 0, "0")
    await configured()
    kept = await home.row("select count(*) from platform_poll where job like 'listener/%%'")
    assert kept[0] == 0


def test_the_running_block_keeps_its_beginning() -> None:
    now = datetime(2026, 3, 10, 12, 0, 30, tzinfo=UTC)
    block = Envelope(
        start_at=now, end_at=now + 2 * HOUR, min_w=None, max_w=5000, optimum_w=None,
        reason=Reason.FORECAST, forecast_ids=(1,),
    )  # fmt: skip
    rest = replace(block, start_at=now + 2 * HOUR, end_at=None, max_w=None, reason=Reason.NONE)
    (first,) = shown([block, rest], "onpeak", [], now=now, offset=HOUR)
    assert (first.start_s, first.end_s) == (13 * 3600, 15 * 3600 + 30)
    later = now + timedelta(minutes=9)
    after = [replace(block, start_at=later)]
    assert shown(after, "onpeak", [first], now=later, offset=HOUR) == [first]
    assert shown(after, "onpeak", [], now=later, offset=HOUR)[0].start_s == 13 * 3600 + 540
    assert first != Shown(start_s=first.start_s, end_s=0, peak_type="onpeak", power=first.power)
