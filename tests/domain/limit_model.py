"""Which limit is in force: a second opinion, small and slow, from the protocol's words alone.

Nothing here is shared with fpd's own domain. Every question is answered by looking at every block
of every message, in fractions. The words (OSCP 2.0 and what a Flexibility Provider makes of it):

- CONSUMPTION limits the import, GENERATION the export; FALLBACK_* replace them while the provider
  is offline; OPTIMUM is a wish within both. Intervals are half-open.
- A newer message replaces older ones exactly where its blocks lie, per sender, type and phase.
  UNKNOWN is read as ALL. Inside one message the smaller counts.
- W, kW; Wh and kWh are spread over their block; ampere × volts to neutral, for ALL the sum.
- A limit of a phase allows the sum as many times that as there are phases (or once, when the
  load is not balanced); it counts beside a limit of the sum.
- No block: the fallback, the static limit, what was last said, or nothing, as agreed.
- Offline without fallback: what was last known. Static limits always count; the tightest does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

SINGLE = ("ONE", "TWO", "THREE")
MOST_W = 10**15
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Block:
    start: datetime
    end: datetime
    capacity: Fraction
    unit: str
    phase: str


@dataclass(frozen=True)
class Message:
    """`order` is that of receipt."""

    order: int
    sender: int
    type: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Agreed:
    volts: Fraction
    phases: int
    static: dict[str, int | None]  # "import", "export"
    gap: str
    optimum: str
    ampere_all: str
    overlap: str
    balanced: bool


@dataclass(frozen=True)
class Answer:
    min_w: int | None
    max_w: int | None
    optimum_w: int | None
    reason: str
    phases: tuple[tuple[str, int | None, int | None], ...]


ORDER = ("fallback", "last-known", "forecast", "gap-fallback", "hold-last", "static", "none")
Limit = tuple[Fraction, dict[str, Fraction]]  # of the sum, of single phases


def in_force(
    messages: Sequence[Message], at: datetime, agreed: Agreed, *, online: bool, wishing: bool = True
) -> Answer:
    senders = sorted({m.sender for m in messages if m.type != "OPTIMUM"})
    found = {}
    for side, type_ in (("import", "CONSUMPTION"), ("export", "GENERATION")):
        limits: list[tuple[int, str]] = []
        phases: dict[str, int] = {}
        for sender in senders:
            own = [m for m in messages if m.sender == sender]
            granted, reason = _of_sender(own, type_, at, agreed, online)
            if granted is not None:
                limits.append((math.floor(granted[0]), reason))
                for phase, watts in granted[1].items():
                    phases[phase] = min(math.floor(watts), phases.get(phase, MOST_W))
        static = agreed.static[side]
        if static is not None:
            limits.append((static, "static"))
        # Of equal limits the reason that is named first counts.
        tightest = min(limits, key=lambda one: (one[0], ORDER.index(one[1])), default=None)
        found[side] = (tightest, phases)
    (most, most_of), (least, least_of) = found["import"], found["export"]
    reasons = [one[1] for one in (most, least) if one is not None]
    max_w = None if most is None else most[0]
    min_w = None if least is None else -least[0]
    return Answer(
        min_w=min_w,
        max_w=max_w,
        optimum_w=_wish(messages, at, agreed, min_w, max_w, senders) if wishing else None,
        reason=next((word for word in ORDER if word in reasons), "none"),
        phases=tuple(
            (p, -least_of[p] if p in least_of else None, most_of.get(p))
            for p in SINGLE
            if p in least_of or p in most_of
        ),
    )


def _of_sender(
    own: Sequence[Message], type_: str, at: datetime, agreed: Agreed, online: bool
) -> tuple[Limit | None, str]:
    normal = _covering(own, type_, at, agreed)
    fallback = _covering(own, "FALLBACK_" + type_, at, agreed)
    if not online:
        if fallback is not None:
            return fallback, "fallback"
        last = _last(own, type_, at, agreed) or _last(own, "FALLBACK_" + type_, at, agreed)
        return last, "last-known"
    if normal is not None:
        return normal, "forecast"
    if agreed.gap == "Fallback":
        return fallback, "gap-fallback"
    if agreed.gap == "HoldLast":
        return _last(own, type_, at, agreed), "hold-last"
    return None, ""


def _last(own: Sequence[Message], type_: str, at: datetime, agreed: Agreed) -> Limit | None:
    """What holds at the instant, or did just before the last block that ended."""
    now = _covering(own, type_, at, agreed)
    if now is not None:
        return now
    ends = [b.end for m in own if m.type == type_ for b in m.blocks if b.end <= at]
    return _covering(own, type_, max(ends) - INSTANT, agreed) if ends else None


def _covering(own: Iterable[Message], type_: str, at: datetime, agreed: Agreed) -> Limit | None:
    on_phase: dict[str, Fraction] = {}
    for phase in ("ALL", *SINGLE):
        said = _on(own, type_, phase, at, agreed)
        if said is not None:
            on_phase[phase] = said
    sums = [on_phase["ALL"]] if "ALL" in on_phase else []
    single = {phase: watts for phase, watts in on_phase.items() if phase != "ALL"}
    if single:
        sums.append(min(single.values()) * (agreed.phases if agreed.balanced else 1))
    return (min(sums), single) if sums else None


def _on(
    own: Iterable[Message], type_: str, phase: str, at: datetime, agreed: Agreed
) -> Fraction | None:
    named = ("ALL", "UNKNOWN") if phase == "ALL" else (phase,)
    by_message = []
    for message in sorted(own, key=lambda m: m.order):
        if message.type == type_:
            here = [
                _watts(b, agreed)
                for b in message.blocks
                if b.phase in named and b.start <= at < b.end
            ]
            if here:
                by_message.append(min(here))
    if not by_message:
        return None
    return min(by_message) if agreed.overlap == "most_restrictive" else by_message[-1]


def _watts(block: Block, agreed: Agreed) -> Fraction:
    if block.unit == "A":
        times = agreed.phases if block.phase == "ALL" and agreed.ampere_all == "per_phase" else 1
        watts = block.capacity * agreed.volts * times
    else:
        watts = block.capacity * (1000 if block.unit.startswith("K") else 1)
        if block.unit.endswith("WH"):
            watts = watts * 3_600_000_000 / Fraction((block.end - block.start) // INSTANT)
    return min(watts, Fraction(MOST_W))


def _wish(
    messages: Sequence[Message],
    at: datetime,
    agreed: Agreed,
    min_w: int | None,
    max_w: int | None,
    senders: Sequence[int],
) -> int | None:
    on_phase = {p: _on(messages, "OPTIMUM", p, at, agreed) for p in ("ALL", *SINGLE)}
    said = {p: watts for p, watts in on_phase.items() if watts is not None}
    if not said:
        return None
    wanted = math.floor(said["ALL"] if "ALL" in said else sum(said.values(), Fraction(0)))
    if agreed.optimum == "Auto":
        limits = [
            limit[0]
            for sender in senders
            if (
                limit := _covering(
                    [m for m in messages if m.sender == sender], "CONSUMPTION", at, agreed
                )
            )
        ]
        imports = bool(limits) and min(limits) > 0
    else:
        imports = agreed.optimum == "Import"
    wanted = wanted if imports else -wanted
    wanted = wanted if max_w is None else min(wanted, max_w)
    return wanted if min_w is None else max(wanted, min_w)
