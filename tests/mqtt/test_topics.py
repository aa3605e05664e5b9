"""Topics: which stream a topic means, and which filters it matches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.datum import StreamKey
from fpd.mqtt import topics


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("node/7/datum/0/meter/1", StreamKey(1, 7, "meter/1")),
        ("node/7/datum/0//meter/1", StreamKey(1, 7, "meter/1")),
        ("user/42/node/7/datum/0/a b/ü", StreamKey(42, 7, "a b/ü")),
        ("node/7/datum/0/", None),
        ("node/7/datum/0//", None),
        ("node/7/datum/h/meter", None),
        ("node/x/datum/0/meter", None),
        ("node/-7/datum/0/meter", None),
        ("node/0/datum/0/meter", None),
        ("node/٧/datum/0/meter", None),
        ("node/99999999999999999999/datum/0/meter", None),
        ("node/9999999999999999999/datum/0/meter", None),
        ("user/0/node/7/datum/0/meter", None),
        ("user/+/node/7/datum/0/meter", None),
        ("node/7/datum/0/a\x00b", None),
        ("node/7/datum/0/" + "x" * 255, StreamKey(1, 7, "x" * 255)),
        ("node/7/datum/0/" + "x" * 256, None),
        ("myems/point/5", None),
    ],
)
def test_a_topic_names_a_stream(topic: str, expected: StreamKey | None) -> None:
    assert topics.stream(topic) == expected


@given(
    st.builds(
        StreamKey,
        st.integers(1, 2**63 - 1),
        st.integers(1, 2**63 - 1),
        st.from_regex(r"[a-z0-9 ][a-z0-9/ ]{0,40}", fullmatch=True),
    )
)
def test_the_topic_of_a_stream_names_that_stream(stream: StreamKey) -> None:
    assert topics.stream(topics.datum(stream)) == stream


@pytest.mark.parametrize(
    ("topic", "pattern", "expected"),
    [
        ("node/7/datum/0/meter/1", "node/+/datum/0/#", True),
        ("node/7/datum/0", "node/+/datum/0/#", True),
        ("node/7/datum/0/meter", "node/+/datum/0/meter", True),
        ("node/7/datum/0/meter", "node/+/datum/0", False),
        ("node/7/datum", "node/+/datum/0/meter", False),
        ("user/1/node/7/datum/0/x", "node/+/datum/0/#", False),
        ("user/1/node/7/datum/0/x", "user/+/node/+/datum/0/#", True),
        ("/a", "+/a", True),
        ("a", "#", True),
        ("$SYS/a", "#", False),
        ("$SYS/a", "$SYS/#", True),
        ("node/7/datum/0/meter", "$share/two daemons/node/+/datum/0/#", True),
        ("node/7/datum", "$share/fpd/node/+/datum/0/#", False),
    ],
)
def test_filters_match_as_mqtt_says(topic: str, pattern: str, expected: bool) -> None:
    assert topics.matches(topic, pattern) is expected
