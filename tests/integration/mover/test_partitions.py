"""Tables whose rows lie in others: partitions of every kind, and tables that inherit (I1 to I5).

The oracle asks for the application's rows through its own table; it never reads the schema `tierkeeper`.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest

from hop import BEFORE, Hop, T, open_hop
from support import Tiers
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.model import Selection
from tierkeeper.mover.source import Source
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection

Row = tuple[int, str, str, str]

RANGES = """
CREATE TABLE public.t (id bigint, at timestamptz, region text, body text, PRIMARY KEY (id, at, region)) PARTITION BY RANGE (at);
CREATE SCHEMA parts;
-- Its columns have another order, and one of them is gone.
CREATE TABLE parts."the year 2023" (gone int, body text, region text NOT NULL, at timestamptz NOT NULL, id bigint NOT NULL);
ALTER TABLE parts."the year 2023" DROP gone;
ALTER TABLE public.t ATTACH PARTITION parts."the year 2023" FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE public.t_2024 PARTITION OF public.t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (region);
CREATE TABLE public.t_2024_eu PARTITION OF public.t_2024 FOR VALUES IN ('eu');
CREATE TABLE public.t_2024_rest PARTITION OF public.t_2024 DEFAULT;
CREATE TABLE public.t_rest PARTITION OF public.t DEFAULT
"""
HASHED = """
CREATE TABLE public.t (id bigint, at timestamptz, region text, body text, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE public.t_0 PARTITION OF public.t FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE public.t_1 PARTITION OF public.t FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE public.t_2 PARTITION OF public.t FOR VALUES WITH (MODULUS 3, REMAINDER 2)
"""
FILL = """
INSERT INTO public.t
SELECT i, timestamptz '2022-06-01 00:00+00' + i * interval '7 hours', (ARRAY['eu', 'us', 'asia'])[1 + i % 3], md5(i::text)
FROM generate_series(1, 3000) AS i
"""
INHERITED = """
CREATE TABLE public.t (id bigint PRIMARY KEY, at timestamptz NOT NULL, region text, body text);
CREATE TABLE public.t_old (PRIMARY KEY (id)) INHERITS (public.t);
INSERT INTO public.t_old
SELECT i, timestamptz '2023-01-01' + i * interval '1 hour', 'eu', i::text FROM generate_series(1, 500) AS i;
INSERT INTO public.t
SELECT i, timestamptz '2024-05-01' + i * interval '1 minute', 'us', i::text FROM generate_series(501, 99999, 99) AS i
"""


def rows(conn: Connection, table: str = "public.t") -> list[Row]:
    if conn.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
        return []
    found = conn.execute(f"SELECT id, at::text, region, body FROM {table} ORDER BY 1, 2, 3".encode())
    return [(int(i), str(at), str(region), str(body)) for i, at, region, body in found]


def is_old(row: Row) -> bool:
    return row[1] < str(BEFORE)


def check_moved(hop: Hop, original: list[Row]) -> None:
    """Each row once, where an undisturbed move of the whole table has it."""
    assert rows(hop.main) == [r for r in original if is_old(r)]
    assert rows(hop.core) == [r for r in original if not is_old(r)]


@pytest.fixture
def hop(tiers: Tiers) -> Iterator[Hop]:
    with open_hop(tiers, batch_rows=600) as opened:
        yield opened


@pytest.fixture
def at_each() -> Iterator[Callable[[Point, Callable[[], object], int], None]]:
    """`at_each(point, deed, times)`: the first `times` that the mover gets to `point`, `deed` happens."""

    def when(point: Point, deed: Callable[[], object], times: int = 1) -> None:
        waiting = [deed] * times

        def hook(reached: Point) -> None:
            if reached is point and waiting:
                waiting.pop()()

        faults.arm(hook)

    yield when
    faults.disarm()


@pytest.mark.parametrize("make", [RANGES, HASHED])
def test_every_kind_of_partition_moves_through_its_table(hop: Hop, make: str) -> None:
    """Range, list, default and hash, in two levels, with a partition whose columns lie otherwise and whose schema is another."""
    hop.core.execute((make + ";" + FILL).encode())
    original = rows(hop.core)
    old = sum(map(is_old, original))
    planned = hop.plan()
    done = hop.move()
    assert (planned.rows, done.rows, done.stopped_because) == (old, old, "complete")
    check_moved(hop, original)
    assert hop.move().rows == 0


def test_a_limit_takes_the_oldest_rows_of_all_partitions(hop: Hop) -> None:
    hop.core.execute((HASHED + ";" + FILL).encode())
    original = rows(hop.core)
    done = hop.keeper.move(T, "core", "main", before=BEFORE, limit=100)
    assert (done.rows, done.stopped_because) == (100, "row limit")
    assert rows(hop.main) == sorted(original, key=lambda r: r[1])[:100]


@pytest.mark.parametrize("point", [Point.LEDGER_OPEN, Point.COPIED, Point.WAITED])
@pytest.mark.parametrize("how", ["DETACH PARTITION {}", "DETACH PARTITION {} CONCURRENTLY"])
def test_a_partition_that_is_detached_under_the_move_keeps_its_rows(hop: Hop, at_each: Any, point: Point, how: str) -> None:
    """I1, I3: what is not the table's any more is not the mover's to take."""
    # What is detached CONCURRENTLY may have no DEFAULT partition beside it.
    hop.core.execute((RANGES.replace("DEFAULT\n", "FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')\n") + ";" + FILL).encode())
    original, name = rows(hop.core), 'parts."the year 2023"'
    kept: list[list[Row]] = []

    def detach() -> None:
        with closing(hop.tiers.core.connect("test")) as other:
            other.execute(b"SET lock_timeout = '10s'")
            other.execute(f"ALTER TABLE public.t {how.format(name)}".encode())
            kept.append(rows(other, name))

    at_each(point, detach)
    hop.move()
    left, here, there = rows(hop.core, name), rows(hop.core), rows(hop.main)
    assert sorted(left + here + there) == original, "a row is nowhere, or twice"
    assert {r for r in here if is_old(r)} == set()
    assert kept == [left], "rows were taken from a table that was none of the move's any more"


@pytest.mark.parametrize("point", [Point.LEDGER_OPEN, Point.COPIED])
def test_a_partition_that_is_dropped_under_the_move_leaves_nothing_half_done(hop: Hop, at_each: Any, point: Point) -> None:
    hop.core.execute((RANGES + ";" + FILL).encode())
    original, name = rows(hop.core), 'parts."the year 2023"'
    gone = set(rows(hop.core, name))
    at_each(point, lambda: hop.core.execute(f"DROP TABLE {name}".encode()))
    assert hop.move().stopped_because == "complete"
    check = [r for r in original if is_old(r) and r not in gone]
    assert [r for r in rows(hop.main) if r not in gone] == check
    assert rows(hop.core) == [r for r in original if not is_old(r)]


def test_a_partition_that_is_attached_under_the_move_goes_along(hop: Hop, at_each: Any) -> None:
    hop.core.execute((RANGES + ";" + FILL).encode())
    hop.core.execute(
        b"CREATE TABLE public.new (LIKE public.t INCLUDING INDEXES);"
        b"INSERT INTO public.new SELECT 10000 + i, timestamptz '2021-01-01' + i * interval '1 hour', 'eu', 'x'"
        b" FROM generate_series(1, 50) AS i"
    )
    original = sorted(rows(hop.core) + rows(hop.core, "public.new"))
    attach = b"ALTER TABLE public.t ATTACH PARTITION public.new FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')"
    at_each(Point.DELETED, lambda: hop.core.execute(attach))
    hop.move()
    check_moved(hop, original)


@pytest.mark.parametrize("make", [RANGES, INHERITED])
def test_a_row_that_changes_its_partition_under_the_move_stays(hop: Hop, at_each: Any, make: str) -> None:
    """I3: at its old place it is gone, at its new one it was not read."""
    hop.core.execute((make + (";" + FILL if make is RANGES else "")).encode())
    original = rows(hop.core)
    oldest = original[0][0] if make is RANGES else 1
    # Of a child, a writer deletes the row and gives it to the parent.
    change = (
        "UPDATE public.t SET at = '2024-12-24' WHERE id = %s"
        if make is RANGES
        else "WITH gone AS (DELETE FROM public.t_old WHERE id = %s RETURNING *) INSERT INTO public.t SELECT id, '2024-12-24',"
        " region, body FROM gone"
    )
    at_each(Point.COPIED, lambda: hop.core.execute(change.encode(), [oldest]))
    hop.move()
    new = [(i, at if i != oldest else "2024-12-24 00:00:00+00", region, body) for i, at, region, body in original]
    check_moved(hop, sorted(new))


def test_a_partitioned_table_at_main_takes_the_rows_and_guards_them(hop: Hop, at_each: Any) -> None:
    """The copy is read back, guarded and undone in whatever partition it lies."""
    hop.core.execute((RANGES + ";" + FILL).encode())
    hop.main.execute(HASHED.replace("PRIMARY KEY (id)", "PRIMARY KEY (id, at, region)").encode())
    original = rows(hop.core)
    refused: list[str] = []

    def write() -> None:
        row = hop.main.execute("SELECT tableoid::regclass::text, id FROM public.t LIMIT 1").fetchone()
        assert row is not None
        for statement in (
            f"UPDATE {row[0]} SET body = 'mine' WHERE id = {row[1]}",
            f"DELETE FROM public.t WHERE id = {row[1]}",
            f"TRUNCATE {row[0]}",
            "TRUNCATE public.t",
        ):
            try:
                hop.main.execute(statement.encode())
            except psycopg.errors.ObjectInUse:
                refused.append(statement)
        hop.core.execute("UPDATE public.t SET body = 'new' WHERE id = 1")  # so that this batch is undone at Main

    at_each(Point.COPIED, write)
    hop.move()
    assert len(refused) == 4, refused
    new = [(i, at, region, body if i != 1 else "new") for i, at, region, body in original]
    check_moved(hop, new)
    assert [s for s in hop.keeper.setup(apply=False).steps if s.tier == "main" and s.table] == [], "nothing is to do"


def test_a_row_without_a_partition_at_main_is_told(hop: Hop) -> None:
    hop.core.execute((RANGES + ";" + FILL).encode())
    hop.main.execute(RANGES.replace("CREATE TABLE public.t_rest PARTITION OF public.t DEFAULT", "SELECT 1").encode())
    original = rows(hop.core)
    with pytest.raises(Failed, match=r"no partition for some of the rows.*\(at\) = \(202\d-") as error:
        hop.move()
    assert error.value.place == "public.t (main)"
    assert sorted({*rows(hop.core), *rows(hop.main)}) == original
    hop.main.execute("CREATE TABLE public.t_rest PARTITION OF public.t DEFAULT")
    hop.move()
    check_moved(hop, original)


def test_children_with_the_same_columns_move_with_their_parent(hop: Hop, at_each: Any) -> None:
    hop.core.execute(INHERITED.encode())
    original = rows(hop.core)
    assert hop.plan().rows == sum(map(is_old, original))

    def disinherit() -> None:
        with suppress(psycopg.errors.UndefinedTable):
            hop.core.execute("ALTER TABLE public.t_old NO INHERIT public.t")

    at_each(Point.WAITED, disinherit)
    hop.move()
    assert rows(hop.core, "public.t_old") == original[:500], "rows were taken from a table that is none of the parent's any more"
    hop.core.execute("ALTER TABLE public.t_old INHERIT public.t")
    faults.disarm()
    hop.move()
    check_moved(hop, original)


def test_a_child_with_columns_of_its_own_needs_a_policy_of_its_own(tiers: Tiers) -> None:
    child = TableName("public", "child")
    make = INHERITED + "; CREATE TABLE public.child (more text, PRIMARY KEY (id)) INHERITS (public.t);"
    make += "INSERT INTO public.child SELECT 100000 + id, at, region, body, 'more' FROM public.t_old"
    with open_hop(tiers) as hop:
        hop.core.execute(make.encode())
        original = rows(hop.core)
        with pytest.raises(UsageError, match=r"public\.child inherits from it and has columns of its own \(more\)") as error:
            hop.move()
        assert "[[tables]]" in error.value.remedy
        assert rows(hop.core) == original
    with open_hop(tiers, [T, child]) as hop:
        hop.move()
        assert len(rows(hop.core, "public.child")) == 500
        hop.move(child)
        assert hop.counts("public.child") == (0, 500)
        assert sorted(rows(hop.core) + rows(hop.main) + rows(hop.main, "public.child")) == original
        with pytest.raises(UsageError, match=r"reads public\.child"):
            hop.keeper.query("SELECT count(*) FROM public.t")


def test_a_partition_may_have_another_owner(hop: Hop) -> None:
    """What the role may not take is told before the first change, by the partition's name."""
    hop.core.execute((RANGES + ";" + FILL).encode())
    original = rows(hop.core)
    hop.core.execute(
        b"CREATE ROLE parts_owner; CREATE ROLE parts_mover; GRANT CREATE, USAGE ON SCHEMA public TO parts_owner, parts_mover;"
        b"GRANT USAGE ON SCHEMA parts TO parts_mover;"
        b"GRANT SELECT, DELETE ON public.t, public.t_2024, public.t_rest, public.t_2024_rest TO parts_mover;"
        b'GRANT SELECT, DELETE ON parts."the year 2023" TO parts_mover;'
        b"ALTER TABLE public.t_2024_eu OWNER TO parts_owner"
    )
    selection = Selection(shapes.read(hop.core, T), "at", BEFORE)
    try:
        with closing(hop.tiers.core.connect("mover")) as conn:
            conn.execute("SET ROLE parts_mover")
            with pytest.raises(UsageError, match="may not read and delete") as error:
                Source(hop.tiers.core, conn, "core").refuse_unfit(selection)
            assert error.value.place == "public.t_2024_eu (core)"
        hop.move()
    finally:
        hop.core.execute(
            b"ALTER TABLE public.t_2024_eu OWNER TO CURRENT_USER; DROP OWNED BY parts_owner, parts_mover;"
            b"DROP ROLE parts_owner, parts_mover"
        )
    check_moved(hop, original)


def test_what_refers_to_a_partition_keeps_the_table(hop: Hop) -> None:
    hop.core.execute((HASHED + ";" + FILL).encode())
    hop.core.execute("CREATE TABLE public.child (t bigint REFERENCES public.t_1 (id))")
    with pytest.raises(UsageError, match=r"child_t_fkey of public\.child"):
        hop.move()


def test_a_reader_counts_the_same_throughout(hop: Hop) -> None:
    """I2: the fast door reads the table through its partitions at both tiers, in the middle of each step."""
    hop.core.execute((RANGES + ";" + FILL).encode())
    hop.main.execute(HASHED.replace("PRIMARY KEY (id)", "PRIMARY KEY (id, at, region)").encode())
    hop.keeper.setup(apply=True)
    seen: list[tuple[Point, int]] = []

    def ask(point: Point) -> None:
        if point in (Point.MARKER_OPEN, Point.COPIED, Point.DELETED, Point.DONE) and len(seen) < 8:
            with suppress(TierkeeperError):
                seen.append((point, hop.keeper.query("SELECT count(*) AS n FROM public.t")["n"][0].as_py()))

    faults.arm(ask)
    try:
        hop.move()
    finally:
        faults.disarm()
    assert len(seen) >= 5
    assert {n for _, n in seen} == {3000}, seen
    with pytest.raises(UsageError, match=r"reads public\.t, whose rows are in several tiers"):
        hop.keeper.query("SELECT count(*) FROM public.t_2024_eu")


def test_from_main_to_the_archive(hop: Hop) -> None:
    hop.core.execute((RANGES + ";" + FILL).encode())
    hop.main.execute(RANGES.encode())
    original = rows(hop.core)
    hop.move()
    done = hop.keeper.move(T, "main", "archive", before=BEFORE)
    assert done.rows == 0
    assert done.stopped_because.startswith("resting")
    check_moved(hop, original)


def test_quota_takes_a_partitioned_table_like_any_other(hop: Hop) -> None:
    hop.core.execute((RANGES + ";" + FILL).encode())
    hop.main.execute(RANGES.encode())
    hop.keeper.setup(apply=True)
    done = hop.keeper.quota()
    assert (done.errors, done.moves[0].rows, rows(hop.core)) == ([], 3000, [])
    assert hop.keeper.query("SELECT count(*) AS n FROM public.t")["n"][0].as_py() == 3000
