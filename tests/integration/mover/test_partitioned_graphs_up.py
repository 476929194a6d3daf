"""Rows that foreign keys join come back into their partitions together, go on to the archive, and leave parts that are dropped.

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

from contextlib import closing, suppress
from datetime import UTC, datetime
from time import sleep
from typing import Any, Final

import pytest

from graphs import REST, on, refused
from parted import AT_MAIN, FAMILY, FILL_FAMILY, INHERITED, LONG, MONTH, TABLES, House, house
from support import Tiers, sampled
from tierkeeper.compose import open_keeper
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName


@pytest.mark.parametrize("at_main", ["", pytest.param(AT_MAIN, marks=LONG)])
def test_they_come_back_into_their_parts_and_go_down_again(tiers: Tiers, at_main: str) -> None:
    """What joins them in Core joins them: also by a leaf's key, which Main has no foreign key for."""
    with house(tiers, "ON DELETE CASCADE DEFERRABLE", at_main=at_main, filled="main") as h:
        before = h.everywhere()
        done = h.move(source="main", destination="core", where="id = 62")
        # Order 62: its items, its event in the second quarter, and that one's note.
        assert (done.rows, done.stopped_because) == (1 + 3 + 1 + 1, "complete")
        assert h.counts("core") == [1, 3, 1, 1] and h.everywhere() == before and h.orphans() == [0, 0]
        assert h.one(h.core, "SELECT count(*) FROM events_q2") == 1
        sleep(REST)
        assert h.move("notes", "main", "core", where="id = 64").rows == 2 * (1 + 3 + 1) + 1  # 65 is below 64
        sleep(REST)
        assert h.move(source="main", destination="core", where="true").stopped_because == "complete"
        assert h.counts("main") == [0, 0, 0, 0] and h.everywhere() == before and h.orphans() == [0, 0]
        sleep(REST)
        assert h.move().stopped_because == "complete"
        assert h.counts("core") == [0, 0, 0, 0] and h.everywhere() == before


def test_no_row_in_core_comes_to_refer_to_a_copy_in_flight(tiers: Tiers) -> None:
    """By a foreign key towards the whole or a leaf, of plain and of partitioned tables; and no copy is written to."""
    more = """
    CREATE TABLE late (id int, o int, at timestamptz, PRIMARY KEY (id),
        FOREIGN KEY (o, at) REFERENCES orders DEFERRABLE INITIALLY DEFERRED) PARTITION BY HASH (id);
    CREATE TABLE late_0 PARTITION OF late FOR VALUES WITH (MODULUS 1, REMAINDER 0);
    """
    with house(tiers, "ON DELETE CASCADE DEFERRABLE", more=more, filled="main") as h, closing(tiers.core.connect("app")) as app:
        before = h.everywhere()
        h.move(source="main", destination="core", where="id = 61")  # makes the guards
        at = "(SELECT timestamptz '2024-01-01 00:00+00' + 62 * interval '16 hours')"
        deeds = (
            f"INSERT INTO items VALUES (62, {at}, 9, 'late')",
            f"INSERT INTO events VALUES (8000, '2024-01-05', 62, {at})",
            f"INSERT INTO events_q2 VALUES (8001, '2024-05-05', 62, {at})",
            f"INSERT INTO orders VALUES (8002, '2024-02-05', 'eu', 62, {at})",
            f"INSERT INTO notes VALUES (8003, '2024-02-05', 62, {at} + interval '50 days')",
            f"INSERT INTO late VALUES (8004, 62, {at})",
            "UPDATE orders SET region = 'us' WHERE id = 62", "DELETE FROM events_q2 WHERE id = 62",
        )  # fmt: skip
        said = on(Point.COPIED, lambda: [refused(app, deed) for deed in deeds])
        assert h.move(source="main", destination="core", where="id = 62").rows == 6
        faults.disarm()
        answers = said[0]
        assert isinstance(answers, list) and all(a.startswith("55006") for a in answers), answers
        assert h.everywhere() == before
        sleep(REST)
        assert [refused(app, deed) for deed in deeds[:6]] == [""] * 6


LATE: Final = "CREATE TABLE late (id int PRIMARY KEY, o int, at timestamptz, body text);"


@pytest.mark.parametrize("to", sampled(["orders", 'parts."the feb"', "orders_jan"], "orders"))
def test_a_copy_in_a_part_is_never_taken_back_with_what_came_to_refer_to_it(tiers: Tiers, to: str) -> None:
    """I1, I4: by a foreign key towards the whole, a leaf, a part with parts, made while the copy was in flight."""
    number = 47 if to == 'parts."the feb"' else 7
    with house(tiers, "ON DELETE CASCADE DEFERRABLE", more=LATE, filled="main") as h:
        before = h.everywhere()

        def meanwhile() -> None:
            h.core.execute(f"INSERT INTO late SELECT 1, id, at, 'own' FROM orders WHERE id = {number}".encode())
            h.core.execute(f"ALTER TABLE late ADD FOREIGN KEY (o, at) REFERENCES {to} ON DELETE CASCADE".encode())
            h.main.execute(f"UPDATE items SET what = 'new' WHERE orders = {number} AND place = 1".encode())  # so it is taken back

        on(Point.COPIED, meanwhile)
        for _ in range(2):
            with pytest.raises(NotNow, match=r"late_o_at_fkey of public\.late"):
                h.move(source="main", destination="core", where=f"id = {number}")
            faults.disarm()
        assert h.core.execute("SELECT body FROM late").fetchall() == [("own",)]
        assert h.seen() == [len(rows) for rows in before.values()]
        h.core.execute("DROP TABLE late")
        assert h.move(source="main", destination="core", where=f"id = {number}").rows == 5
        assert {t: len(r) for t, r in h.everywhere().items()} == {t: len(r) for t, r in before.items()} and h.orphans() == [0, 0]


def everything(h: House) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table as a reader is told it."""
    reader = open_keeper(h.keeper._settings, environment=h.tiers.environment)

    def told(table: str) -> list[tuple[Any, ...]]:
        for _ in range(20):
            with suppress(NotNow):
                return sorted((tuple(r.values()) for r in reader.query(f"SELECT * FROM {table}").to_pylist()), key=str)
        raise AssertionError(table)

    return {t: told(t) for t in h.tables}


@pytest.mark.long
@pytest.mark.parametrize("at_main", [AT_MAIN, pytest.param("", marks=LONG)])
def test_on_to_the_archive_and_back_out_of_it(tiers: Tiers, at_main: str) -> None:
    """A group is one segment for each table, whatever its parts; what was restored is what there was."""
    with house(tiers, at_main=at_main, filled="main") as h:
        h.main.execute("UPDATE events SET at = now() WHERE id = 7")
        before, kept = everything(h), h.everywhere()["orders"]
        done = h.move(source="main", destination="archive")
        assert done.stopped_because.startswith("referenced: 1 group")
        # Notes go by themselves from here on: they refer to a part, which Main has not.
        assert h.counts("main") == [1, 3, 1, len(before["notes"])] and everything(h) == before
        h.keeper.archive_verify()
        h.keeper.archive_restore(TableName("public", "orders"), to="public.orders_again")
        again = h.main.execute("SELECT id, region, up FROM orders_again ORDER BY 1").fetchall()
        assert len(again) == len(kept) - 1 and 7 not in {r[0] for r in again}
        sleep(REST)
        thawed = h.keeper.archive_thaw(TableName("public", "orders"), since=datetime(2024, 1, 1, tzinfo=UTC), hold=MONTH)
        assert thawed.rows == done.rows and h.counts("main") == [len(before[t]) for t in TABLES]
        assert everything(h) == before and h.orphans() == [0, 0]


@pytest.mark.long
@pytest.mark.parametrize("at_main", [AT_MAIN, ""])
def test_a_reader_counts_the_same_at_every_step(tiers: Tiers, at_main: str) -> None:
    """I2: the fast door reads tables through their parts in the middle of each step, down and up again."""
    steps = (Point.MARKER_OPEN, Point.COPIED, Point.DELETED, Point.DONE)
    with house(tiers, "ON DELETE CASCADE DEFERRABLE", at_main=at_main) as h:
        h.keeper.setup(apply=True)
        every, seen = h.seen(), list[list[int]]()
        for hop in (("core", "main"), ("main", "core")):
            more = {"where": "true"} if hop[1] == "core" else {}
            met: set[Point] = set()

            def hook(reached: Point, met: set[Point] = met) -> None:
                if reached in steps and reached not in met:
                    met.add(reached)
                    seen.append(h.seen())

            faults.arm(hook)
            h.move("orders", *hop, **more)
            faults.disarm()
            assert met == set(steps)
            sleep(REST)
        assert seen == [every] * 2 * len(steps)


def test_old_parts_go_once_their_rows_have_gone(tiers: Tiers) -> None:
    """Also those of a table that others refer to, which Postgres drops by CASCADE alone; what refers keeps its foreign key."""
    aged = [{"name": n, "age": "at", "core": "30 days", "drop_partitions": n != "notes"} for n in ("orders", "events", "notes")]
    with house(tiers, policies=[*aged, {"name": "items"}]) as h:  # type: ignore[list-item]
        h.core.execute(
            "INSERT INTO orders VALUES (500, now(), 'eu'); INSERT INTO items SELECT id, at, 1 FROM orders WHERE id = 500"
        )
        before = h.everywhere()
        done = h.keeper.quota()
        assert done.errors == [], done.errors
        assert h.everywhere() == before and h.counts("core") == [1, 1, 0, 0] and h.orphans() == [0, 0]
        left = h.one(h.core, "SELECT array_agg(relid::text ORDER BY 1) FROM pg_partition_tree('orders') WHERE isleaf")
        assert left == ["orders_rest"], (left, done.notes)
        # A leaf that a foreign key names stays, and is named.
        parts = h.one(h.core, "SELECT array_agg(relid::text ORDER BY 1) FROM pg_partition_tree('events') WHERE isleaf")
        assert parts == ["events_q2", "events_rest"]
        assert refused(h.core, "INSERT INTO items VALUES (1, '2024-01-01', 1)").startswith("23503")


def test_what_others_inherit_from_in_core_does_not_come_back_with_what_refers_to_it(tiers: Tiers) -> None:
    """All that came would lie in itself, and a foreign key may mean one of the others."""
    with house(tiers, "", INHERITED, make=FAMILY, fill=FILL_FAMILY, tables=("t", "c", "old_kinds")) as h:
        assert h.move("t").stopped_because == "complete"
        at_main = h.counts("main")
        for table in ("t", "c"):
            with pytest.raises(UsageError, match="tables inherit from it in core") as error:
                h.move(table, "main", "core", where="true")
            assert error.value.place == "tables.public.t"
        assert (h.counts("core"), h.counts("main")) == ([0, 0, 0], at_main)
