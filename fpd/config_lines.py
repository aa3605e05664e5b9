"""Where each key of a TOML document stands: tomllib keeps no line numbers, operators need them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

Where = tuple[str | int, ...]
"""The way to a value: keys, and positions (from 0) in arrays of tables."""

_TOKEN = re.compile(
    r'''
      (?P<comment>\#[^\n]*)
    | (?P<long>"""(?:\\.|(?!""")[^\\])*"{3,5}|\'\'\'(?:(?!\'\'\').)*\'{3,5})
    | (?P<basic>"(?:\\.|[^"\\\n])*")
    | (?P<literal>'[^'\n]*')
    | (?P<bare>[A-Za-z0-9_-]+)
    | (?P<newline>\n)
    | (?P<mark>[\[\]{}=.,])
    ''',
    re.VERBOSE | re.DOTALL,
)


def locate(text: str) -> Mapping[Where, int]:
    """Return the line (from 1) of every table and key of `text`, which must be valid TOML.

    Keys inside inline tables and values inside arrays have no entry of their own: they stand
    on the line of the key that holds them, which is a prefix of their way.
    """
    lines: dict[Where, int] = {}
    tables: dict[Where, int] = {}
    table: Where = ()
    for line, tokens in _statements(text):
        keys = _keys(tokens)
        if tokens[0] != "[":
            way = table + keys
        elif tokens[1] == "[":
            array = _placed(keys[:-1], tables) + keys[-1:]
            tables[array] = tables.get(array, -1) + 1
            lines.setdefault(array, line)
            table = way = (*array, tables[array])
        else:
            table = way = _placed(keys, tables)
        lines.setdefault(way, line)
    return lines


def _placed(keys: Where, tables: Mapping[Where, int]) -> Where:
    """Return the way of a header's keys: inside an array of tables, its latest table."""
    way: Where = ()
    for key in keys:
        way = (*way, key)
        if way in tables:
            way = (*way, tables[way])
    return way


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, tokens) of each header or key with its value, comments and blanks left out."""
    line, depth, started = 1, 0, 1
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.lastgroup == "newline" and depth == 0 and tokens:
            yield started, tokens
            tokens = []
        elif match.lastgroup not in {"newline", "comment"}:
            started = started if tokens else line
            tokens.append(token)
            depth += (token in "[{") - (token in "]}")
        line += token.count("\n")
    if tokens:
        yield started, tokens


def _keys(tokens: list[str]) -> Where:
    """Return the (dotted) key that a statement begins with."""
    keys: list[str] = []
    for token in tokens:
        if token in {"=", "]"}:
            break
        if token not in {"[", "."}:
            keys.append(token[1:-1] if token[0] in "\"'" else token)
    return tuple(keys)
