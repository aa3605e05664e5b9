"""Segments: what the headers may say, what belongs together, what they make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from fpd.domain.segments import (
    MOST_BYTES,
    MOST_OPEN,
    PATIENCE,
    Assembly,
    Place,
    Segment,
    Verdict,
    assemblies,
    judge,
    stale,
)
from fpd.errors import FpdError, Malformed, TooLarge, TooMany
from fpd.oscp import segments

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
LATER = NOON + PATIENCE


def headers(index: object = None, count: object = None) -> CIMultiDict[str]:
    given = {"x-segment-index": index, "X-SEGMENT-COUNT": count}
    return CIMultiDict({name: str(value) for name, value in given.items() if value is not None})


def segment(index: int, count: int, name: str = "", after: str | None = None,
            **changes: Any) -> Segment:  # fmt: skip
    """A segment `s<index>` that continues the previous one."""
    values: dict[str, Any] = {
        "request_id": name or f"s{index}",
        "correlation_id": after or (f"s{index - 1}" if index > 1 else None),
        "operation": "POST update_group_capacity_forecast",
        "place": Place(index, count),
        "sha256": hashlib.sha256(f"{name}{index}".encode()).digest(),
        "size": 100,
        "received_at": NOON,
    }
    return Segment(**values | changes)


def told(*said: Segment, now: datetime = NOON) -> list[Segment]:
    """What is held after these came."""
    held: list[Segment] = []
    for one in said:
        held, _ = step(held, one, now=now)
    return held


def step(
    held: Sequence[Segment], one: Segment, *, now: datetime = NOON
) -> tuple[list[Segment], Verdict]:
    verdict = judge(one, held, now=now)
    gone = {left for assembly in verdict.gone for left in assembly.request_ids}
    kept = [other for other in held if other.request_id not in gone]
    return [*kept, one] if verdict.is_new else kept, verdict


def settled(held: Sequence[Segment], **how: bool) -> list[Segment]:
    return [replace(one, **how) for one in held]


def ids(found: Sequence[Assembly]) -> list[list[str]]:
    return sorted(assembly.request_ids for assembly in found)


# Headers.


@pytest.mark.parametrize("given", [(), (1, 1), (" 1 ", "1")])
def test_a_message_without_segments_is_whole(given: tuple[Any, ...]) -> None:
    assert segments.read(headers(*given)) is None


@pytest.mark.parametrize("given", [(1, 2), (2, 2), (64, 64), ("02", "3")])
def test_a_segment_has_a_place(given: tuple[Any, Any]) -> None:
    assert segments.read(headers(*given)) == Place(*(int(one) for one in given))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((1, None), "X-Segment-Count: missing"),
        ((None, 2), "X-Segment-Index: missing"),
        ((0, 2), "X-Segment-Index: expected 1 to 2"),
        ((-1, 2), "X-Segment-Index: expected 1 to 2"),
        ((3, 2), "X-Segment-Index: expected 1 to 2"),
        ((1, 0), "X-Segment-Count: expected 1 to 64"),
        ((1, 65), "X-Segment-Count: expected 1 to 64"),
        (("", 2), "X-Segment-Index: expected an integer"),
        (("1.0", 2), "X-Segment-Index: expected an integer"),
        (("1", "2_0"), "X-Segment-Count: expected an integer"),
        (("١", 2), "X-Segment-Index: expected an integer"),
        ((1, "9" * 5000), "X-Segment-Count: expected an integer"),
    ],
)
def test_headers_that_make_no_sense_are_named(given: tuple[Any, Any], named: str) -> None:
    with pytest.raises(Malformed) as refusal:
        segments.read(headers(*given))
    assert str(refusal.value) == named


# What belongs together.


@pytest.mark.parametrize("reading", ["first", "previous"])
@given(data=st.data())
def test_a_message_is_whole_in_any_order(reading: str, data: st.DataObject) -> None:
    """Two messages at once, each segment up to three times: each is whole exactly at its last."""
    said = []
    for letter in "ab":
        count = data.draw(st.integers(2, 7))
        for index in range(1, count + 1):
            after = f"{letter}1" if reading == "first" else f"{letter}{index - 1}"
            said.append(segment(index, count, f"{letter}{index}", after if index > 1 else "asked"))
    often = [one for one in said for _ in range(data.draw(st.integers(1, 3)))]
    held: list[Segment] = []
    whole: dict[str, list[str]] = {}
    for one in data.draw(st.permutations(often)):
        held, verdict = step(held, one)
        assert not verdict.gone
        if verdict.assembly is not None and verdict.assembly.whole:
            whole[one.request_id[0]] = verdict.assembly.request_ids
            done = verdict.assembly.request_ids
            held = [replace(s, applied=s.applied or s.request_id in done) for s in held]
    expected = {
        letter: sorted(s.request_id for s in said if s.request_id[0] == letter) for letter in "ab"
    }
    assert whole == expected
    assert all(one.applied for one in held)


def test_a_segment_may_continue_any_other() -> None:
    found = assemblies(
        [segment(4, 4, after="s2"), segment(3, 4, after="s4"), segment(1, 4), segment(2, 4)]
    )
    assert ids(found) == [["s1", "s2", "s3", "s4"]] and found[0].whole


def test_two_that_wait_for_the_same_hang_together() -> None:
    found = assemblies([segment(3, 3, after="x"), segment(2, 3, after="x"), segment(1, 3)])
    assert ids(found) == [["s1"], ["s2", "s3"]]


def test_a_first_segment_answers_and_does_not_continue() -> None:
    held = [segment(1, 2, "a", after="asked"), segment(1, 2, "b", after="asked")]
    assert ids(assemblies(held)) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (segment(3, 4), "X-Segment-Count: the others say 3"),
        (segment(2, 3, "other", after="s1"), "X-Segment-Index: came before under another"),
        (segment(1, 3, "s1", sha256=b""), "X-Request-ID reused with other content"),
        (segment(3, 3, "s2", after="s1"), "X-Request-ID reused with other content"),
        (segment(2, 3, after="s9"), "X-Request-ID reused with other content"),
        (segment(3, 3, operation="POST heartbeat"), "the other segments of this message are POST"),
        (segment(3, 3, "s3", correlation_id=None), "X-Correlation-ID: expected the id"),
    ],
)
def test_what_contradicts_is_refused_and_changes_nothing(said: Segment, named: str) -> None:
    held = told(segment(1, 3), segment(2, 3))
    with pytest.raises(Malformed, match=named):
        judge(said, held, now=NOON)
    held, verdict = step(held, segment(3, 3))
    assert verdict.assembly is not None and verdict.assembly.whole


def test_what_waits_for_a_first_must_fit_to_it() -> None:
    held = told(segment(3, 4, after="s1"))
    with pytest.raises(Malformed, match="the others say 4"):
        judge(segment(1, 3), held, now=NOON)


def test_a_message_that_took_effect_is_complete() -> None:
    held = settled(told(segment(1, 2), segment(2, 2)), applied=True)
    for again in (segment(1, 2), segment(2, 2, received_at=LATER)):
        assert judge(again, held, now=LATER) == Verdict((), None, is_new=False)
    with pytest.raises(Malformed, match="that message is complete"):
        judge(segment(2, 2, "other", after="s1"), held, now=NOON)
    with pytest.raises(Malformed, match="reused"):
        judge(segment(2, 2, sha256=b""), held, now=NOON)


def test_what_a_refused_message_has_left_goes_on_or_gives_way() -> None:
    left = settled(told(segment(1, 3), segment(2, 3)), refused=True)
    for again in (segment(3, 3), segment(3, 3, "new", after="s1")):
        _, verdict = step(left, again)
        assert verdict.assembly is not None and verdict.assembly.whole and not verdict.gone
    assert step(left, segment(1, 3)) == (left, Verdict((), assemblies(left)[0], is_new=False))
    other = segment(1, 2, "s1", sha256=b"")
    held, verdict = step(left, other)
    assert held == [other] and ids(verdict.gone) == [["s1", "s2"]]


# How long, how much, how many.


def test_an_incomplete_message_lapses_a_minute_after_its_last_segment() -> None:
    last = segment(2, 3, received_at=NOON + timedelta(seconds=50))
    held = told(segment(1, 3), last, segment(1, 2, "b", received_at=last.received_at))
    almost = last.received_at + PATIENCE - timedelta(milliseconds=1)
    assert stale(assemblies(held), now=almost) == []
    left, verdict = step(held, segment(3, 3), now=almost + timedelta(milliseconds=1))
    assert ids(verdict.gone) == [["b"], ["s1", "s2"]]
    assert [one.request_id for one in left] == ["s3"]


def test_a_whole_message_that_nobody_judged_waits_on() -> None:
    held = told(segment(1, 2), segment(2, 2))
    _, verdict = step(held, segment(2, 2), now=NOON + timedelta(hours=20))
    assert verdict.assembly is not None and verdict.assembly.whole


def test_what_refused_messages_have_left_is_little_and_does_not_last() -> None:
    left = [
        segment(1, 2, f"{n}", received_at=NOON + timedelta(seconds=n), refused=True)
        for n in range(MOST_OPEN + 2)
    ]
    assert ids(stale(assemblies(left), now=NOON)) == [["0"], ["1"]]
    assert len(stale(assemblies(left), now=NOON + timedelta(hours=1))) == MOST_OPEN + 2
    held = told(*(segment(1, 2, f"m{n}") for n in range(MOST_OPEN - 1)))
    assert judge(segment(1, 2), [*left[2:], *held], now=NOON).is_new


def test_an_assembly_has_a_largest_size() -> None:
    held = told(segment(1, 2, size=MOST_BYTES - 10))
    judge(segment(2, 2, size=10), held, now=NOON)
    with pytest.raises(TooLarge):
        judge(segment(2, 2, size=11), held, now=NOON)


def test_so_many_messages_may_be_open() -> None:
    held = told(*(segment(1, 2 + n % 2, f"m{n}") for n in range(MOST_OPEN)))
    for one_more in (segment(1, 2, "x"), segment(1, 9, "x"), segment(2, 5, "x", after="y")):
        with pytest.raises(TooMany) as refusal:
            judge(one_more, held, now=NOON)
        assert refusal.value.retry_after_s > 0
    assert judge(segment(2, 2, "x", after="m0"), held, now=NOON).is_new
    assert judge(segment(1, 2, "x"), held, now=LATER).is_new


def test_one_message_counts_once_however_its_segments_come() -> None:
    """Every other one first: each hangs together with nothing yet."""
    order = [*range(64, 0, -2), *range(1, 64, 2)]
    held = told(*(segment(index, 64) for index in order))
    (assembly,) = assemblies(held)
    assert assembly.whole


def test_orphans_have_a_largest_size_together() -> None:
    big = [segment(2 * n, 64, size=MOST_BYTES) for n in range(1, MOST_OPEN + 1)]
    with pytest.raises(TooMany):
        told(*big, segment(40, 64))


# What they make.


def message(*blocks: Any, **more: Any) -> bytes:
    return json.dumps({"group_id": "g", "forecasted_blocks": list(blocks), **more}).encode()


@given(text=st.text(min_size=1).map(str.encode), cuts=st.lists(st.integers(0, 200), min_size=1))
def test_pieces_of_a_text_make_the_text(text: bytes, cuts: list[int]) -> None:
    body = json.dumps({"a": text.decode()}, ensure_ascii=False).encode()
    ends = sorted(min(cut, len(body)) for cut in cuts)
    pieces = [body[a:b] for a, b in zip([0, *ends], [*ends, len(body)], strict=True)]
    assert segments.whole(pieces) == body


@given(st.lists(st.lists(st.integers() | st.text(), min_size=1), min_size=1))
def test_lists_go_on_in_order(lists: list[list[Any]]) -> None:
    made = json.loads(segments.whole([message(*blocks) for blocks in lists]))
    assert made == {"group_id": "g", "forecasted_blocks": [b for blocks in lists for b in blocks]}


def test_nothing_inside_is_rewritten() -> None:
    first = (
        b'{"b": 1.0, "measurements": [ {"v": 1.50e0, "x": "\\u00e9"} ], "a": 12345678901234567890}'
    )
    second = b'{"a":12345678901234567890,"measurements":[2.10],"b":1.00}'
    assert segments.whole([first, second]) == (
        b'{"b":1.0,"measurements":[{"v": 1.50e0, "x": "\\u00e9"},2.10],"a":12345678901234567890}'
    )


@pytest.mark.parametrize(
    ("bodies", "named"),
    [
        ([message(1), message(2, group_id="h")], "segment 2: group_id: not as in segment 1"),
        ([message(1), message(2), message(3, more=1)], "segment 3: more: not as in segment 1"),
        ([message(1, more=1), message(2)], "segment 2: more: not as in segment 1"),
        ([message(1), message()], "segment 2: forecasted_blocks: expected a list"),
        ([message(1), b'{"group_id":"g"}'], "segment 2: forecasted_blocks: expected a list"),
        ([message(1), message(2, forecasted_blocks=5)], "segment 2: forecasted_blocks: expected"),
        ([b'{"offline_mode_at":"x"}'] * 2, "segment 1: has none of"),
        ([message(1, x=1), b'{"group_id":"g","forecasted_blocks":[1],"x":1e999}'], "not JSON"),
        ([message(1, x=1), b'{"group_id":"g","forecasted_blocks":[1],"x":"\xff"}'], "not JSON"),
    ],
)
def test_messages_that_cannot_be_merged_are_refused(bodies: list[bytes], named: str) -> None:
    with pytest.raises(Malformed, match=named):
        segments.whole(bodies)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([message(1), b"{}", b"[" * 5000])))
def test_no_bytes_do_harm(bodies: list[bytes]) -> None:
    try:
        made = segments.whole(bodies or [b""])
    except FpdError:
        return
    assert isinstance(made, bytes)
