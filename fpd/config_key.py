"""How a key of the configuration is declared, and what several must keep together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def key(default: Any, why: str, **rules: Any) -> Any:
    """Declare one key: its default, one line of why, and the rules its value must keep.

    Rules: `minimum`, `maximum` (inclusive); `secret` (may also be given as `<key>_file`, never
    shown); `schemes` (a URL that starts with one of them); `form` (a name in
    `fpd.config_values`); `blank` (the empty text is allowed); `readable` (a file that must be
    there); `example` (what config.example.toml shows where there is no default); `instead` (shown
    there as one that stands in for those before it).
    """
    return field(default=default, repr="secret" not in rules, metadata={"why": why, **rules})


def required(why: str, **rules: Any) -> Any:
    """Declare a key without a default."""
    return field(repr="secret" not in rules, metadata={"why": why, **rules})


@dataclass(frozen=True, slots=True)
class Together:
    """What several keys of one table must keep together, once each is right by itself.

    `hold` is given the table's values by key, defaults included.
    """

    keys: frozenset[str]
    expected: str
    hold: Callable[[Mapping[str, Any]], bool]


def both(first: str, second: str) -> Together:
    """Return the rule that two keys are given together or not at all."""
    return Together(
        frozenset({first, second}),
        f"{first} and {second} together",
        lambda table: (table[first] is None) == (table[second] is None),
    )
