from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from adapters.customer import Customer
from adapters.rig import Hands, wired

from fpd.adapters.device import Wiring
from fpd.sim.bluegen import BlueGen, BlueGenOptions


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def wiring(clock: Hands) -> AsyncIterator[Wiring]:
    async with wired(clock) as wiring:
        yield wiring


@pytest.fixture
async def service(clock: Hands) -> AsyncIterator[BlueGen]:
    simulator = BlueGen(
        BlueGenOptions(unit=(249, 250), activation_delay_s=60, max_profiles=6), clock=clock
    )
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
def customer(service: BlueGen, wiring: Wiring) -> Customer:
    return Customer(service, wiring.session)
