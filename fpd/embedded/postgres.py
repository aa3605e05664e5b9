"""A PostgreSQL server of fpd's own: made, started, watched and stopped by the daemon. Linux only.

It listens on a unix socket that only fpd's user can reach, so it needs no password. It is a
direct child and dies with fpd, also after `kill -9`; the data is safe whenever that happens.
A site that outgrows it names an external server in `[database] url`.

Files, all below one directory (mode 0700):
    cluster/       the data
    cluster.new/   a cluster that initdb has not finished; thrown away at the next start
    run/           the socket (in /tmp when this path would be too long for a socket)
    server.log     what the server says, from the last start on; server.log.1 the time before
    fpd.lock       held by the one fpd that uses the directory
    server.lock    held by every process of the server, so free only when the last has gone
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import threading
from asyncio.subprocess import Process
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psycopg
import structlog

from fpd.embedded import directory as files
from fpd.embedded.binaries import Launcher, choose_launcher, find_binaries
from fpd.errors import Misconfigured

log = structlog.get_logger()

_NAME: Final = "fpd"  # of the superuser and of the database

_START_TIMEOUT_S = 300.0  # recovery after a crash takes as long as the disk needs
_ORPHANS_TIMEOUT_S = 30.0
_PATIENCE_S = {signal.SIGINT: 30.0, signal.SIGQUIT: 10.0, signal.SIGKILL: 10.0}

_SETTINGS = {
    "listen_addresses": "",
    "port": str(files.PORT),
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Small: it shares a small machine with what it serves.
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "min_wal_size": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    # The log is rotated at starts only: nothing in it may grow by itself.
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",
}
_CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def running_url(directory: Path) -> str | None:
    """Return the address of the server that runs on `directory` now, None when none is ready.

    For commands beside a running daemon. Raises Misconfigured when we may not look.
    """
    try:
        if not (directory / "server.lock").exists():
            return None
        lock = files.lock_file(directory / "server.lock")
        if lock is not None:
            os.close(lock)
            return None
        found = files.read_pid_file(directory / "cluster")
    except OSError as error:
        raise Misconfigured(f"{directory} cannot be read: {error.strerror}") from error
    return _url(found.sockets, _NAME) if found is not None and found.ready else None


class EmbeddedPostgres:
    """The server on one directory. Start, stop and start again as often as needed."""

    def __init__(
        self, directory: Path, *, binaries: Path | None = None, durable: bool = True
    ) -> None:
        """Remember what to use; nothing is touched before `start`.

        `directory` is ours alone. `binaries` holds `initdb` and `postgres`, None looks for them
        (`find_binaries`). Not `durable` is for tests: fast, and a power cut may destroy the data.
        """
        self._directory = directory.absolute()
        self._cluster = self._directory / "cluster"
        self._log_file = self._directory / "server.log"
        self._binaries = binaries
        self._durable = durable
        self._process: Process | None = None
        self._held = contextlib.ExitStack()

    async def start(self) -> str:
        """Start the server, made if new; return the address of database `fpd` once it answers.

        Call from the main thread. Raises Misconfigured when it cannot work: no PostgreSQL
        programs, a directory that is in use or not ours, data of another major version, or a
        server that ends at once, with its last words.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the server would end with this thread: start it from the main one")
        if self._process is not None and self._process.returncode is None:
            raise RuntimeError("already started")
        await self.stop()
        try:
            return await self._start()
        except OSError as error:
            await self.stop()
            raise Misconfigured(f"PostgreSQL cannot use {self._directory}: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> str:
        files.make_directory(self._directory)
        self._claim()
        lock = await self._outlive_orphans()
        binaries = self._binaries or find_binaries(os.environ)
        launcher = await choose_launcher(binaries, self._directory)
        self._rotate_log()
        files.hand_over(self._directory, launcher)
        if not self._cluster.exists():
            await self._create_cluster(launcher, lock)
        self._check_version(launcher)
        files.clear_pid_file(self._cluster)
        sockets = files.socket_directory(self._directory, launcher)
        self._held.callback(files.remove_if_empty, sockets)
        self._process = await self._launch(launcher, lock, "postgres", *self._arguments(sockets))
        await self._wait_ready(self._process)
        await _ensure_database(sockets)
        log.info("postgres.started", version=launcher.major, socket=str(sockets))
        return _url(sockets, _NAME)

    async def stop(self) -> None:
        """Disconnect everybody, write everything down and end; return when it has gone."""
        with self._held.pop_all():
            if self._process is not None and self._process.returncode is None:
                await _end(self._process)
                log.info("postgres.stopped", status=self._process.returncode)

    async def exited(self) -> int:
        """Wait until the server has gone, for whatever reason; return its exit status.

        A negative status is the signal that killed it. It may then be started again.
        """
        if self._process is None:
            raise RuntimeError("never started")
        return await self._process.wait()

    def _claim(self) -> None:
        lock = files.lock_file(self._directory / "fpd.lock")
        if lock is None:
            owner = (self._directory / "fpd.lock").read_text(encoding="ascii").strip()
            raise Misconfigured(f"{self._directory} is in use by another fpd, process {owner}")
        self._held.callback(os.close, lock)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())

    async def _outlive_orphans(self) -> int:
        """Take the server's lock, waiting for processes that a killed fpd has left behind."""
        deadline = asyncio.get_running_loop().time() + _ORPHANS_TIMEOUT_S
        while (lock := files.lock_file(self._directory / "server.lock")) is None:
            if asyncio.get_running_loop().time() > deadline:
                found = files.read_pid_file(self._cluster)
                raise Misconfigured(
                    f"{self._cluster}: the server of an earlier fpd does not end, "
                    f"process {found.pid if found else 'unknown'}"
                )
            await asyncio.sleep(0.05)
        self._held.callback(os.close, lock)
        return lock

    def _rotate_log(self) -> None:
        if self._log_file.exists():
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        self._log_file.touch(mode=0o600)

    async def _launch(
        self, launcher: Launcher, lock: int, program: str, *arguments: str
    ) -> Process:
        with self._log_file.open("ab") as output:
            return await launcher.start(
                program,
                *arguments,
                output=output.fileno(),
                keep_open=(lock,),
                cwd=self._directory,
            )

    async def _create_cluster(self, launcher: Launcher, lock: int) -> None:
        unfinished = self._cluster.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        process = await self._launch(
            launcher,
            lock,
            "initdb",
            f"--pgdata={unfinished}",
            f"--username={_NAME}",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--data-checksums" if self._durable else "--no-sync",
        )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        if status != 0:
            raise Misconfigured(
                f"initdb failed ({status}) as {launcher.identity}: {self._last_words()}"
            )
        unfinished.rename(self._cluster)
        files.sync(self._directory)
        log.info("postgres.cluster_created", directory=str(self._cluster), version=launcher.major)

    def _check_version(self, launcher: Launcher) -> None:
        made_by = (self._cluster / "PG_VERSION").read_text(encoding="ascii").strip()
        if made_by != str(launcher.major):
            raise Misconfigured(
                f"{self._cluster} was made by PostgreSQL {made_by} but {launcher.binaries} is "
                f"{launcher.major}: set FPD_PG_BIN to the programs of {made_by}, or take a backup "
                f"with them and restore it into a new directory"
            )

    def _arguments(self, sockets: Path) -> list[str]:
        quoted = str(sockets).replace('"', '""')
        settings = _SETTINGS | {"unix_socket_directories": f'"{quoted}"'}
        if not self._durable:
            settings |= _CARELESS
        return ["-D", str(self._cluster), *(f"--{key}={value}" for key, value in settings.items())]

    async def _wait_ready(self, process: Process) -> None:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not self._is_ready(process):
                    if process.returncode is not None:
                        raise Misconfigured(
                            f"PostgreSQL did not start ({process.returncode}): {self._last_words()}"
                        )
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise Misconfigured(
                f"PostgreSQL is not ready after {_START_TIMEOUT_S:.0f} s: {self._last_words()}"
            ) from None

    def _is_ready(self, process: Process) -> bool:
        found = files.read_pid_file(self._cluster)
        # The file of an earlier server may still be there, and may well say "ready".
        return found is not None and found.ready and found.pid == process.pid

    def _last_words(self) -> str:
        text = self._log_file.read_text(encoding="utf-8", errors="replace")
        words = " / ".join(line.strip() for line in text.splitlines()[-6:] if line.strip())
        return f"{words or 'it said nothing'} (see {self._log_file})"


def _url(sockets: Path, database: str) -> str:
    host = quote(str(sockets), safe="")
    return f"postgresql://{_NAME}@/{database}?host={host}&port={files.PORT}"


async def _ensure_database(sockets: Path) -> None:
    async with await psycopg.AsyncConnection.connect(
        _url(sockets, "postgres"), autocommit=True, connect_timeout=30
    ) as connection:
        cursor = await connection.execute("select from pg_database where datname = %s", (_NAME,))
        if await cursor.fetchone() is None:
            await connection.execute(f"create database {_NAME}")


async def _end(process: Process) -> None:
    for number, patience_s in _PATIENCE_S.items():
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(patience_s):
                await process.wait()
                return
        except TimeoutError:
            log.warning("postgres.stop_delayed", signal=number.name, waited_s=patience_s)
