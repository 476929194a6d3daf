"""Rows as Arrow record batches, read in a snapshot that a psycopg transaction has exported."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.kernel.limits import ARROW_BATCH_BYTES
from tierkeeper.postgres.link import MOVER_LOCK, PINNED, UNDISTURBED, Link

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_postgresql import dbapi

_BATCH_HINT: Final = "adbc.postgresql.batch_size_hint_bytes"
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
    own_path: bool = False,
) -> Iterator["pa.RecordBatchReader"]:
    """The result of `query`, streamed, as of the exported `snapshot` and under the pinned settings and `settings`.

    The exporting transaction must stay open until this has entered. Raises, naming the tier, what `told` (else
    `stream_error`) makes of the driver's text. What the stream itself raises, an OSError of pyarrow's, is its reader's. With
    `own_path` the role's own search path holds.
    """
    from adbc_driver_postgresql import dbapi

    uri = f"{link.uri}&{urlencode({'application_name': f'tierkeeper {purpose}'}, quote_via=quote)}"
    local = {**PINNED, **UNDISTURBED, **({} if own_path else {"search_path": "pg_catalog"}), **(settings or {})}
    first = [f"pg_catalog.set_config('{name}', '{value}', true)" for name, value in local.items()]
    if purpose == "mover":
        first.append(f"pg_catalog.pg_advisory_xact_lock_shared({MOVER_LOCK[0]}, {MOVER_LOCK[1]})")
    try:
        with _dialled(uri) as conn, conn.cursor() as cur:
            cur.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cur.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")  # the server made this name; SET takes no parameter
            cur.execute(f"SELECT {', '.join(first)}")
            cur.adbc_statement.set_options(**{_BATCH_HINT: str(ARROW_BATCH_BYTES)})
            cur.execute(query)
            with cur.fetch_record_batch() as reader:
                yield reader
    except dbapi.Error as error:
        raise (told or stream_error)(f"tiers.{link.tier} ({link.shown})", str(error)) from error


@contextmanager
def _dialled(uri: str) -> Iterator["dbapi.Connection"]:
    """Its end is quiet: what there was to read has been read, or the first error is the one to tell."""
    from adbc_driver_postgresql import dbapi

    conn = dbapi.connect(uri)
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
