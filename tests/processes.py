"""Commands in processes of their own that start in milliseconds: forked from a server that has the imports behind it."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from tierkeeper.kernel.faults import Point


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal that killed it) and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@cache
def _forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tierkeeper.cli.app", "tierkeeper.compose", "adbc_driver_postgresql.dbapi", "tierkeeper.testing.crash"]
    )
    return context


def command(
    arguments: Sequence[str], environment: Mapping[str, str], *, die_at: Point | None = None, seconds: float = 60
) -> Ended:
    """Runs `tierkeeper ARGUMENTS` to its end, or until it reaches `die_at` and is killed there."""
    with tempfile.TemporaryDirectory(prefix="tierkeeper-command-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = _forks().Process(target=_run, args=(list(arguments), dict(environment), str(out), str(err), die_at))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
        code = process.exitcode
        return Ended(-99 if code is None else code, out.read_text(), err.read_text())


def _run(arguments: list[str], environment: dict[str, str], out: str, err: str, die_at: Point | None) -> None:
    for name, number in ((out, 1), (err, 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - for the life of the process
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment["HOME"])
    from tierkeeper.cli import main
    from tierkeeper.testing.crash import kill_at

    if die_at is not None:
        kill_at(die_at)
    main(arguments)


def move_in_small_batches(config: Path, environment: Mapping[str, str], batch_rows: int) -> ForkServerProcess:
    """Starts a process that moves the events to Main and then to the archive, a few rows at a time. The caller ends it."""
    process = _forks().Process(target=_move_all, args=(str(config), dict(environment), batch_rows))
    process.start()
    return process


def _move_all(config: str, environment: dict[str, str], batch_rows: int) -> None:
    from datetime import UTC, datetime

    from tierkeeper.compose import open_keeper
    from tierkeeper.config import load
    from tierkeeper.kernel.tables import TableName

    settings = load(Path(config), environment, Path.cwd())
    keeper = open_keeper(settings, environment=environment, batch_rows=batch_rows, segment_rows=4 * batch_rows)
    table, before = TableName("public", "events"), datetime(2024, 2, 20, tzinfo=UTC)
    keeper.move(table, "main", "archive", before=before)
    keeper.move(table, "core", "main", before=before)
