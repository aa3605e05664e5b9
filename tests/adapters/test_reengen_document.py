"""The responses that seed 003 prints are read as it says (its dots left out)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from fpd.adapters import reengen_parse as parse
from fpd.adapters.reengen_parse import Command, Flag, Raw
from fpd.adapters.reengen_rows import Row, taken
from fpd.config_reengen import ReengenStream

ISTANBUL = ZoneInfo("Europe/Istanbul")


def properties(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text, parse_float=Decimal)["properties"]
    return found


def test_a_point_hierarchy() -> None:
    found = parse.points(
        properties(
            """
            {"properties": {"data": [
                ["All", {"parent": null, "code": null, "name": null, "id": null}],
                ["Transformer 6", {"parent": "xFabrikaFabrika", "code": "xFabrikaTrafo6",
                                   "name": "Transformer 6", "id": 12768, "startingDate": null}],
                ["Storage", {"parent": "xfabrikaImalathane", "code": "xFabrikaDepo",
                             "name": "Storage", "id": 12747, "startingDate": null}]]},
             "succeeded": true, "message": null, "statistics": {}}
            """
        )
    )
    assert [(one.name, one.code, one.id, one.parent) for one in found] == [
        ("All", None, None, None),
        ("Transformer 6", "xFabrikaTrafo6", 12768, "xFabrikaFabrika"),
        ("Storage", "xFabrikaDepo", 12747, "xfabrikaImalathane"),
    ]


def test_measurements_and_costs() -> None:
    first, second = parse.measured(
        properties(
            """
            {"properties": {"data": {
                "0": [["2020-01-20T00:00:00", 12768, 2318.14],
                      ["2020-01-23T00:00:00", 12768, 2468.10]],
                "1": [["2020-01-20T00:00:00", 12768, 747.97]]},
              "start": "2020-01-20T00:00:00", "end": "2020-01-23T23:59:59"},
             "succeeded": true, "message": null, "statistics": {}}
            """
        ),
        2,
    )
    assert [(row.date, row.point_id, row.value) for row in first] == [
        ("2020-01-20T00:00:00", 12768, Decimal("2318.14")),
        ("2020-01-23T00:00:00", 12768, Decimal("2468.10")),
    ]
    assert second[0].value == Decimal("747.97")
    (costs,) = parse.costs(
        properties(
            """{"properties": {"data": {"0": [[10644, 235354], [10731, 264339]]},
                "start": "2020-03-01T00:00:00", "end": "2020-03-31T23:59:59"},
                "succeeded": true, "message": null, "statistics": {}}"""
        ),
        1,
    )
    assert [(cost.point_id, cost.cost) for cost in costs] == [(10644, 235354), (10731, 264339)]


LISTED = """
{"properties": {"data": [
    {"date": "2021-02-25T00:04:59", "definition.code": "activeEnergy", "note": null,
     "original": 282052078.00, "point.code": "xyzBesiktas", "index": 1, "type.code": "actual",
     "value": 237.00, "variant.code": "import", "definition.unit.code": "Wh"},
    {"date": "2021-02-25T00:19:59", "definition.code": "activeEnergy", "note": null,
     "original": 282052316.00, "point.code": "xyzBesiktas", "index": 1, "type.code": "actual",
     "value": 238.00, "variant.code": "import", "definition.unit.code": "Wh"},
    {"date": "2021-02-25T00:39:59", "definition.code": "activeEnergy", "note": null,
     "original": 282052633.00, "point.code": "xyzBesiktas", "index": 1, "type.code": "actual",
     "value": 317.00, "variant.code": "import", "definition.unit.code": "Wh"}],
  "rowCount": 3}, "succeeded": true, "message": null, "statistics": {}}
"""


def test_raw_rows_become_registers() -> None:
    rows = parse.raw(properties(LISTED))
    assert rows[0] == Raw(
        date="2021-02-25T00:04:59",
        point="xyzBesiktas",
        definition="activeEnergy",
        variant="import",
        index=1,
        type="actual",
        unit="Wh",
        value=Decimal("237.00"),
        original=Decimal("282052078.00"),
        note=None,
    )
    stream = ReengenStream(point="xyzBesiktas", node_id=1, source_id="/besiktas")
    samples = taken([Row(stream)], rows, ISTANBUL).samples()
    assert [(each.at, each.accumulating) for each in samples] == [
        (datetime(2021, 2, 24, 21, 4, 59, tzinfo=UTC), {"wattHours": 282052078}),
        (datetime(2021, 2, 24, 21, 19, 59, tzinfo=UTC), {"wattHours": 282052316}),
        (datetime(2021, 2, 24, 21, 39, 59, tzinfo=UTC), {"wattHours": 282052633}),
    ]


def test_commands_and_flags() -> None:
    found = parse.commands(
        properties(
            """
            {"properties": {"data": [
                {"parameterType": "boolean", "commandType": "SingleParameter",
                 "code": "lights-on-off", "name": "Turn Lights On/Off"},
                {"commandType": "MultiOption", "code": "generator-mode-set",
                 "name": "Set Generator Mode",
                 "options": [{"code": "on", "name": "On"}, {"code": "off", "name": "Off"},
                             {"code": "auto", "name": "Auto"}]}]},
             "succeeded": true, "message": null, "statistics": {}}
            """
        )
    )
    assert found == (
        Command(
            code="lights-on-off",
            name="Turn Lights On/Off",
            kind="SingleParameter",
            parameter_type="boolean",
        ),
        Command(
            code="generator-mode-set",
            name="Set Generator Mode",
            kind="MultiOption",
            options=(("on", "On"), ("off", "Off"), ("auto", "Auto")),
        ),
    )
    text = """{"properties": {"data": [{"tenant": "xyz", "point": "xyzBesiktas", "type": "test",
               "value": "3"}]}, "succeeded": true, "message": null, "statistics": {}}"""
    assert parse.flags(properties(text)) == (
        Flag(point="xyzBesiktas", type="test", tenant="xyz", value="3"),
    )


def test_what_no_document_has_is_left_out() -> None:
    assert parse.points({"data": [None, ["x"], ["y", None], {"code": "z"}]}) == ()
    assert parse.raw({"data": [None, 1, {}, {"date": 5}]}) == ()
    assert parse.commands({"data": None}) == () and parse.flags({}) == ()
    assert parse.measured({"data": []}, 1) == ((),)
