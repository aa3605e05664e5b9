"""A meter that a platform brings once a minute is not taken for lost in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from fpd.config import Config, Control
from fpd.config_myems import MyemsPlatform, PlatformStream
from fpd.flows.patience import patience, usual
from fpd.store.control import Property

GRID = PlatformStream(meter=4, node_id=1, source_id="/grid")
SITE = MyemsPlatform(
    name="site", type="myems", base_url="http://x", api_key="k", poll_s=60.0, stream=(GRID,)
)
CONFIG = Config(data_dir=Path("/nonexistent"), platforms=(SITE,))
METER = Property(1, 1, "grid", "watts")


def test_it_waits_for_some_polls_of_the_platform_that_brings_the_meter() -> None:
    assert usual(CONFIG) == timedelta(seconds=60)
    assert patience(CONFIG, [METER]) == timedelta(minutes=3)
    assert patience(CONFIG, [replace(METER, source_id="else")]) == usual(CONFIG)
    assert patience(CONFIG, [replace(METER, user_id=2)]) == usual(CONFIG)


def test_slow_control_waits_for_its_own_ticks() -> None:
    slow = replace(CONFIG, control=Control(interval_s=300.0))
    assert patience(slow, [METER]) == usual(slow) == timedelta(minutes=15)
