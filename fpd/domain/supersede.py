"""What newer messages leave of older ones: who needs to hear a forecast again, or still.

Interpretation: decision P3, a message replaces older ones of the same peer, group and type
exactly in the time ranges that its blocks cover on their phases. Phases are told apart as they
are written, UNKNOWN from ALL too: whoever the message is passed on to may read them differently,
and one message too many does no harm where one too few does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from fpd.domain.forecast import Block, Forecast
from fpd.domain.units import Phase


class Cover:
    """The time that messages cover, phase by phase; grows with `add`."""

    def __init__(self, blocks: Iterable[Block] = ()) -> None:
        # Per phase the starts and ends of disjoint ranges that do not touch, both rising.
        self._ranges: dict[Phase, tuple[list[datetime], list[datetime]]] = {}
        self.add(blocks)

    def add(self, blocks: Iterable[Block]) -> None:
        """Cover the ranges of `blocks` too."""
        for block in blocks:
            starts, ends = self._ranges.setdefault(block.phase, ([], []))
            first = bisect_left(ends, block.start_at)
            last = bisect_right(starts, block.end_at)
            touched = slice(first, last)
            start_at = min([block.start_at, *starts[touched][:1]])
            end_at = max([block.end_at, *ends[touched][-1:]])
            starts[touched], ends[touched] = [start_at], [end_at]

    def holds(self, blocks: Iterable[Block], *, after: datetime) -> bool:
        """Tell whether all that `blocks` say of the time from `after` on is covered.

        A block that has ended by then says nothing more.
        """
        return all(
            self._holds(block.phase, max(block.start_at, after), block.end_at)
            for block in blocks
            if block.end_at > after
        )

    def _holds(self, phase: Phase, start_at: datetime, end_at: datetime) -> bool:
        starts, ends = self._ranges.get(phase, ([], []))
        place = bisect_right(starts, start_at) - 1
        return place >= 0 and end_at <= ends[place]

    def meets(self, blocks: Iterable[Block], *, after: datetime) -> bool:
        """Tell whether `blocks` say anything of time from `after` on that is covered."""
        return any(
            self._meets(block.phase, max(block.start_at, after), block.end_at) for block in blocks
        )

    def _meets(self, phase: Phase, start_at: datetime, end_at: datetime) -> bool:
        starts, ends = self._ranges.get(phase, ([], []))
        place = bisect_right(ends, start_at)
        return place < len(starts) and max(starts[place], start_at) < end_at


def in_force(messages: Sequence[Forecast], *, at: datetime) -> tuple[Forecast, ...]:
    """Return the messages to one group of which newer ones and time leave something at `at`.

    `messages` are in the order of receipt, which the answer keeps.
    """
    covers: dict[tuple[int, str], Cover] = {}
    kept = []
    for message in reversed(messages):
        cover = covers.setdefault((message.peer_id, message.type), Cover())
        if not cover.holds(message.blocks, after=at):
            kept.append(message)
        cover.add(message.blocks)
    return tuple(reversed(kept))


def spent(messages: Sequence[Forecast], *, at: datetime) -> tuple[Forecast, ...]:
    """Return the messages to one group that cannot matter at `at` or later.

    `messages` are in the order of receipt. What a peer's type said last on each phase stays,
    because it may be held. Not for `Overlap.MOST_RESTRICTIVE`, where what is covered counts, too.
    """
    last: dict[tuple[int, str, Phase], tuple[datetime, Forecast]] = {}
    for message in messages:
        for block in message.blocks:
            if block.start_at < at:
                key, until_at = (message.peer_id, message.type, block.phase), min(block.end_at, at)
                if key not in last or until_at >= last[key][0]:
                    last[key] = (until_at, message)
    staying = {id(message) for message in in_force(messages, at=at)}
    staying |= {id(message) for _, message in last.values()}
    return tuple(message for message in messages if id(message) not in staying)


@dataclass(frozen=True, slots=True)
class Stated:
    """A block, and the request id of the message that said it."""

    block: Block
    request_id: str


def restated(
    earlier: Iterable[Sequence[Stated]], said: Sequence[Stated], *, after: datetime
) -> dict[datetime, list[Stated]]:
    """Return what holds of the block starts of which a message makes anything else true: those of
    its own blocks, which come first there, and those of earlier messages of its kind (oldest
    first) where a block has not ended by `after` and is covered wholly. Nothing may be left.

    Interpretation: as for the limit in force UNKNOWN is read as ALL, so each covers the other.
    """
    standing: dict[datetime, list[Stated]] = {}
    for message in earlier:
        _take(standing, message, after)
    return _take(standing, said, after)


def _take(
    standing: dict[datetime, list[Stated]], said: Sequence[Stated], after: datetime
) -> dict[datetime, list[Stated]]:
    """Let a message replace what stands, by start; return what has changed."""
    read = [_as_read(one.block) for one in said]
    cover = Cover(read)
    named = {(block.start_at, block.phase) for block in read}

    def is_over(block: Block) -> bool:
        return (block.start_at, block.phase) in named or (
            block.end_at > after and cover.holds([block], after=after)
        )

    changed: dict[datetime, list[Stated]] = {}
    for one in said:
        changed.setdefault(one.block.start_at, []).append(one)
    for start_at, those in standing.items():
        left = [one for one in those if not is_over(_as_read(one.block))]
        if start_at in changed:
            changed[start_at] += left
        elif len(left) < len(those):
            changed[start_at] = left
    standing |= changed
    return changed


def _as_read(block: Block) -> Block:
    return replace(block, phase=Phase.ALL) if block.phase is Phase.UNKNOWN else block
