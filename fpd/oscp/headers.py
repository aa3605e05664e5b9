"""Headers of an OSCP request (OSCP 2.0 §4.1.2)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from fpd.errors import Malformed, Unauthenticated

REQUEST_ID = "X-Request-ID"
CORRELATION_ID = "X-Correlation-ID"
_LONGEST_ID = 255
_LONGEST_CREDENTIAL = 8000


@dataclass(frozen=True, slots=True)
class Headers:
    """`request_id` names this message, `correlation_id` the one that it answers, if any."""

    request_id: str
    correlation_id: str | None


def new_request_id() -> str:
    """Return an id for a message of ours."""
    return str(uuid.uuid4())


def read(headers: Mapping[str, str], *, id_needed: bool = True) -> Headers:
    """Read the ids. Raises Malformed when the request id is missing or an id is unusable.

    Without `id_needed` a message that has no id is given one, so it can only come once.
    """
    request_id = headers.get(REQUEST_ID, "").strip()
    if not request_id and not id_needed:
        request_id = new_request_id()
    if not request_id:
        raise Malformed(f"{REQUEST_ID}: missing")
    correlation_id = headers.get(CORRELATION_ID, "").strip() or None
    for name, value in ((REQUEST_ID, request_id), (CORRELATION_ID, correlation_id or "")):
        if len(value) > _LONGEST_ID or not value.isprintable():
            raise Malformed(f"{name}: expected at most {_LONGEST_ID} printable characters")
    return Headers(request_id, correlation_id)


def credential(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the scheme, in lower case, and the credential of Authorization.

    Raises Unauthenticated when there is none that could be used (decision P13).
    """
    scheme, _, credential = headers.get("Authorization", "").strip().partition(" ")
    credential = credential.strip()
    if not scheme:
        raise Unauthenticated("Authorization: missing")
    if not credential or len(credential) > _LONGEST_CREDENTIAL:
        raise Unauthenticated("Authorization: expected 'Token <token>'")
    return scheme.lower(), credential
