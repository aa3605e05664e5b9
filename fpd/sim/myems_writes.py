"""What a simulated MyEMS stores besides commands: schedules and totals of offline meters."""

from __future__ import annotations

import re
from decimal import Decimal
from email import message_from_bytes
from typing import Any

import msgspec
from aiohttp import web

from fpd.sim.answers import Refusal
from fpd.sim.myems_answers import Swallowed, broken, created, data, no, nothing, told
from fpd.sim.myems_site import FAMILIES, Site

_TIME = re.compile(r"([01]?\d|2[0-4]):[0-5]\d:[0-5]\d")
_LONGEST_PEAK = 8  # characters that the column holds
_NAMES = {FAMILIES[0]: "ENERGY_STORAGE_CONTAINER", FAMILIES[1]: "MICROGRID"}


async def schedules(site: Site, family: str, request: web.Request) -> web.Response:
    """List, add, change or drop schedules; a bad value breaks without a word."""
    rows = site.schedules.get((family, int(request.match_info["owner"])))
    if rows is None:
        raise no(404, f"API.{_NAMES[family]}_NOT_FOUND")
    if request.method == "GET":
        ordered = sorted(rows.values(), key=lambda row: str(row["start_time_of_day"]).zfill(8))
        return told([_shown(row) for row in ordered])
    schedule_id = int(request.match_info.get("id", 0))
    if request.method == "POST":
        row = await _row(request)
        site.last_schedule += 1
        rows[site.last_schedule] = {"id": site.last_schedule, **row}
        return created(f"/{family.removesuffix('s')}schedules/{site.last_schedule}")
    if schedule_id not in rows:
        raise no(404, f"API.{_NAMES[family]}_SCHEDULE_NOT_FOUND")
    if request.method == "DELETE":
        del rows[schedule_id]
        return nothing(204)
    rows[schedule_id] = {"id": schedule_id, **await _row(request)}
    return nothing()


async def _row(request: web.Request) -> dict[str, Any]:
    """Read a row; nothing is judged but by the database, and what that refuses is swallowed."""
    try:
        said = await data(request)
    except Refusal:
        raise Swallowed from None
    start, end = str(said.get("start_time_of_day")), str(said.get("end_time_of_day"))
    power, peak = said.get("power"), said.get("peak_type")
    if not _TIME.fullmatch(start) or not _TIME.fullmatch(end) or not isinstance(power, int | float):
        raise Swallowed
    if not isinstance(peak, str) or len(peak) > _LONGEST_PEAK:
        raise Swallowed
    return {
        "start_time_of_day": start,
        "end_time_of_day": end,
        "peak_type": peak,
        "power": Decimal(str(power)),
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Times of day come back as Python writes them."""
    return row | {name: _written(row[name]) for name in ("start_time_of_day", "end_time_of_day")}


def _written(text: str) -> str:
    hours, rest = text.split(":", 1)
    return f"1 day, 0:{rest}" if int(hours) == 24 else f"{int(hours)}:{rest}"


async def offline_input(site: Site, request: web.Request) -> web.Response:
    """Store totals of days: the day is deleted first, and the value judged afterwards."""
    try:
        said = msgspec.json.decode(await request.read())
        meter, rows = said["meter"], [(day, Decimal(total)) for day, total in said["value"]]
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, ArithmeticError):
        raise broken() from None
    if meter != 1:
        raise no(404, "API.OFFLINE_METER_NOT_FOUND")
    for day, total in rows:
        site.offline_days.pop((meter, day), None)
        if not 0 <= total / 24 <= Decimal("999.999"):
            raise no(400, "API.INVALID_OFFLINE_METER_VALUE")
        site.offline_days[meter, day] = total
    return told({})


async def offline_file(site: Site, request: web.Request) -> web.Response:
    """Take a form with a file in; nothing reads it here."""
    head = f"Content-Type: {request.headers.get('Content-Type', '')}\r\n\r\n".encode()
    parts = message_from_bytes(head + await request.read()).walk()
    upload = next((part for part in parts if part.get_filename()), None)
    if upload is None or upload.get_param("name", header="Content-Disposition") != "file":
        raise broken()
    content = upload.get_payload(decode=True)
    assert isinstance(content, bytes)
    site.offline_files.append(f"{upload.get_filename()} {len(content)}")
    return created(f"/offlinemeterfiles/{len(site.offline_files)}")
