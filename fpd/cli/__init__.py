"""The command line: finds the configuration, calls one thing, says how it went.

Exit codes: 0 it worked; 1 it did not; 2 the command, its input or the configuration is wrong.
What is heavy is imported by the command that needs it: `fpd translate` opens no database.
"""

from __future__ import annotations

import click

from fpd import __version__
from fpd.cli import (
    bluegen,
    datum,
    messages,
    myems,
    oscp,
    reengen,
    release,
    service,
    site,
    tokens,
    trial,
)
from fpd.cli.frame import CONTEXT, Commands


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="fpd")
def main() -> None:
    """A self-hosted OSCP 2.0 Flexibility Provider.

    See it work with `fpd demo`; then `fpd check-config -c FILE` and `fpd run -c FILE`.
    """


for _command in (
    *(service.run, service.check_config, service.migrate, service.status, release.release),
    *(tokens.token, oscp.oscp, messages.messages, datum.datum, site.export, site.import_),
    bluegen.bluegen,
    *(myems.myems, reengen.reengen),
    *(trial.translate, trial.sim, trial.demo),
):
    main.add_command(_command)
