"""What Reengen's refusals mean (seed 003; reference: devices §3.1).

The status is 200 also for failures and there are no codes, so the text of `message` decides.
"""

from __future__ import annotations

import re
from enum import StrEnum

from fpd.adapters.device import Stopped

AGAIN_S = 900.0


class Kind(StrEnum):
    """Why something was refused."""

    LATER = "later"  # the platform, or its gateway to the device, could not: again is right
    LOGIN = "login"  # the connection id is not, or no longer, good
    PERMISSION = "permission"  # this user may not; or not with this connection id
    NO = "no"  # the request itself is wrong


class Refused(Stopped):
    """The platform does not take what it was sent; `message` are its own words."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(f"{what}: {message}", retry_s=AGAIN_S)
        self.message = message


_LOGIN = re.compile(r"session|auth|\blog[ -]?in|logged|credential|connection ?id|\btoken")
_PERMISSION = re.compile(r"permission|forbidden|access denied|not allowed|privilege")
_NETWORK = re.compile(
    r"time[d]?[ -]?out|connection (was |is |has been )?(refused|reset|closed|lost|aborted|failed)"
    r"|connection to|\bconnect\b|connectexception|unreachable|unavailable|no route"
    r"|temporar|try again|too many|rate limit|busy|overload"
)
_CONNECTION = re.compile(r"connect")


def classify(message: str, *, renewed: bool = False) -> Kind:
    """Return what a message means; `renewed`: it answers a request with a new connection id.

    Interpretation: "connection" alone means the connection id as long as a new one may help, and
    the network afterwards.

    >>> str(classify("SocketTimeoutException: connect timed out"))
    'later'
    >>> str(classify("Invalid connection id")), str(classify("Session timed out"))
    ('login', 'login')
    >>> str(classify("Invalid connection")), str(classify("Invalid connection", renewed=True))
    ('login', 'later')
    >>> str(classify("Point not found"))
    'no'
    """
    text = message.lower()
    network = _NETWORK.search(text) is not None
    if _LOGIN.search(text):
        return Kind.LATER if renewed and network else Kind.LOGIN
    if _PERMISSION.search(text):
        return Kind.PERMISSION
    if network:
        return Kind.LATER
    if _CONNECTION.search(text):
        return Kind.LATER if renewed else Kind.LOGIN
    return Kind.NO


def one_line(message: object) -> str:
    """Return what a platform said, short and on one line."""
    text = " ".join(message.split()) if isinstance(message, str) else ""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable[:200] or "no reason was given"
