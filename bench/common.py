"""What the benches share: two servers with the same table, runs taken in turn, processes that are timed and weighed."""

import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.proxy import Proxy
from bench.tables import TABLES, Table
from tierkeeper.demo.runtime import find_runtime, runtime_in, workspace
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import UsageError
from tierkeeper.postgres.link import Connection


@dataclass(frozen=True)
class Options:
    """What a run is asked for; each bench takes what concerns it."""

    rows: int
    runs: int
    delay_ms: float
    peer: str
    sizes: Sequence[int]
    tables: int
    segments: int
    postgres: Path | None = None
    table: str = "flights"


@dataclass
class Figures:
    """What both sides need or do, the median of the runs; `peak_mb` is ours, `more` stands beside these.

    `ratio` is above 1 where we are better: more a second, or, where `less_is_better`, less.
    """

    name: str
    unit: str
    peer_name: str
    ours_runs: list[float] = field(default_factory=list)
    peer_runs: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)
    more: dict[str, object] = field(default_factory=dict)
    less_is_better: bool = False

    @property
    def ours(self) -> float:
        return statistics.median(self.ours_runs)

    @property
    def peer(self) -> float:
        return statistics.median(self.peer_runs)

    @property
    def ratio(self) -> float:
        return self.peer / self.ours if self.less_is_better else self.ours / self.peer

    @property
    def peak_mb(self) -> float:
        return max(self.peaks_mb)

    def document(self) -> dict[str, object]:
        return {
            "name": self.name,
            "ours": _rounded(self.ours),
            "peer": _rounded(self.peer),
            "ratio": round(self.ratio, 3),
            "unit": self.unit,
            "peak_mb": round(self.peak_mb, 1),
            "peer_name": self.peer_name,
            "runs": len(self.ours_runs),
            **self.more,
        }


def _rounded(value: float) -> float:
    return round(value, 1) if value >= 1 else round(value, 4)


@dataclass
class Bench:
    """Three servers as a user has them, durable and with TLS, a table, a folder for the rest; maybe a slow link to Core."""

    core: EmbeddedPostgres
    main: EmbeddedPostgres
    catalog: EmbeddedPostgres
    folder: Path
    table: Table
    proxy: Proxy | None = None

    @property
    def core_url(self) -> str:
        """Where both sides find Core: through the proxy if there is one."""
        return self.proxy.url(self.core.url()) if self.proxy else self.core.url()

    @property
    def config(self) -> Path:
        return self.folder / "tierkeeper.toml"

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}

    def configure(self, tables: str = "", *, apply: bool = True) -> Path:
        """Writes a tierkeeper.toml, for the bench's table or these entries, and applies the setup."""
        text = "\n".join(
            f'[tiers.{name}]\n{key} = "{url}"\nsslrootcert = "{server.ca_file}"\nquota = "100GB"'
            for name, key, server, url in (
                ("core", "url", self.core, self.core_url),
                ("main", "url", self.main, self.main.url()),
                ("archive", "catalog", self.catalog, self.catalog.url()),
            )
        )
        store = self.folder / "store"
        store.mkdir()
        self.config.write_text(f'{text}\nstore = "{store}"\n{tables or self.table.entry}\n[query]\ntimeout = "1 second"\n')
        if apply:
            timed(["tierkeeper", "setup", "--apply", "--config", str(self.config)], self.environment)
        return self.config


@contextmanager
def bench(postgres: Path | None = None, table: str = "flights") -> Iterator[Bench]:
    """Its servers, of the embedded Postgres or of the one whose programs lie in the folder `postgres`."""
    settings, runtime = {"shared_buffers": "256MB", "max_wal_size": "4GB"}, runtime_in(postgres) if postgres else None
    with workspace("tierkeeper-bench-") as folder:
        servers: list[EmbeddedPostgres] = []
        try:
            for name in ("core", "main", "catalog"):
                servers.append(EmbeddedPostgres.start(folder / name, settings=settings, runtime=runtime))
            core, main, catalog = servers
            yield Bench(core, main, catalog, folder, TABLES[table])
        finally:
            for server in servers:
                server.stop()


def program(name: str, package: str | None = None) -> str:
    """The path of one of Postgres's own programs, else of one on the PATH.

    Raises UsageError where it is missing, naming the package that has it (by default of the same name).
    """
    own = find_runtime().bin_dir / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        raise UsageError("bench", f"{name} is not installed", f"Install it: apt-get install {package or name}")
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


def in_turn(runs: int, *sides: Callable[[], object]) -> None:
    """Takes all sides in turn, so that what the machine does meanwhile meets each."""
    for _ in range(runs):
        for side in sides:
            side()


def age_command(recipient: str) -> tuple[str, str]:
    """The command that encrypts its input, and its name: `age` where it is installed, else the same format by our library."""
    if (found := shutil.which("age")) is not None:
        return f"{shlex.quote(found)} -r {recipient}", "age"
    recipients = "[pyrage.x25519.Recipient.from_str(sys.argv[1])]"
    code = f"import sys, pyrage; pyrage.encrypt_io(sys.stdin.buffer, sys.stdout.buffer, {recipients})"
    return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {recipient}", "age (pyrage)"


def connection(server: EmbeddedPostgres) -> "closing[Connection]":
    return closing(server.link("core").connect("bench"))
