"""What a user would take instead of the mover. None of it verifies a row; each copies, and deletes in Core afterwards."""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.common import Bench, program

_ROOT = Path(__file__).parents[1]
_DELETE = "DELETE FROM public.events"


@dataclass(frozen=True)
class Peer:
    """One way to do it: the programs that it takes, each with the package that has it, and the shell's command."""

    shown: str
    programs: Sequence[tuple[str, str]]
    script: Callable[[Bench], str]

    def require(self) -> None:
        """Raises UsageError, naming the package, where a program of it is missing."""
        for name, package in self.programs:
            program(name, package)

    def command(self, b: Bench) -> list[str]:
        return ["/bin/bash", "-c", f"set -eo pipefail; {self.script(b)}"]


def _psql(url: str, statement: str) -> str:
    return f"{shlex.quote(program('psql'))} -qX {shlex.quote(url)} -c {shlex.quote(statement)}"


def _pipe(b: Bench, options: str = "(FORMAT binary)") -> str:
    out, into = f"COPY public.events TO STDOUT {options}", f"COPY public.events FROM STDIN {options}"
    return f"{_psql(b.core_url, out)} | {_psql(b.main.url(), into)}; {_psql(b.core_url, _DELETE)}"


def _dump(b: Bench) -> str:
    dump = f"{shlex.quote(program('pg_dump'))} --data-only -Fc -t public.events {shlex.quote(b.core_url)}"
    restore = f"{shlex.quote(program('pg_restore'))} --data-only --exit-on-error -d {shlex.quote(b.main.url())}"
    return f"{dump} | {restore}; {_psql(b.core_url, _DELETE)}"


def _pgcopydb(b: Bench) -> str:
    filters, work = b.folder / "pgcopydb.ini", b.folder / "pgcopydb"
    filters.write_text("[include-only-table]\npublic.events\n")
    urls = f"--source {shlex.quote(b.core_url)} --target {shlex.quote(b.main.url())}"
    options = f"--table-jobs 2 --not-consistent --restart --dir {shlex.quote(str(work))} --filters {shlex.quote(str(filters))}"
    command = f"{shlex.quote(program('pgcopydb', 'pgcopydb'))} copy table-data {urls} {options} >/dev/null 2>&1"
    return f"{command}; {_psql(b.core_url, _DELETE)}"


def _loop(b: Bench) -> str:
    return f"cd {shlex.quote(str(_ROOT))}; exec {shlex.join([sys.executable, '-m', 'bench.row_loop', b.core_url, b.main.url()])}"


_CLIENT = "postgresql-client"
PEERS = {
    "pipe": Peer("psql COPY | psql COPY, then one DELETE, unverified", [("psql", _CLIENT)], _pipe),
    "text": Peer("psql COPY | psql COPY as text, then one DELETE, unverified", [("psql", _CLIENT)], partial(_pipe, options="")),
    "dump": Peer(
        "pg_dump -Fc | pg_restore, then one DELETE, unverified",
        [("psql", _CLIENT), ("pg_dump", _CLIENT), ("pg_restore", _CLIENT)],
        _dump,
    ),
    "pgcopydb": Peer(
        "pgcopydb copy table-data, then one DELETE, unverified", [("psql", _CLIENT), ("pgcopydb", "pgcopydb")], _pgcopydb
    ),
    "loop": Peer("a psycopg loop: executemany and DELETE by key, a thousand rows at a time, unverified", [], _loop),
}
