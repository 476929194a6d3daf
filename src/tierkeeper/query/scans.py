"""Scans: what is asked of Postgres for one table reference, and the Arrow stream that comes back.

Nothing here decides which rows count: it is told which transactions and keys to leave out.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.postgres.link import PINNED, Link
from tierkeeper.query.model import ColumnFacts, Scan
from tierkeeper.query.terms import ident, quote

if TYPE_CHECKING:
    import pyarrow as pa

OUTSIDE: Final = "lies outside of the years 1 to 9999"
_SNAPSHOT_GONE: Final = re.compile(  # its transaction was ended, or its session
    r'snapshot "[^"]*" does not exist|invalid snapshot identifier|could not import the requested snapshot'
)
_FIRST, _BEYOND = "0001-01-01", "10000-01-01"


def scan_sql(scan: Scan, excluded_xids: Sequence[str] = (), excluded_keys: Sequence[str] = (), key: Sequence[str] = ()) -> str:
    """The SELECT of one scan. `excluded_xids` wrote rows that do not count; `excluded_keys` are JSON arrays of `key`'s texts."""
    columns = ", ".join(f"{_projected(c)} AS {name}" for name, c in scan.columns) or "true AS none"
    wheres = [*scan.predicate]
    if excluded_xids:
        wheres.append(f"NOT (xmin = ANY ('{{{','.join(excluded_xids)}}}'::pg_catalog.xid[]))")
    if excluded_keys:
        shown = ", ".join(f"{ident(k)}::pg_catalog.text" for k in key)
        listed = ", ".join(f"{quote(k)}::pg_catalog.jsonb" for k in excluded_keys)
        wheres.append(f"NOT (pg_catalog.jsonb_build_array({shown}) IN ({listed}))")
    where = " WHERE " + " AND ".join(f"({w})" for w in wheres) if wheres else ""
    return f"SELECT {columns} FROM {ident(scan.table.schema)}.{ident(scan.table.name)}{where}"  # noqa: S608 - every part is quoted


def _projected(column: ColumnFacts) -> str:
    """A column in a form that travels unharmed: an infinite time would silently become another one, so it is an error."""
    name, kind = ident(column.name), column.type.kind
    if kind == "opaque":
        # By the type's output function, as a client sees it and as the archive keeps it. A cast to text drops the blanks of
        # character(n) and gives an inet a mask. concat() makes '' of NULL, and IS NULL is true for a row of NULLs.
        return f"CASE pg_catalog.num_nulls({name}) WHEN 0 THEN pg_catalog.concat({name}) END"
    if kind in ("numeric", "uuid", "text"):
        return f"{name}::pg_catalog.text"
    if kind not in ("date", "timestamp", "timestamptz"):
        return f"{name}::{column.type.postgres}"  # the driver knows no domains
    zone = "+00" if kind == "timestamptz" else ""
    plain = f"({name} AT TIME ZONE 'UTC')" if kind == "timestamptz" else name
    held = f"{name} >= '{_FIRST}{' 00:00' + zone if zone else ''}' AND {name} < '{_BEYOND}{' 00:00' + zone if zone else ''}'"
    odd = f"({name}::pg_catalog.text || ' {OUTSIDE}')::pg_catalog.{'date' if kind == 'date' else 'timestamp'}"
    return f"CASE WHEN {name} IS NULL OR ({held}) THEN {plain} ELSE {odd} END"


@contextmanager
def snapshot_stream(link: Link, snapshot: str, query: str, timeout_seconds: float) -> Iterator["pa.RecordBatchReader"]:
    """`query`'s rows, streamed, as of the exported `snapshot`, whose transaction must stay open meanwhile.

    Raises NotNow where the server is away or slower than `timeout_seconds`, Failed for any other error of the server's.
    """
    from adbc_driver_postgresql import dbapi

    uri = f"{link.uri}&{urlencode({'application_name': 'tierkeeper query'})}"
    local = {
        **PINNED,
        "row_security": "off",
        "search_path": "pg_catalog",
        "statement_timeout": f"{int(timeout_seconds * 1000)}ms",
    }
    try:
        with closing(dbapi.connect(uri)) as conn, closing(conn.cursor()) as cur:
            cur.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cur.execute(f"SET TRANSACTION SNAPSHOT {quote(snapshot)}")
            for name, value in local.items():
                cur.execute(f"SET LOCAL {name} = {quote(value)}")
            cur.execute(query)
            with cur.fetch_record_batch() as reader:
                yield reader
            conn.rollback()
    except dbapi.Error as error:
        raise scan_error(f"tiers.{link.tier} ({link.shown})", str(error)) from error


def scan_error(place: str, said: str) -> Failed | NotNow:
    """An error that a scan came to, in our words."""
    cause = next(
        (line for line in said.splitlines() if "ERROR" in line or OUTSIDE in line), said.splitlines()[0] if said else "no reason"
    )
    if OUTSIDE in said:
        return Failed(place, f"a time {OUTSIDE} ({cause[:200]})", "Exclude it: … AND the_column < '10000-01-01'")
    if _SNAPSHOT_GONE.search(said):
        return NotNow(place, "it took longer than query.timeout", "Ask for less, or raise query.timeout")
    if "timeout" in said or "connection" in said.lower():
        return NotNow(
            place, f"the tier did not answer in time ({cause[:200]})", "Ask for less, raise query.timeout, or run it again"
        )
    return Failed(place, cause[:300], "Run it again; tell what it says if it stays")
