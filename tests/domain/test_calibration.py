"""Dips of different depths tell the first day of a unit's week, its zone and its semantics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from fpd.domain.control import calibration
from fpd.domain.control.ticks import UnitLimits
from fpd.errors import Malformed
from fpd.sim.bluegen_profiles import Point, Week

NOW = datetime(2025, 3, 12, 6, 3, tzinfo=UTC)
TWO_HOURS = timedelta(hours=2)
LIMITS = UnitLimits(min_w=800, max_w=1500, step_up_w=1999, step_dn_w=1999)
ANCHORS: Any = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]


def designed(tz: str, limits: UnitLimits = LIMITS) -> calibration.Experiment:
    return calibration.design(
        now=NOW, wait=TWO_HOURS, limits=limits, unit_tz=tz, output_w=limits.max_w
    )


def seen(
    experiment: calibration.Experiment, week: Week, every: timedelta
) -> list[tuple[datetime, float]]:
    """What a unit delivers that was given the profile after half an hour."""
    points = [Point(0, tick, w) for tick, w in calibration.points(experiment, LIMITS)]
    found, at = [], NOW
    while at < experiment.ends_at:
        arrived = at >= NOW + timedelta(minutes=30)
        watts = week.power_w(tuple(points), week.position(at)) if arrived else 1500.0
        found.append((at, watts))
        at += every
    return found


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("zone", ["UTC", "Australia/Melbourne", "Asia/Kolkata"])
@pytest.mark.parametrize("semantics", ["step", "step_lag", "linear"])
def test_each_way_to_read_a_week_is_found_out(anchor: Any, zone: str, semantics: Any) -> None:
    unit_tz = "Europe/Berlin" if zone == "UTC" else zone
    experiment = designed(unit_tz)
    week = Week(anchor=anchor, zone=ZoneInfo(zone), semantics=semantics)
    samples = seen(experiment, week, timedelta(minutes=4))
    found = calibration.evaluate(experiment, samples, assigned_at=NOW, limits=LIMITS)
    assert (found.anchor, found.tz, found.semantics) == (anchor, zone, semantics)
    assert found.lag_s == 32 * 60


def test_one_report_an_hour_tells_the_day_but_not_the_semantics() -> None:
    experiment = designed("Europe/Berlin")
    week = Week(anchor="SUN", zone=ZoneInfo("UTC"), semantics="step")
    begin = experiment.dip_at + timedelta(minutes=30)
    samples = [
        (at, watts) for at, watts in seen(experiment, week, timedelta(minutes=3)) if at >= begin
    ][:1]
    found = calibration.evaluate(experiment, samples, assigned_at=NOW, limits=LIMITS)
    assert (found.anchor, found.tz, found.semantics) == ("SUN", "UTC", None)


@pytest.mark.parametrize("watts", [1500.0, 1000.0, None])
def test_what_fits_no_dip_is_not_taken_for_one(watts: float | None) -> None:
    experiment = designed("UTC")
    at = experiment.dip_at + timedelta(minutes=30)
    samples = [] if watts is None else [(at, watts)]
    found = calibration.evaluate(experiment, samples, assigned_at=NOW, limits=LIMITS)
    assert (found.anchor, found.tz, found.semantics) == (None, None, None)


def test_a_range_too_small_for_the_dips_is_refused() -> None:
    limits = UnitLimits(min_w=1300, max_w=1500, step_up_w=1999, step_dn_w=1999)
    with pytest.raises(Malformed, match="too little"):
        calibration.design(
            now=NOW, wait=TWO_HOURS, limits=limits, unit_tz="Asia/Tokyo", output_w=1500
        )


@pytest.mark.parametrize("tz", ["UTC", "Europe/London", "Europe/Berlin", "Asia/Kolkata"])
@pytest.mark.parametrize("step_w", [60, 150, 1999])
def test_the_dips_keep_the_ramps_and_the_range(tz: str, step_w: int) -> None:
    limits = UnitLimits(min_w=800, max_w=1500, step_up_w=step_w, step_dn_w=step_w)
    found = calibration.design(now=NOW, wait=TWO_HOURS, limits=limits, unit_tz=tz, output_w=1500)
    nodes = calibration.curve(found, limits)
    assert max(abs(a - b) for a, b in zip(nodes, (*nodes[1:], nodes[0]), strict=True)) <= step_w
    assert min(nodes) >= 800
    assert len({guess.power_w for guess in found.guesses}) == len(found.guesses)
