"""What batteries answer, as a reading or a fault (reference: devices §2.1, §2.2)."""

from __future__ import annotations

from fpd.adapters.device import Unreachable
from fpd.adapters.http import Reply
from fpd.domain import battery_answers
from fpd.domain.battery_answers import Status
from fpd.errors import Malformed

__all__ = ["Status", "return_code", "status"]


def status(reply: Reply) -> Status:
    """Read a status. Raises Unreachable if it is not one, or lacks what control needs."""
    if not reply.ok:
        raise Unreachable(f"HTTP {reply.status} to the status")
    try:
        return battery_answers.status(reply.json())
    except Malformed as error:
        raise Unreachable(str(error)) from None


def return_code(reply: Reply) -> int | None:
    """Return the return code of a v1 write; None when the answer holds none."""
    return battery_answers.return_code(reply.text)
