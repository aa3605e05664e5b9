"""What an operator should know first, worst first: derived from a status, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from fpd.domain.compliance import SAID, Cause
from fpd.store.overview import Debts, Device, Group, Overview, Peer
from fpd.store.platforms import Standing
from fpd.store.troubles import Trouble
from fpd.web.dashboard import words
from fpd.web.status import Status

# Short delays are the normal course of things.
_SETTLING = timedelta(seconds=60)
_UNDELIVERED = timedelta(seconds=60)
_STALE = timedelta(seconds=90)
_OFFLINE = ("fallback", "last-known")


@dataclass(frozen=True, slots=True)
class Notice:
    """`level` is "bad" when something does not work, "warn" when somebody should look."""

    level: words.Level
    subject: str
    text: str


def attention(status: Status) -> tuple[Notice, ...]:
    """Return what needs attention; empty when all is well."""
    notices = list(_parts(status))
    if status.known is not None:
        for peer in status.known.peers:
            notices += _peer(peer, status.at)
        for group in status.known.groups:
            notices += _group(group, status.at)
        for device in status.known.devices:
            notices += _device(device, status)
        notices += _troubles(status.troubles)
        for platform in status.platforms:
            notices += _platform(platform, status.at)
        notices += _debts(status.known.debts, status.at)
        notices += _streams(status.known)
    return tuple(sorted(notices, key=lambda notice: notice.level != "bad"))


def _parts(status: Status) -> Iterator[Notice]:
    if status.known is None:
        yield Notice("bad", "Database", "does not answer; fpd goes on by itself once it does")
    if not status.broker_ok:
        waiting = status.known.debts.publications_pending if status.known else 0
        kept = f"; {words.number(waiting)} publications wait for it" if waiting else ""
        yield Notice("bad", "MQTT broker", f"is away{kept}")


def _peer(peer: Peer, now: datetime) -> Iterator[Notice]:
    state = words.link(peer)
    settling = peer.link in ("registering", "registered") and now - peer.link_changed_at < _SETTLING
    if state.level in ("warn", "bad") and not settling:
        lasted = words.lasting(peer.link_changed_at, now)
        yield Notice(state.level, peer.name, f"{state.word} for {lasted}: {state.hint}")


def _group(group: Group, now: datetime) -> Iterator[Notice]:
    if not group.enabled:
        return
    measured, envelope = group.measured, group.envelope
    if envelope is not None and envelope.reason in _OFFLINE:
        lasted = words.lasting(envelope.since_at, now)
        yield Notice("warn", group.name, f"{words.reason(envelope.reason)}, for {lasted}")
    if measured is None:
        return
    if measured.parts < measured.of:
        text = f"{measured.of - measured.parts} of {measured.of} readings are missing"
        yield Notice("warn", group.name, text)
    if measured.at is not None and now - measured.at > _STALE:
        yield Notice("warn", group.name, f"last measured {words.age(measured.at, now)}")
    elif breach := breach_of(group):
        yield Notice("bad", group.name, breach)


def breach_of(group: Group) -> str | None:
    """Say how far a group is outside its envelope, None when it is not by a whole watt.

    An envelope for the flexible devices alone cannot be compared with what the group takes.
    """
    envelope, measured = group.envelope, group.measured
    if envelope is None or measured is None or measured.power_w is None or group.flexible:
        return None
    if envelope.max_w is not None and measured.power_w >= envelope.max_w + 1:
        return f"{words.watts(measured.power_w - envelope.max_w)} above its import limit"
    if envelope.min_w is not None and measured.power_w <= envelope.min_w - 1:
        return f"{words.watts(envelope.min_w - measured.power_w)} above its export limit"
    return None


def _troubles(troubles: Iterable[Trouble]) -> Iterator[Notice]:
    """Tell of each group and reason in one line: one device may break many blocks."""
    together: dict[tuple[int, str], list[Trouble]] = {}
    for one in troubles:
        together.setdefault((one.group_id, one.reason), []).append(one)
    for those in together.values():
        worst = max(those, key=lambda one: one.by_w)
        told = "its provider was told" if worst.told_as else "nobody was told"
        blocks = f"{words.number(len(those))} block{'' if len(those) == 1 else 's'}"
        yield Notice(
            "bad",
            worst.group_name,
            f"cannot keep {blocks} of its {worst.direction} limit, up to {words.watts(worst.by_w)} "
            f"beyond: {SAID[Cause(worst.reason)]} ({told})",
        )


def _device(device: Device, status: Status) -> Iterator[Notice]:
    state = words.health(device, status.configured)
    if state.level in ("warn", "bad"):
        yield Notice(state.level, device.name, f"{state.word}: {state.hint}")
        return
    follows = words.following(device)
    if state.level == "good" and device.wanted and follows and follows.level == "bad":
        text = f"does not follow “{words.command(device.wanted)}”, {follows.hint}"
        yield Notice("bad", device.name, text)


def _platform(platform: Standing, now: datetime) -> Iterator[Notice]:
    if platform.health in ("unavailable", "stopped", "degraded"):
        level: words.Level = "warn" if platform.health == "degraded" else "bad"
        lasted = words.lasting(platform.since_at, now)
        text = f"{platform.health} for {lasted}: {platform.detail or 'no reason given'}"
        yield Notice(level, platform.name, text)


def _debts(debts: Debts, now: datetime) -> Iterator[Notice]:
    oldest_at = debts.outbox_oldest_at
    if oldest_at is not None and now - oldest_at > _UNDELIVERED:
        text = f"{words.number(debts.outbox_pending)} wait, the oldest for"
        yield Notice("warn", "Messages to peers", f"{text} {words.lasting(oldest_at, now)}")


def _streams(known: Overview) -> Iterator[Notice]:
    """Tell of many ill streams in one line: when a broker is away, all of them are."""
    for state in ("stale", "frozen"):
        ill = [stream for stream in known.streams if stream.state == state]
        count = known.stream_counts.get(state, 0)
        if ill:
            named = ", ".join(f"{stream.node_id} {stream.source_id}" for stream in ill[:3])
            more = f" and {words.number(count - 3)} more" if count > 3 else ""
            hint = words.stream(ill[0]).hint
            yield Notice(
                "warn", "Streams", f"{words.number(count)} {state}: {named}{more} ({hint})"
            )
