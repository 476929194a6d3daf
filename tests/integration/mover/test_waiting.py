"""Whom the wait at the destination waits for: every transaction that could lack the copy, but for movers' own."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tierkeeper.mover.model import Selection
from tierkeeper.mover.runner import Mover
from tierkeeper.postgres.link import Connection, transaction


@contextmanager
def application(conn: Connection) -> Iterator[None]:
    """A reader that begins before the copy, as psql would."""
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    conn.execute("SELECT count(*) FROM public.events")
    yield
    conn.execute("COMMIT")


@contextmanager
def another_mover(conn: Connection) -> Iterator[None]:
    with transaction(conn, isolation="repeatable read", read_only=True) as cur:
        cur.execute("SELECT count(*) FROM public.events")
        yield


@pytest.mark.parametrize("case", [
    ("test", application, "waiting"), ("mover", application, "waiting"), ("mover", another_mover, "complete"),
    ("query", another_mover, "waiting"),
], ids=lambda case: f"{case[0]}-{case[1].__name__}")  # fmt: skip
def test_a_name_makes_no_mover(
    pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection], case: tuple[str, Any, str]
) -> None:
    """I2: behind a transaction pooler an application's reader may bear the name that a mover has left there."""
    purpose, hold, stopped = case
    with closing(pair.tiers.main.connect(purpose)) as conn, hold(conn):
        outcome = mover().run(selection())
    assert outcome.stopped_because.startswith(stopped)
    assert len(pair.rows(pair.core)) == (0 if stopped == "complete" else 1_000)
    assert mover().run(selection()).stopped_because == "complete"
    assert pair.rows(pair.core) == []
    assert len(pair.rows(pair.main)) == 1_000
