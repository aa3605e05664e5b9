"""A subscriber that is none of ours: mosquitto_sub, and what it has counted."""

from __future__ import annotations

import asyncio
import shutil
from collections import defaultdict
from pathlib import Path

from support.mosquitto import Mosquitto
from support.waiting import wait_for

PROGRAM = shutil.which("mosquitto_sub")


class Listener:
    """Has a session that the broker keeps, connects again by itself, writes down what it hears."""

    def __init__(self, broker: Mosquitto, topic: str, folder: Path) -> None:
        self._broker = broker
        self._topic = topic
        self._heard = folder / "heard.txt"

    async def start(self) -> None:
        assert PROGRAM is not None
        with self._heard.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                PROGRAM, "-p", str(self._broker.port), "-i", "listener", "-c", "-q", "1",
                "-t", self._topic, "-t", "ready", "-F", "%t %p",
                stdout=output, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        publish = shutil.which("mosquitto_pub")
        assert publish is not None
        process = await asyncio.create_subprocess_exec(
            publish, "-p", str(self._broker.port), "-r", "-t", "ready", "-m", "0"
        )
        await process.wait()
        await wait_for(lambda: bool(self._heard.read_text()))

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def numbers(self) -> dict[str, list[int]]:
        """What was heard, by topic, in the order of hearing."""
        heard: dict[str, list[int]] = defaultdict(list)
        for line in self._heard.read_text().splitlines():
            topic, number = line.split()
            if topic != "ready":
                heard[topic].append(int(number))
        return heard

    def count(self) -> int:
        """How many different messages were heard."""
        return sum(len(set(numbers)) for numbers in self.numbers().values())


def in_order(numbers: list[int]) -> bool:
    """Tell whether each was heard for the first time after those before it, and the last last."""
    firsts = list(dict.fromkeys(numbers))
    return firsts == sorted(firsts) and numbers[-1] == firsts[-1]
