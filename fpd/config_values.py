"""One value of the configuration: what its key declares, and whether what was given fits."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import ipaddress
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from fpd.config import Network


class Unfit(Exception):
    """A value does not fit its key; says what was expected, and what may have been meant."""

    def __init__(self, expected: str, suggestion: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.suggestion = suggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key as `fpd.config` declares it.

    `key` is its name in the file, `name` the attribute. `hint` is the type without "or None";
    `optional` says whether None is a value. `rules` are those of `fpd.config.key`.
    """

    key: str
    name: str
    hint: Any
    optional: bool
    required: bool
    default: Any
    rules: Mapping[str, Any]

    @property
    def secret(self) -> bool:
        return bool(self.rules.get("secret"))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that give this setting: a secret may also stand in a file of its own."""
        return (self.key, f"{self.key}_file") if self.secret else (self.key,)

    @property
    def tables(self) -> bool:
        """Whether the value is an array of tables, as `[[device]]` is."""
        return typing.get_origin(self.hint) is tuple and self.item != Network and not self.choices

    @property
    def choices(self) -> tuple[Any, ...]:
        """What each element of a list may be, where that is a few words; else nothing."""
        if typing.get_origin(self.hint) is not tuple:
            return ()
        return typing.get_args(self.item) if typing.get_origin(self.item) is Literal else ()

    @property
    def table(self) -> type | None:
        """The dataclass, where the value is a table of its own such as `[http]`."""
        hint: object = self.hint
        return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None

    @property
    def item(self) -> Any:
        """The type of one element, for a tuple."""
        return typing.get_args(self.hint)[0]


@functools.cache
def settings(cls: type) -> Mapping[str, Setting]:
    """Return the settings of a dataclass of `fpd.config`, by key, in the order declared."""
    hints = typing.get_type_hints(cls)
    return {
        setting.key: setting
        for setting in (_setting(field, hints[field.name]) for field in dataclasses.fields(cls))
    }


def _setting(field: dataclasses.Field[Any], hint: Any) -> Setting:
    # `Literal[…] | None` is one of typing's own.
    united = typing.get_origin(hint) in (types.UnionType, typing.Union)
    optional = united and types.NoneType in typing.get_args(hint)
    default: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return Setting(
        key=field.metadata.get("key", field.name),
        name=field.name,
        hint=typing.get_args(hint)[0] if optional else hint,
        optional=optional,
        required=default is dataclasses.MISSING,
        default=default,
        rules=field.metadata,
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that was most likely meant, or None when none is near."""
    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def from_text(hint: Any, text: str) -> object:
    """Read the text of an environment variable as the file would have given it.

    Text that cannot be read so is returned as it is: `fit` will say what was expected.
    """
    try:
        if hint is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if hint is float:
            return float(text)
        if hint is int or _is_number_choice(hint):
            return int(text)
        if typing.get_origin(hint) is tuple:
            return _list_from_text(text)
    except (KeyError, ValueError):
        return text
    return text


def _is_number_choice(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal and isinstance(typing.get_args(hint)[0], int)


def _list_from_text(text: str) -> object:
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def expected(setting: Setting) -> str:
    """Say in a few words what a key wants."""
    if setting.tables:
        return "a list of tables"
    if setting.choices:
        return "a list of " + " or ".join(json.dumps(choice) for choice in setting.choices)
    if typing.get_origin(setting.hint) is Literal:
        return " or ".join(json.dumps(choice) for choice in typing.get_args(setting.hint))
    if "schemes" in setting.rules:
        return "a URL that starts with " + " or ".join(f"{s}://" for s in setting.rules["schemes"])
    if "form" in setting.rules:
        return _FORMS[setting.rules["form"]][0]
    return _WANTED.get(setting.hint, "a table") + _bounds(setting)


_WANTED: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    tuple[Network, ...]: 'a list of networks such as "10.0.0.0/8"',
}


def _bounds(setting: Setting) -> str:
    least, most = setting.rules.get("minimum"), setting.rules.get("maximum")
    if least is None and most is None:
        return ""
    if most is None:
        return f" of at least {least}"
    return f" from {least} to {most}"


def fit(setting: Setting, raw: object, *, folder: Path) -> object:
    """Return `raw` as the value that `setting` declares.

    An empty text means "not set" where None is a value. Relative paths start at `folder`.
    Raises Unfit.
    """
    if setting.optional and raw == "":
        return None
    if typing.get_origin(setting.hint) is Literal:
        return _choice(setting, raw)
    if setting.choices:
        return _chosen(setting, raw)
    return _FITTERS[setting.hint](setting, raw, folder)


def _choice(setting: Setting, raw: object) -> object:
    choices = typing.get_args(setting.hint)
    # By type as well: True == 1 == 1.0 in Python.
    if any(choice == raw and type(choice) is type(raw) for choice in choices):
        return raw
    meant = nearest(raw, [str(choice) for choice in choices]) if isinstance(raw, str) else None
    raise Unfit(expected(setting), meant)


def _chosen(setting: Setting, raw: object) -> tuple[object, ...]:
    if not isinstance(raw, list) or any(one not in setting.choices for one in raw):
        raise Unfit(expected(setting))
    if not raw and setting.default:
        raise Unfit(expected(setting))
    return tuple(raw)


def _bool(setting: Setting, raw: object, _: Path) -> bool:
    if not isinstance(raw, bool):
        raise Unfit(expected(setting))
    return raw


def _int(setting: Setting, raw: object, _: Path) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool):
        raise Unfit(expected(setting))
    return int(_within(setting, raw))


def _float(setting: Setting, raw: object, _: Path) -> float:
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise Unfit(expected(setting))
    return float(_within(setting, raw))


def _within(setting: Setting, number: float) -> float:
    least = setting.rules.get("minimum", -math.inf)
    most = setting.rules.get("maximum", math.inf)
    # 2**63 bounds what PostgreSQL and the clocks below can hold; it also refuses inf and nan.
    if not (least <= number <= most and abs(number) < 2**63):
        raise Unfit(expected(setting))
    return number


def _str(setting: Setting, raw: object, _: Path) -> str:
    blank = bool(setting.rules.get("blank"))
    if not isinstance(raw, str) or "\0" in raw or not (raw or blank):
        raise Unfit(expected(setting))
    if raw and "schemes" in setting.rules:
        _url(setting, raw)
    if "form" in setting.rules and not _FORMS[setting.rules["form"]][1](raw):
        raise Unfit(expected(setting))
    return raw


def _url(setting: Setting, text: str) -> None:
    try:
        url = urlsplit(text)
        usable = url.scheme in setting.rules["schemes"] and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable or any(ord(character) <= 32 for character in text):
        raise Unfit(expected(setting))
    # PostgreSQL reads host and password from its URL in ways of its own (?host=/run/postgresql).
    if setting.secret:
        return
    if "@" in url.netloc:
        raise Unfit("a URL without user name and password in it")
    if not url.hostname or url.query or url.fragment:
        raise Unfit(expected(setting))


def _path(setting: Setting, raw: object, folder: Path) -> Path:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise Unfit(expected(setting))
    try:
        path = folder / Path(raw).expanduser()
    except RuntimeError as error:
        raise Unfit("a path in a home folder that exists") from error
    if setting.rules.get("readable"):
        read(path)
    return path.absolute()


def read(path: Path) -> bytes:
    """Return what a file holds, at most 1 MB of it. Raises Unfit when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(1_000_000)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unfit(f"a file that can be read ({reason})") from error


def _networks(setting: Setting, raw: object, _: Path) -> tuple[Network, ...]:
    if not isinstance(raw, list):
        raise Unfit(expected(setting))
    return tuple(_network(setting, item) for item in raw)


def _network(setting: Setting, raw: object) -> Network:
    if not isinstance(raw, str):
        raise Unfit(expected(setting))
    try:
        return ipaddress.ip_network(raw)
    except ValueError as error:
        raise Unfit(expected(setting), _without_host_bits(raw)) from error


def _without_host_bits(text: str) -> str | None:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return None


def _is_host_port(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        return False
    if host.startswith("[") or ":" in host:
        return _is_bracketed_ipv6(host)
    return all(c.isascii() and (c.isalnum() or c in "-._") for c in host)


def _is_bracketed_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return host.startswith("[") and host.endswith("]")


def _is_topic_filter(text: str) -> bool:
    """MQTT 3.1.1 §4.7.1: a wildcard fills its level; # is the last one. MQTT 5 §4.8.2: shared."""
    if text == "$share" or text.startswith("$share/"):
        _, _, rest = text.partition("/")
        group, _, text = rest.partition("/")
        if not _is_topic_level(group) or not text:
            return False
    levels = text.split("/")
    wild_alone = all(level in {"+", "#"} or not set("+#") & set(level) for level in levels)
    return 0 < len(text.encode()) < 65536 and wild_alone and "#" not in levels[:-1]


def _is_topic_level(text: str) -> bool:
    return bool(text) and not set("/+#") & set(text)


def _is_zone(text: str) -> bool:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _is_offset(text: str) -> bool:
    found = re.fullmatch(r"[+-](\d{2}):(\d{2})", text, re.ASCII)
    return found is not None and int(found[1]) <= 14 and int(found[2]) < 60


def _is_owner(text: str) -> bool:
    return bool(re.fullmatch(r"(energystoragecontainers|microgrids)/\d{1,9}", text, re.ASCII))


_FORMS: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "owner of schedules": ("energystoragecontainers/… or microgrids/… and its id", _is_owner),
    "offset": ("a fixed offset from UTC such as +08:00", _is_offset),
    "host:port": ("host:port", _is_host_port),
    "topic filter": ("an MQTT topic filter such as node/+/datum/0/#", _is_topic_filter),
    "topic level": ("one topic level, without / + #", _is_topic_level),
    "zone": ("a time zone such as UTC or Europe/Berlin", _is_zone),
    "stamp zone": (
        "utc, unit, or a time zone such as Europe/Berlin",
        lambda text: text in ("utc", "unit") or _is_zone(text),
    ),
}

_FITTERS: Mapping[Any, Callable[[Setting, object, Path], object]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: _path,
    tuple[Network, ...]: _networks,
}
