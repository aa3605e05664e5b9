"""config.example.toml as the declarations in fpd.config say it must be.

`python tests/house/example_config.py` writes it anew after a key was added or changed.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from fpd.adapters import TYPES
from fpd.config import PLATFORM_TYPES, Config
from fpd.config_values import Setting, expected, settings

FILE = Path(__file__).parents[2] / "config.example.toml"

_HEAD = """\
# fpd: every key with its default.
#
# A line that begins with "#" and a key shows an example: the key has no default.
# Durations are seconds. Relative paths start at this file's folder.
# A key in the environment wins: FPD_HTTP__LISTEN=0.0.0.0:8484, FPD_DATA_DIR=/srv/fpd; lists are
# written as JSON or with commas.
# `fpd check-config -c FILE` tells everything that is wrong with a file.
"""


def render() -> str:
    """Return the whole example file."""
    top, tables, devices, platforms = [], [], [], []
    for setting in settings(Config).values():
        if setting.key == "device":
            devices = [line for name in TYPES for line in _device(name)]
        elif setting.key == "platform":
            platforms = [line for name in PLATFORM_TYPES for line in _platform(name)]
        elif setting.table is not None:
            tables += ["", f"[{setting.key}]", *_table(setting.table, setting.key)]
        else:
            top += ["", *_key(setting)]
    return _HEAD + "\n".join([*top, *tables, *devices, *platforms]) + "\n"


def _table(cls: type, name: str) -> Iterator[str]:
    for setting in settings(cls).values():
        if setting.tables:
            yield f"# {setting.rules['why']}"
            if not setting.default:
                yield f"#[[{name}.{setting.key}]]"
                for key in settings(setting.item).values():
                    why, line = _key(key)
                    yield why
                    yield f"#{line.removeprefix('#')}"
            for row in setting.default:
                yield f"[[{name}.{setting.key}]]"
                for key in settings(setting.item).values():
                    yield from _key(key, getattr(row, key.name))
        else:
            yield from _key(setting)


def _device(type_: str) -> Iterator[str]:
    yield ""
    yield f"# A device of type {type_}; as many as there are."
    own = {"name": f"{type_}-1", "type": type_, "source_id": f"/site/{type_}-1"}
    yield from _rows("device", TYPES[type_].keys, own)


def _platform(type_: str) -> Iterator[str]:
    yield ""
    yield f"# A platform of type {type_}; as many as there are. See `fpd {type_} --help`."
    yield from _rows("platform", PLATFORM_TYPES[type_], {"type": type_})


def _rows(name: str, cls: type, own: dict[str, str]) -> Iterator[str]:
    yield f"#[[{name}]]"
    for setting in settings(cls).values():
        if setting.tables:
            yield f"# {setting.rules['why']}"
            yield f"#[[{name}.{setting.key}]]"
            for key in settings(setting.item).values():
                yield from _commented(key)
        else:
            yield from _commented(setting, own.get(setting.key))


def _commented(setting: Setting, value: Any = None) -> Iterator[str]:
    why, line = _key(setting, value)
    yield why
    mark = "# or " if setting.rules.get("instead") else "#"
    yield f"{mark}{line.removeprefix('#')}"


def _key(setting: Setting, value: Any = None) -> Iterator[str]:
    why = setting.rules["why"]
    if typing.get_origin(setting.hint) is Literal:
        why += f": {expected(setting)}"
    if setting.required and setting.key != "data_dir":  # loading the file finds one
        why += " (required)"
    if setting.secret:
        why += f" (or {setting.key}_file: a file that holds it)"
    yield f"# {why}"
    if value is None and (setting.required or setting.default is None):
        yield f"#{setting.key} = {json.dumps(setting.rules['example'])}"
    else:
        yield f"{setting.key} = {json.dumps(setting.default if value is None else value)}"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
