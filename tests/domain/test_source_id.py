"""Source ids of generated datum: SolarNetwork's placeholders, and topics that stay topics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.source_id import (
    DEFAULT_TEMPLATE,
    LONGEST,
    PLACEHOLDERS,
    action_code,
    checked,
    identity,
    render,
)
from fpd.errors import Malformed

FORECAST: dict[str, str | int | None] = {
    "role": "cp",
    "action": "UpdateGroupCapacityForecast",
    "actionCode": "ugcf",
    "src": 1,
    "dest": 2,
    "cp": 1,
    "cpName": "Lines Co.",
    "co": 2,
    "coName": "Optimizer Co.",
    "cg": 3,
    "cgIdentifier": "my-group",
    "cgName": "My Group",
    "forecastType": "c",
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (DEFAULT_TEMPLATE, "/oscp/cp/UpdateGroupCapacityForecast/1/2/my-group"),
        ("{actionCode}/{src}-{dest}/{cg}", "ugcf/1-2/3"),
        ("{cpName}/{coName}/{cgName}/{forecastType}", "Lines Co./Optimizer Co./My Group/c"),
        ("/a//b/{nothing}/c/", "/a/b/c"),
        ("/a/{nothing:b:c}/{cp:9}", "/a/b:c/1"),
        ("/a/{nothing:}/b", "/a/b"),
        ("a/{unclosed/b", "a/{unclosed/b"),
    ],
)
def test_a_template_becomes_a_source_id(template: str, expected: str) -> None:
    assert render(template, FORECAST) == expected


def test_a_forecast_has_its_type_as_the_last_level() -> None:
    rendered = render(DEFAULT_TEMPLATE, FORECAST, suffix="c")
    assert rendered == "/oscp/cp/UpdateGroupCapacityForecast/1/2/my-group/c"


def test_a_heartbeat_has_no_other_side() -> None:
    values = FORECAST | {"action": "Heartbeat", "co": None, "coName": None, "dest": None}
    assert render(DEFAULT_TEMPLATE, values) == "/oscp/cp/Heartbeat/1/my-group"
    assert render("{dest:nobody}", values) == "nobody"


def test_names_cannot_smuggle_wildcards_into_a_topic() -> None:
    values = {"cgName": "a+b#c\x00d\ne/f"}
    assert render("/x/{cgName}", values) == "/x/a_b_c_d_e/f"


@given(template=st.text(max_size=60), value=st.text(max_size=60), suffix=st.sampled_from(["", "c"]))
def test_whatever_comes_out_is_a_topic_level_or_refused(
    template: str, value: str, suffix: str
) -> None:
    try:
        rendered = render(template + "{cgName}", {"cgName": value}, suffix=suffix)
    except Malformed:
        return
    assert not set(rendered) & set("+#\x00\n\r")
    assert "//" not in rendered
    assert not rendered.endswith("/")
    assert 0 < len(identity(rendered)) <= len(rendered) <= LONGEST


@pytest.mark.parametrize("template", ["", "/", "{nothing}", "x" * 256])
def test_an_id_that_is_none_or_too_long_is_refused(template: str) -> None:
    with pytest.raises(Malformed, match="characters"):
        render(template, {})


def test_a_leading_slash_makes_no_other_stream() -> None:
    assert identity("/meter/1") == identity("meter/1") == "meter/1"


def test_action_codes_are_the_capitals() -> None:
    assert action_code("GroupCapacityComplianceError") == "gcce"
    assert action_code("Heartbeat") == "h"


def test_every_placeholder_is_known() -> None:
    assert set(PLACEHOLDERS) == set(FORECAST)


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, "a", "{cp}", "/{a:}/b", "/é {nothing:x}"])
def test_a_template_that_makes_a_topic(template: str) -> None:
    assert checked(template) == template


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("/a/+", "must not have"),
        ("/{a:#}", "must not have"),
        ("/a\0", "must not have"),
        ("//a", "empty levels"),
        ("/{cp}//{co}", "empty levels"),
        ("/a/", "empty levels"),
        ("/", "empty levels"),
        ("/{nothing}", "gives 0 characters"),
        ("x" * (LONGEST + 1), "gives 256 characters"),
    ],
)
def test_a_template_that_would_break_a_topic_is_told(template: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        checked(template)
