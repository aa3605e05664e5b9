"""Which simulators there are, what they can be told, and how one is run until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fpd.sim.battery import Battery, BatteryOptions, BatteryQuirks
from fpd.sim.bluegen import BlueGen, BlueGenOptions, BlueGenQuirks
from fpd.sim.capacity_optimizer import (
    CapacityOptimizer,
    CapacityOptimizerOptions,
    CapacityOptimizerQuirks,
)
from fpd.sim.capacity_provider import CapacityProvider, CapacityProviderOptions
from fpd.sim.journal import Clock
from fpd.sim.myems import MyEms
from fpd.sim.myems_quirks import MyEmsOptions, MyEmsQuirks
from fpd.sim.peer_options import PeerQuirks
from fpd.sim.quirks import Quirks
from fpd.sim.reengen import Reengen, ReengenOptions
from fpd.sim.reengen_quirks import ReengenQuirks
from fpd.sim.simulator import Options, Simulator
from fpd.sim.site import Site, SiteOptions, SiteQuirks
from fpd.sim.subscriber import Subscriber, SubscriberOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """One simulator: `make(options, clock=…)` builds it from an instance of `options`."""

    help: str
    example: str
    options: type[Options]
    quirks: type[Quirks]
    make: Callable[..., Simulator[Any]]


ROLES: Mapping[str, Role] = {
    "capacity-provider": Role(
        help="A grid operator: registers, shakes hands, posts forecasts, takes measurements.",
        example="capacity-provider --fp-url http://127.0.0.1:8484/oscp/fp/2.0 --token FIRST_TOKEN",
        options=CapacityProviderOptions,
        quirks=PeerQuirks,
        make=CapacityProvider,
    ),
    "capacity-optimizer": Role(
        help="An optimiser: takes forecasts and asset data, returns OPTIMUM forecasts.",
        example="capacity-optimizer --fp-url http://127.0.0.1:8484/oscp/fp/2.0 --token FIRST_TOKEN",
        options=CapacityOptimizerOptions,
        quirks=CapacityOptimizerQuirks,
        make=CapacityOptimizer,
    ),
    "bluegen": Role(
        help="The BlueGen web service with its fuel cells, which follow weekly power profiles.",
        example="bluegen --port 8091 --unit 249 --unit 250 --speed 60",
        options=BlueGenOptions,
        quirks=BlueGenQuirks,
        make=BlueGen,
    ),
    "battery": Role(
        help="A battery with the v1 or v2 REST API, which keeps the last setpoint for ever.",
        example="battery --port 8092 --api v2 --usoc 70",
        options=BatteryOptions,
        quirks=BatteryQuirks,
        make=Battery,
    ),
    "myems": Role(
        help="A MyEMS server with a battery and a BlueGen behind it, as v6.7.0 answers.",
        example="myems --port 8093 --mqtt-url mqtt://fpd@127.0.0.1:1883 --utc-offset +02:00",
        options=MyEmsOptions,
        quirks=MyEmsQuirks,
        make=MyEms,
    ),
    "reengen": Role(
        help="A Reengen (Faradai) platform: points, registers that move, commands that act.",
        example="reengen --port 8094 --tz Europe/Berlin --period-s 60",
        options=ReengenOptions,
        quirks=ReengenQuirks,
        make=Reengen,
    ),
    "site": Role(
        help="Metered loads and a grid meter that publish datum over MQTT.",
        example="site --mqtt-url mqtt://fpd@127.0.0.1:1883 --meter --battery-url http://127.0.0.1:8092",
        options=SiteOptions,
        quirks=SiteQuirks,
        make=Site,
    ),
    "subscriber": Role(
        help="An MQTT subscriber that writes down every message.",
        example="subscriber --mqtt-url mqtt://fpd@127.0.0.1:1883 --topic 'user/#'",
        options=SubscriberOptions,
        quirks=Quirks,
        make=Subscriber,
    ),
}


async def run(role: str, options: Options, clock: Clock, *, ready: Callable[[str], None]) -> None:
    """Run a simulator until SIGTERM or SIGINT; `ready` is told its base URL once it serves."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    simulator = ROLES[role].make(options, clock=clock)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(simulator.stop)
        ready(await simulator.start())
        await stopped.wait()
