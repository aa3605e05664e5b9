"""What SNWS2 signs, worked out by SolarNetwork's own client (solarnetwork-api-core 3.0.0)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from fpd.web import snws2

NOON = datetime(2026, 3, 12, 12, tzinfo=UTC)
SECRET = b"worked-example-secret"
HOST = "fpd.example.org"
PATH = "/solaruser/api/v1/sec/user/oscp/capacity-providers"
DATE = "Thu, 12 Mar 2026 12:00:00 GMT"
BODY = '{"name":"Lines Co. é"}'.encode()
ID = "abcdefghij0123456789"

LIST = snws2.Said(
    method="GET",
    path=PATH,
    query=[("b", "x y+z"), ("é", "ü/?"), ("a[0]", "2"), ("a[0]", "1"), ("a!", "(*)'~")],
    headers={"host": [HOST], "x-sn-date": [DATE]},
)
LIST_CLAIM = snws2.read(
    f"Credential={ID},SignedHeaders=host;x-sn-date,"
    "Signature=963ae7f75d7cc7654cf07f5c6c3405b0e828b9cc8a08e58b147f9930c0af6d27"
)
CREATE = snws2.Said(
    method="POST",
    path=PATH,
    query=[],
    headers={
        "host": [HOST],
        "date": [DATE],
        "content-type": ["application/json; charset=UTF-8"],
        "digest": ["sha-256=NBDpMalRv/vWoBTz2BbgnJdE2oqbBdP37vO+OKZCuTk="],
    },
    body=BODY,
)
CREATE_CLAIM = snws2.read(
    f"Credential={ID},SignedHeaders=content-type;date;digest;host,"
    "Signature=5cace2d73b5b8cde0d79a9728aba72294fece2e7c66d0c6ae8dd056451d33411"
)


def check(claim: snws2.Claim, said: snws2.Said, *, now: datetime = NOON) -> None:
    at = snws2.signed_at(claim, said.headers, now=now)
    snws2.check(claim, said, at=at, secret=SECRET, hosts=[HOST])


def test_the_canonical_request_is_that_of_the_public_client() -> None:
    (text,) = snws2.canonical_requests(LIST, LIST_CLAIM.names, [HOST])
    assert text.decode().split("\n") == [
        "GET",
        PATH,
        "a%21=%28%2A%29%27~&a%5B0%5D=2&a%5B0%5D=1&b=x%20y%2Bz&%C3%A9=%C3%BC%2F%3F",
        f"host:{HOST}",
        f"x-sn-date:{DATE}",
        "host;x-sn-date",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ]


def test_what_the_public_client_signs_is_accepted() -> None:
    check(LIST_CLAIM, LIST)
    check(CREATE_CLAIM, CREATE)


def test_only_just_this_request_was_signed() -> None:
    others = [
        replace(LIST, method="HEAD"),
        replace(LIST, path=PATH + "/"),
        replace(LIST, query=[*LIST.query, ("max", "1")]),
        replace(LIST, query=[("b", "x y z"), *LIST.query[1:]]),
        replace(LIST, body=b" "),
    ]
    for other in others:
        with pytest.raises(snws2.Wrong, match="another request or secret"):
            check(LIST_CLAIM, other)
    for other in (replace(CREATE, body=BODY + b" "), replace(CREATE, form=[("name", "x")])):
        with pytest.raises(snws2.Wrong, match="another request or secret"):
            check(CREATE_CLAIM, other)
    with pytest.raises(snws2.Wrong):
        snws2.check(LIST_CLAIM, LIST, at=NOON, secret=b"other", hosts=[HOST])
    with pytest.raises(snws2.Wrong):
        snws2.check(LIST_CLAIM, LIST, at=NOON, secret=SECRET, hosts=["other.example.org"])


def test_a_quarter_of_an_hour_either_way_and_no_more() -> None:
    for skew in (-900, 900):
        check(LIST_CLAIM, LIST, now=NOON + timedelta(seconds=skew))
    for skew in (-901, 901):
        with pytest.raises(snws2.Wrong, match="too far"):
            check(LIST_CLAIM, LIST, now=NOON + timedelta(seconds=skew))


@pytest.mark.parametrize(
    "date",
    ["", "noon", "2026-03-12T12:00:00Z", "1773316800", "Thu, 99 Mar 2026 12:00:00 GMT",
     "Thu, 12 Mar 99999 12:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 +2300", "\udcff"],
)  # fmt: skip
def test_what_is_no_date(date: str) -> None:
    headers = {"host": [HOST], "x-sn-date": [date], "date": [DATE]}
    with pytest.raises(snws2.Wrong):
        snws2.signed_at(LIST_CLAIM, headers, now=NOON)


@pytest.mark.parametrize(
    "more",
    [
        {"content-type": ["text/plain"]},
        {"content-md5": [""]},
        {"digest": [""]},
        {"x-sn-path-template": ["/"]},
        {"x-sn-date": [DATE, DATE]},
        {"host": [HOST, "other"]},
    ],
)
def test_what_has_to_be_signed_and_to_come_once(more: dict[str, list[str]]) -> None:
    with pytest.raises(snws2.Wrong):
        snws2.signed_at(LIST_CLAIM, {**LIST.headers, **more}, now=NOON)


@pytest.mark.parametrize("left_out", ["host", "x-sn-date"])
def test_host_and_date_have_to_be_there_and_signed(left_out: str) -> None:
    claim = replace(LIST_CLAIM, names=tuple({"host", "x-sn-date"} - {left_out}))
    with pytest.raises(snws2.Wrong, match="not signed"):
        snws2.signed_at(claim, LIST.headers, now=NOON)
    headers = {name: values for name, values in LIST.headers.items() if name != left_out}
    with pytest.raises(snws2.Wrong):
        snws2.signed_at(LIST_CLAIM, headers, now=NOON)


def test_a_key_is_good_for_its_day_and_six_more() -> None:
    keys = snws2.signing_keys(SECRET, NOON)
    assert len(set(keys)) == 7
    assert snws2.signing_keys(SECRET, NOON - timedelta(days=6))[0] == keys[6]
    assert snws2.signing_keys(SECRET, NOON - timedelta(days=7))[0] not in keys
    assert snws2.signing_keys(SECRET, NOON + timedelta(days=1))[0] not in keys


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("SHA-256=NBDpMalRv/vWoBTz2BbgnJdE2oqbBdP37vO+OKZCuTk=", True),
        ("unixsum=30637, sha-256=NBDpMalRv/vWoBTz2BbgnJdE2oqbBdP37vO+OKZCuTk=", True),
        ("sha-256=NBDpMalRv/vWoBTz2BbgnJdE2oqbBdP37vO+OKZCuTk=,md5=x", False),
        ("sha-256=", False),
        ("unixsum=30637", False),
        ("sha-256", False),
        ("", False),
    ],
)
def test_every_digest_of_the_body_has_to_be_right(header: str, right: bool) -> None:
    assert snws2._is_digest(header, BODY) is right


def test_an_md5_of_the_body_is_base64_or_hexadecimal() -> None:
    assert snws2._is_md5("1B2M2Y8AsgTpgAmY7PhCfg==", b"")
    assert snws2._is_md5("D41D8CD98F00B204E9800998ECF8427E", b"")
    assert not snws2._is_md5("1B2M2Y8AsgTpgAmY7PhCfg==", b" ")
    assert not snws2._is_md5("\udcff", b"")


@pytest.mark.parametrize(
    "credential",
    [
        "",
        ",,",
        f"Credential={ID}",
        f"Credential={ID},SignedHeaders=host,Signature=00",
        f"Credential={ID}x,SignedHeaders=host,Signature={'0' * 64}",
        f"Credential={ID[:-1]}é,SignedHeaders=host,Signature={'0' * 64}",
        f"Credential={ID},SignedHeaders=,Signature={'0' * 64}",
        f"Credential={ID},SignedHeaders=host;host,Signature={'0' * 64}",
        f"Credential={ID},SignedHeaders=host;;date,Signature={'0' * 64}",
        f"Credential={ID},SignedHeaders=ho st,Signature={'0' * 64}",
        f"Credential={ID},SignedHeaders=host,Signature={'g' * 64}",
        f"Credential={ID},SignedHeaders=host,Signature={'٣' * 64}",
        f"Credential={ID},Credential={ID},SignedHeaders=host,Signature={'0' * 64}",
    ],
)
def test_what_is_no_credential(credential: str) -> None:
    with pytest.raises(snws2.Wrong):
        snws2.read(credential)


def test_a_credential_s_parts_come_in_any_order() -> None:
    claim = snws2.read(f"Signature={'AB' * 32}, SignedHeaders=X-SN-Date;Host, Credential={ID}")
    assert claim == snws2.Claim(ID, ("host", "x-sn-date"), "ab" * 32)


def test_which_hosts_the_sender_may_have_meant() -> None:
    assert snws2.hosts("a:8484", None) == ("a:8484", "a")
    assert snws2.hosts("a", None) == ("a", "a:80", "a:443")
    assert snws2.hosts("[::1]:443", None) == ("[::1]:443", "[::1]")
    assert snws2.hosts("[::1]", None) == ("[::1]", "[::1]:80", "[::1]:443")
    inside = snws2.hosts("10.0.0.1:8484", "https://fpd.example.org/")
    assert inside == ("10.0.0.1:8484", "10.0.0.1", HOST, f"{HOST}:80", f"{HOST}:443")
