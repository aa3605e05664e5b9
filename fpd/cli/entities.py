"""Managed entities at a terminal: list, show, create, update, delete, as in the management API."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fpd.cli.frame import (
    at,
    config_option,
    in_context,
    load,
    print_entity,
    print_table,
    user_option,
)
from fpd.cli.given import Given, field_options, fields_epilog
from fpd.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fpd.flows.context import Context
    from fpd.flows.manage.entity import Entity
    from fpd.store.entities import Row

T = TypeVar("T")

ID = click.IntRange(1, 2**63 - 1)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of entity as commands have it. `columns` are those of its table."""

    name: str
    noun: str
    columns: str
    example: str
    of_group: bool = False


PROVIDERS = Kind(
    name="providers",
    noun="capacity provider",
    columns="configId name enabled registrationStatus baseUrl",
    example="--name 'Lines Co.' --enabled --set baseUrl=https://cp.example.org/oscp/cp/2.0",
)
OPTIMIZERS = Kind(
    name="optimizers",
    noun="capacity optimizer",
    columns="configId name enabled registrationStatus baseUrl",
    example="--name 'Optimizer Co.' --enabled --set-file "
    "serviceProps.oauth-client-secret=secret.txt --set serviceProps.oauth-client-id=c-1",
)
GROUPS = Kind(
    name="groups",
    noun="capacity group",
    columns="configId identifier name enabled capacityProviderId capacityProviderMeasurementPeriod "
    "capacityOptimizerId capacityOptimizerMeasurementPeriod",
    example="--name 'My Group' --enabled --set identifier=my-group --set capacityProviderId=1 "
    "--set capacityProviderMeasurementPeriod=FifteenMinute --set control.staticImportLimit=11000",
)
ASSETS = Kind(
    name="assets",
    noun="asset",
    columns="configId capacityGroupId identifier name enabled audience nodeId sourceId category "
    "phase control.device",
    example="--name 'Charger 1' --enabled --set capacityGroupId=1 --set identifier=charger-1 "
    "--set audience=CapacityProvider --set nodeId=123 --set sourceId=charger/1 "
    "--set category=Charging --set phase=All --set energy.unit=Wh "
    "--set energy.propertyNames=wattHours",
    of_group=True,
)


def entity_of(kind: Kind) -> Entity:
    from fpd.flows.manage import groups, peers

    return {
        "providers": peers.PROVIDER,
        "optimizers": peers.OPTIMIZER,
        "groups": groups.GROUP,
        "assets": groups.ASSET,
    }[kind.name]


def add_commands(group: click.Group, kind: Kind, *, listed: bool = True) -> None:
    """Give `group` the commands for a kind of entity; `listed` False: it lists them itself."""
    makers = [_show, _create, _update, _delete]
    for make in ([_list] if listed else []) + makers:
        group.add_command(make(kind))


class FieldsCommand(click.Command):
    """A command whose help ends with the fields that can be set."""

    of: Callable[[], Entity]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Fields"):
            formatter.write_text(", ".join(fields_epilog(self.of().fields)))


def _list(kind: Kind) -> click.Command:
    @click.command(
        "list",
        help=f"Show every {kind.noun} of a user, or a part of them.\n\n"
        f"\b\nExamples:\n  fpd oscp {kind.name} list\n"
        f"  fpd oscp {kind.name} list --max 100 --offset 200\n"
        f"  fpd oscp {kind.name} list --json | jq '.[].name'",
    )
    @config_option
    @user_option
    @click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many first.")
    @click.option("--max", "limit", type=click.IntRange(1), help="Show at most so many.")
    @json_option
    def command(
        file: Path | None,
        user_id: int,
        offset: int,
        limit: int | None,
        as_json: bool,
        group_id: int | None = None,
    ) -> None:
        from fpd.flows.manage import changes, groups
        from fpd.store import entities

        entity = entity_of(kind)

        async def read(context: Context) -> list[dict[str, Any]]:
            async with context.db.connection() as conn:
                if group_id is not None:
                    await changes.find(conn, groups.GROUP, user_id, group_id)
                rows = entities.page(
                    conn,
                    entity.table,
                    user_id=user_id,
                    group_id=group_id,
                    limit=limit,
                    offset=offset,
                )
                async with aclosing(rows):
                    return [shown(entity, row) async for row in rows]

        found = ask(file, "capacity group", group_id, read)
        print_entities(found, kind.columns, as_json=as_json)

    if kind.of_group:
        command = click.option("--group", "group_id", type=ID, help="Of the group with this id.")(
            command
        )
    return command


def _show(kind: Kind) -> click.Command:
    @click.command(
        "show",
        help=f"Show one {kind.noun}. Secrets are not shown.\n\n"
        f"\b\nExamples:\n  fpd oscp {kind.name} show 1\n  fpd oscp {kind.name} show 1 --json",
    )
    @config_option
    @user_option
    @click.argument("id", type=ID)
    @json_option
    def command(file: Path | None, user_id: int, id: int, as_json: bool) -> None:
        from fpd.flows.manage import changes

        entity = entity_of(kind)

        async def read(context: Context) -> Row:
            async with context.db.connection() as conn:
                return await changes.find(conn, entity, user_id, id)

        print_one(shown(entity, ask(file, kind.noun, id, read)), as_json=as_json)

    return command


def _create(kind: Kind) -> click.Command:
    secret = " Its first token is shown once." if kind in (PROVIDERS, OPTIMIZERS) else ""

    @click.command(
        "create",
        cls=FieldsCommand,
        help=f"Make {_a(kind.noun)}.{secret}\n\n"
        f"\b\nExamples:\n  fpd oscp {kind.name} create {_folded(kind.example)}\n"
        f"  fpd oscp {kind.name} create --from - < {kind.name}.json",
    )
    @config_option
    @user_option
    @field_options
    @json_option
    def command(file: Path | None, user_id: int, as_json: bool, **said: Any) -> None:
        from fpd.flows.manage import creating

        entity = entity_of(kind)
        given = Given(entity, **said).revise({})

        async def act(context: Context) -> Row:
            await of_user(context, user_id)
            return await creating.create(context, entity, user_id=user_id, given=given)

        print_one(shown(entity, ask(file, kind.noun, None, act)), as_json=as_json)

    command.of = lambda: entity_of(kind)
    return command


def _update(kind: Kind) -> click.Command:
    @click.command(
        "update",
        cls=FieldsCommand,
        help=f"Change {_a(kind.noun)}: the given fields, or with --from all of it.\n\n"
        f"\b\nExamples:\n  fpd oscp {kind.name} update 1 --name 'Another name'\n"
        f"  fpd oscp {kind.name} update 1 --from {kind.name}.json",
    )
    @config_option
    @user_option
    @click.argument("id", type=ID)
    @field_options
    @click.option("--unset", metavar="FIELD", multiple=True, help="Forget this field.")
    @json_option
    def command(file: Path | None, user_id: int, id: int, as_json: bool, **said: Any) -> None:
        from fpd.flows.manage import changes

        entity = entity_of(kind)
        given = Given(entity, **said)

        async def act(context: Context) -> Row:
            return await changes.revise(
                context, entity, user_id=user_id, id=id, revised=given.revise
            )

        print_one(shown(entity, ask(file, kind.noun, id, act)), as_json=as_json)

    command.of = lambda: entity_of(kind)
    return command


def _delete(kind: Kind) -> click.Command:
    more = " Its assets and settings go with it." if kind is GROUPS else ""

    @click.command(
        "delete",
        help=f"Remove {_a(kind.noun)}, unless it is in use.{more}\n\n"
        f"\b\nExample:\n  fpd oscp {kind.name} delete 1",
    )
    @config_option
    @user_option
    @click.argument("id", type=ID)
    def command(file: Path | None, user_id: int, id: int) -> None:
        from fpd.flows.manage import changes

        async def act(context: Context) -> None:
            await changes.delete(context, entity_of(kind), user_id=user_id, id=id)

        ask(file, kind.noun, id, act)
        click.echo(f"{kind.noun} {id} is deleted")

    return command


def ask(
    file: Path | None, noun: str, id: int | None, action: Callable[[Context], Awaitable[T]]
) -> T:
    """Run `action` beside the daemon; what an id does not name is told in words."""
    from fpd.flows.manage.refusals import Absent

    try:
        return in_context(load(file), action)
    except Absent:
        raise Unknown(f"there is no {noun} {id}") from None


async def of_user(context: Context, user_id: int) -> None:
    """Have the user for whom something is made."""
    from fpd.store import accounts

    async with context.db.transaction() as conn:
        await accounts.ensure(conn, user_id=user_id, now=context.clock())


def shown(entity: Entity, row: Row) -> dict[str, Any]:
    from fpd.flows.manage import fields

    return fields.show(entity.fields, row)


def print_entities(found: list[dict[str, Any]], columns: str, *, as_json: bool) -> None:
    if as_json:
        from msgspec import json

        click.echo(b"[" + b",\n ".join(map(json.encode, found)) + b"]")
        return
    names = columns.split()
    print_table("", names, [[_cell(at(row, name)) for name in names] for row in found])


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def print_one(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        from msgspec import json

        click.echo(json.format(json.encode(found), indent=2))
        return
    print_entity(found)
    if "token" in found:
        click.echo("Keep the token now: it is not shown again.", err=True)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _folded(example: str) -> str:
    return example.replace(" --set", " \\\n      --set")
