"""What fpd says about itself: one line an event, for people or for machines, without secrets."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from fpd.config import Log

_SECRET_KEY = re.compile(
    r"token|authori[sz]ation|passw(or)?d|secret|cookie|credential|bearer|(api|private|fernet)[-_]?key",
    re.IGNORECASE,
)
# token_id, token_expires_at, token_margin_s, secret_count, password_file: about a secret, not it.
_ABOUT_A_SECRET = re.compile(r"[-_](id|at|s|count|file|type)$", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"\b(Bearer|Token|Basic) +[A-Za-z0-9._~+/=-]{16,}")
_USERINFO = re.compile(r"://[^\s/@]+@")
_MASK = "***"
_DEPTH = 8

# Libraries that tell what their users have no use for; warnings are always heard.
_CHATTY = ("aiohttp.access", "amqtt", "apscheduler", "asyncio", "transitions")


def configure(log: Log, stream: TextIO | None = None, *, for_good: bool = False) -> None:
    """Send structlog's and the standard library's events to `stream` (default: stderr).

    Both take the same way: level, UTC timestamp, exception as plain text (rich tracebacks show
    local variables, and so tokens), secrets masked. `for_good`: loggers keep what they find at
    their first event, which is quicker, and nothing that is configured later reaches them.
    """
    stream = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[log.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        mask,
    ]
    renderer = _renderer(log, stream)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=for_good,
    )
    _route_standard_library(level, stream, [*shared, renderer])


def _route_standard_library(level: int, stream: TextIO, processors: list[Processor]) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *processors],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def _renderer(log: Log, stream: TextIO) -> Processor:
    if log.format == "json":
        return _as_json
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty() and "NO_COLOR" not in os.environ,
        exception_formatter=structlog.dev.plain_traceback,
    )


def _as_json(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except (TypeError, ValueError):
        # Keys that are no text, lone surrogates: a line that looks odd beats a line lost.
        return json.dumps(event, default=str, skipkeys=True)


def mask(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replace values whose key looks like a secret's, and credentials inside texts."""
    return {key: _masked(key, value, _DEPTH) for key, value in event.items()}


def _masked(key: object, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    name = str(key)
    if _SECRET_KEY.search(name) and not _ABOUT_A_SECRET.search(name):
        return _MASK
    if isinstance(value, str):
        return _USERINFO.sub(f"://{_MASK}@", _SECRET_TEXT.sub(rf"\1 {_MASK}", value))
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {inner: _masked(inner, item, depth - 1) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked("", item, depth - 1) for item in value]
    return value
