"""A connection that saves round trips: on a slow link each one counts.

What opens a transaction goes along with its first statement, a COPY with the questions ahead of it, and nobody waits for the
end of a transaction that only reads.
"""

import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from weakref import WeakSet

import psycopg
from psycopg import errors, generators, sql
from psycopg.adapt import Loader, Transformer
from psycopg.pq import ExecStatus, TransactionStatus

from tierkeeper.postgres.received import Received, of_socket

if TYPE_CHECKING:
    from psycopg import pq
    from psycopg.abc import Buffer, Params, PQGen, Query, QueryNoTemplate

T = TypeVar("T")

_LIVE: "Final[WeakSet[Session]]" = WeakSet()
_CUT: Final = Event()


class _Instant(Loader):
    """A timestamptz as the pinned settings wrote it, whatever DateStyle and TimeZone the session has by now."""

    def load(self, data: "Buffer") -> datetime:
        try:
            return datetime.fromisoformat(bytes(data).decode()).astimezone(UTC)
        except ValueError as error:  # infinity, or a year that Python does not know
            raise psycopg.DataError(str(error)) from error


class Cursor(psycopg.Cursor[Any]):
    """Sends what opens its session's transaction together with the first statement, as one message."""

    @property
    def connection(self) -> "Session":
        assert isinstance(self._conn, Session)  # noqa: S101 - it makes these cursors for itself alone
        return self._conn

    def execute(self, query: "QueryNoTemplate", params: "Params | None" = None, **kwargs: Any) -> Self:  # type: ignore[override]
        opening = self.connection.take_opening()
        return self._as_one(opening, query, params, [], **kwargs) if opening else super().execute(query, params, **kwargs)

    def last(self, query: "QueryNoTemplate", params: "Params | None" = None) -> Self:
        """`execute` for the transaction's last statement: COMMIT goes along, and comes to nothing where that fails.

        When its rows are decoded the transaction's settings are over.
        """
        self.adapters.register_loader("timestamptz", _Instant)
        return self._as_one(self.connection.take_opening(), query, params, [sql.SQL("COMMIT")])

    def _as_one(
        self,
        opening: Sequence[sql.Composable],
        query: "QueryNoTemplate",
        params: "Params | None",
        ending: Sequence[sql.Composable],
        **kwargs: Any,
    ) -> Self:
        """All as one message, which parameters can be part of only in its text. Stands at the result of `query`."""
        statement = psycopg.ClientCursor(self.connection).mogrify(query, params)
        before, after = ([one.as_string(self.connection) for one in more] for more in (opening, ending))
        super().execute("\n;\n".join([*before, statement, *after]).encode(), **kwargs)
        return self.set_result(len(opening))

    def together(self, statements: Sequence[sql.Composable]) -> Self:
        """Sends `statements`, their values in their text, as one message: `nextset` leads from the first one's result on."""
        text = "\n;\n".join(one.as_string(self.connection) for one in statements)
        return self.execute(text.encode())

    def all_of(self, asked: Sequence[tuple["Query", "Params | None"]], *, last: bool = False) -> list[list[tuple[Any, ...]]]:
        """The rows of each of several queries with their parameters, which go as one message; `last` as that method has it."""
        client = psycopg.ClientCursor(self.connection)
        text = "\n;\n".join(client.mogrify(*one) for one in asked).encode()
        self.last(text) if last else self.execute(text)
        found = [self.fetchall()]
        while len(found) < len(asked) and self.nextset():
            found.append(self.fetchall())
        return found

    def all_of_then_copy(self, asked: Sequence[sql.Composable], copy: sql.Composable) -> list[list[tuple[Any, ...]]]:
        """The rows of each of several queries, which go as one message with the COPY … TO STDOUT `copy` behind them.

        Its data is for whoever `takes_copy` next; the session's next statement throws it away. What the transaction has set the
        driver hears of only behind the COPY.
        """
        self.adapters.register_loader("timestamptz", _Instant)
        opening = self.connection.take_opening()
        texts = [one.as_string(self.connection) for one in (*opening, *asked, copy)]
        results = self.connection.begin_copy("\n;\n".join(texts).encode(), texts[-1])
        found, transformer = list[list[tuple[Any, ...]]](), Transformer(self)
        for result in results[len(opening) : -1]:
            transformer.set_pgresult(result)
            found.append(transformer.load_rows(0, result.ntuples, tuple))
        return found

    def executemany(self, query: "Query", params_seq: Any, *, returning: bool = False) -> None:
        self._open()
        super().executemany(query, params_seq, returning=returning)

    def copy(self, statement: "Query", params: "Params | None" = None, **kwargs: Any) -> Any:
        self._open()
        return super().copy(statement, params, **kwargs)

    def _open(self) -> None:
        for one in self.connection.take_opening():
            super().execute(one.as_string(self.connection).encode())


class Shared(Cursor):
    """For a part of a transaction that goes on behind it."""

    def last(self, query: "QueryNoTemplate", params: "Params | None" = None) -> Self:
        return self.execute(query, params)


class Session(psycopg.Connection[Any]):
    """A connection whose transactions begin with their first statement and end, where they only read, without a wait."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _LIVE.add(self)
        self.cursor_factory = Cursor
        self._opening: list[sql.Composable] = []
        self._ending = False
        self._copying: str | None = None
        self.received: Received | None = None
        self.label = ""
        """Whose server it leads to, for errors."""
        self._counted_bytes = 0
        self.wrote = self.ran_users_code = False
        """Whether a transaction over it could write, and whether triggers or conditions of the user's could run in one."""

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        if _CUT.is_set():
            raise psycopg.OperationalError("no time is left for another connection")
        return super().connect(conninfo, **kwargs)

    @cached_property
    def name(self) -> str:
        """The application name that it was dialled with."""
        return self.info.get_parameters().get("application_name", "")

    @property
    def only_reads(self) -> bool:
        """Whether nothing may be written over it, now that what is known of its database may be of a moment ago."""
        return False

    @property
    def gives_way(self) -> bool:
        """Whether what it is asked is not worth to wait long for somebody's lock."""
        return False

    @property
    def in_transaction(self) -> bool:
        """Whether the next statement will be part of one."""
        return bool(self._opening) or not (self._ending or self.info.transaction_status is TransactionStatus.IDLE)

    def open_with(self, statements: list[sql.Composable]) -> None:
        """The next statement will have these before it, which open a transaction."""
        self._opening = statements

    def take_opening(self) -> list[sql.Composable]:
        """What is still to be sent before the next statement; from here on its taker sends it, or nobody."""
        opening, self._opening = self._opening, []
        return opening

    def end_reading(self) -> None:
        """Sends COMMIT for a transaction that has written nothing; its answer is taken before the next statement."""
        if self.take_opening():
            return
        self.settle()
        self.pgconn.send_query(b"COMMIT")
        self._ending = True
        super().wait(generators.send(self.pgconn))

    def begin_copy(self, text: bytes, copy: str) -> "list[pq.abc.PGresult]":
        """Sends statements as one message, the last of which is `copy`, and takes the result of each."""
        self.settle()
        self.pgconn.send_query(text)
        results: list[pq.abc.PGresult] = super().wait(generators.execute(self.pgconn))
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result, encoding=self.info.encoding)
        if results[-1].status != ExecStatus.COPY_OUT:
            raise psycopg.ProgrammingError("the last statement is no COPY … TO STDOUT")
        self._copying = copy
        return results

    def takes_copy(self, copy: str) -> bool:
        """Whether the data of `copy` is what the server gives next; its taker reads it to its end, or closes the session."""
        if self._copying != copy:
            return False
        self._copying = None
        return True

    def settle(self) -> None:
        """Takes the answer to a COMMIT that nobody waited for, and what is left of a COPY that nobody has taken."""
        if self._copying is not None:
            self._copying = None
            discard(self.pgconn)
        if self._ending:
            self._ending = False
            super().wait(generators.fetch_many(self.pgconn))

    def close(self) -> None:
        """Waits for a COMMIT that is on its way: a pooler gives up a server connection whose client leaves in between."""
        if not self.closed and self._copying is None:
            with suppress(psycopg.Error):
                self.settle()
        self.count_received()
        super().close()

    def count_received(self) -> None:
        """Tells `received` what has come since this was last asked."""
        if self.received is not None and not self.closed:
            with suppress(psycopg.Error):
                so_far = of_socket(self.pgconn.socket)
                self.received.add(so_far - self._counted_bytes)
                self._counted_bytes = so_far

    def wait(self, gen: "PQGen[T]", *args: Any, **kwargs: Any) -> T:
        self.settle()
        return super().wait(gen, *args, **kwargs)


def cut_all() -> None:
    """Cuts every connection of this process, as a network would: whoever waits for one, in any thread, hears that it is gone.

    For a process that has no time left to end them. Until `dial_again` none is made: a new one would be waited for, too.
    """
    _CUT.set()
    for session in list(_LIVE):
        with suppress(psycopg.Error, OSError):
            duplicate = os.dup(session.pgconn.socket)
            with socket.socket(fileno=duplicate) as end:
                end.shutdown(socket.SHUT_RDWR)


def dial_again() -> None:
    """From here on connections are made again."""
    _CUT.clear()


def take_row(pgconn: "pq.abc.PGconn") -> tuple[int, memoryview]:
    """The next row of a COPY, waited for; at the end its size is negative."""
    readable = select.poll()
    readable.register(pgconn.socket, select.POLLIN)
    while True:
        pgconn.consume_input()  # more may have come since it was last asked: that is cheaper than to ask the system whether
        found = pgconn.get_copy_data(1)
        if found[0] != 0:
            return found
        readable.poll()


def discard(pgconn: "pq.abc.PGconn") -> None:
    """Takes what is left of a COPY, whatever it is."""
    with suppress(psycopg.Error):
        while take_row(pgconn)[0] > 0:
            pass
    while pgconn.get_result() is not None:
        pass
