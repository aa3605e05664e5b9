"""The blocks of a forecast, as its body says them: judged when it comes, read whenever needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from operator import attrgetter

from fpd.domain.forecast import Block, Forecast
from fpd.domain.units import Phase
from fpd.errors import Malformed, TooLarge
from fpd.oscp import messages
from fpd.store.forecasts import Kept

MOST_BLOCKS = 10_000
_MANY = 1000
_START = attrgetter("start_time")


def read(kept: Kept) -> Forecast:
    """Return a kept forecast as the domain knows it."""
    return Forecast(
        received_at=kept.received_at,
        type=kept.type,
        blocks=of(kept.body),
        id=kept.id,
        peer_id=kept.peer_id,
    )


def of(body: bytes) -> tuple[Block, ...]:
    """Return the blocks in a body that was accepted."""
    message = messages.decode(body, messages.UpdateGroupCapacityForecast)
    return of_wire(message.forecasted_blocks)


def of_wire(wire: Sequence[messages.ForecastedBlock]) -> tuple[Block, ...]:
    """Return blocks that were accepted."""
    return tuple(map(_block, wire))


def _block(wire: messages.ForecastedBlock) -> Block:
    return Block(
        start_at=wire.start_time,
        end_at=wire.end_time,
        capacity=Decimal(repr(wire.capacity)),
        unit=wire.unit,
        phase=wire.phase,
    )


async def checked_blocks(wire: Sequence[messages.ForecastedBlock]) -> tuple[Block, ...]:
    """Return the blocks. Raises as `judge`."""
    await judge(wire)
    return of_wire(wire)


async def judge(wire: Sequence[messages.ForecastedBlock]) -> None:
    """Raise Malformed when a block is empty or two contradict each other.

    Raises TooLarge when they are more than anybody needs; many are judged beside the event loop.

    Interpretation: blocks of one message and phase that overlap are refused; gaps, any order
    and blocks in the past are legal.
    """
    if len(wire) > MOST_BLOCKS:
        raise TooLarge(f"forecasted_blocks: expected at most {MOST_BLOCKS}, got {len(wire)}")
    if len(wire) > _MANY:
        await asyncio.to_thread(_judge, wire)
    else:
        _judge(wire)


def _judge(wire: Sequence[messages.ForecastedBlock]) -> None:
    in_order = sorted(wire, key=_START)
    ends: dict[Phase, datetime] = {}
    for block in in_order:
        end_at, before = block.end_time, ends.get(block.phase)
        if block.start_time >= end_at or (before is not None and block.start_time < before):
            _complain(wire)
        ends[block.phase] = end_at
    if ends and not messages.plausible_span(in_order[0].start_time, max(ends.values())):
        _complain(wire)


def _complain(wire: Sequence[messages.ForecastedBlock]) -> None:
    """Name the block that is wrong."""
    for index, block in enumerate(wire):
        field = f"forecasted_blocks[{index}]"
        messages.plausible(block.start_time, f"{field}.start_time")
        messages.plausible(block.end_time, f"{field}.end_time")
        if block.end_time <= block.start_time:
            raise Malformed(f"{field}.end_time: not after start_time")
    order = sorted(range(len(wire)), key=lambda i: (wire[i].phase, wire[i].start_time))
    for earlier, later in pairwise(order):
        if (
            wire[earlier].phase == wire[later].phase
            and wire[later].start_time < wire[earlier].end_time
        ):
            raise Malformed(
                f"forecasted_blocks[{later}]: overlaps forecasted_blocks[{earlier}] on phase "
                f"{wire[later].phase}"
            )
