"""Which of Reengen's rows become which properties of which streams. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from fpd.adapters.platform import StreamSample
from fpd.adapters.reengen_parse import Measured, Raw
from fpd.adapters.reengen_zone import in_time, read
from fpd.config_reengen import ReengenStream
from fpd.domain import reengen_units as units
from fpd.domain.datum import StreamKey

_NEVER = datetime.max.replace(tzinfo=UTC)


class Row:
    """One row of the configuration, and what it takes."""

    def __init__(self, config: ReengenStream) -> None:
        self.config = config
        self.stream = StreamKey(*config.key)
        self.name = config.property_name or units.property_of(
            config.definition, config.variant, config.index
        )
        counts = units.is_register(config.definition) and config.function is None
        self.by_register = config.column == "original" if config.column else counts
        self.is_register = self.by_register and counts
        self.key = f"{config.definition}/{config.variant}/{config.index}"

    def takes(self, row: Raw) -> bool:
        """Tell whether a row is of this measurement. One without an index is the only one."""
        wanted = self.config
        return (row.definition, row.variant) == (wanted.definition, wanted.variant) and (
            row.index is None or row.index == wanted.index
        )

    def value(self, row: Raw) -> Decimal | None:
        return row.original if self.by_register else row.value


@dataclass(slots=True)
class Taken:
    """What a poll has found: values by stream and instant, and what could not be used.

    `ahead`: the latest row that has not happened yet, so that it cannot be used either.
    """

    values: dict[tuple[StreamKey, datetime], dict[str, tuple[bool, Decimal]]] = field(
        default_factory=dict
    )
    newest: dict[str, datetime] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)
    ahead: datetime | None = None
    resets: list[tuple[str, datetime, Decimal, Decimal]] = field(default_factory=list)
    refused: int = 0

    def keep(self, row: Row, at: datetime, value: Decimal) -> None:
        self.values.setdefault((row.stream, at), {})[row.name] = (row.is_register, value)

    def samples(self) -> tuple[StreamSample, ...]:
        """Return one sample for each stream and instant, oldest first."""
        return tuple(
            StreamSample(
                stream=stream,
                at=at,
                instantaneous={n: value for n, (counts, value) in found.items() if not counts},
                accumulating={n: value for n, (counts, value) in found.items() if counts},
            )
            for (stream, at), found in sorted(self.values.items(), key=lambda pair: pair[0][1])
        )


def taken(
    rows: Sequence[Row], found: Iterable[Raw], tz: ZoneInfo, *, until: datetime = _NEVER
) -> Taken:
    """Sort raw rows out. A null is a gap; an unknown unit makes the measurement unfit."""
    result = Taken()
    listed = list(found)
    for row in rows:
        mine = [each for each in listed if row.takes(each)]
        before: Decimal | None = None
        for at, each in in_time(mine, tz):
            if at > until:
                result.ahead = max(at, result.ahead or at)
                break
            result.newest[row.key] = at
            said = row.value(each)
            scale = units.factor(each.unit, row.config.unit)
            if scale is None:
                result.unfit[row.key] = _unfit(each.unit, row.config.unit)
                continue
            if said is None:
                result.refused += 1
                continue
            value = said * scale
            if row.is_register and before is not None and value < before:
                result.resets.append((row.key, at, before, value))
            before = value
            result.keep(row, at, value)
        if row.by_register and mine and all(each.original is None for each in mine):
            result.unfit.setdefault(row.key, 'it has no register: configure column = "value"')
    return result


def _unfit(code: str | None, wanted: str | None) -> str:
    if code is None:
        return "the platform names no unit: configure `unit`"
    return f"its unit is {code!r}, which is " + ("not known" if wanted is None else f"not {wanted}")


def aggregated(
    rows: Sequence[Row],
    found: Sequence[Sequence[Measured]],
    *,
    tz: ZoneInfo,
    until: datetime,
) -> Taken:
    """Sort aggregates out, dated at the start of their bucket, of those that began by `until`.

    A bucket that comes again is that of the hour that there is twice.
    """
    result = Taken()
    for row, measured in zip(rows, found, strict=True):
        dates: set[str] = set()
        for each in measured:
            at = read(each.date, tz, fold=int(each.date in dates))
            dates.add(each.date)
            if at is None or at > until:
                continue
            if each.value is None:
                result.refused += 1
                continue
            result.newest[row.key] = max(at, result.newest.get(row.key, at))
            result.keep(row, at, each.value)
    return result
