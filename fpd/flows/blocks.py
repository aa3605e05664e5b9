"""The blocks of a forecast, as its body says them: judged when it comes, read whenever needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

from fpd.domain.forecast import Block, Forecast
from fpd.errors import Malformed, TooLarge
from fpd.oscp import messages
from fpd.store.forecasts import Kept

MOST_BLOCKS = 10_000
_BREATH = 250


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
    return tuple(map(_block, message.forecasted_blocks))


def _block(wire: messages.ForecastedBlock) -> Block:
    return Block(
        start_at=wire.start_time,
        end_at=wire.end_time,
        capacity=Decimal(repr(wire.capacity)),
        unit=wire.unit,
        phase=wire.phase,
    )


async def checked_blocks(wire: Sequence[messages.ForecastedBlock]) -> tuple[Block, ...]:
    """Return the blocks. Raises Malformed when one is empty or two contradict each other.

    Raises TooLarge when they are more than anybody needs; many are judged with pauses, in which
    others are served.

    Interpretation: blocks of one message and phase that overlap are refused; gaps, any order
    and blocks in the past are legal.
    """
    if len(wire) > MOST_BLOCKS:
        raise TooLarge(f"forecasted_blocks: expected at most {MOST_BLOCKS}, got {len(wire)}")
    blocks = []
    for index, block in enumerate(wire):
        if index % _BREATH == _BREATH - 1:
            await asyncio.sleep(0)
        field = f"forecasted_blocks[{index}]"
        messages.plausible(block.start_time, f"{field}.start_time")
        messages.plausible(block.end_time, f"{field}.end_time")
        if block.end_time <= block.start_time:
            raise Malformed(f"{field}.end_time: not after start_time")
        blocks.append(_block(block))
    order = sorted(range(len(blocks)), key=lambda i: (blocks[i].phase, blocks[i].start_at))
    for earlier, later in pairwise(order):
        if (
            blocks[earlier].phase == blocks[later].phase
            and blocks[later].start_at < blocks[earlier].end_at
        ):
            raise Malformed(
                f"forecasted_blocks[{later}]: overlaps forecasted_blocks[{earlier}] on phase "
                f"{blocks[later].phase}"
            )
    return tuple(blocks)
