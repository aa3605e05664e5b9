"""Which of a poll's values become which properties of which streams. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from fpd.adapters.myems_units import Class, meaning
from fpd.adapters.platform import StreamSample
from fpd.config_myems import PlatformStream
from fpd.domain.datum import StreamKey


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a row of the configuration, meant for a stream."""

    stream: StreamKey
    kind: Class
    name: str
    value: Decimal


class Unfit(Exception):
    """A row of the configuration does not fit what the server has; says why."""


class Row:
    """A row of the configuration, once its unit is known."""

    def __init__(self, config: PlatformStream, unit: str | None, *, kind: Class | None = None):
        """`unit` as the server writes it, None if it does not say. Raises Unfit.

        `kind`: the class where neither the configuration says one nor the unit is to.
        """
        if config.unit is not None and unit is not None and unit != config.unit:
            raise Unfit(f"its unit is {unit!r} now, configured is {config.unit!r}")
        known = meaning(unit if unit is not None else config.unit)
        name = config.property_name or (known.name if known else None)
        by_unit = kind or (known.kind if known else None)
        found = config.property_class or by_unit
        multiplier: Decimal | None = known.multiplier if known else None
        if config.multiplier is not None:
            multiplier = Decimal(str(config.multiplier))
        elif known is None and found == "s":
            multiplier = Decimal(1)
        if name is None or found is None or multiplier is None:
            raise Unfit(
                f"unit {unit or config.unit!r} is not known: give property, class and multiplier"
            )
        self.stream = StreamKey(*config.key)
        self._kind, self._name, self._multiplier = found, name, multiplier
        self._low, self._high = config.low, config.high

    def read(self, value: Decimal) -> Value | None:
        """Return what a value means, None when it is outside its limits."""
        if self._low is not None and value < Decimal(str(self._low)):
            return None
        if self._high is not None and value > Decimal(str(self._high)):
            return None
        return Value(self.stream, self._kind, self._name, value * self._multiplier)


def samples(found: Mapping[datetime, Iterable[Value]]) -> tuple[StreamSample, ...]:
    """Merge the values of one stream and instant, oldest first."""
    merged: dict[tuple[datetime, StreamKey], list[Value]] = {}
    for at, values in sorted(found.items(), key=lambda one: one[0]):
        for value in values:
            merged.setdefault((at, value.stream), []).append(value)
    return tuple(_sample(at, stream, values) for (at, stream), values in merged.items())


def _sample(at: datetime, stream: StreamKey, values: Iterable[Value]) -> StreamSample:
    return StreamSample(
        stream=stream,
        at=at,
        instantaneous={v.name: v.value for v in values if v.kind == "i"},
        accumulating={v.name: v.value for v in values if v.kind == "a"},
        status={v.name: f"{v.value.normalize():f}" for v in values if v.kind == "s"},
    )
