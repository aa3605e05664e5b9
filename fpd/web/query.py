"""The question in an address: `?peer=1&since=2026-01-01T00:00:00Z`, checked by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from fpd.errors import Malformed

MOST: Final = 1000
_USUAL: Final = 100
_LARGEST: Final = 2**63 - 1


class Query:
    """The parameters of one request. Each method raises Malformed, naming what is wrong."""

    def __init__(self, given: Mapping[str, str], known: Collection[str]) -> None:
        """Refuse what is not known: a filter that is misspelt would let everything through."""
        for name in given:
            if name not in known:
                raise Malformed(f"query.{name}: expected one of {', '.join(known)}")
        self._given = given

    def text(self, name: str) -> str | None:
        text = self._given.get(name)
        if text is not None and (not text or len(text) > 255 or "\0" in text):
            raise Malformed(f"query.{name}: expected 1 to 255 characters")
        return text

    def number(self, name: str, *, least: int = 1, most: int = _LARGEST) -> int | None:
        text = self._given.get(name)
        if text is None:
            return None
        if text.isascii() and text.isdecimal() and len(text) <= 19 and least <= int(text) <= most:
            return int(text)
        raise Malformed(f"query.{name}: expected a whole number from {least} to {most}")

    def limit(self) -> int:
        """Return how many rows are wanted: `max`."""
        return self.number("max", most=MOST) or _USUAL

    def instant(self, name: str) -> datetime | None:
        """Return an instant; without a zone it is UTC."""
        text = self._given.get(name)
        if text is None:
            return None
        return instant(text, f"query.{name}")

    def one_of(self, name: str, choices: Sequence[str]) -> str | None:
        text = self._given.get(name)
        if text is not None and text not in choices:
            raise Malformed(f"query.{name}: expected one of {', '.join(choices)}")
        return text


def instant(text: str, name: str) -> datetime:
    """Return an RFC 3339 instant; without a zone it is UTC. Raises Malformed."""
    try:
        # In an address a + that is not escaped has become a space.
        at = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Malformed(f"{name}: expected an instant such as 2026-01-31T12:00:00Z") from None
    return at
