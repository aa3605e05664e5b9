"""What counts of forecasts, phase by phase: the newest that covers an instant."""

from __future__ import annotations

from datetime import datetime

from domain.forecast_strategies import HOUR, NOW, block, message, messages, terms
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.forecast import Forecast, Overlap, Terms, block_watts
from fpd.domain.standing import Standing, standing
from fpd.domain.units import Phase


def spans(found: Standing) -> list[tuple[float, float, int, int]]:
    return [
        (
            (s.start_at - NOW) / HOUR,
            (s.end_at - NOW) / HOUR,
            int(s.value.watts),
            s.value.forecast_id,
        )
        for s in found.spans
    ]


def test_the_newer_counts_where_it_covers_and_the_older_goes_on_after_it() -> None:
    old = message("CONSUMPTION", block(-1, 4, 3000), id=1)
    new = message("CONSUMPTION", block(1, 2, 1, "KW"), block(3, 3.5, 5), id=2)
    (found,) = standing([new, old], Terms(), start_at=NOW)
    assert spans(found) == [
        (0, 1, 3000, 1), (1, 2, 1000, 2), (2, 3, 3000, 1), (3, 3.5, 5, 2), (3.5, 4, 3000, 1),
    ]  # fmt: skip
    strict = Terms(overlap=Overlap.MOST_RESTRICTIVE)
    (found,) = standing(
        [message("CONSUMPTION", block(1, 2, 9000), id=3), old], strict, start_at=NOW
    )
    assert spans(found) == [(0, 4, 3000, 1)], "neighbours of one block are one"


def test_peers_types_and_phases_are_told_apart_and_unknown_is_all() -> None:
    found = standing(
        [
            message("CONSUMPTION", block(0, 1, 1), block(0, 1, 2, phase="ONE"), id=1),
            message("CONSUMPTION", block(0, 1, 3, phase="UNKNOWN"), id=2),
            message("CONSUMPTION", block(0, 1, 4), id=3, peer_id=2),
            message("OPTIMUM", block(0, 1, 5), id=4),
            message("GENERATION", block(-2, 0, 6), id=5),
        ],
        Terms(),
        start_at=NOW,
    )
    assert [(one.peer_id, one.type, one.phase, spans(one)[0][2]) for one in found] == [
        (1, "CONSUMPTION", "ALL", 3),
        (1, "CONSUMPTION", "ONE", 2),
        (1, "OPTIMUM", "ALL", 5),
        (2, "CONSUMPTION", "ALL", 4),
    ]


@given(messages(), terms, st.integers(-3, 30))
def test_at_every_instant_it_is_what_a_look_through_all_blocks_finds(
    said: list[Forecast], terms: Terms, hours: int
) -> None:
    found = standing(said, terms, start_at=NOW)
    at = NOW + hours * HOUR / 4
    for one in found:
        assert all(a.end_at <= b.start_at for a, b in zip(one.spans, one.spans[1:], strict=False))
        assert all(NOW <= span.start_at < span.end_at for span in one.spans)
        if at >= NOW:
            covering = [s.value.watts for s in one.spans if s.start_at <= at < s.end_at]
            assert covering == _looked_up(said, one, terms, at)


def _looked_up(said: list[Forecast], of: Standing, terms: Terms, at: datetime) -> list[object]:
    per_message = [
        min(watts)
        for message in sorted(said, key=lambda message: message.id)
        if (message.peer_id, message.type) == (of.peer_id, of.type)
        and (
            watts := [
                block_watts(block, terms)
                for block in message.blocks
                if block.start_at <= at < block.end_at
                and (Phase.ALL if block.phase is Phase.UNKNOWN else block.phase) is of.phase
            ]
        )
    ]
    if terms.overlap is Overlap.MOST_RESTRICTIVE:
        return [min(per_message)] if per_message else []
    return list(per_message[-1:])
