"""Which process holds a lease: known by a name that tells whether it is still there."""

from __future__ import annotations

import os
import socket
from pathlib import Path


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
