"""What a group may do, told by the messages of its peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from forecast_strategies import HOUR, NOW, block, message, messages, terms
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.forecast import (
    Envelope,
    Forecast,
    ForecastType,
    GapPolicy,
    OptimumDirection,
    Overlap,
    Reason,
    Spread,
    Terms,
    block_watts,
    envelope_at,
    envelopes,
)
from fpd.domain.grants import PhaseLimit
from fpd.domain.units import AmpereAll, Phase, floor_w
from fpd.errors import Malformed


def limits(found: Envelope) -> tuple[int | None, int | None, str]:
    return found.min_w, found.max_w, str(found.reason)


def at(forecasts: Sequence[Forecast], hours: float, online: bool = True, **of: Any) -> Envelope:
    """Return the envelope some hours after NOW."""
    return envelope_at(
        forecasts, at=NOW + hours * HOUR, provider_online=online, terms=replace(Terms(), **of)
    )


def test_import_and_export_limits_last_as_long_as_their_blocks() -> None:
    day = [
        message("CONSUMPTION", block(1, 3, 5000), id=1),
        message("GENERATION", block(2, 4, 0), id=2),
    ]
    found = envelopes(day, start_at=NOW, end_at=NOW + 6 * HOUR, provider_online=True, terms=Terms())
    assert [((e.start_at - NOW) / HOUR, *limits(e), e.forecast_ids) for e in found] == [
        (0, None, None, "none", ()),
        (1, None, 5000, "forecast", (1,)),
        (2, 0, 5000, "forecast", (1, 2)),
        (3, 0, None, "forecast", (2,)),
        (4, None, None, "none", ()),
    ]
    assert found[-1].end_at == NOW + 6 * HOUR


def test_an_envelope_ends_when_something_changes_and_not_at_every_block() -> None:
    steady = [message("CONSUMPTION", block(0, 1), block(1, 2), block(2, 3, 2000))]
    assert at(steady, 0.5).end_at == NOW + 2 * HOUR
    assert at(steady, 3).end_at is None


def test_an_emergency_block_replaces_its_hours_of_the_day_ahead_plan_only() -> None:
    plan = message("CONSUMPTION", *(block(h, h + 1, 8000) for h in range(24)), id=1)
    emergency = message("CONSUMPTION", block(10.25, 12, 1000), id=2)
    found = envelopes(
        [emergency, plan], start_at=NOW, end_at=NOW + 24 * HOUR, provider_online=True, terms=Terms()
    )
    assert [(e.max_w, e.forecast_ids) for e in found] == [(8000, (1,)), (1000, (2,)), (8000, (1,))]


def test_an_update_may_raise_a_limit_unless_the_strictest_counts() -> None:
    both = [
        message("GENERATION", block(0, 2, 1000), id=1),
        message("GENERATION", block(0, 2, 3000), id=2),
    ]
    assert at(both, 1).min_w == -3000
    assert at(both, 1, overlap=Overlap.MOST_RESTRICTIVE).min_w == -1000


def test_a_message_that_contradicts_itself_counts_with_its_smallest_value() -> None:
    assert at([message("CONSUMPTION", block(0, 2, 3000), block(1, 3, 1000))], 1.5).max_w == 1000


def test_an_unknown_phase_is_the_sum_and_a_newer_sum_replaces_it() -> None:
    both = [
        message("CONSUMPTION", block(0, 2, 1000, phase="UNKNOWN"), id=1),
        message("CONSUMPTION", block(0, 2, 3000, phase="ALL"), id=2),
    ]
    assert at(both, 1).max_w == 3000


@pytest.mark.parametrize(
    ("of", "max_w"),
    [
        ({}, 3 * 10 * 230),
        ({"spread": Spread.SINGLE}, 10 * 230),
        ({"phases": 1}, 10 * 230),
    ],
)
def test_limits_of_single_phases_bind_the_sum(of: dict[str, Any], max_w: int) -> None:
    fuses = message("CONSUMPTION", block(0, 1, 16, "A", "ONE"), block(0, 1, 10, "A", "TWO"))
    assert at([fuses], 0, **of).max_w == max_w
    whole = message("CONSUMPTION", block(0, 1, 2000), id=2)
    assert at([fuses, whole], 0, **of).max_w == 2000  # phase and sum apply together


def test_limits_of_single_phases_are_kept_beside_that_of_the_sum() -> None:
    fuses = message("CONSUMPTION", block(0, 1, 16, "A", "ONE"), block(0, 2, 10, "A", "TWO"))
    whole = message("CONSUMPTION", block(0, 2, 2000), id=2)
    export = message("GENERATION", block(0, 1, 0, "W", "TWO"), id=3)
    found = at([fuses, whole, export], 0)
    one, two = PhaseLimit(Phase.ONE, None, 3680), PhaseLimit(Phase.TWO, 0, 2300)
    assert found.phases == (one, two)
    assert (found.max_w, found.forecast_ids) == (2000, (1, 2, 3)), "whose phases bind, too"
    assert at([fuses, whole, export], 1).phases == (PhaseLimit(Phase.TWO, None, 2300),)
    assert found.end_at == NOW + HOUR
    other = message("CONSUMPTION", block(0, 2, 1000, "W", "ONE"), id=4, peer_id=2)
    assert at([fuses, other], 0).phases[0].max_w == 1000, "the tightest of several providers"


def test_a_third_three_times_is_the_whole() -> None:
    spread = message("CONSUMPTION", block(0, 3, 1000, "KWH", "ONE"))
    assert at([spread], 0).max_w == 1_000_000
    each = [block(0, 3, 1000, "KWH", phase) for phase in ("ONE", "TWO", "THREE")]
    assert at([message("OPTIMUM", *each)], 0).optimum_w == -1_000_000


def test_ampere_for_all_phases_are_their_sum_unless_agreed_otherwise() -> None:
    limit = [message("CONSUMPTION", block(0, 1, 6, "A"))]
    assert at(limit, 0).max_w == 1380
    assert at(limit, 0, ampere_all=AmpereAll.PER_PHASE).max_w == 4140


def test_the_static_limit_applies_beside_every_forecast() -> None:
    limit = [message("CONSUMPTION", block(0, 1, 5000), id=7)]
    found = at(limit, 0, static_import_w=4000, static_export_w=3000)
    assert (*limits(found), found.forecast_ids) == (-3000, 4000, "static", (7,))
    assert limits(at(limit, 0, static_import_w=6000)) == (None, 5000, "forecast")


PROMISES = (
    message("CONSUMPTION", block(0, 2, 5000), id=1),
    message("FALLBACK_CONSUMPTION", block(-100, 10, 2000), id=2),
)


@pytest.mark.parametrize(
    ("policy", "static_w", "max_w", "reason"),
    [
        (GapPolicy.FALLBACK, None, 2000, "gap-fallback"),
        (GapPolicy.FALLBACK, 1000, 1000, "static"),
        (GapPolicy.STATIC, 4000, 4000, "static"),
        (GapPolicy.STATIC, None, None, "none"),
        (GapPolicy.HOLD_LAST, None, 5000, "hold-last"),
        (GapPolicy.HOLD_LAST, 4000, 4000, "static"),
        (GapPolicy.UNLIMITED, None, None, "none"),
        (GapPolicy.UNLIMITED, 4000, 4000, "static"),
    ],
)
def test_a_gap_is_filled_as_agreed(
    policy: GapPolicy, static_w: int | None, max_w: int | None, reason: str
) -> None:
    found = at(PROMISES, 3, gap_policy=policy, static_import_w=static_w)
    assert limits(found) == (None, max_w, reason)


def test_a_gap_without_any_fallback_takes_the_static_limit() -> None:
    assert limits(at(PROMISES, 11, static_import_w=4000)) == (None, 4000, "static")
    assert limits(at(PROMISES, 11)) == (None, None, "none")


@pytest.mark.parametrize("policy", GapPolicy)
def test_offline_the_fallback_replaces_a_forecast_even_if_it_allows_more(
    policy: GapPolicy,
) -> None:
    strict = message("CONSUMPTION", block(0, 2, 500), id=3)
    found = at([*PROMISES, strict], 1, online=False, gap_policy=policy)
    assert (*limits(found), found.forecast_ids) == (None, 2000, "fallback", (2,))


@pytest.mark.parametrize("policy", GapPolicy)
@pytest.mark.parametrize("hours", [1, 1000])
def test_offline_without_a_fallback_the_last_known_limit_stays(
    policy: GapPolicy, hours: float
) -> None:
    known = PROMISES[:1]
    assert limits(at(known, hours, False, gap_policy=policy)) == (None, 5000, "last-known")
    found = at(known, hours, False, gap_policy=policy, static_import_w=4000)
    assert limits(found) == (None, 4000, "static")


def test_offline_a_fallback_that_has_ended_is_better_than_no_limit() -> None:
    assert limits(at(PROMISES[1:], 20, online=False)) == (None, 2000, "last-known")


def test_offline_with_nothing_known_only_the_static_limit_is_left() -> None:
    assert limits(at([], 0, online=False)) == (None, None, "none")
    assert limits(at([], 0, online=False, static_export_w=0)) == (0, None, "static")


def test_of_several_providers_the_tightest_counts_each_with_its_own_fallback() -> None:
    of_two = [
        message("CONSUMPTION", block(0, 2, 5000), id=1, peer_id=1),
        message("CONSUMPTION", block(0, 1, 3000), id=2, peer_id=2),
        message("FALLBACK_CONSUMPTION", block(0, 9, 1000), id=3, peer_id=2),
    ]
    assert (at(of_two, 0).max_w, at(of_two, 0).forecast_ids) == (3000, (1, 2))
    assert limits(at(of_two, 1)) == (None, 1000, "gap-fallback")
    assert limits(at(of_two, 3)) == (None, 1000, "gap-fallback")


@pytest.mark.parametrize(
    ("direction", "import_w", "optimum_w"),
    [
        (OptimumDirection.AUTO, None, -700),
        (OptimumDirection.AUTO, 3000, 700),
        (OptimumDirection.AUTO, 400, 400),
        (OptimumDirection.AUTO, 0, -500),
        (OptimumDirection.IMPORT, None, 700),
        (OptimumDirection.EXPORT, 3000, -500),
    ],
)
def test_an_optimum_gets_its_direction_and_stays_inside_the_limits(
    direction: OptimumDirection, import_w: int | None, optimum_w: int
) -> None:
    wish = [message("OPTIMUM", block(0, 1, 700), id=9, peer_id=2)]
    if import_w is not None:
        wish.append(message("CONSUMPTION", block(0, 1, import_w), id=1))
    if optimum_w == -500:
        wish.append(message("GENERATION", block(0, 1, 500), id=2))
    found = at(wish, 0, optimum_direction=direction)
    assert found.optimum_w == optimum_w
    assert 9 not in found.forecast_ids


def test_wishes_for_single_phases_add_up() -> None:
    wish = message("OPTIMUM", *(block(0, 1, 2, "A", phase) for phase in ("ONE", "TWO", "THREE")))
    assert at([wish], 0).optimum_w == -1380


def test_without_an_optimizer_online_no_wish_is_followed() -> None:
    wish = [message("OPTIMUM", block(0, 1, 700))]
    found = envelope_at(wish, at=NOW, provider_online=True, terms=Terms(), optimizer_online=False)
    assert found.optimum_w is None


def test_blocks_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(Malformed, match="end_time"):
        block(1, 1)
    with pytest.raises(Malformed, match="capacity"):
        block(1, 2, -1)
    with pytest.raises(Malformed, match="capacity"):
        block(1, 2, "NaN")


def test_an_absurd_capacity_stays_a_number_that_can_be_kept() -> None:
    assert at([message("CONSUMPTION", block(0, 1, "1E+308"))], 0).max_w == 10**15


instants = st.integers(-10_000, 10 * 86400).map(lambda s: NOW + timedelta(seconds=s))


@given(messages(), terms, st.booleans(), st.lists(instants, min_size=1, max_size=5))
def test_envelopes_are_the_envelope_of_each_instant(
    forecasts: list[Forecast], terms: Terms, online: bool, instants: list[datetime]
) -> None:
    start_at, end_at = NOW - 2 * HOUR, NOW + 240 * HOUR
    found = envelopes(
        forecasts, start_at=start_at, end_at=end_at, provider_online=online, terms=terms
    )
    assert found[0].start_at == start_at
    assert found[-1].end_at == end_at
    for earlier, later in pairwise(found):
        assert earlier.end_at == later.start_at
        assert _content(earlier) != _content(later)
    for instant in (*instants, *(e.start_at for e in found)):
        single = envelope_at(forecasts, at=instant, provider_online=online, terms=terms)
        for piece in found:
            if piece.start_at <= instant < piece.end_at:
                assert _content(piece) == _content(single)
                assert piece is found[-1] or piece.end_at == single.end_at


def _content(envelope: Envelope) -> tuple[object, ...]:
    return (
        envelope.min_w,
        envelope.max_w,
        envelope.optimum_w,
        envelope.reason,
        envelope.forecast_ids,
        envelope.phases,
    )


@given(messages(), terms, st.booleans(), instants)
def test_an_envelope_always_allows_nothing_and_wants_only_what_it_allows(
    forecasts: list[Forecast], terms: Terms, online: bool, instant: datetime
) -> None:
    found = envelope_at(forecasts, at=instant, provider_online=online, terms=terms)
    lowest = -(10**16) if found.min_w is None else found.min_w
    highest = 10**16 if found.max_w is None else found.max_w
    assert lowest <= 0 <= highest
    assert found.optimum_w is None or lowest <= found.optimum_w <= highest
    assert terms.static_import_w is None or highest <= terms.static_import_w
    assert terms.static_export_w is None or lowest >= -terms.static_export_w
    assert (found.min_w is None and found.max_w is None) == (found.reason is Reason.NONE)


@given(messages(), terms, instants)
def test_of_each_phase_the_newest_message_that_covers_an_instant_counts(
    forecasts: list[Forecast], terms: Terms, instant: datetime
) -> None:
    limits_w = []
    for peer_id in (1, 2):
        single_w = []
        for phases in ({Phase.ALL, Phase.UNKNOWN}, {Phase.ONE}, {Phase.TWO}, {Phase.THREE}):
            covering = [
                (f.id, -block_watts(b, terms))
                for f in forecasts
                if f.type is ForecastType.CONSUMPTION and f.peer_id == peer_id
                for b in f.blocks
                if b.phase in phases and b.start_at <= instant < b.end_at
            ]
            if not covering:
                continue
            if terms.overlap is Overlap.MOST_RESTRICTIVE:
                watts = -max(minus for *_, minus in covering)
            else:
                watts = -max(covering)[1]
            (limits_w if Phase.ALL in phases else single_w).append(watts)
        if single_w:
            times = terms.phases if terms.spread is Spread.BALANCED else 1
            limits_w.append(times * min(single_w))
    plain = Terms(
        phases=terms.phases,
        ampere_all=terms.ampere_all,
        overlap=terms.overlap,
        spread=terms.spread,
        gap_policy=GapPolicy.UNLIMITED,
    )
    found = envelope_at(forecasts, at=instant, provider_online=True, terms=plain)
    assert found.max_w == (floor_w(min(limits_w)) if limits_w else None)


@given(messages(), terms, instants)
def test_offline_a_limit_that_was_ever_in_force_never_becomes_none(
    forecasts: list[Forecast], terms: Terms, instant: datetime
) -> None:
    began = any(
        b.start_at <= instant
        for f in forecasts
        if f.type in (ForecastType.GENERATION, ForecastType.FALLBACK_GENERATION)
        for b in f.blocks
    )
    found = envelope_at(forecasts, at=instant, provider_online=False, terms=terms)
    assert (found.min_w is not None) == (began or terms.static_export_w is not None)
