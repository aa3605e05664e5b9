"""What is configured in a simulated MyEMS: meters, commands, containers, schedules, as in the
recorded exchanges with v6.7.0.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fpd.sim.myems_plant import TEXT, Point, points

SOURCE = {"id": 15, "name": "Lab Modbus", "uuid": "0fcb55f8-fff7-45aa-9221-0d9ebbea7e2b"}
CATEGORY = {
    "id": 1,
    "name": "Electricity",
    "uuid": "6d0753ed-8b43-4332-b6fd-d2f5813831d3",
}
COST_CENTER = {
    "id": 1,
    "name": "Cost Center 1",
    "uuid": "d97b9736-c4f9-4005-a534-6af3487303ad",
}
_ITEM = {
    "id": 1,
    "name": "Power for lighting and sockets",
    "uuid": "cade4e78-2b85-4bea-ab6e-0d6accc88d03",
}
_METERS = {
    4: ("Grid buy meter", (10, 11)),
    5: ("Grid sell meter", (12,)),
    6: ("Battery charge meter", (13, 14, 15, 17)),
    7: ("Battery discharge meter", (16,)),
    8: ("BlueGen meter", (18, 19)),
    9: ("EV meter", (20, 21)),
    10: ("PV meter", (22, 23)),
}
FAMILIES = ("energystoragecontainers", "microgrids")
PARTS = {
    FAMILIES[0]: ("batteries", "grids", "loads", "powerconversionsystems"),
    FAMILIES[1]: (
        *("batteries", "evchargers", "generators", "grids", "heatpumps", "loads"),
        *("photovoltaics", "powerconversionsystems"),
    ),
}


def made_up(*words: object) -> str:
    """Return a UUID that is always the same for the same words."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, "/".join(map(str, words))))


@dataclass(slots=True)
class Command:
    id: int
    name: str
    topic: str
    payload: str
    set_value: Decimal | None
    description: str | None

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "uuid": made_up("command", self.id),
            "topic": self.topic,
            "payload": self.payload,
            "set_value": self.set_value,
            "description": self.description,
        }


def _commands() -> dict[int, Command]:
    rows = [
        Command(
            1,
            "battery_power_setpoint",
            "myems/command/battery",
            '{"device":"battery","set_value":$s1}',
            Decimal(0),
            "kW, >0 charge",
        ),
        Command(
            2,
            "bluegen_power_setpoint",
            "myems/command/bluegen",
            '{"device":"bluegen","set_value":$s1}',
            None,
            "W",
        ),
        Command(
            3,
            "battery_stop",
            "myems/command/battery",
            '{"device":"battery","stop":true}',
            None,
            "no set value",
        ),
        Command(4, "seed", "myems/point/2", "{address:1, slave_id:1, set_value: $s1}", None, None),
        Command(5, "bad key", "myems/command/bad", '{"v":$unknown}', None, None),
        Command(6, "wild", "myems/command/#", "$s1", None, None),
    ]
    return {command.id: command for command in rows}


@dataclass(slots=True)
class Site:
    """Everything that lists show. `schedules` by (family, owner)."""

    points: dict[int, Point] = field(default_factory=points)
    meters: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=lambda: dict(_METERS))
    commands: dict[int, Command] = field(default_factory=_commands)
    schedules: dict[tuple[str, int], dict[int, dict[str, Any]]] = field(
        default_factory=lambda: {(family, 1): {} for family in FAMILIES}
    )
    offline_days: dict[tuple[int, str], Decimal] = field(default_factory=dict)
    offline_files: list[str] = field(default_factory=list)
    last_schedule: int = 0

    def __post_init__(self) -> None:
        self.points[24] = Point(24, "Battery serial", TEXT, "text")

    def point_ids(self, meter_id: int, *, with_text: bool) -> list[int]:
        """Return the points of a meter in the order of their ids."""
        ids = self.meters[meter_id][1]
        return sorted((*ids, 24) if with_text and meter_id == 6 else ids)


def address(point_id: int) -> str:
    return json.dumps(
        {
            "slave_id": 1,
            "function_code": 3,
            "offset": 2 * (point_id - 10),
            "number_of_registers": 2,
            "format": ">f",
            "byte_swap": False,
        }
    )


def shown_point(point: Point) -> dict[str, Any]:
    return {
        "id": point.id,
        "name": point.name,
        "data_source": SOURCE,
        "object_type": point.object_type,
        "units": point.units,
        "high_limit": Decimal(point.high),
        "low_limit": Decimal(point.low),
        "higher_limit": None,
        "lower_limit": None,
        "ratio": Decimal(1),
        "offset_constant": Decimal(0),
        "is_trend": point.is_trend,
        "is_virtual": False,
        "address": address(point.id),
        "description": None,
        "faults": None,
        "definitions": None,
    }


def shown_meter(meter_id: int, name: str) -> dict[str, Any]:
    number = made_up("meter", meter_id)
    return {
        "id": meter_id,
        "name": name,
        "uuid": number,
        "energy_category": CATEGORY,
        "is_counted": True,
        "hourly_low_limit": Decimal(0),
        "hourly_high_limit": Decimal("9999.9"),
        "cost_center": COST_CENTER,
        "energy_item": _ITEM,
        "master_meter": None,
        "description": name,
        "qrcode": f"meter:{number}",
    }


def offline_meters() -> list[dict[str, Any]]:
    return [
        {
            "id": 1,
            "name": "Example Offline Meter",
            "uuid": made_up("offlinemeter", 1),
            "energy_category": CATEGORY,
            "is_counted": True,
            "hourly_low_limit": Decimal(0),
            "hourly_high_limit": Decimal("999.999"),
            "energy_item": _ITEM,
            "cost_center": COST_CENTER,
            "description": "offlinemeter1",
        }
    ]


def virtual_meters() -> list[dict[str, Any]]:
    return [
        {
            "id": 1,
            "name": "Example Virtual Meter",
            "uuid": made_up("virtualmeter", 1),
            "equation": "x1+x2",
            "energy_category": CATEGORY,
            "is_counted": True,
            "cost_center": COST_CENTER,
            "energy_item": _ITEM,
            "description": "virtual description",
        }
    ]


def owner(family: str) -> dict[str, Any]:
    name = "Container A" if family == FAMILIES[0] else "Microgrid A"
    return {
        "id": 1,
        "name": name,
        "uuid": made_up(family, 1),
        "rated_capacity": Decimal(200),
        "rated_power": Decimal(100),
        "contact": {"id": 1, "name": "John", "uuid": made_up("contact", 1)},
        "cost_center": COST_CENTER,
        "description": None,
    }


def parts(site: Site, part: str) -> list[dict[str, Any]] | None:
    """Return an owner's parts; None for a kind that there is not."""

    def point(point_id: int) -> dict[str, Any]:
        return {"id": point_id, "name": site.points[point_id].name}

    def meter(meter_id: int) -> dict[str, Any]:
        return {
            "id": meter_id,
            "name": site.meters[meter_id][0],
            "uuid": made_up("meter", meter_id),
        }

    known: dict[str, Iterable[dict[str, Any]]] = {
        "batteries": [
            {
                "name": "Battery 1",
                "battery_state_point": point(17),
                "soc_point": point(13),
                "power_point": point(14),
                "charge_meter": meter(6),
                "discharge_meter": meter(7),
                "rated_capacity": Decimal(200),
                "rated_power": Decimal(100),
                "nominal_voltage": Decimal(400),
            }
        ],
        "generators": [
            {
                "name": "BlueGen",
                "power_point": point(18),
                "meter": meter(8),
                "rated_output_power": Decimal("1.5"),
            }
        ],
        "evchargers": [
            {
                "name": "EV 1",
                "power_point": point(20),
                "meter": meter(9),
                "rated_output_power": Decimal(22),
            }
        ],
        "grids": [
            {
                "name": "Grid",
                "power_point": point(10),
                "buy_meter": meter(4),
                "sell_meter": meter(5),
                "capacity": Decimal(250),
            }
        ],
        "photovoltaics": [
            {
                "name": "PV",
                "power_point": point(22),
                "meter": meter(10),
                "rated_power": Decimal(50),
            }
        ],
        "loads": [],
        "heatpumps": [],
        "powerconversionsystems": [],
    }
    if part not in known:
        return None
    return [
        {"id": number, "name": one["name"], "uuid": made_up(part, number), **one}
        for number, one in enumerate(known[part], 1)
    ]
