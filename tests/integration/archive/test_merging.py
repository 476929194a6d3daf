"""Restore into a table that is there: by its key, in one transaction, and never before every byte was authenticated."""

import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from archive_bench import Bench
from support import eventually
from tierkeeper.archive.catalog import Catalog
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import OnConflict
from tierkeeper.kernel.results import RestoreResult
from tierkeeper.kernel.tables import TableName

EVENTS = TableName("public", "events")
OURS = "SELECT id, what FROM mine ORDER BY id"
CONTENT = "SELECT md5(string_agg(m::text, '|' ORDER BY m::text)), count(*) FROM mine AS m"


@pytest.fixture
def archived(small: Bench) -> Bench:
    """Four events in two segments, and `mine` of their shape, with the second as somebody changed it and a fifth."""
    small.move("events", "at", "id < 3")
    small.move("events", "at", "id >= 3")
    make_mine(small)
    return small


def make_mine(bench: Bench, more: str = "") -> None:
    """As the fixture has it, changed by `more`."""
    bench.main.execute(
        f"""
        DROP SCHEMA IF EXISTS own CASCADE;
        DROP TABLE IF EXISTS mine CASCADE;
        CREATE SCHEMA own;
        CREATE TABLE public.mine (LIKE public.events INCLUDING ALL);
        INSERT INTO public.mine VALUES ('2013-02-02', 2, 'changed'), ('2013-05-05', 5, 'own');
        {more}""".encode()
    )


def put(bench: Bench, on_conflict: OnConflict | None, to: str = "mine", **more: Any) -> RestoreResult:
    return bench.archive.restore(EVENTS, to=to, target=bench.tiers.main, on_conflict=on_conflict, **more)


def damage(bench: Bench) -> None:
    """One byte of the last segment's first page."""
    path = bench.tiers.store / Catalog(bench.tiers.catalog).segments()[-1].object_key
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def counts(result: RestoreResult) -> tuple[int, int, int, int]:
    return result.rows, result.inserted, result.skipped, result.replaced


@contextmanager
def at(point: Point, act: Any) -> Iterator[None]:
    """Calls `act` when a restore comes to `point`."""
    faults.arm(lambda reached: act() if reached is point else None)
    try:
        yield
    finally:
        faults.disarm()


@contextmanager
def unchanged(bench: Bench, match: str, kind: type[TierkeeperError] = UsageError) -> Iterator[None]:
    """Expects that what is done is refused, and that the table is what it was."""
    before = bench.rows(CONTENT)
    with pytest.raises(kind, match=match):
        yield
    assert bench.rows(CONTENT) == before


def test_a_table_that_exists_takes_rows_only_where_it_is_said_how(archived: Bench) -> None:
    with unchanged(archived, "exists already"):
        put(archived, None)
    with unchanged(archived, r"1 of the 4 keys are there already; the first is id = 2"):
        put(archived, "error")
    assert counts(put(archived, "skip")) == (4, 3, 1, 0)
    assert archived.rows(OURS) == [(1, "a"), (2, "changed"), (3, ""), (4, "d"), (5, "own")]
    assert counts(put(archived, "replace")) == (4, 0, 0, 4)
    assert archived.rows(OURS) == [(1, "a"), (2, None), (3, ""), (4, "d"), (5, "own")]
    assert archived.rows("TABLE events EXCEPT TABLE mine") == []
    archived.main.execute("DELETE FROM mine WHERE id < 5")
    assert counts(put(archived, "error")) == (4, 4, 0, 0)
    assert counts(put(archived, "error", to="fresh")) == (4, 4, 0, 0), "a table that is not there is made"


def test_nothing_is_touched_before_the_last_byte_was_authenticated(archived: Bench) -> None:
    """The table would refuse the first row that it is given; what is told is the damage in the last segment."""
    archived.main.execute("""
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'touched'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT OR UPDATE OR DELETE ON mine EXECUTE FUNCTION refuse()""")
    for on_conflict in ("error", "skip", "replace"):
        with unchanged(archived, "already" if on_conflict == "error" else "touched", TierkeeperError):
            put(archived, on_conflict)
    damage(archived)
    for on_conflict in ("error", "skip", "replace"):
        with unchanged(archived, "not what was written", Failed):
            put(archived, on_conflict)


def test_the_archived_row_is_taken_as_a_whole_and_columns_of_the_table_alone_stay(archived: Bench) -> None:
    archived.main.execute("""
        ALTER TABLE mine ADD note text DEFAULT 'new', ADD twice int8 GENERATED ALWAYS AS (id * 2) STORED,
            ALTER what TYPE text COLLATE "C", ALTER id TYPE int8;
        UPDATE mine SET note = 'kept'""")
    assert counts(put(archived, "replace")) == (4, 3, 0, 1)
    assert archived.rows("SELECT id, what, note, twice FROM mine ORDER BY id") == [
        (1, "a", "new", 2), (2, None, "kept", 4), (3, "", "new", 6), (4, "d", "new", 8), (5, "own", "kept", 10),
    ]  # fmt: skip


REFUSED = {
    "ALTER TABLE mine DROP COLUMN what": "no column 'what'",
    "ALTER TABLE mine ALTER what TYPE varchar(9)": r"of type character varying\(9\), and the archived one is of type text",
    "ALTER TABLE mine ALTER id TYPE int2": "of type smallint",
    "ALTER TABLE mine ADD must int4 NOT NULL DEFAULT 1; ALTER TABLE mine ALTER must DROP DEFAULT": "column 'must' takes no NULL",
    "ALTER TABLE mine DROP CONSTRAINT mine_pkey, ADD PRIMARY KEY (id, at)": "no unique index over exactly the key",
    "ALTER TABLE mine DROP CONSTRAINT mine_pkey, ADD PRIMARY KEY (id) DEFERRABLE": "no unique index over exactly the key",
    "CREATE RULE away AS ON INSERT TO mine DO INSTEAD NOTHING": "the rule away",
    "CREATE RULE away AS ON UPDATE TO mine WHERE NEW.id = 3 DO INSTEAD NOTHING": "the rule away",
    "CREATE TABLE heir () INHERITS (mine)": "other tables inherit",
    "ALTER TABLE mine SET SCHEMA own; CREATE VIEW mine AS TABLE own.mine": "it is a view",
}


def test_a_table_that_cannot_take_the_rows_is_refused_before_a_row_is_read(archived: Bench) -> None:
    damage(archived)
    for change, why in REFUSED.items():
        make_mine(archived, change)
        with unchanged(archived, why):
            put(archived, "skip")


def test_the_surroundings_of_the_table_are_named(archived: Bench) -> None:
    """What a role may not see or write, and what an overwritten column would do elsewhere."""
    archived.main.execute("""
        DROP ROLE IF EXISTS keeper_of_mine;
        CREATE ROLE keeper_of_mine LOGIN PASSWORD 'word';
        GRANT USAGE ON SCHEMA public TO keeper_of_mine;
        GRANT SELECT ON mine TO keeper_of_mine;
        ALTER TABLE mine ENABLE ROW LEVEL SECURITY""")
    main = archived.tiers.main
    theirs = replace(main, url=re.sub("//[^@]*@", "//keeper_of_mine:word@", main.url))
    for grant, on_conflict, why in (
        ("SELECT 1", "skip", "row level security hides rows"),
        ("ALTER TABLE mine DISABLE ROW LEVEL SECURITY", "skip", "the role lacks INSERT"),
        ("GRANT INSERT ON mine TO keeper_of_mine", "replace", "the role lacks UPDATE"),
        ("GRANT UPDATE ON mine TO keeper_of_mine", "error", "1 of the 4 keys"),
    ):
        archived.main.execute(grant)  # type: ignore[call-overload]
        with unchanged(archived, why):
            archived.archive.restore(EVENTS, to="mine", target=theirs, on_conflict=on_conflict)  # type: ignore[arg-type]
    assert counts(archived.archive.restore(EVENTS, to="mine", target=theirs, on_conflict="replace")) == (4, 3, 0, 1)
    archived.main.execute("DROP OWNED BY keeper_of_mine; DROP ROLE keeper_of_mine")


def test_what_triggers_and_constraints_of_the_table_do_is_seen(archived: Bench) -> None:
    """A row that a trigger changes, keeps out, or that something refuses leaves nothing; what only runs along runs once a row."""
    function = "CREATE OR REPLACE FUNCTION own.does() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {} RETURN {}; END $f$"
    trigger = "CREATE {} TRIGGER does {} ON mine {} FOR EACH ROW EXECUTE FUNCTION own.does()"
    for made, does, on_conflict, why in (
        (trigger.format("", "BEFORE INSERT", ""), ("NEW.what := 'x';", "NEW"), "skip", "the column 'what' of its rows is not"),
        (trigger.format("", "BEFORE INSERT", ""), ("NEW.id := NEW.id + 100;", "NEW"), "skip", "stayed out each time"),
        (trigger.format("", "BEFORE INSERT", ""), ("IF NEW.id = 3 THEN RETURN NULL; END IF;", "NEW"), "skip", "stayed out"),
        (trigger.format("", "BEFORE UPDATE", ""), ("", "NULL"), "replace", "stayed out each time"),
        (trigger.format("", "BEFORE UPDATE", ""), ("NEW.what := 'x';", "NEW"), "replace", "the column 'what'"),
        (
            trigger.format("CONSTRAINT", "AFTER INSERT", "DEFERRABLE INITIALLY DEFERRED"),
            ("UPDATE public.mine SET what = 'late' WHERE id = 3 AND what <> 'late';", "NULL"), "skip", "the column 'what'",
        ),
        (trigger.format("", "BEFORE INSERT", ""), ("RAISE 'never';", "NEW"), "skip", "never .in the function own.does"),
        ("ALTER TABLE mine ADD CHECK (id <> 3)", ("", "NEW"), "skip", "violates check constraint"),
        ("UPDATE mine SET what = 'd' WHERE id = 5; ALTER TABLE mine ADD UNIQUE (what)", ("", "NEW"), "skip", "violates unique"),
        (
            "CREATE TABLE own.parent (what text PRIMARY KEY); INSERT INTO own.parent VALUES ('changed'), ('own'), ('a'), ('');"
            "ALTER TABLE mine ADD FOREIGN KEY (what) REFERENCES own.parent DEFERRABLE INITIALLY DEFERRED",
            ("", "NEW"), "skip", "violates foreign key constraint",
        ),
        (
            "ALTER TABLE mine ADD UNIQUE (what);"
            "CREATE TABLE own.child (what text REFERENCES mine (what) ON UPDATE CASCADE); TABLE own.child",
            ("", "NEW"), "replace", "the foreign key child_what_fkey of own.child changes rows there when its column 'what'",
        ),
        ("ALTER TABLE mine DROP what, ADD what text GENERATED ALWAYS AS ('1') STORED",
            ("", "NEW"), "skip", "the column 'what' of its rows is not what was archived"),
    ):  # fmt: skip
        make_mine(archived, f"{function.format(*does)}; {made}")
        with unchanged(archived, why, TierkeeperError):
            put(archived, on_conflict)  # type: ignore[arg-type]
    make_mine(
        archived,
        f"""
        CREATE TABLE own.seen (what text); GRANT ALL ON own.seen TO public;
        {function.format("INSERT INTO own.seen VALUES (TG_OP || NEW.id);", "NULL")};
        CREATE TRIGGER does AFTER INSERT OR UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION own.does();
        CREATE TABLE own.child (id int4 REFERENCES mine ON UPDATE CASCADE ON DELETE CASCADE); INSERT INTO own.child VALUES (2)""",
    )
    assert counts(put(archived, "replace")) == (4, 3, 0, 1)
    assert archived.rows("SELECT what FROM own.seen ORDER BY 1") == [("INSERT1",), ("INSERT3",), ("INSERT4",), ("UPDATE2",)]
    assert archived.rows("TABLE own.child") == [(2,)], "the key of a row that is overwritten stays, and so does what refers to it"


def test_the_same_key_in_two_segments_is_named(archived: Bench) -> None:
    archived.move("events", "at", "id = 2")
    with unchanged(archived, r"two of its segments have a row with the same key \(Key \(id\)=\(2\) is duplicated"):
        put(archived, "replace")
    assert counts(put(archived, "replace", segment=str(archived.archive.segments()[-1].id))) == (1, 0, 0, 1)


def test_keys_that_are_equal_and_written_otherwise_are_one(bench: Bench) -> None:
    """By the table's own index; `replace` leaves what was archived, to the last digit of its key."""
    bench.main.execute(
        """
        CREATE EXTENSION citext SCHEMA public;
        CREATE TABLE odd (n numeric, t bpchar(3), c citext, "is" bool, v int4 NOT NULL, at date, note jsonb,
            PRIMARY KEY (n, t, c));
        INSERT INTO odd VALUES (1.00, 'A', 'x', true, 1, '2013-01-01', '{"a": 1.0}'), (2, 'B', 'y', NULL, 2, '2013-01-02', '[]');
        CREATE TABLE mine (v int4, c citext, t bpchar(3), n numeric, "is" bool, at date, note jsonb,
            PRIMARY KEY (c, n, t)) PARTITION BY LIST (c);
        CREATE TABLE mine_x PARTITION OF mine FOR VALUES IN ('X'); CREATE TABLE mine_y PARTITION OF mine DEFAULT"""
    )
    bench.move("odd", "at")
    bench.main.execute("INSERT INTO mine VALUES (9, 'X', 'A', 1, false, NULL, NULL)")
    odd = TableName("public", "odd")
    with unchanged(bench, r"1 of the 2 keys are there already; the first is n, t, c = 1.00, A  , x"):
        bench.archive.restore(odd, to="mine", target=bench.tiers.main, on_conflict="error")
    assert counts(bench.archive.restore(odd, to="mine", target=bench.tiers.main, on_conflict="skip")) == (2, 1, 1, 0)
    assert counts(bench.archive.restore(odd, to="mine", target=bench.tiers.main, on_conflict="replace")) == (2, 0, 0, 2)
    kept = 'SELECT n::text, t, c::text, "is", v, at, note::text FROM {} ORDER BY v'
    assert bench.rows(kept.format("mine")) == bench.rows(kept.format("odd"))


def test_identity_columns_take_what_was_archived_and_a_sequence_behind_it_is_told(bench: Bench) -> None:
    bench.main.execute("""
        CREATE TABLE counted (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at date, n int4 GENERATED ALWAYS AS IDENTITY);
        INSERT INTO counted (at) SELECT date '2013-01-01' + g FROM generate_series(1, 3) AS g;
        CREATE TABLE mine (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at date, n int4);
        CREATE TABLE fixed (LIKE counted INCLUDING ALL);
        INSERT INTO mine (at) VALUES ('2000-01-01')""")
    bench.move("counted", "at")
    counted = TableName("public", "counted")
    result = bench.archive.restore(counted, to="mine", target=bench.tiers.main, on_conflict="replace")
    assert counts(result) == (3, 2, 0, 1)
    assert result.notes == ["the sequence of its column id stands below 3, which a row has now: set it on"]
    assert bench.rows("TABLE counted EXCEPT TABLE mine") == []
    with unchanged(bench, "column 'n' is GENERATED ALWAYS AS IDENTITY"):
        bench.archive.restore(counted, to="fixed", target=bench.tiers.main, on_conflict="replace")
    assert bench.archive.restore(counted, to="fixed", target=bench.tiers.main, on_conflict="skip").inserted == 3


@pytest.mark.parametrize("on_conflict", ["error", "skip", "replace"])
def test_writers_beside_it_lose_nothing(archived: Bench, on_conflict: OnConflict) -> None:
    """I4: a row that is written and not committed when the merge comes to it is waited for; it stays, goes or refuses all."""
    with closing(archived.tiers.main.connect("app")) as app:

        def write() -> None:
            app.execute("BEGIN")
            app.execute("INSERT INTO mine VALUES ('2014-01-01', 4, 'theirs')")
            app.execute("UPDATE mine SET what = 'theirs' WHERE id = 2")
            app.execute("DELETE FROM mine WHERE id = 5")
            committing.start()

        def commit() -> None:
            waits = "SELECT FROM pg_stat_activity WHERE application_name = 'tierkeeper restore' AND wait_event_type = 'Lock'"
            assert eventually(lambda: archived.main.execute(waits).rowcount > 0)
            app.execute("COMMIT")

        committing = threading.Thread(target=commit)
        archived.main.execute("DELETE FROM mine WHERE id = 2" if on_conflict == "error" else "SELECT 1")
        with at(Point.RESTORE_STAGED, write):
            if on_conflict == "error":
                with pytest.raises(UsageError, match="1 of the 4 keys are there already; the first is id = 4"):
                    put(archived, "error")
            else:
                result = put(archived, on_conflict)
        committing.join()
    if on_conflict == "error":
        assert archived.rows(OURS) == [(4, "theirs")]
    elif on_conflict == "skip":
        assert counts(result) == (4, 2, 2, 0)
        assert archived.rows(OURS) == [(1, "a"), (2, "theirs"), (3, ""), (4, "theirs")]
    else:
        assert counts(result) == (4, 2, 0, 2)
        assert archived.rows("TABLE mine EXCEPT TABLE events") == archived.rows("TABLE events EXCEPT TABLE mine") == []


def test_a_row_that_goes_while_it_is_to_be_replaced_is_inserted(archived: Bench) -> None:
    """I4: the one that the insert meets, and that is gone when it is to be overwritten, is not lost."""
    with closing(archived.tiers.main.connect("app")) as app:

        def delete() -> None:
            app.execute("DELETE FROM mine WHERE id = 2")

        archived.main.execute("""
            CREATE FUNCTION own.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_catalog.pg_advisory_xact_lock(4711); RETURN NULL; END $$;
            CREATE TRIGGER slow AFTER INSERT ON mine FOR EACH STATEMENT EXECUTE FUNCTION own.slow()""")
        app.execute("SELECT pg_advisory_lock(4711)")
        done: list[RestoreResult] = []
        merging = threading.Thread(target=lambda: done.append(put(archived, "replace")))
        merging.start()
        waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
        assert eventually(lambda: archived.main.execute(waits).rowcount > 0)
        delete()
        app.execute("SELECT pg_advisory_unlock(4711)")
        merging.join()
    assert counts(done[0]) == (4, 4, 0, 0)
    assert archived.rows("TABLE events EXCEPT TABLE mine") == []


def test_a_table_that_is_altered_meanwhile_takes_nothing(archived: Bench) -> None:
    with (
        at(Point.RESTORE_STAGED, lambda: archived.main.execute("ALTER TABLE mine ADD must int4 NOT NULL DEFAULT 1")),
        pytest.raises(NotNow, match="altered meanwhile"),
    ):
        put(archived, "skip")


def test_nobody_sees_a_part_and_nothing_stays_in_the_session(archived: Bench) -> None:
    seen: list[Any] = []
    with at(Point.RESTORE_BEFORE_COMMIT, lambda: seen.append(archived.rows(OURS))):
        put(archived, "replace")
    assert seen == [[(2, "changed"), (5, "own")]]
    temporary = "SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace WHERE nspname LIKE 'pg_temp%'"
    assert archived.main.execute(temporary).rowcount == 0
