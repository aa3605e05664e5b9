"""What an operator does with fuel cells by hand, beside the daemon or without one.

The device is leased for each step as a visit leases it, so the daemon and a command never speak to
it at the same time, and what a command finds out is where the daemon will look for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from fpd.adapters import http
from fpd.adapters.bluegen_account import account_of
from fpd.adapters.bluegen_calibrating import CalibratingBluegen, Intent
from fpd.adapters.bluegen_memory import Kept
from fpd.adapters.bluegen_memory import kept as recall
from fpd.adapters.bluegen_password import encrypted
from fpd.adapters.device import Memory, Profile, Release, Result, Wiring
from fpd.config import BluegenDevice
from fpd.domain import bluegen_answers
from fpd.domain.control.calibration import Experiment, Findings
from fpd.errors import Conflict, Unknown
from fpd.flows import device_rules as rules
from fpd.flows import readings
from fpd.flows.context import Context
from fpd.flows.device_ledger import DatabaseLedger
from fpd.store import control, device_accounts, devices, events
from fpd.store.devices import DeviceState, Wish

_LEASE = timedelta(seconds=160)
_PATIENCE_S = 30.0
_ASK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A cell as the database knows it; `state` None: no daemon has seen it yet."""

    device: BluegenDevice
    state: DeviceState | None
    kept: Kept
    requests: int
    day: str
    notes: Mapping[str, Any]


class Desk:
    """The fuel cells of the configuration. Raises DeviceFault as adapters do."""

    def __init__(self, context: Context, wiring: Wiring) -> None:
        self._context = context
        self._wiring = wiring
        self._cells = [d for d in context.config.devices if isinstance(d, BluegenDevice)]

    def cell(self, name: str) -> BluegenDevice:
        """Return a cell by the name of its device. Raises Unknown."""
        for device in self._cells:
            if device.name == name:
                return device
        known = ", ".join(device.name for device in self._cells) or "there is none"
        raise Unknown(f"no fuel cell of the configuration is called {name}: {known}")

    async def units(self) -> list[dict[str, Any]]:
        """Ask each account for its units, and each unit how it is."""
        rows = []
        for account, cells in self._by_account():
            names = {device.unit_id: device.name for device in cells}
            for unit_id, unit in (await account.get("/units", bluegen_answers.units)).items():
                status = await account.get(f"/unit/{unit_id}", bluegen_answers.unit_status)
                rows.append(
                    {
                        "account": cells[0].username,
                        "unit": unit_id,
                        "name": unit,
                        "device": names.get(unit_id),
                        "model": status.model,
                        "state": status.state,
                        "profiling": status.profiling,
                        "profile": status.profile_id,
                        "tz": status.tz,
                    }
                )
        return rows

    async def profiles(self) -> list[dict[str, Any]]:
        """Ask each account for its profiles, and each profile for the units that follow it."""
        ours = f"fpd-{self._context.config.mqtt.instance}-"
        rows = []
        for account, cells in self._by_account():
            found = await account.get("/profiles", bluegen_answers.profiles)
            for name, profile_id in found.items():
                path = f"/profiles/{profile_id}/members"
                members = await account.get(path, bluegen_answers.units)
                rows.append(
                    {
                        "account": cells[0].username,
                        "profile": profile_id,
                        "name": name,
                        "ours": name.startswith(ours),
                        "units": list(members),
                    }
                )
        return rows

    async def known(self) -> list[Known]:
        """Return what the database knows of each cell; nothing is asked of the service."""
        async with self._context.db.connection() as conn:
            states = await devices.load(conn, names=[device.name for device in self._cells])
            found = []
            for device in self._cells:
                account = account_of(device, self._wiring)
                row = await device_accounts.load(conn, name=account.name)
                state = states.get(device.name)
                found.append(
                    Known(
                        device=device,
                        state=state,
                        kept=recall((state.memory if state else None) or {}),
                        requests=row.requests if row else 0,
                        day=row.day if row else "",
                        notes=row.notes if row else {},
                    )
                )
        return found

    async def unlock(self, name: str) -> None:
        """Forget what stopped the account: it is tried again."""
        device = self.cell(name)
        await account_of(device, self._wiring).unlock()
        same = [d.name for d in self._cells if _account(d) == _account(device)]
        async with self._context.db.transaction() as conn:
            await devices.look_now(conn, names=same, now=self._context.clock())

    async def encrypt(self, name: str, password: str) -> tuple[str, str]:
        """Return a password encrypted for good, and when the key was issued that it belongs to."""
        device = self.cell(name)
        key, issued_on = await account_of(device, self._wiring).public_key()
        return encrypted(password, key, device.rsa_padding), issued_on

    async def intend(self, name: str, *, wait: timedelta) -> Intent:
        """Say what an experiment would do. Raises Conflict while a limit is in force."""
        device = self.cell(name)
        async with self._leased(device) as (cell, state):
            self._refuse_limited(state)
            intent = await cell.intend(state.memory or {}, wait=wait)
            await self._keep(state, intent.memory)
        await readings.keep(self._context, device, intent.samples)
        return intent

    async def calibrate(self, name: str, experiment: Experiment) -> None:
        """Begin the experiment. Control leaves the unit alone until it ends, or a limit comes."""
        device = self.cell(name)
        async with self._leased(device) as (cell, state):
            self._refuse_limited(state)
            outcome = await cell.calibrate(experiment, state.memory or {})
            if outcome.result is not Result.CONFIRMED:
                await self._keep(state, outcome.memory)
                raise Conflict(f"the unit did not take it: {outcome.detail or outcome.result}")
            # When it is over, control finds the unit not released any more, and releases it.
            released, now = rules.stored(Release()), self._context.clock()
            told = replace(state, told=released, told_at=now, confirmed=released, confirmed_at=now)
            await self._keep(told, outcome.memory, release=released)
        await self._tell(device, "calibration.begun", {"dipAt": experiment.dip_at.isoformat()})

    async def look(self, name: str) -> Kept:
        """Return what is known of an experiment; ask the unit itself if no daemon does."""
        device = self.cell(name)
        now = self._context.clock()
        async with self._context.db.connection() as conn:
            state = (await devices.load(conn, names=[name])).get(name)
        if state is None:
            raise Unknown(f"{name} was never spoken to")
        lately = state.reading_at is not None and now - state.reading_at < timedelta(
            seconds=2 * device.poll_s + 10
        )
        if lately:
            return recall(state.memory or {})
        async with self._leased(device) as (cell, state):
            reading = await cell.read(state.memory or {})
            read = replace(state, reading_at=reading.at)
            await self._keep(read, reading.memory)
        await readings.keep(self._context, device, reading.samples)
        return recall(reading.memory)

    async def conclude(self, name: str) -> Findings:
        """Say what the experiment told, and give the unit back."""
        device = self.cell(name)
        async with self._leased(device) as (cell, state):
            findings, outcome = await cell.conclude(state.memory or {})
            await self._keep(state, outcome.memory)
        await self._tell(
            device,
            "calibration.done",
            {
                "weekAnchor": findings.anchor,
                "weekTz": findings.tz,
                "profileSemantics": findings.semantics,
                "lagSeconds": findings.lag_s,
                "detail": findings.why,
            },
        )
        return findings

    async def uninstall(self, name: str) -> tuple[str, ...]:
        """Give the unit back and delete our profiles; return their names."""
        device = self.cell(name)
        async with self._leased(device) as (cell, state):
            self._refuse_limited(state)
            deleted, outcome = await cell.leave(state.memory or {})
            await self._keep(state, outcome.memory)
        return deleted

    def _refuse_limited(self, state: DeviceState) -> None:
        if isinstance(rules.command_of(state.wanted), Profile):
            raise Conflict("a limit is in force or planned for it: wait until it has ended")
        if remaining(recall(state.memory or {}), self._context.clock()):
            raise Conflict("an experiment is running: fpd bluegen calibrate --evaluate")

    def _by_account(self) -> list[tuple[Any, list[BluegenDevice]]]:
        cells: dict[tuple[str, str], list[BluegenDevice]] = {}
        for device in self._cells:
            cells.setdefault(_account(device), []).append(device)
        return [(account_of(same[0], self._wiring), same) for same in cells.values()]

    @asynccontextmanager
    async def _leased(
        self, device: BluegenDevice
    ) -> AsyncIterator[tuple[CalibratingBluegen, DeviceState]]:
        """Have the device for ourselves; what is not kept inside is given back as it was."""
        state = await self._seize(device)
        try:
            yield CalibratingBluegen(device, self._wiring), state
        finally:
            async with self._context.db.connection() as conn:
                await devices.let_go(conn, state)

    async def _seize(self, device: BluegenDevice) -> DeviceState:
        """Wait until nobody speaks to the device. Raises Conflict when that takes too long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_S
        while True:
            now = self._context.clock()
            async with self._context.db.transaction() as conn:
                if not await devices.load(conn, names=[device.name]):
                    await devices.enrol(conn, devices=[(device.name, device.type)], now=now)
                state = await devices.seize(conn, name=device.name, until=now + _LEASE, now=now)
            if state is not None:
                return state
            if loop.time() >= until:
                raise Conflict(f"{device.name} is being spoken to by another process: try again")
            await asyncio.sleep(_ASK_AGAIN_S)

    async def _keep(
        self, state: DeviceState, memory: Memory, *, release: dict[str, Any] | None = None
    ) -> None:
        """Write down what was learned; `release`: what control is to want from now on."""
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            kept = replace(state, memory=memory)
            if release is not None:
                plan = {"reason": "an experiment of the operator"}
                wish = Wish(name=state.name, wanted=release, plan=plan, group_id=state.group_id)
                await devices.want(conn, [wish], now=now)
                kept = replace(kept, wanted=release, command_due_at=None)
            if not await devices.save(conn, kept, seen=kept, release=False, now=now):
                raise Conflict(f"{state.name} was taken by another process meanwhile")

    async def _tell(self, device: BluegenDevice, kind: str, data: Mapping[str, Any]) -> None:
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            await events.record(
                conn,
                kind=f"device.{kind}",
                at=now,
                user_id=device.user_id,
                data={"device": device.name, **data},
            )
            await control.wake(conn, device=device.name, now=now)


@asynccontextmanager
async def desk(context: Context) -> AsyncIterator[Desk]:
    """Open the desk: connections of its own to the services."""
    async with http.session() as session:
        wiring = Wiring(
            session=session,
            clock=context.clock,
            instance=context.config.mqtt.instance,
            interval_s=context.config.control.interval_s,
            ledger=DatabaseLedger(context),
        )
        yield Desk(context, wiring)


def remaining(kept: Kept, now: datetime) -> timedelta | None:
    """Return how long the experiment still runs; None: there is none."""
    if kept.calibration is None:
        return None
    return max(kept.calibration.experiment.ends_at - now, timedelta(0))


def _account(device: BluegenDevice) -> tuple[str, str]:
    return device.base_url, device.username
