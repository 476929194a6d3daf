"""A hundred thousand segments in the catalog: how long it takes to list them, and to find those that a question needs."""

import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from bench.common import Figures, Options, bench, connection, program, timed
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.tables import TableName
from tierkeeper.query.runner import FastDoor

_TABLE = TableName("public", "events")
_POLICY = '[[tables]]\nname = "public.events"\nage = "at"\ncore = "30 days"\nmain = "60 days"'
_FILL = """
INSERT INTO tierkeeper.ledger (batch, source, schema_name, table_name, age, cutoff, predicate, state, rows)
SELECT md5('batch' || n)::uuid, 'main', 'public', 'events', 'at', now(), '', 'forgotten', 1000000
FROM generate_series(1, {segments}) AS n;
INSERT INTO tierkeeper.segment (id, batch, source, schema_name, table_name, age, state, position, previous, manifest, key_object,
    sha256, bytes, rows, min_age, max_age, key_id, schema_hash, created_at, commit_object)
SELECT md5('segment' || n)::uuid, md5('batch' || n)::uuid, 'main', 'public', 'events', 'at', 'sealed', n, 'before' || n,
    'manifest' || n, 'key/' || n, 'file' || n, 12000000, 1000000, timestamptz '2000-01-01' + n * interval '1 hour',
    timestamptz '2000-01-01' + (n + 1) * interval '1 hour', 'key', 'schema', now(), 'commit/' || n
FROM generate_series(1, {segments}) AS n;
ANALYZE tierkeeper.segment; ANALYZE tierkeeper.ledger;
"""
_SINCE = datetime(2005, 3, 1, tzinfo=UTC)
_DAY = "SELECT count(*) FROM public.events WHERE at >= '2005-03-01' AND at < '2005-03-02'"


def run(options: Options) -> Figures:
    """Seconds to list every segment inside a program that runs; the other questions stand beside, and both as commands."""
    figures = Figures("many-segments", "s", "psql COPY of the same rows", less_is_better=True)
    with bench(options.postgres) as b:
        with connection(b.core) as core:
            core.execute("CREATE TABLE public.events (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text)")
        config = b.configure(_POLICY)
        timed(["tierkeeper", "setup", "--apply", "--config", str(config)], b.environment)
        with connection(b.catalog) as catalog:
            catalog.execute(_FILL.format(segments=options.segments).encode())
        settings = load(config, {}, b.folder)
        keeper = open_keeper(settings, environment=b.environment)
        links, scan = keeper.links, keeper.archive.scan()
        door = FastDoor(links["core"], links["main"], links["archive"], settings.policies(), timeout_seconds=60, archive=scan)
        questions: dict[str, Callable[[], object]] = {
            "plan of a question": lambda: door.explain(_DAY),
            "plan of a thaw": lambda: keeper.archive.chosen(_TABLE, since=_SINCE, until=_SINCE + timedelta(days=1)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in questions}
        psql = shlex.quote(program("psql"))
        copy = "COPY (SELECT id, schema_name, table_name, rows, bytes, min_age, max_age, state FROM tierkeeper.segment) TO STDOUT"
        peer = f"{psql} -qX -v ON_ERROR_STOP=1 -c {shlex.quote(copy)} -o /dev/null {shlex.quote(b.catalog.url())}"
        for _ in range(options.runs):
            _seconds(keeper.archive_list, figures.ours_runs)
            for name, ask in questions.items():
                _seconds(ask, seconds[name])
            figures.peer_runs.append(timed(["/bin/bash", "-c", peer], b.environment).seconds)
        ran = timed(["tierkeeper", "archive", "list", "--config", str(config), "--json"], b.environment)
        figures.peaks_mb.append(ran.peak_mb)
        figures.more["command_seconds"] = round(ran.seconds, 2)
    figures.more["seconds"] = {name: round(sorted(taken)[len(taken) // 2], 2) for name, taken in seconds.items()}
    return figures


def _seconds(ask: Callable[[], object], taken: list[float]) -> None:
    began = time.monotonic()
    ask()
    taken.append(time.monotonic() - began)
