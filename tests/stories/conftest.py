"""The real daemon on a real database and broker, for stories told from the outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.daemon import Daemon, MakeDaemon, free_port

CONFIG = """\
data_dir = "{folder}/data"
[http]
listen = "127.0.0.1:{port}"
[database]
url = "{database}"
[mqtt]
url = "{mqtt}"
port = 0
[oscp]
heartbeat_interval_s = 60
require_https = false
allowed_networks = ["127.0.0.0/8"]
clock_skew_grace_s = 0
{more}
"""


@pytest.fixture
async def make_daemon(tmp_path: Path) -> AsyncIterator[MakeDaemon]:
    """Return a function that prepares a daemon; whatever was started is killed afterwards."""
    made: list[Daemon] = []

    def make(database: str, *, mqtt: str = "", more: str = "") -> Daemon:
        folder = tmp_path / f"daemon-{len(made)}"
        folder.mkdir()
        port = free_port()
        config = folder / "fpd.toml"
        config.write_text(
            CONFIG.format(folder=folder, port=port, database=database, mqtt=mqtt, more=more)
        )
        made.append(Daemon(config, f"http://127.0.0.1:{port}", folder / "log"))
        return made[-1]

    yield make
    for daemon in made:
        if daemon.alive:
            await daemon.kill()


@pytest.fixture
async def daemon(make_daemon: MakeDaemon, database_url: str) -> Daemon:
    """A running daemon with its own broker, and a token for its management API."""
    daemon = await make_daemon(database_url).start()
    await daemon.log_in()
    return daemon
