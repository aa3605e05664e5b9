"""Publishing settings at a terminal: the user's own, and those of groups that override them."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fpd.cli.entities import (
    ID,
    FieldsCommand,
    ask,
    json_option,
    of_user,
    print_entities,
    print_one,
    shown,
)
from fpd.cli.frame import config_option, user_option
from fpd.cli.given import Given, field_options
from fpd.errors import Conflict, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from fpd.flows.context import Context
    from fpd.flows.manage.entity import Entity
    from fpd.store.entities import Row

_COLUMNS = "userId groupId publishToSolarIn publishToSolarFlux nodeId sourceIdTemplate"


@click.group()
def settings() -> None:
    """Where generated datum are published: a user's settings, and those of single groups.

    What a group's settings leave open is as the user's say.

    \b
    Examples:
      fpd oscp settings update --set nodeId=2 --set publishToSolarFlux=true
      fpd oscp settings update --group 1 --set nodeId=3
      fpd oscp settings list
    """


_group = click.option("--group", "group_id", type=ID, help="Those of the group with this id.")


@settings.command("list")
@config_option
@user_option
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many groups first.")
@click.option("--max", "limit", type=click.IntRange(1), help="Show at most so many groups.")
@json_option
def settings_list(
    file: Path | None, user_id: int, offset: int, limit: int | None, as_json: bool
) -> None:
    """Show the user's settings, then those of groups.

    \b
    Examples:
      fpd oscp settings list
      fpd oscp settings list --json
    """
    from fpd.flows.manage import groups
    from fpd.store import entities

    async def read(context: Context) -> list[dict[str, Any]]:
        entity = groups.GROUP_SETTINGS
        async with context.db.connection() as conn:
            own = await entities.find(conn, groups.USER_SETTINGS.table, user_id=user_id, id=user_id)
            rows = entities.page(conn, entity.table, user_id=user_id, limit=limit, offset=offset)
            async with aclosing(rows):
                found = [shown(entity, row) async for row in rows]
        return ([shown(groups.USER_SETTINGS, own)] if own else []) + found

    print_entities(ask(file, "", None, read), _COLUMNS, as_json=as_json)


@settings.command("show")
@config_option
@user_option
@_group
@json_option
def settings_show(file: Path | None, user_id: int, group_id: int | None, as_json: bool) -> None:
    """Show the user's settings, or a group's.

    \b
    Examples:
      fpd oscp settings show
      fpd oscp settings show --group 1 --json
    """
    entity, id = _of(user_id, group_id)
    row = ask(file, "capacity group", group_id, lambda context: _find(context, entity, user_id, id))
    if row is None:
        raise Unknown(f"{_whose(user_id, group_id)} has no settings")
    print_one(shown(entity, row), as_json=as_json)


def _writer(name: str, help: str) -> Callable[[Callable[..., Any]], click.Command]:
    def wrap(work: Callable[..., Any]) -> click.Command:
        command: Any = click.command(name, cls=FieldsCommand, help=help)(
            config_option(user_option(_group(field_options(json_option(work)))))
        )
        command.of = lambda: _of(1, None)[0]
        made: click.Command = command
        return made

    return wrap


@_writer(
    "create",
    "Set settings for the first time.\n\n"
    "\b\nExamples:\n  fpd oscp settings create --set nodeId=2\n"
    "  fpd oscp settings create --group 1 --from settings.json",
)
def settings_create(
    file: Path | None, user_id: int, group_id: int | None, as_json: bool, **said: Any
) -> None:
    _put(file, user_id, group_id, as_json, said, new=True)


@_writer(
    "update",
    "Set settings, or change the given fields of them; with --from all of it.\n\n"
    "\b\nExamples:\n  fpd oscp settings update --set publishToSolarIn=false\n"
    "  fpd oscp settings update --group 1 --unset nodeId",
)
@click.option("--unset", metavar="FIELD", multiple=True, help="Forget this field.")
def settings_update(
    file: Path | None, user_id: int, group_id: int | None, as_json: bool, **said: Any
) -> None:
    _put(file, user_id, group_id, as_json, said, new=False)


@settings.command("delete")
@config_option
@user_option
@_group
def settings_delete(file: Path | None, user_id: int, group_id: int | None) -> None:
    """Forget the user's settings, or a group's.

    \b
    Examples:
      fpd oscp settings delete
      fpd oscp settings delete --group 1
    """
    from fpd.flows.manage import changes

    entity, id = _of(user_id, group_id)

    async def act(context: Context) -> bool:
        return await changes.delete_settings(context, entity, user_id=user_id, id=id)

    was = ask(file, "capacity group", group_id, act)
    whose = _whose(user_id, group_id)
    click.echo(f"the settings of {whose} are deleted" if was else f"{whose} has no settings")


settings.add_command(settings_create)
settings.add_command(settings_update)


def _put(
    file: Path | None,
    user_id: int,
    group_id: int | None,
    as_json: bool,
    said: dict[str, Any],
    *,
    new: bool,
) -> None:
    from fpd.flows.manage import changes

    entity, id = _of(user_id, group_id)
    given = Given(entity, **said)

    async def act(context: Context) -> Row:
        await of_user(context, user_id)
        before = await _find(context, entity, user_id, id)
        if before is not None and new:
            raise Conflict(f"{_whose(user_id, group_id)} has settings: update them")
        revised = given.revise(shown(entity, before) if before else {})
        return await changes.put_settings(context, entity, user_id=user_id, id=id, given=revised)

    print_one(shown(entity, ask(file, "capacity group", group_id, act)), as_json=as_json)


async def _find(context: Context, entity: Entity, user_id: int, id: int) -> Row | None:
    from fpd.flows.manage import changes
    from fpd.store import entities

    async with context.db.connection() as conn:
        await changes.owner(conn, entity, user_id, id)
        return await entities.find(conn, entity.table, user_id=user_id, id=id)


def _of(user_id: int, group_id: int | None) -> tuple[Entity, int]:
    from fpd.flows.manage import groups

    if group_id is None:
        return groups.USER_SETTINGS, user_id
    return groups.GROUP_SETTINGS, group_id


def _whose(user_id: int, group_id: int | None) -> str:
    return f"user {user_id}" if group_id is None else f"capacity group {group_id}"
