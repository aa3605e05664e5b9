"""What one link and one group must do, written from OSCP 2.0 and the decisions, not from fpd.

Simple on purpose: instants on a grid of minutes, lists that are searched from the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

GRACE_S = 5
SILENCE_S = 180  # three times the 60 s that we ask for
OVERLAP_S = 60

KNOWN = ("registering", "registered", "online", "offline")


@dataclass(eq=False)
class Token:
    """An inbound token. `value` None: nobody but fpd has seen it; `ends_at` None: no end is set."""

    value: str | None
    ends_at: datetime | None = None


@dataclass
class PeerModel:
    """One peer: its link, what lets it in, and what it holds (`known`, the oldest first)."""

    id: int
    state: str = "provisioned"
    tokens: list[Token] = field(default_factory=list)
    unused: Token | None = None
    minted: Token | None = None
    known: list[str] = field(default_factory=list)
    offline_at: datetime | None = None
    register_id: str | None = None
    returns: int = 0

    def admits(self, value: str, now: datetime) -> bool:
        """Whether the token is good; the first use of the newest ends the others (P1)."""
        good = next((t for t in self._good(now) if t.value == value), None)
        if good is None:
            return False
        if good is self.unused:
            self.tokens, self.unused, good.ends_at = [good], None, None
        return True

    def _good(self, now: datetime) -> list[Token]:
        return [t for t in self.tokens if t.ends_at is None or t.ends_at > now]

    def locked_out(self, now: datetime) -> bool:
        return not any(t.value in self.known for t in self._good(now))

    def registers(self, request_id: str, now: datetime) -> int:
        self.register_id, self.state = request_id, "registering"
        self.minted = Token(None)
        self._offers(self.minted, now)
        return 204

    def _offers(self, token: Token, now: datetime) -> None:
        self.tokens = self._good(now)
        for old in self.tokens:
            old.ends_at = None
        self.tokens.append(token)
        self.unused = token

    def gets(self, value: str, now: datetime) -> None:
        """The operator hands over a new first token."""
        token = Token(value)
        self.known.append(value)
        if self.state in KNOWN:
            self._offers(token, now)
        else:
            self.tokens, self.unused = [token], None

    def sees(self, value: str) -> None:
        """Our Register reached it."""
        if self.minted is not None:
            self.minted.value = value
        if value not in self.known:
            self.known.append(value)

    def answers_register(self, status: int | None, now: datetime) -> None:
        """Its answer to our Register has been heard."""
        if status == 204:
            for token in self._good(now):
                if token not in (self.unused, self.minted) and token.ends_at is None:
                    token.ends_at = now + timedelta(seconds=OVERLAP_S)
            if self.state in ("registering", "failed"):
                self.state = "registered"
        elif status == 403 and self.state == "registering":
            self.state = "failed"

    def puts(self) -> int:
        return self._known("registered")

    def leaves(self) -> int:
        status = self._known("unregistered")
        if status == 204:
            self.tokens, self.unused = [], None
        return status

    def _known(self, then: str) -> int:
        if self.state not in KNOWN:
            return 403
        self.state = then
        return 204

    def shakes(self, now: datetime) -> int:
        if self.state not in KNOWN:
            return 403
        self.opens(now)
        return 204

    def opens(self, now: datetime) -> None:
        self.returns += self.state != "online"
        self.state = "online"
        self.offline_at = now + timedelta(seconds=SILENCE_S + GRACE_S)

    def beats(self, promised_at: datetime, now: datetime) -> int:
        if self.state != "online":
            return 403
        grace = timedelta(seconds=GRACE_S)
        self.offline_at = promised_at + grace if promised_at > now else now
        return 204

    def notices_silence(self, now: datetime) -> None:
        if self.state == "online" and self.offline_at is not None and self.offline_at <= now:
            self.state = "offline"


@dataclass(frozen=True)
class Said:
    """A forecast that was accepted: blocks of (start, end, capacity), minutes and W."""

    type: str
    blocks: tuple[tuple[int, int, int], ...]
    body: bytes

    def at(self, minute: int) -> int | None:
        return next((w for start, end, w in self.blocks if start <= minute < end), None)


@dataclass
class GroupModel:
    """The limits of a group's import; `said` in the order of acceptance."""

    said: list[Said] = field(default_factory=list)

    def _at(self, type: str, minute: int) -> int | None:
        found = (one.at(minute) for one in reversed(self.said) if one.type == type)
        return next((w for w in found if w is not None), None)

    def _last(self, type: str, minute: int) -> int | None:
        first = min((b[0] for one in self.said for b in one.blocks), default=minute)
        found = (self._at(type, at) for at in range(minute, first - 1, -1))
        return next((w for w in found if w is not None), None)

    def limit(self, minute: int, *, online: bool) -> int | None:
        """Online: forecast, else fallback. Offline: fallback, else the last one known."""
        fallback = self._at("FALLBACK_CONSUMPTION", minute)
        if online:
            normal = self._at("CONSUMPTION", minute)
            return fallback if normal is None else normal
        if fallback is not None:
            return fallback
        last = self._last("CONSUMPTION", minute)
        return self._last("FALLBACK_CONSUMPTION", minute) if last is None else last

    def pointless(self, number: int, minute: int) -> bool:
        """Whether newer ones and the time leave nothing of a forecast."""
        one = self.said[number]
        newer = [other for other in self.said[number + 1 :] if other.type == one.type]
        minutes = {m for start, end, _ in one.blocks for m in range(max(start, minute), end)}
        return all(any(other.at(m) is not None for other in newer) for m in minutes)
