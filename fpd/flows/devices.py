"""Devices are visited: read when a reading is due, told when a command is due, never both twice.

Each visit runs in a task of its own under a lease, so a device that hangs delays no other, and
two daemons never speak to one device at a time. What control wants is in the row; a visit sends
it, and a later reading must show it before it counts as confirmed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import structlog
from psycopg import AsyncConnection

from fpd import adapters
from fpd.adapters import http
from fpd.adapters.device import Adapter, Command, Memory, Release, Setpoint, Wiring
from fpd.domain.control.ability import Weekly
from fpd.errors import Unavailable
from fpd.flows import device_rules as rules
from fpd.flows.context import Context
from fpd.flows.device_ledger import DatabaseLedger
from fpd.flows.holder import Rounds
from fpd.flows.visit import Visit
from fpd.store import devices, stewards
from fpd.store.devices import DeviceState

log = structlog.get_logger()

# Beyond the longest visit: time to write down what came of it.
_LEASE_MARGIN_S = 5.0
_STAY = timedelta(seconds=30)  # after which a daemon that says nothing is taken for gone


@dataclass(frozen=True, slots=True)
class Told:
    """The setpoint that a device was given last, and what its adapter must know."""

    setpoint: Setpoint
    memory: Memory


class Devices:
    """The configured devices and the visits of this process.

    `told`: the setpoints that devices have, as far as we know. `claimed_s`: when the database
    granted a claim last, in the context's steady time; None: never.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wiring: Wiring | None = None
        self._adapters: Mapping[str, Adapter] = {}
        self._visited: set[str] = set()
        self._enrolled = False
        self._stayed_at: datetime | None = None
        self._rounds = Rounds(context.steady)
        self.told: dict[str, Told] = {}
        self.claimed_s: float | None = None

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters by device. Raises Misconfigured when a configured file cannot be used."""
        self._open()
        return self._adapters

    @property
    def not_left_alone(self) -> list[str]:
        """The devices that are given back when nobody stands by what they were told.

        One that follows a weekly profile goes on with it, if the configuration does not say
        otherwise: it is made for being left alone.
        """
        abilities = {d.name: adapters.ability(d) for d in self._context.config.devices}
        return [
            name
            for name, ability in abilities.items()
            if not (isinstance(ability, Weekly) and ability.stays)
        ]

    def visiting(self, name: str) -> bool:
        return name in self._visited

    def take_over(self, told: Mapping[str, Told]) -> None:
        """Answer for what another daemon has told, as if the database had granted it just now."""
        if told:
            self.told.update(told)
            self.claimed_s = self._context.steady()

    async def step(self) -> bool:
        """Claim the devices that are due and start visiting them.

        Raises Misconfigured when a configured file cannot be used.
        """
        configured = self._context.config.devices
        if not configured:
            return False
        self._open()
        now = self._context.clock()
        free = [device.name for device in configured if device.name not in self._visited]
        async with self._context.db.transaction() as conn:
            await self._rounds.make(conn, now=now)
            if not self._enrolled:
                await devices.enrol(conn, devices=[(d.name, d.type) for d in configured], now=now)
            await self._stay(conn, now)
            claimed = await self._claim(conn, free, now)
        self._enrolled = True
        self.claimed_s = self._context.steady()
        for state in claimed:
            self._visited.add(state.name)
            self._remember(state)
            self._context.spawn(self._visit(state), name=f"device {state.name}")
        return False

    async def send_home(
        self, names: Sequence[str], *, why: str, within_s: float, every: bool = False
    ) -> list[DeviceState]:
        """Tell devices to rest, now, and return what is known of them then; for the end.

        Unless `every`, only those of which something else was wanted. Who is visited by another
        daemon is waited for. Raises Unavailable when the database is away.
        """
        self._open()
        clock, db = self._context.clock, self._context.db
        async with db.transaction() as conn:
            names = await devices.send_home(
                conn, names=names, wanted=rules.stored(Release()), why=why, every=every, now=clock()
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                waiting = set(names)
                while waiting:
                    async with db.transaction() as conn:
                        claimed = await self._claim(conn, sorted(waiting), clock())
                    await asyncio.gather(*map(self._visit, claimed))
                    waiting -= {state.name for state in claimed}
                    await asyncio.sleep(0.2 if waiting else 0)
        async with db.connection() as conn:
            found = await devices.load(conn, names=names)
        return [found[name] for name in names]

    async def _claim(
        self, conn: AsyncConnection, names: Sequence[str], now: datetime
    ) -> list[DeviceState]:
        leases = {
            name: now + timedelta(seconds=self._adapters[name].visit_s + _LEASE_MARGIN_S)
            for name in names
        }
        return await devices.claim(conn, leases=leases, holder=self._context.holder, now=now)

    async def _stay(self, conn: AsyncConnection, now: datetime) -> None:
        """Say every now and then that we are here."""
        if self._stayed_at is not None and abs(now - self._stayed_at) < _STAY / 3:
            return
        await stewards.stay(
            conn,
            holder=self._context.holder,
            devices=list(self._adapters),
            until_at=now + _STAY,
        )
        self._stayed_at = now

    def tries(self, name: str) -> int:
        """Return how often the device may fail to follow before it is left alone."""
        adapter = self._adapters.get(name)
        return 3 if adapter is None else adapter.tries

    async def close(self) -> None:
        """Let go of every connection; called once no visit runs any more."""
        if self._wiring is not None:
            await self._wiring.close()

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
            ledger=DatabaseLedger(self._context),
            publish=partial(self._context.mqtt.publish, qos=1, retain=False),
            folder=config.data_dir,
            tenants=self._context.tenants,
            steady=self._context.steady,
        )
        self._adapters = adapters.build(config.devices, self._wiring)

    async def _visit(self, state: DeviceState) -> None:
        device = next(d for d in self._context.config.devices if d.name == state.name)
        try:
            adapter = self._adapters[state.name]
            await Visit(
                self._context, device, adapter, state, partial(self._took, state.name)
            ).run()
        except Unavailable as away:
            # The lease ends by itself and the next visit finds out what was left undone.
            log.debug("device.visit_lost", device=state.name, reason=str(away))
        finally:
            self._visited.discard(state.name)

    def _remember(self, state: DeviceState) -> None:
        """Remember what an earlier run, or another, has told a device that is now ours to visit.

        One that has refused since, or did not follow, may still do what we know of.
        """
        told = rules.command_of(state.told)
        if isinstance(told, Setpoint):
            self.told[state.name] = Told(told, state.memory or {})
        elif told is not None:
            self.told.pop(state.name, None)

    def _took(self, name: str, command: Command, memory: Memory) -> None:
        if isinstance(command, Setpoint):
            self.told[name] = Told(command, memory)
        else:
            self.told.pop(name, None)
