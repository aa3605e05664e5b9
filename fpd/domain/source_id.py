"""Source ids: what makes two of them the same, and how those of generated datum are put together.

Sources: SolarNetwork's OSCP datum publishing (placeholders, default template, slashes) and
decision M11, which settles what SolarNetwork leaves open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Final

from fpd.errors import Malformed

DEFAULT_TEMPLATE: Final = "/oscp/{role}/{action}/{cp}/{co}/{cgIdentifier}"
PLACEHOLDERS: Final = (
    "role", "action", "actionCode", "src", "dest", "cp", "cpName", "co", "coName",
    "cg", "cgIdentifier", "cgName", "forecastType",
)  # fmt: skip
LONGEST: Final = 255  # characters; a rendered id must fit into a stream's key

_PLACEHOLDER = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")
_UNFIT = re.compile(r"[+#\x00-\x1f\x7f-\x9f]")
_SLASHES = re.compile(r"/{2,}")


def identity(source_id: str) -> str:
    """Return what streams are told apart by: a leading slash is not part of it (decision D4).

    >>> identity("/meter/1") == identity("meter/1")
    True
    """
    return source_id.lstrip("/")


def is_pattern(source_id: str) -> bool:
    """Return whether it means many streams: `?` is a character of a level, `*` any number of them
    and `**` any number of levels, as SolarNetwork's wildcard patterns.
    """
    return "*" in source_id or "?" in source_id


def expression(pattern: str) -> str:
    """Return a regular expression that a slash and a matching source id match as a whole.

    POSIX's and Python's alike.

    >>> bool(re.search(expression("/foo/**"), "/foo/bar/1"))
    True
    >>> bool(re.search(expression("foo/*"), "/foo/bar/1"))
    False
    """
    runs = groupby(identity(pattern).split("/"))
    levels = [level for level, run in runs for _ in ([0] if level == "**" else run)]
    return "^" + "".join(_level(level) for level in levels) + "$"


def _level(level: str) -> str:
    if level == "**":
        return "(/[^/]*)*"
    wild = {"?": "[^/]", "*": "[^/]*"}
    return "/" + "".join(wild.get(c) or re.escape(c) for c in re.sub(r"\*+", "*", level))


def action_code(action: str) -> str:
    """Return the value of `{actionCode}`: the capitals of the action's name in lower case.

    >>> action_code("UpdateGroupCapacityForecast")
    'ugcf'
    """
    return "".join(letter for letter in action if letter.isupper()).lower()


def checked(template: str) -> str:
    """Return a template whose own text makes a topic of its own accord. Raises Malformed.

    Interpretation: decision M11. What values bring is made harmless by `render`; what is written
    in the template is told to whoever writes it: wildcards and control characters, levels
    without a name (a single leading slash is no such level), and what always gives nothing.

    >>> checked("/oscp/{role}/{cg:none}")
    '/oscp/{role}/{cg:none}'
    """
    if _UNFIT.search(template):
        raise Malformed("must not have +, # or control characters")
    filled = _PLACEHOLDER.sub("x", template)
    if "//" in filled or filled.endswith("/"):
        raise Malformed("must not have empty levels: // or a slash at its end")
    render(template, dict.fromkeys(PLACEHOLDERS, "x"))
    return template


def render(template: str, values: Mapping[str, str | int | None], *, suffix: str = "") -> str:
    """Return the source id that `template` gives with `values`, `suffix` as its last level.

    `{name}` becomes the value, or nothing when it is unknown, None or empty; `{name:default}`
    becomes the default then. Characters that a topic cannot hold become `_`, repeated slashes
    one, and trailing ones go. Raises Malformed when nothing is left or it is longer than 255
    characters.

    >>> render("/oscp/{role}/{co}/{cg:none}", {"role": "cp", "co": None, "cg": ""}, suffix="c")
    '/oscp/cp/none/c'
    """

    def value(found: re.Match[str]) -> str:
        known = values.get(found[1])
        return str(known) if known not in (None, "") else found[2] or ""

    text = _PLACEHOLDER.sub(value, template)
    if suffix:
        text = f"{text}/{suffix}"
    text = _SLASHES.sub("/", _UNFIT.sub("_", text)).rstrip("/")
    if not identity(text) or len(text) > LONGEST:
        raise Malformed(f"the source id template gives {len(text)} characters, not 1 to {LONGEST}")
    return text
