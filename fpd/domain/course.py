"""Values over time that change at instants and hold in between."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Span(Generic[V]):
    """`value` during [start_at, end_at)."""

    start_at: datetime
    end_at: datetime
    value: V


@dataclass(frozen=True, slots=True)
class Course(Generic[V]):
    """`values[i]` during [edges[i], edges[i+1]); None there, and outside: nothing."""

    edges: tuple[datetime, ...] = ()
    values: tuple[V | None, ...] = ()

    def at(self, at: datetime) -> V | None:
        """Return what covers the instant."""
        cell = bisect_right(self.edges, at) - 1
        return self.values[cell] if 0 <= cell < len(self.values) else None

    def latest(self, at: datetime) -> V | None:
        """Return what covers the instant, else what did so last before it."""
        cell = min(bisect_right(self.edges, at), len(self.values)) - 1
        while cell >= 0 and self.values[cell] is None:
            cell -= 1
        return self.values[cell] if cell >= 0 else None


def lay(
    layers: Iterable[Sequence[Span[V]]],
    *,
    within: Callable[[V, V], V],
    over: Callable[[V, V], V],
) -> Course[V]:
    """Return layers of spans laid over each other in the order given.

    Where spans of one layer overlap `within(one, other)` counts; where a layer covers earlier
    ones `over(earlier, later)` does.
    """
    layers = tuple(layers)
    ends = {at for layer in layers for span in layer for at in (span.start_at, span.end_at)}
    edges = tuple(sorted(ends))
    values: list[V | None] = [None] * max(len(edges) - 1, 0)
    for layer in layers:
        own: dict[int, V] = {}
        for span in layer:
            for cell in range(bisect_left(edges, span.start_at), bisect_left(edges, span.end_at)):
                own[cell] = within(own[cell], span.value) if cell in own else span.value
        for cell, value in own.items():
            earlier = values[cell]
            values[cell] = value if earlier is None else over(earlier, value)
    return Course(edges, tuple(values))


def merge(courses: Mapping[K, Course[V]], combine: Callable[[dict[K, V]], W | None]) -> Course[W]:
    """Return what `combine` makes of the values that cover an instant together."""
    edges = tuple(sorted({edge for course in courses.values() for edge in course.edges}))
    return Course(
        edges,
        tuple(
            combine(
                {
                    key: value
                    for key, course in courses.items()
                    if (value := course.at(edge)) is not None
                }
            )
            for edge in edges[:-1]
        ),
    )


def newer(_: V, later: V) -> V:
    return later
