"""A whole neighbourhood as processes of their own: the daemon and everybody around it.

Everything listens on loopback, on free ports, below one folder. Nothing here looks inside the
daemon: it is configured by a file, managed over HTTP and stopped by a signal, like anybody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from fpd.errors import FpdError

GROUP = "demo-group"
NODE = 1
_MANAGE = "/solaruser/api/v1/sec/user/oscp"
_START_S = 60.0
_STOP_S = 20.0


class DemoFailed(FpdError):
    """A part of the neighbourhood did not start or ended by itself."""


class Neighbour:
    """One process. What it prints goes to `<name>.log`, but for the line that says it is ready."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.url = ""
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        """Start `fpd <arguments>`. Raises DemoFailed when it ends at once."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("FPD_")}
        kept = {key: value for key, value in os.environ.items() if key == "FPD_PG_BIN"}
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "fpd", *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=output,
                env={**clean, **kept, **(environ or {})},
                start_new_session=True,  # Ctrl-C is ours to pass on, in order
            )  # fmt: skip

    async def start_simulator(
        self, role: str, *options: str, environ: Mapping[str, str] | None = None
    ) -> None:
        """Start a simulator and learn its address from the line that it prints."""
        await self.start("sim", role, "--port", "0", *options, environ=environ)
        assert self._process is not None and self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), _START_S)
            self.url = str(json.loads(line)["url"])
        except (TimeoutError, ValueError, KeyError):
            raise DemoFailed(f"the {self.name} did not start:\n{self.last_words()}") from None

    def ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    def last_words(self) -> str:
        """Return the end of its log."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-15:]) or "(it said nothing)"

    async def stop(self) -> None:
        """Ask it to end; make it end if it does not."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


class Neighbourhood:
    """Everybody, in the order in which they need each other; `stop` goes backwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.group_id = 0
        self.mqtt_port = _free_port(1883)
        self._neighbours: dict[str, Neighbour] = {}
        self._bearer = ""
        self._session: aiohttp.ClientSession | None = None

    def __getitem__(self, name: str) -> Neighbour:
        return self._neighbours[name]

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        return self._session

    def _new(self, name: str) -> Neighbour:
        self._neighbours[name] = neighbour = Neighbour(name, self.folder)
        return neighbour

    async def start_devices(self) -> None:
        """A fuel cell and a battery."""
        await asyncio.gather(
            self._new("bluegen").start_simulator("bluegen", *_BLUEGEN),
            self._new("battery").start_simulator("battery", *_BATTERY),
        )

    async def start_daemon(self) -> None:
        """fpd itself, with the embedded database and broker."""
        port = _free_port(8484)
        self.url = f"http://127.0.0.1:{port}"
        config = self.folder / "fpd.toml"
        config.touch(mode=0o600)
        config.write_text(
            _CONFIG.format(
                folder=self.folder,
                port=port,
                mqtt_port=self.mqtt_port,
                bluegen=self["bluegen"].url,
                battery=self["battery"].url,
            ),
            encoding="utf-8",
        )
        daemon = self._new("fpd")
        await daemon.start("run", "-c", str(config))
        await self._until_ready(daemon)
        self._bearer = await self._token(config)

    async def _until_ready(self, daemon: Neighbour) -> None:
        try:
            async with asyncio.timeout(_START_S):
                while not daemon.ended():
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                        async with self.session.get(f"{self.url}/readyz") as answer:
                            if answer.status == 200:
                                return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass  # told below, like an early end
        raise DemoFailed(f"the daemon did not start:\n{daemon.last_words()}")

    async def _token(self, config: Path) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fpd", "token", "create", "--user-id", "1", "--json",
            "-c", str(config), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        if process.returncode != 0:
            raise DemoFailed(f"no token: {err.decode(errors='replace')}")
        return str(json.loads(out)["bearer"])

    async def start_meters(self) -> None:
        """Metered loads, the site's grid meter, and a listener at the broker."""
        environ = {"FPD_SIM_MQTT_PASSWORD": "demo"}
        mqtt = ("--mqtt-url", f"mqtt://demo@127.0.0.1:{self.mqtt_port}")
        await self._new("subscriber").start_simulator("subscriber", *mqtt, environ=environ)
        await self._new("site").start_simulator(
            "site", *mqtt, *_SITE,
            "--battery-url", self["battery"].url, "--bluegen-url", self["bluegen"].url,
            environ=environ,
        )  # fmt: skip

    async def start_peers(self) -> None:
        """The grid operator and the optimiser, each with its first token."""
        provider = await self.manage("POST", "capacity-providers", _peer("Demo Lines Co."))
        optimizer = await self.manage("POST", "capacity-optimizers", _peer("Demo Optimizer Co."))
        await self._make_group(int(provider["configId"]), int(optimizer["configId"]))
        fp_url = f"{self.url}/oscp/fp/2.0"
        options = ("--fp-url", fp_url, "--heartbeat-interval", "2")
        await self._new("capacity-optimizer").start_simulator(
            "capacity-optimizer", *options, environ={"FPD_SIM_TOKEN": optimizer["token"]}
        )
        await self._new("capacity-provider").start_simulator(
            "capacity-provider", *options, environ={"FPD_SIM_TOKEN": provider["token"]}
        )

    async def _make_group(self, provider_id: int, optimizer_id: int) -> None:
        await self.manage("PUT", "settings", _SETTINGS)
        group = await self.manage(
            "POST",
            "capacity-groups",
            {**_GROUP, "capacityProviderId": provider_id, "capacityOptimizerId": optimizer_id},
        )
        self.group_id = int(group["configId"])
        for asset in _ASSETS:
            await self.manage("POST", "assets", {**asset, "capacityGroupId": self.group_id})

    async def manage(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        """Call the management API. Raises DemoFailed with what it said."""
        async with self.session.request(
            method,
            f"{self.url}{_MANAGE}/{path}",
            json=body,
            headers={"Authorization": f"Bearer {self._bearer}"},
        ) as answer:
            said = await answer.json()
            if answer.status >= 300:
                raise DemoFailed(f"{method} {path}: {answer.status} {said}")
            return said.get("data")

    async def act(self, name: str, action: str, body: Mapping[str, Any]) -> Any:
        """Tell a simulator to do something; return what came of it."""
        async with self.session.post(f"{self[name].url}/_sim/actions/{action}", json=body) as said:
            return await said.json()

    async def log(self, name: str, **wanted: str) -> list[dict[str, Any]]:
        """Return what a simulator has received and sent so far."""
        async with self.session.get(f"{self[name].url}/_sim/log", params=wanted) as said:
            return list(await said.json())

    async def state(self, name: str) -> dict[str, Any]:
        """Return how a simulator sees itself now."""
        async with self.session.get(f"{self[name].url}/_sim/state") as said:
            return dict(await said.json())

    def check_alive(self) -> None:
        """Raises DemoFailed when somebody has ended by himself."""
        for neighbour in self._neighbours.values():
            if neighbour.ended():
                raise DemoFailed(f"{neighbour.name} ended by itself:\n{neighbour.last_words()}")

    async def stop(self) -> None:
        """Stop everybody: those who talk to the daemon first, then the daemon, then its devices."""
        if self._session is not None:
            await self._session.close()
        devices = [self._neighbours[n] for n in ("bluegen", "battery") if n in self._neighbours]
        daemon = [self._neighbours[n] for n in ("fpd",) if n in self._neighbours]
        others = [n for n in self._neighbours.values() if n not in devices + daemon]
        for some in (others, daemon, devices):
            await asyncio.gather(*(neighbour.stop() for neighbour in some))


def _free_port(wanted: int) -> int:
    """Return `wanted` if nobody listens there, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise DemoFailed("no free port on 127.0.0.1")


def _peer(name: str) -> dict[str, Any]:
    return {"name": name, "oscpVersion": "2.0", "enabled": True}


# Real units report every few minutes and take a profile within the hour; nobody waits that long.
_BLUEGEN = (
    "--activation-delay-s", "2", "--sample-period-s", "2", "--report-delay-s", "0",
)  # fmt: skip
_BATTERY = ("--capacity-wh", "10000", "--usoc", "70")
_SITE = (
    "--node-id", str(NODE), "--period", "1", "--backfill", "180", "--meter",
    "--load", "load/1=2800", "--load", "load/2=1400~200", "--samples", "load/2",
)  # fmt: skip

_CONFIG = """\
data_dir = "{folder}/data"

[http]
listen = "127.0.0.1:{port}"

[mqtt]
port = {mqtt_port}
username = "demo"
password = "demo"

[oscp]
heartbeat_interval_s = 2
require_https = false
allowed_networks = ["127.0.0.0/8"]

[measurements]
settle_s = 1

[control]
interval_s = 1

[[device]]
name = "fuel-cell"
type = "bluegen"
base_url = "{bluegen}"
username = "demo"
password = "demo"
unit_id = 249
poll_s = 2
node_id = 1
source_id = "bluegen/249"

[[device]]
name = "battery"
type = "battery"
base_url = "{battery}"
capacity_wh = 10000
max_charge_w = 3300
max_discharge_w = 3300
verify_after_s = 5
node_id = 1
source_id = "battery/1"
"""

_SETTINGS: Mapping[str, Any] = {
    "publishToSolarIn": True,
    "publishToSolarFlux": True,
    "nodeId": NODE,
    "sourceIdTemplate": "/oscp/{role}/{action}/{cp}/{co}/{cgIdentifier}",
}

_GROUP: Mapping[str, Any] = {
    "name": "Demo group",
    "identifier": GROUP,
    "capacityProviderMeasurementPeriod": "Minute",
    "capacityOptimizerMeasurementPeriod": "Minute",
    "enabled": True,
    "control": {"meter": {"nodeId": NODE, "sourceId": "meter/grid", "property": "watts"}},
}


def _asset(identifier: str, source_id: str, category: str, audience: str) -> dict[str, Any]:
    return {
        "name": identifier,
        "identifier": identifier,
        "audience": audience,
        "enabled": True,
        "nodeId": NODE,
        "sourceId": source_id,
        "category": category,
        "phase": "All",
        "instantaneous": {"propertyNames": ["watts"], "unit": "W", "statisticType": "Average"},
        "energy": {
            "propertyNames": ["wattHours"],
            "unit": "Wh",
            "statisticType": "Difference",
            "type": "Total",
            "direction": "Import",
        },
    }


_ASSETS: Sequence[Mapping[str, Any]] = (
    _asset("charger-cp", "load/1", "Charging", "CapacityProvider"),
    _asset("charger-co", "load/1", "Charging", "CapacityOptimizer"),
    _asset("heat-pump-co", "load/2", "Consumption", "CapacityOptimizer"),
    {
        **_asset("battery", "battery/1", "Storage", "CapacityOptimizer"),
        "energy": None,
        "control": {"device": "battery", "priority": 1},
    },
    {
        **_asset("fuel-cell", "bluegen/249", "Generation", "CapacityOptimizer"),
        "energy": None,
        "control": {"device": "fuel-cell", "priority": 2},
    },
)
