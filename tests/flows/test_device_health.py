"""What is known of a device, whatever order things go wrong in."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flows.test_steering import NOW, STATE

from fpd.adapters.device import Adapter, Reading
from fpd.flows import device_rules as rules


@pytest.mark.parametrize(
    ("health", "shown"),
    [("stopped", "stopped"), ("unavailable", "degraded"), ("rationed", "degraded")],
)
def test_one_that_is_left_alone_and_answers_again_is_not_away(health: Any, shown: str) -> None:
    adapter = cast(Adapter, SimpleNamespace(tries=3, read_every_s=10.0))
    state = replace(STATE, attempts=adapter.tries, health=health, detail="a fault")
    reading = Reading(at=NOW, output_w=0.0, dispatchable=True)
    found = rules.after_reading(state, reading, adapter=adapter, now=NOW).state
    assert found.health == shown
    assert (found.detail == "a fault") is (shown == health)
