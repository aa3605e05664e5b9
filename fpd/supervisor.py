"""What systemd is asked: whether it is going to start us again right after this end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping

_WITHIN_S = 3.0


async def restarts(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether systemd ends the service only to start it anew (`systemctl restart`).

    The unit file tells us its name (`Environment=FPD_UNIT=%n`). False when in doubt: whoever is
    started again after a failure is not known to come back.
    """
    unit = environ.get("FPD_UNIT")
    if not unit:
        return False
    try:
        asked = await asyncio.create_subprocess_exec(
            *("systemctl", "--no-pager", "--no-legend", "--plain", "--full", "list-jobs", unit),
            stdout=PIPE,
            stderr=DEVNULL,
        )
    except OSError:
        return False
    try:
        async with asyncio.timeout(_WITHIN_S):
            said, _ = await asked.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            asked.kill()
        await asked.wait()
        return False
    jobs = [line.split() for line in said.decode(errors="replace").splitlines()]
    return any(job[1:3] == [unit, "restart"] for job in jobs)
