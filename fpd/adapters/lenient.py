"""Reading values from devices that write numbers as text, and texts in any case."""

from __future__ import annotations

import math
from typing import Any


def number(value: object) -> float | None:
    """Return a finite number given as number or text; None for anything else.

    >>> number("1493.599976"), number(7), number("-"), number("1e999"), number(True)
    (1493.599976, 7.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def integer(value: object) -> int | None:
    """Return a whole number given as number or text; None for anything else."""
    found = number(value)
    return int(found) if found is not None and found.is_integer() else None


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}
