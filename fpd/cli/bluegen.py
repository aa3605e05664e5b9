"""Fuel cells by hand: what the service has, how they are, how their profiles are read."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fpd.cli.frame import (
    config_option,
    in_context,
    load,
    print_entity,
    print_table,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fpd.adapters.bluegen_calibrating import Intent
    from fpd.adapters.bluegen_memory import Kept
    from fpd.domain.control.calibration import Findings
    from fpd.flows.bluegen_desk import Desk, Known
    from fpd.flows.context import Context

    T = TypeVar("T")

_DEVICE = click.argument("device")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_LOOK_EVERY_S = 30.0
_REPORTS_LATER = timedelta(minutes=10)  # until the last reports of an experiment can be read


@click.group()
def bluegen() -> None:
    """Fuel cells of the BlueGen web service; DEVICE is the name in the configuration.

    Requests to the service count against the account's daily quota.

    \b
    Examples:
      fpd bluegen status
      fpd bluegen units
      fpd bluegen calibrate cell-1
    """


def _at_desk(file: Path | None, act: Callable[[Desk], Awaitable[T]]) -> T:
    from fpd.flows.bluegen_desk import desk

    async def opened(context: Context) -> T:
        async with desk(context) as found:
            return await act(found)

    return in_context(load(file), opened)


@bluegen.command()
@config_option
@_JSON
def units(file: Path | None, as_json: bool) -> None:
    """The units of each account, and how they are. Asks the service."""
    rows = _at_desk(file, lambda desk: desk.units())
    columns = "account unit name device model state profiling profile tz"
    _show(rows, columns.split(), as_json)


@bluegen.command()
@config_option
@_JSON
def profiles(file: Path | None, as_json: bool) -> None:
    """The profiles of each account, whose they are and who follows them. Asks the service."""
    rows = _at_desk(file, lambda desk: desk.profiles())
    _show(rows, ["account", "profile", "name", "ours", "units"], as_json)


def _show(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        print_table("", columns, [[row[name] for name in columns] for row in rows])


@bluegen.command()
@config_option
@_JSON
def status(file: Path | None, as_json: bool) -> None:
    """How fpd knows the fuel cells to be: health, profile, quota. Asks nothing of the service."""
    rows = [_status(known) for known in _at_desk(file, lambda desk: desk.known())]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for number, row in enumerate(rows):
        click.echo("\n" if number else "", nl=False)
        print_entity(_said(row))


def _said(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is not known."""
    return {
        name: _said(value) if isinstance(value, dict) else value
        for name, value in row.items()
        if value is not None
    }


def _status(known: Known) -> dict[str, Any]:
    state, kept, stop = known.state, known.kept, known.notes.get("stop")
    reading = (state.reading if state else None) or {}
    running = kept.calibration
    return {
        "device": known.device.name,
        "unit": known.device.unit_id,
        "health": state.health if state else "unknown",
        "detail": state.detail if state else "no daemon has spoken to it yet",
        "outputWatts": reading.get("output_w"),
        "readAt": _instant(state.reading_at if state else None),
        "assignedProfile": reading.get("profile_id"),
        "ownProfiles": list(kept.slots),
        "originalProfile": kept.original_pid,
        "assignedAt": _instant(kept.told_at),
        "followed": kept.follows,
        "weekDoubted": kept.folded_from,
        "reportsEverySeconds": kept.rhythm.period_s,
        "account": {
            "username": known.device.username,
            "day": known.day,
            "requests": known.requests,
            "quota": known.device.quota_per_day,
            "quotaLearned": known.notes.get("learned"),
            "stopped": stop.get("reason") if isinstance(stop, dict) else None,
        },
        "calibrationEndsAt": _instant(running.experiment.ends_at if running else None),
        "calibratedAt": _instant(kept.found_at),
        "calibration": kept.findings.why if kept.findings else None,
    }


def _instant(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%S}Z"


@bluegen.command()
@config_option
@_DEVICE
@click.option(
    "--wait-hours",
    type=click.FloatRange(0.25, 24),
    default=2.0,
    show_default=True,
    help="From now to the dip: longer than a profile takes to reach the unit.",
)
@click.option("--yes", is_flag=True, help="You agree to what it does: do not ask.")
@click.option("--detach", is_flag=True, help="Begin, and do not wait for the end.")
@click.option("--evaluate", is_flag=True, help="Go on with an experiment that was begun.")
def calibrate(
    file: Path | None, device: str, wait_hours: float, yes: bool, detach: bool, evaluate: bool
) -> None:
    """Find out how a unit reads profiles, by an experiment of some hours with its output.

    Tells the first day of its week, the zone, the semantics and how long a profile takes, as lines
    for the configuration. It may be interrupted, and goes on with --evaluate.

    \b
    Examples:
      fpd bluegen calibrate cell-1
      fpd bluegen calibrate cell-1 --yes --detach
      fpd bluegen calibrate cell-1 --evaluate
    """
    if not evaluate:
        wait = timedelta(hours=wait_hours)
        intent = _at_desk(file, lambda desk: desk.intend(device, wait=wait))
        _tell_intent(device, intent)
        if not yes:
            click.confirm("Do you agree?", abort=True)
        _at_desk(file, lambda desk: desk.calibrate(device, intent.experiment))
        click.echo("begun: written, assigned and read back")
        if detach:
            click.echo(f"see what came of it: fpd bluegen calibrate {printable(device)} --evaluate")
            return
    _await_end(file, device)
    findings = _at_desk(file, lambda desk: desk.conclude(device))
    _tell_findings(findings)


def _tell_intent(device: str, intent: Intent) -> None:
    plan = intent.experiment
    depths = [guess.power_w for guess in plan.guesses]
    click.echo(
        f"{printable(device)} delivers {_watts(intent.output_w)} now. This writes one of fpd's own "
        f"profiles and assigns it:\n"
        f"  {plan.base_w} W from when it reaches the unit until {plan.ends_at:%Y-%m-%d %H:%M}Z,\n"
        f"  but from {plan.dip_at:%H:%M}Z to {plan.dip_ends_at:%H:%M}Z once something between "
        f"{min(depths)} and {max(depths)} W, by which day its week begins.\n"
        "Then the unit gets back what it follows now. A limit that comes meanwhile ends it at once."
    )


def _watts(power_w: float | None) -> str:
    return "an unknown power" if power_w is None else f"{power_w:.0f} W"


def _await_end(file: Path | None, device: str) -> None:
    """Show what is seen until the experiment is over. Interrupting changes nothing."""
    from fpd.app import clock
    from fpd.flows.bluegen_desk import remaining

    shown = 0
    while True:
        kept: Kept = _at_desk(file, lambda desk: desk.look(device))
        left = remaining(kept, clock() - _REPORTS_LATER)
        if kept.calibration is None or left is None:
            return
        for at, watts in kept.calibration.samples[shown:]:
            click.echo(f"{at:%H:%M:%S}Z {watts:7.0f} W")
        shown = len(kept.calibration.samples)
        if not left:
            return
        dip_in = (kept.calibration.experiment.dip_at - clock()).total_seconds() / 60
        when = f"the dip begins in {dip_in:.0f} min, " if dip_in > 0 else ""
        click.echo(f"  {when}{left.total_seconds() / 60:.0f} min to go", err=True)
        time.sleep(min(_LOOK_EVERY_S, max(left.total_seconds(), 1.0)))


def _tell_findings(findings: Findings) -> None:
    click.echo(findings.why)
    if findings.lag_s is not None:
        click.echo(f"a profile took at most {findings.lag_s / 60:.0f} min to reach the unit")
    lines = []
    if findings.anchor is not None:
        lines += [f'week_anchor = "{findings.anchor}"', f'week_tz = "{findings.tz}"']
    if findings.semantics is not None:
        lines.append(f'profile_semantics = "{findings.semantics}"')
    if findings.lag_s is not None:
        lines.append(f"delivery_lead_s = {max(round(findings.lag_s * 1.5), 900)}")
    if not lines:
        click.echo("nothing to set: try again, with a longer --wait-hours if it came too late")
        return
    click.echo("for its [[device]] in the configuration:")
    for line in lines:
        click.echo(f"  {line}")


@bluegen.command()
@config_option
@_DEVICE
def unlock(file: Path | None, device: str) -> None:
    """Forget what stopped the account of DEVICE (refused logins, a quota): it is tried again."""
    _at_desk(file, lambda desk: desk.unlock(device))
    click.echo("unlocked: the next visit tries again")


@bluegen.command()
@config_option
@_DEVICE
@click.password_option(help="The password of the account; asked for if left out.")
def encrypt(file: Path | None, device: str, password: str) -> None:
    """Encrypt a password with the service's key, for password_mode = "stored_ciphertext"."""
    stored, issued_on = _at_desk(file, lambda desk: desk.encrypt(device, password))
    click.echo('password_mode = "stored_ciphertext"')
    click.echo(f'key_issued_on = "{printable(issued_on)}"')
    click.echo(f'password = "{stored}"')


@bluegen.command()
@config_option
@_DEVICE
@click.option("--yes", is_flag=True, help="Do not ask.")
def uninstall(file: Path | None, device: str, yes: bool) -> None:
    """Give the unit back what it followed before fpd, and delete fpd's profiles of it.

    Take the device out of its group first. Profiles of others are never touched.
    """
    if not yes:
        click.confirm(f"Delete fpd's profiles of {printable(device)}?", abort=True)
    deleted = _at_desk(file, lambda desk: desk.uninstall(device))
    click.echo(f"deleted: {', '.join(map(printable, deleted)) or 'nothing, there was none'}")
