"""Hypothesis strategies for messages of peers around one Wednesday morning."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import strategies as st

from fpd.domain.forecast import (
    Block,
    Forecast,
    ForecastType,
    GapPolicy,
    OptimumDirection,
    Overlap,
    Spread,
    Terms,
)
from fpd.domain.units import AmpereAll, Phase, Unit

NOW = datetime(2025, 3, 12, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)


def block(
    start_h: float, end_h: float, capacity: str | int = 1000, unit: str = "W", phase: str = "ALL"
) -> Block:
    """Return a block from `start_h` to `end_h` hours after NOW."""
    return Block(
        start_at=NOW + start_h * HOUR,
        end_at=NOW + end_h * HOUR,
        capacity=Decimal(capacity),
        unit=Unit(unit),
        phase=Phase(phase),
    )


def message(type: str, *blocks: Block, id: int = 1, peer_id: int = 1) -> Forecast:
    """Return a message; a later id was received later."""
    return Forecast(
        received_at=NOW - 10 * HOUR + id * timedelta(minutes=1),
        type=ForecastType(type),
        blocks=blocks,
        id=id,
        peer_id=peer_id,
    )


def _block(start_s: int, duration_s: int, capacity: Decimal, unit: Unit, phase: Phase) -> Block:
    start_at = NOW + timedelta(seconds=start_s)
    end_at = start_at + timedelta(seconds=duration_s)
    return Block(start_at=start_at, end_at=end_at, capacity=capacity, unit=unit, phase=phase)


blocks = st.builds(
    _block,
    st.integers(-7200, 9 * 86400) | st.sampled_from(range(-7200, 86400, 900)),
    st.integers(1, 86400) | st.sampled_from(range(900, 14401, 900)),
    st.decimals(0, 4000, places=1),
    st.sampled_from([Unit.W, Unit.W, Unit.A, Unit.WH, Unit.KWH, Unit.KW]),
    st.sampled_from([Phase.ALL, Phase.ALL, *Phase]),
)

terms = st.builds(
    Terms,
    v_ln=st.just(230),
    phases=st.sampled_from([1, 3]),
    static_import_w=st.none() | st.integers(0, 5000),
    static_export_w=st.none() | st.integers(0, 5000),
    gap_policy=st.sampled_from(GapPolicy),
    optimum_direction=st.sampled_from(OptimumDirection),
    ampere_all=st.sampled_from(AmpereAll),
    overlap=st.sampled_from(Overlap),
    spread=st.sampled_from(Spread),
)


@st.composite
def messages(draw: st.DrawFn, most: int = 6) -> list[Forecast]:
    """Return up to `most` messages of two peers, in no order."""
    found = [
        Forecast(
            received_at=NOW + timedelta(minutes=draw(st.integers(-5, 5))),
            type=draw(st.sampled_from(ForecastType)),
            blocks=tuple(draw(st.lists(blocks, min_size=1, max_size=4))),
            id=number,
            peer_id=draw(st.integers(1, 2)),
        )
        for number in range(draw(st.integers(0, most)))
    ]
    return draw(st.permutations(found))
