"""Every way out ends at rest: when the daemon stops, when the database is away for too long.

A device that follows setpoints keeps the last one, some for ever, so nobody may leave it with one
that nobody stands by. What follows a weekly profile goes on with it.

Interpretation (reference: devices §5.9): a daemon that is told to stop lets go of a device unless
another daemon looks after it, or it is itself about to be started again; a daemon that has lost
its database lets go of what it has told itself once it has missed three decisions, unless the
device does something else by now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace

import structlog

from fpd.adapters.device import DeviceFault, Release
from fpd.errors import Unavailable
from fpd.flows import handing_over
from fpd.flows.context import Context
from fpd.flows.devices import Devices, Told
from fpd.store import stewards
from fpd.store.devices import DeviceState

log = structlog.get_logger()

_WITHIN_S = 8.0
_LEAST_PATIENCE_S = 30.0
_AGAIN_S = 5.0


async def _nobody() -> Collection[str]:
    return ()


async def at_the_end(
    context: Context,
    visits: Devices,
    heirs: Callable[[], Awaitable[Collection[str]]] = _nobody,
) -> None:
    """Send home what no other daemon looks after; nothing is begun any more by others of ours.

    `heirs` tells which devices a restart takes up again: those go on as they were told.
    """
    if not context.config.devices or visits.claimed_s is None:
        return
    try:
        async with context.db.transaction() as conn:
            kept = await stewards.leave(conn, holders=[context.holder], now=context.clock())
        names = [name for name in visits.not_left_alone if name not in kept]
        returning = await heirs()
        going_on = {n: visits.told[n] for n in names if n in returning and n in visits.told}
        handed = handing_over.leave(context.config, going_on)
        names = [name for name in names if name not in handed]
        states = await visits.send_home(names, why="the daemon stops", within_s=_WITHIN_S)
    except Unavailable as away:
        log.warning("devices.left", reason=str(away))
        await Deadman(context, visits).let_go()
        return
    for state in states:
        fault = undone(state)
        if fault is None:
            log.info("device.released", device=state.name)
        else:
            log.warning("device.not_released", device=state.name, reason=fault)


def undone(state: DeviceState) -> str | None:
    """Return why a device that was sent home may not be there, None if it was told."""
    if state.told is None and state.confirmed == state.wanted:
        return None  # it was at rest anyway
    if state.told == state.wanted and state.failures == 0:
        return None
    return state.detail or "it was not told: somebody else speaks to it"


class Deadman:
    """Watches, without the database, that somebody stands by what devices were told."""

    def __init__(self, context: Context, visits: Devices) -> None:
        self._context = context
        self._visits = visits
        self._again_s = 0.0

    async def step(self) -> bool:
        """Let go of devices when the database has granted nothing for three decisions."""
        claimed_s, now_s = self._visits.claimed_s, self._context.steady()
        patience_s = max(3 * self._context.config.control.interval_s, _LEAST_PATIENCE_S)
        if claimed_s is None or now_s - claimed_s <= patience_s or now_s < self._again_s:
            return False
        if self._visits.told:
            log.warning("devices.no_decision", seconds=round(now_s - claimed_s, 1))
            await self.let_go()
        self._again_s = self._context.steady() + _AGAIN_S
        return False

    async def let_go(self) -> None:
        """Have the devices rest that do what we told them last."""
        waiting = [
            self._release(name, told)
            for name, told in self._visits.told.items()
            if not self._visits.visiting(name)
        ]
        await asyncio.gather(*waiting)

    async def _release(self, name: str, told: Told) -> None:
        adapter = self._visits.adapters[name]
        try:
            async with asyncio.timeout(adapter.visit_s):
                reading = await adapter.read(told.memory)
                # Interpretation: who does something else was told so by another daemon.
                if adapter.shows(told.setpoint, replace(reading, memory=told.memory)):
                    await adapter.apply(Release(), reading.memory)
                    log.warning("device.released", device=name, reason="no decision any more")
        except (DeviceFault, TimeoutError) as fault:
            log.warning("device.not_released", device=name, reason=str(fault) or "it took too long")
            return
        if self._visits.told.get(name) is told:
            del self._visits.told[name]
