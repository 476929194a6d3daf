"""A mover that is paused, cut off or beside another one, seen by a reader over both tiers at every stage (I1, I2, I4, I5).

The oracle counts the application's own rows and never reads the schema `tierkeeper`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
import pytest

from faultproxy import FaultProxy
from support import sampled
from tierkeeper.kernel import faults
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.horizon import Horizon
from tierkeeper.mover.lease import Lease
from tierkeeper.mover.model import Selection
from tierkeeper.mover.outcome import Outcome
from tierkeeper.mover.runner import Mover
from tierkeeper.mover.source import Source
from tierkeeper.mover.worker import Pace
from tierkeeper.postgres import link as link_module
from tierkeeper.postgres.link import Link
from tierkeeper.query.runner import FastDoor

STEPS = [
    Point.LEDGER_OPEN, Point.MARKER_OPEN, Point.SOURCE_READ, Point.COPY_BEFORE_COMMIT, Point.COPIED, Point.WAITED,
    Point.DELETE_BEFORE_COMMIT, Point.DELETED, Point.DONE,
]  # fmt: skip
ROWS, SUM = 1_000, 500_500
Selects = Callable[..., Selection]


@pytest.fixture(autouse=True)
def _quick_locks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(link_module, "LOCK_SECONDS", 0.3)
    yield
    faults.disarm()


def run(core: Link, main: Link, selection: Selection, name: str = "its own", longest_reader_seconds: float = 0.2) -> Outcome:
    """One run with connections of its own, as a new process; `name` is its lease's, so that nobody waits for another."""
    with closing(core.connect("mover")) as source, closing(main.connect("mover")) as destination:
        return Mover(
            Source(core, source, "core"),
            PostgresDestination(destination, "main", "core", longest_reader_seconds),
            Lease(destination, name),
            pace=Pace(300, longest_reader_seconds, group=2, patience_seconds=0.3),
            clock=SystemClock(),
            progress=lambda *_: None,
            stop=lambda: None,
            refresh_parents=lambda: None,
            rests=lambda _: None,
        ).run(selection)


def try_run(*arguments: Any, **more: Any) -> None:
    """A run that may end with an error of its own: what the tiers hold is what counts."""
    with suppress(TierkeeperError, psycopg.Error):
        run(*arguments, **more)


def seen_by_query(pair: Any) -> tuple[int, int]:
    """How many rows `tierkeeper query` sees, and the sum of their keys."""
    policy = TablePolicy(TableName("public", "events"), "move", "at")
    door = FastDoor(pair.tiers.core, pair.tiers.main, None, [policy], timeout_seconds=30, archive=None)
    answer = door.query("SELECT count(*) AS n, sum(id)::bigint AS s FROM events").to_pylist()[0]
    return answer["n"], answer["s"]


def check_settled(pair: Any, selection: Selection) -> None:
    """I5: the next run ends as an undisturbed one would have."""
    assert run(pair.tiers.core, pair.tiers.main, selection).stopped_because == "complete"
    assert pair.rows(pair.core) == []
    assert [r[0] for r in pair.rows(pair.main)] == list(range(1, ROWS + 1))
    assert seen_by_query(pair) == (ROWS, SUM)


@pytest.mark.parametrize("point", sampled(STEPS, *STEPS[::2]))
def test_a_run_beside_a_paused_one(pair: Any, selection: Selects, point: Point) -> None:
    """A mover stands still at `point`; another settles what it finds and moves on; then the first wakes and goes on, too."""
    paused, wake = threading.Event(), threading.Event()
    chosen = selection()
    sleeper = threading.Thread(target=try_run, args=(pair.tiers.core, pair.tiers.main, chosen, "sleeper"))

    def hook(reached: Point) -> None:
        if reached is point and threading.current_thread() is sleeper and not paused.is_set():
            paused.set()
            wake.wait(30)

    faults.arm(hook)
    sleeper.start()
    assert paused.wait(10)
    assert seen_by_query(pair) == (ROWS, SUM)
    try_run(pair.tiers.core, pair.tiers.main, chosen, "recovery")
    assert seen_by_query(pair) == (ROWS, SUM)
    wake.set()
    sleeper.join()
    assert seen_by_query(pair) == (ROWS, SUM)
    check_settled(pair, chosen)


def test_runs_beside_each_other_without_a_lease(pair: Any, selection: Selects) -> None:
    chosen = selection()
    movers = [threading.Thread(target=try_run, args=(pair.tiers.core, pair.tiers.main, chosen, f"mover {i}")) for i in range(3)]
    for mover in movers:
        mover.start()
    answers = [seen_by_query(pair)]
    while any(m.is_alive() for m in movers):
        answers.append(seen_by_query(pair))
    assert set(answers) == {(ROWS, SUM)}
    outcome = run(pair.tiers.core, pair.tiers.main, chosen)
    assert outcome.conflicts == []
    check_settled(pair, chosen)


@pytest.mark.parametrize("lost", sampled(["request", "answer"], "answer"))
@pytest.mark.parametrize(
    ("tier", "point"),
    [
        ("core", Point.LEDGER_OPEN), ("main", Point.SOURCE_READ), ("main", Point.COPY_BEFORE_COMMIT),
        ("core", Point.DELETE_BEFORE_COMMIT), ("main", Point.DELETED),
    ],
)  # fmt: skip
def test_a_link_that_is_cut(pair: Any, selection: Selects, tier: str, point: Point, lost: str) -> None:
    """Also at COMMIT, where the mover cannot know what became of it."""
    chosen = selection()
    core, main = pair.tiers.core, pair.tiers.main
    with (
        FaultProxy(int(core.parameters["port"])) as at_core,
        FaultProxy(int(main.parameters["port"])) as at_main,
    ):
        cut = {"core": at_core, "main": at_main}[tier]

        def hook(reached: Point) -> None:
            if reached is point:
                cut.cut_after(0, "to_server" if lost == "request" else "to_client", "fin", everything=True)

        faults.arm(hook)
        with pytest.raises((TierkeeperError, psycopg.Error)):
            run(at_core.link(core), at_main.link(main), chosen)
        faults.disarm()
        assert seen_by_query(pair) == (ROWS, SUM)
    check_settled(pair, chosen)


@pytest.mark.parametrize("runs", [1, 2], ids=["its horizon is known still", "and is no more"])
def test_rows_that_a_reader_saw_in_core_count_for_nothing_at_main(
    pair: Any, selection: Selects, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    """I2: whatever is moved and cleared away between its two snapshots; a write would hide whose rows they are."""
    with closing(pair.tiers.core.connect("mover")) as core, closing(pair.tiers.main.connect("mover")) as main:
        Horizon(core, main, selection().shape).advance()
    take, deeds = FastDoor._moved, list[int]()

    def after_the_first_snapshot(door: FastDoor, cur: psycopg.Cursor) -> frozenset[object]:
        moved = take(door, cur)
        if not deeds:
            deeds.extend(run(pair.tiers.core, pair.tiers.main, selection(), longest_reader_seconds=30).rows for _ in range(runs))
            with pytest.raises(psycopg.errors.ObjectInUse):
                pair.main.execute("UPDATE public.events SET body = 'x' WHERE id = 1")
        return moved

    monkeypatch.setattr(FastDoor, "_moved", after_the_first_snapshot)
    assert seen_by_query(pair) == (ROWS, SUM)
    assert deeds == [ROWS, 0][:runs]
    assert seen_by_query(pair) == (ROWS, SUM)


@contextmanager
def lagging_standby(main: psycopg.Connection, link: Link, state: str) -> Iterator[str]:
    """A standby that confirms nothing; what tells it from others in the mover's reason."""
    if state == "away":
        main.execute("SELECT pg_create_physical_replication_slot('far', immediately_reserve => true)")
        try:
            yield "'far'"
        finally:
            main.execute("SELECT pg_drop_replication_slot('far')")
        return
    with closing(psycopg.connect(link.uri, replication="true")) as standby:
        where = standby.pgconn.exec_(b"IDENTIFY_SYSTEM").get_value(0, 2) or b""
        if state == "catchup":  # more than a socket takes in, and nobody reads it
            main.execute("SELECT pg_logical_emit_message(false, '', repeat('x', 1000000)) FROM generate_series(1, 24)")
        assert standby.pgconn.exec_(b"START_REPLICATION PHYSICAL " + where).status == psycopg.pq.ExecStatus.COPY_BOTH
        seen = "SELECT state FROM pg_stat_replication WHERE pid = %s"
        while main.execute(seen, [standby.info.backend_pid]).fetchone() != (state,):
            time.sleep(0.01)
        yield "has not confirmed"


@pytest.mark.parametrize("state", ["streaming", "catchup", "away"])
def test_a_standby_of_main_that_lags_holds_the_delete_back(pair: Any, selection: Selects, state: str) -> None:
    """I1: Main may fail over to it."""
    with lagging_standby(pair.main, pair.tiers.main, state) as told:
        outcome = run(pair.tiers.core, pair.tiers.main, selection())
        assert "standby" in outcome.stopped_because
        assert told in outcome.stopped_because
        assert len(pair.rows(pair.core)) == ROWS
    check_settled(pair, selection())


@pytest.mark.parametrize("tier", ["core", "main"])
def test_commits_are_durable_whatever_the_servers_default(pair: Any, tier: str) -> None:
    link: Link = getattr(pair.tiers, tier)
    database = psycopg.sql.Identifier(link.parameters["dbname"])
    pair.core.execute(psycopg.sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(database))
    with closing(link.connect("mover")) as conn, link_module.transaction(conn) as cur:
        assert cur.execute("SHOW synchronous_commit").fetchone() == ("on",)


@pytest.mark.parametrize("runs", [1, 2], ids=["its horizon is known still", "and is no more"])
def test_a_conflict_that_ends_in_core_is_kept_for_the_readers_that_saw_it(
    pair: Any, selection: Selects, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    """I2: a reader saw Core's row; it is deleted; the reader then looks at Main, where the key's other row must not count."""
    pair.main.execute("INSERT INTO public.events VALUES (150, '2024-01-02', 'another story')")
    assert run(pair.tiers.core, pair.tiers.main, selection()).conflicts == ["150"]
    take, deeds = FastDoor._moved, list[bool]()

    def after_the_first_snapshot(door: FastDoor, cur: psycopg.Cursor) -> frozenset[object]:
        moved = take(door, cur)
        if not deeds:
            deeds.append(True)
            pair.core.execute("DELETE FROM public.events WHERE id = 150")
            for _ in range(runs):
                run(pair.tiers.core, pair.tiers.main, selection(), longest_reader_seconds=30)
        return moved

    monkeypatch.setattr(FastDoor, "_moved", after_the_first_snapshot)
    assert seen_by_query(pair) == (ROWS, SUM)
    assert deeds
    assert seen_by_query(pair) == (ROWS, SUM)


@pytest.mark.parametrize("side", ["core", "main"])
def test_a_conflict_that_the_application_ends_is_one_no_more(pair: Any, selection: Selects, side: str) -> None:
    pair.main.execute("INSERT INTO public.events VALUES (150, '2024-01-02', 'another story')")
    assert run(pair.tiers.core, pair.tiers.main, selection()).conflicts == ["150"]
    getattr(pair, side).execute("DELETE FROM public.events WHERE id = 150")
    check_settled(pair, selection())
    pair.core.execute("SELECT pg_sleep(0.25)")
    check_settled(pair, selection())
    assert pair.main.execute("SELECT count(*) FROM tierkeeper.conflict").fetchone() == (0,)
