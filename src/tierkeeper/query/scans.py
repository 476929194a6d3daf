"""Scans: what is asked of Postgres for one table reference, and what it says where it fails.

Nothing here decides which rows count: it is told which transactions and keys to leave out.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.postgres.arrow import stream_error
from tierkeeper.query.model import ColumnFacts, Scan
from tierkeeper.query.terms import ident

OUTSIDE: Final = "lies outside of the years 1 to 9999"
_TOO_LONG: Final = re.compile(  # a snapshot is gone where its transaction was ended, or its session
    r'snapshot "[^"]*" does not exist|invalid snapshot identifier|could not import the requested snapshot'
    r"|due to (?:statement|transaction|idle-in-transaction) timeout"
)
_QUOTES_QUERY: Final = "Query was"
_NONE: Final[Mapping[int, Sequence[str]]] = MappingProxyType({})
_FIRST, _BEYOND = "0001-01-01", "10000-01-01"


def scan_sql(scan: Scan, excluded_xids: Sequence[str] = (), excluded_places: Mapping[int, Sequence[str]] = _NONE) -> str:
    """The SELECT of one scan. `excluded_xids` wrote rows that do not count, and those in `excluded_places` do not either: ctids
    by the object id of the table that has the rows themselves.
    """
    columns = ", ".join(f"{_projected(c)} AS {name}" for name, c in scan.columns) or "true AS none"
    wheres = [*scan.predicate]
    if excluded_xids:
        wheres.append(f"NOT (xmin = ANY ('{{{','.join(excluded_xids)}}}'::pg_catalog.xid[]))")
    for heap, places in excluded_places.items():
        listed = ",".join(f'"{place}"' for place in places)
        wheres.append(f"NOT (tableoid = {heap} AND ctid = ANY ('{{{listed}}}'::pg_catalog.tid[]))")
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


def scan_error(place: str, said: str) -> Failed | NotNow:
    """An error that a scan came to, in our words."""
    told = said.partition(_QUOTES_QUERY)[0]  # the query has these words in it, whatever it came to
    if OUTSIDE in told:
        cause = next(line for line in told.splitlines() if OUTSIDE in line)
        return Failed(place, f"a time {OUTSIDE} ({cause[:200]})", "Exclude it: … AND the_column < '10000-01-01'")
    if _TOO_LONG.search(told):
        return NotNow(place, "it took longer than query.timeout", "Ask for less, or raise query.timeout")
    return stream_error(place, said)
