"""`fpd export` and `fpd import`: all that a user has set up, as one file to keep and compare."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from fpd.cli.frame import config_option, in_context, load, printable, user_option
from fpd.errors import FpdError, Malformed

if TYPE_CHECKING:
    from fpd.flows.context import Context
    from fpd.flows.manage.carry import Carried

_LARGEST = 64 * 1024 * 1024  # bytes


@click.command("export")
@config_option
@user_option
@click.option(
    "--with-secrets",
    is_flag=True,
    help="Secrets too, sealed: they open with this installation's key file only.",
)
@click.argument("file_out", metavar="[FILE]", type=click.Path(path_type=Path), required=False)
def export(file: Path | None, user_id: int, with_secrets: bool, file_out: Path | None) -> None:
    """Write all entities of a user as one TOML file: to FILE, else to standard output.

    Registrations and tokens are not part of it.

    \b
    Examples:
      fpd export site.toml
      fpd export --with-secrets | gzip > site.toml.gz
    """
    from fpd.flows.manage import archive

    async def act(context: Context) -> str:
        return await archive.export(context, user_id=user_id, with_secrets=with_secrets)

    text = in_context(load(file), act)
    if file_out is None or str(file_out) == "-":
        click.echo(text, nl=False)
    else:
        _write(file_out, text)


@click.command("import")
@config_option
@user_option
@click.option("--dry-run", "dry", is_flag=True, help="Only show what would change.")
@click.option("--prune", is_flag=True, help="Delete what the file does not name.")
@click.argument("stream", metavar="FILE", type=click.File("rb"))
def import_(file: Path | None, user_id: int, dry: bool, prune: bool, stream: BinaryIO) -> None:
    """Make the entities of a user be as FILE says (- is standard input), all or nothing.

    The first token of each new peer is shown once. What is in order stays untouched, secrets that
    the file does not have too.

    \b
    Examples:
      fpd import site.toml --dry-run
      fpd import site.toml
      fpd import site.toml --prune
    """
    from fpd.flows.manage import carry

    text = _read(stream)

    async def act(context: Context) -> Carried:
        return await carry.carry(context, text, user_id=user_id, prune=prune, dry=dry)

    _tell(in_context(load(file), act), dry=dry)


def _tell(carried: Carried, *, dry: bool) -> None:
    from fpd.flows.manage.archive import label
    from fpd.flows.manage.carry import Deed

    for step in carried.steps:
        if step.deed is not Deed.UNCHANGED:
            fields = f": {', '.join(step.fields)}" if step.fields else ""
            click.echo(f"{step.deed:7} {printable(label(step.address))}{fields}")
    counts = {deed: carried.count(deed) for deed in Deed}
    same = counts.pop(Deed.UNCHANGED)
    if not any(counts.values()):
        click.echo(f"nothing changes: {same} unchanged")
        return
    said = ", ".join(f"{count} to {deed}" for deed, count in counts.items() if count)
    click.echo(f"{said}, {same} unchanged{'' if dry else ': done'}")
    for name, token in carried.tokens.items():
        click.echo(f"first token of {printable(name)}: {token}")
    if carried.tokens:
        click.echo("Keep the tokens now: they are not shown again.", err=True)


def _read(stream: BinaryIO) -> str:
    try:
        raw = stream.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise Malformed(f"the file is larger than {_LARGEST} bytes")
        return raw.decode()
    except UnicodeDecodeError:
        raise Malformed("the file is not UTF-8") from None


def _write(path: Path, text: str) -> None:
    """Write the file as a whole or not at all, for its owner to read. Raises FpdError."""
    draft = None
    try:
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except OSError as error:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        raise FpdError(f"{path}: {error.strerror}") from None
