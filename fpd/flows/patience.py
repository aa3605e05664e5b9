"""How old a measurement may be before control no longer goes by it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from fpd.config import Config
from fpd.store.control import Property

_LEAST_S: Final = 60.0
_POLLS: Final = 3


def usual(config: Config) -> timedelta:
    """Return it for what comes by itself."""
    return timedelta(seconds=max(_LEAST_S, 3 * config.control.interval_s))


def patience(config: Config, properties: Iterable[Property]) -> timedelta:
    """Return it for what these measure together: some polls of the platform that brings one.

    A platform acquires about as often as it is polled, so what is read is up to a period old, and
    another one older before it is read again.
    """
    wanted = {(one.user_id, one.node_id, one.source_id) for one in properties}
    polled = [
        timedelta(seconds=_POLLS * platform.poll_s)
        for platform in config.platforms
        if any(row.key in wanted for row in platform.stream)
    ]
    return max([usual(config), *polled])
