"""How a handler answers: with JSON, or with a refusal."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web


class Refusal(Exception):
    """A handler's way to say no with an HTTP status and a short message.

    `invalid` is what the caller did wrong, for the log; none when the refusal is our own whim.
    """

    def __init__(self, status: int, message: str, *, invalid: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.invalid = invalid


def wrong(status: int, message: str) -> Refusal:
    """Return the refusal of something that the caller got wrong."""
    return Refusal(status, message, invalid=(message,))


def reply(value: Any, *, status: int = HTTPStatus.OK) -> web.Response:
    """Answer with JSON."""
    return web.json_response(body=msgspec.json.encode(value), status=status)
