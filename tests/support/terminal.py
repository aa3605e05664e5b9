"""Somebody at a terminal: `fpd …` commands, one after the other."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import processes


@dataclass(frozen=True)
class Said:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def good(self) -> str:
        """What a success printed; anything else fails the test."""
        assert self.code == 0, self
        return self.out

    @property
    def json(self) -> Any:
        return json.loads(self.good)


class Terminal:
    """Runs commands, with the configuration in `config`."""

    config: Path

    async def __call__(self, *arguments: str, said: str = "") -> Said:
        return await asyncio.to_thread(self._run, arguments, said)

    def _run(self, arguments: tuple[str, ...], said: str) -> Said:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FPD_")}
        ended = processes.run(
            *arguments, cwd=Path.cwd(), env=kept | {"FPD_CONFIG": str(self.config)}, said=said
        )
        return Said(ended.returncode, ended.stdout, ended.stderr)
