# mypy: allow-subclassing-any
"""Who may use the embedded broker: a plugin for amqtt, which loads it by its dotted name.

amqtt ships no types, so its base class is `Any` to mypy (hence the first line).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

import structlog
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

log = structlog.get_logger()

_TOLD_MAX = 100  # names; each refused client is reported once, and only so many


class KnownUsers(BaseAuthPlugin):
    """Lets in whoever knows the password of a known user."""

    @dataclass
    class Config:
        """Set by EmbeddedBroker."""

        users: dict[str, str] = field(default_factory=dict, repr=False)
        allow_anonymous: bool = False

    def __init__(self, context: object) -> None:
        super().__init__(context)
        self._told: set[str | None] = set()

    async def authenticate(self, *, session: Session) -> bool:
        """Return whether this client may stay."""
        if session.username is None and self.config.allow_anonymous:
            session.is_anonymous = True
            return True
        known = self.config.users.get(session.username)
        given = session.password or ""
        if known is not None and hmac.compare_digest(known.encode(), given.encode()):
            return True
        if session.username not in self._told and len(self._told) < _TOLD_MAX:
            self._told.add(session.username)
            log.warning(
                "broker.client_refused", username=session.username, client=session.client_id
            )
        return False
