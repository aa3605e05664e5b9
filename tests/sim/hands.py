"""A clock that moves when it is told to."""

from __future__ import annotations

from datetime import datetime, timedelta


class Hands:
    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def move(self, **by: float) -> None:
        self.at += timedelta(**by)
