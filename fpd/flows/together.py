"""Concurrent requests that share one trip to the database, and one commit.

Nobody waits for company: who comes first goes at once, and those who come while that is under
way go together next. So a lone request is as fast as ever, and many share the costs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from fpd.flows.context import Spawn

Q = TypeVar("Q")
A = TypeVar("A")

Answers = Sequence[A | BaseException]


class Together(Generic[Q, A]):
    """Collects questions and has `answer` answer them in batches, one batch at a time.

    `answer` returns as many answers as it got questions, in their order; an exception in the
    place of an answer is raised to the one who asked, one that it raises itself to all.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Sequence[Q]], Awaitable[Answers[A]]],
        *,
        spawn: Spawn,
        most: int = 128,
    ) -> None:
        self._name = name
        self._answer = answer
        self._spawn = spawn
        self._most = most
        self._serving = False
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()

    async def ask(self, question: Q) -> A:
        """Return the answer. Raises what `answer` says."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if not self._serving:
            self._serving = True
            self._spawn(self._serve(), name=self._name)
        return await future

    async def _serve(self) -> None:
        try:
            while self._waiting:
                batch = [
                    self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))
                ]
                await self._settle(batch)
        finally:
            self._serving = False
            # Cut off in the middle: whoever still waits would wait for ever.
            while self._waiting:
                self._waiting.popleft()[1].cancel()

    async def _settle(self, batch: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        work = self._answer([question for question, _ in batch])
        try:
            said = await asyncio.gather(work, return_exceptions=True)
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        # What went wrong is met by each caller in his own request, where it is told or logged.
        for (_, future), answer in zip(batch, _each(said[0], len(batch)), strict=True):
            if future.done():  # the request was cancelled while we worked for it
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _each(outcome: Answers[A] | BaseException, count: int) -> Answers[A]:
    """Return everybody's answer; a fall is everybody's."""
    if isinstance(outcome, BaseException):
        return [outcome] * count
    return outcome
