"""Rows as Arrow record batches, read in a psycopg transaction, or in the snapshot that it has exported."""

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from tierkeeper.kernel.ahead import ahead
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.kernel.limits import ARROW_BATCH_BYTES, PARSED_BYTES, SORT_UNDERRATED
from tierkeeper.kernel.ports import Block
from tierkeeper.postgres.copy import rows_out
from tierkeeper.postgres.link import PINNED, UNDISTURBED, Link, translated
from tierkeeper.postgres.session import Cursor

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_postgresql import dbapi

_BATCH_HINT: Final = "adbc.postgresql.batch_size_hint_bytes"
_TYPES: Final[Mapping[str, str]] = {"adbc.postgresql.type_resolver_mode": "builtin"}
"""The driver knows Postgres's own types by heart: else it fetches every column and type of the database, 180 kB at least."""
_DIAL_BYTES: Final = 4_800  # that the driver receives beside the rows: two handshakes, and the answers to what goes before
_STATE: Final = re.compile(r"SQLSTATE: (\w{5})")
_PASSES: Final = ("08", "40", "53", "55P03", "57")
"""How an SQLSTATE begins that passes by itself: connection, rollback, resources, a lock, the operator's doing."""


@contextmanager
def snapshot_reader(
    link: Link,
    snapshot: str,
    query: str,
    *,
    purpose: str,
    settings: Mapping[str, str] | None = None,
    told: Callable[[str, str], TierkeeperError] | None = None,
) -> Iterator["pa.RecordBatchReader"]:
    """The result of `query`, streamed, as of the exported `snapshot` and under the pinned settings and `settings`.

    The exporting transaction must stay open until this has entered. Raises, naming the tier, what `told` (else
    `stream_error`) makes of the driver's text. What the stream itself raises, an OSError of pyarrow's, is its reader's.
    """
    from adbc_driver_postgresql import dbapi

    uri = f"{link.uri}&{urlencode({'application_name': f'tierkeeper {purpose}'}, quote_via=quote)}"
    local = {**PINNED, **UNDISTURBED, "search_path": "pg_catalog", **(settings or {})}
    first = [f"pg_catalog.set_config('{name}', '{value}', true)" for name, value in local.items()]
    try:
        with _dialled(uri) as conn, conn.cursor() as cur:
            cur.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cur.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")  # the server made this name; SET takes no parameter
            link.received.add(_DIAL_BYTES)
            cur.execute(f"SELECT {', '.join(first)}")
            cur.fetch_arrow_table()
            cur.adbc_statement.set_options(**{_BATCH_HINT: str(ARROW_BATCH_BYTES)})
            cur.execute(query)
            with cur.fetch_record_batch() as reader:
                yield link.received.counted(reader)
    except dbapi.Error as error:
        raise (told or stream_error)(f"tiers.{link.tier} ({link.shown})", str(error)) from error


@contextmanager
def in_order(cur: Cursor, query: sql.SQL, place: str) -> Iterator["pa.RecordBatchReader"]:
    """The result of `query`, which has an ORDER BY, by COPY in `cur`'s transaction, in half of the driver's time.

    Its types must be the archive's own. All that the server says is raised here, as of `place`.
    """
    import pyarrow as pa

    from tierkeeper.postgres import rows

    with translated(place):
        schema = rows.schema(_columns_of(cur, query))
        with closing(copied(cur, query, schema)) as batches:
            yield pa.RecordBatchReader.from_batches(schema, batches)


def _columns_of(cur: Cursor, query: sql.SQL) -> list[tuple[str, int]]:
    """Names and types of the query's columns; until the next one an index gives its rows in order, if one can at a bearable cost.

    Of a condition such as isfinite() Postgres thinks that it holds for a third of the rows, so that it takes sorting them,
    through files on its disk, for a third of the work that it is.
    """
    explain, shown = (sql.SQL(s).format(query) for s in ("EXPLAIN (FORMAT json) {}", "SELECT * FROM ({}) AS shown LIMIT 0"))
    sorts, sorts_not = sql.SQL("SET LOCAL enable_sort TO DEFAULT"), sql.SQL("SET LOCAL enable_sort = off")
    cur.together([sorts, explain, sorts_not, explain, shown])
    cur.nextset()
    sorting = _cost(cur)
    cur.nextset()
    cur.nextset()
    indexed = _cost(cur)
    cur.nextset()
    columns = [(c.name, c.type_code) for c in cur.description or ()]
    if indexed > sorting * SORT_UNDERRATED:
        cur.execute(sorts)
    return columns


def _cost(cur: Cursor) -> float:
    ((plan,),) = cur.fetchall()
    return float(plan[0]["Plan"]["Total Cost"])


def copied(cur: psycopg.Cursor, query: sql.Composable, schema: "pa.Schema") -> Generator["pa.RecordBatch"]:
    """The rows of `query`, by COPY as CSV, as batches of `schema`, parsed in a thread; a large row is a batch of its own."""
    from tierkeeper.postgres import rows

    copy = sql.SQL("COPY ({}) TO STDOUT ({})").format(query, rows.COPY_TEXT)
    blocks = rows_out(cur, copy, binary=False, block_bytes=PARSED_BYTES)

    def parse(block: Block) -> "pa.RecordBatch":
        batch = rows.from_copy(block, schema)
        if isinstance(block, memoryview):
            block.release()  # whoever handed it on holds it still, and the row would lie beside its Arrow form
        return batch

    parsed = ahead(parse, blocks, alone=lambda block: isinstance(block, memoryview))
    with closing(blocks), closing(parsed):
        yield from parsed


@contextmanager
def _dialled(uri: str) -> Iterator["dbapi.Connection"]:
    """Its end is quiet: what there was to read has been read, or the first error is the one to tell."""
    from adbc_driver_postgresql import dbapi

    conn = dbapi.connect(uri, db_kwargs=dict(_TYPES))
    try:
        yield conn
    finally:
        with suppress(dbapi.Error):
            conn.rollback()
        with suppress(dbapi.Error):
            conn.close()


def stream_error(place: str, said: str) -> Failed | NotNow:
    """The driver's text in our words: NotNow where the server or the link to it went away, or it says that it will pass.

    A statement's error has its SQLSTATE; one that comes amid the rows has not, nor has what a lost link is told by.
    """
    lines = said.strip().splitlines() or ["no reason"]
    cause = next((line for line in lines if "ERROR:" in line or "FATAL:" in line), lines[0])[:300]
    state = _STATE.search(said)
    if state is None and "ERROR:" not in said:
        return NotNow(place, f"the server or the link to it went away ({cause})", "Run the same command again")
    if state[1].startswith(_PASSES) if state else "canceling statement" in said:
        return NotNow(place, cause, "Run the same command again")
    return Failed(place, cause, "Run it again; tell what it says if it stays")
