"""Devices are visited: read when a reading is due, told when a command is due, never both twice.

Each visit runs in a task of its own under a lease, so a device that hangs delays no other, and
two daemons never speak to one device at a time. What control wants is in the row; a visit sends
it, and a later reading must show it before it counts as confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import structlog

from fpd import adapters
from fpd.adapters import http
from fpd.adapters.device import Adapter, Wiring
from fpd.errors import Unavailable
from fpd.flows.context import Context
from fpd.flows.visit import Visit
from fpd.store import devices
from fpd.store.devices import DeviceState

log = structlog.get_logger()

# Beyond the longest visit: time to write down what came of it.
_LEASE_MARGIN_S = 5.0


class Devices:
    """The configured devices and the visits of this process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wiring: Wiring | None = None
        self._adapters: Mapping[str, Adapter] = {}
        self._visited: set[str] = set()
        self._enrolled = False

    async def step(self) -> bool:
        """Claim the devices that are due and start visiting them.

        Raises Misconfigured when a configured file cannot be used.
        """
        configured = self._context.config.devices
        if not configured:
            return False
        self._open()
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            if not self._enrolled:
                await devices.enrol(conn, devices=[(d.name, d.type) for d in configured], now=now)
            claimed = await devices.claim(
                conn,
                leases={
                    name: now + timedelta(seconds=adapter.visit_s + _LEASE_MARGIN_S)
                    for name, adapter in self._adapters.items()
                    if name not in self._visited
                },
                now=now,
            )
        self._enrolled = True
        for state in claimed:
            self._visited.add(state.name)
            self._context.spawn(self._visit(state), name=f"device {state.name}")
        return False

    def tries(self, name: str) -> int:
        """Return how often the device may fail to follow before it is left alone."""
        adapter = self._adapters.get(name)
        return 3 if adapter is None else adapter.tries

    async def close(self) -> None:
        """Let go of every connection; called once no visit runs any more."""
        if self._wiring is not None:
            await self._wiring.session.close()

    def _open(self) -> None:
        """Make the adapters on first use: their session belongs to the running loop."""
        if self._wiring is not None:
            return
        config = self._context.config
        self._wiring = Wiring(
            session=http.session(),
            clock=self._context.clock,
            instance=config.mqtt.instance,
            interval_s=config.control.interval_s,
        )
        self._adapters = adapters.build(config.devices, self._wiring)

    async def _visit(self, state: DeviceState) -> None:
        device = next(d for d in self._context.config.devices if d.name == state.name)
        try:
            await Visit(self._context, device, self._adapters[state.name], state).run()
        except Unavailable as away:
            # The lease ends by itself and the next visit finds out what was left undone.
            log.debug("device.visit_lost", device=state.name, reason=str(away))
        finally:
            self._visited.discard(state.name)
