"""What the log says, and what it never says."""

from __future__ import annotations

import io
import json
import logging
import warnings
from typing import Any

import pytest
import structlog

from fpd.config import Log
from fpd.logs import configure


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    configure(Log(level="info", format="json"), stream)
    return stream


def test_an_event_is_one_line_of_json_with_utc_time(stream: io.StringIO) -> None:
    structlog.get_logger().info("forecast.received", peer=7, blocks=96)
    structlog.get_logger().debug("nobody.listens")
    (line,) = lines(stream)
    timestamp = line.pop("timestamp")
    assert line == {"event": "forecast.received", "level": "info", "peer": 7, "blocks": 96}
    assert timestamp.endswith("Z") and timestamp[10] == "T"


def test_secrets_are_masked_whatever_their_depth(stream: io.StringIO) -> None:
    structlog.get_logger().info(
        "peer.registered",
        token="abc",
        token_id="kept",
        password=None,
        headers={"Authorization": "Token abc", "Accept": "kept"},
        deep=[{"oauth": ({"client-secret": "abc", "set_cookie": ["abc"]},)}],
        message="sent Authorization: Bearer aaaabbbbccccdddd.eeee to https://me:abc@cp.example.org/",
        url="postgresql://fpd:abc@db/fpd",
    )
    (line,) = lines(stream)
    assert "abc" not in stream.getvalue()
    assert "bbbb" not in stream.getvalue()
    assert line["token"] == "***"
    assert line["token_id"] == "kept"
    assert line["password"] is None
    assert line["headers"] == {"Authorization": "***", "Accept": "kept"}
    assert line["message"] == "sent Authorization: Bearer *** to https://***@cp.example.org/"


def test_an_exception_is_told_without_local_variables(stream: io.StringIO) -> None:
    hidden = "local-secret"
    try:
        raise ValueError(f"{len(hidden)} letters")
    except ValueError:
        structlog.get_logger().exception("flow.failed")
    (line,) = lines(stream)
    assert "ValueError: 12 letters" in line["exception"]
    assert "local-secret" not in stream.getvalue()


def test_what_json_cannot_say_is_still_said(stream: io.StringIO) -> None:
    structlog.get_logger().info(
        "odd.values", value=float("nan"), type=int, text="\ud800", k={(1,): 2}
    )
    (line,) = lines(stream)
    assert line["event"] == "odd.values"


def test_libraries_speak_through_the_same_lines(stream: io.StringIO) -> None:
    logging.getLogger("aiohttp.server").error("broken %s", "request")
    logging.getLogger("aiohttp.access").info("GET / 200")
    logging.getLogger("apscheduler.scheduler").info("Added job")
    logging.getLogger("apscheduler.scheduler").warning("job skipped")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    said = [(line["logger"], line["level"], line["event"][:14]) for line in lines(stream)[:2]]
    assert said == [
        ("aiohttp.server", "error", "broken request"),
        ("apscheduler.scheduler", "warning", "job skipped"),
    ]
    assert "old ways" in lines(stream)[2]["event"]
    assert len(lines(stream)) == 3


def test_the_console_is_for_people_and_keeps_the_same_secrets() -> None:
    stream = io.StringIO()
    configure(Log(level="warning", format="console"), stream)
    structlog.get_logger().info("not.said")
    structlog.get_logger().warning("peer.unreachable", peer="cp", token="abc")
    logging.getLogger("elsewhere").info("not said")
    said = stream.getvalue()
    assert "peer.unreachable" in said and "token=***" in said and "\x1b" not in said
    assert said.count("\n") == 1


def test_a_logger_that_was_used_says_what_was_configured_since(stream: io.StringIO) -> None:
    log, later = structlog.get_logger(), io.StringIO()
    log.info("peer.registered")
    configure(Log(level="info", format="json"), later)
    log.info("peer.lost")
    assert [line["event"] for line in lines(stream)] == ["peer.registered"]
    assert [line["event"] for line in lines(later)] == ["peer.lost"]
