"""What a MyEMS server has, as the configuration that would read and drive it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fpd.adapters.device import DeviceFault
from fpd.adapters.myems_api import Myems
from fpd.adapters.myems_errors import Missing
from fpd.adapters.myems_shapes import Command, Owner, Part, Point
from fpd.adapters.myems_time import shown
from fpd.adapters.myems_units import meaning

CONTAINERS = "energystoragecontainers"
PARTS: Mapping[str, tuple[str, ...]] = {
    CONTAINERS: ("batteries", "grids", "loads"),
    "microgrids": (
        *("batteries", "generators", "evchargers", "grids"),
        *("photovoltaics", "loads", "heatpumps"),
    ),
}
_NO_LIMIT = Decimal(999_999)  # MyEMS wants limits; these are what people write for none
_REFS = (
    *("power_point", "soc_point", "battery_state_point"),
    *("meter", "charge_meter", "discharge_meter", "buy_meter", "sell_meter"),
)
_CLASSES = {"ENERGY_VALUE": "a", "ANALOG_VALUE": "i", "DIGITAL_VALUE": "s"}


@dataclass(slots=True)
class Site:
    """All that was found. `parts` by (family, owner's id, kind)."""

    version: tuple[int, int, int]
    offset: str | None
    points: dict[int, Point] = field(default_factory=dict)
    meters: dict[int, str] = field(default_factory=dict)
    meter_points: dict[int, list[int]] = field(default_factory=dict)
    meter_commands: dict[int, list[int]] = field(default_factory=dict)
    virtual_meters: dict[int, str] = field(default_factory=dict)
    offline_meters: dict[int, str] = field(default_factory=dict)
    commands: dict[int, Command] = field(default_factory=dict)
    owners: list[tuple[str, Owner]] = field(default_factory=list)
    owner_commands: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    parts: list[tuple[str, int, str, Part]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


async def discover(server: Myems) -> Site:
    """Ask an administrator's session for everything. Raises DeviceFault."""
    site = Site(version=await server.version(), offset=None)
    site.points = {point.id: point for point in await server.points()}
    try:
        offset = await server.offset()
        site.offset = None if offset is None else shown(offset)
    except DeviceFault as fault:
        site.troubles.append(f"utc_offset is not known: {fault}")
    for meter in await server.meters():
        site.meters[meter.id] = meter.name
        site.meter_points[meter.id] = [p.id for p in await server.meter_points(meter.id)]
        site.meter_commands[meter.id] = [c.id for c in await server.meter_commands(meter.id)]
    site.virtual_meters = {meter.id: meter.name for meter in await server.virtual_meters()}
    site.offline_meters = {meter.id: meter.name for meter in await server.offline_meters()}
    site.commands = {command.id: command for command in await server.commands()}
    for family in PARTS:
        await _owners(server, site, family)
    return site


async def _owners(server: Myems, site: Site, family: str) -> None:
    for owner in await server.owners(family):
        site.owners.append((family, owner))
        if family == CONTAINERS:
            await _commands(server, site, owner)
        for kind in PARTS[family]:
            try:
                parts = await server.parts(family, owner.id, kind)
            except Missing:
                continue
            except DeviceFault as fault:
                # Before 4.0 parts were families of their own.
                site.troubles.append(f"{owner.name}: {fault}")
                continue
            site.parts += [(family, owner.id, kind, part) for part in parts]


async def _commands(server: Myems, site: Site, owner: Owner) -> None:
    try:
        found = await server.owner_commands(CONTAINERS, owner.id)
        site.owner_commands[CONTAINERS, owner.id] = [command.id for command in found]
    except DeviceFault as fault:
        site.troubles.append(f"{owner.name}: {fault}")


Rows = list[dict[str, Any]]


def streams(site: Site, *, name: str, node_id: int) -> tuple[Rows, list[str]]:
    """Return the rows of [[platform.stream]], and what cannot be one, with the reason."""
    rows: Rows = []
    unusable: list[str] = []
    seen: set[int] = set()
    for meter_id, ids in sorted(site.meter_points.items()):
        source_id = f"/{_word(name)}/meter/{meter_id}"
        own = [site.points[i] for i in sorted(ids) if i in site.points and i not in seen]
        seen.update(ids)
        where = {"meter": meter_id, "node_id": node_id, "source_id": source_id}
        rows += _of_points(own, where, f"meter {site.meters[meter_id]}", unusable)
    for point in site.points.values():
        if point.id not in seen:
            source_id = f"/{_word(name)}/point/{point.id}"
            where = {"node_id": node_id, "source_id": source_id}
            rows += _of_points([point], where, "no meter", unusable)
    for key, meters in (
        ("virtual_meter", site.virtual_meters),
        ("offline_meter", site.offline_meters),
    ):
        for meter_id, called in sorted(meters.items()):
            source_id = f"/{_word(name)}/{key.replace('_', '')}/{meter_id}"
            row = {key: meter_id, "node_id": node_id, "source_id": source_id}
            rows.append(row | {"#": called})
    return rows, unusable


def _of_points(
    points: Iterable[Point], where: Mapping[str, Any], whose: str, unusable: list[str]
) -> Iterator[dict[str, Any]]:
    used: set[str] = set()
    for point in points:
        kind, known = _CLASSES.get(point.object_type), meaning(point.units)
        what = f"point {point.id} {point.name} ({point.units or 'no unit'}), {whose}"
        if kind is None:
            unusable.append(f"{what}: {point.object_type} cannot be read")
            continue
        if kind != "s" and known is None:
            unusable.append(f"{what}: unit not known; add property, class and multiplier")
            continue
        name = "state" if kind == "s" else known.name if known else ""
        if name in used:
            name = _word(point.name)
        used.add(name)
        row = dict(where)
        if kind != "a" or "meter" not in where:
            row["point"] = point.id
        row |= {"unit": point.units or "", "property": name, "class": kind}
        row["multiplier"] = 1.0 if kind == "s" or known is None else float(known.multiplier)
        if not row["unit"]:
            del row["unit"]
        row |= _limits(point)
        yield row | {"#": f"{point.name} ({whose})"}


def _limits(point: Point) -> dict[str, float]:
    found = {"low": point.low_limit, "high": point.high_limit}
    return {
        name: float(limit)
        for name, limit in found.items()
        if limit is not None and abs(limit) < _NO_LIMIT and not (name == "low" and limit == 0)
    }


def devices(site: Site, *, base_url: str) -> Rows:
    """Return a [[device]] for each part that has a command bound to it and shows its power."""
    found = [
        _device(site, kind, part, command, base_url)
        for family, owner_id, kind, part in site.parts
        if kind in _ABILITIES and part.power_point is not None
        for command in _commands_of(site, family, owner_id, kind, part)[:1]
    ]
    # One battery may stand in a container and in a microgrid.
    return list({(row["command_id"], row["point_id"]): row for row in found}.values())


def _commands_of(site: Site, family: str, owner_id: int, kind: str, part: Part) -> list[Command]:
    """Return the commands of a part's meters, or of a battery's owner, that take a value."""
    meters = [r.id for r in (part.meter, part.charge_meter, part.discharge_meter) if r is not None]
    ids = [i for meter_id in meters for i in site.meter_commands.get(meter_id, ())]
    if kind == "batteries":
        ids += site.owner_commands.get((family, owner_id), [])
    found = [site.commands[i] for i in dict.fromkeys(ids) if i in site.commands]
    return [command for command in found if "$s1" in (command.payload or "")]


def _storing(part: Part) -> dict[str, Any]:
    most_w = _watts(part.rated_power)
    return {
        "capacity_wh": int((part.rated_capacity or 0) * 1000),
        "max_charge_w": most_w,
        "max_discharge_w": most_w,
        "command_positive": "charge",
        "point_positive": "charge",
    }


def _giving(part: Part) -> dict[str, Any]:
    most_w = _watts(part.rated_output_power or part.rated_power)
    return {
        "rest_w": most_w,
        "max_charge_w": 0,
        "max_discharge_w": most_w,
        "command_positive": "discharge",
        "point_positive": "discharge",
    }


def _taking(part: Part) -> dict[str, Any]:
    most_w = _watts(part.rated_output_power or part.rated_input_power)
    return {
        "rest_w": -most_w,
        "max_charge_w": most_w,
        "max_discharge_w": 0,
        "at_most": True,
        "command_positive": "charge",
        "point_positive": "charge",
    }


_ABILITIES: Mapping[str, Callable[[Part], dict[str, Any]]] = {
    "batteries": _storing,
    "generators": _giving,
    "photovoltaics": lambda part: _giving(part) | {"at_most": True},
    "evchargers": _taking,
    "loads": _taking,
    "heatpumps": _taking,
}


def _watts(rated_kw: Decimal | None) -> int:
    return int((rated_kw or 0) * 1000)


def _device(site: Site, kind: str, part: Part, command: Command, base_url: str) -> dict[str, Any]:
    assert part.power_point is not None
    point = site.points.get(part.power_point.id)
    meter = next((m for m, ids in site.meter_points.items() if part.power_point.id in ids), None)
    row: dict[str, Any] = {
        "name": _word(part.name),
        "type": "myems",
        "base_url": base_url,
        "username": "fpd",
        "password_file": "/etc/fpd/myems.password",
        "command_id": command.id,
        "command_unit": "kW" if "kW" in (command.description or "kW") else "W",
        "point_id": part.power_point.id,
        "point_unit": "W" if point is not None and point.units == "W" else "kW",
        **_ABILITIES[kind](part),
    }
    if part.soc_point is not None:
        row["soc_point_id"] = part.soc_point.id
    if meter is not None:
        row |= {"meter_id": meter} | ({"utc_offset": site.offset} if site.offset else {})
    return row | {"#": f"{part.name}, command {command.name}: {command.description or ''}".strip()}


def document(site: Site, *, name: str, base_url: str, node_id: int) -> dict[str, Any]:
    """Return everything as JSON has it: the configuration, and what else there is."""
    rows, unusable = streams(site, name=name, node_id=node_id)
    platform: dict[str, Any] = {"name": name, "type": "myems", "base_url": base_url}
    platform |= {"api_key_file": "/etc/fpd/myems.key"}
    if site.offset is not None:
        platform["utc_offset"] = site.offset
    return {
        "version": ".".join(map(str, site.version)),
        "platform": platform | {"stream": [_without_note(row) for row in rows]},
        "device": [_without_note(row) for row in devices(site, base_url=base_url)],
        "unusable": unusable,
        "troubles": site.troubles,
        "commands": [
            {"id": c.id, "name": c.name, "topic": c.topic, "payload": c.payload}
            | {"description": c.description}
            for c in site.commands.values()
        ],
        "parts": [
            {"family": family, "owner": owner_id, "kind": kind, "id": part.id, "name": part.name}
            | _refs(part)
            for family, owner_id, kind, part in site.parts
        ],
    }


def _refs(part: Part) -> dict[str, int]:
    return {name: ref.id for name in _REFS if (ref := getattr(part, name)) is not None}


def toml(site: Site, *, name: str, base_url: str, node_id: int) -> str:
    """Return everything as TOML; what only informs stands in comments."""
    rows, unusable = streams(site, name=name, node_id=node_id)
    platform = document(site, name=name, base_url=base_url, node_id=node_id)["platform"]
    lines = [f"# MyEMS {'.'.join(map(str, site.version))} at {base_url}"]
    lines += [f"# {_line(trouble)}" for trouble in site.troubles]
    made = '{"name":"fpd","expires_datetime":"2036-01-01T00:00:00"}'
    lines.append(f"# an API key to read with: fpd myems call POST /apikeys '{made}', GET /apikeys")
    lines += ["[[platform]]", *_keys({k: v for k, v in platform.items() if k != "stream"})]
    if site.offset is None:
        lines.append('#utc_offset = "+08:00"  # not told by this server: what its .env says')
    for row in rows:
        lines += ["", f"# {_line(row['#'])}", "[[platform.stream]]", *_keys(_without_note(row))]
    for row in devices(site, base_url=base_url):
        note = f"# {_line(row['#'])}; check units and signs, then remove the #"
        lines += ["", note, "#[[device]]", *(f"#{key}" for key in _keys(_without_note(row)))]
    lines += ["", *(f"# not read: {_line(why)}" for why in unusable)]
    for family, owner_id, kind, part in site.parts:
        refs = ", ".join(f"{key} {value}" for key, value in _refs(part).items())
        lines.append(f"# {family}/{owner_id}/{kind} {part.id} {_line(part.name)}: {refs}")
    for command in site.commands.values():
        said = f"{command.topic} {command.payload} ({command.description or 'no description'})"
        lines.append(f"# command {command.id} {_line(command.name)}: {_line(said)}")
    return "\n".join(lines) + "\n"


def _keys(row: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in row.items()]


def _without_note(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "#"}


def _line(text: str) -> str:
    """Return a text from the server as it may stand in a comment."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _word(text: str) -> str:
    """Return a name for ids: letters and digits, joined by dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "myems"
