"""Somebody at a terminal: `fpd …` commands, one after the other, in a process of their own.

The process imports fpd once, so a command takes what it takes and not its imports every time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


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

    def __init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FPD_")}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=kept | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def __call__(self, *arguments: str, said: str = "") -> Said:
        return await asyncio.to_thread(self._run, arguments, said)

    def _run(self, arguments: tuple[str, ...], said: str) -> Said:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(self.config), arguments, said]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process has ended"
        return Said(**json.loads(answer))

    def close(self) -> None:
        self._process.communicate(timeout=20)


def _serve() -> None:
    import traceback

    from click.testing import CliRunner

    from fpd.cli import main

    for line in sys.stdin:
        config, arguments, said = json.loads(line)
        os.environ["FPD_CONFIG"] = config
        result = CliRunner().invoke(main, arguments, input=said)
        err = result.stderr
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            err += "".join(traceback.format_exception(result.exception))
        answer = {"code": result.exit_code, "out": result.stdout, "err": err}
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
