"""What the application may do to the table, at either tier, while its rows are being moved (I1, I3, I4, I10)."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.ports import Batch, LedgerRow
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.lease import Lease
from tierkeeper.mover.model import Selection
from tierkeeper.mover.runner import Mover
from tierkeeper.mover.source import Changed, Source
from tierkeeper.postgres import shapes

EVENTS = TableName("public", "events")
CUTOFF = datetime(2024, 6, 1, tzinfo=UTC)
Moves = Callable[..., Mover]
Selects = Callable[..., Selection]


@pytest.fixture
def once() -> Iterator[Callable[[Point, Callable[[], object]], None]]:
    """`once(point, deed)`: the first time the mover gets to `point`, `deed` happens."""

    def when(point: Point, deed: Callable[[], object]) -> None:
        waiting = [deed]

        def hook(reached: Point) -> None:
            if reached is point and waiting:
                waiting.pop()()

        faults.arm(hook)

    yield when
    faults.disarm()


def test_a_column_added_during_the_run_stops_it(pair: Any, mover: Moves, selection: Selects, once: Any) -> None:
    """I3: rows are read by the columns that were known at the start; the new column's values would go with the delete."""

    def alter() -> None:
        pair.core.execute("ALTER TABLE public.events ADD COLUMN note text")
        pair.core.execute("UPDATE public.events SET note = 'precious' WHERE id = 900")

    once(Point.DELETED, alter)
    with pytest.raises(NotNow, match="columns were altered"):
        mover().run(selection())
    assert pair.core.execute("SELECT note FROM public.events WHERE id = 900").fetchone() == ("precious",)


@pytest.mark.parametrize("point", [Point.SOURCE_READ, Point.WAITED])
def test_a_column_added_between_read_and_delete_keeps_the_rows(
    pair: Any, mover: Moves, selection: Selects, once: Any, point: Point
) -> None:
    """I3: a default gives every row a value without touching one: no row's version shows it."""
    added = []

    def alter() -> None:
        with psycopg.connect(pair.tiers.core.uri, options="-c lock_timeout=200ms") as app:
            try:
                app.execute("ALTER TABLE public.events ADD COLUMN note text DEFAULT 'precious'")
                added.append(True)
            except psycopg.errors.LockNotAvailable:  # while it is being read nobody can alter it
                return

    once(point, alter)
    if point is Point.WAITED:
        with pytest.raises(NotNow, match="altered during the run"):  # by the next pass; the batch in flight was taken back
            mover(batch_rows=500).run(selection())
    else:
        assert mover(batch_rows=500).run(selection()).rows == 1_000
    assert added == ([True] if point is Point.WAITED else [])
    assert (len(pair.rows(pair.core)), len(pair.rows(pair.main))) == ((1_000, 0) if added else (0, 1_000))


@pytest.mark.parametrize(
    "change",
    [
        ("text DEFAULT 'old'", "ALTER TABLE public.events DROP note; ALTER TABLE public.events ADD note text DEFAULT 'new'"),
        (
            "text DEFAULT 'old', ADD other text DEFAULT 'older'",
            "ALTER TABLE public.events DROP note; ALTER TABLE public.events RENAME other TO note;"
            "ALTER TABLE public.events ADD other text DEFAULT 'new'",
        ),
        ("public.mood DEFAULT 'a'", "ALTER TYPE public.mood RENAME VALUE 'a' TO 'z'"),
        (
            "public.mood[] DEFAULT '{a,b}'",
            "ALTER TYPE public.mood RENAME VALUE 'a' TO 'z'; ALTER TYPE public.mood RENAME VALUE 'b' TO 'a';"
            "ALTER TYPE public.mood RENAME VALUE 'z' TO 'b'",
        ),
        ("public.moods DEFAULT '[a,b]'", "ALTER TYPE public.mood RENAME VALUE 'a' TO 'z'"),
        ("public.many DEFAULT '{[a,b]}'", "ALTER TYPE public.mood RENAME VALUE 'a' TO 'z'"),
        ("public.deep DEFAULT '(1,\"(x,a)\")'", "ALTER TYPE public.mood RENAME VALUE 'a' TO 'z'"),
        ("public.pair DEFAULT '(x,a)'", "ALTER TYPE public.pair DROP ATTRIBUTE t; ALTER TYPE public.pair ADD ATTRIBUTE t text"),
        ("public.pairs DEFAULT '{\"(x,a)\"}'", "ALTER TYPE public.mood RENAME VALUE 'a' TO 'z'"),
    ],
    ids=[
        "dropped-and-added",
        "renamed",
        "label",
        "labels-swapped",
        "in-a-range",
        "in-a-multirange",
        "deep",
        "attribute",
        "domain",
    ],
)
def test_what_changes_values_and_touches_no_row_is_seen(
    pair: Any, mover: Moves, selection: Selects, once: Any, change: tuple[str, str]
) -> None:
    """I4: between S1 and S2 the rows come to say something else than the copy, though no version of them shows it."""
    column, ddl = change
    for conn in (pair.core, pair.main):
        conn.execute(
            "CREATE TYPE public.mood AS ENUM ('a', 'b'); CREATE TYPE public.pair AS (t text, m public.mood);"
            "CREATE TYPE public.moods AS RANGE (SUBTYPE = public.mood, MULTIRANGE_TYPE_NAME = public.many);"
            "CREATE DOMAIN public.pairs AS public.pair[]; CREATE TYPE public.deep AS (n int, p public.pair);"
        )
        conn.execute(f"ALTER TABLE public.events ADD note {column}")
    said = "SELECT id, note::text FROM public.events ORDER BY id"
    meant: list[Any] = []

    def alter() -> None:
        pair.core.execute(f"BEGIN; {ddl}; COMMIT")
        meant.extend(pair.core.execute(said).fetchall())

    once(Point.WAITED, alter)
    with suppress(NotNow, Failed):  # the rows stay, or go as they are now
        mover(batch_rows=2_000).run(selection())
    assert len(meant) == 1_000
    assert sorted(pair.core.execute(said).fetchall() + pair.main.execute(said).fetchall()) == meant


def test_an_update_that_stays_in_its_page_is_not_lost(pair: Any, mover: Moves, selection: Selects, once: Any) -> None:
    """I4: the new version lies in the batch's own pages, so that their number of rows says nothing.

    I1: the copy is taken back, and nothing with it that was at Main before, though its age lies among the batch's.
    """
    pair.main.execute("INSERT INTO public.events VALUES (5000, '2024-01-03', 'always at Main')")
    pair.core.execute("ALTER TABLE public.events SET (fillfactor = 50)")
    pair.core.execute("VACUUM FULL public.events")
    once(Point.WAITED, lambda: pair.core.execute("UPDATE public.events SET body = 'new' WHERE id = 50"))
    for _ in range(2):
        outcome = mover(batch_rows=100).run(selection())
    assert outcome.stopped_because == "complete"
    assert pair.rows(pair.core) == []
    assert {r[0]: r[2] for r in pair.rows(pair.main)} == {
        **{i: "new" if i == 50 else f"body {i}" for i in range(1, 1_001)},
        5000: "always at Main",
    }


def test_a_row_whose_age_changes_under_the_run_is_no_conflict(pair: Any, mover: Moves, selection: Selects, once: Any) -> None:
    """I5: its key is in the batch that read it before and in the one that reads it after; the tiers have it once."""
    once(Point.COPIED, lambda: pair.core.execute("UPDATE public.events SET at = at + interval '7 days' WHERE id = 50"))
    before = {r[0]: r[2] for r in pair.everywhere()}

    outcome = mover(batch_rows=100).run(selection())
    assert outcome.conflicts == []
    again = mover(batch_rows=100).run(selection())

    assert (again.stopped_because, again.conflicts) == ("complete", [])
    assert pair.rows(pair.core) == []
    assert {r[0]: r[2] for r in pair.rows(pair.main)} == before


@pytest.mark.parametrize(
    ("body", "cause"), [("RETURN NULL", "rows stay when they are deleted"), ("RAISE EXCEPTION 'never deleted'", "never deleted")]
)
def test_a_trigger_that_keeps_rows_is_named_and_leaves_no_copy(
    pair: Any, mover: Moves, selection: Selects, body: str, cause: str
) -> None:
    pair.core.execute(f"CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body}; END$$")
    pair.core.execute("CREATE TRIGGER keep BEFORE DELETE ON public.events FOR EACH ROW EXECUTE FUNCTION public.keep()")
    with pytest.raises((Failed, psycopg.errors.RaiseException), match=cause):
        mover(batch_rows=100).run(selection())
    assert (len(pair.rows(pair.core)), pair.rows(pair.main)) == (1_000, [])


def test_a_condition_that_answers_differently_each_time_is_named(pair: Any, mover: Moves, selection: Selects) -> None:
    pair.core.execute(
        "CREATE FUNCTION public.fickle() RETURNS boolean LANGUAGE sql AS $$"
        "SELECT set_config('test.n', (coalesce(current_setting('test.n', true), '0')::int + 1)::text, false)::int < 2500$$"
    )
    with pytest.raises(Failed, match="asked again"):
        mover(batch_rows=2_000).run(selection("public.fickle()"))
    assert (len(pair.rows(pair.core)), pair.rows(pair.main)) == (1_000, [])


def test_a_batch_whose_rows_are_gone_before_it_is_read(pair: Any, mover: Moves, selection: Selects, once: Any) -> None:
    once(Point.LEDGER_OPEN, lambda: pair.core.execute("DELETE FROM public.events WHERE id <= 100"))
    assert mover(batch_rows=100).run(selection()).rows == 900
    assert [r[0] for r in pair.rows(pair.main)] == list(range(101, 1_001))


def test_a_unique_value_that_is_taken_at_main_is_named(pair: Any, mover: Moves, selection: Selects) -> None:
    pair.main.execute("CREATE UNIQUE INDEX one_body ON public.events (body)")
    pair.main.execute("INSERT INTO public.events VALUES (100000, '2024-01-01', 'body 5')")
    with pytest.raises(Failed, match="one_body"):
        mover().run(selection())
    assert (len(pair.rows(pair.core)), len(pair.rows(pair.main))) == (1_000, 1)


def test_a_key_column_may_have_any_name(pair: Any, mover: Moves) -> None:
    """Names that our own SQL might use, placeholders, quotes, and 63 bytes."""
    name, columns = "100% %s {0} \"of\" 'it' " + "é" * 20, ("n", "%(at)s", "select", 'a"{b}')
    n, at, word, odd = (psycopg.sql.Identifier(c) for c in columns)
    table = psycopg.sql.Identifier("public", name)
    for conn in (pair.core, pair.main):
        conn.execute(
            psycopg.sql.SQL('CREATE TABLE {} ({} int, {} date, {} text COLLATE "POSIX", {} text, PRIMARY KEY ({}, {}))').format(
                table, n, at, word, odd, n, word
            )
        )
    guard = "CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON {0} FOR EACH ROW EXECUTE FUNCTION tierkeeper.refuse_copy_in_flight()"
    pair.main.execute(psycopg.sql.SQL(guard + "; ALTER TABLE {0} ENABLE ALWAYS TRIGGER guard").format(table))
    rows = psycopg.sql.SQL(
        "INSERT INTO {} SELECT i / 3, date '2024-01-01' + i % 5, '%s\\' || i, '%(x)s' FROM generate_series(1, {}) i"
    )
    pair.core.execute(rows.format(table, 300))
    pair.main.execute(rows.format(table, 3))
    chosen = Selection(shapes.read(pair.core, TableName("public", name)), columns[1], CUTOFF, '"a""{b}" LIKE \'\\%(x)s%\'')

    outcome = mover(batch_rows=50).run(chosen)

    counted = psycopg.sql.SQL("SELECT count(*) FROM {}").format(table)
    assert (outcome.rows, sorted(outcome.conflicts)) == (297, ["0, %s\\1", "0, %s\\2", "1, %s\\3"])
    assert (pair.core.execute(counted).fetchone(), pair.main.execute(counted).fetchone()) == ((3,), (300,))


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("ALTER TABLE public.events SET UNLOGGED", "unlogged"),
        ("CREATE TABLE public.notes (event bigint REFERENCES public.events ON DELETE CASCADE)", "notes"),
    ],
)
def test_a_table_at_main_that_would_lose_rows_is_refused(pair: Any, statement: str, cause: str) -> None:
    """I1: a crash empties an unlogged table; a copy that is taken back would take the application's own rows with it."""
    pair.main.execute(statement)
    with closing(pair.tiers.main.connect("mover")) as conn, pytest.raises(UsageError, match=cause):
        PostgresDestination(conn, "main", "core", 1).refuse_unfit(EVENTS)


def test_a_read_only_main_is_refused_and_a_read_only_core_rescued(pair: Any, mover: Moves, selection: Selects) -> None:
    """I9: writing on would make a full Main worse; taking rows from a full Core is what it needs."""
    for link in (pair.tiers.core, pair.tiers.main):
        database = psycopg.sql.Identifier(link.parameters["dbname"])
        pair.core.execute(psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(database))
        if link is pair.tiers.core:
            assert mover(limit=100).run(selection()).rows == 100
    with closing(pair.tiers.main.connect("mover")) as conn, pytest.raises(NotNow, match="read-only"):
        PostgresDestination(conn, "main", "core", 1).refuse_unfit(EVENTS)


def test_a_role_that_may_not_delete_is_refused_first(pair: Any, selection: Selects) -> None:
    with closing(pair.tiers.core.connect("mover")) as conn:
        conn.execute("CREATE ROLE reader_only")
        try:
            conn.execute("GRANT SELECT ON public.events TO reader_only")
            conn.execute("SET ROLE reader_only")
            with pytest.raises(UsageError, match="GRANT SELECT, DELETE"):
                Source(pair.tiers.core, conn, "core").refuse_unfit(selection())
        finally:
            conn.execute("RESET ROLE")
            conn.execute("DROP OWNED BY reader_only")
            conn.execute("DROP ROLE reader_only")


def test_two_runs_that_take_the_lease_at_once_get_one(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(pair.tiers.main.connect("mover")) as one, closing(pair.tiers.main.connect("mover")) as other:
        first, second = Lease(one, "at once"), Lease(other, "at once")
        looks: list[str] = []

        def take_between(holder: str) -> bool:
            looks.append(holder)
            if len(looks) == 1:
                first.take()
            return False

        monkeypatch.setattr(Lease, "_is_dead", staticmethod(take_between))
        with pytest.raises(NotNow, match="another run holds it"):
            second.take()


def test_a_lease_whose_taking_was_interrupted_is_not_waited_for(pair: Any) -> None:
    """In the very process that took it, which lives on: a function's instance, whose time was over just then."""

    def interrupt(point: Point) -> None:
        if point is Point.LEASED:
            raise KeyboardInterrupt

    with closing(pair.tiers.main.connect("mover")) as one:
        faults.arm(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                Lease(one, "interrupted").take()
        finally:
            faults.disarm()
        Lease(one, "interrupted").take()
        with pytest.raises(NotNow, match="another run holds it"):
            Lease(one, "interrupted").take()


def test_rows_arriving_among_those_that_leave_make_a_changed_batch(pair: Any) -> None:
    """Their versions keep copies in flight from the mover that takes rows further down: no fault, the batch is tried again."""
    shape = shapes.read(pair.main, EVENTS)
    pair.main.execute("INSERT INTO public.events VALUES (1, '2024-01-01', 'at rest')")
    with closing(pair.tiers.main.connect("mover")) as conn:
        main = Source(pair.tiers.main, conn, "main")
        batch = Batch(uuid4(), "main", EVENTS, "at", CUTOFF, "true")
        main.open_marker_of([LedgerRow(batch, 1, "open", None, 0)], "archive")
        with main.snapshot(batch, shape) as snapshot:
            extent = snapshot.extent
        with pair.main.transaction():
            pair.main.execute("INSERT INTO public.events VALUES (2, '2024-01-01', 'arriving')")
            pair.main.execute(
                "INSERT INTO tierkeeper.ledger (batch, source, schema_name, table_name, age, cutoff, predicate, state, copy_xid) "
                "VALUES (gen_random_uuid(), 'core', 'public', 'events', 'at', now(), '', 'copied', pg_current_xact_id())"
            )
        with pytest.raises(Changed):
            main.delete([LedgerRow(batch, 1, "copied", extent, 0)])
    assert len(pair.rows(pair.main)) == 2


@pytest.mark.parametrize("point", [Point.LEDGER_OPEN, Point.COPIED, Point.WAITED])
def test_a_foreign_key_made_during_the_run_takes_no_row_along(
    pair: Any, mover: Moves, selection: Selects, once: Any, point: Point
) -> None:
    def refer() -> None:
        pair.core.execute("CREATE TABLE public.notes (event bigint REFERENCES public.events ON DELETE CASCADE)")
        pair.core.execute("INSERT INTO public.notes SELECT id FROM public.events")

    before = pair.everywhere()
    once(point, refer)
    outcome = mover(batch_rows=1_000).run(selection())
    assert "keep changing" in outcome.stopped_because
    assert (pair.everywhere(), len(pair.rows(pair.core))) == (before, 1_000)
    assert pair.core.execute("SELECT count(*) FROM public.notes").fetchone() == (1_000,)


def test_a_condition_that_turns_round_before_the_delete_takes_no_other_row(pair: Any, mover: Moves, selection: Selects) -> None:
    """I3: asked in a transaction that writes, it says the opposite from the 1,001st row on: of the second statement there."""
    pair.core.execute(
        "CREATE FUNCTION public.turns(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$"
        "DECLARE n int := coalesce(nullif(current_setting('test.n', true), ''), '0');"
        "BEGIN "
        "IF current_setting('transaction_read_only')::boolean THEN RETURN id % 2 = 0; END IF;"
        "PERFORM set_config('test.n', (n + 1)::text, true);"
        "RETURN (id % 2 = 0) = (n < 1000);"
        "END$$"
    )
    before = pair.everywhere()
    assert mover(batch_rows=1_000).run(selection("public.turns(id)")).rows == 500
    assert pair.everywhere() == before
    assert {row[0] % 2 for row in pair.rows(pair.core)} == {1}
