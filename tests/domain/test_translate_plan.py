"""The kind `plan`, held against every course there is."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.domain.translate import translate
from fpd.errors import Malformed

BATTERY = {
    "energy_wh": 500, "capacity_wh": 2000, "max_charge_w": 1000, "max_discharge_w": 1000,
    "eff_charge": 0.9, "eff_discharge": 0.9,
}  # fmt: skip
DOCUMENT = {
    "period_s": 3600,
    "load_w": [1000, 1000, 4000, 4000],
    "consumption_cap_w": [3000] * 4,
    "battery": BATTERY,
    "objective": ["violation_wh", "throughput_wh", "max_charge_w"],
    "grid_w": 250,
}


def plan(**changes: Any) -> dict[str, Any]:
    return translate({"kind": "plan", "in": {**DOCUMENT, **changes}})


def scores(given: dict[str, Any], powers: tuple[int, ...]) -> tuple[float, ...] | None:
    """Return how good a course is by the aims of the document, None if it cannot be."""
    battery, energy = given["battery"], given["battery"]["energy_wh"]
    violation = throughput = 0.0
    for power, load, most, least in zip(
        powers, given["load_w"], given["consumption_cap_w"], given["generation_cap_w"], strict=True
    ):
        energy -= power / battery["eff_discharge"] if power > 0 else power * battery["eff_charge"]
        if not -1e-9 <= energy <= battery["capacity_wh"] + 1e-9:
            return None
        net = load - power
        violation += max(net - most, 0) + max(-net - least, 0)
        throughput += abs(power)
    lacking = max(given.get("end_energy_wh", 0) - energy, 0)
    found = {
        "violation_wh": violation,
        "throughput_wh": throughput,
        "max_charge_w": max(0, -min(powers)),
        "max_import_w": max(0, *(a - b for a, b in zip(given["load_w"], powers, strict=True))),
    }
    return tuple(round(s, 6) for s in (lacking, *(found[aim] for aim in given["objective"])))


@given(
    load=st.lists(st.integers(-8, 16).map(lambda n: 250 * n), min_size=1, max_size=4),
    most=st.integers(0, 12).map(lambda n: 250 * n),
    least=st.integers(0, 4).map(lambda n: 250 * n),
    energy=st.sampled_from((0, 500, 700)),
    end=st.sampled_from((None, 500, 1000)),
    efficiency=st.sampled_from((1, 0.9)),
    aims=st.sampled_from(
        (
            ["violation_wh", "throughput_wh", "max_charge_w"],
            ["violation_wh", "max_import_w", "throughput_wh"],
            ["max_charge_w", "violation_wh", "throughput_wh"],
        )
    ),
)
@settings(max_examples=40, deadline=None)
def test_no_course_is_better(
    load: list[int],
    most: int,
    least: int,
    energy: int,
    end: int | None,
    efficiency: float,
    aims: list[str],
) -> None:
    given = {
        **DOCUMENT,
        "load_w": load,
        "consumption_cap_w": [most] * len(load),
        "generation_cap_w": [least] * len(load),
        "battery": {
            **BATTERY, "energy_wh": energy, "max_charge_w": 500, "max_discharge_w": 750,
            "eff_charge": efficiency, "eff_discharge": efficiency,
        },
        "objective": aims,
        **({} if end is None else {"end_energy_wh": end}),
    }  # fmt: skip
    found = translate({"kind": "plan", "in": given})
    courses = product(range(-500, 751, 250), repeat=len(load))
    best = min(s for course in courses if (s := scores(given, course)) is not None)
    assert scores(given, tuple(found["battery_w"])) == best
    assert found["violation_wh"] == best[1 + aims.index("violation_wh")]


def test_what_cannot_be_avoided_is_told() -> None:
    found = plan(consumption_cap_w=[1000, 1000, 1000, 1000])
    assert found == {"battery_w": [0, 0, 0, 250], "violation_wh": 5750}
    assert plan(consumption_cap_w=None, objective=["throughput_wh"])["battery_w"] == [0] * 4


def test_several_batteries_are_planned_in_merit_order() -> None:
    first = {**BATTERY, "energy_wh": 2000, "priority": 1}
    found = plan(batteries=[{**first, "priority": 2}, first])
    assert found["battery_w"] == [[0, 0, 100, 100], [0, 0, 900, 900]]
    assert (found["violation_wh"], found["source"]) == (0, "arithmetic")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"load_w": []}, r"in\.load_w: empty"),
        ({"consumption_cap_w": [1]}, r"in\.consumption_cap_w: expected 4 values"),
        ({"objective": ["profit"]}, "'profit' is none of"),
        ({"grid_w": 1, "load_w": [1] * 50, "consumption_cap_w": 1}, r"in\.grid_w: too fine"),
        ({"battery": {**BATTERY, "eff_charge": 2}}, "eff_charge: must be above 0"),
        ({"battery": {**BATTERY, "energy_wh": 9000}}, "energy_wh: not between"),
        ({"battery": None}, r"in\.battery"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(Malformed, match=told):
        plan(**changes)
