"""A real mosquitto of one test, if there is one: stopped, killed and started again at will."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TypeVar

import pytest

from support.waiting import wait_for

PROGRAM = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

MARKS = [
    pytest.mark.needs_mosquitto,
    pytest.mark.skipif(PROGRAM is None, reason="no mosquitto is installed"),
]
"""For `pytestmark` of a module whose tests are skipped where there is no mosquitto."""

T = TypeVar("T")


def needs_mosquitto(test: T) -> T:
    """Mark one test that is skipped where there is no mosquitto."""
    for mark in MARKS:
        test = mark(test)
    return test


class Mosquitto:
    """A broker on loopback that keeps sessions over a restart."""

    def __init__(self, folder: Path, port: int, *, lines: str = "", autosave_s: int = 1) -> None:
        self._config = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        self.port = port
        self.url = f"mqtt://127.0.0.1:{port}"
        self._process: asyncio.subprocess.Process | None = None
        self._config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nautosave_interval {autosave_s}\nuser root\n{lines}\n"
        )

    async def start(self) -> None:
        assert PROGRAM is not None
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                PROGRAM, "-c", str(self._config), stdout=output, stderr=output
            )
        await wait_for(self._listens, what=f"mosquitto on port {self.port}")

    async def stop(self) -> None:
        """End it in good order, if it runs: it writes down its sessions."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    async def kill(self) -> None:
        """End it at once: what it had not written down is gone."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, self._log.read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
