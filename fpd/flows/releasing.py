"""`fpd release`: devices are given back by hand, or after a daemon that could not do so itself.

With the database as the daemon would do it, and on record; without it straight from the
configuration, which is enough for all that follows setpoints.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from fpd import adapters
from fpd.adapters import http
from fpd.adapters.device import Adapter, DeviceFault, Release, Result, Wiring
from fpd.config import Config, Device
from fpd.domain.control.ability import Weekly
from fpd.flows.context import Context
from fpd.flows.devices import Devices
from fpd.flows.holder import gone
from fpd.flows.letting_go import undone
from fpd.mqtt.client import MqttClient
from fpd.store import devices, leases, stewards
from fpd.store.devices import DeviceState

_WITHIN_S = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What became of one device. `ok` False: it may go on with what it was told."""

    device: str
    ok: bool
    outcome: str


async def release(context: Context, *, after_stop: bool) -> list[Released]:
    """Give the configured devices back, as the database knows them.

    `after_stop`: the daemon of this machine has ended. What follows a weekly profile goes on with
    it then, and what another daemon looks after stays with that. Raises Unavailable.
    """
    configured, now = context.config.devices, context.clock()
    visits = Devices(context)
    names = visits.not_left_alone if after_stop else [device.name for device in configured]
    async with context.db.transaction() as conn:
        dead = await leases.take_back(conn, gone=gone, now=now)
        await devices.enrol(conn, devices=[(d.name, d.type) for d in configured], now=now)
        looked_after = await stewards.leave(conn, holders=dead, now=now)
    kept = looked_after if after_stop else set()
    try:
        states = await visits.send_home(
            [name for name in names if name not in kept],
            why="released by hand" if not after_stop else "the daemon has ended",
            within_s=_WITHIN_S,
            every=not after_stop,
        )
    finally:
        await visits.close()
    told = {state.name: _outcome(state, state.name in looked_after) for state in states}
    return [told.get(d.name) or _left(d, d.name in kept) for d in configured]


def _outcome(state: DeviceState, looked_after: bool) -> Released:
    fault = undone(state)
    if fault is not None:
        return Released(device=state.name, ok=False, outcome=fault)
    seen = "seen at rest" if state.confirmed == state.wanted else "told to rest"
    if looked_after:
        seen += "; a daemon runs and may steer it again: pause its group"
    return Released(device=state.name, ok=True, outcome=seen)


def _left(device: Device, kept: bool) -> Released:
    why = "it was at rest"
    if isinstance(adapters.ability(device), Weekly):
        why = "goes on with its weekly profile"
    elif kept:
        why = "another daemon looks after it"
    return Released(device=device.name, ok=True, outcome=why)


async def release_straight(
    config: Config,
    *,
    clock: Callable[[], datetime],
    after_stop: bool,
    mqtt: MqttClient | None = None,
) -> list[Released]:
    """Give the configured devices back without any database.

    Which profile a fuel cell had before us is in the database alone, so it keeps ours.
    """
    wiring = Wiring(
        session=http.session(),
        clock=clock,
        instance=config.mqtt.instance,
        interval_s=config.control.interval_s,
        publish=None if mqtt is None else partial(mqtt.publish, qos=1, retain=False),
        folder=config.data_dir,
    )
    try:
        made = adapters.build(config.devices, wiring)
        return await asyncio.gather(
            *(_straight(device, made[device.name], after_stop) for device in config.devices)
        )
    finally:
        await wiring.close()


async def _straight(device: Device, adapter: Adapter, after_stop: bool) -> Released:
    if isinstance(adapters.ability(device), Weekly):
        outcome = "goes on with its weekly profile"
        if not after_stop:
            outcome += ": what it had before is in the database, which is away"
        return Released(device=device.name, ok=after_stop, outcome=outcome)
    try:
        async with asyncio.timeout(_WITHIN_S):
            outcome_ = await adapter.apply(Release(), await _memory(adapter))
    except (DeviceFault, TimeoutError) as fault:
        return Released(device=device.name, ok=False, outcome=str(fault) or "it took too long")
    seen = "seen at rest" if outcome_.result is Result.CONFIRMED else "told to rest"
    return Released(device=device.name, ok=True, outcome=seen)


async def _memory(adapter: Adapter) -> dict[str, object]:
    """Return what the adapter finds out about a device by itself; a status may be missing."""
    try:
        return dict((await adapter.read({})).memory)
    except DeviceFault:
        return {}
