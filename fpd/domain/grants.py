"""What a message grants the sum of a group, and single phases beside it.

A limit on ONE, TWO or THREE binds the sum, and whatever loads that phase (OSCP 2.0, phases): it
is kept as what it is, for devices of which the phases are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal
from typing import Final

from fpd.domain.units import SINGLE_PHASES, Phase, floor_w


@dataclass(frozen=True, slots=True)
class OnPhase:
    """What one message grants on one phase, in W, unrounded."""

    phase: Phase
    watts: Decimal
    forecast_id: int


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """So many watts, and whose message gave them; `phases`: what single phases are granted."""

    watts: Decimal
    forecast_id: int
    phases: tuple[OnPhase, ...] = field(default=(), compare=False)


_DIGITS: Final = Context(prec=20)


def whole(watts: Decimal) -> Decimal:
    """Return a sum or product of watts without the last digits, which division has left unsure.

    100 kWh in three hours on each of three phases are 100 kW, and not a watt less.
    """
    return _DIGITS.plus(watts)


def limit_of_sum(by_phase: Mapping[Phase, Grant], *, carrying: int) -> Grant | None:
    """Return the limit of the group's sum that limits of the sum and of single phases make.

    `carrying`: how many times the limit of a single phase the sum may be.
    """
    limits = [by_phase[Phase.ALL]] if Phase.ALL in by_phase else []
    single = {phase: by_phase[phase] for phase in SINGLE_PHASES if phase in by_phase}
    if not single:
        return min(limits, default=None)
    tightest = min(single.values())
    limits.append(replace(tightest, watts=whole(tightest.watts * carrying)))
    phases = (OnPhase(phase, grant.watts, grant.forecast_id) for phase, grant in single.items())
    return replace(min(limits), phases=tuple(phases))


@dataclass(frozen=True, slots=True)
class PhaseLimit:
    """What may flow on one phase, W, into the group positive; None: no limit of its own."""

    phase: Phase
    min_w: int | None
    max_w: int | None


def phase_limits(imports: Iterable[OnPhase], exports: Iterable[OnPhase]) -> tuple[PhaseLimit, ...]:
    """Return the tightest limits of each phase that has any, ONE first.

    Imports of 2300 W and 1800 W on ONE and an export of 0 W on TWO: ONE up to 1800 W, TWO from 0.
    """
    most, least = _tightest(imports), _tightest(exports)
    return tuple(
        PhaseLimit(phase, -least[phase] if phase in least else None, most.get(phase))
        for phase in SINGLE_PHASES
        if phase in most or phase in least
    )


def _tightest(grants: Iterable[OnPhase]) -> dict[Phase, int]:
    found: dict[Phase, int] = {}
    for grant in grants:
        found[grant.phase] = min(floor_w(grant.watts), found.get(grant.phase, floor_w(grant.watts)))
    return found
