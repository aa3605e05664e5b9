"""What comes in at a door is judged: whose datum it is, whether it can be meant, how many come.

One batch holds what has been judged until it is committed; what is refused is counted, told once
per source, and kept as an example with the batch that it came in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

import structlog

from fpd.domain import datum as datums
from fpd.domain.datum import StreamKey
from fpd.domain.packed import Packed, instant, is_timely, pack, read_plain
from fpd.errors import Malformed
from fpd.flows.context import Context
from fpd.mqtt import codec
from fpd.store.refusals import MOST, Refusal

log = structlog.get_logger()

_HEAD: Final = 256  # bytes of an example
_LONGEST_TEXT: Final = 300  # characters of a source or a reason
_MOST_STREAMS: Final = 50_000  # whose rate is remembered
_MICROSECOND: Final = timedelta(microseconds=1)


class Refused(Malformed):
    """A datum that is not kept; `outcome` is what it is counted as."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class Batch:
    """What is committed together: datum, the later of one stream and instant, and refusals."""

    def __init__(self, door: str) -> None:
        self.door = door
        self.rows: dict[tuple[StreamKey, int], Packed] = {}
        self.refusals: dict[str, Refusal] = {}
        self.refused: Counter[str] = Counter()  # by outcome
        self._kept: dict[int, int] = {}  # by user

    def keep(self, datum: Packed) -> None:
        user_id = datum.stream.user_id
        self._kept[user_id] = self._kept.get(user_id, 0) + 1
        self.rows[datum[:2]] = datum

    def keep_all(self, readings: Iterable[Packed]) -> None:
        for datum in readings:
            self.keep(datum)

    @property
    def kept(self) -> int:
        """How many are kept, repetitions included."""
        return sum(self._kept.values())

    def refuse(
        self, why: Refused, *, source: str, user_id: int | None, payload: bytes, at: datetime
    ) -> None:
        """Count, and remember as the example of its source."""
        self.refused[why.outcome] += 1
        source = _shown(source)
        known = self.refusals.get(source)
        if known is None and len(self.refusals) >= MOST:
            return
        self.refusals[source] = Refusal(
            door=self.door,
            source=source,
            user_id=user_id,
            outcome=why.outcome,
            reason=_shown(str(why)),
            head=payload[:_HEAD],
            size=len(payload),
            count=known.count + 1 if known else 1,
            first_at=known.first_at if known else at,
            last_at=at,
        )

    def refuse_users(self, strangers: Iterable[int], *, at: datetime) -> None:
        """Refuse what was to be kept of users who do not exist; a second time changes nothing."""
        for user_id in strangers:
            count = self._kept.pop(user_id, 0)
            if not count:
                continue
            why = Refused("unknown_user", "the user has no account")
            self.refuse(why, source=f"user {user_id}", user_id=None, payload=b"", at=at)
            self.refused["unknown_user"] += count - 1

    def refuse_row(self, datum: Packed, reason: str, *, at: datetime) -> None:
        """Refuse what PostgreSQL does not hold."""
        user_id, node_id, source_id = datum.stream
        del self.rows[datum.key]
        self._kept[user_id] -= 1
        self.refuse(
            Refused("unstorable", reason),
            source=f"user/{user_id}/node/{node_id}/datum/0/{source_id}",
            user_id=user_id,
            payload=datum.i or datum.a or datum.s,
            at=at,
        )


def _shown(text: str) -> str:
    """Return a text that every terminal and PostgreSQL can show."""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode()
    return shown[:_LONGEST_TEXT]


class Judge:
    """Judges what comes in at one door."""

    def __init__(self, context: Context) -> None:
        settings = context.config.measurements
        self._rates = Rates(
            rate_s=settings.stream_rate_s, burst=settings.stream_burst, steady=context.steady
        )
        self._retention_us = timedelta(days=settings.retention_days) // _MICROSECOND
        self._told: set[str] = set()

    def read(self, payload: bytes, *, stream: StreamKey, received_us: int) -> Packed:
        """Return the datum that a payload means for a stream. Raises Refused.

        `received_us`: µs since 1970; the time of a datum that names none, so no two have the same.
        """
        self._count(stream)
        datum = None
        if len(payload) <= codec.LONGEST:
            datum = read_plain(payload, stream=stream, received_us=received_us)
        if datum is None:
            try:
                document = codec.decode(payload)
            except Malformed as error:
                raise Refused("malformed", str(error)) from None
            datum = _meant(document, stream, received_us)
        return self._timely(datum, received_us)

    def judged(self, document: object, *, stream: StreamKey, received_us: int) -> Packed:
        """Return the datum that a decoded document means for a stream, as `read` does."""
        self._count(stream)
        return self._timely(_meant(document, stream, received_us), received_us)

    def _count(self, stream: StreamKey) -> None:
        if self._rates.exceeds(stream):
            raise Refused("too_many", f"more than {self._rates.rate_s:g} a second of one stream")

    def _timely(self, datum: Packed, received_us: int) -> Packed:
        if not is_timely(datum, now_us=received_us, retention_us=self._retention_us):
            raise Refused("untimely", f"dated {datum.at}")
        return datum

    def tell(self, batch: Batch) -> None:
        """Log what was refused, the first time of each source."""
        for source, refusal in batch.refusals.items():
            if source not in self._told and len(self._told) < MOST:
                self._told.add(source)
                log.warning(
                    "datum.refused",
                    source=source,
                    outcome=refusal.outcome,
                    reason=refusal.reason,
                )


def _meant(document: object, stream: StreamKey, received_us: int) -> Packed:
    try:
        return pack(datums.read(document, stream=stream, received_at=instant(received_us)))
    except Malformed as error:
        raise Refused("malformed", str(error)) from None


class Rates:
    """How many datum a stream may bring: `burst` at once, `rate_s` a second in the long run.

    The burst is what a source may have saved up while it or we were away. A bucket is filled only
    when it is empty, so after a rest up to twice the burst may come at once.
    """

    def __init__(self, *, rate_s: float, burst: int, steady: Callable[[], float]) -> None:
        self.rate_s = rate_s
        self._burst = float(burst)
        self._steady = steady
        self._levels: dict[StreamKey, list[float]] = {}  # tokens left, filled when (s)

    def exceeds(self, stream: StreamKey) -> bool:
        """Count one datum, and return whether it is one too many."""
        level = self._levels.get(stream)
        if level is None:
            if len(self._levels) >= _MOST_STREAMS:
                del self._levels[next(iter(self._levels))]
            level = self._levels[stream] = [self._burst, self._steady()]
        if level[0] < 1:
            now_s = self._steady()
            level[0] = min(self._burst, level[0] + (now_s - level[1]) * self.rate_s)
            level[1] = now_s
            if level[0] < 1:
                return True
        level[0] -= 1
        return False
