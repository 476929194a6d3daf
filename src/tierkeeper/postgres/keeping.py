"""What one look at many tables needs only once: connections, and answers.

A transaction of ours leaves nothing in its session, so that whoever comes next finds one as good as new.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial, wraps
from threading import RLock
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import lending
from tierkeeper.postgres.lending import Lender, Lent
from tierkeeper.postgres.session import Session

T = TypeVar("T")
P = ParamSpec("P")


class _Answers(dict[Hashable, object]):
    """The answers to one question to one database. Who asks holds `asking` meanwhile."""

    def __init__(self) -> None:
        self.asking = RLock()


class _Look:
    """What was asked of which database, over connections of its run, or else of its own.

    Several threads take from it: each operation on a list or a dict is one step, and what two ask at once one of them asks.
    """

    def __init__(self, tables: Iterable[TableName], *, patient: bool) -> None:
        self.tables = list(dict.fromkeys(tables))
        self.patient = patient
        self.known: dict[Hashable, _Answers] = {}
        self._runs = _RUN.get()
        self._lender = self._runs or Lender(to_the_end=True)

    @property
    def is_here(self) -> bool:
        return _LOOK.get() is self

    @property
    def is_warm(self) -> bool:
        """Whether connections are at hand."""
        return self._lender.is_warm

    def connect(self, conninfo: str) -> Session:
        return self._lender.connect(conninfo, self)

    def close(self) -> None:
        if self._runs is None:
            self._lender.close()


_RUN: ContextVar[Lender | None] = ContextVar("run", default=None)
_LOOK: ContextVar[_Look | None] = ContextVar("look", default=None)


@contextmanager
def looking(tables: Iterable[TableName] = (), *, patient: bool = False) -> Iterator[None]:
    """Until the block ends, nothing is dialled or asked twice, and what is asked of one of `tables` is asked of all at once.

    For plans and reports, which change nothing: what writes wants a connection whose loss is its own, and fresh answers, so that
    `link.transaction` refuses to write within. Within another such block it changes nothing. Unless it is `patient`, as what
    leads to writing is, it waits for nobody's lock for long.
    """
    if _LOOK.get() is not None:
        yield
        return
    look = _Look(tables, patient=patient)
    token = _LOOK.set(look)
    try:
        yield
    finally:
        _LOOK.reset(token)
        look.close()


@contextmanager
def sharing(run: str) -> Iterator[None]:
    """Until the block ends, its parts use the same connections one after the other, and a few more where they ask side by side.

    `run` is what their servers see them as. What writes to the user's tables gets one that is closed behind it, and a thread that
    was begun without the block's context connections of its own. Within another such block it changes nothing.
    """
    if _RUN.get() is not None:
        yield
        return
    lender = Lender(run)
    try:
        with lent_by(lender):
            yield
    finally:
        lender.close()


@contextmanager
def lent_by(lender: Lender) -> Iterator[None]:
    """As `sharing`, over connections of `lender`, which outlive the block as it has them."""
    if _RUN.get() is not None:
        yield
        return
    token = _RUN.set(lender)
    try:
        yield
    finally:
        _RUN.reset(token)


def shares() -> bool:
    """Whether a connection that is closed now is kept for the next one to dial."""
    return _RUN.get() is not None


def dial(conninfo: str) -> Session:
    """An autocommit connection: one that was kept or expected, else a new one. Raises as psycopg does."""
    lender = _LOOK.get() or _RUN.get()
    return lending.dial(conninfo) if lender is None else lender.connect(conninfo)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T | TierkeeperError]:
    """What each of `calls` gives, or the error of ours that it raises; all in threads, unless connections are at hand already."""

    def told(call: Callable[[], T]) -> T | TierkeeperError:
        try:
            return call()
        except TierkeeperError as error:
            return error

    look = _LOOK.get()
    if look is not None and look.is_warm:
        return [told(call) for call in calls]
    with ThreadPoolExecutor(max(1, len(calls)), "at-once") as pool:
        return [one.result() for one in [pool.submit(copy_context().run, told, call) for call in calls]]


@contextmanager
def beside(call: Callable[[], T]) -> Iterator[Callable[[], T]]:
    """What gives the result of `call`, which goes on in a thread during the block, over connections of its own.

    Unless connections are at hand already: then `call` is made when its result is asked for.
    """
    look = _LOOK.get()
    if look is not None and look.is_warm:
        yield call
        return
    with ThreadPoolExecutor(1, "beside") as pool:
        yield pool.submit(copy_context().run, call).result


class Asides:
    """Connections to one server for questions that are asked side by side, each over the one that has the fewest to answer.

    As `beside`: where connections are at hand already, a question is asked when its answer is wanted. Leaving it waits for what
    is under way; the connections are their owner's.
    """

    def __init__(self, conns: Sequence[Session]) -> None:
        self._stack = ExitStack()
        look = _LOOK.get()
        self._lazily = look is not None and look.is_warm
        self._queues = [_Queue(conn, self._stack.enter_context(ThreadPoolExecutor(1, "aside"))) for conn in conns]

    def ask(self, question: Callable[[Session], T]) -> Callable[[], T]:
        """What gives the answer, or raises what asking raised."""
        queue = min(self._queues, key=lambda one: one.asked)
        queue.asked += 1
        if self._lazily:
            return partial(question, queue.conn)
        return queue.pool.submit(copy_context().run, question, queue.conn).result

    @property
    def last(self) -> Session:
        """The one that nobody takes."""
        return self._queues[0].conn

    def take(self) -> Session | None:
        """One that is its taker's from now on, once its last answer is there. None where only the last is left."""
        if len(self._queues) == 1:
            return None
        queue = self._queues.pop()
        queue.pool.shutdown()
        return queue.conn

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()


@dataclass
class _Queue:
    conn: Session
    pool: ThreadPoolExecutor
    asked: int = 0


def asked_once(ask: Callable[Concatenate[Session, P], T]) -> Callable[Concatenate[Session, P], T]:
    """A question about a database, with further arguments that are hashable: within `looking` it is asked once."""

    @wraps(ask)
    def asked(conn: Session, /, *args: P.args, **kwargs: P.kwargs) -> T:
        known = _known(conn, ask)
        if known is None:
            return ask(conn, *args, **kwargs)
        key = (args, tuple(sorted(kwargs.items())))
        with known.asking:
            if key not in known:
                known[key] = ask(conn, *args, **kwargs)
        return known[key]  # type: ignore[return-value]

    return asked


def of_each(ask: Callable[[Session, Sequence[TableName]], Mapping[TableName, T]]) -> Callable[[Session, TableName], T | None]:
    """Makes of a question about many tables one about a table, which within `looking` is asked about all of its tables.

    None is the answer for a table that the other knows nothing of.
    """

    @wraps(ask)
    def asked(conn: Session, name: TableName) -> T | None:
        known, look = _known(conn, ask), _LOOK.get()
        if known is None or look is None:
            return ask(conn, [name]).get(name)
        with known.asking:
            if name not in known:
                names = look.tables if name in look.tables else [name]
                found = ask(conn, names)
                known.update({n: found.get(n) for n in names})
        return known[name]  # type: ignore[return-value]

    return asked


def named(tables: Sequence[TableName]) -> dict[str, list[str]]:
    """The parameters `schemas` and `names` of a question about many tables."""
    return {"schemas": [t.schema for t in tables], "names": [t.name for t in tables]}


def _known(conn: Session, question: Hashable) -> _Answers | None:
    """What is known of a question to the database that `conn` leads to; None where answers are not kept."""
    look = _LOOK.get()
    if look is None or not isinstance(conn, Lent) or conn.look is not look:
        return None
    return look.known.setdefault((conn.database, question), _Answers())
