"""A thousand small tables: the time of each command that looks at all of them, beside pg_dump's for their schema."""

import shlex

from bench.common import Figures, Options, bench, connection, program, timed
from tierkeeper.postgres.link import Connection

ROWS = 10
_COMMANDS = (("setup", "--apply"), ("setup",), ("check",), ("status",), ("quota", "--dry-run"))


def run(options: Options) -> Figures:
    """Tables per second that `setup --apply` makes; the seconds of every command stand beside. Each run has fresh servers."""
    figures = Figures("many-tables", "tables/s", "pg_dump --schema-only | psql")
    seconds: dict[str, list[float]] = {" ".join(command): [] for command in _COMMANDS}
    for _ in range(options.runs):
        with bench(options.postgres) as b:
            with connection(b.core) as core:
                _make(core, options.tables)
            config = b.configure("\n".join(map(_policy, range(options.tables))), apply=False)
            for command in _COMMANDS:
                ran = timed(["tierkeeper", *command, "--config", str(config), "--json"], b.environment)
                seconds[" ".join(command)].append(ran.seconds)
                figures.peaks_mb.append(ran.peak_mb)
            figures.ours_runs.append(options.tables / seconds["setup --apply"][-1])
            dump, psql = shlex.quote(program("pg_dump")), shlex.quote(program("psql"))
            b.main.create_database("peer")
            into = f"{psql} -qX -v ON_ERROR_STOP=1 -o /dev/null {shlex.quote(b.main.url('peer'))}"
            pipe = f"{dump} --schema-only -t 'public.small_*' {shlex.quote(b.core.url())} | {into}"
            ran = timed(["/bin/bash", "-c", f"set -eo pipefail; {pipe}"], b.environment)
            figures.peer_runs.append(options.tables / ran.seconds)
    figures.more["seconds"] = {name: round(sorted(taken)[len(taken) // 2], 2) for name, taken in seconds.items()}
    return figures


def _make(core: Connection, tables: int) -> None:
    for i in range(tables):
        core.execute(f"CREATE TABLE public.small_{i} (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text)".encode())
        core.execute(
            f"INSERT INTO public.small_{i} SELECT n, now() - n * interval '10 days', 'note ' || n"
            f" FROM generate_series(1, {ROWS}) AS n".encode()
        )
    core.execute("ANALYZE")


def _policy(i: int) -> str:
    return f'[[tables]]\nname = "public.small_{i}"\nage = "at"\ncore = "30 days"\nmain = "60 days"'
