"""Become somebody harmless, promise to die with the parent, then become the given program.

Run as a script of its own (`python -I -S launch.py IDENTITY PARENT SIGNAL PROGRAM ARGUMENT…`),
because none of this is safe between fork and exec in a process that has threads. It imports
nothing but the standard library. Linux only.

IDENTITY is `self`; or `namespace:UID`, a user namespace of our own in which we appear as UID
while files and processes stay ours outside; or `user:UID:GID`, another user altogether.
PARENT is the process whose death is ours, SIGNAL the number of the signal that then comes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NOT_ALLOWED = 77
"""The exit status when the system refuses the identity that was asked for."""

_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Replace this process by the program; returns only by raising or exiting."""
    identity, parent, signal_number, *command = arguments
    try:
        _become(identity)
    except OSError as error:
        sys.exit(_complain(f"cannot run as {identity}: {error.strerror}"))
    _die_with(int(parent), int(signal_number))
    try:
        os.execv(command[0], command)
    except OSError as error:
        _complain(f"cannot run {command[0]}: {error.strerror}")
        sys.exit(126)


def _become(identity: str) -> None:
    kind, _, ids = identity.partition(":")
    if kind == "namespace":
        _enter_namespace(ids)
    elif kind == "user":
        uid, gid = map(int, ids.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def _enter_namespace(seen_as: str) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{seen_as} {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{seen_as} {gid} 1", encoding="ascii")


def _die_with(parent: int, signal_number: int) -> None:
    # The kernel forgets this at every change of user: it comes after `_become`.
    _call("prctl", _PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(_complain("the parent has gone already"))


def _call(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*map(ctypes.c_ulong, arguments)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _complain(message: str) -> int:
    sys.stderr.write(f"launch: {message}\n")
    return NOT_ALLOWED


if __name__ == "__main__":
    main(sys.argv[1:])
