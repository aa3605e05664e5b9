"""Misbehaviour on demand: what can be switched on, and the switchboard."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

from fpd.errors import Malformed


class StatusRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answer `status` to requests whose `METHOD /path` contains `path`, `times` times (None: for
    ever).
    """

    status: Annotated[int, Meta(ge=200, le=599)]
    path: str = ""
    times: int | None = None
    body: Any = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)


class Quirks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every simulator can do wrong on the network."""

    answer_status: Annotated[
        StatusRule | tuple[StatusRule, ...],
        Meta(description="answer {status, path, times, body, headers} (one or a list) instead"),
    ] = ()
    delay_s: Annotated[float, Meta(ge=0, description="wait this long before each answer")] = 0.0
    tarpit: Annotated[bool, Meta(description="take every request and never answer")] = False
    drop: Annotated[bool, Meta(description="cut the connection instead of answering")] = False
    lose_answer: Annotated[
        bool, Meta(description="do what is asked, then cut the connection instead of answering")
    ] = False
    hang_after_headers: Annotated[
        bool, Meta(description="send status and headers, then never the body")
    ] = False
    truncate: Annotated[bool, Meta(description="send whole answers with half of their body")] = (
        False
    )
    fault_path: Annotated[
        str,
        Meta(description="faults above but answer_status only where `METHOD /path` contains this"),
    ] = ""
    fault_times: Annotated[
        int, Meta(ge=0, description="these faults only so many times; 0: always")
    ] = 0
    refuse_connections_s: Annotated[
        float, Meta(ge=0, description="close the port for so long, the control door included")
    ] = 0.0


Q = TypeVar("Q", bound=Quirks)


class Switchboard(Generic[Q]):
    """The quirks in force; unknown names and values that cannot be meant raise Malformed."""

    def __init__(self, kind: type[Q], initial: tuple[str, ...] = ()) -> None:
        self._kind = kind
        self.now: Q = kind()
        self._spent: dict[int, int] = {}
        self._faults = 0
        self.change(_settings(initial))

    def known(self) -> dict[str, str]:
        """Return each quirk's name and what it does."""
        hints = typing.get_type_hints(self._kind, include_extras=True)
        return {
            name: next((m.description or "" for m in hints[name].__metadata__), "")
            for name in self._kind.__struct_fields__
        }

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set the quirks named in `changes`; null returns one to its default; others stay."""
        unknown = sorted(set(changes) - set(self._kind.__struct_fields__))
        if unknown:
            raise Malformed(f"no quirk is called {', '.join(unknown)}")
        merged = {**msgspec.to_builtins(self.now), **changes}
        given = {name: value for name, value in merged.items() if value is not None}
        try:
            self.now = msgspec.convert(given, self._kind)
        except msgspec.ValidationError as error:
            raise Malformed(f"quirks: {error}") from error
        if "answer_status" in changes:
            self._spent.clear()
        self._faults = 0

    def reset(self) -> None:
        """Behave again."""
        self.now = self._kind()
        self._spent.clear()
        self._faults = 0

    def forced_answer(self, request_line: str) -> StatusRule | None:
        """Return the answer that a quirk forces on this request, counting it as used."""
        rules = self.now.answer_status
        for position, rule in enumerate((rules,) if isinstance(rules, StatusRule) else rules):
            spent = self._spent.get(position, 0)
            if rule.path in request_line and (rule.times is None or spent < rule.times):
                self._spent[position] = spent + 1
                return rule
        return None

    def hits(self, request_line: str) -> bool:
        """Tell whether network faults apply to this request, counting it."""
        now = self.now
        if now.fault_path not in request_line:
            return False
        self._faults += 1
        return now.fault_times == 0 or self._faults <= now.fault_times


def _settings(texts: tuple[str, ...]) -> dict[str, Any]:
    """Read `name=value` settings; the value is JSON, or a plain word."""
    settings: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            settings[name] = msgspec.json.decode(value.encode())
        except msgspec.DecodeError:
            settings[name] = value
    return settings
