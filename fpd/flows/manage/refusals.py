"""What the management API says no to, and where in the request it was (decisions M3, M4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fpd.errors import Conflict, FpdError, Malformed, Unknown


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at one place; `location` is dotted: `energy.unit`, `path.assetId`."""

    location: str
    message: str


class Refused(FpdError):
    """A refusal that names places in the request."""

    def __init__(self, message: str, faults: Iterable[Fault]) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class Unreadable(Refused, Malformed):
    """The body is not JSON, or repeats a key (400)."""


class Invalid(Refused, Malformed):
    """The body is JSON with content that cannot be meant (422); it names every fault."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        super().__init__("the content is not valid", faults)


class Absent(Refused, Unknown):
    """The path names nothing that the user has (404)."""


class Taken(Refused, Conflict):
    """A value that must be unique is not (409)."""


def absent(name: str) -> Absent:
    """Return the refusal of an id that the user has not, whoever else may have it."""
    return Absent("there is nothing with this id", [Fault(f"path.{name}", "is not known")])
