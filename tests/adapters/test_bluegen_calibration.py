"""The experiment that tells how a unit reads profiles, for every unit that there may be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from adapters.cells import FLAT, assigned, cell
from adapters.customer import Customer
from adapters.rig import Hands

from fpd.adapters.bluegen_calibrating import CalibratingBluegen
from fpd.adapters.device import Excluded, Release, Result, Stopped, Wiring
from fpd.config import BluegenDevice
from fpd.sim.bluegen import BlueGen, BlueGenOptions

TWO_HOURS = timedelta(hours=2)


@asynccontextmanager
async def serving(clock: Hands, **options: Any) -> AsyncIterator[BlueGen]:
    service = BlueGen(BlueGenOptions(**options), clock=clock)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def desk(service: BlueGen, wiring: Wiring, **settings: Any) -> CalibratingBluegen:
    device = cell(service, wiring, **settings).device
    assert hasattr(device, "_device")
    config: BluegenDevice = device._device
    return CalibratingBluegen(config, wiring)


@pytest.mark.parametrize(
    ("anchor", "week_tz", "semantics"),
    [
        ("MON", "UTC", "step"),
        ("SUN", "Australia/Melbourne", "linear"),
        ("THU", "UTC", "step_lag"),
    ],
)
async def test_an_experiment_tells_how_the_unit_reads_profiles(
    wiring: Wiring, clock: Hands, anchor: str, week_tz: str, semantics: str
) -> None:
    async with serving(
        clock, week_anchor=anchor, week_tz=week_tz, profile_semantics=semantics
    ) as service:
        device = desk(service, wiring)
        intent = await device.intend({}, wait=TWO_HOURS)
        outcome = await device.calibrate(intent.experiment, intent.memory)
        assert outcome.result is Result.CONFIRMED
        memory = outcome.memory
        for _ in range(18):
            clock.move(minutes=15)
            reading = await device.read(memory)
            memory = reading.memory
        findings, outcome = await device.conclude(memory)
        assert (findings.anchor, findings.tz, findings.semantics) == (anchor, week_tz, semantics)
        assert findings.lag_s is not None
        assert 900 <= findings.lag_s <= 1300


async def test_the_customers_profile_comes_back_after_the_experiment(
    service: BlueGen, wiring: Wiring, customer: Customer, clock: Hands
) -> None:
    own = await customer.makes_and_assigns()
    device = desk(service, wiring)
    intent = await device.intend({}, wait=TWO_HOURS)
    memory = (await device.calibrate(intent.experiment, intent.memory)).memory
    reading = await device.read(memory)
    assert device.shows(Release(), reading), "control leaves it alone meanwhile"
    with pytest.raises(Excluded, match="calibrated until"):
        await device.apply(Release(), reading.memory)
    clock.move(hours=4)
    reading = await device.read(reading.memory)
    assert not device.shows(Release(), reading), "then control gives it back"
    findings, _ = await device.conclude(reading.memory)
    assert findings.anchor == "MON", "what nobody read is in the history"
    assert assigned(service) == own


async def test_a_limit_ends_the_experiment(service: BlueGen, wiring: Wiring) -> None:
    device = desk(service, wiring)
    intent = await device.intend({}, wait=TWO_HOURS)
    memory = (await device.calibrate(intent.experiment, intent.memory)).memory
    outcome = await device.apply(FLAT, memory)
    assert outcome.result is Result.CONFIRMED
    with pytest.raises(Stopped, match="no experiment is under way"):
        await device.conclude(outcome.memory)


async def test_a_profile_that_did_not_arrive_in_time_tells_nothing(
    wiring: Wiring, clock: Hands
) -> None:
    async with serving(clock, activation_delay_s=6 * 3600) as service:
        device = desk(service, wiring)
        intent = await device.intend({}, wait=TWO_HOURS)
        memory = (await device.calibrate(intent.experiment, intent.memory)).memory
        clock.move(hours=4)
        findings, _ = await device.conclude((await device.read(memory)).memory)
        assert (findings.anchor, findings.lag_s) == (None, None)
        assert "had not arrived" in findings.why


async def test_timestamps_in_another_zone_are_told_first(wiring: Wiring, clock: Hands) -> None:
    async with serving(clock, timestamps_tz="Australia/Melbourne") as service:
        with pytest.raises(Excluded, match='timestamps_tz = "unit"'):
            await desk(service, wiring).intend({}, wait=TWO_HOURS)
        assert await desk(service, wiring, timestamps_tz="unit").intend({}, wait=TWO_HOURS)


async def test_leaving_deletes_ours_and_nothing_else(
    service: BlueGen, wiring: Wiring, customer: Customer
) -> None:
    device = desk(service, wiring)
    memory = (await device.apply(FLAT, (await device.read({})).memory)).memory
    with pytest.raises(Stopped, match="no profile but ours"):
        await device.leave(memory)
    await customer.makes("fpd-test-250-a")
    own = await customer.makes_and_assigns("the customer's own")
    memory = (await device.read(memory)).memory
    deleted, _ = await device.leave(memory)
    assert deleted == ("fpd-test-249-a", "fpd-test-249-b")
    assert sorted(service.state()["profiles"].values()) == ["fpd-test-250-a", "the customer's own"]
    assert assigned(service) == own
