"""MyEMS's sessions, refusals and silent failures, against the simulator over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from adapters.myems_server import Bench, bench
from adapters.rig import wired

from fpd.adapters.device import DeviceFault, Stopped, Unreachable
from fpd.adapters.myems_api import Access
from fpd.adapters.myems_errors import AccountRefused, Missing, Refused
from fpd.adapters.myems_server import server

HTML = {"status": 200, "body": "<html>Sign in to the proxy</html>"}


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Bench]:
    async with bench(tmp_path) as made:
        yield made


async def test_an_api_key_reads_and_an_administrator_lists(at: Bench) -> None:
    client = at.client(admin=True)
    assert await client.version() == (6, 7, 0)
    values = await client.point_values()
    assert values[10] == Decimal("14.2") and 24 not in values
    points = {point.id: point for point in await client.points()}
    assert (points[13].units, points[13].high_limit) == ("%", Decimal(100))
    assert [point.id for point in await client.meter_points(6)] == [13, 14, 15, 17]
    assert await client.offset() == timedelta(hours=5, minutes=30)
    assert at.sim.accounts.logins == 1


async def test_a_session_is_replaced_when_it_ends_or_is_unknown(at: Bench) -> None:
    client = at.client(admin=True)
    await client.points()
    at.clock.move(hours=8, minutes=1)  # absolute, however much it was used
    await client.points()
    for forget in (False, True):
        at.sim.accounts.end_sessions(forget=forget)
        await client.points()
    assert at.sim.accounts.logins == 4


async def test_a_session_is_renewed_before_it_ends(at: Bench) -> None:
    client = at.client(admin=True)
    await client.points()
    at.clock.move(hours=7, minutes=55)
    await client.points()
    assert at.sim.accounts.logins == 2
    assert not at.asked("/points")[2:]


async def test_a_session_ends_with_us(at: Bench) -> None:
    await at.client(admin=True).points()
    await at.wiring.close()
    assert at.sim.state()["sessions"] == 0


async def test_a_wrong_password_is_tried_once_whatever_is_restarted(at: Bench) -> None:
    for _ in range(4):
        client = at.client(username="administrator", password="wrong")
        for _ in range(2):
            with pytest.raises(AccountRefused, match="password is wrong"):
                await client.points()
        at.restart()
    assert len(at.asked("/users/login")) == 1
    assert at.sim.state()["locked"] == []
    await at.client(admin=True).points()  # the password was changed
    assert "wrong" not in (at.wiring.folder or Path()).joinpath("myems.refused.json").read_text()


async def test_devices_and_platforms_together_try_a_wrong_password_once(at: Bench) -> None:
    async with wired(at.clock) as other:
        other.folder, other.tenants = at.wiring.folder, at.wiring.tenants
        clients = [
            server(at.config(username="administrator", password="wrong", api_key=key), wiring)
            for wiring in (at.wiring, other)
            for key in ("fpd-key", None)
        ]
        results = await asyncio.gather(
            *(client.points() for client in clients), return_exceptions=True
        )
    assert all(isinstance(result, AccountRefused) for result in results)
    assert len(at.asked("/users/login")) == 1


async def test_a_locked_account_is_left_alone(at: Bench) -> None:
    at.sim.accounts.users["administrator"].locked = True
    client = at.client(admin=True)
    for _ in range(3):
        with pytest.raises(AccountRefused, match="LOCKED"):
            await client.points()
    assert len(at.asked("/users/login")) == 1
    at.sim.accounts.users["administrator"].locked = False
    assert at.wiring.folder is not None
    (at.wiring.folder / "myems.refused.json").unlink()
    assert await client.points(), "without a restart"


async def test_what_cannot_be_written_down_is_remembered_all_the_same(at: Bench) -> None:
    assert at.wiring.folder is not None
    at.wiring.folder = at.wiring.folder / "file" / "folder"
    at.wiring.folder.parent.touch()
    client = at.client(username="administrator", password="wrong")
    for _ in range(3):
        with pytest.raises(AccountRefused):
            await client.points()
    assert len(at.asked("/users/login")) == 1


@pytest.mark.parametrize("name", ["readonly", "operator"])
async def test_who_may_not_write_is_told_so(at: Bench, name: str) -> None:
    client = at.client(username=name, password="!MyEMS1")
    with pytest.raises(Stopped, match="INVALID_PRIVILEGE"):
        await client.send(1, Decimal(1))


async def test_a_demotion_is_noticed(at: Bench) -> None:
    client = at.client(admin=True)
    await client.send(1, Decimal(1))
    at.sim.switch({"demoted": True})
    with pytest.raises(Stopped, match="INVALID_PRIVILEGE"):
        await client.send(1, Decimal(2))


async def test_an_api_key_may_expire_or_be_unknown(at: Bench) -> None:
    at.sim.switch({"api_key_expired": True})
    with pytest.raises(Stopped, match="key has expired") as refused:
        await at.client().point_values()
    assert refused.value.retry_s == 60, "it may be renewed at the server"
    with pytest.raises(Stopped, match="key is not known"):
        await at.client(api_key="another").point_values()


@pytest.mark.parametrize(
    ("quirks", "reason"),
    [
        ({"swallows": ["/reports"]}, "empty body"),
        ({"answer_status": {"status": 500, "body": "oops"}}, "database down"),
        ({"answer_status": {"status": 200, "body": '[{"point_id": 10, "val'}}, "not JSON"),
        ({"answer_status": HTML}, "not JSON"),
        ({"answer_status": {"status": 200, "body": {"a": 1}}}, "not what MyEMS answers"),
        ({"answer_status": {"status": 302, "headers": {"Location": "/x"}}}, "redirects"),
        ({"database_down": True}, "database down"),
        ({"drop": True}, "disconnected"),
    ],
)
async def test_every_way_to_fail_is_one_fault(at: Bench, quirks: object, reason: str) -> None:
    at.sim.switch(quirks)  # type: ignore[arg-type]
    with pytest.raises(Unreachable, match=reason):
        await at.client().point_values()


async def test_a_missing_path_of_the_api_is_told(at: Bench) -> None:
    client = at.client()
    with pytest.raises(Stopped, match="lack its path"):
        await client.get("/nothing")
    with pytest.raises(Missing, match="METER_NOT_FOUND"):
        await client.meter_points(99)


async def test_after_five_failures_nobody_is_asked(at: Bench) -> None:
    client = at.client()
    at.sim.switch({"database_down": True})
    for _ in range(7):
        with pytest.raises(Unreachable):
            await client.point_values()
    assert len(at.asked("/reports")) == 5


async def test_a_value_is_always_explicit_and_plain(at: Bench) -> None:
    client = at.client(admin=True)
    for value in ("-25.5", "1200", "0", "1E+3", "0.0000001"):
        await client.send(1, Decimal(value))
    sent = [one["payload"].partition("set_value")[2] for one in at.sim.state()["published"]]
    assert sent == ['":-25.5}', '":1200}', '":0}', '":1000}', '":1e-07}']
    assert await client.command(1) is not None


@pytest.mark.parametrize(
    ("command_id", "quirks", "kind", "reason"),
    [
        (1, {"broker": "down"}, Unreachable, "cannot reach its own broker"),
        (5, {}, Refused, "'unknown'"),
        (6, {}, Refused, "MQTT_PUBLISH_ERROR"),
        (99, {}, Missing, "COMMAND_NOT_FOUND"),
        (1, {"swallows": ["/send"]}, Unreachable, "nothing was sent"),
    ],
)
async def test_only_success_is_success(
    at: Bench, command_id: int, quirks: object, kind: type[DeviceFault], reason: str
) -> None:
    at.sim.switch(quirks)  # type: ignore[arg-type]
    with pytest.raises(kind, match=reason):
        await at.client(admin=True).send(command_id, Decimal(2))


async def test_a_body_without_envelope_is_a_500(at: Bench) -> None:
    with pytest.raises(Unreachable, match="500"):
        await at.client(admin=True).call("PUT", "/commands/1/send", b'{"set_value": 1}')


async def test_a_total_of_a_day_is_judged_before_it_is_sent(at: Bench) -> None:
    client = at.client()
    await client.put_day(1, "2025-03-11", Decimal("24.0"))
    with pytest.raises(Stopped, match="outside the limits"):
        await client.put_day(1, "2025-03-11", Decimal(30_000))
    assert at.sim.state()["offline_days"] == {"1 2025-03-11": 24.0}
    with pytest.raises(Missing):
        await client.put_day(9, "2025-03-11", Decimal(1))


async def test_a_plan_row_that_was_swallowed_is_no_success(at: Bench) -> None:
    client = at.client(admin=True)
    row: dict[str, object] = {
        "start_time_of_day": "17:00:00",
        "end_time_of_day": "24:00:00",
        "peak_type": "onpeak",
    }
    with pytest.raises(Refused, match="nothing was stored"):
        await client.add_schedule("energystoragecontainers", 1, row)
    added = await client.add_schedule(
        "energystoragecontainers", 1, row | {"power": Decimal("-35.5")}
    )
    (found,) = await client.schedules("energystoragecontainers", 1)
    assert (found.id, found.end_time_of_day, found.power) == (
        added,
        "1 day, 0:00:00",
        Decimal("-35.5"),
    )
    await client.drop_schedule("energystoragecontainers", 1, added)
    await client.drop_schedule("energystoragecontainers", 1, added)
    assert await client.schedules("energystoragecontainers", 1) == []


async def test_without_account_an_administrators_list_is_refused(at: Bench) -> None:
    with pytest.raises(Stopped, match="not configured"):
        await at.client().points()
    reply = await at.client(admin=True).call("GET", "/points", access=Access.ADMIN)
    assert reply.status == 200
