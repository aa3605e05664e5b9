"""Credentials and ids in the headers of a request."""

import pytest
from multidict import CIMultiDict

from fpd.errors import Malformed, Unauthenticated
from fpd.oscp import headers


def test_ids_are_read_and_a_missing_request_id_is_named() -> None:
    read = headers.read(CIMultiDict({"x-request-id": " r-1 ", "X-Correlation-ID": ""}))
    assert (read.request_id, read.correlation_id) == ("r-1", None)
    with pytest.raises(Malformed, match="X-Request-ID: missing"):
        headers.read(CIMultiDict())


@pytest.mark.parametrize("value", ["x" * 256, "a\x07b"])
def test_an_unusable_id_is_refused(value: str) -> None:
    with pytest.raises(Malformed, match="X-Correlation-ID"):
        headers.read(CIMultiDict({"X-Request-ID": "r", "X-Correlation-ID": value}))


@pytest.mark.parametrize("value", ["Token abc", "token abc", "TOKEN  abc "])
def test_the_scheme_is_read_in_any_case(value: str) -> None:
    assert headers.credential({"Authorization": value}) == ("token", "abc")


def test_a_message_without_an_id_gets_one_where_that_is_allowed() -> None:
    first, second = (headers.read(CIMultiDict(), id_needed=False) for _ in range(2))
    assert first.request_id and first.request_id != second.request_id


@pytest.mark.parametrize("value", ["", "Token", "Token ", "abc", "Token " + "x" * 8001])
def test_without_a_usable_credential_nobody_is_there(value: str) -> None:
    with pytest.raises(Unauthenticated, match="Authorization"):
        headers.credential({"Authorization": value})


def test_our_ids_are_unique() -> None:
    assert len({headers.new_request_id() for _ in range(1000)}) == 1000
