"""What is known of a device, whatever order things go wrong in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bench.week_site import Adapter, Cellar
from flows.test_steering import NOW, STATE

from fpd.adapters.device import Reading
from fpd.flows import device_rules as rules


@pytest.mark.parametrize(
    ("health", "shown"),
    [("stopped", "stopped"), ("unavailable", "degraded"), ("rationed", "degraded")],
)
def test_one_that_is_left_alone_and_answers_again_is_not_away(health: Any, shown: str) -> None:
    adapter = Adapter(Cellar(), lambda: NOW)
    state = replace(STATE, attempts=adapter.tries, health=health, detail="a fault")
    reading = Reading(at=NOW, output_w=0.0, dispatchable=True)
    found = rules.after_reading(state, reading, adapter=adapter, now=NOW).state
    assert found.health == shown
    assert (found.detail == "a fault") is (shown == health)
