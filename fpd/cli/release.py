"""Give devices back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fpd.cli.frame import config_option, in_context, load, print_table
from fpd.errors import FpdError

if TYPE_CHECKING:
    from fpd.config import Config
    from fpd.flows.releasing import Released


@click.command()
@config_option
@click.option(
    "--after-stop",
    is_flag=True,
    help="For systemd's ExecStopPost: the daemon of this configuration has ended. Leaves weekly "
    "profiles, what another daemon looks after, and what a restart takes up again.",
)
def release(file: Path | None, after_stop: bool) -> None:
    """Put every device in its rest state: batteries idle or in their owner's mode, fuel cells
    back to their own profile.

    Works without the database, too: then from the configuration alone. A running daemon may steer
    a device again; pause its group first. Exits with 1 if a device could not be released.

    \b
    Examples:
      fpd release
      fpd release -c /etc/fpd/config.toml --after-stop
    """
    config = load(file)
    if not config.devices:
        click.echo("no devices are configured")
        return
    if _is_handed_over(config, after_stop):
        click.echo("handed over: the service is being restarted")
        return
    outcomes = _released(config, after_stop)
    rows = [[one.device, "released" if one.ok else "FAILED", one.outcome] for one in outcomes]
    print_table("", ["device", "", "outcome"], rows)
    if any(not one.ok for one in outcomes):
        sys.exit(1)


def _is_handed_over(config: Config, after_stop: bool) -> bool:
    """Tell whether a restart takes the devices up again; if not, nobody is to think so."""
    import asyncio

    from fpd import supervisor
    from fpd.flows import handing_over

    if not handing_over.path(config).exists():
        return False
    if after_stop and asyncio.run(supervisor.restarts()):
        return True
    handing_over.take(config)
    return False


def _released(config: Config, after_stop: bool) -> list[Released]:
    import asyncio

    from fpd.app import brief_mqtt, clock
    from fpd.flows import releasing

    try:
        return in_context(config, lambda context: releasing.release(context, after_stop=after_stop))
    except (FpdError, OSError) as away:
        click.echo(f"without the database: {away}", err=True)

    async def straight() -> list[Released]:
        mqtt = brief_mqtt(config)
        try:
            return await releasing.release_straight(
                config, clock=clock, after_stop=after_stop, mqtt=mqtt
            )
        finally:
            mqtt.close()

    return asyncio.run(straight())
