"""The files around an embedded server: who holds them, who owns them, what they still say."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from fpd.embedded.binaries import Launcher
from fpd.errors import Misconfigured

PORT = 5432
"""Only a part of the socket's name: nothing listens on TCP."""

_SOCKET_PATH_MAX = 107  # bytes: sockaddr_un has 108 and one ends the string


def lock_file(path: Path) -> int | None:
    """Lock the file and return its descriptor, or None when another process has it.

    The lock lasts until the descriptor is closed here and in every child that inherited it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def make_directory(directory: Path) -> None:
    """Make it if new; what root makes in another user's directory belongs to that user."""
    if directory.exists():
        return
    directory.mkdir(mode=0o700, parents=True)
    parent = directory.parent.stat()
    if os.geteuid() == 0:
        os.chown(directory, parent.st_uid, parent.st_gid)


def hand_over(directory: Path, launcher: Launcher) -> None:
    """Make everything in it belong to the user that the server runs as."""
    if os.geteuid() != 0:
        return
    for place, directories, files in os.walk(directory):
        for name in (".", *directories, *files):
            path = os.path.join(place, name)
            if os.lstat(path).st_uid != launcher.uid:
                os.chown(path, launcher.uid, launcher.gid, follow_symlinks=False)


def socket_directory(directory: Path, launcher: Launcher) -> Path:
    """Return a directory, for us and the server only, in which a socket's path is legal.

    It is `run` below the directory, or one in /tmp when that path is too long or has a comma,
    which libpq takes for the start of another host. Raises Misconfigured when someone else
    has made that one before us.
    """
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    place = directory / "run"
    if len(os.fsencode(place / f".s.PGSQL.{PORT}")) > _SOCKET_PATH_MAX or "," in str(place):
        place = Path("/tmp") / f"fpd-{launcher.uid}-{digest}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
        os.chown(place, launcher.uid, launcher.gid)
    found = place.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != launcher.uid or found.st_mode & 0o077:
        raise Misconfigured(f"{place} is not a directory that only uid {launcher.uid} can use")
    return place


def remove_if_empty(directory: Path) -> None:
    """Tidy up a socket directory; a leftover socket keeps it, for the next start to replace."""
    with contextlib.suppress(OSError):
        directory.rmdir()


def sync(directory: Path) -> None:
    """Make a rename in it survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class PidFile:
    """What postmaster.pid says, true or stale."""

    pid: int | None
    """None when the file is cut short or has nonsense in it."""
    sockets: Path
    ready: bool


def read_pid_file(cluster: Path) -> PidFile | None:
    """Return what the cluster's postmaster.pid says, None when there is none."""
    try:
        text = (cluster / "postmaster.pid").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    # process, data directory, start, port, socket directory, host, shared memory, status
    lines = [line.strip() for line in text.splitlines()]
    lines += [""] * (8 - len(lines))
    pid = lines[0].removeprefix("-")  # a single-user server has a minus
    return PidFile(int(pid) if pid.isdigit() else None, Path(lines[4]), lines[7] == "ready")


def clear_pid_file(cluster: Path) -> None:
    """Remove a postmaster.pid that PostgreSQL would wrongly believe.

    It believes any process with that number: one that reused it, or a zombie. A number that
    nobody has is left alone, because PostgreSQL then looks for survivors before it goes on.
    Raises Misconfigured when a server is really there.
    """
    found = read_pid_file(cluster)
    if found is None:
        return
    if found.pid is not None:
        if _works_in(found.pid, cluster):
            raise Misconfigured(
                f"{cluster} is in use by a PostgreSQL server that fpd has not started, "
                f"process {found.pid}"
            )
        if not Path("/proc", str(found.pid)).exists():
            return
    (cluster / "postmaster.pid").unlink()


def _works_in(pid: int, cluster: Path) -> bool:
    """Tell a server on this cluster from everything else: it works in the cluster's directory."""
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", cluster)
    except OSError:
        return False  # no such process, a zombie, or another user's
