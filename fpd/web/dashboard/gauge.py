"""The picture of a group: what it may do, what it does and what is wanted, on one axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from fpd.store.overview import Envelope

WIDTH = 400.0
_MARGIN = 12.0
_LABEL = 70.0  # about the width of one number


@dataclass(frozen=True, slots=True)
class Label:
    """A number under the axis; `anchor` keeps it inside the picture."""

    x: float
    watts: int
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """Horizontal positions, export to the left and import to the right; None: not known.

    `band` is what the envelope allows; it reaches the picture's edge where there is no limit.
    """

    band: tuple[float, float]
    limits: tuple[float, ...]
    labels: tuple[Label, ...]
    zero: float
    measured: float | None
    optimum: float | None


def gauge(envelope: Envelope | None, power_w: Decimal | None) -> Gauge | None:
    """Lay out a group's picture, None when there is nothing to show."""
    min_w, max_w, optimum_w = (
        (envelope.min_w, envelope.max_w, envelope.optimum_w) if envelope else (None, None, None)
    )
    given = [float(w) for w in (min_w, max_w, optimum_w, power_w) if w is not None]
    if not given:
        return None
    x = _scale(given)
    limits = [w for w in (max_w, min_w) if w is not None]
    return Gauge(
        band=(0.0 if min_w is None else x(min_w), WIDTH if max_w is None else x(max_w)),
        limits=tuple(x(w) for w in limits),
        labels=_labels([*limits, 0], x),
        zero=x(0),
        measured=None if power_w is None else x(power_w),
        optimum=None if optimum_w is None else x(optimum_w),
    )


def _scale(given: Sequence[float]) -> Callable[[float | Decimal], float]:
    """Return what places watts so that all of `given` and 0 are inside the picture."""
    low_w, high_w = min(0.0, *given), max(0.0, *given)
    spread_w = (high_w - low_w) or 1000.0
    low_w -= 0.09 * spread_w
    per_w = (WIDTH - 2 * _MARGIN) / (1.18 * spread_w)
    return lambda watts: round(_MARGIN + (float(watts) - low_w) * per_w, 1)


def _labels(watts: Sequence[int], x: Callable[[float | Decimal], float]) -> tuple[Label, ...]:
    """Return labels for the values that have room, those named first before others."""
    labels: list[Label] = []
    for value in watts:
        at = x(value)
        if all(abs(at - label.x) >= _LABEL for label in labels):
            near_left, near_right = at < _LABEL / 2, at > WIDTH - _LABEL / 2
            anchor = "start" if near_left else "end" if near_right else "middle"
            labels.append(Label(at, value, anchor))
    return tuple(labels)
