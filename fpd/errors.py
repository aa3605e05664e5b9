"""What can go wrong on purpose: one base, a few families.

Anything else that is raised is a bug, and the process says so.
"""

from __future__ import annotations


class FpdError(Exception):
    """Something the caller can be told about; `str()` is the one-line message."""


class Malformed(FpdError):
    """The request cannot be read, or says something that cannot be meant (400)."""


class Unauthenticated(FpdError):
    """No usable credential came with the request (401).

    `claimed`: the token that the sender claims to have, None: none that could be named.
    """

    def __init__(self, message: str, *, claimed: str | None = None) -> None:
        super().__init__(message)
        self.claimed = claimed


class Forbidden(FpdError):
    """The credential is unknown, or does not allow this now (403)."""


class Unknown(FpdError):
    """Nothing of ours has that identifier (404)."""


class Conflict(FpdError):
    """The change contradicts what is already there (409)."""


class NoCommonVersion(FpdError):
    """The peer speaks no OSCP version that we speak (501)."""


class TooLarge(FpdError):
    """What belongs together is more than is taken (413)."""


class TooMany(FpdError):
    """More requests, or more failed credentials, than are granted (429)."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(FpdError):
    """Something that we depend on is away; trying again later is right (503)."""

    def __init__(self, message: str, *, retry_after_s: int = 2) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Misconfigured(FpdError):
    """The configuration or the installation cannot work as it stands."""


class DeviceError(FpdError):
    """A device or platform refused, or answered what cannot be used."""
