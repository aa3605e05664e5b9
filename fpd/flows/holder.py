"""Which process holds a lease: known by a name that tells whether it is still there."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from psycopg import AsyncConnection

from fpd.store import leases

_EVERY_S: Final = 2.0


class Rounds:
    """Sees every now and then who was killed: nobody is to wait for the end of a dead one's lease.

    `steady` tells how much time has passed, s.
    """

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady = steady
        self._made_s: float | None = None

    async def make(self, conn: AsyncConnection, *, now: datetime) -> None:
        """Take back what the dead hold, if it is time."""
        now_s = self._steady()
        if self._made_s is None or now_s - self._made_s >= _EVERY_S:
            self._made_s = now_s
            await leases.take_back(conn, gone=gone, now=now)


def own() -> str:
    """Return the name of this process: host, number, and when it was started."""
    return f"{socket.gethostname()}/{os.getpid()}/{_started(os.getpid())}"


def gone(holder: str) -> bool:
    """Tell whether it was a process of this machine that runs no more; others may run."""
    host, number, started, *_ = [*holder.split("/"), "", "", ""]
    if host != socket.gethostname() or not number.isdigit():
        return False
    return _started(int(number)) != started


def _started(number: int) -> str | None:
    """Return when a process was started, None if there is none; a number may be given anew."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if Path("/proc/self/stat").exists() else _answers(number)
    return text.rpartition(")")[2].split()[19]


def _answers(number: int) -> str | None:
    """The same without /proc, as far as can be told."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "None"
