"""Platforms: outside systems that know many points at once, read poll by poll.

A poll is a Source as a device is one, except that each of its samples says whose stream it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fpd.adapters.device import Reading, Sample, Source
from fpd.domain.datum import StreamKey


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSample(Sample):
    """A sample of the stream that it names."""

    stream: StreamKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled(Reading):
    """What a poll brought. `again_s`: there is more to fetch, that soon.

    `dispatchable` is whether all of it could be used; if not, `detail` says what could not.
    """

    again_s: float | None = None
    refused: int = 0


class Platform(Protocol):
    """One configured platform: `polls` by what they read, at most `most` of them at once."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def most(self) -> int: ...

    @property
    def polls(self) -> Mapping[str, Source]: ...

    @property
    def backoff_s(self) -> tuple[float, float]:
        """The first and the longest wait after it could not be reached."""
        ...
