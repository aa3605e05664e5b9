"""What the demo waits for: each stage as somebody outside the daemon has seen it.

An observer returns what was seen, in a few words, or None as long as it was not. Nobody asks fpd:
the peers', the devices' and the subscriber's own logs are the evidence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fpd.sim.neighbourhood import GROUP, Neighbourhood

Observer = Callable[[Neighbourhood], Awaitable[str | None]]

_PEERS = ("capacity-provider", "capacity-optimizer")


@dataclass(frozen=True, slots=True)
class Stage:
    title: str
    observe: Observer


async def _registered(hood: Neighbourhood) -> str | None:
    """Each peer got our Register in return, with the right token, and accepted it."""
    for peer in _PEERS:
        if not await _accepted(hood, peer, "in", "/register"):
            return None
    return "three tokens each, both peers"


async def _hands_shaken(hood: Neighbourhood) -> str | None:
    provider = await _accepted(hood, "capacity-provider", "in", "/handshake_acknowledge")
    asked = await _accepted(hood, "capacity-optimizer", "in", "/handshake")
    answered = await _accepted(hood, "capacity-optimizer", "out", "/handshake_acknowledge")
    return "acknowledged both ways" if provider and asked and answered else None


async def _heartbeats(hood: Neighbourhood) -> str | None:
    counts = [
        len(await _accepted(hood, peer, direction, "/heartbeat"))
        for peer in _PEERS
        for direction in ("in", "out")
    ]
    return f"{sum(counts)} so far" if min(counts) > 0 else None


async def _forecast(hood: Neighbourhood) -> str | None:
    sent = await _accepted(hood, "capacity-provider", "out", "/update_group_capacity_forecast")
    types = {entry["body"]["type"] for entry in sent}
    return " and ".join(sorted(types)) if len(types) == 2 else None


async def _forwarded(hood: Neighbourhood) -> str | None:
    """The optimizer got the provider's very content, under another request id."""
    sent = await _accepted(hood, "capacity-provider", "out", "/update_group_capacity_forecast")
    got = await _accepted(hood, "capacity-optimizer", "in", "/update_group_capacity_forecast")
    bodies, ids = [entry["body"] for entry in got], {_request_id(entry) for entry in got}
    if len(sent) < 2 or not all(entry["body"] in bodies for entry in sent):
        return None
    return None if ids & {_request_id(entry) for entry in sent} else "the same content, own ids"


async def _profile(hood: Neighbourhood) -> str | None:
    written = [e for e in await hood.log("bluegen", method="POST") if "/points" in e["path"]]
    created = [e for e in await hood.log("bluegen", method="POST") if e["path"] == "/profiles"]
    assigned = [e for e in await hood.log("bluegen", method="PUT") if "/profile/" in e["path"]]
    if not assigned or not (written or created) or assigned[-1]["status"] != 200:
        return None
    points = (written or created)[-1]["body"]["points"]
    powers = sorted({int(float(point["power"])) for point in points})
    return f"{len(points)} points, {powers[0]} to {powers[-1]} W" if len(powers) > 1 else None


async def _setpoint(hood: Neighbourhood) -> str | None:
    """The battery follows a setpoint of ours, and we have looked at it since."""
    commands = [
        e
        for e in await hood.log("battery", method="PUT", path="/setpoint/discharge/", status="200")
        if not e["path"].endswith("/0")
    ]
    if not commands:
        return None
    wanted_w = int(commands[-1]["path"].rpartition("/")[2])
    output_w = float((await hood.state("battery"))["pac_w"])
    since = str(commands[0]["seq"])
    looked = await hood.log("battery", method="GET", path="/status", since=since)
    follows = abs(output_w - wanted_w) <= max(100.0, 0.1 * wanted_w)
    return f"discharging {output_w:.0f} W of {wanted_w} W" if follows and looked else None


async def _reported(hood: Neighbourhood) -> str | None:
    group = await _accepted(hood, "capacity-provider", "in", "/update_group_measurements")
    assets = await _accepted(hood, "capacity-optimizer", "in", "/update_asset_measurements")
    if not group or not assets:
        return None
    energy = group[0]["body"]["measurements"][0]
    return f"{energy['value']:g} {energy['unit']} to the provider, " + _counted(
        len(assets[0]["body"]["measurements"]), "asset"
    )


async def _datum(hood: Neighbourhood) -> str | None:
    topics = [entry["path"] for entry in await hood.log("subscriber", path="user/1/node/")]
    heartbeat = [topic for topic in topics if "/Heartbeat/" in topic and GROUP in topic]
    forecast = [topic for topic in topics if "/UpdateGroupCapacityForecast/" in topic]
    if not heartbeat or not forecast:
        return None
    return f"heartbeat and forecast, {_counted(len(topics), 'datum')}"


async def _accepted(
    hood: Neighbourhood, name: str, direction: str, operation: str
) -> list[dict[str, Any]]:
    """Return a simulator's exchanges of that operation that were answered with 204."""
    entries = await hood.log(name, direction=direction, path=operation, status="204")
    return [entry for entry in entries if entry["path"].endswith(operation)]


def _request_id(entry: dict[str, Any]) -> str:
    return str(entry["headers"]["X-Request-ID"])


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 or noun == 'datum' else 's'}"


STAGES: tuple[Stage, ...] = (
    Stage("peers registered", _registered),
    Stage("handshakes done", _hands_shaken),
    Stage("heartbeats flow both ways", _heartbeats),
    Stage("forecast received", _forecast),
    Stage("forecast forwarded to the optimizer", _forwarded),
    Stage("BlueGen profile written and assigned", _profile),
    Stage("battery setpoint applied and confirmed", _setpoint),
    Stage("measurement period closed and reported", _reported),
    Stage("datum seen by an independent subscriber", _datum),
)
