"""One client for each server and account of a process, and what its clock is known to be."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import structlog

from fpd.adapters.device import Clock, DeviceFault, Unreachable, Wiring
from fpd.adapters.http import CLOUD_TIMEOUT_S, DeviceHttp
from fpd.adapters.myems_api import MOST_BYTES, Myems
from fpd.adapters.myems_errors import Untimed
from fpd.adapters.myems_session import Refusals, Session
from fpd.adapters.myems_time import offset_of, shown

log = structlog.get_logger()

_AGAIN = timedelta(hours=1)
_LOGS_SINCE = (5, 11, 0)


class Account(Protocol):
    """What says where a server is and who we are there."""

    @property
    def base_url(self) -> str: ...
    @property
    def api_key(self) -> str | None: ...
    @property
    def username(self) -> str | None: ...
    @property
    def password(self) -> str | None: ...
    @property
    def ca_file(self) -> Path | None: ...


def server(account: Account, wiring: Wiring, *, most: int = 2) -> Myems:
    """Return the client of a server and account, shared by all that name the same."""
    key = (account.base_url.rstrip("/"), f"{account.username}\0{account.api_key}")
    known = wiring.accounts.get(key)
    if isinstance(known, Myems):
        return known
    http = DeviceHttp(
        wiring.session,
        account.base_url,
        timeout_s=CLOUD_TIMEOUT_S,
        ca_file=account.ca_file,
        most_bytes=MOST_BYTES,
        steady=wiring.steady,
    )
    session = Session(
        http,
        base_url=key[0],
        username=account.username,
        password=account.password,
        clock=wiring.clock,
        refusals=_refusals(key[0], account.username, wiring),
    )
    made = Myems(http, session, api_key=account.api_key, most=most, clock=wiring.clock)
    wiring.accounts[key] = made
    wiring.closers.append(made.close)
    return made


def _refusals(base_url: str, username: str | None, wiring: Wiring) -> Refusals:
    """Return what is known of an account's refused logins, for devices and platforms together."""
    key = (f"myems {base_url}", username or "")
    found = wiring.tenants.setdefault(key, Refusals(wiring.folder))
    assert isinstance(found, Refusals)
    return found


class ServerClock:
    """The server's offset as configured, checked every hour against its audit log.

    The log needs an administrator and 5.11; without them the stamps of the last hour have to do.
    """

    def __init__(self, server: Myems, configured: str, clock: Clock) -> None:
        self._server = server
        self._configured = offset_of(configured)
        self._clock = clock
        self._lock = asyncio.Lock()
        self._checked_at: datetime | None = None

    async def offset(self) -> timedelta:
        """Return the offset. Raises Untimed when the server has another one."""
        async with self._lock:
            now = self._clock()
            due = self._checked_at is None or now - self._checked_at >= _AGAIN
            if due and self._server.has_account:
                self._judge(await self._told())
                self._checked_at = now
        return self._configured

    async def _told(self) -> timedelta | None:
        try:
            if await self._server.version() < _LOGS_SINCE:
                return None
            return await self._server.offset()
        except Unreachable:
            raise
        except DeviceFault as fault:
            log.warning("myems.offset_unchecked", reason=str(fault))
            return None

    def _judge(self, told: timedelta | None) -> None:
        if told is not None and told != self._configured:
            raise Untimed(
                f"the server's utc_offset is {shown(told)}, configured is "
                f"{shown(self._configured)}: nothing is read",
                retry_s=60.0,
            )
