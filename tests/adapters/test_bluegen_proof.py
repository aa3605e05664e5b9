"""What a fuel cell's output proves, and what is done when others interfere."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from adapters.cells import FLAT, LOWER, asked, assigned, cell
from adapters.customer import Customer
from adapters.rig import Hands, Remembering

from fpd.adapters.device import Profile, Reading, Release, Result, Stopped, Wiring
from fpd.sim.bluegen import BlueGen, BlueGenOptions

CAPPED = Profile(
    points=((0, 1500), (230, 1500), (231, 1000), (240, 1000), (241, 1500), (671, 1500))
)


async def over(device: Remembering, clock: Hands, *, minutes: int) -> Reading:
    """Read every 5 min for a while; return the last reading."""
    reading = await device.read()
    for _ in range(minutes // 5):
        clock.move(minutes=5)
        reading = await device.read()
    return reading


async def test_only_the_output_proves_a_profile(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    device = cell(service, wiring, delivery_lead_s=600)
    await device.read()
    await device.apply(FLAT)
    assert (await device.read()).follows is None
    reading = await over(device, clock, minutes=10)
    assert reading.follows is True
    assert reading.alarm is None


async def test_a_profile_that_never_arrives_is_an_alarm_after_twice_the_lead(
    service: BlueGen, wiring: Wiring, clock: Hands
) -> None:
    service.switch({"delivery_lost": True})
    device = cell(service, wiring, delivery_lead_s=1200)
    await device.read()
    await device.apply(FLAT)
    assert (await over(device, clock, minutes=35)).follows is None
    reading = await over(device, clock, minutes=15)
    assert reading.follows is False
    assert "does not show the profile" in (reading.alarm or "")
    assert reading.dispatchable
    service.switch(None)
    await device.apply(LOWER)
    reading = await over(device, clock, minutes=40)
    assert (reading.follows, reading.alarm) == (True, None)


async def test_a_week_that_begins_on_another_day_is_folded(wiring: Wiring, clock: Hands) -> None:
    service = BlueGen(
        BlueGenOptions(unit=(249,), activation_delay_s=60, week_anchor="SUN"), clock=clock
    )
    await service.start()
    try:
        clock.move(hours=2)
        device = cell(service, wiring, delivery_lead_s=600, week_anchor="MON")
        await device.read()
        await device.apply(CAPPED)  # by MON it is capped from 09:45 on
        assert not (await over(device, clock, minutes=60)).folded
        reading = await over(device, clock, minutes=80)
        assert reading.output_w == 1500
        assert reading.follows is False
        assert reading.folded
        assert "does not seem to begin on MON" in (reading.alarm or "")
        reborn = Remembering(cell(service, wiring, week_anchor="SUN").device, device.memory)
        assert not (await reborn.read()).folded, "another day is another try"
    finally:
        await service.stop()


async def test_who_takes_the_unit_twice_may_keep_it(
    service: BlueGen, wiring: Wiring, customer: Customer, clock: Hands
) -> None:
    device = cell(service, wiring)
    await device.read()
    await device.apply(FLAT)
    ours = assigned(service)
    other = await customer.makes_and_assigns("somebody else's")
    reading = await device.read()
    assert "assigned by others" in (reading.alarm or "")
    assert (await device.apply(FLAT)).result is Result.CONFIRMED
    assert assigned(service) == ours
    await customer.assigns(other)
    await device.read()
    with pytest.raises(Stopped, match="left to them") as stopped:
        await device.apply(FLAT)
    assert assigned(service) == other
    assert 86_000 < (stopped.value.retry_s or 0) <= 86_400
    clock.move(hours=25)
    assert (await device.read()).alarm is None
    assert (await device.apply(FLAT)).result is Result.CONFIRMED


async def test_points_that_others_have_edited_are_noticed_the_next_day(
    service: BlueGen, wiring: Wiring, customer: Customer, clock: Hands
) -> None:
    device = cell(service, wiring)
    await device.read()
    await device.apply(FLAT)
    assert device.shows(FLAT, await device.read())
    profile = service.profiles.find(assigned(service))
    assert profile is not None
    service.profiles.replace_points(profile, profile.points[:1])
    assert device.shows(FLAT, await device.read()), "not looked at each time"
    clock.move(hours=25)
    assert not device.shows(FLAT, await device.read())
    assert (await device.apply(FLAT)).result is Result.CONFIRMED
    reborn = Remembering(cell(service, wiring).device, device.memory)
    service.profiles.replace_points(profile, profile.points[:1])
    reborn_reading = await reborn.read()
    assert reborn.shows(FLAT, reborn_reading) == (assigned(service) != profile.id)


@pytest.mark.parametrize(
    ("power", "discarded"), [("NaN", 1), (-5, 1), ("1801", 1), ("1799", 0), ({}, 1)]
)
async def test_values_that_cannot_be_true_are_discarded_and_counted(
    service: BlueGen, wiring: Wiring, power: Any, discarded: int
) -> None:
    service.switch({"spoil": {"current": {"power": power}}})
    reading = await cell(service, wiring).read()
    assert reading.discarded == discarded
    watts = [s.instantaneous["watts"] for s in reading.samples if "watts" in s.instantaneous]
    assert watts == ([] if discarded else [1799])


async def test_a_bare_nan_in_the_answer_is_discarded_too(service: BlueGen, wiring: Wiring) -> None:
    device = cell(service, wiring)
    await device.read()
    body = '{"current":{"timestamp":"2025-03-12 05:55:00","power":NaN,"gas":"1"}}'
    service.switch({"answer_status": {"status": 200, "path": "current", "body": body}})
    assert (await device.read()).discarded == 1


async def test_timestamps_may_be_local(wiring: Wiring, clock: Hands) -> None:
    service = BlueGen(
        BlueGenOptions(timestamps_tz="Australia/Melbourne", activation_delay_s=60), clock=clock
    )
    await service.start()
    try:
        for named in ("unit", "Australia/Melbourne"):
            reading = await cell(service, wiring, timestamps_tz=named).read()
            assert abs(reading.samples[0].at - clock()) <= timedelta(minutes=6)
    finally:
        await service.stop()


async def test_a_unit_is_read_when_it_has_something_new(wiring: Wiring, clock: Hands) -> None:
    service = BlueGen(
        BlueGenOptions(sample_period_s=3600, report_delay_s=600, activation_delay_s=60),
        clock=clock,
    )
    await service.start()
    try:
        device = cell(service, wiring)
        waits = []
        for _ in range(60):
            await device.read()
            waits.append(device.device.read_every_s)
            clock.move(seconds=device.device.read_every_s)
        assert waits[0] == 300
        assert all(wait > 2900 for wait in waits[-5:]), "once an hour, after the report"
        before = len(asked(service, "/current"))
        stamps = set()
        for _ in range(6):
            reading = await device.read()
            stamps |= {sample.at for sample in reading.samples}
            clock.move(seconds=device.device.read_every_s)
        assert len(asked(service, "/current")) - before == 6
        assert len(stamps) == 12, "each report was new, the counters too"
        assert "POST /customer/login" in asked(service)
    finally:
        await service.stop()


async def test_without_original_a_flat_base_is_what_it_rests_on(
    service: BlueGen, wiring: Wiring, customer: Customer
) -> None:
    own = await customer.makes_and_assigns()
    device = cell(service, wiring, restore="base", base_power_w=1350)
    await device.read()
    await device.apply(FLAT)
    assert (await device.apply(Release())).result is Result.CONFIRMED
    assert assigned(service) != own
    assert await customer.sees_points(assigned(service)) == [(0, 1350), (671, 1350)]
