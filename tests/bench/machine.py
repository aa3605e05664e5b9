"""What a process has taken of the machine."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """Return its seconds of CPU so far."""
    fields = _fields(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mb(pid: int) -> float:
    """Return what is resident of it."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def family_cpu_s(pid: int) -> float:
    """Return the seconds of it and of all that it has forked, gone or not."""
    gone = sum(map(int, _fields(pid)[13:15])) / _TICKS
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return gone + cpu_s(pid) + sum(cpu_s(int(child)) for child in children)
