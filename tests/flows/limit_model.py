"""Which limit is in force, written anew from the rules: whole seconds, and nothing of fpd.

Rules: decisions P3, P7 and the gap policies of M10; phase ALL, W, one provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Span = tuple[int, int, int]  # from, until (s since 1970), W


@dataclass
class Model:
    """`said`: (type, spans) in the order of receipt."""

    policy: str
    static: dict[str, int | None]
    said: list[tuple[str, Sequence[Span]]] = field(default_factory=list)

    def granted(self, kind: str, at: int) -> int | None:
        for type_, spans in reversed(self.said):
            covering = [w for start, end, w in spans if type_ == kind and start <= at < end]
            if covering:
                return min(covering)
        return None

    def last(self, kind: str, at: int) -> int | None:
        """What was granted at the last second at or before `at` that was covered at all."""
        if self.granted(kind, at) is not None:
            return self.granted(kind, at)
        ends = [e for type_, spans in self.said if type_ == kind for _, e, _ in spans if e <= at]
        return self.granted(kind, max(ends) - 1) if ends else None

    def limit(self, kind: str, at: int, *, online: bool) -> int | None:
        fallback = f"FALLBACK_{kind}"
        candidates = []
        if not online:
            candidates = [self.granted(fallback, at), self.last(kind, at), self.last(fallback, at)]
        elif self.granted(kind, at) is not None:
            candidates = [self.granted(kind, at)]
        elif self.policy == "Fallback":
            candidates = [self.granted(fallback, at)]
        elif self.policy == "HoldLast":
            candidates = [self.last(kind, at)]
        found = [w for w in candidates if w is not None][:1]
        static = self.static[kind]
        return min(found + ([] if static is None else [static]), default=None)

    def edges(self) -> set[int]:
        return {edge for _, spans in self.said for start, end, _ in spans for edge in (start, end)}
