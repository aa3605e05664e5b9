"""Trying things out: the calculator, the simulators, the demo."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from fpd.cli.frame import config_option
from fpd.errors import Malformed

if TYPE_CHECKING:
    from datetime import datetime


@click.command()
@config_option
@click.argument("document", metavar="[FILE|-]", type=click.File(encoding="utf-8"), default="-")
def translate(file: Path | None, document: TextIO) -> None:
    """Work out what a device would be told: {"kind": …, "in": {…}} → JSON.

    Reads no configuration, database or device.

    \b
    Examples:
      fpd translate question.json
      echo '{"kind": "tick_index", "in": {…}}' | fpd translate
    """
    from fpd.domain.translate import translate as answer

    try:
        question = json.load(document)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{document.name}: not JSON: {error}") from error
    click.echo(json.dumps(answer(question), indent=1, ensure_ascii=False))


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def sim(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Play the other side of a door: a peer, a fuel cell, a battery, a site.

    \b
    Examples:
      fpd sim --help
      fpd sim capacity-provider --help
    """
    from fpd.app import clock
    from fpd.sim.command import sim as roles

    ctx.obj = Tools(clock=clock)
    with roles.make_context("sim", list(arguments), parent=ctx.parent, obj=ctx.obj) as inner:
        roles.invoke(inner)


@dataclass(frozen=True, slots=True)
class Tools:
    """What the simulators are lent: they tell time by our one clock."""

    clock: Callable[[], datetime]


@click.command()
@config_option
@click.option("--once", is_flag=True, help="End after the tour: 0 only if every stage was seen.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep logs and data.")
def demo(file: Path | None, once: bool, keep: Path | None) -> None:
    """See it all work: the daemon with simulated peers and devices, on loopback.

    \b
    Examples:
      fpd demo
      fpd demo --once --keep /tmp/demo
    """
    from fpd.app import clock
    from fpd.sim.demo import demo as tour

    sys.exit(tour(once=once, clock=clock, keep=keep))
