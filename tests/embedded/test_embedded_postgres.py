"""The daemon's own PostgreSQL: it keeps the data, dies with us, and says why it cannot start."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from support.database import scratch_directory
from support.waiting import wait_for

from fpd.embedded.binaries import choose_launcher, find_binaries
from fpd.embedded.directory import lock_file, read_pid_file
from fpd.embedded.postgres import EmbeddedPostgres, running_url
from fpd.errors import Misconfigured

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about being root")

DAEMON = """
import asyncio, sys
from pathlib import Path
from fpd.embedded.postgres import EmbeddedPostgres

async def main():
    print(await EmbeddedPostgres(Path(sys.argv[1])).start(), flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that may be handed to another user."""
    directory = scratch_directory()
    yield directory / "postgres"
    shutil.rmtree(directory)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made_before() -> AsyncIterator[Path]:
    directory = scratch_directory()
    server = EmbeddedPostgres(directory / "postgres", durable=False)
    url = await server.start()
    await execute(url, "create table reading (watts integer)")
    # What it leaves behind when it is killed, for those who want that.
    shutil.copy(directory / "postgres/cluster/postmaster.pid", directory / "postmaster.pid")
    await server.stop()
    yield directory / "postgres"
    shutil.rmtree(directory)


@pytest.fixture
def used(made_before: Path, place: Path) -> Path:
    """A directory whose cluster exists, with an empty table `reading`."""
    shutil.copytree(made_before, place)
    return place


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[str]:
    server = EmbeddedPostgres(directory)
    try:
        yield await server.start()
    finally:
        await server.stop()


@asynccontextmanager
async def daemon(directory: Path, *, under: tuple[str, ...] = ()) -> AsyncIterator[Process]:
    """Another process that runs the server; killed at the end, and its server waited for."""
    command = (*under, sys.executable, "-c", DAEMON, str(directory))
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        await wait_for(lambda: all_ended(directory), timeout=10)


def all_ended(directory: Path) -> bool:
    """Whether no process of the server is left."""
    lock = lock_file(directory / "server.lock")
    if lock is not None:
        os.close(lock)
    return lock is not None


async def url_of(process: Process) -> str:
    assert process.stdout is not None
    async for line in process.stdout:
        if line.startswith(b"postgresql:"):
            return line.decode().strip()
    raise AssertionError("the daemon ended")


async def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


def server_pid(directory: Path) -> int:
    found = read_pid_file(directory / "cluster")
    assert found is not None and found.pid is not None
    return found.pid


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def owners(directory: Path) -> set[int]:
    """Who owns the directory and what is in it."""
    return {path.stat().st_uid for path in (directory, *directory.rglob("*"))}


def user_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def is_gone(pid: int) -> Callable[[], bool]:
    status = Path(f"/proc/{pid}/status")
    # Where nobody inherits orphans, as in a bare container, a zombie stays.
    return lambda: not status.exists() or "State:\tZ" in status.read_text()


async def test_what_was_written_is_there_after_a_restart(place: Path) -> None:
    server = EmbeddedPostgres(place)
    url = await server.start()
    await execute(url, "create table kept as select 42 as watts")
    await server.stop()
    with pytest.raises(psycopg.OperationalError):
        await execute(url, "select 1")

    assert await server.start() == url
    assert await execute(url, "select watts from kept") == [(42,)]
    await server.stop()
    await server.stop()  # no harm


async def test_only_our_own_user_can_reach_it(used: Path) -> None:
    async with running(used) as url:
        assert await execute(url, "show listen_addresses") == [("",)]
        assert mode(used / "run") == 0o700
        assert (used / "run" / ".s.PGSQL.5432").is_socket()
        assert mode(used) == 0o700
        assert await execute(url, "select current_database(), current_user") == [("fpd", "fpd")]


async def test_a_commit_waits_for_the_disk(used: Path) -> None:
    settings = "select name, setting from pg_settings where name in ('fsync', 'synchronous_commit')"
    async with running(used) as url:
        found = await execute(url, settings)
    assert sorted(found) == [("fsync", "on"), ("synchronous_commit", "on")]


async def test_it_dies_with_a_killed_daemon_and_the_next_one_recovers(used: Path) -> None:
    async with daemon(used) as process:
        url = await url_of(process)
        await execute(url, "insert into reading values (1500)")
        pid = server_pid(used)
        process.kill()
        await process.wait()
        # systemd starts the next daemon at once, while the old server is still ending.
        async with running(used) as url:
            assert await execute(url, "select watts from reading") == [(1500,)]
            assert server_pid(used) != pid
            await wait_for(is_gone(pid), what="the old server to be gone")


async def test_the_next_daemon_waits_for_a_server_that_is_slow_to_end(used: Path) -> None:
    async with daemon(used) as process:
        await execute(await url_of(process), "insert into reading values (1500)")
        pid = server_pid(used)
        os.kill(pid, signal.SIGSTOP)  # a disk that does not answer
        process.kill()
        await process.wait()
        server = EmbeddedPostgres(used)
        starting = asyncio.create_task(server.start())
        try:
            await asyncio.sleep(0.3)
            assert not starting.done()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await execute(await starting, "select watts from reading") == [(1500,)]
        await server.stop()


async def test_it_is_gone_soon_after_the_daemon_even_if_nobody_takes_over(used: Path) -> None:
    async with daemon(used) as process:
        await url_of(process)
        pid = server_pid(used)
        process.kill()
        await wait_for(is_gone(pid), timeout=10, what="the server to follow its daemon")
    assert running_url(used) is None


async def test_a_daemon_killed_while_it_makes_the_cluster_leaves_no_half_made_one(
    place: Path,
) -> None:
    async with daemon(place) as process:
        await wait_for((place / "cluster.new" / "base").exists, timeout=30)
        process.kill()
        assert not (place / "cluster").exists()
    async with running(place) as url:
        assert await execute(url, "select 1") == [(1,)]


async def test_the_daemon_learns_that_the_server_died_and_can_start_it_again(used: Path) -> None:
    server = EmbeddedPostgres(used)
    try:
        url = await server.start()
        await execute(url, "insert into reading values (1500)")
        os.kill(server_pid(used), signal.SIGKILL)
        async with asyncio.timeout(5):
            assert await server.exited() == -signal.SIGKILL
        assert await execute(await server.start(), "select watts from reading") == [(1500,)]
    finally:
        await server.stop()
    async with asyncio.timeout(5):
        assert await server.exited() == 0


async def test_ctrl_c_in_the_terminal_is_not_for_the_server(used: Path) -> None:
    async with running(used):
        assert os.getpgid(server_pid(used)) != os.getpgid(0)


async def test_a_second_daemon_is_refused_and_told_who_has_the_directory(used: Path) -> None:
    async with daemon(used) as process:
        url = await url_of(process)
        with pytest.raises(Misconfigured, match=f"in use by another fpd, process {process.pid}"):
            await EmbeddedPostgres(used).start()
        assert await execute(url, "select 1") == [(1,)]


async def test_a_command_beside_the_daemon_finds_the_server(place: Path, used: Path) -> None:
    assert running_url(place / "nowhere") is None
    assert running_url(used) is None
    async with running(used) as url:
        assert running_url(used) == url
    assert running_url(used) is None


async def test_starting_twice_or_in_a_passing_thread_is_a_bug(used: Path) -> None:
    server = EmbeddedPostgres(used)
    with pytest.raises(RuntimeError, match="main"):
        await asyncio.to_thread(lambda: asyncio.run(server.start()))
    with pytest.raises(RuntimeError, match="never started"):
        await server.exited()
    await server.start()
    try:
        with pytest.raises(RuntimeError, match="already started"):
            await server.start()
    finally:
        await server.stop()


# --- postmaster.pid files that are not true


def leave_pid_file(directory: Path, pid: int) -> None:
    """Leave what a killed server leaves, as if its process number had been `pid`."""
    lines = (directory.parent / "postmaster.pid").read_text().splitlines()
    pid_file = directory / "cluster" / "postmaster.pid"
    pid_file.write_text("\n".join([str(pid), *lines[1:]]) + "\n")


@pytest.fixture
def zombie() -> Iterator[int]:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


async def starts(directory: Path) -> bool:
    async with running(directory) as url:
        return await execute(url, "select count(*) from reading") == [(0,)]


@pytest.fixture
def killed(made_before: Path, used: Path) -> Path:
    """A directory whose server was killed; `leave_pid_file` says with which number."""
    shutil.copy(made_before.parent / "postmaster.pid", used.parent)
    return used


async def test_a_number_that_another_process_has_now_is_not_believed(killed: Path) -> None:
    leave_pid_file(killed, os.getpid())
    assert await starts(killed)


async def test_a_zombie_is_not_believed(killed: Path, zombie: int) -> None:
    leave_pid_file(killed, zombie)
    assert await starts(killed)


async def test_a_number_that_nobody_has_is_not_believed(killed: Path) -> None:
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    leave_pid_file(killed, ended.pid)
    assert await starts(killed)


@pytest.mark.parametrize("text", ["", "\n\n", "nonsense\n"])
async def test_a_file_cut_short_by_a_power_failure_is_not_believed(killed: Path, text: str) -> None:
    (killed / "cluster" / "postmaster.pid").write_text(text)
    assert await starts(killed)


async def test_a_server_that_somebody_else_started_on_the_data_is_believed(used: Path) -> None:
    used.joinpath("run").mkdir(exist_ok=True)
    launcher = await choose_launcher(find_binaries(os.environ), used)
    sockets = f"--unix_socket_directories={used / 'run'}"
    with (used / "server.log").open("ab") as output:
        stranger = await launcher.start(
            "postgres",
            *("-D", str(used / "cluster"), "--listen_addresses=", sockets),
            output=output.fileno(),
            keep_open=(),
            cwd=used,
        )
    try:
        await wait_for(lambda: (f := read_pid_file(used / "cluster")) and f.ready)
        with pytest.raises(Misconfigured, match=f"has not started, process {stranger.pid}"):
            await EmbeddedPostgres(used).start()
        assert (used / "cluster" / "postmaster.pid").exists()
    finally:
        stranger.send_signal(signal.SIGINT)
        await stranger.wait()


# --- places


@pytest.mark.parametrize("name", ["x" * 150, "a, b", 'say "hi"', "Größe %41"])
async def test_any_path_will_do(used: Path, name: str) -> None:
    directory = used.parent / name
    os.rename(used, directory)
    async with running(directory) as url:
        assert await execute(url, "select count(*) from reading") == [(0,)]
        assert running_url(directory) == url
        found = read_pid_file(directory / "cluster")
        assert found is not None
        assert len(os.fsencode(found.sockets / ".s.PGSQL.5432")) <= 107
        assert mode(found.sockets) == 0o700
    assert not found.sockets.exists()


async def test_a_short_place_that_others_can_enter_is_not_used(used: Path) -> None:
    directory = used.parent / ("x" * 150)
    os.rename(used, directory)
    async with running(directory):
        found = read_pid_file(directory / "cluster")
        assert found is not None
    found.sockets.mkdir(mode=0o755)
    try:
        with pytest.raises(Misconfigured, match="is not a directory that only uid"):
            await EmbeddedPostgres(directory).start()
    finally:
        found.sockets.rmdir()


async def test_a_place_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Misconfigured, match=r"cannot use .*file/postgres: .*Not a directory"):
        await EmbeddedPostgres(tmp_path / "file" / "postgres").start()


# --- whom it runs as


@needs_root
async def test_started_by_root_it_is_not_root(used: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    async with running(used):
        launcher = await choose_launcher(find_binaries(os.environ), used)
        pid = server_pid(used)
        if launcher.identity == f"namespace:{nobody}":
            assert uid_map(pid) == [str(nobody), "0", "1"]
            assert owners(used / "cluster") == {0}
        else:  # no user namespaces here
            assert user_of(pid) == nobody
            assert owners(used / "cluster") == {nobody}


def uid_map(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/uid_map").read_text().split()


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv here")
async def test_where_root_may_not_make_namespaces_it_runs_as_the_user_nobody(place: Path) -> None:
    # Without this capability root cannot be mapped into a namespace, as in many containers.
    under = ("setpriv", "--bounding-set=-setfcap", "--inh-caps=-setfcap")
    nobody = pwd.getpwnam("nobody").pw_uid
    async with daemon(place, under=under) as process:
        await execute(await url_of(process), "create table kept as select 42 as watts")
        pid = server_pid(place)
        assert user_of(pid) == nobody
        process.kill()
        await wait_for(is_gone(pid), timeout=10, what="nobody's server to follow its daemon")
    async with running(place) as url:
        assert await execute(url, "select watts from kept") == [(42,)]
    assert owners(place) == {nobody}


def give_away(directory: Path, user: pwd.struct_passwd) -> None:
    for path in (directory, *directory.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid)


@needs_root
async def test_root_works_on_a_users_directory_as_that_user(used: Path) -> None:
    user = pwd.getpwnam("daemon")
    give_away(used, user)
    async with running(used):
        assert user_of(server_pid(used)) == user.pw_uid
        assert owners(used) == {user.pw_uid}


@needs_root
async def test_root_makes_a_users_directory_for_that_user(place: Path) -> None:
    user = pwd.getpwnam("daemon")
    os.chown(place.parent, user.pw_uid, user.pw_gid)
    async with running(place):
        assert owners(place) == {user.pw_uid}


# --- why it cannot start


async def test_data_of_another_major_version_is_refused(used: Path) -> None:
    (used / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(Misconfigured, match=r"made by PostgreSQL 9 but .* set FPD_PG_BIN"):
        await EmbeddedPostgres(used).start()


async def test_a_server_that_will_not_start_is_quoted(used: Path) -> None:
    with (used / "cluster" / "postgresql.conf").open("a") as conf:
        conf.write("\nshared_bufers = 1GB\n")
    with pytest.raises(Misconfigured) as caught:
        await EmbeddedPostgres(used).start()
    message = str(caught.value)
    assert 'unrecognized configuration parameter "shared_bufers"' in message
    assert f"see {used / 'server.log'}" in message
    assert "\n" not in message


async def test_the_last_log_is_kept_when_a_new_one_begins(used: Path) -> None:
    for _ in range(3):
        async with running(used):
            pass
    assert (used / "server.log").read_text().count("ready to accept connections") == 1
    assert (used / "server.log.1").read_text().count("ready to accept connections") == 1


async def test_a_failed_start_lets_go_of_the_directory(used: Path) -> None:
    version = used / "cluster" / "PG_VERSION"
    made_by = version.read_text()
    version.write_text("9\n")
    failed = EmbeddedPostgres(used)
    with pytest.raises(Misconfigured):
        await failed.start()
    version.write_text(made_by)
    assert await starts(used)


def programs(directory: Path, script: str) -> Path:
    directory.mkdir()
    for name in ("initdb", "postgres"):
        (directory / name).write_text(script)
        (directory / name).chmod(0o755)
    return directory


async def test_programs_that_do_not_run_are_quoted(place: Path) -> None:
    broken = programs(place.parent / "bin", "#!/bin/sh\necho no libssl here >&2\nexit 127\n")
    with pytest.raises(Misconfigured, match=r"bin/postgres cannot be run here: no libssl here"):
        await EmbeddedPostgres(place, binaries=broken).start()


async def test_initdb_that_fails_is_quoted(place: Path) -> None:
    script = '#!/bin/sh\ncase "$1" in --version) echo "postgres (PostgreSQL) 17.5";;'
    full = programs(place.parent / "bin", script + " *) echo disk full; exit 1;; esac\n")
    with pytest.raises(Misconfigured, match=r"initdb failed \(1\) as .*: disk full"):
        await EmbeddedPostgres(place, binaries=full).start()
    assert not (place / "cluster").exists()


def test_the_programs_that_the_operator_chose_are_used_or_missed(tmp_path: Path) -> None:
    chosen = programs(tmp_path / "bin", "#!/bin/sh\n")
    assert find_binaries({"FPD_PG_BIN": str(chosen)}) == chosen
    with pytest.raises(Misconfigured, match="FPD_PG_BIN=/nowhere"):
        find_binaries({"FPD_PG_BIN": "/nowhere"})
