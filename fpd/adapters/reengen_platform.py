"""Reengen as a platform that is read: which polls its rows of the configuration make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fpd.adapters.device import Source, Wiring
from fpd.adapters.http import DeviceHttp
from fpd.adapters.reengen_client import Client
from fpd.adapters.reengen_directory import Directory
from fpd.adapters.reengen_door import Door, Login
from fpd.adapters.reengen_polls import AggregatePoll, RawPoll
from fpd.adapters.reengen_zone import zone
from fpd.config_reengen import ReengenPlatform, ReengenStream


class Account(Protocol):
    """What says where a tenant is and who we are there."""

    @property
    def base_url(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def tz(self) -> str: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def min_interval_s(self) -> float: ...
    @property
    def timeout_s(self) -> float: ...


def client(account: Account, wiring: Wiring) -> Client:
    """Return the client of a tenant, shared by all that name the same: one request at a time."""
    key = (account.base_url.rstrip("/"), f"{account.tenant}\0{account.user}")
    known = wiring.tenants.get(key)
    if isinstance(known, Door) and not known.is_closed:
        return Client(known, zone(account.tz))
    http = DeviceHttp(
        wiring.session,
        account.base_url,
        timeout_s=account.timeout_s,
        ca_file=account.ca_file,
        steady=wiring.steady,
    )
    login = Login(account.tenant, account.user, account.password)
    door = Door(http, login, min_interval_s=account.min_interval_s)
    wiring.tenants[key] = door
    return Client(door, zone(account.tz))


class Platform:
    """One configured tenant."""

    kind = "reengen"
    backoff_s = (5.0, 300.0)

    def __init__(self, config: ReengenPlatform, wiring: Wiring) -> None:
        self.name, self.most = config.name, config.max_requests
        asked = client(config, wiring)
        directory = Directory(asked, wiring.clock)
        jobs: dict[str, list[ReengenStream]] = {}
        for row in config.stream:
            jobs.setdefault(row.job, []).append(row)
        self.polls: Mapping[str, Source] = {
            job: (AggregatePoll if rows[0].function else RawPoll)(
                asked, config, rows[0].point, rows, directory=directory, clock=wiring.clock
            )
            for job, rows in jobs.items()
        }
