"""A restart hands devices over: they go on as they were told until the next daemon is there.

What they were told stands in a file meanwhile, so that the next daemon can let go of them even if
it finds no database, and `fpd release --after-stop` knows that somebody answers for them.

Interpretation (reference: devices §5.9): nobody stands by a setpoint for the seconds of a planned
restart; that is less harm than a limit that is not kept. Any other end lets go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from fpd.adapters.device import Setpoint
from fpd.config import Config
from fpd.flows.devices import Told

log = structlog.get_logger()

_FILE: Final = "handed-over.json"


class _Told(msgspec.Struct, frozen=True):
    power_w: int
    memory: dict[str, Any]


def path(config: Config) -> Path:
    return config.data_dir / _FILE


def leave(config: Config, told: Mapping[str, Told]) -> set[str]:
    """Write down what devices go on with; return those that may."""
    if not told:
        return set()
    kept = {
        name: _Told(one.setpoint.power_w, dict(msgspec.to_builtins(one.memory)))
        for name, one in told.items()
    }
    unfinished = path(config).with_suffix(".new")
    try:
        unfinished.touch(mode=0o600)
        unfinished.write_bytes(msgspec.json.encode(kept))
        os.replace(unfinished, path(config))
    except OSError as error:
        log.warning("devices.not_handed_over", reason=str(error))
        return set()
    log.info("devices.handed_over", devices=sorted(kept))
    return set(kept)


def take(config: Config) -> dict[str, Told]:
    """Return what our devices were handed over with, once: from now on we answer for them."""
    try:
        text = path(config).read_bytes()
        path(config).unlink()
        found = msgspec.json.decode(text, type=dict[str, _Told])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        log.warning("devices.handed_over_unread", reason=str(error))
        return {}
    ours = {device.name for device in config.devices}
    return {
        name: Told(Setpoint(power_w=one.power_w), one.memory)
        for name, one in found.items()
        if name in ours
    }


def heirs(before: Config, after: Config) -> set[str]:
    """Return the devices of which a daemon that is started with `after` takes care as before."""
    if (before.data_dir, before.database) != (after.data_dir, after.database):
        return set()
    return {device.name for device in before.devices if device in after.devices}
