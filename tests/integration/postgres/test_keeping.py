"""Connections that are used again within one look."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from time import sleep

import psycopg
import pytest

from support import Tiers
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.keeping import asked_once, looking, of_each
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.postgres.session import Session
from tierkeeper.tiers.ask import ask_all


def _pid(conn: Connection) -> int:
    return conn.info.backend_pid


def test_a_closed_connection_is_the_next_ones_until_the_block_ends(tiers: Tiers) -> None:
    link = tiers.core
    with looking():
        with closing(link.connect("setup")) as first:
            pid = _pid(first)
            with closing(link.connect("setup")) as beside:
                pids = {pid, _pid(beside)}
                assert len(pids) == 2, "one that is in use was given away"
        with closing(link.connect("mover")) as other:
            assert _pid(other) in pids
            assert other.name == "tierkeeper mover", "by its name others tell a mover's snapshots"
        asked, _ = ask_all({"core": link}, lambda _, conn: _pid(conn), "setup")
        assert asked["core"] in pids, "a thread of a look dials anew"
    assert first.closed and beside.closed and other.closed
    assert first.received is link.received and link.received.so_far > 0
    with closing(link.connect("setup")) as later:
        assert _pid(later) not in pids
    assert later.closed


def test_a_connection_that_is_still_in_use_at_the_end_closes_when_its_user_is_done(tiers: Tiers) -> None:
    with looking():
        kept = tiers.core.connect("setup")
    assert kept.execute("SELECT 1").fetchone() == (1,)
    kept.close()
    assert kept.closed


def test_what_is_in_a_transaction_or_broken_is_not_given_on(tiers: Tiers) -> None:
    with looking():
        with closing(tiers.core.connect("setup")) as conn:
            conn.execute("BEGIN")
        assert conn.closed, "its transaction would have become the next one's"
        with closing(tiers.core.connect("setup")) as broken, closing(tiers.core.connect("other")) as killer:
            killer.execute("SELECT pg_terminate_backend(%s)", [_pid(broken)])
            with pytest.raises(psycopg.OperationalError):
                broken.execute("SELECT 1")
        with closing(tiers.core.connect("setup")) as fresh:
            assert fresh.execute("SELECT 1").fetchone() == (1,)


def test_what_two_threads_ask_at_once_is_asked_once(tiers: Tiers) -> None:
    table, asked = TableName("public", "t"), list[str]()

    def answered(question: str) -> str:
        asked.append(question)
        sleep(0.2)  # long enough for the other thread to ask as well, if nothing keeps it from that
        return question

    @asked_once
    def version(conn: Session) -> str:
        return answered("version")

    @of_each
    def shape(conn: Session, names: Sequence[TableName]) -> Mapping[TableName, str]:
        return {name: answered("shape") for name in names}

    def both() -> tuple[str, str | None]:
        with closing(tiers.core.connect("setup")) as conn:
            return version(conn), shape(conn, table)

    with looking([table]), ThreadPoolExecutor(2) as pool:
        answers = [one.result() for one in [pool.submit(copy_context().run, both) for _ in range(2)]]
    assert answers == [("version", "shape")] * 2
    assert sorted(asked) == ["shape", "version"]


def test_a_look_gives_way_to_locks_unless_it_leads_to_writing(tiers: Tiers) -> None:
    def waits() -> object:
        with closing(tiers.core.connect("setup")) as conn, transaction(conn, read_only=True) as cur:
            return (cur.execute("SHOW lock_timeout").fetchone() or (None,))[0]

    assert waits() == "10s"
    with looking(patient=True):
        assert waits() == "10s"
    with looking():
        assert waits() == "2s"
        with looking(patient=True):
            assert waits() == "2s", "the plan that it is a part of waits no longer"
