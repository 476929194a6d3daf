"""Rows that foreign keys join leave Main for the archive together or not at all, and leave no orphan behind.

The oracle counts the application's own rows: at Main through a connection of its own, everywhere by what a reader is told.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import sleep
from typing import Any, Final

import pytest

from support import Tiers, tierkeeper_toml
from tierkeeper.archive.destination import ArchiveDestination
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.results import MoveResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.mover import bundle
from tierkeeper.postgres.link import Connection

ORDERS: Final = TableName("public", "orders")
BEFORE: Final = datetime(2024, 6, 1, tzinfo=UTC)
TABLES: Final = ("orders", "items", "returns", "payments")
MOVED: Final = {"age": "at", "core": "30 days", "main": "60 days"}
POLICIES: Final[tuple[Mapping[str, str], ...]] = (
    {"name": "kinds", "mode": "mirror"}, {"name": "orders", **MOVED}, {"name": "items"}, {"name": "returns"},
    {"name": "payments", **MOVED},
)  # fmt: skip
MAKE: Final = """
CREATE TABLE kinds (kind text PRIMARY KEY);
-- up: a self reference; best: one of its items, in a circle; kind: a parent that stays
CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL, kind text NOT NULL REFERENCES kinds,
    up int REFERENCES orders ON DELETE CASCADE, best int);
CREATE TABLE items (orders int REFERENCES orders ON DELETE CASCADE, place int, what text, PRIMARY KEY (orders, place));
ALTER TABLE orders ADD FOREIGN KEY (id, best) REFERENCES items (orders, place) DEFERRABLE;
CREATE TABLE returns (id int PRIMARY KEY, orders int NOT NULL, place int NOT NULL,
    FOREIGN KEY (orders, place) REFERENCES items ON DELETE SET NULL);
-- a child that two parents share
CREATE TABLE payments (id int PRIMARY KEY, at timestamptz NOT NULL, one int NOT NULL REFERENCES orders ON DELETE CASCADE,
    other int REFERENCES orders ON DELETE RESTRICT);
CREATE INDEX ON items (orders); CREATE INDEX ON returns (orders, place);
"""
FILL: Final = """
INSERT INTO orders SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', CASE i % 2 WHEN 0 THEN 'a' ELSE 'b' END,
    CASE WHEN i % 5 = 0 THEN i - 1 END FROM generate_series(1, {n}) AS i;
INSERT INTO items SELECT o, p, 'thing ' || o FROM generate_series(1, {n}) AS o, generate_series(1, 3) AS p;
UPDATE orders SET best = 2 WHERE id % 3 = 0;
INSERT INTO returns SELECT o, o, 3 FROM generate_series(1, {n}, 7) AS o;
INSERT INTO payments SELECT i, '2024-01-05', i, CASE WHEN i % 10 = 0 THEN i - 7 END FROM generate_series(1, {n}) AS i;
"""
ORPHANS: Final = """
SELECT (SELECT count(*) FROM items AS i WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.id = i.orders))
     + (SELECT count(*) FROM orders AS c WHERE up IS NOT NULL AND NOT EXISTS (SELECT FROM orders AS o WHERE o.id = c.up))
     + (SELECT count(*) FROM orders AS o WHERE best IS NOT NULL
        AND NOT EXISTS (SELECT FROM items AS i WHERE (i.orders, i.place) = (o.id, o.best)))
     + (SELECT count(*) FROM returns AS r
        WHERE NOT EXISTS (SELECT FROM items AS i WHERE (i.orders, i.place) = (r.orders, r.place)))
     + (SELECT count(*) FROM payments AS p WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.id = p.one)
        OR (p.other IS NOT NULL AND NOT EXISTS (SELECT FROM orders AS o WHERE o.id = p.other)))
"""
ALL: Final = [60, 180, 9, 60]


@dataclass
class House:
    """Core and Main with the application's connections, and a keeper."""

    core: Connection
    main: Connection
    keeper: Keeper

    def move(self, **more: Any) -> MoveResult:
        return self.keeper.move(ORDERS, "main", "archive", before=BEFORE, **more)

    def at_main(self) -> list[int]:
        """How many rows each table has at Main, where no row may refer to one that is not there."""
        assert self.main.execute(ORPHANS).fetchone() == (0,)
        return [len(self.main.execute(f"SELECT FROM {t}".encode()).fetchall()) for t in TABLES]

    def told(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table as a reader is told it; one that counts twice is here twice."""
        return {t: sorted((tuple(r.values()) for r in self.asked(f"SELECT * FROM {t}")), key=str) for t in TABLES}

    def counts(self) -> list[int]:
        parts = ", ".join(f"(SELECT count(*) FROM {t}) AS {t}" for t in TABLES)
        return list(self.asked(f"SELECT {parts}")[0].values())

    def asked(self, statement: str) -> list[dict[str, Any]]:
        for _ in range(20):
            with suppress(NotNow):  # an honest answer on a busy machine
                return list(self.keeper.query(statement).to_pylist())
        raise AssertionError(statement)


@contextmanager
def house(
    tiers: Tiers, policies: tuple[Mapping[str, str], ...] = POLICIES, orders: int = 60, timeout: str = "10 seconds", **more: Any
) -> Iterator[House]:
    """With rows that came to Main long ago."""
    settings = load(tierkeeper_toml(tiers, policies, query_timeout=timeout), tiers.environment, tiers.home)
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        core.execute(MAKE.encode() + b"INSERT INTO kinds VALUES ('a'), ('b')")
        keeper = open_keeper(settings, environment=tiers.environment, **more)
        keeper.setup(apply=True)
        main.execute("INSERT INTO kinds VALUES ('a'), ('b') ON CONFLICT DO NOTHING")
        with main.transaction():
            main.execute("SET CONSTRAINTS ALL DEFERRED")
            main.execute(FILL.format(n=orders).encode())
        yield House(core, main, keeper)


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    faults.disarm()


@pytest.mark.long
def test_the_quota_manager_takes_a_graph_through_both_hops(tiers: Tiers) -> None:
    with house(tiers, orders=0, timeout="1 second", batch_rows=200) as h:
        with h.core.transaction():
            h.core.execute("SET CONSTRAINTS ALL DEFERRED")
            h.core.execute(FILL.format(n=20).encode())
        before = h.told()
        assert [len(before[t]) for t in TABLES] == [20, 60, 3, 20]
        done = h.keeper.quota()
        assert done.errors == []
        gone = {(m.table, m.from_): m.rows for m in done.moves}
        assert [sum(rows for (_, tier), rows in gone.items() if tier == one) for one in ("core", "main")] == [103, 103]
        left = [h.core.execute(f"SELECT count(*) FROM {t}".encode()).fetchone() for t in TABLES]
        assert (left, h.at_main()) == ([(0,)] * 4, [0] * 4)
        assert h.told() == before
        assert h.keeper.archive_verify().ok


def test_a_graph_leaves_main_whole(tiers: Tiers) -> None:
    """Circles, trees, a child of two parents, tables without an age; the mirrored parent stays; what went can be restored."""
    with house(tiers, batch_rows=200) as h:
        before = h.told()
        assert [len(before[t]) for t in TABLES] == ALL == h.at_main()
        plan = h.keeper.plan_move(ORDERS, "main", "archive", before=BEFORE, explain=True)
        assert plan.rows == sum(ALL) and all(f"public.{t}" in plan.locks[0] for t in TABLES)
        done = h.move()
        assert (done.rows, done.stopped_because) == (sum(ALL), "complete")
        assert done.batches >= 4 * 3  # bundles are cut as on the way to Main
        assert h.at_main() == [0, 0, 0, 0]
        assert h.main.execute("SELECT count(*) FROM kinds").fetchone() == (2,)
        assert h.told() == before
        assert h.keeper.archive_verify().ok
        listed = h.keeper.archive_list()
        assert {s.state for s in listed} == {"sealed"} and len(listed) == done.batches == len(
            list((tiers.store / "commit").iterdir())
        )
        assert {s.table for s in listed if s.min_age is None} == {"public.items", "public.returns"}
        assert h.keeper.archive_show(next(s.segment for s in listed if s.min_age is None)).min_age is None
        # Whoever gives such a table an age later asks its segments for ages that they do not have: all rows come.
        ageless = next(s for s in listed if s.table == "public.items")
        with h.keeper.archive.scan().open(ageless.segment) as content:
            assert sum(b.num_rows for b in content.batches(["what"], BEFORE, None)) == ageless.rows
        # A new table has no foreign keys: the child may come before its parent.
        for table, rows in (("items", 180), ("orders", 60)):
            name = TableName("public", table)
            assert h.keeper.archive_restore(name, to=f"public.{table}_back", tier="core").rows == rows
        whole = [tuple(r) for r in h.core.execute("SELECT * FROM items_back").fetchall()]
        assert sorted(whole, key=str) == before["items"]
        with pytest.raises(UsageError, match="no age of their own"):
            h.keeper.archive_restore(TableName("public", "items"), to="public.later", since=BEFORE)


def test_from_core_to_the_archive_by_policy(tiers: Tiers) -> None:
    """`archive run` takes what came from Core once it has rested, and asks nobody for a time of the tables that follow."""
    with house(tiers, timeout="1 second") as h:
        h.main.execute("TRUNCATE orders, items, returns, payments")
        with h.core.transaction():
            h.core.execute(b"SET CONSTRAINTS ALL DEFERRED;" + FILL.format(n=60).encode())
        assert h.keeper.move(ORDERS, "core", "main").rows == sum(ALL)
        assert h.move().stopped_because.startswith("resting")
        assert h.at_main() == ALL
        before = h.told()
        sleep(1.2)
        assert [p.table for p in h.keeper.plan_archive(before=BEFORE)] == ["public.orders", "public.payments"]
        dry = h.keeper.quota(dry_run=True)
        assert not dry.errors
        assert {p.table: p.rows for p in dry.plans if p.to == "archive"}["public.orders"] == sum(ALL)
        ran = h.keeper.archive_run()
        assert sum(m.rows for m in ran.runs) == sum(ALL) and not ran.errors
        assert h.at_main() == [0, 0, 0, 0]
        assert h.told() == before


def test_a_young_row_keeps_all_that_hangs_on_it_at_main(tiers: Tiers) -> None:
    """By the other table's own time for Main: the payment of order 20 is too young, and order 20 hangs on 13 and 19."""
    with house(tiers) as h:
        h.main.execute("UPDATE payments SET at = now() - interval '40 days' WHERE id = 20")
        before = h.counts()
        plan = h.keeper.plan_move(ORDERS, "main", "archive", before=BEFORE)
        done = h.move()
        assert plan.rows == done.rows
        assert any("rows of public.payments may not leave yet" in note for note in plan.notes)
        assert done.stopped_because.startswith("referenced: 1 group")
        left = h.main.execute("SELECT array_agg(id ORDER BY id) FROM orders").fetchone()
        assert left is not None and {13, 19, 20} <= set(left[0]) and len(left[0]) < 10
        assert h.main.execute("SELECT count(*) FROM payments WHERE id = 20").fetchone() == (1,)
        assert h.at_main()[1] == 3 * len(left[0])
        assert h.counts() == before


def test_rows_of_a_table_with_no_time_for_main_keep_what_they_refer_to(tiers: Tiers) -> None:
    forever = tuple(p if p["name"] != "payments" else {"name": "payments", "age": "at", "core": "30 days"} for p in POLICIES)
    with house(tiers, forever) as h:
        h.main.execute("DELETE FROM payments WHERE id > 30")
        before = h.counts()
        assert h.move().stopped_because.startswith("referenced")
        assert h.main.execute("SELECT count(*) FROM payments").fetchone() == (30,)
        assert h.main.execute("SELECT min(id) FROM orders WHERE id > 30").fetchone() in ((None,), (31,))
        assert h.main.execute("SELECT count(*) FROM orders WHERE id <= 30").fetchone() == (30,)
        assert 0 < h.at_main()[0] < 60
        assert h.counts() == before


def test_a_conflict_of_another_table_stays_with_all_that_hangs_on_it(tiers: Tiers) -> None:
    """In the archive nobody could tell its row from Core's."""
    with house(tiers) as h:
        h.main.execute("INSERT INTO tierkeeper.conflict (schema_name, table_name, key) VALUES ('public', 'payments', '[\"8\"]')")
        done = h.move()
        assert done.rows > 0 and done.conflicts == ["public.payments: 8"]
        assert h.main.execute("SELECT array_agg(id) FROM payments").fetchone() == ([8],)


@pytest.mark.parametrize(
    "action",
    [
        "ON DELETE CASCADE",
        *(pytest.param(a, marks=pytest.mark.long) for a in ("", "ON DELETE RESTRICT", "ON DELETE SET DEFAULT")),
    ],
)
def test_a_child_that_comes_to_main_meanwhile(tiers: Tiers, action: str) -> None:
    """I4: whatever Main's own foreign key does on DELETE, it does it to no row that is not in the bundle."""
    with house(tiers) as h, closing(tiers.main.connect("app")) as app:
        name = h.main.execute("SELECT conname FROM pg_constraint WHERE conrelid = 'items'::regclass AND contype = 'f'").fetchone()
        assert name is not None
        h.main.execute(
            f"ALTER TABLE items DROP CONSTRAINT {name[0]}, ADD FOREIGN KEY (orders) REFERENCES orders {action}".encode()
        )
        came: list[int] = []

        def hook(reached: Point) -> None:
            if reached is Point.COPIED and not came:
                came.append(1)
                app.execute("INSERT INTO items VALUES (50, 99, 'late')")

        faults.arm(hook)
        done = h.move()
        faults.disarm()
        assert came and done.stopped_because == "complete"
        assert h.counts() == [60, 181, 9, 60]
        assert h.asked("SELECT orders, what FROM items WHERE place = 99") == [{"orders": 50, "what": "late"}]
        assert h.at_main() == [0, 0, 0, 0]


@pytest.mark.long
def test_a_reader_sees_each_of_them_once_at_every_step(tiers: Tiers) -> None:
    """I2."""
    steps = (
        Point.MARKER_OPEN, Point.SEGMENT_PUT, Point.COPY_BEFORE_COMMIT, Point.COPIED, Point.DELETE_BEFORE_COMMIT, Point.DELETED,
        Point.DONE, Point.COMMIT_PUT,
    )  # fmt: skip
    with house(tiers, batch_rows=200) as h:
        seen: dict[Point, list[int]] = {}

        def hook(reached: Point) -> None:
            if reached in steps and reached not in seen:
                seen[reached] = []
                seen[reached] = h.counts()

        faults.arm(hook)
        h.move(limit=80)
        faults.disarm()
        assert seen == dict.fromkeys(steps, ALL)
        assert h.counts() == ALL


@pytest.mark.long
def test_a_bundle_for_the_archive_is_bounded_by_bytes(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: also where a segment may have far more rows."""
    with house(tiers, orders=24, batch_rows=200, segment_rows=100_000) as h:
        bundles: list[int] = []
        copy_all = ArchiveDestination.copy_all

        def counted(self: ArchiveDestination, snapshots: Any) -> Any:
            bundles.append(sum(s.extent.rows for s in snapshots))
            return copy_all(self, snapshots)

        monkeypatch.setattr(ArchiveDestination, "copy_all", counted)
        monkeypatch.setattr(bundle, "BATCH_BYTES", 1000)
        before = h.counts()
        assert h.move().rows == sum(before)
        assert h.at_main() == [0, 0, 0, 0] and h.counts() == before
        assert len(bundles) >= 3 and max(bundles) < 60


@pytest.mark.parametrize("asked", ["orders", pytest.param("payments", marks=pytest.mark.long)])
def test_what_went_together_is_thawed_together(tiers: Tiers, asked: str) -> None:
    with house(tiers, timeout="1 second", batch_rows=200) as h:
        before = h.told()
        assert h.move().rows == sum(ALL)
        sleep(1.1)
        if asked == "payments":  # and with the references checked at Main as well
            h.main.execute("ALTER TABLE items ADD FOREIGN KEY (orders) REFERENCES orders")
            h.main.execute("ALTER TABLE payments ADD FOREIGN KEY (one) REFERENCES orders")
        else:  # and from a catalog that was made again, where one of them was replaced
            assert h.keeper.archive_erase(TableName("public", "payments"), where="id = 3").segments
            before["payments"] = [row for row in before["payments"] if row[0] != 3]
            hold = Age.parse("1 day", "test")
            assert h.keeper.archive_thaw(ORDERS, until=BEFORE, hold=hold, dry_run=True).rows == sum(ALL) - 1
            with closing(tiers.catalog.connect("test")) as catalog:
                catalog.execute("DROP SCHEMA tierkeeper CASCADE")
            assert h.keeper.archive_rebuild().ok
            assert h.keeper.archive_verify().ok
        all_of = [len(before[t]) for t in TABLES]
        thawed = h.keeper.archive_thaw(TableName("public", asked), until=BEFORE, hold=Age.parse("1 day", "test"))
        assert (thawed.rows, thawed.tables) == (sum(all_of), [f"public.{t}" for t in sorted(TABLES)])
        assert h.at_main() == all_of
        assert h.told() == before
        assert h.keeper.archive_list() == []
