"""A simulated site: metered loads and a grid meter that publish datum over MQTT.

The grid meter is physical: the loads, less what the simulated batteries and fuel cells deliver at
that moment, read from their control doors. So what fpd tells them comes back in what it measures.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import aiohttp
import cbor2
import msgspec
import structlog
from msgspec import Meta

from fpd.errors import Misconfigured
from fpd.sim.journal import Clock
from fpd.sim.mqtt_link import MqttLink, MqttOptions
from fpd.sim.quirks import Quirks
from fpd.sim.simulator import Simulator, option
from fpd.sim.site_loads import Datum, Register, read_load

log = structlog.get_logger()

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PENDING = 10_000
_LOOK_EVERY_S = 0.25
_LONGEST_GAP_S = 3600.0
_DEVICE_TIMEOUT = aiohttp.ClientTimeout(total=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOptions(MqttOptions):
    node_id: int = option(1, "node id in the topics")
    load: tuple[str, ...] = option(
        ("load/1=3600", "load/2=1200~300", "load/3=600~150"),
        "SOURCE=WATTS or SOURCE=WATTS~SWING; may be repeated",
    )
    samples: tuple[str, ...] = option(
        ("load/3",), "sources that publish the samples shape; may be repeated"
    )
    meter: bool = option(False, "publish the site's grid meter too")
    meter_source: str = option("meter/grid", "source of the grid meter")
    battery_url: tuple[str, ...] = option(
        (), "URL of a battery simulator behind the meter; may be repeated"
    )
    bluegen_url: tuple[str, ...] = option(
        (), "URL of a bluegen simulator behind the meter; may be repeated"
    )
    period: float = option(5.0, "seconds between datum")
    backfill: float = option(180.0, "seconds of history to publish at the start")
    encoding: Literal["json", "cbor"] = option("json", "how datum are written")


class SiteQuirks(Quirks, frozen=True, kw_only=True, forbid_unknown_fields=True):
    loads: Annotated[
        dict[str, float], Meta(description="base power by source instead of the configured, W")
    ] = msgspec.field(default_factory=dict)
    stop_publishing: Annotated[bool, Meta(description="measure nothing: a gap in the data")] = False
    garbage: Annotated[bool, Meta(description="also publish what nobody can read")] = False


class Site(Simulator[SiteQuirks]):
    """Publishes on a raster in UTC; what the broker could not take is sent later, in order."""

    role = "site"

    def __init__(self, options: SiteOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock, quirks=SiteQuirks)
        if options.period <= 0:
            raise Misconfigured("period must be more than 0 s")
        self.options = options
        self._period = timedelta(seconds=options.period)
        self._loads = [read_load(text) for text in options.load]
        self._mqtt = MqttLink(options, self.changes)
        self._pending: deque[Datum] = deque(maxlen=_PENDING)
        self._devices = {
            **dict.fromkeys(options.battery_url, "pac_w"),
            **dict.fromkeys(options.bluegen_url, "watts"),
        }
        self._device_w = dict.fromkeys(self._devices, 0.0)
        self._unreachable: set[str] = set()
        self._published = 0
        self._measured_at = self._raster(clock() - timedelta(seconds=options.backfill))
        self._registers: dict[str, Register] = {}
        self._session: aiohttp.ClientSession

    async def begin(self) -> None:
        self._session = aiohttp.ClientSession(timeout=_DEVICE_TIMEOUT)
        self.spawn(self._mqtt.run())
        self.spawn(self._measure())
        self.spawn(self._publish())

    async def end(self) -> None:
        await self._session.close()

    def state(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "connected": self._mqtt.connected,
            "published": self._published,
            "pending": len(self._pending),
            "watts": {source: register.watts for source, register in self._registers.items()},
            "devices": self._device_w,
        }

    async def _measure(self) -> None:
        """Read every meter at each point of the raster that has come."""
        while True:
            now = self.clock()
            due = self._due(now)
            if due:
                await self._read_devices()
            for at in due:
                if not self.quirks.stop_publishing:
                    self._pending.extend(self._readings(at))
                self._measured_at = at
            if due:
                self.changes.notify()
            remaining_s = (self._measured_at + self._period - self.clock()).total_seconds()
            await asyncio.sleep(min(max(remaining_s, 0.005), _LOOK_EVERY_S))

    def _due(self, now: datetime) -> list[datetime]:
        """Return the points of the raster since the last reading, unless that is very old."""
        longest_s = max(self.options.backfill, _LONGEST_GAP_S)
        oldest = self._raster(now - timedelta(seconds=longest_s))
        at = max(self._measured_at, oldest) + self._period
        due = []
        while at <= now:
            due.append(at)
            at += self._period
        return due

    def _raster(self, instant: datetime) -> datetime:
        return _EPOCH + (instant - _EPOCH) // self._period * self._period

    async def _read_devices(self) -> None:
        for url, power in self._devices.items():
            try:
                async with self._session.get(f"{url.rstrip('/')}/_sim/state") as response:
                    self._device_w[url] = float((await response.json())[power])
                self._unreachable.discard(url)
            except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
                if url not in self._unreachable:
                    log.warning("sim.device.unreachable", url=url, error=str(error))
                self._unreachable.add(url)

    def _readings(self, at: datetime) -> list[Datum]:
        readings, total_w = [], -sum(self._device_w.values())
        for load in self._loads:
            watts = load.watts(at, base_w=self.quirks.loads.get(load.source_id))
            total_w += watts
            register = self._registers.setdefault(load.source_id, load.register(at))
            register.advance(at, watts)
            readings.append(self._datum(load.source_id, register, {"state": "on"}))
        if self.options.meter:
            source_id = self.options.meter_source
            register = self._registers.setdefault(source_id, Register(at=at, watts=total_w))
            register.advance(at, total_w)
            datum = self._datum(source_id, register, {})
            datum.accumulating["wattHoursReverse"] = round(register.exported_wh, 3)
            readings.append(datum)
        return readings

    def _datum(self, source_id: str, register: Register, status: dict[str, str]) -> Datum:
        return Datum(
            created=register.at,
            node_id=self.options.node_id,
            source_id=source_id,
            instantaneous={"watts": round(register.watts, 1)},
            accumulating={"wattHours": round(register.imported_wh, 3)},
            status=status,
        )

    async def _publish(self) -> None:
        while True:
            await self.changes.until(lambda: bool(self._pending) and self._mqtt.connected)
            while self._pending and await self._sent(self._pending[0]):
                self._pending.popleft()
                self._published += 1
                self.changes.notify()

    async def _sent(self, datum: Datum) -> bool:
        shaped = datum.source_id in self.options.samples
        body = datum.samples() if shaped else datum.flat()
        encode = cbor2.dumps if self.options.encoding == "cbor" else msgspec.json.encode
        if self.quirks.garbage:
            await self._mqtt.publish(datum.topic, b"\xff{not a datum")
        entry = self.journal.begin("out", "PUBLISH", datum.topic, {}, msgspec.json.encode(body))
        sent = await self._mqtt.publish(datum.topic, encode(body))
        self.journal.settle(entry, note="published" if sent else "connection lost")
        return sent
