"""What a platform is told of: values of ours, from where it was told last.

The flow that owns the database brings them; an adapter only passes them on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol

Subject = Literal["datum", "import-limit", "export-limit", "setpoint", "forecast"]


class Topic(Protocol):
    """What somebody wants to hear of."""

    @property
    def of(self) -> Subject: ...
    @property
    def user_id(self) -> int: ...
    @property
    def group(self) -> str | None: ...
    @property
    def device(self) -> str | None: ...
    @property
    def node_id(self) -> int | None: ...
    @property
    def source_id(self) -> str | None: ...
    @property
    def property_name(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Item:
    """A value from `at` on; None: there is none, such as no limit. W, or as the datum has it."""

    at: datetime
    value: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What is new after a cursor, oldest first, and the cursor after it. `more`: not all of it.

    `trouble`: why there can be nothing, such as a group that does not exist.
    """

    items: tuple[Item, ...]
    cursor: Mapping[str, Any]
    more: bool = False
    trouble: str | None = None


class Newsroom(Protocol):
    """Brings what is new of a topic after `cursor`; an empty one: the newest alone."""

    async def __call__(self, topic: Topic, cursor: Mapping[str, Any]) -> News: ...
