"""A MyEMS server's API: requests with an API key or an administrator's session (seed 001;
reference: myems §1-3).
"""

from __future__ import annotations

import asyncio
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode

import msgspec
import structlog

from fpd.adapters.device import Clock, Stopped, Unreachable
from fpd.adapters.http import DeviceHttp, Reply
from fpd.adapters.lenient import printable
from fpd.adapters.myems_errors import KeyRefused, LostSession, Missing, Refused, check
from fpd.adapters.myems_session import Session
from fpd.adapters.myems_shapes import (
    Category,
    Command,
    Log,
    Meter,
    MeterPoint,
    Owner,
    Part,
    Point,
    PointValue,
    Schedule,
    Version,
    is_plausible,
    shaped,
)
from fpd.adapters.myems_time import instant, local

MOST_BYTES = 16_000_000  # the list of thousands of points
_MANY_BYTES = 200_000  # decoded beside the event loop
_ACCEPT = {"Accept": "application/json"}
_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)")
_DAY_H = 24
_AGAIN_S = 900.0
_KEY_RESTS = timedelta(minutes=5)
_FORGETS_ZERO = ((3, 4, 0), (4, 0, 0))  # from and before these versions

Release = tuple[int, int, int]

log = structlog.get_logger()


class Access(StrEnum):
    """What a request is made with."""

    OPEN = "open"
    KEY = "key"  # the API key; without one, the session
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, whoever makes it."""

    method: str
    path: str
    body: bytes
    content_type: str

    @property
    def what(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"


class Myems:
    """One server. Every method raises DeviceFault; `most` requests are under way at once.

    Where the API key is refused the account reads in its place, if there is one, so that what was
    told a device can still be seen and taken back.
    """

    def __init__(
        self,
        http: DeviceHttp,
        session: Session,
        *,
        api_key: str | None,
        most: int,
        clock: Clock,
    ) -> None:
        self._http = http
        self._session = session
        self._api_key = api_key
        self._turns = asyncio.Semaphore(most)
        self._clock = clock
        self._refused: tuple[datetime, str] | None = None
        self._version: Release | None = None

    @property
    def has_account(self) -> bool:
        """Whether there is an administrator's account to use."""
        return self._session.possible

    @property
    def notice(self) -> str | None:
        """What the operator should mend though everything works: the API key is refused."""
        return None if self._refused is None else f"{self._refused[1]}; the account reads instead"

    async def close(self) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        access: Access = Access.ADMIN,
        content_type: str = "application/json",
    ) -> Reply:
        """Ask once; a session that has ended is replaced once. The answer is a success."""
        asked = _Asked(method, path, body, content_type)
        if access is Access.OPEN:
            return await self._ask(asked, {})
        if access is Access.KEY and self._api_key is not None and not self._key_rests:
            try:
                reply = await self._ask(asked, {"API-Key": self._api_key})
            except KeyRefused as refused:
                if not self.has_account:
                    raise
                self._note_refusal(str(refused))
            else:
                self._refused = None
                return reply
        return await self._ask_as_admin(asked)

    @property
    def _key_rests(self) -> bool:
        """Whether the key was refused a moment ago."""
        return self._refused is not None and self._clock() - self._refused[0] < _KEY_RESTS

    def _note_refusal(self, why: str) -> None:
        if self._refused is None:
            log.warning("myems.api_key_refused", reason=why)
        self._refused = (self._clock(), why)

    async def _ask_as_admin(self, asked: _Asked) -> Reply:
        headers = await self._session.headers()
        try:
            return await self._ask(asked, headers)
        except LostSession:
            self._session.lost(headers)
        return await self._ask(asked, await self._session.headers())

    async def get(self, path: str, *, access: Access = Access.KEY) -> Any:
        """Return a list or an object, numbers exact."""
        reply = await self.call("GET", path, access=access)
        return await decoded(reply, f"GET {path.partition('?')[0]}")

    async def _ask(self, asked: _Asked, headers: Mapping[str, str]) -> Reply:
        sent = {**_ACCEPT, **headers}
        if asked.body:
            sent["Content-Type"] = asked.content_type
        async with self._turns:
            reply = await self._http.request(
                asked.method, asked.path, headers=sent, body=asked.body
            )
        check(reply, asked.what)
        return reply

    # what there is

    async def version(self) -> Release:
        """Return the server's version; asked once."""
        if self._version is None:
            said = shaped(await self.get("/version", access=Access.OPEN), Version, "GET /version")
            found = _VERSION.search(said.version)
            if found is None:
                raise Unreachable(f"GET /version: {said.version[:60]!r} names no version")
            self._version = (int(found[1]), int(found[2]), int(found[3]))
        return self._version

    async def forgets_zero(self) -> bool:
        """Tell whether a command's stored value is sent where 0 is asked for."""
        return _FORGETS_ZERO[0] <= await self.version() < _FORGETS_ZERO[1]

    async def meters(self) -> list[Meter]:
        return await self._list("/meters", Meter)

    async def virtual_meters(self) -> list[Meter]:
        return await self._list("/virtualmeters", Meter)

    async def offline_meters(self) -> list[Meter]:
        return await self._list("/offlinemeters", Meter)

    async def categories(self) -> list[Category]:
        return await self._list("/energycategories", Category)

    async def meter_points(self, meter_id: int) -> list[MeterPoint]:
        """Return a meter's points in the order of their ids, which is that of its reports."""
        found = await self._list(f"/meters/{meter_id}/points", MeterPoint)
        return sorted(found, key=lambda point: point.id)

    async def meter_commands(self, meter_id: int) -> list[Command]:
        return await self._list(f"/meters/{meter_id}/commands", Command)

    async def points(self) -> list[Point]:
        """Return all points. No filter: with a cache one spoils the list for everybody."""
        return await self._list("/points", Point, access=Access.ADMIN)

    async def commands(self) -> list[Command]:
        return await self._list("/commands", Command)

    async def command(self, command_id: int) -> Command:
        path = f"/commands/{command_id}"
        return shaped(await self.get(path), Command, f"GET {path}")

    async def owners(self, family: str) -> list[Owner]:
        """Return the `energystoragecontainers` or `microgrids`."""
        return await self._list(f"/{family}", Owner, access=Access.ADMIN)

    async def parts(self, family: str, owner_id: int, part: str) -> list[Part]:
        """Return an owner's `batteries`, `generators`, `evchargers`, `grids`, …"""
        return await self._list(f"/{family}/{owner_id}/{part}", Part, access=Access.ADMIN)

    async def owner_commands(self, family: str, owner_id: int) -> list[Command]:
        return await self._list(f"/{family}/{owner_id}/commands", Command, access=Access.ADMIN)

    async def offset(self) -> timedelta | None:
        """Return the server's offset from its audit log (since 5.11), None if it has no entry."""
        for entry in await self._list("/logs?limit=1", Log, access=Access.ADMIN):
            there, utc = (
                instant(text, timedelta(0))
                for text in (entry.request_datetime, entry.request_datetime_utc)
            )
            if there is None or utc is None:
                raise Unreachable("GET /logs: not the times that MyEMS writes")
            return there - utc
        return None

    async def _list(
        self, path: str, kind: type[msgspec.Struct], *, access: Access = Access.KEY
    ) -> list[Any]:
        what = f"GET {path.partition('?')[0]}"
        found = shaped(await self.get(path, access=access), list[Any], what)
        return [shaped(one, kind, what) for one in found]

    # values

    async def point_values(self) -> dict[int, Decimal]:
        """Return the values of the last 60 minutes by point id; older points are not in it."""
        found = await self._list("/reports/pointrealtime", PointValue)
        return {one.point_id: one.value for one in found if is_plausible(one.value)}

    async def meter_realtime(self, meter_id: int) -> Any:
        """Return the meter's last 60 minutes. (Its quick mode is empty.)"""
        return await self.get(f"/reports/meterrealtime?meterid={meter_id}")

    async def meter_trend(
        self, meter_id: int, since: datetime, until: datetime, *, offset: timedelta, quick: bool
    ) -> Any:
        """Return the meter's rows, both ends included; an hour at most, it makes an Excel file.

        `quick`: of its energy register only, and no file.
        """
        asked = {
            "meterid": meter_id,
            "reportingperiodstartdatetime": local(since, offset),
            "reportingperiodenddatetime": local(until, offset),
            **({"quickmode": "true"} if quick else {}),
        }
        return await self.get(f"/reports/metertrend?{urlencode(asked)}")

    async def hourly_energy(
        self, kind: str, meter_id: int, since: datetime, until: datetime, *, offset: timedelta
    ) -> Any:
        """Return the energy of each hour of a `meter`, `virtualmeter` or `offlinemeter`."""
        asked = {
            f"{kind}id": meter_id,
            "periodtype": "hourly",
            "reportingperiodstartdatetime": local(since, offset),
            "reportingperiodenddatetime": local(until, offset),
            "quickmode": "true",
        }
        return await self.get(f"/reports/{kind}energy?{urlencode(asked)}")

    # what is written

    async def send(self, command_id: int, value: Decimal) -> None:
        """Have a command published with a value. That it was is no proof that anybody got it.

        The number is always explicit: without one MyEMS sends the stored one and erases it. A 0 is
        not sent to versions that would send the stored one in its place (Stopped).
        """
        if value == 0 and await self.forgets_zero():
            raise Stopped("MyEMS before 4.0 sends a stored value in place of 0", retry_s=_AGAIN_S)
        path = f"/commands/{command_id}/send"
        body = f'{{"data": {{"set_value": {plain(value)}}}}}'.encode()
        reply = await self.call("PUT", path, body)
        if reply.status != 200 or reply.text.strip() != '"success"':
            raise Unreachable(
                f"PUT {path}: {reply.status} with "
                f"{printable(reply.text.strip(), 60) or 'an empty body'}, "
                'not "success": nothing was sent'
            )

    async def schedules(self, family: str, owner_id: int) -> list[Schedule]:
        path = f"/{family}/{owner_id}/schedules"
        return await self._list(path, Schedule, access=Access.ADMIN)

    async def add_schedule(self, family: str, owner_id: int, row: Mapping[str, Any]) -> int:
        """Add a plan row and return its id: 201 and a Location are the only success."""
        path = f"/{family}/{owner_id}/schedules"
        reply = await self.call("POST", path, _enveloped(row))
        found = re.search(r"/(\d+)$", reply.location or "")
        if reply.status != 201 or found is None:
            raise Refused(
                f"POST {path}: HTTP {reply.status} without a Location: nothing was stored",
                description="",
            )
        return int(found[1])

    async def drop_schedule(self, family: str, owner_id: int, schedule_id: int) -> None:
        """Remove a plan row; one that is gone already is removed."""
        path = f"/{family}/{owner_id}/schedules/{schedule_id}"
        try:
            reply = await self.call("DELETE", path)
        except Missing:
            return
        if reply.status != 204:
            raise Unreachable(f"DELETE {path}: HTTP {reply.status}: it may still be there")

    async def put_day(self, offline_meter_id: int, day: str, total: Decimal) -> None:
        """Set an offline meter's total of a day (YYYY-MM-DD), in its unit.

        MyEMS deletes the day first and checks its limits afterwards, so they are checked here
        before anything is sent; one that has no high limit takes nothing but 0. Raises Stopped
        when the total is outside them.
        """
        meters = {meter.id: meter for meter in await self.offline_meters()}
        meter = meters.get(offline_meter_id)
        if meter is None:
            raise Missing(f"there is no offline meter {offline_meter_id}")
        hourly = total / _DAY_H
        low = max(meter.hourly_low_limit or Decimal(0), Decimal(0))
        high = meter.hourly_high_limit or Decimal(0)
        if total < 0 or not low <= hourly <= high:
            raise Stopped(f"{plain(total)} a day is outside the limits of offline meter {meter.id}")
        body = msgspec.json.encode(
            {"meter": offline_meter_id, "value": [[day, plain(total)]]}  # without `data`
        )
        reply = await self.call("POST", "/reports/offlinemeterinput", body, access=Access.KEY)
        if reply.text.strip() != "{}":
            raise Unreachable("POST /reports/offlinemeterinput: not the answer of a success")


def _enveloped(data: Mapping[str, Any]) -> bytes:
    return msgspec.json.Encoder(decimal_format="number").encode({"data": data})


async def decoded(reply: Reply, what: str) -> Any:
    """Return what an answer holds. Raises Unreachable for MyEMS's silent failures."""
    if not reply.text.strip():
        raise Unreachable(f"{what}: HTTP {reply.status} with an empty body: MyEMS failed inside")
    if len(reply.text) < _MANY_BYTES:
        return reply.json(parse_float=Decimal)
    return await asyncio.to_thread(reply.json, parse_float=Decimal)


def plain(value: Decimal) -> str:
    """Write a number without exponent: MyEMS publishes what Python's str() makes of it.

    >>> plain(Decimal("1E+3")), plain(Decimal("-25.500")), plain(Decimal("-0"))
    ('1000', '-25.5', '0')
    """
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def filled(payload: str, value: Decimal) -> str:
    """Fill a command's payload in as MyEMS does. Raises Stopped for one that it could not fill.

    >>> filled('{"set_value":$s1,"price":"$$"}', Decimal("-25.5"))
    '{"set_value":-25.5,"price":"$"}'
    """
    try:
        return string.Template(payload).substitute(s1=plain(value))
    except (KeyError, ValueError) as error:
        raise Stopped(f"the command's payload cannot be filled in: {error}") from None
