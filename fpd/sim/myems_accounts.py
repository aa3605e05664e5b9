"""Who may do what at a simulated MyEMS: users, sessions that end 8 hours after the login whatever
is done with them, an API key that may read, and accounts that the third wrong password locks.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fpd.sim.answers import Refusal
from fpd.sim.myems_answers import no

_TRIES = 3


@dataclass(slots=True)
class User:
    id: int
    name: str
    is_admin: bool
    is_read_only: bool
    failed: int = 0
    locked: bool = False

    @property
    def uuid(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.myems"))


@dataclass(slots=True)
class Accounts:
    password: str
    api_key: str
    session_s: float
    sessions: dict[tuple[str, str], datetime] = field(default_factory=dict)
    logins: int = 0
    users: dict[str, User] = field(
        default_factory=lambda: {
            "administrator": User(1, "administrator", True, False),
            "readonly": User(2, "readonly", True, True),
            "operator": User(3, "operator", False, False),
        }
    )

    def login(self, said: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        """Answer a login."""
        name = said.get("name") or said.get("account") or str(said.get("email", "")).split("@")[0]
        user = self.users.get(str(name))
        if user is None:
            raise no(404, "API.USER_NOT_FOUND", title="API.ERROR")
        if user.locked:
            raise no(400, "API.USER_ACCOUNT_HAS_BEEN_LOCKED")
        if said.get("password") != self.password:
            user.failed += 1
            user.locked = user.failed >= _TRIES
            raise no(400, "API.INVALID_PASSWORD")
        failed, user.failed = user.failed, 0
        self.logins += 1
        token = hashlib.sha512(f"{user.name}{self.logins}{now}".encode()).hexdigest()
        self.sessions[user.uuid, token] = now + timedelta(seconds=self.session_s)
        return {
            "id": user.id,
            "name": user.name,
            "uuid": user.uuid,
            "display_name": user.name.capitalize(),
            "email": f"{user.name}@myems.io",
            "is_admin": user.is_admin,
            "is_read_only": user.is_read_only,
            "failed_login_count": failed,
            "account_expiration_datetime": "2099-12-31T18:00:00",
            "password_expiration_datetime": "2099-12-31T18:00:00",
            "token": token,
        }

    def logout(self, headers: Mapping[str, str]) -> None:
        if self.sessions.pop(_held(headers), None) is None:
            raise no(404, "API.USER_SESSION_NOT_FOUND")

    def end_sessions(self, *, forget: bool) -> None:
        """Let all sessions end, or be unknown."""
        for key in self.sessions:
            self.sessions[key] = datetime.min.replace(tzinfo=self.sessions[key].tzinfo)
        if forget:
            self.sessions.clear()

    def check_admin(self, headers: Mapping[str, str], now: datetime, *, demoted: bool) -> None:
        """Refuse whoever is no administrator who may write."""
        user = self._session(headers, now, "ADMINISTRATOR")
        if not user.is_admin or user.is_read_only or demoted:
            raise no(400, "API.INVALID_PRIVILEGE")

    def check_user(self, headers: Mapping[str, str], now: datetime) -> None:
        """Refuse whoever has no session."""
        self._session(headers, now, "USER")

    def check_key(self, headers: Mapping[str, str], now: datetime, *, expired: bool) -> None:
        """Refuse whoever has neither a key nor a session; a key that is sent alone decides."""
        key = headers.get("API-Key", "")
        if not key:
            self._session(headers, now, "USER")
        elif key != self.api_key:
            raise no(404, "API.API_KEY_NOT_FOUND")
        elif expired:
            raise no(400, "API.API_KEY_HAS_EXPIRED")

    def _session(self, headers: Mapping[str, str], now: datetime, of: str) -> User:
        user_uuid, token = _held(headers)
        if not user_uuid:
            raise _missing("API.INVALID_USER_UUID")
        if not token:
            raise _missing("API.INVALID_TOKEN")
        until = self.sessions.get((user_uuid, token))
        user = next((u for u in self.users.values() if u.uuid == user_uuid), None)
        if until is None or user is None:
            raise no(404, f"API.{of}_SESSION_NOT_FOUND")
        if now >= until:
            raise no(400, f"API.{of}_SESSION_TIMEOUT")
        return user


def _held(headers: Mapping[str, str]) -> tuple[str, str]:
    return headers.get("User-UUID", ""), headers.get("Token", "")


def _missing(description: str) -> Refusal:
    return no(400, description)
