"""Becomes a Postgres program: gives up root, ties its life to the parent's, then execs. Run as a script, never imported.

A program of its own because nothing may run between fork and exec in a process that has threads. It knows only the
standard library, and it must exec rather than fork: the pid that its parent knows has to be the server's own.

Usage: launch.py as-is|namespace|nobody PARENT_PID PROGRAM [ARGUMENT ...]
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

NOBODY = 65534
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1


def _enter_namespace(libc: ctypes.CDLL) -> None:
    """A user namespace in which we are nobody: Postgres sees no root, and files of ours stay ours."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "no user namespace")
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{NOBODY} {uid} 1")
    (own / "gid_map").write_text(f"{NOBODY} {gid} 1")


def main(identity: str, parent: int, command: list[str]) -> None:
    """Does not return."""
    libc = ctypes.CDLL(None, use_errno=True)
    if identity == "namespace":
        _enter_namespace(libc)
    elif identity == "nobody":
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    # Only now: a change of credentials clears it. Postgres takes SIGINT as the order to end its sessions and stop.
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no signal on the parent's death")
    if os.getppid() != parent:
        sys.exit("the parent has ended")
    os.umask(0o077)
    os.execv(command[0], command)  # noqa: S606 - a program by its path, without a shell, is what is meant


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
