"""Topics: where datum are, and which filters they match (MQTT 3.1.1 §4.7)."""

from __future__ import annotations

import re

from fpd.domain import source_id as source_ids
from fpd.domain.datum import StreamKey

_DEFAULT_USER = 1  # the owner of datum whose topic names none (decision D4)
_BIGGEST_ID = 2**63 - 1
_DATUM = re.compile(r"(?:user/(\d{1,19})/)?node/(\d{1,19})/datum/0/(.+)", re.ASCII)


def datum(stream: StreamKey) -> str:
    """Return the topic that datum of a stream are published to."""
    return f"user/{stream.user_id}/node/{stream.node_id}/datum/0/{stream.source_id}"


def status(instance: str) -> str:
    """Return the topic that tells whether this daemon is there."""
    return f"fpd/{instance}/status"


def stream(topic: str) -> StreamKey | None:
    """Return the stream that a topic's datum belong to, None when it is not a datum topic."""
    found = _DATUM.fullmatch(topic)
    if found is None:
        return None
    user_id, node_id = int(found[1] or _DEFAULT_USER), int(found[2])
    source_id = source_ids.identity(found[3])
    fits = (
        0 < user_id <= _BIGGEST_ID
        and 0 < node_id <= _BIGGEST_ID
        and 0 < len(source_id) <= source_ids.LONGEST
        and source_id.isprintable()
    )
    return StreamKey(user_id, node_id, source_id) if fits else None


def matches(topic: str, pattern: str) -> bool:
    """Return whether a topic matches a filter.

    >>> matches("node/7/datum/0/meter/1", "node/+/datum/0/#")
    True
    """
    levels, wanted = topic.split("/"), pattern.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels) or level not in ("+", levels[position]):
            return False
    return len(levels) == len(wanted)
