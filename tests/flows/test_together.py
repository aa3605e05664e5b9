"""Many ask at once, few trips are made, and each gets his own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from fpd.flows.together import Together


class Library:
    """Answers n with 2 n; refuses 13; falls down at 99. Remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.together = Together("library", self.answer, spawn=self.spawn, most=50)

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        await self.open.wait()
        if 99 in numbers:
            raise RuntimeError("fell down")
        return [ValueError("13") if n == 13 else 2 * n for n in numbers]


async def test_a_lone_question_is_answered_at_once() -> None:
    library = Library()
    assert await library.together.ask(4) == 8
    assert await library.together.ask(5) == 10
    assert library.batches == [[4], [5]]


async def test_those_who_come_meanwhile_go_together() -> None:
    library = Library()
    answers = await asyncio.gather(*(library.together.ask(n) for n in range(120)
                                     if n not in (13, 99)))  # fmt: skip
    assert answers == [2 * n for n in range(120) if n not in (13, 99)]
    assert [len(batch) for batch in library.batches] == [50, 50, 18]


async def test_one_refusal_is_the_refused_one_s_alone() -> None:
    library = Library()
    answers = await asyncio.gather(
        *(library.together.ask(n) for n in (1, 13, 2)), return_exceptions=True
    )
    assert (answers[0], answers[2]) == (2, 4)
    assert isinstance(answers[1], ValueError)


async def test_a_fall_is_told_to_everybody_in_it_and_the_next_are_served() -> None:
    library = Library()
    with pytest.raises(RuntimeError, match="fell down"):
        await library.together.ask(99)
    assert await library.together.ask(1) == 2


async def test_who_leaves_is_not_waited_for() -> None:
    library = Library()
    library.open.clear()
    leaver = asyncio.create_task(library.together.ask(1))
    stayer = asyncio.create_task(library.together.ask(2))
    await asyncio.sleep(0)
    leaver.cancel()
    library.open.set()
    assert await stayer == 4
    with pytest.raises(asyncio.CancelledError):
        await leaver


async def test_at_the_end_nobody_is_left_waiting() -> None:
    library = Library()
    library.open.clear()
    askers = [asyncio.create_task(library.together.ask(n)) for n in range(60)]
    await asyncio.sleep(0.01)
    for task in library.tasks:
        task.cancel()
    outcomes = await asyncio.wait_for(asyncio.gather(*askers, return_exceptions=True), 1)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
