"""What a simulator received and sent, in order; of secrets only the last four characters."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

Clock = Callable[[], datetime]

OF_INTEREST = (
    "Authorization",
    "Auth-Token",
    "Content-MD5",
    "Content-Type",
    "Date",
    "Location",
    "Retry-After",
    "X-Correlation-ID",
    "X-Request-ID",
    "X-Segment-Count",
    "X-Segment-Index",
    "XConnectionId",
    "XLang",
)
_SECRET_HEADERS = frozenset({"Authorization", "Auth-Token", "XConnectionId"})
_SECRET_FIELDS = frozenset({"token", "jwt", "password", "connectionId"})
_COALESCE_S = 0.02


class Entry(msgspec.Struct, kw_only=True):
    """One exchange: written when it begins, completed when it is answered.

    `direction` is `in` (somebody called us) or `out` (we called). `status` is the HTTP status,
    None while unanswered or when there was none; `note` then says why (`tarpit`, a connection
    error …). `invalid` lists what the other side did wrong.
    """

    seq: int
    at: datetime
    direction: str
    method: str
    path: str
    headers: dict[str, str]
    status: int | None = None
    body: msgspec.Raw = msgspec.Raw(b"null")
    answer: msgspec.Raw = msgspec.Raw(b"null")
    note: str | None = None
    invalid: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """True once the exchange is over, or will visibly never be."""
        return self.status is not None or self.note is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which entries are wanted; every criterion given must hold. `path` is a part of the path."""

    since: int = 0
    path: str = ""
    direction: str = ""
    method: str = ""
    status: int | None = None
    invalid: bool = False

    def matches(self, entry: Entry) -> bool:
        return (
            entry.seq > self.since
            and self.path in entry.path
            and self.direction in ("", entry.direction)
            and self.method in ("", entry.method)
            and self.status in (None, entry.status)
            and (bool(entry.invalid) or not self.invalid)
        )


class Changes:
    """Wakes whoever waits for a condition each time something changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Return True as soon as `condition()` holds, False when `timeout_s` passed before.

        None waits for ever. Bursts of changes are looked at together.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._event.wait()
                    if not condition():
                        await asyncio.sleep(_COALESCE_S)
        except TimeoutError:
            return condition()
        return True


class Journal:
    """A bounded log: the oldest entries go when there are too many, or too many bytes."""

    def __init__(
        self, clock: Clock, *, max_entries: int = 10_000, max_bytes: int = 64 * 2**20
    ) -> None:
        self._clock = clock
        self._entries: deque[Entry] = deque()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._seq = 0
        self.changes = Changes()

    def begin(
        self,
        direction: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> Entry:
        """Write down that an exchange has begun."""
        self._seq += 1
        entry = Entry(
            seq=self._seq,
            at=self._clock(),
            direction=direction,
            method=method,
            path=path,
            headers=_shown(headers),
            body=presentable(body),
        )
        self._entries.append(entry)
        self._bytes += len(bytes(entry.body))
        self._trim()
        self.changes.notify()
        return entry

    def settle(
        self,
        entry: Entry,
        *,
        status: int | None = None,
        answer: bytes = b"",
        note: str | None = None,
    ) -> None:
        """Complete `entry` with how it ended."""
        entry.status = status
        entry.answer = presentable(answer)
        entry.note = note or entry.note
        self._bytes += len(bytes(entry.answer))
        self._trim()
        self.changes.notify()

    def find(self, wanted: Filter) -> list[Entry]:
        return [entry for entry in self._entries if wanted.matches(entry)]

    async def wait(self, wanted: Filter, *, count: int = 1, timeout_s: float = 10) -> list[Entry]:
        """Return the matching settled entries as soon as there are `count`, else those by then."""

        def settled() -> list[Entry]:
            return [entry for entry in self.find(wanted) if entry.settled]

        await self.changes.until(lambda: len(settled()) >= count, timeout_s)
        return settled()

    def clear(self) -> None:
        """Forget every entry; numbering goes on."""
        self._entries.clear()
        self._bytes = 0

    def _trim(self) -> None:
        while self._entries and (
            len(self._entries) > self._max_entries or self._bytes > self._max_bytes
        ):
            gone = self._entries.popleft()
            self._bytes -= len(bytes(gone.body)) + len(bytes(gone.answer))


def last_four(secret: str) -> str:
    """Show a secret just well enough to tell two apart."""
    return f"…{secret[-4:]}" if len(secret) > 8 else "…"


def iso(instant: datetime | None) -> str | None:
    """Write an instant as RFC 3339 in UTC with milliseconds at most."""
    if instant is None:
        return None
    utc = instant.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds" if utc.microsecond else "seconds").replace(
        "+00:00", "Z"
    )


def presentable(body: bytes) -> msgspec.Raw:
    """Return `body` as JSON for the log: itself if it is JSON, else a string; secrets masked."""
    if not body:
        return msgspec.Raw(b"null")
    try:
        if not any(f'"{name}"'.encode() in body for name in _SECRET_FIELDS):
            return msgspec.json.decode(body, type=msgspec.Raw).copy()
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        value = body.decode("utf-8", "backslashreplace")
    return msgspec.Raw(msgspec.json.encode(_masked(value)))


def _shown(headers: Mapping[str, str]) -> dict[str, str]:
    shown = {}
    for name in OF_INTEREST:
        value = headers.get(name)
        if value is None:
            continue
        scheme, blank, secret = value.rpartition(" ")
        shown[name] = f"{scheme}{blank}{last_four(secret)}" if name in _SECRET_HEADERS else value
    return shown


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: last_four(item)
            if key in _SECRET_FIELDS and isinstance(item, str)
            else _masked(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value
