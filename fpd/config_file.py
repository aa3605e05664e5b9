"""config.toml and the environment → one frozen Config, or every fault at once.

What the keys are and which values they take is declared in `fpd.config`; this module finds what
was given for them, remembers where it stood, and checks what no single key can know.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpd.adapters import TYPES
from fpd.config import PLATFORM_TYPES, Config
from fpd.config_key import Together
from fpd.config_lines import Where, locate
from fpd.config_together import TOGETHER, written_twice
from fpd.config_values import (
    Setting,
    Unfit,
    expected,
    fit,
    from_text,
    nearest,
    read,
    settings,
)
from fpd.errors import Misconfigured

DEFAULT_FILE = Path("/etc/fpd/config.toml")

# Variables that begin like ours and are no keys of the configuration.
_NO_KEYS = re.compile(r"FPD_(CONFIG|UNIT|PG_BIN|TEST_.*|SIM_.*)")

_NOT_SHOWN = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with the configuration, in the words of its author.

    `file` is the file as it was named, or the environment variable (then `line` is None).
    `key` is dotted, empty when the file as a whole is at fault. `value` is written as in TOML;
    None when nothing was given or nothing may be shown, `"***"` for a secret.
    """

    file: str
    line: int | None
    key: str
    value: str | None
    expected: str
    suggestion: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        given = self.key if self.value is None else f"{self.key} = {self.value}"
        meant = f"; did you mean {self.suggestion}?" if self.suggestion else ""
        return ": ".join(filter(None, (place, given, f"expected {self.expected}{meant}")))


class ConfigFaults(Misconfigured):
    """The configuration cannot be used; `faults` are all that is wrong with it."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


def config_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file to read: the one named, $FPD_CONFIG, the system's; None means defaults."""
    if path is not None:
        return path
    if environ.get("FPD_CONFIG"):
        return Path(environ["FPD_CONFIG"])
    try:
        DEFAULT_FILE.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        # Reading it will say so; defaults in its place would run something else.
        return DEFAULT_FILE
    return DEFAULT_FILE


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration of `path` (see `config_file`) as overridden by `environ`.

    Relative paths in the file start at the file's folder, those in variables at the working
    directory. Raises ConfigFaults with everything that is wrong.
    """
    reader = _Reader(config_file(path, environ))
    document = reader.document()
    reader.overlay(document, environ)
    document.setdefault("data_dir", _default_data_dir(environ))
    config: Config | None = reader.table(Config, document, ())
    if config is not None:
        reader.refuse_shared(config)
    if config is None or reader.faults:
        raise ConfigFaults(tuple(sorted(reader.faults, key=lambda fault: fault.line or 0)))
    if config.key_file is None:
        return dataclasses.replace(config, key_file=config.data_dir / "fpd.key")
    return config


def _default_data_dir(environ: Mapping[str, str]) -> str:
    """Return systemd's state directory, else the user's data folder."""
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if state:
        return state
    data_home = environ.get("XDG_DATA_HOME", "")
    # XDG Base Directory Specification: a relative path there is to be ignored.
    if Path(data_home).is_absolute():
        return str(Path(data_home) / "fpd")
    return str(Path(environ.get("HOME") or "~") / ".local" / "share" / "fpd")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variable:
    """The text of an environment variable, standing where the file's value would."""

    name: str
    text: str


@functools.cache
def _variables() -> Mapping[str, tuple[str | None, Setting, str]]:
    """Return (section, setting, key) of every variable that overrides a key."""
    found: dict[str, tuple[str | None, Setting, str]] = {}
    for setting in settings(Config).values():
        if setting.table is None:
            found |= {f"FPD_{key.upper()}": (None, setting, key) for key in setting.keys}
            continue
        for inner in settings(setting.table).values():
            for key in inner.keys:
                found[f"FPD_{setting.key}__{key}".upper()] = (setting.key, inner, key)
    return found


class _Reader:
    """Reads tables against their declarations and keeps every fault."""

    def __init__(self, file: Path | None) -> None:
        self.faults: list[Fault] = []
        self._file = file
        self._places: dict[Where, tuple[str, int | None]] = {(): (str(file), None)}

    def document(self) -> dict[str, Any]:
        """Return the file as tomllib reads it; empty when there is none or it cannot be read."""
        if self._file is None:
            return {}
        try:
            text = read(self._file).decode()
            document = tomllib.loads(text)
        except Unfit as unfit:
            self._fault((), _NOT_SHOWN, unfit.expected)
        except UnicodeDecodeError as error:
            self._unreadable(error.object[: error.start].count(b"\n") + 1, "text in UTF-8")
        except tomllib.TOMLDecodeError as error:
            line, message = _syntax_error(str(error), text)
            self._unreadable(line, f"TOML ({message})")
        else:
            name = str(self._file)
            self._places |= {where: (name, line) for where, line in locate(text).items()}
            return document
        return {}

    def overlay(self, document: dict[str, Any], environ: Mapping[str, str]) -> None:
        """Put what the environment says over the document."""
        known = _variables()
        for name in sorted(environ):
            if not name.startswith("FPD_") or _NO_KEYS.fullmatch(name):
                continue
            if name not in known:
                self._places[(name,)] = (name, None)
                self._fault((name,), _NOT_SHOWN, "a known variable", nearest(name, known))
                continue
            section, setting, key = known[name]
            table = document if section is None else document.setdefault(section, {})
            if isinstance(table, dict):
                for sibling in setting.keys:
                    table.pop(sibling, None)
                table[key] = _Variable(name=name, text=environ[name])
                self._places[(key,) if section is None else (section, key)] = (name, None)

    def table(self, cls: type, raw: object, where: Where) -> Any:
        """Return a table as its dataclass, or None when it has faults."""
        if not isinstance(raw, dict):
            self._fault(where, raw, "a table")
            return None
        before = len(self.faults)
        known = settings(cls)
        self._refuse_unknown(known.values(), raw, where)
        values: dict[str, Any] = {}
        for setting in known.values():
            self._take(setting, raw, where, values)
        for rule in _broken(cls, values):
            blamed = [setting for setting in known.values() if setting.key in rule.keys]
            setting, key = next((s, key) for s in blamed for key in s.keys if key in raw)
            shown = _NOT_SHOWN if setting.secret else raw[key]
            self._fault((*where, key), shown, rule.expected)
        return cls(**values) if len(self.faults) == before else None

    def _refuse_unknown(
        self, known: Iterable[Setting], raw: Mapping[str, Any], where: Where
    ) -> None:
        keys = [key for setting in known for key in setting.keys]
        for key in raw.keys() - set(keys):
            # Not even the value is shown: a misspelt `password` is a secret all the same.
            self._fault((*where, key), _NOT_SHOWN, "a known key", nearest(key, keys))

    def _take(
        self, setting: Setting, raw: Mapping[str, Any], where: Where, values: dict[str, Any]
    ) -> None:
        """Put the setting's value or default into `values`; leave it out when it has a fault."""
        given = [key for key in setting.keys if key in raw]
        if len(given) > 1:
            self._fault((*where, given[1]), _NOT_SHOWN, f"only one of {' and '.join(given)}")
        elif given:
            self._take_given(setting, given[0], raw[given[0]], where, values)
        elif setting.required:
            self._fault((*where, setting.key), _NOT_SHOWN, f"{expected(setting)}; it is required")
        else:
            values[setting.name] = setting.default

    def _take_given(
        self, setting: Setting, key: str, raw: Any, where: Where, values: dict[str, Any]
    ) -> None:
        before = len(self.faults)
        where = (*where, key)
        folder = Path() if isinstance(raw, _Variable) or not self._file else self._file.parent
        value: object = None
        if isinstance(raw, _Variable):
            raw = from_text(setting.hint, raw.text)
        if setting.table is not None:
            value = self.table(setting.table, raw, where)
        elif setting.tables:
            value = self._rows(setting, raw, where)
        else:
            value = self._value(setting, raw, where, folder)
        if len(self.faults) == before:
            values[setting.name] = value

    def _value(self, setting: Setting, raw: object, where: Where, folder: Path) -> object:
        try:
            if where[-1] == setting.key:
                return fit(setting, raw, folder=folder)
            return fit(setting, _content(raw, folder), folder=folder)
        except Unfit as unfit:
            secret = setting.secret and where[-1] == setting.key
            self._fault(where, "***" if secret else raw, unfit.expected, unfit.suggestion)
        return None

    def _rows(self, setting: Setting, raw: object, where: Where) -> tuple[object, ...]:
        """Return an array of tables as its dataclasses."""
        if not isinstance(raw, list):
            self._fault(where, raw, f"tables, each under [[{_dotted(where)}]]")
            return ()
        rows = [self._row(setting, item, (*where, index)) for index, item in enumerate(raw)]
        if setting.key == "device":
            self._refuse_twins(raw, where, "name", _name)
            self._refuse_twins(raw, where, "source_id", _stream)
        if setting.key == "platform":
            self._refuse_twins(raw, where, "name", _name)
        return tuple(rows)

    def _row(self, setting: Setting, raw: object, where: Where) -> object:
        types = _typed(setting.key)
        if types is None or not isinstance(raw, dict):
            return self.table(setting.item, raw, where)
        given = raw.get("type", _NOT_SHOWN)
        name = given if isinstance(given, str) else ""
        if name in types:
            return self.table(types[name], raw, where)
        wanted = " or ".join(f'"{known}"' for known in types)
        self._fault((*where, "type"), given, wanted, nearest(name, types))
        return None

    def _refuse_twins(
        self, rows: list[Any], where: Where, key: str, identity: Callable[[Any], object]
    ) -> None:
        seen: dict[str, int] = {}
        for index, row in enumerate(rows):
            same = identity(row) if isinstance(row, dict) else None
            first = seen.setdefault(repr(same), index)
            if same is not None and first != index:
                _, line = self._place((*where, first, key))
                other = f"another one (line {line})" if line else "another one"
                self._fault((*where, index, key), row[key], f"a {key} that {other} does not have")

    def refuse_shared(self, config: Config) -> None:
        """Refuse streams of platforms that something else writes."""
        for writer, platform, row in written_twice(config):
            source_id = config.platforms[platform].stream[row].source_id
            where = ("platform", platform, "stream", row, "source_id")
            self._fault(where, source_id, f"a source_id that {writer} does not have")

    def _unreadable(self, line: int, wanted: str) -> None:
        self._places[()] = (str(self._file), line)
        self._fault((), _NOT_SHOWN, wanted)

    def _fault(self, where: Where, raw: object, wanted: str, suggestion: str | None = None) -> None:
        file, line = self._place(where)
        key = "" if where == (file,) else _dotted(where)
        self.faults.append(
            Fault(
                file=file,
                line=line,
                key=key,
                value=_shown(raw),
                expected=wanted,
                suggestion=suggestion,
            )
        )

    def _place(self, where: Where) -> tuple[str, int | None]:
        """Return where a value stands; what is missing is missing in its table."""
        prefixes = (where[:length] for length in range(len(where), -1, -1))
        return next(self._places[prefix] for prefix in prefixes if prefix in self._places)


def _typed(key: str) -> Mapping[str, type] | None:
    """Return the dataclasses of a list of tables by their `type`, if that tells them apart."""
    if key == "device":
        return {name: one.keys for name, one in TYPES.items()}
    return PLATFORM_TYPES if key == "platform" else None


def _broken(cls: type, values: Mapping[str, Any]) -> Iterator[Together]:
    """Yield the rules that the values break, of those whose values are all known."""
    general = (rule for base in cls.__mro__ for rule in TOGETHER.get(base, ()))
    own = (rule for type_ in TYPES.values() if type_.keys is cls for rule in type_.together)
    for rule in (*general, *own):
        if rule.keys <= values.keys() and not rule.hold(values):
            yield rule


def _syntax_error(message: str, text: str) -> tuple[int, str]:
    """Split tomllib's message, "… (at line 3, column 5)", into line and words."""
    found = re.fullmatch(r"(.*?) \(at (?:line (\d+), column \d+|end of document)\)", message, re.S)
    if found is None:
        return 1, message
    return int(found[2] or text.count("\n") + 1), found[1]


def _content(raw: object, folder: Path) -> str:
    """Return the secret that a `…_file` key points at, without the line end. Raises Unfit."""
    if not isinstance(raw, str) or not raw:
        raise Unfit("a path of a file with the secret")
    try:
        secret = read(folder / Path(raw).expanduser()).decode().rstrip("\r\n")
    except (UnicodeDecodeError, RuntimeError) as error:
        raise Unfit("a file with the secret as text in UTF-8") from error
    if not secret:
        raise Unfit("a file with the secret in it (this one is empty)")
    return secret


def _shown(raw: object) -> str | None:
    """Return a value as TOML, short and without a URL's password; None for what has tables."""
    if isinstance(raw, _Variable):
        raw = raw.text
    items = raw if isinstance(raw, list) else [raw]
    if raw is _NOT_SHOWN or any(isinstance(item, dict | list) for item in items):
        return None
    text = json.dumps(raw, ensure_ascii=False, default=str)
    text = re.sub(r"://[^\s/]*@", "://***@", text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _dotted(where: Where) -> str:
    return ".".join(part for part in where if isinstance(part, str))


def _name(device: Mapping[str, Any]) -> object:
    return device.get("name")


def _stream(device: Mapping[str, Any]) -> object:
    """Return the datum stream that the device's readings go to, or None when there is none.

    A leading slash is not part of a source id's identity (decision D4).
    """
    node_id, source_id = device.get("node_id"), device.get("source_id")
    if node_id is None or not isinstance(source_id, str):
        return None
    return device.get("user_id", 1), node_id, source_id.lstrip("/")
