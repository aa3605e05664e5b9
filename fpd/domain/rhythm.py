"""When will something that reports regularly have reported again? (reference: devices §1.7)"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median

_REMEMBERED = 8
_LEAST_GAPS = 3
_MARGIN_S = 5.0
_MOST_LATER = 0.15  # of a period: what reports quickly is not waited for long


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """`stamps`: the times of the latest reports, oldest first. `lag_s`: the shortest time after
    which one was seen.
    """

    stamps: tuple[datetime, ...] = ()
    lag_s: float | None = None

    def heard(self, stamp: datetime, *, seen_at: datetime) -> Rhythm:
        """Take up a report; one that was seen before changes nothing."""
        if self.stamps and stamp <= self.stamps[-1]:
            return self
        lag_s = max((seen_at - stamp).total_seconds(), 0.0)
        shortest_s = lag_s if self.lag_s is None else min(self.lag_s, lag_s)
        return replace(self, stamps=(*self.stamps, stamp)[-_REMEMBERED:], lag_s=shortest_s)

    @property
    def period_s(self) -> float | None:
        """The usual time from one report to the next; None while too few are known."""
        gaps = [
            (after - before).total_seconds()
            for before, after in zip(self.stamps, self.stamps[1:], strict=False)
        ]
        return median(gaps) if len(gaps) >= _LEAST_GAPS else None

    def next_in_s(self, *, now: datetime, least_s: float, most_s: float, later_s: float) -> float:
        """Return in how many s to look again: shortly after the report that is expected next.

        `later_s`: what belongs to a report is there so much later. Without a known period, or for
        a report that is late, the least.
        """
        if self.period_s is None or self.lag_s is None:
            return least_s
        age_s = (now - self.stamps[-1]).total_seconds()
        after_s = min(later_s + _MARGIN_S, _MOST_LATER * self.period_s)
        wait_s = self.period_s + self.lag_s + after_s - age_s
        return min(max(wait_s, least_s), most_s)
