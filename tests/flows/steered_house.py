"""A house under control: a real database, simulated devices, and a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from psycopg.types.json import Jsonb

from fpd.adapters.battery_keys import BatteryDevice
from fpd.config import BluegenDevice, Config, Control, Device, Oscp
from fpd.domain.forecast import ForecastType
from fpd.domain.units import Phase, Unit
from fpd.flows import control
from fpd.flows.context import Context
from fpd.flows.devices import Devices
from fpd.flows.holder import own
from fpd.metrics import Metrics
from fpd.mqtt.client import MqttClient
from fpd.oscp import messages
from fpd.oscp.client import PeerClient
from fpd.store import forecasts, intake
from fpd.store.db import Database
from fpd.store.vault import Vault

WEDNESDAY = datetime(2025, 3, 12, 6, tzinfo=UTC)
INTERVAL_S = 10.0


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self, at: datetime = WEDNESDAY) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)


class House:
    """One daemon's devices and control, with whatever they started."""

    def __init__(
        self,
        db: Database,
        clock: Hands,
        configured: Sequence[Device],
        *,
        name: str = "",
        folder: Path = Path("/nonexistent"),
    ) -> None:
        self.db = db
        self.clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        config = Config(
            data_dir=folder,
            control=Control(interval_s=INTERVAL_S),
            devices=tuple(configured),
        )
        self.context = Context(
            config=config,
            clock=clock,
            db=db,
            vault=Vault(Fernet.generate_key()),
            metrics=Metrics(),
            peers=PeerClient(Oscp()),
            mqtt=MqttClient(
                "mqtt://127.0.0.1:1", username=None, password=None, ca_file=None, instance="test"
            ),
            spawn=self._spawn,
            holder=f"{own()}/{name}",
            steady=lambda: clock().timestamp(),
        )
        self.devices = Devices(self.context)
        self.control = control.Control(self.context, self.devices)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        self._tasks.add(asyncio.create_task(work, name=name))

    async def settle(self) -> None:
        """Wait for everything that was started; a bug in it is a failure here."""
        while self._tasks:
            done, self._tasks = self._tasks, set()
            await asyncio.gather(*done)

    async def look(self) -> None:
        """Let devices and control look around until all that is due now is done."""
        for _ in range(3):
            await self.devices.step()
            await self.settle()
            while await self.control.step():
                pass
            await self.settle()

    async def live(self, *, seconds: float) -> None:
        """Let time pass in steps of the control interval."""
        until = self.clock() + timedelta(seconds=seconds)
        while self.clock() < until:
            self.clock.move(seconds=min(INTERVAL_S, (until - self.clock()).total_seconds()))
            await self.look()

    async def die(self) -> None:
        """Be gone as after kill -9: nothing is written down, no lease is given back."""
        await self.db.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self.devices.close()

    async def __aenter__(self) -> House:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.settle()
        await self.devices.close()

    async def row(self, sql: str, *parameters: object) -> tuple[Any, ...]:
        async with self.db.connection() as conn:
            cursor = await conn.execute(sql, parameters)
            found = await cursor.fetchone()
        assert found is not None
        return tuple(found)

    async def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        async with self.db.connection() as conn:
            cursor = await conn.execute(sql, parameters)
            return await cursor.fetchall()

    async def group(
        self, assets: Mapping[str, Mapping[str, Any]], control: Mapping[str, Any] | None = None
    ) -> int:
        """Make a group of an online provider; `assets`: by the device that each drives."""
        now = self.clock()
        (group_id,) = await self.row(
            """
            with owner as (
                insert into account values (1, %s) on conflict do nothing
            ), cp as (
                insert into peer (user_id, role, name, enabled, oscp_version, link,
                                  link_changed_at, created_at, modified_at)
                values (1, 'CapacityProvider', 'CP', true, '2.0', 'online', %s, %s, %s)
                returning id
            )
            insert into capacity_group (user_id, name, identifier, enabled, provider_id, control,
                                        provider_period_s, optimizer_period_s, created_at,
                                        modified_at)
            select 1, 'Site', 'site', true, id, %s, 900, 900, %s, %s from cp
            returning id
            """,
            now, now, now, now, None if control is None else Jsonb(dict(control)), now, now,
        )  # fmt: skip
        for name, settings in assets.items():
            async with self.db.connection() as conn:
                await conn.execute(
                    """
                    insert into asset (user_id, group_id, name, identifier, enabled, audience,
                                       node_id, source_id, category, phase, control, created_at,
                                       modified_at)
                    values (1, %s, %s, %s, true, 'CapacityProvider', 1, %s, 'Storage', 'All', %s,
                            %s, %s)
                    """,
                    (group_id, name, name, name, Jsonb({"device": name, **settings}), now, now),
                )
        return int(group_id)

    async def forecast(
        self,
        group_id: int,
        type_: str,
        watts: float,
        *,
        start_at: datetime,
        end_at: datetime,
    ) -> None:
        """The group's provider (or, for OPTIMUM, nobody in particular) sends a forecast."""
        (peer_id,) = await self.row(
            "select provider_id from capacity_group where id = %s", group_id
        )
        message = messages.UpdateGroupCapacityForecast(
            group_id="group",
            type=ForecastType(type_),
            forecasted_blocks=[
                messages.ForecastedBlock(
                    capacity=watts,
                    phase=Phase.ALL,
                    unit=Unit.W,
                    start_time=start_at,
                    end_time=end_at,
                )
            ],
        )
        request_id = f"{type_}-{self.clock().timestamp()}-{watts}"
        async with self.db.transaction() as conn:
            looked = await intake.look(
                conn,
                keys=[(peer_id, request_id)],
                groups=[(peer_id, "group")],
                tokens=[],
                now=self.clock(),
            )
            new = intake.New(
                id=looked.ids[0],
                group_id=group_id,
                peer_id=peer_id,
                operation="POST update_group_capacity_forecast",
                request_id=request_id,
                noted_as=request_id,
                correlation_id=None,
                type=ForecastType(type_),
                body=messages.encode(message),
                sha256=b"",
                ends_at=end_at,
            )
            await intake.keep(conn, [new], now=self.clock())
            await forecasts.want_control(conn, group_ids=[group_id], now=self.clock())

    async def commands(self, device: str) -> list[tuple[Any, ...]]:
        return await self.rows(
            "select wanted, outcome from device_command where device = %s order by id", device
        )

    async def state(self, device: str) -> dict[str, Any]:
        (found,) = await self.row(
            "select to_jsonb(d) from device_state as d where name = %s", device
        )
        assert isinstance(found, dict)
        return found


def battery(url: str, **settings: Any) -> BatteryDevice:
    given: dict[str, Any] = {
        "name": "cellar", "capacity_wh": 10_000, "max_charge_w": 3300, "max_discharge_w": 3300,
        "node_id": 1, "source_id": "/site/battery", "soc_hyst": 0, **settings,
    }  # fmt: skip
    return BatteryDevice(type="battery", base_url=url, **given)


def fuel_cell(url: str, **settings: Any) -> BluegenDevice:
    given: dict[str, Any] = {
        "name": "cell", "username": "demo", "password": "demo", "unit_id": 249,
        "week_anchor": "MON", "node_id": 1, "source_id": "/site/cell", **settings,
    }  # fmt: skip
    return BluegenDevice(type="bluegen", base_url=url, **given)
