"""A copy that is known by its content alone is taken back: beside writers and other copies, in a bounded room (I1, I4, I9).

The oracle counts the application's own rows and never reads the schema `tierkeeper`.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from threading import Event, Thread
from typing import Final

import psycopg
import pytest

from hop import BEFORE, FILL, MAKE, Hop, Killed, T, killed, open_filled, open_hop
from support import Tiers, eventually
from tierkeeper.kernel import faults
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import LedgerRow
from tierkeeper.mover import plan, refinding
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.model import Piece, Selection
from tierkeeper.mover.source import Source
from tierkeeper.mover.worker import Pace, Run, Worker
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection
from tierkeeper.tiers.standing import Displaced

Row = tuple[int, str]
ALL: Final = [(i, f"v{i}") for i in range(1, 101)]
REWRITE: Final = "ALTER TABLE public.t SET UNLOGGED; ALTER TABLE public.t SET LOGGED"
OWN: Final = "INSERT INTO public.t VALUES (500, '2024-01-01', 'of that tier alone')"


def rows(conn: Connection) -> list[Row]:
    return [(int(str(i)), str(v)) for i, v in conn.execute("SELECT id, v FROM public.t ORDER BY id").fetchall()]


def read(hop: Hop) -> list[Row]:
    return [(one["id"], one["v"]) for one in hop.keeper.query("SELECT id, v FROM public.t ORDER BY id").to_pylist()]


@pytest.fixture
def hop(tiers: Tiers) -> Iterator[Hop]:
    with open_filled(tiers) as opened:
        yield opened


def displaced(hop: Hop, destination: Tier) -> tuple[Connection, Connection]:
    """The hundred rows and a copy of them, whose table was written anew; connections of the application to source and copy."""
    here, there, source = hop.core, hop.main, "core"
    if destination == "core":
        here, there, source = hop.main, hop.core, "main"
        hop.main.execute(FILL)
        hop.core.execute("DELETE FROM public.t")
    killed(hop, Point.COPIED, source, destination)
    assert rows(here) == rows(there) == ALL
    there.execute(REWRITE)
    return here, there


def again(hop: Hop, destination: Tier) -> None:
    """The next run, which settles the copy."""
    with pytest.raises(NotNow, match="written anew"):
        hop.move(source="main" if destination == "core" else "core", destination=destination)


@pytest.mark.long
@pytest.mark.parametrize("destination", ["main", "core"])
def test_it_is_known_by_its_content(hop: Hop, destination: Tier) -> None:
    """What nobody can tell from another row is left, if it is not the source's."""
    here, there = displaced(hop, destination)
    there.execute(OWN)
    again(hop, destination)
    assert (rows(here), rows(there)) == (ALL, [(500, "of that tier alone")])
    assert read(hop) == [*ALL, (500, "of that tier alone")]


@pytest.mark.parametrize("deed", ["UPDATE public.t SET v = 'new'", pytest.param("DELETE FROM public.t", marks=pytest.mark.long)])
def test_copies_of_one_table_are_taken_back_together(tiers: Tiers, deed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose rows they are nobody can tell: of all of them together it can be said that nothing is left."""
    # A second worker might be done with a copy that stands before the first has its own.
    monkeypatch.setattr(plan, "workers", lambda *_: 1)
    with open_hop(tiers, batch_rows=300, query_timeout="10 seconds") as hop:
        hop.core.execute(MAKE)
        hop.core.execute(FILL.replace("100", "1000"))
        hop.keeper.setup(apply=True)
        copies = list[Point]()

        def die(reached: Point) -> None:
            copies.extend([reached] if reached is Point.COPIED else [])
            if len(copies) == 2:
                raise Killed

        faults.arm(die)
        with pytest.raises(Killed):
            hop.move()
        faults.disarm()
        assert 300 < len(rows(hop.main)) < 1000
        hop.main.execute(f"{REWRITE}; {OWN.replace('500', '5000')}".encode())
        hop.core.execute(f"{deed} WHERE id = 50".encode())
        now, own = rows(hop.core), (5000, "of that tier alone")
        if deed.startswith("UPDATE"):
            again(hop, "main")
            assert (rows(hop.core), rows(hop.main)) == (now, [(50, "v50"), own])
        else:
            with pytest.raises(Failed, match=r"1 of the \d+ rows") as told:
                hop.move()
            hop.main.execute("DELETE FROM public.t WHERE id = 50")
            hop.main.execute(told.value.remedy.split("there: ")[1].split(";")[0].encode())
            assert hop.move().rows == len(now)
            assert (rows(hop.core), rows(hop.main)) == ([], [*now, own])
        assert read(hop) == [*now, own]


def worker(hop: Hop, stack: ExitStack, where: str, source: Tier = "core", destination: Tier = "main") -> Worker:
    """One of several, or of another run: with connections and a memory of its own."""
    here, there = (getattr(hop.tiers, tier) for tier in (source, destination))
    one, other = (stack.enter_context(closing(link.connect("mover"))) for link in (here, there))
    selection = Selection(shapes.read(one, T), "at", BEFORE, where)
    run = Run(selection, Pace(100, 0.2, None, group=4, patience_seconds=0.1), *[lambda: None] * 3)
    ends = Source(here, one, source), PostgresDestination(other, destination, source, 0.2)
    return Worker(run, *ends, clock=SystemClock(), report=lambda: None, beat=lambda: None)


HALF: Final = Piece(0, 1000, 50, 0)


def test_a_neighbours_copy_that_stands_stays(hop: Hop) -> None:
    """I1: its rows are the source's too, until a moment later the neighbour deletes these."""
    with ExitStack() as stack:
        one, other = worker(hop, stack, "id <= 50"), worker(hop, stack, "id > 50")
        displaced = one._copy(HALF)
        hop.main.execute(REWRITE)
        stands = other._copy(HALF)
        assert displaced is not None and stands is not None
        assert other._wait([stands.batch.id]) is None
        with pytest.raises(Displaced):
            one.release([[displaced]])
        other._delete([stands])
    assert (rows(hop.core), rows(hop.main)) == (ALL[:50], ALL[50:])
    assert read(hop) == ALL


@pytest.mark.long
def test_a_copy_at_the_source_is_no_row_of_it(hop: Hop) -> None:
    """I1: two runs against each other, in spite of the lease. What one has on its way is taken for no row by the other."""
    hop.core.execute("DELETE FROM public.t WHERE id > 50")
    hop.main.execute(FILL)
    hop.main.execute("DELETE FROM public.t WHERE id <= 50")
    with ExitStack() as stack:
        down, up = worker(hop, stack, "id <= 50"), worker(hop, stack, "id > 50", "main", "core")
        copies = list[LedgerRow | None]()

        def copy_down(reached: Point) -> None:
            if reached is Point.COPY_BEFORE_COMMIT and not copies:
                copies.append(None)
                copies[0] = down._copy(HALF)

        faults.arm(copy_down)
        displaced = up._copy(HALF)
        faults.disarm()
        assert displaced is not None and copies[0] is not None
        hop.core.execute(REWRITE)
        with pytest.raises(NotNow, match="rows are on their way into it"):
            up.release([[displaced]])
        assert (rows(hop.core), rows(hop.main)) == (ALL, ALL)
        assert down.release([[copies[0]]])  # its rows were written anew since they were read
        with pytest.raises(Displaced):
            up.release([[displaced]])
    assert (rows(hop.core), rows(hop.main)) == (ALL[:50], ALL[50:])


class Writer:
    """An application at one tier, which remembers what it wrote."""

    def __init__(self, conn: Connection, known: dict[int, str]) -> None:
        self.known = known
        self.deeds = 0
        self._conn = conn
        self._ended = Event()
        self._thread = Thread(target=self._run)

    def put(self, number: int, value: str) -> None:
        self._conn.execute(
            "INSERT INTO public.t VALUES (%s, '2024-01-01', %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v", [number, value]
        )
        self.known[number] = value

    def _run(self) -> None:
        chance = random.Random(0)  # noqa: S311 - the same deeds in every run
        while not self._ended.is_set():
            number = chance.choice([n for n in self.known if n > 10] or [1000])
            if chance.random() < 0.3:
                self._conn.execute("DELETE FROM public.t WHERE id = %s", [number])
                self.known.pop(number, None)
            else:
                self.put(chance.choice([number, max(self.known, default=1000) + 1]), f"w{self.deeds}")
            self.deeds += 1

    def some_more(self) -> None:
        """Returns when it has written on for a while."""
        if not self._thread.ident:
            self._thread.start()
        until = self.deeds + 20
        assert eventually(lambda: self.deeds >= until)

    def end(self) -> list[Row]:
        """What it has written."""
        self._ended.set()
        self._thread.join()
        return sorted(self.known.items())


@pytest.mark.parametrize("destination", [pytest.param("main", marks=pytest.mark.long), "core"])
def test_beside_writers_at_both_tiers(hop: Hop, destination: Tier) -> None:
    """I1, I4: on rows of the same ages, of the source's also those that were copied."""
    here, there = displaced(hop, destination)
    links = [hop.tiers.main, hop.tiers.core] if destination == "core" else [hop.tiers.core, hop.tiers.main]
    with closing(links[0].connect("app")) as one, closing(links[1].connect("app")) as other:
        source, own = Writer(one, dict(ALL)), Writer(other, {})
        for number in range(1, 11) if destination == "main" else ():
            source.put(number, "before")  # on the way up nobody could tell which is newer
        for number in range(201, 211):
            source.put(number, "another")
        for number in range(10_000, 10_010):
            own.put(number, "of that tier alone")
        own._thread.start()
        faults.arm(lambda reached: source.some_more() if reached in (Point.REFOUND, Point.UNDO_BEFORE_COMMIT) else None)
        again(hop, destination)
        faults.disarm()
        of_source, of_own = source.end(), own.end()
    assert source.deeds >= 40 and own.deeds > 0
    assert rows(here) == of_source
    old = ALL[:10] if destination == "main" else []
    assert rows(there) == sorted([*old, *of_own])
    assert read(hop) == sorted([*of_source, *of_own])


def test_what_was_changed_at_main_on_the_way_up_is_not_hidden_by_an_old_copy(hop: Hop) -> None:
    """I4: nor is a row of Core's own taken for one. It is named, and nothing is changed before a person has said which it is."""
    displaced(hop, "core")
    hop.main.execute("UPDATE public.t SET v = 'new' WHERE id = 7")
    now = [(i, "new" if i == 7 else v) for i, v in ALL]
    with pytest.raises(Failed, match=r"differ from those of the same key in main \(7\)"):
        hop.move(source="main", destination="core")
    assert (rows(hop.main), rows(hop.core)) == (now, ALL)
    hop.core.execute("DELETE FROM public.t WHERE id = 7")
    assert hop.move(source="main", destination="core").rows == 100
    assert (rows(hop.main), rows(hop.core), read(hop)) == ([], now, now)


@pytest.mark.long
def test_no_row_comes_to_refer_to_one_that_goes(hop: Hop) -> None:
    """I1: what a foreign key does on DELETE it would do to that row as well."""
    displaced(hop, "core")
    hop.core.execute("CREATE TABLE public.notes (id int PRIMARY KEY, t int REFERENCES public.t ON DELETE CASCADE)")
    said = list[str]()
    with closing(hop.tiers.core.connect("app")) as app:
        app.execute("SET lock_timeout = '100ms'")

        def refer(reached: Point) -> None:
            if reached is Point.REFOUND:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    app.execute("INSERT INTO public.notes VALUES (1, 7)")
                said.append("refused")

        faults.arm(refer)
        again(hop, "core")
        faults.disarm()
    assert said and (rows(hop.main), rows(hop.core)) == (ALL, [])


def test_what_is_brought_beside_it_is_bounded(hop: Hop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: a tier that is nearly full is not filled by what frees it."""
    hop.core.execute("CREATE TABLE noise AS SELECT string_agg(md5(i::text), '') AS v FROM generate_series(1, 1000) AS i")
    hop.core.execute("ALTER TABLE public.t ALTER v SET STORAGE EXTERNAL; UPDATE public.t SET v = id || (SELECT v FROM noise)")
    every = rows(hop.core)
    killed(hop, Point.COPIED)
    hop.main.execute(REWRITE)
    monkeypatch.setattr(refinding, "REFOUND_BYTES", 300_000)
    used = list[int]()

    def weigh(reached: Point) -> None:
        if reached is Point.REFOUND:
            used.append(int(str((hop.main.execute("SELECT pg_database_size(current_database())").fetchone() or (0,))[0])))

    size = int(str((hop.main.execute("SELECT pg_database_size(current_database())").fetchone() or (0,))[0]))
    faults.arm(weigh)
    again(hop, "main")
    faults.disarm()
    assert len(used) > 5 and 200_000 < max(used) - size < 1_000_000 < sum(len(v) for _, v in every) / 3
    assert (rows(hop.core), rows(hop.main)) == (every, [])
