"""Connections that are used again within one call: a look at a thousand tables need not dial a thousand times.

A transaction of ours leaves nothing in its session, so that whoever comes next finds one as good as new.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tierkeeper.postgres.session import Session


class _Kept(Session):
    """Its `close` gives it back as long as its shelf is open and it is in no transaction."""

    shelf: "_Shelf | None" = None
    conninfo = ""

    def close(self) -> None:
        if self.shelf is None or not self.shelf.takes(self):
            super().close()


class _Shelf:
    """What is not in use now, by address and purpose. Several threads take from it: each operation on a list is one step."""

    def __init__(self) -> None:
        self._free: dict[str, list[_Kept]] = {}
        self._open = True

    def connect(self, conninfo: str) -> Session:
        free = self._free.setdefault(conninfo, [])
        try:
            return free.pop()
        except IndexError:
            made = _Kept.connect(conninfo, autocommit=True, prepare_threshold=None)
            made.shelf, made.conninfo = self, conninfo
            return made

    def takes(self, conn: _Kept) -> bool:
        """Whether it keeps `conn`, which its user is done with."""
        free = self._free[conn.conninfo]
        if not self._open or conn.closed or conn.in_transaction or conn in free:
            return False
        free.append(conn)
        return True

    def close(self) -> None:
        self._open = False
        for conn in (conn for free in self._free.values() for conn in free):
            conn.close()


_SHELF: ContextVar[_Shelf | None] = ContextVar("shelf", default=None)


@contextmanager
def connections_kept() -> Iterator[None]:
    """Until the block ends, a connection that is closed goes to the next who asks for the same address and purpose.

    For looking: what writes wants a connection whose loss is its own. Within another such block it changes nothing.
    """
    if _SHELF.get() is not None:
        yield
        return
    shelf = _Shelf()
    token = _SHELF.set(shelf)
    try:
        yield
    finally:
        _SHELF.reset(token)
        shelf.close()


def dial(conninfo: str) -> Session:
    """An autocommit connection: one that was kept, else a new one. Raises as psycopg does."""
    shelf = _SHELF.get()
    if shelf is not None:
        return shelf.connect(conninfo)
    return Session.connect(conninfo, autocommit=True, prepare_threshold=None)
