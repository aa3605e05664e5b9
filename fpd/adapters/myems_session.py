"""An administrator's session: one token kept for its 8 hours, one login at a time, and never a
second try with an account that was refused, because the third one locks it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import structlog

from fpd.adapters.device import Clock, DeviceFault, Stopped, Unreachable
from fpd.adapters.http import DeviceHttp
from fpd.adapters.lenient import mapping
from fpd.adapters.myems_errors import AccountRefused, check

log = structlog.get_logger()

# SESSION_EXPIRES_IN_SECONDS is 28,800 by default, counted from the login, and is not told.
_LIFE = timedelta(hours=8) - timedelta(minutes=10)
_HEADERS = {"Accept": "application/json", "Content-Type": "application/json"}


class Refusals:
    """Which logins were refused, remembered beyond the process: a restart is no new try.

    Logins of one account take turns (`turn`): what one learns keeps the others from trying. Of a
    password two bytes of a salted hash are kept: enough to see that it was changed, and too
    little to tell what it is.
    """

    def __init__(self, folder: Path | None) -> None:
        self.turn = asyncio.Lock()
        self._path = None if folder is None else folder / "myems.refused.json"
        self._known: dict[str, str] = {}

    def why_not(self, base_url: str, username: str, password: str) -> str | None:
        """Return why this login is not to be tried again, None if it may be."""
        self._recall()
        known = self._known.get(self._account(base_url, username), "")
        mark, _, why = known.partition(" ")
        if mark != self._mark(base_url, username, password):
            return None
        where = "" if self._path is None else f", or delete {self._path} once that is mended"
        return f"{why}; not tried again: change the password{where}"

    def note(self, base_url: str, username: str, password: str, why: str) -> None:
        """Remember that a login was refused."""
        mark = self._mark(base_url, username, password)
        self._known[self._account(base_url, username)] = f"{mark} {why}"
        self._write()

    def forget(self, base_url: str, username: str) -> None:
        """A login worked."""
        if self._known.pop(self._account(base_url, username), None) is not None:
            self._write()

    def _recall(self) -> None:
        """Read the file; what an operator has deleted is forgotten."""
        if self._path is None:
            return
        try:
            self._known = dict(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            self._known = {}
        except (OSError, ValueError, TypeError) as error:
            log.warning("myems.refusals_unreadable", file=str(self._path), reason=str(error))

    def _write(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished = self._path.with_suffix(f".{os.getpid()}")
            unfinished.touch(mode=0o600)
            unfinished.write_text(json.dumps(self._known), encoding="utf-8")
            unfinished.rename(self._path)
        except OSError as error:
            log.warning("myems.refusal_not_kept", file=str(self._path), reason=str(error))
            self._path = None  # it is remembered as long as the process runs

    def _account(self, base_url: str, username: str) -> str:
        return f"{username}@{base_url}"

    def _mark(self, base_url: str, username: str, password: str) -> str:
        salted = f"{self._account(base_url, username)}\0{password}".encode()
        return hashlib.sha256(salted).hexdigest()[:4]


class Session:
    """The session of one account. `headers` are what its requests carry."""

    def __init__(
        self,
        http: DeviceHttp,
        *,
        base_url: str,
        username: str | None,
        password: str | None,
        clock: Clock,
        refusals: Refusals,
    ) -> None:
        self._http = http
        self._base_url = base_url
        self._username, self._password = username, password
        self._clock = clock
        self._refusals = refusals
        self._lock = asyncio.Lock()
        self._held: Mapping[str, str] | None = None
        self._until: datetime | None = None

    @property
    def possible(self) -> bool:
        """Whether there is an account to log in with."""
        return self._username is not None and self._password is not None

    async def headers(self) -> Mapping[str, str]:
        """Return the headers of the session, logging in where there is none. Raises DeviceFault."""
        async with self._lock:
            if self._held is None or self._until is None or self._clock() >= self._until:
                self._held = await self._login()
                self._until = self._clock() + _LIFE
            return self._held

    def lost(self, headers: Mapping[str, str]) -> None:
        """The session with these headers is no more."""
        if self._held is headers:
            self._held = None

    async def close(self) -> None:
        """Log out: MyEMS never deletes a session by itself."""
        held, self._held = self._held, None
        if held is not None:
            with suppress(DeviceFault):
                await self._http.request("PUT", "/users/logout", headers={**_HEADERS, **held})

    async def _login(self) -> Mapping[str, str]:
        username, password = self._username, self._password
        if username is None or password is None:
            raise Stopped("username and password of a MyEMS administrator are not configured")
        async with self._refusals.turn:
            return await self._try(username, password)

    async def _try(self, username: str, password: str) -> Mapping[str, str]:
        refused = self._refusals.why_not(self._base_url, username, password)
        if refused is not None:
            raise AccountRefused(refused, retry_s=900.0)
        called = "email" if "@" in username else "name"
        body = msgspec.json.encode({"data": {called: username, "password": password}})
        reply = await self._http.request("PUT", "/users/login", headers=_HEADERS, body=body)
        try:
            check(reply, "PUT /users/login")
        except AccountRefused as fault:
            self._refusals.note(self._base_url, username, password, str(fault))
            log.error("myems.login_refused", base_url=self._base_url, reason=str(fault))
            raise
        if not reply.text.strip():
            raise Unreachable("PUT /users/login: 200 with an empty body")
        said = mapping(reply.json())
        uuid, token = said.get("uuid"), said.get("token")
        if not isinstance(uuid, str) or not isinstance(token, str) or not uuid or not token:
            raise Unreachable("PUT /users/login: no uuid and token in the answer")
        self._refusals.forget(self._base_url, username)
        return {"User-UUID": uuid, "Token": token}
