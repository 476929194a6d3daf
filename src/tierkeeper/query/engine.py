"""DuckDB, shut in: no files, no network, no extensions, nothing spilled to disk; only the streams it is given.

What the archive holds is plaintext here, in memory alone.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

import duckdb

from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.kernel.interrupts import interruptible
from tierkeeper.query.functions import MACROS
from tierkeeper.query.model import PLACE, Plan, Scan, refuse
from tierkeeper.query.scans import OUTSIDE, scan_error
from tierkeeper.query.values import divider

if TYPE_CHECKING:
    import pyarrow as pa

_CONFIG: Final = {
    "autoload_known_extensions": "false",
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
    "preserve_insertion_order": "false",
}
_CLOSED: Final = ("SET temp_directory = ''", "SET enable_external_access = false")  # in this order


class Engine:
    """One statement's DuckDB. A stream that were read twice is an error there, never an empty table."""

    def __init__(self, plan: Plan, timeout_seconds: float) -> None:
        self._plan = plan
        self._timeout_seconds = timeout_seconds
        self._conn = duckdb.connect(":memory:", config=dict(_CONFIG))
        self._streams = 0
        self._late = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Ready for the plan, and interrupted when its time is over."""
        with closing(self._conn), _translated(self):
            for statement in (*_CLOSED, *MACROS):
                self._conn.execute(statement)
            names = []
            for dividend, divisor in sorted(self._plan.divisions):
                names.append(f"divide_{dividend}_{divisor}")
                self._conn.create_function(
                    names[-1],
                    divider(dividend, divisor),
                    [f"DECIMAL(38,{dividend})", f"DECIMAL(38,{divisor})"],
                    "DECIMAL(38,24)",
                )
            timer = threading.Timer(self._timeout_seconds, self._expire)
            timer.start()
            try:
                yield
            finally:
                timer.cancel()
                for name in names:
                    self._conn.remove_function(name)

    def give(self, scan: Scan, streams: Sequence["pa.RecordBatchReader"], *, first: bool = True) -> None:
        """Makes `scan`'s relation of `streams`: a view that reads each once, or rows in memory where it is read more often."""
        arms = []
        for stream in streams:
            self._streams += 1
            name = f"stream{self._streams}"
            self._conn.register(name, stream.__arrow_c_stream__())
            columns = ", ".join(f"CAST({c} AS {column.type.duck}) AS {c}" for c, column in scan.columns) or "1 AS c"
            arms.append(f"SELECT {columns} FROM {name}")  # noqa: S608 - names of our own
        rows = " UNION ALL ".join(arms)
        if self._plan.streams:
            self._conn.execute(f"CREATE TEMP VIEW {scan.relation} AS {rows}")
        elif first:
            self._conn.execute(f"CREATE TEMP TABLE {scan.relation} AS {rows}")
        else:
            self._conn.execute(f"INSERT INTO {scan.relation} {rows}")

    def answer(self) -> "pa.Table":
        """The plan's result, under DuckDB's names."""
        return self._conn.sql(self._plan.duck).to_arrow_table()

    @property
    def late(self) -> bool:
        return self._late

    @property
    def timeout_seconds(self) -> float:
        return self._timeout_seconds

    def _expire(self) -> None:
        self._late = True
        self._conn.interrupt()


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        with interruptible():
            yield
    except duckdb.Error as error:
        raise _in_our_words(error, engine) from error


def _in_our_words(error: duckdb.Error, engine: Engine) -> TierkeeperError:
    said = str(error)
    first = said.splitlines()[0].partition(" Use TRY")[0]
    cause = (first.partition("Error: ")[2] or first).rstrip(".! ")
    if engine.late:
        return NotNow(
            PLACE, f"it took longer than query.timeout ({engine.timeout_seconds:g} s)", "Ask for less, or raise query.timeout"
        )
    if OUTSIDE in said or "[libpq]" in said:
        return scan_error(PLACE, said)
    if isinstance(
        error, duckdb.BinderException | duckdb.CatalogException | duckdb.ParserException | duckdb.NotImplementedException
    ):
        return refuse("the statement", f"DuckDB does not run it ({cause})", "Write it otherwise, or ask each tier by itself")
    if isinstance(error, duckdb.OutOfMemoryException):
        return Failed(PLACE, "it needs more memory than there is", "Ask for fewer rows or columns at once")
    return Failed(PLACE, cause[:300], "Correct the statement or the data, or cast to a wider type")
