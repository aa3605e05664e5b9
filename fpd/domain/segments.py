"""Which segments make one message, and what becomes of a new one. All of it is here.

A large message may come in segments, each a request of its own that says which one of how many
it is. Two published readings of OSCP 2.0 disagree about what the later ones are correlated with:
the first segment or the previous one. Interpretation: decision P18, any segment of the message
will do. So a segment beyond the first and the one it names belong together, and an assembly is
what hangs together that way, also while the segment named has not come.

    | a segment that                                      | is                                  |
    |-----------------------------------------------------|-------------------------------------|
    | came before, the very same                          | accepted, without a second effect   |
    | came before with other content, or in another place | refused                             |
    | takes a place that another one has                  | refused                             |
    | contradicts its assembly in count or operation      | refused                             |
    | would complete a message that has taken effect      | refused                             |
    | makes an assembly too large, or one too many        | refused                             |
    | completes a message                                 | answered with what that deserves    |

A refused segment leaves its assembly as it was. So does the one that is answered with the refusal
of the whole message: said again, it gets the answer that the message deserves then. What is left
of a refused message gives way to other content under its ids.

Interpretation: an assembly is given up when it has been incomplete for 60 s since its last new
segment. A whole one is not: its last segment was not answered yet, so it will come again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fpd.errors import Malformed, TooLarge, TooMany

MOST = 64
MOST_BYTES = 8 * 1024 * 1024
MOST_OPEN = 16
PATIENCE = timedelta(seconds=60)
_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class Place:
    """The `index`th of `count` segments, from 1."""

    index: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of a peer's; equal when it is the very same said again.

    `applied`: the whole message has taken effect. `refused`: it was refused, this is what is left.
    """

    request_id: str
    correlation_id: str | None
    operation: str
    place: Place
    sha256: bytes
    size: int = field(compare=False)
    received_at: datetime = field(compare=False)
    applied: bool = field(default=False, compare=False)
    refused: bool = field(default=False, compare=False)

    @property
    def names(self) -> str | None:
        """The segment that it continues. The first one's correlation is the whole message's."""
        return None if self.place.index == 1 else self.correlation_id


@dataclass(frozen=True, slots=True)
class Assembly:
    """Segments that hang together, in the order of their places."""

    segments: tuple[Segment, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing. Each but the first names another, so the first is there."""
        return len(self.segments) == self.segments[0].place.count

    @property
    def refused(self) -> bool:
        """Whether it is what a refused message has left."""
        return not self.whole and any(segment.refused for segment in self.segments)

    @property
    def request_ids(self) -> list[str]:
        return [segment.request_id for segment in self.segments]

    @property
    def last_at(self) -> datetime:
        return max(segment.received_at for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a segment: `assembly` has it, None once the message has taken effect.

    `is_new`: it is to be kept. `gone` are the assemblies to drop.
    """

    gone: tuple[Assembly, ...]
    assembly: Assembly | None
    is_new: bool


def assemblies(segments: Sequence[Segment]) -> list[Assembly]:
    """Return what hangs together."""
    leads_to: dict[str, str] = {}

    def end(request_id: str) -> str:
        while (following := leads_to.setdefault(request_id, request_id)) != request_id:
            leads_to[request_id] = leads_to[following]
            request_id = following
        return request_id

    for segment in segments:
        leads_to[end(segment.request_id)] = end(segment.names or segment.request_id)
    groups: dict[str, list[Segment]] = {}
    for segment in segments:
        groups.setdefault(end(segment.request_id), []).append(segment)
    return [
        Assembly(tuple(sorted(group, key=lambda one: one.place.index))) for group in groups.values()
    ]


def stale(found: Sequence[Assembly], *, now: datetime) -> list[Assembly]:
    """Return the assemblies to give up: those that lapsed, and all but the newest refused ones."""
    lapsed = [one for one in found if not one.whole and now - one.last_at >= PATIENCE]
    refused = sorted((one for one in found if one.refused), key=lambda one: one.last_at)
    return [*lapsed, *(one for one in refused[:-MOST_OPEN] if one not in lapsed)]


def judge(new: Segment, held: Sequence[Segment], *, now: datetime) -> Verdict:
    """Return what becomes of `new`.

    `held` are all segments of the peer whose message has not taken effect, and of the others
    those with the id of `new` or the one that it names. Raises Malformed, TooLarge, TooMany.
    """
    found = assemblies([segment for segment in held if not segment.applied])
    gone = stale(found, now=now)
    kept = [one for one in found if one not in gone]
    history = [segment for segment in held if segment.applied]
    if new in history:
        return Verdict(tuple(gone), None, is_new=False)
    _check_history(new, history)
    for assembly in kept:
        if new in assembly.segments:
            return Verdict(tuple(gone), assembly, is_new=False)
    given_way = [one for one in kept if one.refused and new.request_id in one.request_ids]
    kept = [one for one in kept if one not in given_way]
    after = assemblies([*(segment for one in kept for segment in one.segments), new])
    joined = next(one for one in after if new in one.segments)
    _check(joined, new)
    _check_room(after)
    return Verdict((*gone, *given_way), joined, is_new=True)


def _check_history(new: Segment, history: Sequence[Segment]) -> None:
    """Raise Malformed when `new` has to do with a message that took effect."""
    ids = {segment.request_id for segment in history}
    if new.request_id in ids:
        raise Malformed("X-Request-ID reused with other content")
    if new.names in ids:
        raise Malformed("X-Correlation-ID: that message is complete")


def _check(joined: Assembly, new: Segment) -> None:
    """Raise Malformed or TooLarge when `new` does not fit to the others."""
    if new.place.index > 1 and new.names is None:
        raise Malformed("X-Correlation-ID: expected the id of the first or the previous segment")
    for other in joined.segments:
        if other is new:
            continue
        if other.request_id == new.request_id:
            raise Malformed("X-Request-ID reused with other content")
        if other.operation != new.operation:
            raise Malformed(f"the other segments of this message are {other.operation}")
        if other.place.count != new.place.count:
            raise Malformed(f"X-Segment-Count: the others say {other.place.count}")
        if other.place.index == new.place.index:
            raise Malformed("X-Segment-Index: came before under another X-Request-ID")
    if sum(segment.size for segment in joined.segments) > MOST_BYTES:
        raise TooLarge(f"the segments are larger than {MOST_BYTES} bytes together")


def _check_room(after: Sequence[Assembly]) -> None:
    """Raise TooMany when more messages are open than one peer may have.

    Segments that came before those they continue hang together with nothing yet. So what counts
    is of how many messages the segments must be at least.
    """
    waiting = [s for one in after if not (one.whole or one.refused) for s in one.segments]
    places = Counter((one.operation, one.place.count, one.place.index) for one in waiting)
    messages: dict[tuple[str, int], int] = {}
    for (operation, count, _), times in places.items():
        messages[operation, count] = max(times, messages.get((operation, count), 0))
    if sum(messages.values()) > MOST_OPEN:
        raise TooMany(
            f"more than {MOST_OPEN} segmented messages are incomplete",
            retry_after_s=_RETRY_AFTER_S,
        )
    if sum(segment.size for segment in waiting) > MOST_OPEN * MOST_BYTES:
        raise TooMany("too much of segmented messages is waiting", retry_after_s=_RETRY_AFTER_S)
