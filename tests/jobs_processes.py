"""Processes of `run` and `worker` in a hurry, with a job of their own: forked from a server that has the imports behind it."""

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from processes import forks
from support import Tiers, eventually, tierkeeper_toml
from tierkeeper.jobs.memory import Memory
from tierkeeper.jobs.model import Job, Timing
from tierkeeper.kernel.faults import Point
from tierkeeper.postgres.link import Link

HURRY = Timing(
    turn=0.05,
    poll=0.05,
    heartbeat=0.2,
    stalled=1.2,
    sweep=0.2,
    renew=0.3,
    lease=1,
    back_off=0.05,
    back_off_most=0.2,
    again=0.05,
    again_most=1,
)
BEFORE = datetime(2025, 1, 1, tzinfo=UTC)
POLICY = ({"name": "public.rows", "age": "at", "core": "30 days"},)
BATCH_ROWS = 500


def furnish(tiers: Tiers, rows: int = 8_000) -> Path:
    """Old rows in Core, a configuration, and a move of them that is due: by `start`'s own job `quota`."""
    with closing(tiers.core.connect("furnish")) as conn:
        conn.execute("CREATE TABLE public.rows (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text)")
        conn.execute(
            "INSERT INTO public.rows SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 minute', 'row ' || i"
            " FROM generate_series(1, %s) AS i",
            (rows,),
        )
    return tierkeeper_toml(tiers, POLICY)


def make_due(main: Link) -> None:
    """The move's last time was long ago."""
    Memory(main).handled("quota", datetime(2024, 1, 1, tzinfo=UTC))


def rows_in(link: Link) -> Counter[tuple[object, ...]]:
    """The application's own view of its rows."""
    with closing(link.connect("oracle")) as conn:
        there = conn.execute("SELECT to_regclass('public.rows') IS NOT NULL").fetchone() == (True,)
        return Counter(conn.execute("SELECT id, at::text, body FROM public.rows").fetchall() if there else [])


@dataclass
class Running:
    """One process, and what it has told so far."""

    process: ForkServerProcess
    log: Path

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """What it told, of one kind or of all."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("}")]
        return [one for one in told if kind in (None, one["event"])]

    def says(self, kind: str, seconds: float = 15) -> bool:
        return eventually(lambda: bool(self.events(kind)), seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def end(self) -> int:
        """Asks it to end as systemd does; its exit code."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGTERM)
        self.process.join(20)
        assert self.process.exitcode is not None, "it did not end"
        return self.process.exitcode


def set_up(tiers: Tiers, config: Path) -> None:
    """Everything that a move needs is there."""
    from tierkeeper.compose import open_keeper
    from tierkeeper.config import load

    keeper = open_keeper(load(config, tiers.environment, config.parent), environment=tiers.environment)
    keeper.setup(apply=True)


def finished(*running: Running) -> list[dict[str, Any]]:
    """What the move's job said where it was done."""
    return [e for one in running for e in one.events("job") if e["job"] == "quota" and e["ok"]]


def moved(*running: Running) -> dict[str, Any]:
    """What the job said that moved the rows, whoever ran it."""
    assert eventually(lambda: bool(finished(*running)), 60), [
        (e["event"], e["told"], e["error"]) for one in running for e in one.events()
    ]
    return finished(*running)[0]


def begin(role: str, config: Path, environment: Mapping[str, str], log: Path, die_at: tuple[Point, int] | None = None) -> Running:
    """Starts a process in `role` and returns at once.

    One that kills itself when it comes to `die_at` for the so-many-th time takes parts alone.
    """
    process = forks().Process(target=_main, args=(role, config, dict(environment), log, die_at))
    process.start()
    return Running(process, log)


def _main(role: Any, config: Path, environment: dict[str, str], log: Path, die_at: tuple[Point, int] | None) -> None:
    from tierkeeper.cli.stop import StopFlag
    from tierkeeper.compose import Keeper
    from tierkeeper.config import load
    from tierkeeper.jobs.start import start
    from tierkeeper.kernel.errors import NotNow, TierkeeperError
    from tierkeeper.kernel.results import Result
    from tierkeeper.kernel.tables import TableName
    from tierkeeper.testing.crash import kill_at

    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(log.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    stop = StopFlag()
    if die_at is not None:
        kill_at(*die_at)

    def tell(event: Result) -> None:
        with log.open("a") as file:
            file.write(event.model_dump_json() + "\n")

    def watch(keeper: object) -> None:
        """A job that needs no Main."""

    def move(keeper: Keeper) -> Result:
        if die_at is not None:
            raise NotNow("quota", "this one only helps", "Another leads")
        return keeper.move(TableName("public", "rows"), "core", "main", before=BEFORE)

    jobs = [Job("usage", watch, watches=True), Job("quota", move)]
    settings = load(config, environment, config.parent)
    with stop.listening():
        try:
            code = start(
                role, settings, tell=tell, stop=stop, jobs=jobs, timing=HURRY, environment=environment, batch_rows=BATCH_ROWS
            )
        except TierkeeperError as error:
            tell_error(log, error)
            code = error.exit_code
    raise SystemExit(int(code))


def tell_error(log: Path, error: Exception) -> None:
    with log.open("a") as file:
        file.write(json.dumps({"event": "error", "told": str(error)}) + "\n")
