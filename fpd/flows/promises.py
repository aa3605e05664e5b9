"""When peers will count as silent, on a scale that no step of a clock moves.

A promise ("offline unless I speak by then") is an instant on the wall clock, and so it is kept.
But what it grants is time in which we can hear the peer. That is lost when our clock is set, when
the machine sleeps, and while we cannot keep what peers say. So each daemon remembers of the
promises it heard itself where they lie on its own scale: seconds of hearing.

Interpretation: a step of our clock and a time in which we were deaf move the promises made before
by as much. Over a restart only the wall clock is common: a promise that ran out meanwhile counts
(decision P5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

_TOLERANCE_S = 0.25


class Move(NamedTuple):
    """A promise lies at another instant of the wall clock than was written down."""

    peer_id: int
    before: datetime
    after: datetime


class Promises:
    """The newest promise of each peer as this daemon heard it."""

    def __init__(self, clock: Callable[[], datetime], *, steady: Callable[[], float]) -> None:
        self._clock = clock
        self._steady = steady
        self._deaf_s = 0.0
        self._made: dict[int, tuple[datetime, float]] = {}
        self._distance_s = self._told_s = self._distance()

    def _distance(self) -> float:
        """Return how far the wall clock is from our scale: the same as long as nothing happens."""
        return self._clock().timestamp() - (self._steady() - self._deaf_s)

    def note(self, peer_id: int, offline_at: datetime) -> None:
        """Remember what was promised just now."""
        self._made[peer_id] = (offline_at, self._distance())

    def know(self, promises: Iterable[tuple[int, datetime]]) -> None:
        """Remember what was promised to others, or before we started, as if it were just now."""
        distance_s = self._distance()
        for peer_id, offline_at in promises:
            self._made.setdefault(peer_id, (offline_at, distance_s))

    def forget(self, peer_ids: Iterable[int]) -> None:
        for peer_id in peer_ids:
            self._made.pop(peer_id, None)

    def deaf(self, seconds: float) -> None:
        """Nobody was heard for so long."""
        self._deaf_s += seconds

    def moves(self) -> list[Move]:
        """Return the promises that lie elsewhere now, if the clock was set or we were deaf."""
        distance_s = self._told_s = self._distance()
        if abs(distance_s - self._distance_s) < _TOLERANCE_S:
            return []
        moves = []
        for peer_id, (offline_at, made_s) in self._made.items():
            step_s = distance_s - made_s
            if abs(step_s) >= _TOLERANCE_S:
                moves.append(Move(peer_id, offline_at, offline_at + timedelta(seconds=step_s)))
        return moves

    def moved(self, moves: Iterable[Move]) -> float:
        """These have been written down; return by how many seconds the scales have parted."""
        step_s, self._distance_s = self._told_s - self._distance_s, self._told_s
        for peer_id, before, after in moves:
            made = self._made.get(peer_id)
            if made is not None and made[0] == before:
                self._made[peer_id] = (after, self._told_s)
        return step_s
