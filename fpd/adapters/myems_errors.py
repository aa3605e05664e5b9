"""What MyEMS's refusals mean (reference: myems §2).

Authentication fails with 400 or 404, never 401 or 403, so the description decides, not the
status. Handlers that log users swallow what goes wrong: 200, an empty body and nothing done.
"""

from __future__ import annotations

import json
from typing import NoReturn

from fpd.adapters.device import DeviceFault, Health, Stopped, Unreachable
from fpd.adapters.http import Reply
from fpd.adapters.lenient import mapping, printable

_AGAIN_S = 900.0
_KEY_AGAIN_S = 60.0  # it may be renewed at the server, and an old one locks nobody out
_LOST_SESSION = frozenset(
    {
        "API.ADMINISTRATOR_SESSION_NOT_FOUND",
        "API.ADMINISTRATOR_SESSION_TIMEOUT",
        "API.USER_SESSION_NOT_FOUND",
        "API.USER_SESSION_TIMEOUT",
    }
)
_ACCOUNT = {
    "API.INVALID_PASSWORD": "the password is wrong",
    "API.USER_NOT_FOUND": "there is no such user",
    "API.USER_ACCOUNT_HAS_BEEN_LOCKED": "the account is locked; an administrator unlocks it",
    "API.USER_ACCOUNT_HAS_EXPIRED": "the account has expired",
    "API.USER_PASSWORD_HAS_EXPIRED": "the password has expired",
}
_RIGHTS = {
    "API.INVALID_PRIVILEGE": "the user is no administrator who may write",
    "API.API_KEY_NOT_FOUND": "the API key is not known",
    "API.API_KEY_HAS_EXPIRED": "the API key has expired",
    "API.PERSONAL_TOKEN_NOT_FOUND": "the personal token is not known",
    "API.PERSONAL_TOKEN_TIMEOUT": "the personal token has expired",
    "API.INVALID_USER_UUID": "an administrator's session is needed",
    "API.INVALID_TOKEN": "an administrator's session is needed",
}

_KEYS = frozenset(
    {
        "API.API_KEY_NOT_FOUND",
        "API.API_KEY_HAS_EXPIRED",
        "API.PERSONAL_TOKEN_NOT_FOUND",
        "API.PERSONAL_TOKEN_TIMEOUT",
    }
)


class LostSession(DeviceFault):
    """The session is not known any more or has ended: one more login is right."""


class AccountRefused(Stopped):
    """The login is refused; trying again may lock the account."""


class KeyRefused(Stopped):
    """The API key is not known, or has expired; it may be renewed at the server."""


class Untimed(Stopped):
    """The server's times cannot be relied on; its latest values, which have none, still can."""


class Missing(DeviceFault):
    """What was asked for is not there (any more): a meter, a point, a command."""

    health = Health.DEGRADED


class Refused(Stopped):
    """MyEMS does not take what it was sent. `description` is its word for why."""

    def __init__(self, message: str, *, description: str) -> None:
        super().__init__(message, retry_s=_AGAIN_S)
        self.description = description


def check(reply: Reply, what: str) -> None:
    """Raise what an answer other than success means."""
    if not reply.ok:
        _refuse(reply, what)


def description(reply: Reply) -> str:
    """Return MyEMS's word for what is wrong, empty where it has none."""
    try:
        said = mapping(json.loads(reply.text)).get("description")
    except (ValueError, RecursionError):
        return ""
    return printable(said, 120) if isinstance(said, str) else ""


def _refuse(reply: Reply, what: str) -> NoReturn:
    said = description(reply)
    if said in _LOST_SESSION:
        raise LostSession(f"{what}: {said}")
    if said in _ACCOUNT and what.endswith("/users/login"):
        raise AccountRefused(f"login refused: {_ACCOUNT[said]} ({said})", retry_s=_AGAIN_S)
    if said in _RIGHTS:
        why = f"{what}: {_RIGHTS[said]} ({said})"
        raise (
            KeyRefused(why, retry_s=_KEY_AGAIN_S)
            if said in _KEYS
            else Stopped(why, retry_s=_AGAIN_S)
        )
    if said == "API.MQTT_CONNECTION_ERROR":
        raise Unreachable(f"{what}: MyEMS cannot reach its own broker ({said})")
    if reply.status == 404 and said:
        raise Missing(f"{what}: {said}")
    if reply.status in (404, 405):
        raise Stopped(
            f"{what}: HTTP {reply.status}, no such route: does base_url lack its path (/api), "
            "or is it another version of MyEMS?",
            retry_s=_AGAIN_S,
        )
    if reply.status >= 500:
        raise Unreachable(f"{what}: HTTP {reply.status}; is MyEMS's database down?")
    raise Refused(f"{what}: HTTP {reply.status} {said or 'without a reason'}", description=said)
