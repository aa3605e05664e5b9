"""Limits of single phases, for devices that are connected to some of them only.

The envelope has what they mean for the sum of the group (three times the tightest, as if all that
is steered lay equally on the phases). A device on one phase may break that phase's limit long
before, so its own reach ends there.

Interpretation: what is not steered lies equally on the phases, since nobody measures them one by
one; and devices that share a phase share what room it has equally.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from fpd.domain.forecast import Forecast, Spread, Terms, envelope_at
from fpd.domain.units import SINGLE_PHASES, Phase, floor_w


@dataclass(frozen=True, slots=True)
class PhaseLimit:
    """What one phase may carry, W ≥ 0, until `end_at`; None: no limit, no end known."""

    import_w: int | None
    export_w: int | None
    end_at: datetime | None


def phase_limits(
    messages: Sequence[Forecast], *, at: datetime, provider_online: bool, terms: Terms
) -> dict[Phase, PhaseLimit]:
    """Return what is in force for each single phase that a message speaks of."""
    alone = replace(terms, static_import_w=None, static_export_w=None, spread=Spread.SINGLE)
    found = {}
    for phase in SINGLE_PHASES:
        own = [
            replace(message, blocks=blocks)
            for message in messages
            if (blocks := tuple(block for block in message.blocks if block.phase is phase))
        ]
        if own:
            held = envelope_at(own, at=at, provider_online=provider_online, terms=alone)
            export_w = None if held.min_w is None else -held.min_w
            found[phase] = PhaseLimit(held.max_w, export_w, held.end_at)
    return found


def limits_of_sum(
    messages: Sequence[Forecast], *, at: datetime, provider_online: bool, terms: Terms
) -> tuple[int | None, int | None]:
    """Return the least and the most (W, import +) of the sum, whatever single phases may."""
    others = [
        replace(message, blocks=blocks)
        for message in messages
        if (blocks := tuple(block for block in message.blocks if block.phase not in SINGLE_PHASES))
    ]
    held = envelope_at(others, at=at, provider_online=provider_online, terms=terms)
    return held.min_w, held.max_w


def room(
    phases: Sequence[Phase],
    limits: Mapping[Phase, PhaseLimit],
    *,
    load_w: Decimal,
    of_phases: int,
    sharing: Mapping[Phase, int],
) -> tuple[int | None, int | None]:
    """Return the least and the most (W, discharge positive) that a device on `phases` may do.

    `load_w` lies on `of_phases`; `sharing` says how many devices use each phase. 10 A at 230 V on
    ONE and no load: a battery there charges at most 2300 W, and one on TWO what it can.
    """
    each_w = load_w / of_phases
    takes, gives = [], []
    for phase in phases:
        limit, by = limits.get(phase), max(sharing.get(phase, 1), 1)
        if limit is None:
            continue
        if limit.import_w is not None:
            takes.append(max(limit.import_w - each_w, Decimal(0)) * len(phases) / by)
        if limit.export_w is not None:
            gives.append(max(limit.export_w + each_w, Decimal(0)) * len(phases) / by)
    return -floor_w(min(takes)) if takes else None, floor_w(min(gives)) if gives else None


def sharing(connected: Iterable[Sequence[Phase]]) -> dict[Phase, int]:
    """Count the devices on each phase."""
    count: dict[Phase, int] = {}
    for phases in connected:
        for phase in phases:
            count[phase] = count.get(phase, 0) + 1
    return count
