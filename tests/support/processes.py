"""Processes of fpd that need not import it: each is forked from one that has.

Importing all of fpd takes a second of CPU, and the stories start hundreds of processes. What is
forked is a process like any other: own memory, folder, environment and files, killed by signals,
with an exit code. FPD_TEST_FRESH=1 starts each as `python -m fpd`, as the benchmarks do.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]

_LONGEST_REQUEST = 1 << 20
_RUN_TIMEOUT_S = 60
_EVERY_S = 0.01


class Process(Protocol):
    """What a test may do to a process of fpd."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def send_signal(self, signal: int, /) -> None: ...
    def kill(self) -> None: ...
    async def wait(self) -> int: ...


async def start(*arguments: str, env: dict[str, str], output: Any) -> Process:
    """Start `fpd …`, which writes all it has to say to the file `output`."""
    if _fresh():
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "fpd", *arguments, stdout=output, stderr=output, env=env
        )
    with _scratch() as nothing:
        return _parent().fork(arguments, Path.cwd(), env, (nothing, output, output))


def run(
    *arguments: str, cwd: Path, env: dict[str, str], said: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `fpd …` to its end, with `said` on its standard input."""
    if _fresh():
        return subprocess.run(
            [sys.executable, "-m", "fpd", *arguments],
            cwd=cwd,
            env=env,
            input=said,
            capture_output=True,
            text=True,
            timeout=_RUN_TIMEOUT_S,
            check=False,
        )
    with _scratch(said) as given, _scratch() as out, _scratch() as err:
        process = _parent().fork(arguments, cwd, env, (given, out, err))
        code = process.join(_RUN_TIMEOUT_S)
        return subprocess.CompletedProcess(["fpd", *arguments], code, _text(out), _text(err))


def _fresh() -> bool:
    return os.environ.get("FPD_TEST_FRESH") == "1"


def _scratch(text: str = "") -> Any:
    file = os.fdopen(os.memfd_create("fpd-test"), "w+b")
    file.write(text.encode())
    file.seek(0)
    return file


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode()
    return text


class _Forked:
    """A forked process; `line` tells its number, and once it has ended its exit code."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._code: int | None = None
        self.pid = int(line.recv(16))

    @property
    def returncode(self) -> int | None:
        if self._code is None and select.select([self._line], [], [], 0)[0]:
            self._ended(self._line.recv(16))
        return self._code

    def _ended(self, told: bytes) -> int:
        # Nothing is told if who waits for it was killed too.
        self._code = int(told) if told else -signal.SIGKILL
        self._line.close()
        return self._code

    def send_signal(self, signal: int, /) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        while (code := self.returncode) is None:
            await asyncio.sleep(_EVERY_S)
        return code

    def join(self, within_s: float) -> int:
        if not select.select([self._line], [], [], within_s)[0]:
            self.kill()
            raise subprocess.TimeoutExpired(str(self.pid), within_s)
        return self._ended(self._line.recv(16))


class _Parent:
    """A process that has imported fpd and forks one for each request."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {name: value for name, value in os.environ.items() if not name.startswith("FPD_")}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=env | {"PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
            )

    def fork(
        self, arguments: Sequence[str], cwd: Path, env: dict[str, str], files: Sequence[Any]
    ) -> _Forked:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            request = json.dumps([arguments, str(cwd), env]).encode()
            assert len(request) < _LONGEST_REQUEST
            handed = [*(file.fileno() for file in files), theirs.fileno()]
            socket.send_fds(self._requests, [request], handed)
        return _Forked(ours)

    def close(self) -> None:
        self._requests.close()
        self._process.wait(20)


@functools.cache
def _parent() -> _Parent:
    parent = _Parent()
    atexit.register(parent.close)
    return parent


def _serve(requests: socket.socket) -> None:
    """Fork for each request, until nobody is left who could ask."""
    import fpd.app
    import fpd.cli.settings
    import fpd.flows.manage.tables  # noqa: F401

    gc.freeze()  # what a forked one does not touch it shares, until it ends
    while True:
        request, files, _flags, _address = socket.recv_fds(requests, _LONGEST_REQUEST, 4)
        if not request:
            break
        if os.fork() == 0:
            requests.close()
            _keep(json.loads(request), files)
        for file in files:
            os.close(file)
        _reap(os.WNOHANG)
    _reap(0)


def _reap(options: int) -> None:
    while True:
        try:
            pid, _status = os.waitpid(-1, options)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _keep(request: list[Any], files: list[int]) -> None:
    """Fork the process itself, tell its number, and its exit code when it has one."""
    *standard, told = files
    line = socket.socket(fileno=told)
    pid = os.fork()
    if pid == 0:
        line.close()
        for number, file in enumerate(standard):
            os.dup2(file, number)
            os.close(file)
        _become(*request)
    for file in standard:
        os.close(file)
    line.send(str(pid).encode())
    _pid, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):  # of whoever asked and has ended since
        line.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    from fpd.cli import main

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["fpd", *arguments]
    main(arguments, prog_name="fpd")  # ends with SystemExit


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
