from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.mosquitto import Mosquitto
from support.mqtt import Clients


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    await clients.close()


@pytest.fixture
async def mosquitto(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Mosquitto]:
    broker = Mosquitto(tmp_path, free_port())
    await broker.start()
    yield broker
    await broker.stop()
