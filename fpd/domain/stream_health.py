"""Whether a stream still says something: stale when nothing comes, frozen when it never changes.

What is constant for good reasons must not count as frozen: a power of 0 W, a register that stands
still because nothing flows, a load of exactly 100 W whose register moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

State = Literal["unknown", "ok", "stale", "frozen"]

POWER: Final = "watts"
"""What SolarNetwork calls a power: with it a stream says whether anything flows."""

_ALIKE: Final = 12  # so many datum in a row must have been seen to say the same
_SOON: Final = timedelta(seconds=5)
_LATE: Final = timedelta(minutes=5)
_RETURN: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Stale: nothing for `stale_after` of its usual gaps, and for `least`. Frozen: for `frozen`."""

    stale_after: float
    least: timedelta
    frozen: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The newest datum; `cadence_s` is configured or learned, None while too few have come."""

    at: datetime
    i: Mapping[str, Decimal]
    a: Mapping[str, Decimal]
    cadence_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What is remembered of a stream. `i_since_at` and `i_seen`: since when and how many datum in
    a row were seen to say the same; `power_since_at`: since when its power was never 0.
    """

    state: State
    since_at: datetime
    latest_at: datetime | None = None
    cadence_s: float | None = None
    i: Mapping[str, Decimal] | None = None
    a: Mapping[str, Decimal] | None = None
    i_since_at: datetime | None = None
    a_since_at: datetime | None = None
    i_seen: int = 0
    a_seen: int = 0
    power_since_at: datetime | None = None


def judged(health: Health, seen: Seen | None, rules: Rules, *, now: datetime) -> Health:
    """Return how the stream is now; `seen` None: it has no datum within reach."""
    known = health if seen is None else _noted(health, seen)
    state = _state(known, rules, now)
    if state == health.state:
        return known
    return replace(known, state=state, since_at=now)


def patience(health: Health, rules: Rules) -> timedelta | None:
    """Return how long after a datum the next one is missed; None while nobody knows."""
    if health.cadence_s is None:
        return None
    return max(timedelta(seconds=health.cadence_s * rules.stale_after), rules.least)


def due_at(health: Health, rules: Rules, *, now: datetime) -> datetime:
    """Return when to look again: when it would be stale, and now and then for what is frozen."""
    missed = patience(health, rules)
    if health.state == "stale" or missed is None or health.latest_at is None:
        return now + _RETURN
    return min(max(health.latest_at + missed, now + _SOON), now + _LATE)


def _noted(health: Health, seen: Seen) -> Health:
    if health.latest_at is not None and seen.at <= health.latest_at:
        return replace(health, cadence_s=seen.cadence_s)
    same_i, same_a = health.i == seen.i, health.a == seen.a
    power = seen.i.get(POWER)
    return replace(
        health,
        latest_at=seen.at,
        cadence_s=seen.cadence_s,
        i=seen.i,
        a=seen.a,
        i_since_at=health.i_since_at if same_i else seen.at,
        a_since_at=health.a_since_at if same_a else seen.at,
        i_seen=health.i_seen + 1 if same_i else 1,
        a_seen=health.a_seen + 1 if same_a else 1,
        power_since_at=(health.power_since_at or seen.at) if power else None,
    )


def _state(health: Health, rules: Rules, now: datetime) -> State:
    missed = patience(health, rules)
    if health.latest_at is None or missed is None:
        return "unknown"
    if now - health.latest_at > missed:
        return "stale"
    return "frozen" if _is_frozen(health, health.latest_at, rules) else "ok"


def _is_frozen(health: Health, latest_at: datetime, rules: Rules) -> bool:
    i, a = health.i or {}, health.a or {}
    long_ago = latest_at - rules.frozen
    steady_i = health.i_seen >= _ALIKE and _by(health.i_since_at, long_ago)
    steady_a = health.a_seen >= _ALIKE and _by(health.a_since_at, long_ago)
    counts = any(a.values())
    if counts and steady_a and _by(health.power_since_at, long_ago):
        return True  # power flows, and the register stands still
    if not any(i.values()) or i.get(POWER) == 0:
        return False  # nothing flows, so nothing needs to change
    return steady_i and (steady_a or not counts)


def _by(since_at: datetime | None, at: datetime) -> bool:
    return since_at is not None and since_at <= at
