"""The queue's connections to Main.

Each statement of the library is a transaction of its own that finds the queue's schema by a path set for it alone. So it works
through a transaction pooler and leaves nothing behind there. For the same reason nobody listens for notifications: the queue is
asked.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from procrastinate import PsycopgConnector
from psycopg import sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from tierkeeper.kernel.limits import CONNECT_SECONDS
from tierkeeper.postgres.link import Link
from tierkeeper.setup.queue import SCHEMA

if TYPE_CHECKING:
    from psycopg.rows import DictRow

_PATH = sql.SQL("SET LOCAL search_path = {}, pg_catalog").format(sql.Identifier(SCHEMA))
_CONNECTIONS = 4  # one for each of what a process does at the same time: two workers, their signs of life, the schedule


class Connector(PsycopgConnector):
    """The library's connector, over one link, in its own schema."""

    def __init__(self, link: Link) -> None:
        super().__init__(
            kwargs={**link.parameters, "application_name": "tierkeeper jobs", "autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=CONNECT_SECONDS,
            reconnect_timeout=CONNECT_SECONDS,
            configure=_configure,
        )

    async def open_async(self, pool: "AsyncConnectionPool | None" = None) -> None:
        """Waits for no connection: whoever asks for one does, and is told where Main is away. The library's would stay closed."""
        del pool
        if self._async_pool is None:
            self._async_pool = AsyncConnectionPool(**self._pool_args, open=False, check=AsyncConnectionPool.check_connection)
            await self._async_pool.open()

    @asynccontextmanager
    async def _get_cursor(
        self, connection: "psycopg.AsyncConnection[Any] | None" = None
    ) -> "AsyncGenerator[psycopg.AsyncCursor[DictRow]]":
        assert connection is None  # noqa: S101 - nobody defers within a transaction of his own
        async with self.pool.connection() as conn, conn.transaction(), conn.cursor(row_factory=dict_row) as cur:
            await cur.execute(_PATH)
            yield cur


async def _configure(conn: "psycopg.AsyncConnection[Any]") -> None:
    """Explicitly read-write, for a tier whose default is read-only because it is full."""
    await conn.set_read_only(False)
