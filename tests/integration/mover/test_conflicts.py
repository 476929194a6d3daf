"""Two workers, or a worker and the application, that want the same rows at once: each on real sessions, either way (I1 to I5).

The batch that loses is undone and tried again; nothing is called a conflict that is not one. The oracle counts the user's rows.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
import pytest

from hop import Hop
from support import Tiers, eventually, sampled
from tierkeeper.kernel import faults
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.faults import Point
from tierkeeper.mover import plan
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.lease import Lease
from tierkeeper.mover.model import Range, Selection
from tierkeeper.mover.outcome import Outcome
from tierkeeper.mover.runner import Mover
from tierkeeper.mover.source import Source
from tierkeeper.mover.worker import Pace, Run, Worker
from tierkeeper.postgres import link as link_module
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection, Link

Way = Literal["down", "up"]
BEGIN = "CREATE FUNCTION public.deed() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {} END$$"


@dataclass
class Hopping:
    """The table's rows at one end, of which the application has a connection, and workers that take them to the other."""

    tiers: Tiers
    way: Way
    here: Connection
    there: Connection
    stack: ExitStack
    before: list[Any] = field(default_factory=list)

    @property
    def links(self) -> tuple[Link, Link]:
        return (self.tiers.core, self.tiers.main) if self.way == "down" else (self.tiers.main, self.tiers.core)

    def ends(self) -> tuple[Source, PostgresDestination]:
        source, destination = (self.stack.enter_context(closing(link.connect("mover"))) for link in self.links)
        tiers = ("core", "main") if self.way == "down" else ("main", "core")
        return Source(self.links[0], source, tiers[0]), PostgresDestination(destination, tiers[1], tiers[0], 0.2)  # type: ignore[arg-type]

    def application(self) -> psycopg.Connection[Any]:
        """Another session of the application's, where the rows are."""
        return self.stack.enter_context(psycopg.connect(self.links[0].uri, autocommit=True))

    def worker(self, run: Run) -> Worker:
        return Worker(run, *self.ends(), clock=SystemClock(), report=lambda: None, beat=lambda: None)

    def run_of(self, selection: Selection, ranges: Sequence[Range]) -> Run:
        run = Run(selection, Pace(500, 0.2, patience_seconds=0.5), lambda: None, lambda: None)
        run.hand_out(iter(ranges))
        return run

    def first_and_last(self, selection: Selection) -> tuple[Range, Range]:
        """Two ranges: an updated row of the first gets its new place in the second."""
        pieces = self.ends()[0].holdings.pieces(selection, 1, [])
        first, *_, last = plan.cut(pieces, 500, 10**9)
        return first, last

    def move(self, selection: Selection, batch_rows: int = 100) -> Outcome:
        source, destination = self.ends()
        return Mover(
            source,
            destination,
            Lease(destination.conn, "conflicts"),
            pace=Pace(batch_rows, 0.2, patience_seconds=0.5),
            clock=SystemClock(),
            progress=lambda *_: None,
            stop=lambda: None,
            refresh_parents=lambda: None,
            rests=lambda _: None,
        ).run(selection)

    def rows(self, conn: Connection) -> dict[int, str]:
        return dict(conn.execute("SELECT id, body FROM public.events ORDER BY id").fetchall())  # type: ignore[arg-type]

    def check_moved(self, selection: Selection, expected: dict[int, str]) -> None:
        """I5: whatever happened, the next run brings every row over, once and as the application left it."""
        outcome = self.move(selection)
        assert (outcome.stopped_because, outcome.conflicts) == ("complete", [])
        assert self.rows(self.here) == {}
        assert self.rows(self.there) == expected


@pytest.fixture(params=["down", "up"])
def hopping(pair: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hopping]:
    monkeypatch.setattr(link_module, "LOCK_SECONDS", 0.5)
    here, there = (pair.core, pair.main) if request.param == "down" else (pair.main, pair.core)
    if request.param == "up":
        rows = pair.core.execute("DELETE FROM public.events RETURNING id, at, body").fetchall()
        with pair.main.cursor() as cur:
            cur.executemany("INSERT INTO public.events VALUES (%s, %s, %s)", sorted(rows))
        pair.main.execute("DROP TRIGGER guard ON public.events")
        pair.core.execute(
            "CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON public.events "
            "FOR EACH ROW EXECUTE FUNCTION tierkeeper.refuse_copy_in_flight(); "
            "ALTER TABLE public.events ENABLE ALWAYS TRIGGER guard"
        )
    with ExitStack() as stack:
        yield Hopping(pair.tiers, request.param, here, there, stack)
        faults.disarm()


@pytest.fixture
def chosen(hopping: Hopping, selection: Callable[..., Selection]) -> Selection:
    return Selection(shapes.read(hopping.here, selection().shape.name), "at", selection().cutoff)


@dataclass
class Neighbours:
    """Two workers of one run. The second begins once the first has taken its snapshot and `between` is done."""

    hopping: Hopping
    run: Run
    between: Callable[[], object]
    until: Callable[[], object]
    """What the first then waits for before it copies."""
    errors: list[BaseException] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    holds: dict[tuple[int, Point], Callable[[], object]] = field(default_factory=dict)
    """What a worker (0 or 1) does when it first gets to a point, beside what is said above."""

    def __post_init__(self) -> None:
        self.threads = [threading.Thread(target=self._work, args=(self.hopping.worker(self.run),)) for _ in range(2)]

    def _work(self, worker: Worker) -> None:
        try:
            worker.work()
        except BaseException as error:  # noqa: BLE001 - told by `work`
            self.errors.append(error)

    def work(self) -> None:
        copy = PostgresDestination.copy

        def copy_later(*arguments: Any) -> Any:
            if not self.threads[1].ident:
                self.between()
                self.threads[1].start()
                self.until()
            return copy(*arguments)

        def hook(point: Point) -> None:
            me = threading.current_thread()
            if me in self.threads:
                held = self.holds.pop((self.threads.index(me), point), None)
                if held is not None:
                    held()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PostgresDestination, "copy", copy_later)
            faults.arm(hook)
            self.threads[0].start()
            for thread in self.threads:
                thread.join(60)
            faults.disarm()
        assert self.errors == []


def waiting(conn: Connection) -> bool:
    """Whether some session of this database waits for another's lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return conn.execute(query).fetchone() != (0,)


def touch(conn: Any, *keys: int) -> None:
    """The application changes rows, one after the other: their new versions lie at the end of the heap, in this order."""
    for key in keys:
        conn.execute("UPDATE public.events SET body = repeat('x', 100) || id WHERE id = %s", (key,))


def touched(expected: dict[int, str], *keys: int) -> dict[int, str]:
    return expected | {key: "x" * 100 + str(key) for key in keys}


def in_each_others_way(hopping: Hopping, chosen: Selection) -> tuple[Run, Neighbours, threading.Event, threading.Event]:
    """Two workers, both of which read row 1: the first copies once the second has (`copied`), which stays until `refused`."""
    run = hopping.run_of(chosen, hopping.first_and_last(chosen))
    copied, refused = threading.Event(), threading.Event()
    return run, Neighbours(hopping, run, lambda: touch(hopping.application(), 1), lambda: copied.wait(20)), copied, refused


def test_a_row_that_a_neighbour_read_later_makes_no_fault(hopping: Hopping, chosen: Selection) -> None:
    """23505: the row was in the first's range, is in the second's, and the first's next look does not find it in its own."""
    expected = hopping.rows(hopping.here)
    run, pair, copied, refused = in_each_others_way(hopping, chosen)
    pair.holds[1, Point.WAITED] = lambda: (copied.set(), refused.wait(20))
    pair.holds[0, Point.UNDO_ABORTED] = refused.set
    pair.work()
    assert (run.changed, run.conflicts) == (1, [])
    hopping.check_moved(chosen, touched(expected, 1))


def test_a_neighbour_that_is_undone_before_we_look_makes_no_fault(
    hopping: Hopping, chosen: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23505, and when the keys are looked up the copy that had one is gone: the batch is tried again at once."""
    expected = hopping.rows(hopping.here)
    run, pair, copied, refused = in_each_others_way(hopping, chosen)
    pair.holds[1, Point.WAITED] = lambda: (copied.set(), refused.wait(20), touch(hopping.application(), 1))
    look = PostgresDestination.taken_keys

    def after_the_neighbour(*arguments: Any) -> Any:
        refused.set()
        pair.threads[1].join(20)
        return look(*arguments)

    monkeypatch.setattr(PostgresDestination, "taken_keys", after_the_neighbour)
    pair.work()
    assert refused.is_set()
    assert (run.changed, run.conflicts) == (1, [])  # the neighbour's
    assert len(hopping.rows(hopping.there)) > 1
    hopping.check_moved(chosen, touched(expected, 1))


def test_a_neighbour_that_copies_too_long_is_not_waited_for(hopping: Hopping, chosen: Selection) -> None:
    """55P03: whether its key stays is known at its commit."""
    expected = hopping.rows(hopping.here)
    run, pair, copied, refused = in_each_others_way(hopping, chosen)
    pair.holds[1, Point.COPY_BEFORE_COMMIT] = lambda: (copied.set(), refused.wait(20))
    pair.holds[0, Point.UNDO_ABORTED] = refused.set
    pair.work()
    assert run.changed == 1
    hopping.check_moved(chosen, touched(expected, 1))


def test_neighbours_that_wait_for_each_other(hopping: Hopping, chosen: Selection, monkeypatch: pytest.MonkeyPatch) -> None:
    """40P01: both copy two keys, in opposite orders."""
    monkeypatch.setattr(link_module, "LOCK_SECONDS", 20)
    expected = hopping.rows(hopping.here)
    hopping.there.execute(BEGIN.format("IF NEW.id <= 2 THEN PERFORM pg_sleep(0.7); END IF; RETURN NEW;"))
    hopping.there.execute("CREATE TRIGGER deed BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.deed()")
    run = hopping.run_of(chosen, hopping.first_and_last(chosen))
    read = threading.Event()
    pair = Neighbours(hopping, run, lambda: touch(hopping.application(), 2, 1), lambda: read.wait(20))
    pair.holds[1, Point.SOURCE_READ] = read.set
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert hopping.there.execute(deadlocks).fetchone() == (0,)
    pair.work()
    assert eventually(lambda: hopping.there.execute(deadlocks).fetchone() == (1,))
    assert run.changed >= 1  # whom the server chose; what the other read is changed by now, unless it is the second
    hopping.check_moved(chosen, touched(expected, 1, 2))


@pytest.mark.parametrize("ending", sampled(["commit", "rollback", "timeout", "deadlock"], "commit", "deadlock"))
def test_the_application_holds_rows_of_the_batch_at_its_delete(hopping: Hopping, chosen: Selection, ending: str) -> None:
    """40001, 55P03, 40P01 in S2: the copy is taken back and the batch tried again; an application that gives up costs nothing."""
    expected = hopping.rows(hopping.here)
    app = hopping.application()
    done: list[threading.Thread] = []

    def finish() -> None:
        assert eventually(lambda: waiting(hopping.here))
        if ending == "deadlock":
            touch(app, 10)  # S2 has deleted it and waits for row 300
        app.execute("ROLLBACK" if ending == "rollback" else "COMMIT")

    def hold(point: Point) -> None:
        if point is Point.WAITED and not done:
            app.execute("BEGIN")
            touch(app, 300)
            done.append(threading.Thread(target=finish))
            if ending != "timeout":
                done[0].start()
        elif point is Point.UNDO_ABORTED and ending == "timeout" and not done[0].ident:
            app.execute("COMMIT")
            done[0].start = lambda: None  # type: ignore[method-assign]

    link_module.LOCK_SECONDS = 0.5 if ending == "timeout" else 20  # type: ignore[misc] # the fixture puts it back
    faults.arm(hold)
    run = hopping.run_of(chosen, hopping.first_and_last(chosen)[:1])
    hopping.worker(run).work()
    faults.disarm()
    if ending != "timeout":
        done[0].join(20)
    assert (run.changed, run.outcome.batches) == ((0, 1) if ending == "rollback" else (1, 0))
    changed = {"rollback": (), "deadlock": (300, 10)}.get(ending, (300,))
    assert {**hopping.rows(hopping.there), **hopping.rows(hopping.here)} == touched(expected, *changed)
    hopping.check_moved(chosen, touched(expected, *changed))


@pytest.mark.parametrize("guarded", [True, False])
def test_a_deferred_trigger_that_changes_the_row(hopping: Hopping, chosen: Selection, guarded: bool) -> None:
    """I3: it has its say before the copy is read back, and the guard of copies in flight does not hide what it did."""
    hopping.there.execute(
        BEGIN.format("UPDATE public.events SET body = upper(body) WHERE id = NEW.id AND NEW.id = 77; RETURN NULL;")
    )
    hopping.there.execute(
        "CREATE CONSTRAINT TRIGGER deed AFTER INSERT ON public.events DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION public.deed()"
    )
    if not guarded:
        hopping.there.execute("DROP TRIGGER guard ON public.events")
    before = hopping.rows(hopping.here)
    with pytest.raises(link_module.Failed, match="trigger"):
        hopping.move(chosen)
    assert (hopping.rows(hopping.here), hopping.rows(hopping.there)) == (before, {})


WRITES = {
    "update": "UPDATE public.events SET body = 'x' WHERE id = 1",
    "key": "UPDATE public.events SET id = -1 WHERE id = 1",
    "delete": "DELETE FROM public.events WHERE id = 1",
    "upsert": "INSERT INTO public.events VALUES (1, now(), 'x') ON CONFLICT (id) DO UPDATE SET body = excluded.body",
    "merge": "MERGE INTO public.events AS t USING (VALUES (1)) AS s (id) ON t.id = s.id WHEN MATCHED THEN DELETE",
    "replica": "SET session_replication_role = replica; DELETE FROM public.events WHERE id = 1",
}


@pytest.mark.parametrize(
    "point", sampled([Point.COPIED, Point.WAITED, Point.DELETE_BEFORE_COMMIT, Point.DELETED], Point.COPIED, Point.DELETED)
)
def test_no_write_gets_at_a_copy_in_flight(hopping: Hopping, chosen: Selection, point: Point) -> None:
    """I4: an update of what may be undone would be lost, one of what is not yet the row would be seen twice."""
    hopping.there.execute("ALTER TABLE public.events ENABLE ALWAYS TRIGGER guard")
    expected = hopping.rows(hopping.here)
    refused: list[str] = []

    def write(reached: Point) -> None:
        if reached is not point or refused:
            return
        for name, statement in WRITES.items():
            with psycopg.connect(hopping.links[1].uri, autocommit=True) as app, pytest.raises(psycopg.errors.ObjectInUse):
                app.execute(statement)
            refused.append(name)
        with psycopg.connect(hopping.links[1].uri, autocommit=True) as app:
            app.execute("SELECT FROM public.events WHERE id = 1 FOR UPDATE")

    faults.arm(write)
    outcome = hopping.move(chosen)
    faults.disarm()
    assert refused == list(WRITES)
    assert (outcome.rows, hopping.rows(hopping.there)) == (1_000, expected)


def test_a_key_that_core_writes_otherwise_is_told_by_mains_text(hop: Hop) -> None:
    """1.0 and 1.00 are one key: readers, who leave it out at Main by its text, see the row once."""
    hop.core.execute("CREATE TABLE t (id numeric PRIMARY KEY, at date NOT NULL)")
    hop.core.execute("INSERT INTO t VALUES (1.00, '2024-01-01'), (2, '2024-01-01')")
    hop.keeper.setup(apply=True)
    assert hop.move().rows == 2
    hop.core.execute("INSERT INTO t VALUES (1.0, '2024-01-02'), (3.0, '2024-01-02')")
    again = hop.move()
    assert (again.rows, again.conflicts) == (1, ["1.00"])
    assert hop.keeper.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 3}]
    hop.core.execute("DELETE FROM t")
    assert hop.move().rows == 0
    assert hop.counts() == (0, 3)
