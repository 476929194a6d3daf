"""Commands in processes of their own that start in milliseconds: forked from a server that has the imports behind it."""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from multiprocessing.connection import Connection as Wire
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

from support import eventually
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal that killed it) and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@cache
def forks() -> ForkServerContext:
    """Forks from a process that has the imports behind it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "tierkeeper.cli.app",
            "tierkeeper.cli.render_rows",
            "structlog",
            "tierkeeper.compose",
            "tierkeeper.archive.service",
            "tierkeeper.archive.drill",
            "tierkeeper.archive.merging",
            "tierkeeper.archive.rotation",
            "tierkeeper.archive.scan",
            "tierkeeper.archive.thaw",
            "tierkeeper.archive.writing",
            "tierkeeper.homeserver.serve",
            "adbc_driver_postgresql.dbapi",
            "tierkeeper.jobs.start",
            "tierkeeper.query.engine",
            "tierkeeper.query.runner",
            "tierkeeper.testing.crash",
        ]
    )
    return context


def command(
    arguments: Sequence[str], environment: Mapping[str, str], *, die_at: Point | None = None, seconds: float = 60
) -> Ended:
    """Runs `tierkeeper ARGUMENTS` to its end, or until it reaches `die_at` and is killed there."""
    with tempfile.TemporaryDirectory(prefix="tierkeeper-command-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = forks().Process(target=_run, args=(list(arguments), dict(environment), str(out), str(err), die_at))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
        code = process.exitcode
        return Ended(-99 if code is None else code, out.read_text(), err.read_text())


def start(arguments: Sequence[str], environment: Mapping[str, str], log: Path, die_at: Point | None = None) -> ForkServerProcess:
    """Starts `tierkeeper ARGUMENTS`, which writes what it says to `log`, and returns at once."""
    process = forks().Process(target=_run, args=(list(arguments), dict(environment), str(log), str(log), die_at))
    process.start()
    return process


def _run(arguments: list[str], environment: dict[str, str], out: str, err: str, die_at: Point | None) -> None:
    for name, number in ((out, 1), (err, 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - for the life of the process
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["HOME"])
    from tierkeeper.cli import main
    from tierkeeper.testing.crash import kill_at

    if die_at is not None:
        kill_at(die_at)
    main(arguments)


_CLIENT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as wire:
    wire.connect({address!r})
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(wire, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    wire.sendall(asked)
    code = wire.recv(4)
sys.exit(int(code) if code else 137)
"""


@contextmanager
def served(folder: Path) -> Iterator[Path]:
    """A folder for PATH whose `tierkeeper` is forked from a server that has the imports behind it.

    It has the arguments, the folder, the environment and the files of whoever calls it; a signal does not reach it.
    """
    address, program = folder / "wire", folder / "tierkeeper"
    program.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    server = forks().Process(target=_serve, args=(str(address),))
    server.start()
    try:
        assert eventually(address.exists, 60)
        yield folder
    finally:
        server.kill()
        server.join()


def _serve(address: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries those that ended
    while os.open(os.devnull, os.O_RDWR) < 3:  # the numbers that a command's own files get are taken
        pass
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen(16)
        while True:
            wire, _ = door.accept()
            if os.fork() == 0:
                _answer(wire)
            wire.close()


def _answer(wire: socket.socket) -> NoReturn:
    from tierkeeper.cli import main

    code = 137
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        size, files, _, _ = socket.recv_fds(wire, 4, 3)
        with wire.makefile("rb") as reader:
            arguments, folder, environment = json.loads(reader.read(int.from_bytes(size, "big")))
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode) for number, mode in enumerate("rww"))  # noqa: PTH123, SIM115
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - whoever called sees it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        wire.sendall(str(code).encode())
        os._exit(code)


@dataclass(frozen=True)
class Hop:
    """One run of the mover in a process of its own."""

    config: Path
    environment: Mapping[str, str]
    table: str
    source: Tier
    destination: Tier
    before: datetime
    batch_rows: int
    hurry: float = 1
    where: str | None = None
    again: bool = False  # after an error of the project's: the same process tries once more


@dataclass(frozen=True)
class At:
    """The `nth` arrival at `point`: there the process kills itself, or with `asks` says so and waits for an answer."""

    point: Point
    nth: int = 1
    asks: bool = False


def start_hop(hop: Hop, at: At | None = None) -> tuple[ForkServerProcess, "Wire[Any, Any]"]:
    """Starts a run and returns its process with a wire: it says `began`, `at` (and waits), then how it ended.

    The end is ("ended", stopped_because, rows), ("told", the exit code's name, the error) or ("raised", another's traceback); a
    process that was killed says none. The caller joins the process and closes the wire.
    """
    ours, theirs = multiprocessing.Pipe()
    process = forks().Process(target=_hop, args=(hop, at, theirs))
    process.start()
    theirs.close()
    return process, ours


def _hop(hop: Hop, at: At | None, wire: "Wire[Any, Any]") -> None:
    from tierkeeper.compose import open_keeper
    from tierkeeper.config import load
    from tierkeeper.kernel.errors import TierkeeperError
    from tierkeeper.kernel.tables import TableName

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings about batches left for the next run
    os.environ.clear()
    os.environ.update(hop.environment)
    if at is not None:
        _stop_at(at, wire)
    settings = load(hop.config, dict(hop.environment), hop.config.parent)
    keeper = open_keeper(
        settings,
        clock=Hurried(hop.hurry),
        environment=hop.environment,
        batch_rows=hop.batch_rows,
        segment_rows=2 * hop.batch_rows,
    )
    wire.send(("began",))
    for _ in range(1 + hop.again):
        try:
            result = keeper.move(TableName("public", hop.table), hop.source, hop.destination, before=hop.before, where=hop.where)
        except TierkeeperError as error:
            wire.send(("told", error.exit_code.name, str(error)))
        except Exception:  # noqa: BLE001 - told by the one who started us
            wire.send(("raised", traceback.format_exc()))
            return
        else:
            wire.send(("ended", result.stopped_because, result.rows))
            return


def _stop_at(at: At, wire: "Wire[Any, Any]") -> None:
    from tierkeeper.kernel import faults
    from tierkeeper.testing.crash import kill_at

    if not at.asks:
        kill_at(at.point, at.nth)
        return
    arrivals = itertools.count(1)

    def hook(reached: Point) -> None:
        if reached is at.point and next(arrivals) == at.nth:
            wire.send(("at",))
            wire.recv()

    faults.arm(hook)


class Hurried(SystemClock):
    """The real clock, but a second slept counts as `times` seconds: who waits in vain gives up soon."""

    def __init__(self, times: float) -> None:
        self._times, self._skipped = times, 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self._skipped += seconds * (self._times - 1)
