"""Topics: where datum are, and which filters they match (MQTT 3.1.1 §4.7)."""

from __future__ import annotations

import re

from fpd.domain.datum import StreamKey, stream_key

_DEFAULT_USER = 1  # the owner of datum whose topic names none (decision D4)
_UNFIT = re.compile(r"[+#/%\x00-\x1f\x7f-\x9f]")
_DATUM = re.compile(r"(?:user/(\d{1,19})/)?node/(\d{1,19})/datum/0/(.+)", re.ASCII)
_NODE = re.compile(r"(?:user/(\d{1,19})/)?node/(\d{1,19})/datum", re.ASCII)


def datum(stream: StreamKey) -> str:
    """Return the topic that datum of a stream are published to."""
    return f"user/{stream.user_id}/node/{stream.node_id}/datum/0/{stream.source_id}"


def status(instance: str) -> str:
    """Return the topic that tells whether this daemon is there."""
    return f"fpd/{instance}/status"


def tree(instance: str, kind: str, key: str) -> str:
    """Return the topic of a state in the retained tree; no two keys give the same.

    >>> tree("fpd", "device", "cell/1")
    'fpd/fpd/device/cell%2F1'
    """
    return f"fpd/{instance}/{kind}/{_UNFIT.sub(lambda found: f'%{ord(found[0]):02X}', key)}"


def plan(instance: str, group_id: int) -> str:
    """Return the topic of the plan of a group."""
    return f"{tree(instance, 'group', str(group_id))}/plan"


def stream(topic: str) -> StreamKey | None:
    """Return the stream that a topic's datum belong to, None when it is not a datum topic."""
    found = _DATUM.fullmatch(topic)
    if found is None:
        return None
    user_id, node_id = int(found[1] or _DEFAULT_USER), int(found[2])
    return stream_key(user_id, node_id, found[3])


def node(topic: str) -> tuple[int, int] | None:
    """Return whose (user id, node id) datum a topic brings that names no stream, as SolarIn's does.

    None when it is not such a topic.
    """
    found = _NODE.fullmatch(topic)
    return None if found is None else (int(found[1] or _DEFAULT_USER), int(found[2]))


def matches(topic: str, pattern: str) -> bool:
    """Return whether a topic matches a filter; a shared one (`$share/group/filter`) as its filter.

    >>> matches("node/7/datum/0/meter/1", "node/+/datum/0/#")
    True
    """
    if pattern.startswith("$share/"):
        pattern = pattern.split("/", 2)[2]
    levels, wanted = topic.split("/"), pattern.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels) or level not in ("+", levels[position]):
            return False
    return len(levels) == len(wanted)
