"""What goes wrong between a fuel cell's service and us: lost answers, clocks, refusals, silence."""

from __future__ import annotations

from typing import Any

import pytest
from adapters.cells import FLAT, LOWER, asked, assigned, cell, logins
from adapters.customer import Customer
from adapters.rig import Hands

from fpd.adapters.bluegen_errors import Refusal
from fpd.adapters.device import DeviceFault, Excluded, Release, Result, Stopped, Unreachable, Wiring
from fpd.sim.bluegen import BlueGen


def writes(service: BlueGen) -> list[str]:
    return [line for line in asked(service) if line[:3] != "GET" and "login" not in line]


@pytest.mark.parametrize("fault", ["lose_answer", "truncate", "drop"])
@pytest.mark.parametrize(
    "at", ["POST /profiles", "POST /profiles/", "PUT /unit/", "GET /unit/249/profile", "/limits"]
)
async def test_an_answer_that_is_lost_is_made_good_by_trying_again(
    service: BlueGen, wiring: Wiring, customer: Customer, fault: str, at: str
) -> None:
    device = cell(service, wiring)
    await device.read()
    service.switch({fault: True, "fault_path": at, "fault_times": 1})
    outcome: Any = None
    for _ in range(3):
        try:
            outcome = await device.apply(FLAT)
        except Unreachable:
            continue
        break
    assert outcome.result is Result.CONFIRMED
    assert await customer.sees_points(assigned(service)) == list(FLAT.points)
    assert len(service.state()["profiles"]) == 2, "nothing was made twice"


async def test_a_clock_that_was_set_right_is_found_out_soon(
    service: BlueGen, wiring: Wiring
) -> None:
    device = cell(service, wiring, poll_s=120.0)
    await device.read()
    service.switch({"date_skew_s": 400})
    with pytest.raises(Stopped, match="our clock is -400 s off") as stopped:
        await device.apply(FLAT)
    assert stopped.value.retry_s == 120
    service.switch(None)
    assert (await device.apply(FLAT)).result is Result.CONFIRMED


async def test_whoever_refuses_our_dates_is_asked_again_soon(
    service: BlueGen, wiring: Wiring
) -> None:
    service.switch({"clock_skew_s": 4000})
    for _ in range(2):
        with pytest.raises(Refusal, match=r"NegativeTimestamp .*our clock is -4000 s") as refused:
            await cell(service, wiring).read()
        assert refused.value.retry_s == 300
    service.switch(None)
    assert (await cell(service, wiring).read()).dispatchable


async def test_what_fails_is_tried_so_many_times_an_hour(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    device = cell(service, wiring)
    await device.read()
    service.switch({"refuse": {"name": "UnitCommsError", "path": "/current"}})
    failed = 0
    for _ in range(240):
        clock.move(seconds=30)
        begun = len(asked(service, "/current"))
        with pytest.raises(Unreachable):
            await device.read()
        failed += len(asked(service, "/current")) - begun
    assert 20 <= failed <= 40, "in two hours"
    service.switch(None)
    clock.move(minutes=6)
    assert (await device.read()).dispatchable


async def test_what_the_last_login_said_of_the_eula_is_known_before_anything_is_written(
    service: BlueGen, wiring: Wiring
) -> None:
    service.switch({"eula": False})
    with pytest.raises(Excluded, match="EULA"):
        await cell(service, wiring).apply(FLAT)
    assert writes(service) == []


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, "no"), (403, "<h1>Forbidden</h1>"), (400, ""), (200, {"error": "Bad Credentials"})],
)
async def test_a_login_that_is_refused_in_whatever_words_is_not_repeated(
    service: BlueGen, wiring: Wiring, clock: Hands, status: int, body: object
) -> None:
    service.switch({"answer_status": {"status": status, "path": "/customer/login", "body": body}})
    device = cell(service, wiring)
    for _ in range(4):
        with pytest.raises(Refusal) as refused:
            await device.read()
        clock.move(minutes=10)
    assert (refused.value.retry_s or 0) > 1000
    assert logins(service) == 1


@pytest.mark.parametrize("name", ["PermissionDenied", "Malformed request"])
async def test_a_profile_that_cannot_be_given_back_now_is_given_back_later(
    service: BlueGen, wiring: Wiring, customer: Customer, name: str
) -> None:
    own = await customer.makes_and_assigns()
    device = cell(service, wiring)
    await device.read()
    await device.apply(LOWER)
    service.switch({"refuse": {"name": name, "path": f"/profile/{own}", "times": 1}})
    with pytest.raises(DeviceFault):
        await device.apply(Release())
    assert (await device.apply(Release())).result is Result.CONFIRMED
    assert assigned(service) == own


async def test_a_profile_that_is_never_assigned_is_an_alarm_after_twice_the_lead(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    device = cell(service, wiring, delivery_lead_s=600)
    await device.read()
    service.switch({"assign_ignored": True})
    for _ in range(3):
        assert (await device.apply(FLAT)).result is Result.ACCEPTED
        assert (await device.read()).alarm is None
        clock.move(minutes=9)
    assert "never assigned" in ((await device.read()).alarm or "")
    service.switch(None)
    assert (await device.apply(FLAT)).result is Result.CONFIRMED
    assert (await device.read()).alarm is None
