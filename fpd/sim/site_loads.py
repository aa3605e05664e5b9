"""The loads and the grid meter of a simulated site: watts now, watt hours so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fpd.errors import Misconfigured

# Registers count from here, so that they do not start again when the simulator does.
_INSTALLED_AT = datetime(2024, 1, 1, tzinfo=UTC)
_SWING_PERIOD_S = 900.0


@dataclass(slots=True, kw_only=True)
class Register:
    """A meter that never runs backwards: one counter for each direction."""

    imported_wh: float = 0.0
    exported_wh: float = 0.0
    at: datetime
    watts: float

    def advance(self, at: datetime, watts: float) -> None:
        """Count the energy since the last reading, along a straight line to `watts`."""
        hours = (at - self.at).total_seconds() / 3600
        mean_w = (self.watts + watts) / 2
        if mean_w > 0:
            self.imported_wh += mean_w * hours
        else:
            self.exported_wh -= mean_w * hours
        self.at, self.watts = at, watts


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Something that draws `base_w`, swinging by `swing_w` four times an hour."""

    source_id: str
    base_w: float
    swing_w: float = 0.0

    def watts(self, at: datetime, *, base_w: float | None = None) -> float:
        """Return what it draws; `base_w` replaces its own base."""
        angle = 2 * math.pi * at.timestamp() / _SWING_PERIOD_S
        return (self.base_w if base_w is None else base_w) + self.swing_w * math.sin(angle)

    def register(self, at: datetime) -> Register:
        """Return its register as it stands at `at`."""
        hours = (at - _INSTALLED_AT).total_seconds() / 3600
        return Register(imported_wh=self.base_w * hours, at=at, watts=self.watts(at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Datum:
    """One timed set of readings, as it goes out."""

    created: datetime
    node_id: int
    source_id: str
    instantaneous: dict[str, float]
    accumulating: dict[str, float]
    status: dict[str, str] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        return f"node/{self.node_id}/datum/0/{self.source_id.lstrip('/')}"

    def flat(self) -> dict[str, Any]:
        """Return the flat form: everything in one map."""
        return {
            "created": self._created_ms,
            "nodeId": self.node_id,
            "sourceId": self.source_id,
            **self.instantaneous,
            **self.accumulating,
            **self.status,
        }

    def samples(self) -> dict[str, Any]:
        """Return the form that keeps the kinds apart; the topic alone names the node."""
        return {
            "created": self._created_ms,
            "sourceId": self.source_id,
            "samples": {"i": self.instantaneous, "a": self.accumulating, "s": self.status},
        }

    @property
    def _created_ms(self) -> int:
        return round(self.created.timestamp() * 1000)


def read_load(text: str) -> Load:
    """Read `SOURCE=WATTS` or `SOURCE=WATTS~SWING`."""
    source_id, _, power = text.partition("=")
    base, _, swing = power.partition("~")
    try:
        return Load(source_id=source_id, base_w=float(base), swing_w=float(swing or 0))
    except ValueError as error:
        raise Misconfigured(f"{text} is not SOURCE=WATTS or SOURCE=WATTS~SWING") from error
