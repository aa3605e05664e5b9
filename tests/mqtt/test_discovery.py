"""What Home Assistant is told, against the fields that its documentation lists."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from fpd.mqtt import discovery
from fpd.mqtt.discovery import Kind

# home-assistant.io, MQTT sensor and MQTT binary sensor: what of their variables may be given.
COMMON = {
    "name", "unique_id", "state_topic", "value_template", "device_class", "entity_category",
    "availability", "availability_mode", "availability_topic", "payload_available",
    "payload_not_available", "qos", "device", "origin", "icon", "json_attributes_topic",
    "json_attributes_template", "enabled_by_default", "expire_after", "force_update", "encoding",
    "default_entity_id", "entity_picture",
}  # fmt: skip
FIELDS = {
    "sensor": COMMON
    | {
        "unit_of_measurement", "state_class", "suggested_display_precision", "options",
        "last_reset_value_template",
    },
    "binary_sensor": COMMON | {"payload_on", "payload_off", "off_delay"},
}  # fmt: skip
DEVICE = {
    "identifiers", "connections", "configuration_url", "hw_version", "manufacturer", "model",
    "model_id", "name", "serial_number", "suggested_area", "sw_version", "via_device",
}  # fmt: skip
# Home Assistant core 2025.4, components/sensor/const.py: DEVICE_CLASS_UNITS and
# DEVICE_CLASS_STATE_CLASSES of the device classes that we use; None: to be left out.
UNITS = {
    "power": {"mW", "W", "kW", "MW", "GW", "TW"},
    "battery": {"%"},
    "enum": {None},
    None: {None},
}
STATE_CLASSES = {"power": {"measurement"}, "battery": {"measurement"}, "enum": {None}, None: {None}}
TOPIC = re.compile(r"homeassistant/(sensor|binary_sensor)/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config")

KINDS: list[tuple[Kind, str, str]] = [
    ("group", "1", ""),
    ("device", "battery", "battery"),
    ("device", "cell/+#ä", "bluegen"),
    ("peer", "7", ""),
]


def told(kind: Kind, key: str, model: str = "", **other: Any) -> list[tuple[str, dict[str, Any]]]:
    asked = {
        "identity": "fpd",
        "instance": "fpd",
        "prefix": "homeassistant",
        "model": model,
        "stores": model == "battery",
        **other,
    }
    return [
        (topic, json.loads(payload))
        for topic, payload in discovery.announced(kind, key, "Name", **asked)
    ]


@pytest.mark.parametrize(("kind", "key", "model"), KINDS)
def test_entities_are_as_home_assistant_documents_them(kind: Kind, key: str, model: str) -> None:
    for topic, said in told(kind, key, model):
        found = TOPIC.fullmatch(topic)
        assert found, topic
        component = found[1]
        assert said.keys() <= FIELDS[component]
        assert said["device"].keys() <= DEVICE
        assert said["device"]["identifiers"]
        assert said["origin"]["name"]
        assert said["availability"] == [{"topic": "fpd/fpd/status"}]
        assert said["state_topic"].startswith(f"fpd/fpd/{kind}/")
        assert not set("+#") & set(said["state_topic"])
        if component == "sensor":
            device_class = said.get("device_class")
            assert said.get("unit_of_measurement") in UNITS[device_class]
            assert ("options" in said) == (device_class == "enum")
            assert said.get("state_class") in STATE_CLASSES[device_class]
            # components/mqtt/sensor.py: options go with neither, entities show nothing to be set
            assert said.get("entity_category") in (None, "diagnostic")
        else:
            assert said["device_class"] == "connectivity"


def test_ids_and_topics_are_unique_even_of_strange_names() -> None:
    keys = ["a/b", "a_b", "a+b", "a b", "A_b", "ä"]
    said = [one for key in keys for one in told("device", key, "battery")]
    assert len({topic for topic, _ in said}) == len(said)
    assert len({document["unique_id"] for _, document in said}) == len(said)
    assert len({document["device"]["identifiers"][0] for _, document in said}) == len(keys)
    assert len({document["state_topic"] for _, document in said}) == len(keys)


def test_entities_are_the_same_whoever_tells_of_them() -> None:
    ours, theirs = told("group", "1"), told("group", "1", instance="other")
    assert [topic for topic, _ in ours] == [topic for topic, _ in theirs]
    assert [d["unique_id"] for _, d in ours] == [d["unique_id"] for _, d in theirs]
    assert {d["state_topic"] for _, d in theirs} == {"fpd/other/group/1"}
    assert [d["availability"] for _, d in theirs] == [[{"topic": "fpd/other/status"}]] * 7


def test_two_installations_have_entities_of_their_own() -> None:
    ours, theirs = told("group", "1"), told("group", "1", identity="other")
    assert {topic for topic, _ in ours}.isdisjoint(topic for topic, _ in theirs)
    assert {d["unique_id"] for _, d in ours}.isdisjoint(d["unique_id"] for _, d in theirs)


def test_groups_devices_and_peers_show_what_is_asked_of_them() -> None:
    assert [document["name"] for _, document in told("group", "1")] == [
        "Import limit", "Export limit", "Optimum", "Power", "Import headroom", "Export headroom",
        "Reason of the limits",
    ]  # fmt: skip
    assert [document["name"] for _, document in told("device", "b", "battery")] == [
        "Setpoint", "Confirmed setpoint", "Output", "State", "State of charge",
    ]  # fmt: skip
    assert [document["name"] for _, document in told("peer", "1")] == ["Online", "Link"]


def test_the_daemon_is_a_device_that_the_others_hang_on() -> None:
    topic, payload = discovery.announced_daemon(
        identity="fpd", instance="fpd", prefix="homeassistant"
    )
    said = json.loads(payload)
    assert TOPIC.fullmatch(topic)
    assert said.keys() <= FIELDS["binary_sensor"]
    assert said["state_topic"] == "fpd/fpd/status"
    assert (said["payload_on"], said["payload_off"]) == ("online", "offline")
    ((_, entity), *_) = told("group", "1")
    assert entity["device"]["via_device"] in said["device"]["identifiers"]
