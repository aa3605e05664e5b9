"""Whether a command may be sent: the point must list it, and the parameter fit its type.

Source: seed 003, ListAvailableCommands; reference: devices §3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from fpd.adapters.device import Stopped
from fpd.adapters.reengen_errors import AGAIN_S
from fpd.adapters.reengen_parse import Command, number

NO_PARAMETER: Final = "NoParameter"
SINGLE: Final = "SingleParameter"
# The text of the document says MultiParameter where it shows MultiOption.
MULTI: Final = ("MultiOption", "MultiParameter")

_WHOLE: Final = frozenset({"integer", "int", "long", "short", "byte"})
_NUMBERS: Final = frozenset({"number", "double", "float", "decimal", "numeric", "real"})
_TEXTS: Final = frozenset({"string", "text"})
BOOLEANS: Final = frozenset({"boolean", "bool"})


class Unfit(Stopped):
    """The command is not sent: the point does not list it, or does not take this parameter."""


class Withdrawn(Unfit):
    """It was sent once and not taken as far as is known, and could not be sent again."""


def checked(listed: Sequence[Command], code: str, parameter: Any) -> Command:
    """Return the command if it may be sent with `parameter` (None: without). Raises Unfit."""
    command = next((each for each in listed if each.code == code), None)
    if command is None:
        known = ", ".join(each.code for each in listed) or "none"
        raise _unfit(f"the point lists no command {code!r} (it lists: {known})")
    if command.kind == NO_PARAMETER:
        if parameter is not None:
            raise _unfit(f"{code} takes no parameter")
    elif command.kind in MULTI:
        codes = [option for option, _ in command.options]
        if not isinstance(parameter, str) or parameter not in codes:
            raise _unfit(f"{code} takes one of {', '.join(codes) or 'no options'}")
    elif command.kind == SINGLE:
        _check_single(command, parameter)
    else:
        raise _unfit(f"{code} is of the kind {command.kind!r}, which is not known")
    return command


def still(listed: Sequence[Command], code: str, parameter: Any) -> None:
    """Look at the list again before a command is repeated. Raises Withdrawn."""
    try:
        checked(listed, code, parameter)
    except Unfit as unfit:
        raise Withdrawn(str(unfit).replace("not sent", "not sent again"), retry_s=AGAIN_S) from None


def _check_single(command: Command, parameter: Any) -> None:
    wanted = (command.parameter_type or "").lower()
    if wanted in BOOLEANS:
        fits = isinstance(parameter, bool)
    elif wanted in _TEXTS:
        fits = isinstance(parameter, str)
    elif wanted in _WHOLE:
        fits = _is_number(parameter) and Decimal(str(parameter)) % 1 == 0
    elif wanted in _NUMBERS:
        fits = _is_number(parameter)
    else:
        raise _unfit(f"{command.code} takes a {command.parameter_type!r}, which is not known")
    if not fits:
        raise _unfit(f"{command.code} takes a {wanted}")


def _is_number(parameter: Any) -> bool:
    return isinstance(parameter, int | float | Decimal) and number(parameter) is not None


def repeatable(command: Command) -> bool:
    """Tell whether sending it twice does what sending it once does: it sets something.

    Interpretation: a command without a parameter may as well be a toggle or a step.
    """
    return command.kind != NO_PARAMETER


def parsed(command: Command | None, text: str | None) -> Any:
    """Return what somebody typed as the parameter that the command takes.

    >>> parsed(Command(code="c", name="C", kind="SingleParameter", parameter_type="boolean"), "on")
    True
    """
    if text is None or command is None or command.kind != SINGLE:
        return text
    wanted = (command.parameter_type or "").lower()
    if wanted in BOOLEANS:
        return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}.get(
            text.lower(), text
        )
    if wanted in _WHOLE | _NUMBERS:
        found = number(text)
        return text if found is None else int(found) if found % 1 == 0 else found
    return text


def _unfit(why: str) -> Unfit:
    return Unfit(f"not sent: {why}", retry_s=AGAIN_S)
