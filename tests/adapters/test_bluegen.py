"""A fuel cell follows a weekly profile, against the simulated web service over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from adapters.customer import Customer
from adapters.rig import Hands, Remembering, wired

from fpd.adapters.bluegen import Bluegen
from fpd.adapters.bluegen_errors import Refusal
from fpd.adapters.device import (
    DeviceFault,
    Excluded,
    Health,
    Profile,
    Release,
    Result,
    Setpoint,
    Stopped,
    Unreachable,
    Wiring,
)
from fpd.config import BluegenDevice
from fpd.domain.control.ticks import UnitLimits
from fpd.sim.bluegen import BlueGen
from fpd.sim.journal import Filter

CAPPED = Profile(
    points=((0, 1500), (230, 1500), (231, 1000), (240, 1000), (241, 1500), (671, 1500))
)
FLAT = Profile(points=((0, 1200), (671, 1200)))


def unit(service: BlueGen, wiring: Wiring, **settings: Any) -> Remembering:
    given = {"unit_id": 249, "username": "demo", "password": "demo", **settings}
    device = BluegenDevice(name="cell", type="bluegen", base_url=service.url, **given)
    return Remembering(Bluegen(device, wiring))


def asked(service: BlueGen, *methods: str, since: int = 0) -> list[str]:
    return [
        f"{entry.method} {entry.path}"
        for entry in service.journal.find(Filter(since=since))
        if entry.method in (methods or ("POST", "PUT", "DELETE"))
    ]


def logins(service: BlueGen) -> int:
    return asked(service).count("POST /customer/login")


def running(service: BlueGen, unit_id: int = 249) -> dict[str, Any]:
    found: dict[str, Any] = service.state()["units"][str(unit_id)]
    return found


@pytest.mark.parametrize("numbers", ["string", "number"])
@pytest.mark.parametrize("other_spelling", [False, True])
async def test_a_unit_is_read_however_the_service_spells(
    service: BlueGen, wiring: Wiring, clock: Hands, numbers: str, other_spelling: bool
) -> None:
    service.switch({"numbers": numbers, "other_spelling": other_spelling})
    device = unit(service, wiring)
    reading = await device.read()
    assert reading.dispatchable and reading.profiling
    assert reading.output_w == 1500
    assert reading.limits == UnitLimits(min_w=800, max_w=1500, step_up_w=1999, step_dn_w=1999)
    now, total, facts = reading.samples
    assert (facts.status["lhv"], facts.status["version ccp"]) == ("10.21046", "34")
    assert now.instantaneous["watts"] == 1500
    assert now.instantaneous["gas"] == pytest.approx(4.258, abs=0.01)
    assert now.status == {"state": "Power Export"}
    assert total.accumulating["wattHours"] == pytest.approx(91_920_303.9, rel=0.01)
    assert now.at <= clock() and total.at <= clock()
    assert (await device.read()).samples == (), "the same values are not told twice"
    clock.move(minutes=6)
    assert len((await device.read()).samples) == 2
    assert service.journal.find(Filter(invalid=True)) == []


async def test_a_login_is_shared_renewed_in_time_and_made_once(
    service: BlueGen, wiring: Wiring
) -> None:
    devices = [unit(service, wiring), unit(service, wiring, unit_id=250)]
    service.switch({"delay_s": 0.05, "fault_path": "login"})
    await asyncio.gather(*(device.read() for device in devices * 3))
    assert logins(service) == 1


@pytest.mark.parametrize("form", ["json", "text", "html"])
async def test_a_token_that_went_bad_is_renewed_once(
    service: BlueGen, wiring: Wiring, form: str
) -> None:
    service.switch({"error_form": form})
    device = unit(service, wiring)
    await device.read()
    service.account.expire_tokens()
    await device.read()
    assert logins(service) == 2
    service.switch({"answer_status": {"status": 400, "path": "/unit", "body": "Bad Token"}})
    with pytest.raises(Refusal, match="again after a new login") as refused:
        await device.read()
    assert logins(service) == 3
    assert refused.value.retry_s == 900
    with pytest.raises(Refusal):
        await device.read()
    assert logins(service) == 3, "an account that is stopped keeps quiet"


async def test_bad_credentials_are_tried_once(service: BlueGen, wiring: Wiring) -> None:
    device = unit(service, wiring, password="wrong")
    for _ in range(3):
        with pytest.raises(Refusal, match="Bad Credentials") as refused:
            await device.read()
        assert refused.value.health is Health.STOPPED
        assert "wrong" not in str(refused.value)
    assert logins(service) == 1


async def test_without_eula_nothing_is_controlled(service: BlueGen, wiring: Wiring) -> None:
    service.switch({"eula": False})
    device = unit(service, wiring)
    reading = await device.read()
    assert not reading.dispatchable
    assert "EULA" in (reading.detail or "")
    with pytest.raises(Excluded, match="EULA"):
        await device.apply(CAPPED)


async def test_a_profile_is_written_assigned_and_read_back(
    service: BlueGen, wiring: Wiring, customer: Customer, clock: Hands
) -> None:
    await customer.makes_and_assigns("the customer's own")
    device = unit(service, wiring)
    await device.read()
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    assert device.shows(CAPPED, await device.read())
    first = running(service)["pid"]
    clock.move(minutes=2)
    assert tuple(running(service)["running_points"]) == CAPPED.points
    assert (await device.apply(FLAT)).result is Result.CONFIRMED
    assert running(service)["pid"] != first, "the profile that runs is never written to"
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    assert running(service)["pid"] == first
    names = sorted(service.state()["profiles"].values())
    assert names == ["fpd-test-249-a", "fpd-test-249-b", "the customer's own"]
    assert service.journal.find(Filter(invalid=True)) == []


async def test_what_is_already_in_force_is_not_written_again(
    service: BlueGen, wiring: Wiring
) -> None:
    device = unit(service, wiring)
    await device.read()
    await device.apply(CAPPED)
    before = len(asked(service))
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    assert len(asked(service)) == before


@pytest.mark.parametrize("numbers_as", ["string", "number"])
async def test_numbers_are_sent_as_configured(
    service: BlueGen, wiring: Wiring, numbers_as: str
) -> None:
    device = unit(service, wiring, numbers_as=numbers_as)
    await device.read()
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    sent = service.journal.find(Filter(path="/points"))[-1]
    expected = b'"671"' if numbers_as == "string" else b"671"
    assert expected in bytes(sent.body)


async def test_the_customers_profile_comes_back(
    service: BlueGen, wiring: Wiring, customer: Customer
) -> None:
    own = await customer.makes_and_assigns()
    device = unit(service, wiring)
    await device.read()
    await device.apply(CAPPED)
    assert not device.shows(Release(), await device.read())
    assert (await device.apply(Release())).result is Result.CONFIRMED
    assert running(service)["pid"] == own
    assert device.shows(Release(), await device.read())


@pytest.mark.parametrize("own_is", ["gone", "unknown"])
async def test_a_flat_profile_stands_in_for_one_that_is_gone_or_unknown(
    service: BlueGen, wiring: Wiring, customer: Customer, own_is: str
) -> None:
    device = unit(service, wiring, base_power_w=1300)
    if own_is == "gone":
        own = await customer.makes_and_assigns()
    await device.read()
    await device.apply(CAPPED)
    if own_is == "gone":
        await customer.deletes(own)
    assert (await device.apply(Release())).result is Result.CONFIRMED
    assigned = await customer.sees_points(running(service)["pid"])
    assert assigned == [(0, 1300), (671, 1300)]
    assert device.shows(Release(), await device.read())


async def test_a_unit_that_is_not_ours_is_not_given_back(
    service: BlueGen, wiring: Wiring, customer: Customer
) -> None:
    await customer.makes_and_assigns()
    device = unit(service, wiring)
    await device.read()
    before = len(asked(service, "PUT"))
    assert (await device.apply(Release())).result is Result.CONFIRMED
    assert len(asked(service, "PUT")) == before


async def test_a_crash_between_points_and_assign_is_healed_by_trying_again(
    service: BlueGen, wiring: Wiring, customer: Customer, clock: Hands
) -> None:
    own = await customer.makes_and_assigns()
    device = unit(service, wiring)
    await device.read()
    known = device.memory
    service.switch({"answer_status": {"status": 500, "path": "/unit/249/profile/", "times": 1}})
    with pytest.raises(Unreachable):
        await device.apply(CAPPED)
    assert running(service)["pid"] == own, "the old one stays in force"
    # A process that was killed remembers only what the last reading left.
    reborn = Remembering(unit(service, wiring).device, known)
    await reborn.read()
    before = service.journal.find(Filter())[-1].seq
    assert (await reborn.apply(CAPPED)).result is Result.CONFIRMED
    assert [a for a in asked(service, since=before) if "points" in a] == [], "already written"
    clock.move(minutes=2)
    assert tuple(running(service)["running_points"]) == CAPPED.points
    assert (await reborn.apply(Release())).result is Result.CONFIRMED
    assert running(service)["pid"] == own


async def test_a_lost_memory_does_not_take_ours_for_the_customers(
    service: BlueGen, wiring: Wiring, customer: Customer
) -> None:
    device = unit(service, wiring)
    await device.read()
    await device.apply(CAPPED)
    reborn = unit(service, wiring)
    await reborn.read()
    assert (await reborn.apply(Release())).result is Result.CONFIRMED
    assigned = await customer.sees_points(running(service)["pid"])
    assert {power_w for _, power_w in assigned} == {1500}


async def test_limits_are_read_again_before_each_write(service: BlueGen, wiring: Wiring) -> None:
    device = unit(service, wiring)
    await device.read()
    service.switch({"limits": {"maxpower": 1300}})
    outcome = await device.apply(CAPPED)
    assert outcome.result is Result.OUTDATED
    assert outcome.limits is not None and outcome.limits.max_w == 1300
    assert [a for a in asked(service) if "profile" in a] == [], "nothing unfit is sent"


async def test_a_ramp_that_is_refused_is_made_smaller_once(
    service: BlueGen, wiring: Wiring
) -> None:
    device = unit(service, wiring)
    await device.read()
    refuse = {"status": 403, "path": "/points", "body": "ShonkyRampRate"}
    service.switch({"answer_status": refuse})
    outcome = await device.apply(CAPPED)
    assert outcome.result is Result.OUTDATED
    assert outcome.limits is not None and outcome.limits.step_up_w == 1899
    with pytest.raises(Stopped, match="ShonkyRampRate"):
        await device.apply(CAPPED)
    service.switch(None)
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    service.switch({"answer_status": refuse})
    outcome = await device.apply(Profile(points=((0, 1000), (671, 1000))))
    assert outcome.limits is not None and outcome.limits.step_up_w == 1804, "once for each"


async def test_a_profile_that_somebody_else_assigned_is_noticed(
    service: BlueGen, wiring: Wiring, customer: Customer
) -> None:
    device = unit(service, wiring)
    await device.read()
    await device.apply(CAPPED)
    other = await customer.makes_and_assigns("somebody else's")
    reading = await device.read()
    assert reading.profile_id == other
    assert not device.shows(CAPPED, reading)
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    assert (await device.apply(Release())).result is Result.CONFIRMED
    assert running(service)["pid"] == other


async def test_a_profile_assigned_since_the_last_reading_is_put_on_record_first(
    service: BlueGen, wiring: Wiring, customer: Customer
) -> None:
    device = unit(service, wiring)
    await device.read()
    other = await customer.makes_and_assigns("somebody else's")
    assert (await device.apply(CAPPED)).result is Result.OUTDATED
    assert running(service)["pid"] == other
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    assert (await device.apply(Release())).result is Result.CONFIRMED
    assert running(service)["pid"] == other


async def test_one_slot_is_enough_if_there_is_room_for_no_more(
    service: BlueGen, wiring: Wiring, customer: Customer
) -> None:
    for number in range(5):
        await customer.makes(f"foreign {number}")
    device = unit(service, wiring)
    await device.read()
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    assert (await device.apply(FLAT)).result is Result.CONFIRMED
    assert await customer.sees_points(running(service)["pid"]) == [(0, 1200), (671, 1200)]
    with pytest.raises(Stopped, match="maximum of profiles"):
        second = unit(service, wiring, unit_id=250)
        await second.read()
        await second.apply(CAPPED)
    assert len(service.state()["profiles"]) == 6


@pytest.mark.parametrize(
    ("quirk", "output_w", "trouble"),
    [
        ({"status": "Heat-up"}, 0, "Heat-up"),
        ({"status": "Self sustain"}, 0, "Self sustain"),
        ({"status": "-"}, None, "-"),
        ({"pp": 0}, 1500, "pp = 0"),
    ],
)
async def test_only_a_unit_that_exports_and_is_profiled_can_be_dispatched(
    service: BlueGen, wiring: Wiring, quirk: dict[str, Any], output_w: float | None, trouble: str
) -> None:
    service.switch(quirk)
    reading = await unit(service, wiring).read()
    assert not reading.dispatchable
    assert trouble in (reading.detail or "")
    if output_w is not None:
        assert reading.output_w == output_w


async def test_more_than_a_day_without_export_is_for_somebody_to_look_at(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    device = unit(service, wiring)
    service.switch({"status": "Heat-up"})
    assert (await device.read()).alarm is None
    clock.move(hours=23)
    assert (await device.read()).alarm is None
    clock.move(hours=2)
    assert "exported nothing since 20" in str((await device.read()).alarm)
    service.switch({"status": "Power Export"})
    assert (await device.read()).alarm is None


async def test_old_data_are_not_taken_for_the_present(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    device = unit(service, wiring)
    await device.read()
    service.switch({"frozen_data": True})
    clock.move(hours=3)
    reading = await device.read()
    assert reading.output_w is None
    assert "old" in (reading.detail or "")
    assert reading.dispatchable, "the service still takes profiles for it"


@pytest.mark.parametrize(
    ("status", "body", "health"),
    [
        (503, "Number of requests per day exceeded", Health.RATIONED),
        (408, "UnitRequestTimeout", Health.UNAVAILABLE),
        (500, "SockFellOff", Health.UNAVAILABLE),
        (403, "UnitCommsError", Health.UNAVAILABLE),
        (502, "<html>Bad Gateway</html>", Health.UNAVAILABLE),
        (200, "<html>We are back soon</html>", Health.UNAVAILABLE),
        (409, "PermissionDenied", Health.STOPPED),
        (400, "Malformed unit id", Health.STOPPED),
        (400, "Account suspended", Health.STOPPED),
    ],
)
async def test_refusals_mean_what_their_names_say(
    service: BlueGen, wiring: Wiring, status: int, body: str, health: Health
) -> None:
    service.switch({"answer_status": {"status": status, "path": "/unit/", "body": body}})
    with pytest.raises(DeviceFault) as fault:
        await unit(service, wiring).read()
    assert fault.value.health is health


async def test_a_used_up_quota_is_waited_out(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    clock.move(hours=17, minutes=30)
    device = unit(service, wiring)
    await device.read()
    service.switch({"quota_per_day": 1})
    with pytest.raises(Refusal, match="per day") as refused:
        await device.read()
    assert refused.value.retry_s == 1800, "midnight UTC comes before the hourly probe"
    count = len(service.journal.find(Filter()))
    with pytest.raises(Refusal, match="per day"):
        await device.apply(CAPPED)
    assert len(service.journal.find(Filter())) == count, "further requests would count too"


async def test_a_known_quota_is_kept_for_commands(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    device = unit(service, wiring, quota_per_day=20)
    while True:
        try:
            await device.read()
        except Excluded:
            break
        clock.move(minutes=5)
    assert service.state()["requests_today"] <= 20 + 5
    assert device.device.read_every_s == 600
    assert (await device.apply(CAPPED)).result is Result.CONFIRMED
    clock.move(days=1)
    await device.read()


async def test_a_unit_that_the_account_does_not_have_is_named(
    service: BlueGen, wiring: Wiring
) -> None:
    with pytest.raises(Stopped, match=r"unit 251 .* \[249, 250\]"):
        await unit(service, wiring, unit_id=251).read()
    device = unit(service, wiring)
    await device.read()
    service.switch({"revoked": [249]})
    with pytest.raises(Refusal, match="UnitInvalid"):
        await device.read()
    with pytest.raises(Stopped, match=r"unit 249 .* \[250\]"):
        await device.read()


async def test_a_wrong_clock_writes_no_profile(service: BlueGen, clock: Hands) -> None:
    fast = Hands()
    fast.move(minutes=10)
    async with wired(fast) as wiring:
        device = unit(service, wiring)
        await device.read()
        with pytest.raises(Stopped, match="600 s off"):
            await device.apply(CAPPED)


async def test_a_fuel_cell_follows_no_setpoint(service: BlueGen, wiring: Wiring) -> None:
    device = unit(service, wiring)
    await device.read()
    with pytest.raises(Stopped):
        await device.apply(Setpoint(power_w=1000))
