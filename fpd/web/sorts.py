"""In which order datum are wanted: `sorts[0].key=created&sorts[0].descending=true`.

Source: SolarQuery API, "Sort query parameters"; as `solarnetwork-api-core` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from fpd.errors import Malformed
from fpd.store.datum_out import Stream
from fpd.store.datum_sorted import Key, Sort

NAMES: Final = ("sorts[0].key", "sorts[0].descending")
KEYS: Final[Mapping[str, Key]] = {"created": "created", "node": "node", "source": "source"}
_NAME: Final = re.compile(r"sorts\[([0-3])\]\.(key|descending)")

T = TypeVar("T")


def is_sort(name: str) -> bool:
    """Return whether a parameter says something of an order."""
    return name.startswith("sorts[")


def read(given: Mapping[str, str]) -> list[Sort]:
    """Return what is compared, the first one first. Raises Malformed."""
    keys: dict[str, Key] = {}
    descending: dict[str, bool] = {}
    for name, value in given.items():
        if not is_sort(name):
            continue
        found = _NAME.fullmatch(name)
        if found is None:
            raise Malformed(f"query.{name}: expected sorts[0].key, sorts[0].descending, … [3]")
        number, what = found.groups()
        if what == "key" and value in KEYS:
            keys[number] = KEYS[value]
        elif what == "descending" and value in ("true", "false"):
            descending[number] = value == "true"
        else:
            choices = KEYS if what == "key" else ("true", "false")
            raise Malformed(f"query.{name}: expected one of {', '.join(choices)}")
    for number in descending.keys() - keys.keys():
        raise Malformed(f"query.sorts[{number}].key: missing")
    return [Sort(keys[number], descending.get(number, False)) for number in sorted(keys)]


def ordered(
    rows: Sequence[T], sorts: Sequence[Sort], of: Callable[[T], tuple[Stream, datetime]]
) -> Sequence[T]:
    """Return rows in order; `of` tells the stream and the time of each."""
    values: dict[Key, Callable[[T], Any]] = {
        "created": lambda row: of(row)[1],
        "node": lambda row: of(row)[0].node_id,
        "source": lambda row: of(row)[0].source_id,
    }
    for sort in reversed(sorts):
        rows = sorted(rows, key=values[sort.key], reverse=sort.descending)
    return rows
