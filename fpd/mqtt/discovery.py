"""Home Assistant: which entities it makes of the retained tree, without a line of YAML.

Source: home-assistant.io, "MQTT discovery" and the pages of the MQTT sensor and binary sensor.
One message per entity, which every version understands. A number that is null is shown as
unknown: Home Assistant takes `None` for that.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec

from fpd import __version__
from fpd.mqtt import topics

ONLINE: Final = b"online"  # what Home Assistant says when it has started

LINKS: Final = (
    "provisioned", "registering", "registered", "online", "offline", "broken",
    "unregistered", "failed",
)  # fmt: skip
_LONGEST: Final = 255  # characters of a state

HEALTHS: Final = ("unknown", "ok", "degraded", "unavailable", "rationed", "stopped")

_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")

Kind = Literal["group", "device", "peer"]


@dataclass(frozen=True, slots=True)
class _Entity:
    """One value of a document of the tree, and how it is shown."""

    key: str
    name: str
    of: str
    component: str = "sensor"
    more: tuple[tuple[str, Any], ...] = ()


def _power(key: str, name: str, of: str) -> _Entity:
    shown = {
        "device_class": "power",
        "unit_of_measurement": "W",
        "state_class": "measurement",
        "suggested_display_precision": 0,
    }
    return _Entity(key, name, of, more=tuple(shown.items()))


def _one_of(key: str, name: str, of: str, options: tuple[str, ...]) -> _Entity:
    shown = {"device_class": "enum", "options": list(options), "entity_category": "diagnostic"}
    return _Entity(key, name, of, more=tuple(shown.items()))


_CHARGE: Final = _Entity(
    "soc",
    "State of charge",
    "soc",
    more=(
        ("device_class", "battery"),
        ("unit_of_measurement", "%"),
        ("state_class", "measurement"),
    ),
)
_ENTITIES: Final[dict[Kind, tuple[_Entity, ...]]] = {
    "group": (
        _power("import_limit", "Import limit", "importLimitW"),
        _power("export_limit", "Export limit", "exportLimitW"),
        _power("optimum", "Optimum", "optimumW"),
        _power("power", "Power", "powerW"),
        _power("import_headroom", "Import headroom", "importHeadroomW"),
        _power("export_headroom", "Export headroom", "exportHeadroomW"),
        _Entity("reason", "Reason of the limits", "reason"),
    ),
    "device": (
        _power("setpoint", "Setpoint", "setpointW"),
        _power("confirmed", "Confirmed setpoint", "confirmedW"),
        _power("output", "Output", "outputW"),
        _one_of("state", "State", "health", HEALTHS),
    ),
    "peer": (
        _Entity(
            "online",
            "Online",
            "link",
            component="binary_sensor",
            more=(("device_class", "connectivity"),),
        ),
        _one_of("link", "Link", "link", LINKS),
    ),
}
_MODELS: Final[dict[Kind, str]] = {
    "group": "OSCP capacity group",
    "device": "Controlled device",
    "peer": "OSCP peer",
}


def born(prefix: str) -> str:
    """Return the topic on which Home Assistant says that it is there."""
    return f"{prefix}/status"


@lru_cache(maxsize=65_536)
def announced(
    kind: Kind,
    key: str,
    name: str,
    *,
    identity: str,
    instance: str,
    prefix: str,
    model: str = "",
    stores: bool = False,
) -> tuple[tuple[str, bytes], ...]:
    """Return the messages (topic, payload) that announce the entities of one part of the tree.

    `key` is its last level there; `model` says more than its kind; `stores`: it has a state of
    charge. Entities are of an `identity`, and are shown as `instance` tells.
    """
    entities = _ENTITIES[kind] + ((_CHARGE,) if stores else ())
    ours, mine = _slug(identity), f"{kind}_{_slug(key)}"
    about = {
        "identifiers": [f"fpd_{ours}_{mine}"],
        "name": name,
        "manufacturer": "fpd",
        "model": f"{_MODELS[kind]} ({model})" if model else _MODELS[kind],
        "via_device": f"fpd_{ours}",
    }
    state_topic = topics.tree(instance, kind, key)
    return tuple(
        _config(entity, about, state_topic, (ours, mine), instance=instance, prefix=prefix)
        for entity in entities
    )


def announced_daemon(*, identity: str, instance: str, prefix: str) -> tuple[str, bytes]:
    """Return the message that announces the daemon itself, which the others are reached by."""
    ours = _slug(identity)
    about = {
        "identifiers": [f"fpd_{ours}"],
        "name": f"fpd {identity}",
        "manufacturer": "fpd",
        "model": "OSCP flexibility provider",
        "sw_version": __version__,
    }
    document = {
        "name": "Running",
        "unique_id": f"fpd_{ours}_running",
        "state_topic": topics.status(instance),
        "payload_on": "online",
        "payload_off": "offline",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "qos": 1,
        "device": about,
        "origin": _origin(),
    }
    return f"{prefix}/binary_sensor/fpd_{ours}/running/config", msgspec.json.encode(document)


def _config(
    entity: _Entity,
    about: dict[str, Any],
    state_topic: str,
    whose: tuple[str, str],
    *,
    instance: str,
    prefix: str,
) -> tuple[str, bytes]:
    ours, mine = whose
    template = f"{{{{ value_json.{entity.of} }}}}"
    if not entity.more:
        template = f"{{{{ (value_json.{entity.of} | string)[:{_LONGEST}] }}}}"
    if entity.component == "binary_sensor":
        template = f"{{{{ 'ON' if value_json.{entity.of} == 'online' else 'OFF' }}}}"
    document = {
        "name": entity.name,
        "unique_id": f"fpd_{ours}_{mine}_{entity.key}",
        "state_topic": state_topic,
        "value_template": template,
        **dict(entity.more),
        "availability": [{"topic": topics.status(instance)}],
        "qos": 1,
        "device": about,
        "origin": _origin(),
    }
    topic = f"{prefix}/{entity.component}/fpd_{ours}/{mine}_{entity.key}/config"
    return topic, msgspec.json.encode(document)


def _origin() -> dict[str, str]:
    return {"name": "fpd", "sw_version": __version__}


def _slug(name: str) -> str:
    """Return a name in the characters that a discovery topic allows; no two give the same."""
    slug = _UNFIT.sub("_", name)
    if slug == name:
        return slug
    return f"{slug}_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
