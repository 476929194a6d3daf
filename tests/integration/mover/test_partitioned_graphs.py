"""Rows that foreign keys join move together where they lie in partitions or in tables that inherit, at either end of the hop.

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Final

import psycopg
import pytest
from psycopg import sql

from graphs import BEFORE, MOVED, on, refused
from parted import ACTIONS, AT_MAIN, FAMILY, FILL_FAMILY, INHERITED, LONG, POLICIES, House, N, house
from support import Tiers
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Faults, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import places, references
from tierkeeper.postgres.link import transaction


@pytest.mark.parametrize("action", [ACTIONS[0], *(pytest.param(a, marks=LONG) for a in ACTIONS[1:])])
@pytest.mark.parametrize("at_main", ["", AT_MAIN])
def test_partitioned_parents_and_children_go_together(tiers: Tiers, action: str, at_main: str) -> None:
    """Whatever the foreign keys do on DELETE, from partitions of two levels, to plain and to partitioned tables."""
    with house(tiers, action, at_main=at_main) as h:
        before = h.everywhere()
        plan = h.keeper.plan_move(TableName("public", "orders"), "core", "main", before=BEFORE)
        done = h.move()
        assert (plan.rows, done.rows) == (sum(map(len, before.values())),) * 2
        assert done.stopped_because == "complete"
        assert h.everywhere() == before and h.counts("core") == [0, 0, 0, 0] and h.orphans() == [0, 0]
        if at_main:
            assert h.one(h.main, "SELECT count(*) FROM orders_0") > 0


@pytest.mark.parametrize("action", [*(pytest.param(a, marks=LONG) for a in ACTIONS[:2]), ACTIONS[2]])
def test_a_young_row_keeps_all_that_hangs_on_it(tiers: Tiers, action: str) -> None:
    """In small bundles. Event 7 is young, and order 7 with it; a note of event 88, by a leaf's key, and order 88 with both."""
    with house(tiers, action, batch_rows=70) as h:
        h.core.execute("UPDATE events SET at = now() WHERE id = 7; UPDATE notes SET at = now() WHERE id = 88")
        before = h.everywhere()
        done = h.move()
        assert h.everywhere() == before and h.orphans() == [0, 0]
        assert done.stopped_because.startswith("referenced: 2 groups")
        assert any("rows of public.events may not leave yet" in n for n in done.notes)
        assert h.one(h.core, "SELECT array_agg(id ORDER BY id) FROM orders") == [7, 88]
        assert h.counts("core") == [2, 6, 2, 1]
        # The age that counts is the event's now; a limit takes whole groups.
        assert h.move("events").rows == 0


def test_a_limit_takes_whole_groups(tiers: Tiers) -> None:
    with house(tiers, batch_rows=60) as h:
        before = h.everywhere()
        done = h.move(limit=33)
        assert 0 < done.rows <= 33 and done.stopped_because == "row limit"
        assert h.everywhere() == before and sum(h.counts("main")) == done.rows and h.orphans() == [0, 0]


TREE: Final = """
CREATE TABLE tree (id int PRIMARY KEY, at timestamptz NOT NULL, up int REFERENCES tree {action}) PARTITION BY HASH (id);
CREATE TABLE tree_0 PARTITION OF tree FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE tree_2 PARTITION OF tree FOR VALUES WITH (MODULUS 3, REMAINDER 2);
"""
FILL_TREE: Final = """
INSERT INTO tree SELECT i, '2024-01-01', CASE WHEN i > 7 THEN i / 2 END FROM generate_series(1, 200) AS i;
UPDATE tree SET at = now() WHERE id = 130;
"""


@pytest.mark.parametrize("action", ["ON DELETE CASCADE", pytest.param("ON DELETE RESTRICT", marks=LONG)])
def test_a_partitioned_table_that_refers_to_itself(tiers: Tiers, action: str) -> None:
    with house(tiers, action, [{"name": "tree", **MOVED}], make=TREE, fill=FILL_TREE, tables=["tree"], batch_rows=90) as h:
        before = h.everywhere()
        done = h.move("tree")
        assert h.everywhere() == before and done.stopped_because.startswith("referenced")
        # 130 is young: 65, 32, 16, 8, 4 are above it, and all of 4's tree stays
        tree = (
            "WITH RECURSIVE t AS (SELECT 4 AS id UNION SELECT c.id FROM tree c JOIN t ON c.up = t.id) SELECT array_agg(id) FROM t"
        )
        assert set(h.one(h.core, "SELECT array_agg(id) FROM tree")) == set(h.one(h.core, tree))


@pytest.mark.parametrize("action", ["ON DELETE CASCADE", pytest.param("ON DELETE SET NULL", marks=LONG)])
def test_tables_that_inherit_go_with_what_refers_to_each(tiers: Tiers, action: str) -> None:
    tables = ("t", "c", "old_kinds")
    with house(tiers, action, INHERITED, make=FAMILY, fill=FILL_FAMILY, tables=tables) as h:
        h.core.execute("UPDATE old_kinds SET at = now() WHERE id = 5; UPDATE t SET at = now() WHERE id = 17")
        before = h.everywhere()
        done = h.move("t")
        assert h.everywhere() == before
        # 104 of the child refers to kind 5, and 3 of c to it and to 3 of the parent, which 4 there refers to, and 4 of c to that.
        left = [h.one(h.core, f"SELECT array_agg(id ORDER BY id) FROM {t}") for t in ("old_kinds", "t", "c")]
        assert done.stopped_because.startswith("referenced")
        assert left == [[5, 6, 19], [3, 4, 17, 104, 105, 118], [3, 4, 17]]


def test_two_rows_of_one_key_in_a_parent_and_a_child_stay_and_are_named(tiers: Tiers) -> None:
    """Postgres makes a key unique in each table alone, and at Main there is one table."""
    with house(tiers, "", INHERITED, make=FAMILY, fill=FILL_FAMILY, tables=("t", "c", "old_kinds")) as h:
        h.core.execute("INSERT INTO t_old VALUES (2, '2024-01-01', 1), (6, '2024-01-01', NULL)")
        before = h.everywhere()
        done = h.move("t")
        assert h.everywhere() == before
        assert any("two rows of public.t have the same key" in n for n in done.notes), done.notes
        assert {2, 6} <= set(h.one(h.core, "SELECT array_agg(id) FROM t")) and h.one(h.main, "SELECT count(*) FROM t") > 20


def test_a_partition_with_an_entry_of_its_own_is_refused_by_name(tiers: Tiers) -> None:
    for part in ("events_q1", "orders_jan"):
        policies = [*POLICIES, {"name": part, **MOVED}]
        with house(tiers, policies=policies) as h:
            before = h.counts("core")
            for call in (h.move, lambda **_: h.keeper.plan_move(TableName("public", "orders"), "core", "main", before=BEFORE)):
                with pytest.raises(UsageError, match=f"public.{part}, a partition of it, has an entry of its own") as error:
                    call()
                assert error.value.place == f"tables.public.{part}" and "Take out the entry" in error.value.remedy
            assert (h.counts("core"), h.counts("main")) == (before, [0, 0, 0, 0])
            with pytest.raises(Faults) as found:
                h.keeper.check()
            assert [e.place for e in found.value.errors] == [f"tables.public.{part}"]
            h.core.execute("DROP SCHEMA public, parts CASCADE; CREATE SCHEMA public")


def test_what_refers_to_a_part_and_is_not_named_is_asked_for(tiers: Tiers) -> None:
    with house(tiers, policies=POLICIES[:3]) as h:
        with pytest.raises(UsageError, match=r"notes_event_event_at_fkey of public\.notes"):
            h.move()
        assert h.counts("main") == [0, 0, 0, 0]


def test_rows_of_a_table_that_stays_keep_what_they_refer_to_in_a_part(tiers: Tiers) -> None:
    """A mirrored table, by a key of a leaf, of a part with parts of its own, and of the whole; and a partitioned one."""
    more = """
    CREATE TABLE star (id int PRIMARY KEY, o int, at timestamptz, j int, j_at timestamptz, f int, f_at timestamptz,
        FOREIGN KEY (o, at) REFERENCES orders ON DELETE CASCADE, FOREIGN KEY (j, j_at) REFERENCES orders_jan ON DELETE CASCADE,
        FOREIGN KEY (f, f_at) REFERENCES parts."the feb" ON DELETE CASCADE) PARTITION BY HASH (id);
    CREATE TABLE star_0 PARTITION OF star FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE star_1 PARTITION OF star FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    """
    with house(tiers, policies=[*POLICIES, {"name": "star", "mode": "mirror"}], more=more) as h:
        h.core.execute(
            "INSERT INTO star SELECT 1, id, at FROM orders WHERE id = 88;"
            "INSERT INTO star (id, j, j_at) SELECT 2, id, at FROM orders WHERE id = 3;"
            "INSERT INTO star (id, f, f_at) SELECT 3, id, at FROM orders WHERE id = 51"
        )
        before, stars = h.everywhere(), h.one(h.core, "SELECT array_agg(s::text ORDER BY id) FROM star AS s")
        done = h.move()
        assert h.everywhere() == before and h.orphans() == [0, 0]
        assert h.one(h.core, "SELECT array_agg(id ORDER BY id) FROM orders") == [3, 51, 88]
        assert h.one(h.core, "SELECT array_agg(s::text ORDER BY id) FROM star AS s") == stars
        assert sum("of public.star (ON DELETE CASCADE)" in n for n in done.notes) == 3


def parted(h: House, name: str) -> list[str]:
    """The rows of one part, whoever's it is."""
    found = h.core.execute(f"SELECT at, id, orders, orders_at FROM {name}".encode()).fetchall()
    return sorted(str(r) for r in found)


POINTS: Final = (Point.MARKER_OPEN, Point.COPIED, Point.WAITED)
HOWS: Final = ("DETACH PARTITION events_q1", "DETACH PARTITION events_q1 CONCURRENTLY")


@pytest.mark.parametrize("point", [Point.COPIED, *(pytest.param(p, marks=LONG) for p in POINTS if p != Point.COPIED)])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("action", ["ON DELETE CASCADE", pytest.param("ON DELETE SET NULL", marks=LONG)])
def test_a_part_that_is_detached_keeps_its_rows_and_what_they_refer_to(tiers: Tiers, point: Point, how: str, action: str) -> None:
    """I1, I3: its rows are nobody's to take any more, and its foreign key, which is its own from then on, must not reach them."""
    with house(tiers, action) as h, closing(tiers.core.connect("app")) as app:
        before = h.everywhere()
        kept = parted(h, "events_q1")
        on(point, lambda: app.execute(f"SET lock_timeout = '10s'; ALTER TABLE events {how}".encode() if "CONC" not in how else
                                      f"ALTER TABLE events {how}".encode()))  # fmt: skip
        h.move()
        faults.disarm()
        assert parted(h, "events_q1") == kept
        after = h.everywhere()
        assert sorted(after["events"] + kept) == before["events"] and {**after, "events": []} == {**before, "events": []}
        missing = (
            "SELECT count(*) FROM events_q1 AS e WHERE NOT EXISTS (SELECT FROM orders WHERE (id, at) = (e.orders, e.orders_at))"
        )
        assert h.one(h.core, missing) == 0
        with pytest.raises(UsageError, match=r"of public\.events_q1"):
            h.move()


@pytest.mark.parametrize("action", ["ON DELETE CASCADE", pytest.param("ON DELETE NO ACTION", marks=LONG)])
def test_a_part_whose_detaching_is_pending_keeps_its_rows(tiers: Tiers, action: str) -> None:
    """Nobody finds them in their table any more, Postgres's own check neither: an order that leaves would leave them behind."""
    with house(tiers, action) as h, closing(tiers.core.connect("app")) as app, closing(tiers.core.connect("app")) as other:
        before, kept = h.everywhere(), parted(h, "events_q1")

        def begin() -> None:
            other.execute("BEGIN; LOCK TABLE events IN ACCESS SHARE MODE")
            app.execute("SET lock_timeout = '300ms'")
            with suppress(psycopg.errors.LockNotAvailable):
                app.execute("ALTER TABLE events DETACH PARTITION events_q1 CONCURRENTLY")
            other.execute("ROLLBACK")

        on(Point.COPIED, begin)
        h.move()
        faults.disarm()
        assert h.one(h.core, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1
        assert parted(h, "events_q1") == kept
        with pytest.raises(UsageError, match=r"of public\.events_q1"):
            h.move()
        h.core.execute("ALTER TABLE events DETACH PARTITION events_q1 FINALIZE")
        missing = (
            "SELECT count(*) FROM events_q1 AS e WHERE NOT EXISTS (SELECT FROM orders WHERE (id, at) = (e.orders, e.orders_at))"
        )
        assert h.one(h.core, missing) == 0
        assert sorted(h.everywhere()["events"] + kept) == before["events"]


@pytest.mark.parametrize("point", [pytest.param(Point.MARKER_OPEN, marks=LONG), Point.COPIED])
def test_a_part_that_is_dropped_leaves_nothing_half_done(tiers: Tiers, point: Point) -> None:
    with house(tiers) as h:
        before, gone = h.everywhere(), parted(h, "events_q1")
        on(point, lambda: h.core.execute("DROP TABLE events_q1"))
        assert h.move().stopped_because == "complete"
        after = h.everywhere()
        assert sorted(after.pop("events") + gone) == before.pop("events") and after == before
        assert h.counts("core") == [0, 0, 0, 0] and h.orphans() == [0, 0]


def test_a_part_that_is_attached_goes_along(tiers: Tiers) -> None:
    """With rows that refer to those on their way, by a foreign key that it had before and by one that it gets then."""
    more = """
    CREATE TABLE events_23 (id int, at timestamptz, orders int, orders_at timestamptz, PRIMARY KEY (id, at));
    CREATE TABLE orders_23 (LIKE orders INCLUDING ALL);
    """
    with house(tiers, more=more) as h:
        h.core.execute(
            "INSERT INTO events_23 SELECT 5000 + id, '2023-01-01', id, at FROM orders WHERE id < 9;"
            "INSERT INTO orders_23 SELECT 7000 + i, '2023-01-01', 'eu' FROM generate_series(1, 9) AS i"
        )
        before = h.everywhere()
        for part in ("events", "orders"):
            before[part] = sorted([*before[part], *h.rows("core", f"{part}_23")])
        attach = "; ".join(
            f"ALTER TABLE {t} ATTACH PARTITION {t}_23 FOR VALUES FROM ('2023-01-01') TO ('2023-07-01')"
            for t in ("events", "orders")
        )
        on(Point.COPIED, lambda: h.core.execute(attach.encode()))
        h.move()
        faults.disarm()
        assert h.move().stopped_because == "complete"
        assert h.everywhere() == before and h.counts("core") == [0, 0, 0, 0] and h.orphans() == [0, 0]


def test_a_part_that_is_renamed_goes_on_by_its_new_name(tiers: Tiers) -> None:
    """Another has its old one then, with rows of its own."""
    rename = (
        "ALTER TABLE events_q1 RENAME TO events_first;"
        "CREATE TABLE events_q1 AS SELECT id + 50000 AS id, at, orders, orders_at FROM events_first"
    )
    with house(tiers) as h:
        before, kept = h.everywhere(), parted(h, "events_q1")
        on(Point.COPIED, lambda: h.core.execute(rename.encode()))
        assert h.move().stopped_because == "complete"
        assert h.everywhere() == before and h.counts("core") == [0, 0, 0, 0] and len(parted(h, "events_q1")) == len(kept)


@pytest.mark.parametrize("point", [pytest.param(Point.MARKER_OPEN, marks=LONG), Point.COPIED])
def test_a_row_that_changes_its_part_is_not_taken_by_its_old_place(tiers: Tiers, point: Point) -> None:
    """It is young where it lies then, and keeps all that hangs on it; another is still old, and goes."""
    with house(tiers) as h:
        before = h.everywhere()
        change = "UPDATE events SET at = now() WHERE id = 1030; UPDATE events SET at = '2024-05-05' WHERE id = 1033"
        on(point, lambda: h.core.execute(change.encode()))
        done = h.move()
        faults.disarm()
        assert done.stopped_because.startswith("referenced: 1 group")
        after = h.everywhere()
        assert len(after["events"]) == len(before["events"]) and {**after, "events": []} == {**before, "events": []}
        assert h.one(h.core, "SELECT array_agg(id ORDER BY id) FROM orders") == [29, 30]
        assert h.one(h.main, "SELECT at FROM events WHERE id = 1033") == datetime(2024, 5, 5, tzinfo=UTC)
        assert h.orphans() == [0, 0]


@pytest.mark.parametrize("point", [pytest.param(Point.MARKER_OPEN, marks=LONG), Point.COPIED, Point.DELETE_BEFORE_COMMIT])
def test_a_child_that_comes_meanwhile(tiers: Tiers, point: Point) -> None:
    with house(tiers) as h, closing(tiers.core.connect("app")) as app:
        before = h.everywhere()
        app.execute("SET lock_timeout = '100ms'")
        come = "INSERT INTO events SELECT 9999, '2024-04-04', id, at FROM orders WHERE id = 50"
        said = on(point, lambda: refused(app, come))
        assert h.move().stopped_because == "complete"
        faults.disarm()
        assert h.counts("core") == [0, 0, 0, 0] and h.orphans() == [0, 0]
        assert len(h.everywhere()["events"]) == len(before["events"]) + (0 if str(said[0]).startswith("55P03") else 1)


def test_a_key_in_both_tiers_keeps_all_that_hangs_on_its_row(tiers: Tiers) -> None:
    with house(tiers, at_main=AT_MAIN) as h:
        first = h.move(where="id = 61")
        assert first.rows == 1 + 3 + 1
        h.core.execute(
            "INSERT INTO orders SELECT 61, timestamptz '2024-01-01 00:00+00' + 61 * interval '16 hours', 'again';"
            "INSERT INTO events SELECT 2000, '2024-04-04', id, at FROM orders WHERE id = 61"
        )
        before = h.everywhere()
        done = h.move()
        assert done.conflicts and done.conflicts[0].startswith("61, ")
        assert h.everywhere() == before and h.orphans() == [0, 0]
        assert h.counts("core") == [1, 0, 1, 0]


LONELY: Final = """
DELETE FROM events WHERE (orders, orders_at) IN (SELECT id, at FROM parts."the feb");
DELETE FROM items WHERE (orders, at) IN (SELECT id, at FROM parts."the feb");
UPDATE orders SET (up, up_at) = (NULL, NULL)
"""
"""The orders of February are such that nothing refers to them, nor they to others: Postgres lets their part go."""


@pytest.mark.parametrize("point", [Point.COPIED, pytest.param(Point.MARKER_OPEN, marks=LONG)])
def test_a_part_that_nothing_refers_to_keeps_its_rows_when_it_is_detached(tiers: Tiers, point: Point) -> None:
    """I3: then no foreign key tells that its rows are not the table's any more."""
    with house(tiers) as h:
        h.core.execute(f"DELETE FROM notes; {LONELY}".encode())
        before, kept = h.everywhere(), h.one(h.core, """SELECT array_agg(id ORDER BY id) FROM parts."the feb" """)
        on(point, lambda: h.core.execute("""ALTER TABLE orders DETACH PARTITION parts."the feb" """))
        assert h.move().stopped_because == "complete"
        assert h.one(h.core, """SELECT array_agg(id ORDER BY id) FROM parts."the feb" """) == kept and len(kept) > 30
        assert sorted([*(r[0] for r in h.main.execute("SELECT id FROM orders")), *kept]) == list(range(1, N + 1))
        assert h.everywhere()["items"] == before["items"] and h.orphans() == [0, 0]


REWRITTEN: Final = """
CREATE TABLE tree (id int PRIMARY KEY, at timestamptz NOT NULL, up int REFERENCES tree ON DELETE CASCADE) PARTITION BY RANGE (id);
CREATE TABLE tree_low PARTITION OF tree FOR VALUES FROM (MINVALUE) TO (100);
CREATE TABLE tree_high PARTITION OF tree FOR VALUES FROM (100) TO (MAXVALUE);
INSERT INTO tree SELECT i, CASE WHEN i % 2 = 0 THEN now() ELSE '2024-01-01' END FROM generate_series(1, 80) AS i;
INSERT INTO tree SELECT i, '2024-01-01' FROM generate_series(100, 120) AS i;
CREATE INDEX by_up ON tree_low ((id # 1));
"""


def test_a_part_that_is_rewritten_loses_no_other_row(tiers: Tiers) -> None:
    """I4: each young row gets an old one's place, and the same transaction wrote both."""
    with house(tiers, "", [{"name": "tree", **MOVED}], make=REWRITTEN, fill="", tables=["tree"]) as h:
        before = h.everywhere()
        on(Point.COPIED, lambda: h.core.execute("CLUSTER tree_low USING by_up"))
        h.move("tree")
        assert h.everywhere() == before
        assert h.one(h.core, "SELECT array_agg(id ORDER BY id) FROM tree") == list(range(2, 81, 2))


def test_only_the_parts_that_have_the_rows_are_asked(tiers: Tiers) -> None:
    """By their places: a hundred other parts cost nothing."""
    with house(tiers) as h:
        h.core.execute("ANALYZE")
        places_ = [
            str(r[0]) for r in h.core.execute("SELECT concat(tableoid, ' ', ctid) FROM orders WHERE at < '2024-01-20' LIMIT 5")
        ]
        with transaction(h.core) as cur:
            arms = places.Heaps(cur).arms(TableName("public", "orders"), places.predicate(places_))
            assert {a.heap.name for a in arms} <= {"orders_jan_0", "orders_jan_1"}
            assert all(TableName("public", "orders_jan") in a.above for a in arms)
            cur.execute("SET LOCAL enable_seqscan = off")
            for query in (references.delete_all([arms]), places.rows(arms, sql.SQL("id"))):
                plan = "\n".join(str(r[0]) for r in cur.execute(sql.SQL("EXPLAIN ") + query).fetchall())
                assert "Tid Scan on orders_jan" in plan and "Seq Scan" not in plan, plan
                assert "feb" not in plan and "rest" not in plan, plan
