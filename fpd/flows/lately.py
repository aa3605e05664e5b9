"""What was so a moment ago, for those who have it judged again with what they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")

_MOST = 10_000


class Lately(Generic[V]):
    """What was found for a key within the last `within_s`; `steady` tells seconds."""

    def __init__(self, within_s: float, *, steady: Callable[[], float]) -> None:
        self._within_s = within_s
        self._steady = steady
        self._known: dict[bytes, tuple[V, float]] = {}

    def find(self, key: bytes, *, renewing: bool = False) -> V | None:
        """Return what was kept a moment ago, None if nothing was.

        `renewing`: it cannot become wrong, only old; so of many who ask at the same time one finds
        nothing, and looks again for all.
        """
        known = self._known.get(key)
        if known is None:
            return None
        if self._steady() - known[1] <= self._within_s:
            return known[0]
        if renewing:
            self.keep(key, known[0])
        return None

    def keep(self, key: bytes, value: V) -> None:
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = (value, self._steady())

    def forget(self, key: bytes) -> None:
        self._known.pop(key, None)
