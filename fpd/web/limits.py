"""How often a credential may ask, and an address without one or with a wrong one (decision P14).

A credential is judged before its address is: whoever has a valid one is never kept out by others
who guess from the same address. What is remembered is bounded and lives in this process alone.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from aiohttp import web

from fpd.config import Http
from fpd.errors import Forbidden, TooMany, Unauthenticated

V = TypeVar("V")
Who = TypeVar("Who", bound=Hashable)

_MOST_REMEMBERED = 10_000
_WINDOW_S = 60.0
_IPV6_SITE = 64  # bits; one host has all the addresses below


class _Remembered(OrderedDict[Hashable, V]):
    """At most so many entries; the one that was not written for longest goes first."""

    def keep(self, key: Hashable, value: V) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > _MOST_REMEMBERED:
            self.popitem(last=False)


class _Level(NamedTuple):
    """How much a bucket held at `at_s`."""

    tokens: float
    at_s: float


class Buckets:
    """A token bucket per key: `burst` at once, `rate_s` a second in the long run."""

    def __init__(self, *, rate_s: float, burst: int) -> None:
        self._rate_s = rate_s
        self._burst = float(burst)
        self._levels: _Remembered[_Level] = _Remembered()

    def take(self, key: Hashable, *, now_s: float) -> float:
        """Take one token and return 0, or return after how many seconds there will be one.

        `now_s` is monotonic.
        """
        level = self._levels.get(key, _Level(self._burst, now_s))
        held = min(self._burst, level.tokens + (now_s - level.at_s) * self._rate_s)
        missing = 1 - held
        self._levels.keep(key, _Level(held if missing > 0 else held - 1, now_s))
        return max(missing / self._rate_s, 0.0)


@dataclass(frozen=True, slots=True)
class _Failures:
    """How often an address has failed since `since_s`."""

    count: int
    since_s: float


class Failures:
    """Counts per key: more than `most` in a minute is too often."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._failures: _Remembered[_Failures] = _Remembered()

    def add(self, key: Hashable, *, now_s: float) -> float:
        """Count a failure; return 0, or after how many seconds the next one is counted anew."""
        known = self._failures.get(key)
        if known is None or now_s - known.since_s >= _WINDOW_S:
            known = _Failures(0, now_s)
        if known.count >= self._most:
            return known.since_s + _WINDOW_S - now_s
        self._failures.keep(key, _Failures(known.count + 1, known.since_s))
        return 0.0


class Limits:
    """The limits of every door; `monotonic` tells seconds for durations."""

    def __init__(self, settings: Http, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._requests = Buckets(rate_s=settings.rate_per_token_s, burst=settings.rate_burst)
        self._failures = Failures(most=settings.failed_auth_per_min)
        self._claims = Failures(most=settings.failed_auth_per_min)

    def anonymous(self, request: web.Request) -> None:
        """Count a request that brings no credential, whatever it asks for. Raises TooMany."""
        self._refuse(
            self._requests.take((site(request.remote),), now_s=self._monotonic()),
            "too many requests without a credential from this address: slow down",
        )

    async def authenticated(self, request: web.Request, identity: Awaitable[Who]) -> Who:
        """Return who `identity` says the sender is, unless that is asked too often.

        Raises as `identified` and `known`.
        """
        who = await self.identified(request, identity)
        self.known(who)
        return who

    async def identified(self, request: web.Request, identity: Awaitable[Who]) -> Who:
        """Return who `identity` says the sender is.

        Raises what `identity` raises; TooMany in place of Unauthenticated and Forbidden once the
        sender's address has failed too often, or many addresses with the token that it claims to
        have.
        """
        try:
            return await identity
        except (Forbidden, Unauthenticated) as error:
            self._failed(request, error)
            raise

    def known(self, who: Hashable) -> None:
        """Count a request of a known sender. Raises TooMany when it exceeds its rate."""
        self._refuse(
            self._requests.take(who, now_s=self._monotonic()), "too many requests: slow down"
        )

    def _failed(self, request: web.Request, error: Forbidden | Unauthenticated) -> None:
        """Count a failure; an address that has failed too often makes no token look guessed."""
        now_s = self._monotonic()
        self._refuse(
            self._failures.add(site(request.remote), now_s=now_s),
            "too many failed credentials from this address",
        )
        if isinstance(error, Unauthenticated) and error.claimed is not None:
            self._refuse(
                self._claims.add(error.claimed, now_s=now_s), "too many failed credentials"
            )

    @staticmethod
    def _refuse(wait_s: float, message: str) -> None:
        if wait_s > 0:
            raise TooMany(message, retry_after_s=max(math.ceil(wait_s), 1))


LIMITS = web.AppKey("limits", Limits)


def site(remote: str | None) -> str:
    """Return what stands for an address: itself, or the network of an IPv6 host."""
    try:
        address = ipaddress.ip_address((remote or "").partition("%")[0])
    except ValueError:
        return remote or ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
