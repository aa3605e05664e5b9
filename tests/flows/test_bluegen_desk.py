"""An operator's commands for fuel cells, beside a daemon and without one: real PostgreSQL, and the
simulated service over real HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from flows.steered_house import WEDNESDAY, Hands, House, fuel_cell

from fpd.adapters.bluegen_errors import Refusal
from fpd.adapters.bluegen_memory import kept
from fpd.adapters.device import DeviceFault
from fpd.errors import Conflict, Unknown
from fpd.flows.bluegen_desk import Desk, desk, remaining
from fpd.sim.bluegen import BlueGen, BlueGenOptions
from fpd.sim.journal import Filter
from fpd.store.db import Database

HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def service(clock: Hands) -> AsyncIterator[BlueGen]:
    simulator = BlueGen(
        BlueGenOptions(unit=(249, 250), week_anchor="SUN", activation_delay_s=600), clock=clock
    )
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def house(database_url: str, clock: Hands, service: BlueGen) -> AsyncIterator[House]:
    db = Database(database_url, clock=clock)
    await db.open()
    house = House(db, clock, [fuel_cell(service.url, week_anchor="UNKNOWN")])
    yield house
    await house.close()
    await db.close()


@pytest.fixture
async def at_desk(house: House) -> AsyncIterator[Desk]:
    async with desk(house.context) as opened:
        yield opened


async def begin(at_desk: Desk) -> None:
    intent = await at_desk.intend("cell", wait=2 * HOUR)
    await at_desk.calibrate("cell", intent.experiment)


async def test_an_experiment_without_a_daemon(
    at_desk: Desk, house: House, clock: Hands, service: BlueGen
) -> None:
    await begin(at_desk)
    with pytest.raises(Conflict, match="running"):
        await at_desk.intend("cell", wait=2 * HOUR)
    left = remaining(await at_desk.look("cell"), clock())
    while left:
        clock.move(minutes=30)
        left = remaining(await at_desk.look("cell"), clock())
    found = await at_desk.conclude("cell")
    assert (found.anchor, found.tz, found.semantics) == ("SUN", "UTC", "step")
    (known,) = await at_desk.known()
    assert known.kept.findings == found
    assert known.requests == service.state()["requests_today"]
    kinds = [kind for (kind,) in await house.rows("select kind from event order by id")]
    assert kinds == ["device.calibration.begun", "device.calibration.done"]


async def test_a_daemon_reads_on_and_gives_back_what_nobody_concludes(
    at_desk: Desk, house: House, clock: Hands, service: BlueGen
) -> None:
    own = int((await service.actions["assign_foreign"]({}))["pid"])
    await house.group({"cell": {}})
    await house.look()
    await begin(at_desk)
    assert service.state()["units"]["249"]["pid"] != own
    for _ in range(6):
        clock.move(minutes=30)
        await house.look()
    assert service.state()["units"]["249"]["pid"] != own, "control leaves it alone until the end"
    clock.move(minutes=60)
    await house.look()
    await house.live(seconds=120)
    assert service.state()["units"]["249"]["pid"] == own
    assert (await at_desk.conclude("cell")).anchor == "SUN"


async def test_while_a_limit_is_in_force_nothing_is_tried(at_desk: Desk, house: House) -> None:
    group = await house.group({"cell": {}})
    await house.forecast(group, "GENERATION", 1000, start_at=WEDNESDAY, end_at=WEDNESDAY + 5 * HOUR)
    await house.look()
    with pytest.raises(Conflict, match="limit is in force"):
        await at_desk.intend("cell", wait=2 * HOUR)


async def test_a_limit_ends_an_experiment(
    at_desk: Desk, house: House, clock: Hands, service: BlueGen
) -> None:
    group = await house.group({"cell": {}})
    await house.look()
    await begin(at_desk)
    await house.forecast(group, "GENERATION", 1000, start_at=WEDNESDAY, end_at=WEDNESDAY + 5 * HOUR)
    await house.look()
    clock.move(minutes=20)
    await house.look()
    assert {power for _, power in service.state()["units"]["249"]["running_points"]} >= {1000}
    with pytest.raises(DeviceFault, match="a limit has ended it"):
        await at_desk.conclude("cell")


async def test_a_device_that_somebody_speaks_to_is_not_spoken_to(
    at_desk: Desk, house: House, clock: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fpd.flows.bluegen_desk._PATIENCE_S", 0.0)
    await house.look()
    await house.rows("update device_state set leased_until = %s returning 1", clock() + HOUR)
    with pytest.raises(Conflict, match="another process"):
        await at_desk.intend("cell", wait=2 * HOUR)


async def test_the_service_is_shown(at_desk: Desk, house: House) -> None:
    await begin(at_desk)
    units = {row["unit"]: row for row in await at_desk.units()}
    assert units[249]["device"] == "cell"
    assert units[250]["device"] is None
    assert units[249]["state"] == "Power Export"
    profiles = {row["name"]: row for row in await at_desk.profiles()}
    ours = next(row for row in profiles.values() if row["units"])
    assert (ours["ours"], ours["units"]) == (True, [249])


async def test_a_stop_is_lifted_for_the_running_daemon(
    at_desk: Desk, house: House, clock: Hands, service: BlueGen
) -> None:
    service.switch({"naughty_ip": True})
    await house.look()
    assert (await house.state("cell"))["health"] == "stopped"
    (known,) = await at_desk.known()
    assert "Naughty IP" in known.notes["stop"]["reason"]
    service.switch(None)
    clock.move(minutes=5)
    await house.look()
    assert (await house.state("cell"))["health"] == "stopped", "nothing is tried by itself"
    await at_desk.unlock("cell")
    await house.look()
    assert (await house.state("cell"))["health"] == "ok"


async def test_uninstalling_leaves_nothing_of_ours(
    at_desk: Desk, house: House, service: BlueGen
) -> None:
    own = int((await service.actions["assign_foreign"]({}))["pid"])
    await begin(at_desk)
    with pytest.raises(Conflict, match="running"):
        await at_desk.uninstall("cell")
    house.clock.move(hours=4)
    assert await at_desk.uninstall("cell") == ("fpd-fpd-249-a", "fpd-fpd-249-b")
    assert list(service.state()["profiles"]) == [own]
    assert kept((await house.state("cell"))["memory"]).slots == ()


async def test_a_password_is_encrypted_for_good(at_desk: Desk, service: BlueGen) -> None:
    stored, issued_on = await at_desk.encrypt("cell", "demo")
    assert service.account.login("demo", stored, plain_allowed=False)
    assert service.account.issued_on is not None
    assert issued_on == service.timestamp(service.account.issued_on)
    with pytest.raises(Unknown, match="cell"):
        await at_desk.encrypt("nobody", "demo")


async def test_a_used_up_quota_survives_a_restart(house: House, service: BlueGen) -> None:
    service.switch({"quota_per_day": 3})
    await house.look()
    assert "quota_exhausted" in (await house.state("cell"))["detail"]
    assert (await house.state("cell"))["health"] == "rationed"
    asked = len(service.journal.find(Filter()))
    async with desk(house.context) as fresh:
        with pytest.raises(Refusal, match="quota_exhausted"):
            await fresh.intend("cell", wait=2 * HOUR)
    assert len(service.journal.find(Filter())) == asked
    service.switch(None)
    async with desk(house.context) as fresh:
        await fresh.unlock("cell")
    await house.look()
    assert (await house.state("cell"))["health"] == "ok"


async def test_a_daemon_hears_that_the_learned_quota_was_lifted(
    at_desk: Desk, house: House, clock: Hands, service: BlueGen
) -> None:
    await house.rows(
        """
        insert into device_account values (%s, '2025-03-12', 10, '{"learned": 10}', %s) returning 1
        """,
        f"demo@{service.url}",
        clock(),
    )
    await house.look()
    assert "kept for commands" in (await house.state("cell"))["detail"]
    await at_desk.unlock("cell")
    await house.look()
    assert (await house.state("cell"))["health"] == "ok"
