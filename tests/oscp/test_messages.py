"""Messages as other systems write them, and what is wrong with the wrong ones."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.forecast import ForecastType
from fpd.domain.units import Phase, Unit
from fpd.errors import Malformed
from fpd.flows.blocks import checked_blocks
from fpd.oscp import messages
from fpd.oscp.messages import UpdateGroupCapacityForecast

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
BLOCK = {
    "capacity": 1.6,
    "phase": "ALL",
    "unit": "KW",
    "start_time": "2026-03-10T12:00:00Z",
    "end_time": "2026-03-10T14:15:00+01:00",
}
FORECAST = {"group_id": "g", "type": "CONSUMPTION", "forecasted_blocks": [BLOCK]}


def read(document: Any) -> UpdateGroupCapacityForecast:
    return messages.decode(json.dumps(document).encode(), UpdateGroupCapacityForecast)


async def test_a_forecast_is_read_with_its_zones_and_unknown_fields_are_ignored() -> None:
    message = read({**FORECAST, "x-vendor": 1})
    assert message.type is ForecastType.CONSUMPTION
    (block,) = await checked_blocks(message.forecasted_blocks)
    assert (block.capacity, block.unit, block.phase) == (Decimal("1.6"), Unit.KW, Phase.ALL)
    assert block.end_at == datetime(2026, 3, 10, 13, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"capacity": -1}, "capacity"),
        ({"capacity": "1.6"}, "capacity"),
        ({"capacity": None}, "capacity"),
        ({"capacity": True}, "capacity"),
        ({"phase": "all"}, "phase"),
        ({"unit": "MW"}, "unit"),
        ({"start_time": "2026-03-10T12:00:00"}, "start_time"),
        ({"start_time": "yesterday"}, "start_time"),
        ({"end_time": "2026-03-10T12:00:00Z"}, "end_time"),
        ({"end_time": 1}, "end_time"),
    ],
)
async def test_what_is_wrong_with_a_block_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed) as refusal:
        await checked_blocks(
            read({**FORECAST, "forecasted_blocks": [{**BLOCK, **change}]}).forecasted_blocks
        )
    assert f".{field}: " in str(refusal.value)


@pytest.mark.parametrize("edge", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
@pytest.mark.parametrize("field", ["start_time", "end_time"])
async def test_instants_at_the_ends_of_the_calendar_are_refused(field: str, edge: str) -> None:
    message = read({**FORECAST, "forecasted_blocks": [{**BLOCK, field: edge}]})
    with pytest.raises(Malformed, match=f"{field}: expected an instant"):
        await checked_blocks(message.forecasted_blocks)


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({k: v for k, v in FORECAST.items() if k != "group_id"}, "group_id"),
        ({**FORECAST, "group_id": "a\x00b"}, "group_id"),
        ({**FORECAST, "type": "LIMIT"}, "type"),
        ({**FORECAST, "forecasted_blocks": []}, "forecasted_blocks"),
        ([], "object"),
        ("x", "object"),
    ],
)
def test_what_is_wrong_with_a_forecast_is_named(document: Any, named: str) -> None:
    with pytest.raises(Malformed, match=named):
        read(document)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"capacity": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"offline_mode_at": 1e400}'],
)
def test_what_is_not_json_is_malformed_not_a_bug(body: bytes) -> None:
    with pytest.raises(Malformed):
        messages.decode(body, UpdateGroupCapacityForecast)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(body: bytes) -> None:
    try:
        messages.decode(body, messages.Handshake)
    except Malformed as refusal:
        assert "\n" not in str(refusal)


async def test_blocks_may_touch_and_differ_in_phase_but_not_overlap() -> None:
    later = {**BLOCK, "start_time": BLOCK["end_time"], "end_time": "2026-03-10T14:00:00Z"}
    other_phase = {**BLOCK, "phase": "ONE"}
    message = read({**FORECAST, "forecasted_blocks": [later, BLOCK, other_phase]})
    assert len(await checked_blocks(message.forecasted_blocks)) == 3
    with pytest.raises(Malformed, match=r"forecasted_blocks\[1\]: overlaps forecasted_blocks\[0\]"):
        await checked_blocks(
            read({**FORECAST, "forecasted_blocks": [BLOCK, BLOCK]}).forecasted_blocks
        )


def test_a_forecast_without_anything_else_is_known_by_its_shape() -> None:
    for blocks in (1, 2, 96):
        body = json.dumps(FORECAST | {"forecasted_blocks": [BLOCK] * blocks}).encode()
        assert messages.plain_forecast(body) == messages.decode(body, UpdateGroupCapacityForecast)
    assert messages.plain_forecast(b"[" * 100_000) is None


@given(st.data())
def test_a_shape_that_could_deceive_is_looked_at_with_care(data: st.DataObject) -> None:
    """Whatever is added to a plain forecast, at any place and in any spelling."""
    said = json.dumps(FORECAST | {"forecasted_blocks": [BLOCK] * 3})
    places = [i + 1 for i, letter in enumerate(said) if letter == "{"]
    place = data.draw(st.sampled_from(places))
    known = [*FORECAST, *BLOCK]
    name = data.draw(
        st.sampled_from(["n", "", *known, *(f"\\u{ord(k[0]):04x}{k[1:]}" for k in known)])
    )
    value = data.draw(st.sampled_from(["1", "null", "[]", "{}", '"x"', "[" * 40 + "]" * 40]))
    body = f'{said[:place]}"{name}":{value},{said[place:]}'.encode()
    assert messages.plain_forecast(body) is None


@pytest.mark.parametrize(
    "document",
    [{}, {"required_behaviour": {}}, {"required_behaviour": {"measurement_configuration": []}},
     {"required_behaviour": {"heartbeat_interval": 1}}, {"required_behaviour": None}],
)  # fmt: skip
def test_every_handshake_that_peers_send_is_read(document: dict[str, Any]) -> None:
    messages.decode(json.dumps(document).encode(), messages.Handshake)


@pytest.mark.parametrize("interval", [0, 0.5, -1, "60"])
def test_a_heartbeat_interval_below_a_second_is_refused(interval: Any) -> None:
    body = json.dumps({"required_behaviour": {"heartbeat_interval": interval}}).encode()
    with pytest.raises(Malformed, match="heartbeat_interval"):
        messages.decode(body, messages.Handshake)


def test_what_we_write_is_schema_valid_json() -> None:
    energy = messages.EnergyMeasurement(
        value=Decimal("12.50"),
        phase=Phase.ALL,
        unit=messages.EnergyUnit.KWH,
        direction=messages.EnergyDirection.IMPORT,
        measure_time=NOON,
    )
    body = messages.encode(messages.UpdateGroupMeasurements(group_id="g", measurements=(energy,)))
    assert json.loads(body) == {
        "group_id": "g",
        "measurements": [
            {
                "value": 12.5,
                "phase": "ALL",
                "unit": "KWH",
                "direction": "IMPORT",
                "measure_time": "2026-03-10T12:00:00Z",
            }
        ],
    }
