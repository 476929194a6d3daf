"""What the archive takes on the disk, and what it takes to get rows back, against dumps of the same table."""

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path

import pyrage

from bench.common import Bench, Figures, Options, age_command, bench, connection, in_turn, program, timed
from bench.tables import TABLES
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.tables import TableName

_EVENTS = TableName("public", "events")


@contextmanager
def _archived(options: Options) -> Iterator[tuple[Bench, float]]:
    """A bench whose table lies in the archive, and still in a copy in Core; the peak of the run that archived it, MB."""
    rows = options.rows
    with bench(options.postgres, options.table) as b:
        with connection(b.core) as core, connection(b.main) as main:
            b.table.fill(core, rows)
            b.table.fill(main, rows)
        b.configure()
        arguments = ["move", "public.events", "--from", "main", "--to", "archive", "--before", "2100-01-01"]
        yield b, timed(["tierkeeper", *arguments, "--config", str(b.config)], b.environment).peak_mb


def size(options: Options) -> Figures:
    """Bytes a row on the disk, with everything that it takes to restore it."""
    age, age_name = age_command(str(pyrage.x25519.Identity.generate().to_public()))
    figures = Figures("archive-size", "bytes/row", f"pg_dump | zstd -3 | {age_name}", less_is_better=True)
    dump, zstd = shlex.quote(program("pg_dump")), shlex.quote(program("zstd"))
    with _archived(options) as (b, peak_mb):
        figures.peaks_mb.append(peak_mb)
        out = b.folder / "dump.age"

        def ours() -> None:
            stored = sum(path.stat().st_size for path in (b.folder / "store").rglob("*") if path.is_file())
            figures.ours_runs.append(stored / options.rows)

        def peer() -> None:
            pipe = f"{dump} -t public.events {shlex.quote(b.core.url())} | {zstd} -3 -q | {age} > {shlex.quote(str(out))}"
            timed(["/bin/bash", "-c", f"set -eo pipefail; {pipe}"], b.environment)
            figures.peer_runs.append(out.stat().st_size / options.rows)

        in_turn(options.runs, ours, peer)
    return figures


def restore(options: Options) -> Figures:
    """Rows a second into a new table, each side from the start of its process; ours is read back and compared."""
    figures = Figures("restore", "rows/s", "pg_restore of a pg_dump -Fc, unverified")
    numbers = count()
    with _archived(options) as (b, _), connection(b.main) as main:
        dump = b.folder / "dump"
        timed([program("pg_dump"), "-Fc", "-t", "public.events", "-f", str(dump), b.core.url()], b.environment)
        main.execute("DROP TABLE public.events")

        def ours() -> None:
            name = f"public.restored_{next(numbers)}"
            arguments = ["archive", "restore", "public.events", "--to", name, "--config", str(b.config)]
            ran = timed(["tierkeeper", *arguments], b.environment)
            figures.ours_runs.append(options.rows / ran.seconds)
            figures.peaks_mb.append(ran.peak_mb)
            main.execute(f"DROP TABLE {name}".encode())
            main.execute("CHECKPOINT")

        def peer() -> None:
            ran = timed([program("pg_restore"), "-d", b.main.url(), str(dump)], b.environment)
            figures.peer_runs.append(options.rows / ran.seconds)
            main.execute("DROP TABLE public.events")
            main.execute("CHECKPOINT")

        in_turn(options.runs, ours, peer)
    return figures


def one_day(options: Options) -> Figures:
    """Seconds until one day's rows are a file: ours in a program that runs, and in `more` as a command of its own."""
    figures = Figures("one-day", "s", "pg_restore of the whole dump, then COPY of the day", less_is_better=True)
    begin, numbers, commands = TABLES[options.table].day, count(), list[float]()
    end = begin + timedelta(days=1)
    with _archived(options) as (b, _), connection(b.main) as main:
        dump = b.folder / "dump"
        timed([program("pg_dump"), "-Fc", "-t", "public.events", "-f", str(dump), b.core.url()], b.environment)
        main.execute("DROP TABLE public.events")
        keeper = _keeper(b)
        keeper.archive_restore(_EVENTS, to=str(b.folder / "warm.csv"), since=begin, until=end)
        rows = list[int]()

        def out() -> str:
            return str(b.folder / f"{next(numbers)}.csv")

        def ours() -> None:
            began = time.monotonic()
            restored = keeper.archive_restore(_EVENTS, to=out(), since=begin, until=end)
            figures.ours_runs.append(time.monotonic() - began)
            rows.append(restored.rows)

        def command() -> None:
            window = [
                "--since",
                f"{begin:%Y-%m-%d}",
                "--until",
                f"{end:%Y-%m-%d}",
                "--to",
                str(b.folder / f"{next(numbers)}.csv"),
            ]
            ran = timed(["tierkeeper", "archive", "restore", "public.events", *window, "--config", str(b.config)], b.environment)
            commands.append(ran.seconds)
            figures.peaks_mb.append(ran.peak_mb)

        def peer() -> None:
            began = time.monotonic()
            timed([program("pg_restore"), "-d", b.main.url(), str(dump)], b.environment)
            out = b.folder / f"{next(numbers)}.csv"
            age = b.table.age
            day = f"COPY (SELECT * FROM public.events WHERE {age} >= '{begin}' AND {age} < '{end}') TO STDOUT (FORMAT csv)"
            timed([program("psql"), "-qc", day, "-o", str(out), b.main.url()], b.environment)
            figures.peer_runs.append(time.monotonic() - began)
            main.execute("DROP TABLE public.events")
            main.execute("CHECKPOINT")

        in_turn(options.runs, ours, command, peer)
        figures.more["rows"] = rows[0]
        figures.more["command_seconds"] = round(sorted(commands)[len(commands) // 2], 3)
    return figures


def _keeper(b: Bench) -> Keeper:
    os.environ.update(b.environment)
    return open_keeper(load(b.config, os.environ, Path.cwd()))
