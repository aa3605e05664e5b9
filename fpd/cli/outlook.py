"""What is to come of a capacity group, and what of it cannot be kept, at a terminal."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fpd.cli.frame import config_option, print_table, printable
from fpd.cli.groups import (
    ask,
    before_option,
    json_option,
    max_option,
    of_group,
    plain,
    print_json,
    print_rows,
)
from fpd.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fpd.flows import planned
    from fpd.flows.context import Context

_ROUGHLY = 10  # W, and %
_TROUBLE = "id forecastId block reason direction from until byW since told.state cleared"


@click.command("troubles")
@config_option
@of_group
@click.option("--all", "everything", is_flag=True, help="Also what can be kept again or is over.")
@before_option
@max_option
@json_option
def groups_troubles(
    file: Path | None,
    group_id: int,
    everything: bool,
    before: int | None,
    limit: int,
    as_json: bool,
) -> None:
    """The blocks of forecasts that cannot be kept, why, and what their provider was told.

    \b
    Examples:
      fpd oscp groups troubles 1
      fpd oscp groups troubles 1 --all --json
    """
    from fpd.flows import explain
    from fpd.web.truth_documents import in_trouble

    async def read(context: Context) -> Any:
        rows, _ = await explain.troubles(
            context,
            user_id=None,
            group_id=group_id,
            open_only=not everything,
            before=before,
            limit=limit,
        )
        return [in_trouble(row) for row in rows]

    found = plain(ask(file, group_id, read))
    if as_json:
        print_json(found)
    else:
        print_rows("", _TROUBLE, found)


@click.command("plan")
@config_option
@of_group
@click.option("--hours", type=click.IntRange(1, 168), default=24, show_default=True)
@json_option
def groups_plan(file: Path | None, group_id: int, hours: int, as_json: bool) -> None:
    """Who is to carry what over the next days, and what limits cannot be kept.

    A line for each time at which something changes by more than a little; powers are W, those of
    devices delivered (charging negative).

    \b
    Examples:
      fpd oscp groups plan 1
      fpd oscp groups plan 1 --hours 168 --json
    """
    from fpd.flows import planned
    from fpd.web import plan_documents

    async def read(context: Context) -> planned.Planned | None:
        return await planned.read(context, user_id=None, group_id=group_id)

    plan = ask(file, group_id, read)
    if plan is None:
        raise Unknown(f"there is no plan of capacity group {group_id} yet")
    if as_json:
        print_json(plain(plan_documents.shown(plan, most=4 * hours)))
        return
    click.echo(printable(f"made {plan.row.made_at:%Y-%m-%d %H:%M:%S}Z: {plan.row.source}"))
    click.echo(printable(f"load expected: {plan.load.source}"))
    columns, rows = _lines(plan, hours=hours)
    print_table("", columns, rows)
    if plan.row.breaks:
        print_rows("not kept", "from to which by_w reason", [dict(one) for one in plan.row.breaks])


def _lines(plan: planned.Planned, *, hours: int) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and, for each time at which something else is planned, a row."""
    names = ("load_w", "import_limit_w", "export_limit_w", "net_w")
    given = [plan.row.periods[name] for name in names]
    columns = ["from", "loadW", "importLimitW", "exportLimitW", "netW"]
    for told in plan.devices.values():
        if told.power_w is not None:
            columns.append(told.name)
            given.append(told.power_w)
        if told.soc is not None:
            columns.append(f"{told.name} %")
            given.append([round(soc) for soc in told.soc])
    rows: list[list[Any]] = []
    for position, values in enumerate(zip(*given, strict=True)):
        if position < 4 * hours and (not rows or _differ(rows[-1][1:], values)):
            at = plan.row.from_at + position * timedelta(minutes=15)
            rows.append([f"{at:%a %H:%M}", *values])
    return columns, rows


def _differ(before: Sequence[Any], after: Sequence[Any]) -> bool:
    return any(
        (a is None) != (b is None) or (a is not None and abs(a - b) > _ROUGHLY)
        for a, b in zip(before, after, strict=True)
    )
