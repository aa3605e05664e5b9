"""What the BlueGen service's refusals mean (seed 000 appendix A; reference: devices §1.9).

The form of an error body is not specified, so the documented names are searched in its text,
whatever its case and blanks, the longest first; only if none is found does the status decide.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    RELOGIN = "relogin"  # log in once, repeat once
    LATER = "later"  # again with backoff
    CORRECT = "correct"  # read the limits anew, compute again, send once
    ACCOUNT = "account"  # nothing of this account may be tried before somebody has looked
    ATTEMPTS = "attempts"  # the same, but one try after hours is reasonable
    QUOTA = "quota"  # nothing until the day's quota is renewed
    STOP = "stop"  # this unit or profile is not ours to use
    BUG = "bug"  # we sent what can never be accepted
    DONE = "done"  # as good as success
    EXISTS = "exists"  # a profile of that name is there: use it
    IN_USE = "in use"  # assign another profile first
    FULL = "full"  # no more profiles may be made


ACTIONS: Final[Mapping[Kind, str]] = {
    Kind.RELOGIN: "reauth_once_then_retry",
    Kind.LATER: "retry_backoff",
    Kind.CORRECT: "fix_and_resend",
    Kind.ACCOUNT: "stop_account",
    Kind.ATTEMPTS: "stop_account",
    Kind.QUOTA: "quota_pause",
    Kind.STOP: "stop_unit",
    Kind.BUG: "bug",
    Kind.DONE: "success",
    Kind.EXISTS: "reuse_existing",
    Kind.IN_USE: "reassign_then_retry",
    Kind.FULL: "recycle_own",
}


_NAMES = {
    "Bad Token": Kind.RELOGIN,
    "Bad Credentials": Kind.ACCOUNT,
    "Too many attempts": Kind.ATTEMPTS,
    "Account suspended": Kind.ACCOUNT,
    "Naughty IP": Kind.ACCOUNT,
    "User doesn't exist": Kind.ACCOUNT,
    "InvalidAccessKeyId": Kind.ACCOUNT,
    "Number of requests per day exceeded": Kind.QUOTA,
    "ShonkyRampRate": Kind.CORRECT,
    "Request out of range": Kind.CORRECT,
    "NegativeTimestamp": Kind.BUG,
    "UnitRequestTimeout": Kind.LATER,
    "UnitAtRequestedPower": Kind.DONE,
    "UnitCommsError": Kind.LATER,
    "UnitRespondedIncorrectly": Kind.LATER,
    "SockFellOff": Kind.LATER,
    "UnitNotRespondng": Kind.LATER,
    "UnitTimedOut": Kind.LATER,
    "PermissionDenied": Kind.STOP,
    "ProfileInUse": Kind.IN_USE,
    "Profile exists": Kind.EXISTS,
    "Max profile count reached": Kind.FULL,
    "Malformed request profile owner": Kind.STOP,
    "Malformed request profile point range": Kind.BUG,
    "Malformed request profile point": Kind.BUG,
    "No profile points": Kind.BUG,
    "Invalid data range": Kind.BUG,
    "UnitInvalid": Kind.STOP,
    "Malformed unit id": Kind.STOP,
    "InvalidURI": Kind.BUG,
    "Malformed request": Kind.BUG,
    "MalformedRequest": Kind.BUG,
    "GroupNotEmpty": Kind.BUG,
    "Group exists": Kind.BUG,
}


def _squeezed(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


_LONGEST_FIRST = tuple(
    sorted(((_squeezed(name), name) for name in _NAMES), key=lambda found: -len(found[0]))
)
_LATER_STATUSES = frozenset({408, 425, 429})


def classify(status: int, text: str) -> tuple[Kind, str]:
    """Return what a refusal means and how to name it to the operator.

    >>> classify(403, "error: ShonkyRampRate")
    (<Kind.CORRECT: 'correct'>, 'ShonkyRampRate (HTTP 403)')
    >>> classify(502, "<html>Bad Gateway</html>")
    (<Kind.LATER: 'later'>, 'HTTP 502')
    """
    if 200 <= status < 300:
        page = text.lstrip().startswith("<")
        return (Kind.LATER if page else Kind.DONE), f"HTTP {status}{' with a page' * page}"
    name = named(text)
    if name is not None:
        return _NAMES[name], f"{name} (HTTP {status})"
    return _by_status(status), f"HTTP {status}"


def named(text: str) -> str | None:
    """Return the documented name that a text holds, in whatever case and with whatever blanks.

    >>> named('{"error": "bad-token"}'), named("Malformed request profile point range")
    ('Bad Token', 'Malformed request profile point range')
    """
    said = _squeezed(html.unescape(text))
    return next((name for squeezed, name in _LONGEST_FIRST if squeezed in said), None)


def _by_status(status: int) -> Kind:
    if status == 401:
        return Kind.RELOGIN
    if status >= 500 or status in _LATER_STATUSES:
        return Kind.LATER
    return Kind.BUG if status == 400 else Kind.STOP
