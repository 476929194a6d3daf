"""Rows as Arrow record batches, read in a snapshot that a psycopg transaction has exported."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.limits import ARROW_BATCH_BYTES
from tierkeeper.postgres.link import MOVER_LOCK, PINNED, Link

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_HINT: Final = "adbc.postgresql.batch_size_hint_bytes"
_PASSES: Final = ("08", "40", "53", "57")
"""Classes of SQLSTATE that pass by themselves: connection, rollback, resources, the operator's doing."""


@contextmanager
def snapshot_reader(link: Link, snapshot: str, query: str, *, purpose: str) -> Iterator["pa.RecordBatchReader"]:
    """The result of `query`, streamed, as of the exported `snapshot` and under the pinned settings.

    The exporting transaction must stay open until this has entered. Raises, naming the tier, NotNow where the server or
    the link to it went away, Failed for what the server refuses.
    """
    from adbc_driver_postgresql import dbapi

    uri = f"{link.uri}&{urlencode({'application_name': f'tierkeeper {purpose}'}, quote_via=quote)}"
    try:
        with closing(dbapi.connect(uri)) as conn, closing(conn.cursor()) as cur:
            cur.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cur.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")  # the server made this name; SET takes no parameter
            for name, value in PINNED.items():
                cur.execute(f"SET LOCAL {name} = '{value}'")
            if purpose == "mover":
                cur.execute(f"SELECT pg_advisory_xact_lock_shared({MOVER_LOCK[0]}, {MOVER_LOCK[1]})")
            cur.execute("SET LOCAL row_security = off")
            cur.execute("SET LOCAL search_path = pg_catalog")
            cur.adbc_statement.set_options(**{_BATCH_HINT: str(ARROW_BATCH_BYTES)})
            cur.execute(query)
            with cur.fetch_record_batch() as reader:
                yield reader
            conn.rollback()
    except dbapi.Error as error:
        state = (error.sqlstate or "").strip("\0")  # none: no server has answered
        kind = Failed if state and state[:2] not in _PASSES else NotNow
        raise kind(f"tiers.{link.tier} ({link.shown})", str(error).splitlines()[0], "Run the same command again") from error
