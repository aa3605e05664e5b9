"""Waiting for conditions instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import pytest

T = TypeVar("T")

_EVERY_S = 0.01


@overload
async def wait_for(
    condition: Callable[[], Awaitable[T]], *, timeout: float = 20.0, what: str = ""
) -> T: ...
@overload
async def wait_for(condition: Callable[[], T], *, timeout: float = 20.0, what: str = "") -> T: ...


async def wait_for(condition: Callable[[], Any], *, timeout: float = 20.0, what: str = "") -> Any:
    """Return what `condition` returns as soon as that is true; fail after `timeout` seconds.

    The condition may be a coroutine function; what it raises is raised here. `what` describes it
    in the failure, else its name and line do.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        if loop.time() > deadline:
            pytest.fail(f"waited {timeout:g} s for {what or _where(condition)}; last: {result!r}")
        await asyncio.sleep(_EVERY_S)


def _where(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    name = getattr(condition, "__qualname__", repr(condition))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name
