"""The verified, crash-safe move with its delete, against the pipe that verifies nothing: COPY | COPY, then one DELETE."""

import shlex

from bench.common import Bench, Figures, bench, connection, fill, in_turn, program, timed


def run(rows: int, runs: int) -> Figures:
    """Rows per second, the process of the command line included on both sides."""
    figures = Figures("move", "rows/s", "psql COPY | psql COPY, then one DELETE, unverified")
    psql = program("psql")
    with bench() as b:
        with connection(b.core) as core:
            fill(core, rows)
        config = b.configure()

        def refill() -> None:
            with connection(b.core) as core, connection(b.main) as main:
                fill(core, rows)
                main.execute("TRUNCATE tierkeeper.ledger")
                main.execute("TRUNCATE public.events")
                core.execute("TRUNCATE tierkeeper.marker")

        def ours() -> None:
            refill()
            command = [
                "tierkeeper",
                "move",
                "public.events",
                "--from",
                "core",
                "--to",
                "main",
                "--before",
                "2030-01-01",
                "--config",
                str(config),
            ]
            ran = timed([*command, "--json"], b.environment)
            _count(b, rows)
            figures.ours_runs.append(rows / ran.seconds)
            figures.peaks_mb.append(ran.peak_mb)

        def peer() -> None:
            refill()
            core, main = (f"{shlex.quote(psql)} -qX {shlex.quote(server.url())} -c" for server in (b.core, b.main))
            pipe = (
                f"{core} 'COPY public.events TO STDOUT (FORMAT binary)' | {main} 'COPY public.events FROM STDIN (FORMAT binary)'"
            )
            script = f"set -eo pipefail; {pipe}; {core} 'DELETE FROM public.events'"
            ran = timed(["/bin/bash", "-c", script], b.environment)
            _count(b, rows)
            figures.peer_runs.append(rows / ran.seconds)

        in_turn(runs, ours, peer)
    return figures


def _count(b: Bench, rows: int) -> None:
    """Both sides must have done the whole work, or the figure means nothing."""
    with connection(b.core) as core, connection(b.main) as main:
        left = core.execute("SELECT count(*) FROM public.events").fetchone()
        there = main.execute("SELECT count(*) FROM public.events").fetchone()
    if (left, there) != ((0,), (rows,)):
        raise RuntimeError(f"moved wrong: {left} left, {there} there, {rows} wanted")
