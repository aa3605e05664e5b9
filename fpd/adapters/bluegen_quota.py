"""The day's requests of one account: counted, and kept for what matters (reference: devices §1.10).

Commands come first. Telemetry is read half as often once most of the day's quota is used, and not
at all once what is left is needed for commands and for a login each hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from fpd.adapters.device import Unreachable

_STRETCH_FROM, _TELEMETRY_UNTIL = 0.8, 0.95
_FOR_A_UNIT = 20  # requests: two changes of its profile
_LEARNED_SHARE = 0.9
_TRIES_FOR, _QUICK_TRIES, _TRIES_APART = timedelta(hours=1), 10, timedelta(minutes=6)


class Quota:
    """`units`: those of the account that are ours to drive. `reset_hour` (UTC): when the quota is
    renewed.
    """

    def __init__(
        self, clock: Callable[[], datetime], *, configured: int | None, reset_hour: int
    ) -> None:
        self.requests = 0
        self.learned: int | None = None
        self.units: set[int] = set()
        self._clock = clock
        self._configured = configured
        self._reset = timedelta(hours=reset_hour)
        self._day = ""

    @property
    def granted(self) -> int | None:
        """The quota as configured, else 90 % of what was learned when it was used up."""
        if self._configured is not None or self.learned is None:
            return self._configured
        return max(int(self.learned * _LEARNED_SHARE), 1)

    @property
    def day(self) -> str:
        """The day that `requests` counts, from one renewal to the next."""
        return self.day_of(self._clock())

    def day_of(self, at: datetime) -> str:
        return (at.astimezone(UTC) - self._reset).date().isoformat()

    def count(self, total: int | None) -> None:
        """Count one more; `total`: what all processes have counted together, if that is known."""
        self._roll()
        self.requests = self.requests + 1 if total is None else max(total, self.requests + 1)

    def recall(self, day: str, requests: int) -> None:
        """Go on counting where an earlier run of the same day stopped."""
        self._roll()
        if day == self.day:
            self.requests = max(self.requests, requests)

    def used_up(self) -> None:
        """The service grants no more today: learn what that was."""
        if self.requests > 1:
            self.learned = self.requests - 1

    @property
    def stretched(self) -> bool:
        """Whether telemetry is to be read half as often."""
        self._roll()
        granted = self.granted
        return granted is not None and (
            self.requests >= _STRETCH_FROM * granted or not self.telemetry
        )

    @property
    def telemetry(self) -> bool:
        """Whether there is any left for telemetry."""
        self._roll()
        granted = self.granted
        return granted is None or self.requests < granted - self._reserve(granted)

    def until_renewed_s(self) -> float:
        now = self._clock().astimezone(UTC)
        begun = (now - self._reset).replace(hour=0, minute=0, second=0, microsecond=0)
        return (begun + self._reset + timedelta(days=1) - now).total_seconds()

    def _reserve(self, granted: int) -> float:
        """Return what is kept for commands and logins: never more than half."""
        logins = self.until_renewed_s() / 3600
        wanted = max(
            (1 - _TELEMETRY_UNTIL) * granted, _FOR_A_UNIT * max(len(self.units), 1) + logins
        )
        return min(wanted, granted / 2)

    def _roll(self) -> None:
        if self.day != self._day:
            self._day, self.requests = self.day, 0


class Tries:
    """Failed requests of an account: at most 20 an hour for each of its units.

    The first ten of an hour come as quickly as the backoff of whoever tries says, the others six
    minutes apart, so that what is mended is found out soon.
    """

    def __init__(self, clock: Callable[[], datetime], quota: Quota) -> None:
        self._clock = clock
        self._quota = quota
        self._failed_at: deque[datetime] = deque()
        self._failing = False

    def failed(self) -> None:
        self._failed_at.append(self._clock())
        self._failing = True

    def succeeded(self) -> None:
        """What comes next is no try of what has failed."""
        self._failing = False

    def check(self) -> None:
        """Raise Unreachable if the next try is not due yet."""
        now, units = self._clock(), max(len(self._quota.units), 1)
        while self._failed_at and not timedelta(0) <= now - self._failed_at[0] < _TRIES_FOR:
            self._failed_at.popleft()
        if not self._failing or len(self._failed_at) < _QUICK_TRIES * units:
            return
        wait = self._failed_at[-1] + _TRIES_APART / units - now
        if wait > timedelta(0):
            raise Unreachable(
                f"{len(self._failed_at)} requests have failed within an hour",
                retry_s=wait.total_seconds(),
            )
