"""Stale and frozen, told apart from what is quiet for good reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from fpd.domain.stream_health import Health, Rules, Seen, due_at, judged, patience

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
RULES = Rules(stale_after=5, least=timedelta(seconds=60), frozen=timedelta(hours=1))
MINUTE = timedelta(minutes=1)

Numbers = Mapping[str, int]


def seen(at: datetime, i: Numbers, a: Numbers, cadence_s: float | None = 60) -> Seen:
    def exact(given: Numbers) -> dict[str, Decimal]:
        return {name: Decimal(value) for name, value in given.items()}

    return Seen(at=at, i=exact(i), a=exact(a), cadence_s=cadence_s)


def watched(said: Iterable[tuple[Numbers, Numbers]]) -> Health:
    """How a stream is after it was looked at each minute."""
    health = Health(state="unknown", since_at=NOON)
    for minute, (i, a) in enumerate(said):
        at = NOON + minute * MINUTE
        health = judged(health, seen(at, i, a), RULES, now=at)
    return health


@pytest.mark.parametrize(
    ("said", "state"),
    [
        pytest.param([({"watts": n}, {}) for n in range(90)], "ok", id="lives"),
        pytest.param([({"watts": 7}, {})] * 90, "frozen", id="a constant power, no register"),
        pytest.param([({"watts": 7}, {})] * 50, "ok", id="not for long"),
        pytest.param([({"watts": 0}, {})] * 90, "ok", id="off"),
        pytest.param([({"watts": 0, "soc": 50}, {})] * 90, "ok", id="off, half full"),
        pytest.param([({"watts": 7}, {"wh": n}) for n in range(90)], "ok", id="a constant load"),
        pytest.param([({"watts": 0}, {"wh": 5})] * 90, "ok", id="off, its register stands"),
        pytest.param([({}, {"wh": 5})] * 90, "ok", id="a register alone stands"),
        pytest.param([({"watts": 7}, {"wh": 5})] * 90, "frozen", id="power, and nothing counts"),
        pytest.param(
            [({"watts": 7 + n % 3}, {"wh": 5}) for n in range(90)],
            "frozen",
            id="power varies, its register stands",
        ),
        pytest.param(
            [({"watts": (n // 30) % 2}, {"wh": 5}) for n in range(90)],
            "ok",
            id="power was off in between",
        ),
        pytest.param(
            [({"watts": 7 + n % 3}, {"exported": 0}) for n in range(90)],
            "ok",
            id="a register that never counted",
        ),
        pytest.param([({"volts": 230}, {})] * 90, "frozen", id="no voltage is so constant"),
        pytest.param([({}, {})] * 90, "ok", id="no numbers"),
        pytest.param([({"watts": 7}, {})] * 90 + [({"watts": 8}, {})], "ok", id="thaws"),
    ],
)
def test_frozen(said: list[tuple[Numbers, Numbers]], state: str) -> None:
    assert watched(said).state == state


def test_a_few_looks_over_a_long_time_are_no_proof() -> None:
    health = Health(state="unknown", since_at=NOON)
    for hour in range(10):
        at = NOON + timedelta(hours=hour)
        health = judged(health, seen(at, {"watts": 7}, {}, 3600), RULES, now=at)
    assert health.state == "ok"


def test_stale_begins_when_the_patience_ends_and_ends_with_the_next_datum() -> None:
    health = watched([({"watts": n}, {}) for n in range(5)])
    last = NOON + 4 * MINUTE
    assert patience(health, RULES) == 5 * MINUTE
    assert due_at(health, RULES, now=last) == last + 5 * MINUTE
    same = seen(last, {"watts": 4}, {})
    late = last + 5 * MINUTE
    assert judged(health, same, RULES, now=late).state == "ok"
    stale = judged(health, same, RULES, now=late + timedelta(seconds=1))
    assert (stale.state, stale.since_at) == ("stale", late + timedelta(seconds=1))
    assert judged(stale, None, RULES, now=late + timedelta(days=40)).since_at == stale.since_at
    back = late + timedelta(hours=1)
    assert judged(stale, seen(back, {"watts": 4}, {}), RULES, now=back).state == "ok"


def test_fast_streams_get_the_least_patience_and_unknown_ones_are_never_stale() -> None:
    health = judged(
        Health(state="unknown", since_at=NOON), seen(NOON, {"w": 1}, {}, 1), RULES, now=NOON
    )
    assert patience(health, RULES) == timedelta(seconds=60)
    unknown = judged(
        Health(state="unknown", since_at=NOON), seen(NOON, {"w": 1}, {}, None), RULES, now=NOON
    )
    assert judged(unknown, None, RULES, now=NOON + timedelta(days=9)).state == "unknown"
    assert unknown.since_at == NOON
