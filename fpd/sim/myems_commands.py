"""Commands of a simulated MyEMS: stored, filled in, published, and carried out by a device."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fpd.sim.answers import Refusal
from fpd.sim.myems_answers import no
from fpd.sim.myems_quirks import MyEmsQuirks
from fpd.sim.myems_site import Command

_FORGETS_ZERO = ((3, 4, 0), (4, 0, 0))  # from and before: sends the stored value instead
_STORES = (5, 1, 0)  # from then on a value that is sent is kept


@dataclass(frozen=True, slots=True)
class Published:
    topic: str
    payload: str


def send(command: Command, data: dict[str, Any], quirks: MyEmsQuirks) -> Published | None:
    """Do what `PUT /commands/{id}/send` does; None when nobody gets it. Raises Refusal.

    From 5.1 on the value is stored before the broker is asked, and erased when none is given.
    """
    value = data.get("set_value")
    if isinstance(value, str):
        raise no(400, "API.INVALID_SET_VALUE")
    shown: Any = int(value) if isinstance(value, bool) else value
    version = _version(quirks)
    if value is None or (value == 0 and _FORGETS_ZERO[0] <= version < _FORGETS_ZERO[1]):
        shown = None if command.set_value is None else float(command.set_value)
    if version >= _STORES:
        command.set_value = None if value is None else Decimal(str(shown))
    if quirks.broker == "down":
        raise no(400, "API.MQTT_CONNECTION_ERROR")
    template = string.Template(command.payload)
    try:
        if shown is None and version < _FORGETS_ZERO[1]:
            payload = template.template
        else:
            payload = template.substitute(s1=str(0 if shown is None else shown))
    except KeyError as error:
        raise no(400, str(error), title="API.ERROR") from None
    except ValueError:
        raise no(400, "API.MQTT_PUBLISH_ERROR") from None
    if "#" in command.topic or "+" in command.topic:
        raise no(400, "API.MQTT_PUBLISH_ERROR")
    return None if quirks.broker == "refuses" else Published(command.topic, payload)


def carry_out(published: Published, order: Callable[[str, float], None]) -> str | None:
    """Have the device do what was published; return why it does not."""
    try:
        said = json.loads(published.payload)
        order(said["device"], 0.0 if said.get("stop") else float(said["set_value"]))
    except (ValueError, KeyError, TypeError) as error:
        return f"{published.topic}: no device understands {published.payload!r}: {error!r}"
    return None


def _version(quirks: MyEmsQuirks) -> tuple[int, ...]:
    return tuple(map(int, quirks.version.split(".")))


def refuse_unknown(command: Command | None) -> Command:
    """Return a command that is there."""
    if command is None:
        raise Refusal(404, "API.NOT_FOUND|API.COMMAND_NOT_FOUND")
    return command
