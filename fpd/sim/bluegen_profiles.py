"""Weekly power profiles of the BlueGen web service: points, rules, and what they mean in time.

A profile is one week of tick/value pairs; a tick is a quarter of an hour (seed 000, 2.3.2). When
the week begins and what holds between two points is not documented, so both are choices here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal
from zoneinfo import ZoneInfo

from fpd.sim.bluegen_errors import no

TICKS = 672
TICK_S = 900
MINUTES_PER_TICK = 15
_PER_DAY = 96

RampCheck = Literal["off", "plain", "circular"]
WeekAnchor = Literal["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"]
_WEEKDAY: Mapping[str, int] = {
    day: number for number, day in enumerate(("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"))
}


@dataclass(frozen=True, slots=True)
class Point:
    id: int
    tick: int
    power_w: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    id: int
    name: str
    description: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a unit can do: power in W, slew in W per minute."""

    min_w: float = 800.0
    max_w: float = 1500.0
    slew_up_w: float = 133.333
    slew_dn_w: float = 133.333


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """How profiles are read: the day and zone in which tick 0 lies, and the line between points."""

    anchor: WeekAnchor = "MON"
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    semantics: Literal["step", "step_lag", "linear"] = "step"

    def position(self, instant: datetime) -> float:
        """Return the place of `instant` in the week, in ticks (0 <= position < 672)."""
        local = instant.astimezone(self.zone)
        day = (local.weekday() - _WEEKDAY[self.anchor]) % 7
        seconds = local.hour * 3600 + local.minute * 60 + local.second + local.microsecond / 1e6
        return day * _PER_DAY + seconds / TICK_S

    def power_w(self, points: tuple[Point, ...], position: float) -> float:
        """Return what `points` (one at least, in order) ask for at `position`.

        Before its first point the week goes on as it ended.
        """
        index = bisect_right([point.tick for point in points], position) - 1
        before = points[index]
        if self.semantics == "step" or len(points) == 1:
            return before.power_w
        if self.semantics == "step_lag":
            earlier_w = points[index - 1].power_w
            share = min((position - before.tick) % TICKS, 1.0)
            return earlier_w + share * (before.power_w - earlier_w)
        after = points[(index + 1) % len(points)]
        span = (after.tick - before.tick) % TICKS
        share = ((position - before.tick) % TICKS) / span
        return before.power_w + share * (after.power_w - before.power_w)


def read_points(given: Any, next_id: Iterable[int]) -> tuple[Point, ...]:
    """Read the points of a request; refused unless each has a tick of 0..671 and a power."""
    if not isinstance(given, list):
        raise no("Malformed request profile point")
    points = [_read_point(one, point_id) for one, point_id in zip(given, next_id, strict=False)]
    if len({point.tick for point in points}) < len(points):
        raise no("Malformed request profile point")
    return tuple(sorted(points, key=lambda point: point.tick))


def _read_point(given: Any, point_id: int) -> Point:
    try:
        tick, power_w = int(str(given["tick"])), float(str(given["power"]))
    except (KeyError, TypeError, ValueError) as error:
        raise no("Malformed request profile point") from error
    if not 0 <= tick < TICKS:
        raise no("Malformed request profile point range")
    return Point(point_id, tick, power_w)


def refuse_unfit(
    points: tuple[Point, ...], limits: Limits, week: Week, ramp_check: RampCheck
) -> None:
    """Refuse what the unit cannot follow: power out of range, or a step steeper than its slew.

    Interpretation: the ramp is judged from one quarter of an hour to the next, from 671 to 0 too
    when `circular`; the manual only names the error.
    """
    if any(not limits.min_w <= point.power_w <= limits.max_w for point in points):
        raise no("Request out of range")
    if ramp_check == "off" or not points:
        return
    nodes = [week.power_w(points, tick) for tick in range(TICKS)]
    steps = [after - before for before, after in pairwise(nodes)]
    if ramp_check == "circular":
        steps.append(nodes[0] - nodes[-1])
    up_w, dn_w = limits.slew_up_w * MINUTES_PER_TICK, limits.slew_dn_w * MINUTES_PER_TICK
    if any(step > up_w + 1e-6 or -step > dn_w + 1e-6 for step in steps):
        raise no("ShonkyRampRate")


class Profiles:
    """The profiles of one account."""

    def __init__(self, max_count: int) -> None:
        self._profiles: dict[int, Profile] = {}
        self._max_count = max_count
        self._last_id = 365
        self._last_point_id = 39_000

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._profiles.values())

    def get(self, profile_id: str) -> Profile:
        """Return the profile; Refusal when the account has none of that id.

        Interpretation: no documented name fits an unknown profile; the owner's comes nearest.
        """
        profile = self._profiles.get(int(profile_id)) if profile_id.isdigit() else None
        if profile is None:
            raise no("Malformed request profile owner")
        return profile

    def find(self, profile_id: int) -> Profile | None:
        return self._profiles.get(profile_id)

    def read_points(self, given: Any) -> tuple[Point, ...]:
        points = read_points(given, range(self._last_point_id + 1, self._last_point_id + 1 + TICKS))
        self._last_point_id += len(points)
        return points

    def create(self, name: Any, description: Any, points: tuple[Point, ...]) -> Profile:
        self._refuse_name(name)
        if len(self._profiles) >= self._max_count:
            raise no("Max profile count reached")
        self._last_id += 1
        profile = Profile(
            id=self._last_id, name=name, description=str(description or ""), points=points
        )
        return self._keep(profile)

    def rename(self, profile: Profile, name: Any, description: Any) -> Profile:
        if name != profile.name:
            self._refuse_name(name)
        return self._keep(replace(profile, name=name, description=str(description)))

    def replace_points(self, profile: Profile, points: tuple[Point, ...]) -> Profile:
        return self._keep(replace(profile, points=points))

    def delete(self, profile: Profile) -> None:
        del self._profiles[profile.id]

    def _keep(self, profile: Profile) -> Profile:
        self._profiles[profile.id] = profile
        return profile

    def _refuse_name(self, name: Any) -> None:
        if not isinstance(name, str) or not name:
            raise no("Malformed request")
        if any(profile.name == name for profile in self._profiles.values()):
            raise no("Profile exists")


def edited(profile: Profile, point_id: str, given: Any) -> tuple[Point, ...]:
    """Return the points with one edited; 400 when it is not there or nothing would change."""
    wanted = _read_point(given, int(point_id) if point_id.isdigit() else 0)
    found = [point for point in profile.points if point.id == wanted.id]
    others = [point for point in profile.points if point.id != wanted.id]
    if not found or found[0] == wanted or wanted.tick in {point.tick for point in others}:
        raise no("Malformed request profile point")
    return tuple(sorted((*others, wanted), key=lambda point: point.tick))


def without_range(profile: Profile, first: str, last: str) -> tuple[Point, ...]:
    """Return the points without those of tick `first`..`last`, both inclusive."""
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last) < TICKS):
        raise no("Malformed request profile point range")
    return tuple(p for p in profile.points if not int(first) <= p.tick <= int(last))
