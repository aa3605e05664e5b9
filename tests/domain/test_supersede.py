"""When an older message has nothing more to say."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import pytest
from forecast_strategies import HOUR, NOW, block, blocks, message, messages, terms
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd.domain.forecast import Block, Forecast, Overlap, Terms, envelope_at
from fpd.domain.supersede import Cover, Stated, in_force, restated, spent
from fpd.domain.units import Phase


def test_ranges_that_touch_cover_what_spans_them() -> None:
    cover = Cover([block(0, 2), block(4, 6)])
    assert not cover.holds([block(1, 5)], after=NOW)
    cover.add([block(2, 4)])
    assert cover.holds([block(1, 5)], after=NOW)
    assert not cover.holds([block(1, 6.01)], after=NOW)
    assert not cover.holds([block(-1, 1)], after=NOW - HOUR)


def test_the_past_needs_no_cover() -> None:
    assert Cover([block(1, 3)]).holds([block(-5, 2), block(-9, -8)], after=NOW + HOUR)
    assert Cover().holds([block(-9, -8)], after=NOW)
    assert not Cover().holds([block(-9, 1)], after=NOW)


@pytest.mark.parametrize("phase", ["ONE", "UNKNOWN"])
def test_a_phase_covers_itself_alone(phase: str) -> None:
    assert not Cover([block(0, 4, phase="ALL")]).holds([block(0, 1, phase=phase)], after=NOW)
    assert Cover([block(0, 4, phase=phase)]).holds([block(0, 1, phase=phase)], after=NOW)


def test_only_the_same_peer_and_type_supersede() -> None:
    old = message("CONSUMPTION", block(0, 2), id=1)
    assert in_force([old, message("GENERATION", block(0, 2), id=2)], at=NOW)[0] is old
    assert in_force([old, message("CONSUMPTION", block(0, 2), id=2, peer_id=2)], at=NOW)[0] is old
    assert old not in in_force([old, message("CONSUMPTION", block(0, 2), id=2)], at=NOW)


def test_several_newer_ones_may_cover_an_older_one_together() -> None:
    day = message("CONSUMPTION", *(block(h, h + 1) for h in range(24)), id=1)
    half = message("CONSUMPTION", block(0, 12), id=2)
    rest = message("CONSUMPTION", block(12, 24), id=3)
    assert in_force([day, half], at=NOW) == (day, half)
    assert in_force([day, half, rest], at=NOW) == (half, rest)
    assert in_force([day, half], at=NOW + 12 * HOUR) == (day,)


def _covered_instant_by_instant(older: list[Block], newer: list[Block], after_h: int) -> bool:
    """Ask every half hour; all edges are whole hours."""
    instants = [NOW + h * HOUR + HOUR / 2 for h in range(after_h, 12)]
    return all(
        any(b.start_at <= at < b.end_at and b.phase is a.phase for b in newer)
        for a in older
        for at in instants
        if a.start_at <= at < a.end_at
    )


hourly = st.builds(
    lambda start, hours, phase: block(start, start + hours, phase=phase),
    st.integers(-4, 8),
    st.integers(1, 4),
    st.sampled_from([Phase.ALL, Phase.ONE]),
)


@given(st.lists(hourly, max_size=4), st.lists(hourly, max_size=8), st.integers(-5, 9))
def test_cover_is_what_asking_every_instant_would_say(
    older: list[Block], newer: list[Block], after_h: int
) -> None:
    cover = Cover(newer)
    expected = _covered_instant_by_instant(older, newer, after_h)
    assert cover.holds(older, after=NOW + after_h * HOUR) is expected


@given(st.lists(hourly, max_size=4), st.lists(hourly, max_size=8), st.integers(-5, 9))
def test_cover_meets_what_asking_every_instant_would_find(
    some: list[Block], newer: list[Block], after_h: int
) -> None:
    instants = [NOW + h * HOUR + HOUR / 2 for h in range(after_h, 13)]
    expected = any(
        a.start_at <= at < a.end_at and b.start_at <= at < b.end_at and a.phase is b.phase
        for a in some
        for b in newer
        for at in instants
    )
    assert Cover(newer).meets(some, after=NOW + after_h * HOUR) is expected


@given(st.permutations(range(6)), st.lists(blocks, min_size=6, max_size=6), blocks)
def test_the_order_of_blocks_means_nothing(
    order: list[int], some: list[Block], asked: Block
) -> None:
    cover = Cover(some[number] for number in order)
    assert cover.holds(some, after=NOW)
    assert cover.holds([asked], after=NOW) is Cover(some).holds([asked], after=NOW)


@given(st.lists(st.tuples(st.integers(1, 2), st.lists(hourly, min_size=1, max_size=3)), max_size=6))
def test_what_is_in_force_says_everything_that_all_messages_say(
    said: list[tuple[int, list[Block]]],
) -> None:
    messages = [
        message("CONSUMPTION", *some, id=number, peer_id=peer_id)
        for number, (peer_id, some) in enumerate(said)
    ]
    kept = in_force(messages, at=NOW)
    assert list(kept) == [m for m in messages if m in kept], "the order of receipt"
    for h in range(12):
        at = NOW + h * HOUR + HOUR / 2
        for peer_id in (1, 2):
            for phase in (Phase.ALL, Phase.ONE):
                assert _newest(kept, peer_id, phase, at) == _newest(messages, peer_id, phase, at)


def _newest(messages: Sequence[Forecast], peer_id: int, phase: Phase, at: datetime) -> int | None:
    said = [
        m.id
        for m in messages
        for b in m.blocks
        if m.peer_id == peer_id and b.phase is phase and b.start_at <= at < b.end_at
    ]
    return max(said, default=None)


@settings(max_examples=400)
@given(messages(), terms, st.booleans(), st.integers(0, 200))
def test_what_is_spent_never_matters_again(
    said: list[Forecast], terms: Terms, online: bool, hours: int
) -> None:
    said = sorted(said, key=lambda message: message.id)
    terms = replace(terms, overlap=Overlap.NEWEST_WINS)
    gone = spent(said, at=NOW)
    left = [one for one in said if one not in gone]
    ask = {"at": NOW + hours * HOUR / 3, "provider_online": online, "terms": terms}
    assert envelope_at(left, **ask) == envelope_at(said, **ask)


def _told(messages: Sequence[Sequence[Block]]) -> dict[datetime, list[Block]]:
    """Return what is told of the last one, by start."""
    said = [[Stated(one, str(n)) for one in message] for n, message in enumerate(messages)]
    changed = restated(said[:-1], said[-1], after=NOW)
    return {at: [one.block for one in those] for at, those in changed.items()}


@pytest.mark.parametrize(
    ("earlier", "said", "gone"),
    [
        ([], [block(0, 1)], []),
        ([[block(0, 1), block(1, 2)]], [block(0, 2)], [1]),
        ([[block(0, 1), block(1, 2)]], [block(0, 1), block(1, 2)], []),
        ([[block(0, 1), block(1, 2)]], [block(0, 1.5)], []),
        ([[block(1, 2)]], [block(0, 2, phase="ONE")], []),
        ([[block(1, 2), block(1, 2, phase="ONE")]], [block(0, 2)], []),
        ([[block(1, 2), block(1, 2, phase="ONE")]], [block(0, 2), block(0, 2, phase="ONE")], [1]),
        ([[block(1, 2)], [block(1, 2, phase="ONE")]], [block(0, 2)], []),
        ([[block(1, 2)], [block(1, 2, phase="ONE")], [block(0, 2)]],
         [block(0, 2, phase="ONE")], [1]),
        ([[block(1, 2, phase="UNKNOWN")]], [block(0, 2)], [1]),
        ([[block(-2, -1), block(1, 2)]], [block(-4, 4)], [1]),
        ([[block(1, 2)], [block(0, 4)]], [block(0, 4)], []),
        ([[block(0, 4)], [block(1, 2)]], [block(0, 4)], [1]),
    ],
)  # fmt: skip
def test_what_a_message_leaves_without_meaning(
    earlier: list[list[Block]], said: list[Block], gone: list[int]
) -> None:
    told = _told([*earlier, said])
    assert [at for at, left in told.items() if not left] == [NOW + hours * HOUR for hours in gone]


def test_what_is_left_of_a_start_is_told_again() -> None:
    every, one, newer = block(1, 2), block(1, 2, phase="ONE"), block(0, 2, phase="ONE")
    assert _told([[every, one], [newer]]) == {newer.start_at: [newer], every.start_at: [every]}
    assert _told([[one], [every]]) == {every.start_at: [every, one]}
    assert _told([[one, block(1, 2, phase="UNKNOWN")], [every]]) == {every.start_at: [every, one]}


@settings(max_examples=300)
@given(st.lists(st.lists(hourly, min_size=1, max_size=4), min_size=1, max_size=6))
def test_what_was_told_last_is_what_holds(said: list[list[Block]]) -> None:
    told: dict[datetime, list[Block]] = {}
    for number in range(len(said)):
        told |= _told(said[: number + 1])
    for number, blocks_of_it in enumerate(said):
        for one in blocks_of_it:
            newer = [b for later in said[number + 1 :] for b in later if _reads(b) == _reads(one)]
            instants = [NOW + h * HOUR + HOUR / 2 for h in range(-12, 24)]
            own = [at for at in instants if one.start_at <= at < one.end_at]
            left = [at for at in own if not any(b.start_at <= at < b.end_at for b in newer)]
            if left == own:
                assert any(b is one for b in told[one.start_at])
            elif one.end_at > NOW and any(
                b.start_at <= max(one.start_at, NOW) and one.end_at <= b.end_at for b in newer
            ):
                assert all(b is not one for b in told[one.start_at])


def _reads(block: Block) -> Phase:
    return Phase.ALL if block.phase is Phase.UNKNOWN else block.phase
