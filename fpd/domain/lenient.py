"""Reading values from devices that write numbers as text, and texts in any case."""

from __future__ import annotations

import math
from typing import Any

_LARGEST = 2.0**53  # beyond it a float names no particular integer
_MOST_W = 1e6


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
    """Return a whole number given as number or text; None for anything else.

    >>> integer("249"), integer(249.0), integer("7.5"), integer("1e30")
    (249, 249, None, None)
    """
    found = number(value)
    if found is None or not found.is_integer() or abs(found) > _LARGEST:
        return None
    return int(found)


def printable(text: str, most: int) -> str:
    r"""Return the beginning of a text of somebody else as every log and database takes it.

    >>> printable("a\x00b\nc", 4)
    'a?b?'
    """
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def mapping(value: Any) -> dict[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def power(value: object) -> float | None:
    """Return a power in W as `number` does; None for what no device behind a meter has."""
    found = number(value)
    return found if found is not None and abs(found) <= _MOST_W else None
