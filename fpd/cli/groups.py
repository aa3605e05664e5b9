"""What a capacity group may do, might and has heard, at a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fpd.cli.frame import at as place
from fpd.cli.frame import config_option, in_context, load, print_table, printable
from fpd.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fpd.flows.context import Context

T = TypeVar("T")

_ID = click.IntRange(1, 2**63 - 1)
_MOST_HOURS = 8784
_TYPES = (*("CONSUMPTION", "GENERATION", "FALLBACK_CONSUMPTION", "FALLBACK_GENERATION", "OPTIMUM"),)
_ENVELOPE = "since until minW maxW optimumW reason forecastIds"


@click.group()
def groups() -> None:
    """Capacity groups: what they are, what they may do, why, and what is planned.

    \b
    Examples:
      fpd oscp groups list
      fpd oscp groups update 1 --disabled
      fpd oscp groups explain 1 --at 2026-01-31T12:00Z
      fpd oscp groups forecasts 1 --view inforce
      fpd oscp groups envelopes 1 --hours 24
      fpd oscp groups troubles 1
      fpd oscp groups plan 1
    """


of_group = click.argument("group_id", metavar="ID", type=_ID)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
max_option = click.option(
    "--max", "limit", type=click.IntRange(1, 1000), default=100, show_default=True
)
before_option = click.option(
    "--before", type=_ID, metavar="ID", help="Older than the one with this id."
)
_since = click.option("--since", metavar="INSTANT", help="From then on.")
_until = click.option("--until", metavar="INSTANT", help="Before then.")


@groups.command("explain")
@config_option
@of_group
@click.option("--at", "at_text", metavar="INSTANT", help="Then; else now.")
@max_option
@json_option
def groups_explain(
    file: Path | None, group_id: int, at_text: str | None, limit: int, as_json: bool
) -> None:
    """Which limit was in force, from which message, and what devices were sent because of it.

    \b
    Examples:
      fpd oscp groups explain 1
      fpd oscp groups explain 1 --at 2026-01-31T12:00Z --json
    """
    from fpd.flows import explain
    from fpd.web import group_documents as documents

    at = _instant(at_text, "--at")

    async def read(context: Context) -> explain.Explained:
        return await explain.explain(context, user_id=None, group_id=group_id, at=at, limit=limit)

    found = plain(documents.explanation(ask(file, group_id, read)))
    if as_json:
        print_json(found)
    else:
        _print_explanation(found)


def _print_explanation(found: dict[str, Any]) -> None:
    click.echo(printable(f"{found['identifier']} ({found['name']}) at {found['at']}"))
    click.echo(printable(found["note"]))
    if found["envelope"] is None:
        return
    print_rows("in force", _ENVELOPE, [found["envelope"]])
    told = [
        {**forecast, "block": _shown(block)}
        for forecast in found["forecasts"]
        for block in forecast["blocks"] + forecast["endedBlocks"]
    ]
    print_rows("because of", "id type peerName requestId received block", told)
    sent = [
        {"device": device["name"], **command, "command": _in_words(command["wanted"])}
        for device in found["devices"]
        for command in device["commands"] or filter(None, [device["standing"]])
    ]
    print_rows("sent", "device envelopeId command sent outcome settled detail", sent)
    seen = [
        {
            **device,
            "told": _in_words(place(device, "now.told")),
            "confirmed": _in_words(place(device, "now.confirmed")),
        }
        for device in found["devices"]
    ]
    print_rows("devices", "name now.health told confirmed now.confirmedAt", seen)


def _in_words(stored: dict[str, Any] | None) -> str | None:
    from fpd.flows import device_rules

    command = device_rules.command_of(stored)
    return None if command is None else device_rules.shown(command)


def _shown(block: dict[str, Any]) -> str:
    value = f"{block['capacity']:g} {block['unit']} on {block['phase']}"
    return f"{value}, {block['start_time']} to {block['end_time']}"


@groups.command("forecasts")
@config_option
@of_group
@click.option(
    "--view",
    type=click.Choice(("received", "inforce")),
    default="received",
    show_default=True,
    help="inforce: what newer ones have left, from now on.",
)
@click.option("--type", "type_", type=click.Choice(_TYPES))
@click.option("--hours", type=click.IntRange(1, _MOST_HOURS), help="How far ahead, of inforce.")
@_since
@_until
@before_option
@max_option
@json_option
def groups_forecasts(
    file: Path | None, group_id: int, view: str, hours: int | None, as_json: bool, **asked: Any
) -> None:
    """The forecasts of a group as received, newest first, or what of them counts.

    \b
    Examples:
      fpd oscp groups forecasts 1 --type CONSUMPTION --max 10
      fpd oscp groups forecasts 1 --view inforce --hours 24 --json
    """
    if view == "inforce":
        if asked["since"] or asked["until"] or asked["before"]:
            raise click.UsageError("--since, --until and --before go with --view received")
        _in_force(file, group_id, asked["type_"], hours, as_json)
    elif hours is not None:
        raise click.UsageError("--hours goes with --view inforce")
    else:
        _received(file, group_id, as_json, **asked)


def _in_force(
    file: Path | None, group_id: int, type_: str | None, hours: int | None, as_json: bool
) -> None:
    from fpd.domain.forecast import ForecastType
    from fpd.flows import explain
    from fpd.web import group_documents as documents

    async def read(context: Context) -> explain.InForce:
        type = None if type_ is None else ForecastType(type_)
        return await explain.in_force(
            context, user_id=None, group_id=group_id, type=type, hours=hours
        )

    found = plain(documents.in_force(ask(file, group_id, read)))
    if as_json:
        print_json(found)
        return
    rows = [{**of, **period} for of in found for period in of["periods"]]
    print_rows("", "type phase since until capacity unit watts peerName forecastId requestId", rows)


def _received(
    file: Path | None,
    group_id: int,
    as_json: bool,
    *,
    type_: str | None,
    since: str | None,
    until: str | None,
    before: int | None,
    limit: int,
) -> None:
    from fpd.domain.forecast import ForecastType
    from fpd.flows import explain
    from fpd.store.explain import Received
    from fpd.web import group_documents as documents

    of = {"since": _instant(since, "--since"), "until": _instant(until, "--until")}

    async def read(context: Context) -> tuple[list[Received], int | None]:
        return await explain.received(
            context,
            user_id=None,
            group_id=group_id,
            type=None if type_ is None else ForecastType(type_),
            before=before,
            limit=limit,
            **of,
        )

    rows, following = ask(file, group_id, read)
    found = plain(documents.received(rows))
    if as_json:
        print_json(found)
        return
    shown = [{**row, "blocks": len(row["blocks"])} for row in found]
    print_rows(
        "", "id type peerId requestId received ends blocks forward.state forward.status", shown
    )
    if following is not None:
        click.echo(f"older ones: --before {following}", err=True)


@groups.command("envelopes")
@config_option
@of_group
@click.option("--hours", type=click.IntRange(1, _MOST_HOURS), help="What is planned so far ahead.")
@_since
@_until
@before_option
@max_option
@json_option
def groups_envelopes(
    file: Path | None,
    group_id: int,
    hours: int | None,
    since: str | None,
    until: str | None,
    before: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """What was in force, newest first, or with --hours what is planned from now on.

    \b
    Examples:
      fpd oscp groups envelopes 1 --since 2026-01-31T00:00Z
      fpd oscp groups envelopes 1 --hours 24
    """
    from fpd.flows import explain
    from fpd.web import group_documents as documents

    if hours is not None and (since or until or before):
        raise click.UsageError("--hours goes without --since, --until and --before")
    of = {"since": _instant(since, "--since"), "until": _instant(until, "--until")}

    async def read(context: Context) -> Any:
        if hours is not None:
            planned = await explain.planned(context, user_id=None, group_id=group_id, hours=hours)
            return documents.planned(planned)
        group, rows, _ = await explain.history(
            context, user_id=None, group_id=group_id, before=before, limit=limit, **of
        )
        return [documents.envelope(row, group) for row in rows]

    found = plain(ask(file, group_id, read))
    if as_json:
        print_json(found)
    else:
        print_rows("", _ENVELOPE if hours is not None else f"id {_ENVELOPE}", found)


def ask(file: Path | None, group_id: int, read: Callable[[Context], Awaitable[T]]) -> T:
    try:
        return in_context(load(file), read)
    except Unknown:
        raise Unknown(f"there is no capacity group {group_id}") from None


def _instant(text: str | None, name: str) -> Any:
    from fpd.web.query import instant

    return None if text is None else instant(text, name)


def plain(document: Any) -> Any:
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(document))


def print_json(found: Any) -> None:
    import json

    click.echo(json.dumps(found))


def print_rows(title: str, columns: str, rows: list[dict[str, Any]]) -> None:
    print_table(title, columns.split(), [[place(row, c) for c in columns.split()] for row in rows])
