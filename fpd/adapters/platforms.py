"""Configured platforms behind one shape. A new type is one module and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fpd.adapters import myems_platform, reengen_platform
from fpd.adapters.device import Wiring
from fpd.adapters.platform import Platform
from fpd.config import AnyPlatform

_FACTORIES: dict[str, Callable[[Any, Wiring], Platform]] = {
    "myems": myems_platform.Platform,
    "reengen": reengen_platform.Platform,
}


def build(platforms: Iterable[AnyPlatform], wiring: Wiring) -> dict[str, Platform]:
    """Return the adapter of each configured platform by its name. Raises Misconfigured."""
    return {one.name: _FACTORIES[one.type](one, wiring) for one in platforms}
