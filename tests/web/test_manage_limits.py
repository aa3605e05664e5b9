"""How often who may ask; time is given, so nobody waits."""

from __future__ import annotations

from fpd.web import limits
from fpd.web.limits import Buckets, Failures


def test_a_burst_is_let_through_and_then_the_rate_holds() -> None:
    buckets = Buckets(rate_s=2, burst=3)
    assert [buckets.take("a", now_s=10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("a", now_s=10.25) == 0.25, "asking in vain costs nothing"
    assert buckets.take("a", now_s=10.5) == 0
    assert buckets.take("a", now_s=10.5) == 0.5
    assert buckets.take("b", now_s=10.5) == 0, "everybody has a bucket of his own"


def test_a_bucket_never_holds_more_than_a_burst() -> None:
    buckets = Buckets(rate_s=2, burst=3)
    buckets.take("a", now_s=0)
    assert [buckets.take("a", now_s=10_000) for _ in range(4)] == [0, 0, 0, 0.5]


def test_failures_count_for_a_minute() -> None:
    failures = Failures(most=2)
    assert [failures.add("a", now_s=at) for at in (0.0, 1.0, 20.0, 59.0)] == [0, 0, 40, 1]
    assert failures.add("b", now_s=20.0) == 0
    assert [failures.add("a", now_s=at) for at in (60.0, 61.0, 62.0)] == [0, 0, 58]


def test_what_is_remembered_is_bounded() -> None:
    failures = Failures(most=1)
    failures.add("first", now_s=0)
    for number in range(limits._MOST_REMEMBERED - 1):
        failures.add(number, now_s=0)
    assert failures.add("first", now_s=1) > 0, "still known"
    failures.add("one more", now_s=1)
    assert len(failures._failures) == limits._MOST_REMEMBERED
    assert failures.add("first", now_s=1) == 0, "the oldest was forgotten"


def test_a_host_s_ipv6_addresses_are_one_and_ipv4_is_itself() -> None:
    assert limits.site("2001:db8::1") == limits.site("2001:db8::ffff:2")
    assert limits.site("2001:db8::1") != limits.site("2001:db8:0:1::1")
    assert limits.site("::ffff:192.0.2.1") == limits.site("192.0.2.1") == "192.0.2.1"
    assert limits.site("fe80::1%eth0") == limits.site("fe80::2")
    assert limits.site(None) == ""
    assert limits.site("@unix") == "@unix"
