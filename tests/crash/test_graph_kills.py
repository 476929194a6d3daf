"""SIGKILL at every durable step of a move of rows that foreign keys join, then the same command again (I1 to I5).

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

import re
import signal
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import cycle

import pytest

from processes import At, Hop, start_hop
from strikes import POINTS
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.faults import Point
from tierkeeper.postgres.link import Connection

TABLES = {"p": None, "c": "p", "g": "c", "q": "c"}
"""Each table with the one that it refers to; q's rows are beside g's, and c's refer back to p's newest in a circle.

q's rows have no age of their own: they follow those that they refer to.
"""
MAKE = """
CREATE TABLE p (id int PRIMARY KEY, at timestamptz NOT NULL, last int);
CREATE TABLE c (id int PRIMARY KEY, at timestamptz NOT NULL, p int NOT NULL REFERENCES p ON DELETE CASCADE);
CREATE TABLE g (id int PRIMARY KEY, at timestamptz NOT NULL, c int NOT NULL REFERENCES c ON DELETE RESTRICT);
CREATE TABLE q (id int PRIMARY KEY, note text NOT NULL, c int REFERENCES c ON DELETE SET NULL);
ALTER TABLE p ADD FOREIGN KEY (last) REFERENCES c;
"""
PARTED = re.sub(
    r"CREATE TABLE (\w) (.*);",
    r"""CREATE TABLE \1 \2 PARTITION BY HASH (id);
CREATE TABLE \1_0 PARTITION OF \1 FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY HASH (id);
CREATE TABLE \1_0_0 PARTITION OF \1_0 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE \1_0_1 PARTITION OF \1_0 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE \1_1 PARTITION OF \1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);""",
    MAKE,
)
"""The same, each table in three partitions on two levels."""
AT_MAIN = re.sub(r" REFERENCES \w( ON DELETE \w+( NULL)?)?|ALTER.*", "", PARTED)
"""The tables alone; their foreign keys are the setup's."""
FILL = """
INSERT INTO p SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour' FROM generate_series(1, {n}) AS i;
INSERT INTO c SELECT i, '2024-01-01', 1 + i % {n} FROM generate_series(1, 2 * {n}) AS i;
INSERT INTO g SELECT i, '2024-01-01', 1 + i % (2 * {n}) FROM generate_series(1, 4 * {n}) AS i;
INSERT INTO q SELECT i, 'note', nullif(1 + i % (2 * {n}), 7) FROM generate_series(1, 2 * {n}) AS i;
UPDATE p SET last = (SELECT max(id) FROM c WHERE p = p.id);
UPDATE g SET at = now() WHERE id = 77;
"""
ORPHANS = """
SELECT (SELECT count(*) FROM c WHERE NOT EXISTS (SELECT FROM p WHERE p.id = c.p))
     + (SELECT count(*) FROM p WHERE last IS NOT NULL AND NOT EXISTS (SELECT FROM c WHERE c.id = p.last))
     + (SELECT count(*) FROM g WHERE NOT EXISTS (SELECT FROM c WHERE c.id = g.c))
     + (SELECT count(*) FROM q WHERE c IS NOT NULL AND NOT EXISTS (SELECT FROM c WHERE c.id = q.c))
"""


def rows(conn: Connection) -> "Counter[str]":
    if conn.execute("SELECT to_regclass('public.p')").fetchone() == (None,):
        return Counter()
    found: Counter[str] = Counter()
    for table in TABLES:
        found += Counter(f"{table} {r[0]}" for r in conn.execute(f"SELECT t::text FROM {table} AS t".encode()))
    assert conn.execute(ORPHANS).fetchone() == (0,)
    return found


def seen(keeper: Keeper, table: str) -> int:
    """How many rows a reader sees."""
    for _ in range(5):
        with suppress(NotNow):  # an honest answer on a busy machine
            return int(keeper.query(f"SELECT count(*) AS n FROM {table}").to_pylist()[0]["n"])
    raise AssertionError(table)


FEW = (Point.COPIED, Point.DELETE_BEFORE_COMMIT, Point.DELETED)
EVERY = tuple(point for point in POINTS["main"] if point not in (Point.MIRRORED, Point.FORGOTTEN))


@pytest.mark.parametrize(
    ("make", "at_main", "points", "undoing"),
    [
        pytest.param(MAKE, "", EVERY, (Point.UNDO_ABORTED, Point.UNDO_BEFORE_COMMIT, Point.UNDONE), marks=pytest.mark.long),
        (PARTED, "", FEW, (Point.UNDO_BEFORE_COMMIT,)),
        *(
            pytest.param(
                PARTED, there, EVERY, (Point.UNDO_ABORTED, Point.UNDO_BEFORE_COMMIT, Point.UNDONE), marks=pytest.mark.long
            )
            for there in ("", AT_MAIN)
        ),
    ],
    ids=["plain", "parted", "parted whole", "parted to parted"],
)
def test_killed_at_every_step(
    tiers: Tiers, make: str, at_main: str, points: tuple[Point, ...], undoing: tuple[Point, ...]
) -> None:
    policies = [{"name": f"public.{t}", "age": "at", "core": "30 days"} if t != "q" else {"name": t} for t in TABLES]
    config = tierkeeper_toml(tiers, policies)
    keeper = open_keeper(load(config, tiers.environment, tiers.home), environment=tiers.environment)
    hop = Hop(config, tiers.environment, "p", "core", "main", datetime(2024, 6, 1, tzinfo=UTC), batch_rows=120)
    with closing(tiers.core.connect("oracle")) as core, closing(tiers.main.connect("oracle")) as main:
        core.execute((make + FILL.format(n=120)).encode())
        main.execute(at_main.encode())
        keeper.setup(apply=True)

        def run(point: Point | None = None) -> None:
            process, wire = start_hop(hop, At(point) if point else None)
            process.join(60)
            assert process.exitcode == (-signal.SIGKILL if point else 0), point
            if point is None:
                assert wire.recv() == ("began",)
                said = wire.recv()
                assert said[0] == "ended" and str(said[1]).startswith("referenced: 1 group"), said
            wire.close()
            check()

        def check() -> None:
            """Each row is somewhere as it was, no orphan is anywhere, and a reader sees each once (the tables take turns)."""
            assert (rows(core) | rows(main)) == original
            table = next(asked)
            assert seen(keeper, table) == sum(1 for r in original if r.startswith(table)), table

        original, asked = rows(core), cycle(TABLES)
        for point in points:
            run(point)
        # A child comes to a bundle whose copy is proven: it must be undone, whole.
        run(Point.COPIED)
        parent = core.execute("SELECT max(id) FROM p WHERE id IN (SELECT id FROM p ORDER BY at LIMIT 3)").fetchone()
        core.execute("INSERT INTO q SELECT 999, 'late', last FROM p WHERE id = %s", parent)
        original = rows(core) + (original - rows(core))
        for point in undoing:
            run(point)
        run()
        assert rows(core) + rows(main) == original
        left = core.execute("SELECT array_agg(id) FROM p").fetchone()
        assert left == (core.execute("SELECT array_agg(p) FROM c WHERE id = (SELECT c FROM g WHERE id = 77)").fetchone() or ())


@pytest.mark.long
@pytest.mark.parametrize("point", [Point.COPIED, Point.DELETED])
def test_a_part_is_detached_between_the_kill_and_the_next_run(tiers: Tiers, point: Point) -> None:
    """A bundle that was copied and not deleted is undone whole, for its rows of that part are nobody's to take; what was deleted
    is at Main. While the part's foreign key is there, what it refers to stays, and the run says so by its name.
    """
    policies = [{"name": f"public.{t}", "age": "at", "core": "30 days"} if t != "q" else {"name": t} for t in TABLES]
    config = tierkeeper_toml(tiers, policies)
    hop = Hop(config, tiers.environment, "p", "core", "main", datetime(2024, 6, 1, tzinfo=UTC), batch_rows=120)
    with closing(tiers.core.connect("oracle")) as core, closing(tiers.main.connect("oracle")) as main:
        core.execute((PARTED + FILL.format(n=60)).encode())
        open_keeper(load(config, tiers.environment, tiers.home), environment=tiers.environment).setup(apply=True)
        original = rows(core)

        def run(at: At | None = None) -> str:
            process, wire = start_hop(hop, at)
            process.join(60)
            said = "" if process.exitcode == -signal.SIGKILL else str([wire.recv(), wire.recv()])
            wire.close()
            return said

        assert run(At(point)) == ""
        core.execute("ALTER TABLE q DETACH PARTITION q_1")
        kept = Counter(f"q {r[0]}" for r in core.execute("SELECT t::text FROM q_1 AS t"))
        said = run()
        assert "of public.q_1" in said, said
        assert Counter(f"q {r[0]}" for r in core.execute("SELECT t::text FROM q_1 AS t")) == kept
        core.execute("ALTER TABLE q_1 DROP CONSTRAINT q_c_fkey")
        said = run()
        assert "referenced: 1 group" in said, said
        assert Counter(f"q {r[0]}" for r in core.execute("SELECT t::text FROM q_1 AS t")) == kept
        assert rows(core) + rows(main) + kept == original


AS_BEFORE = (Point.LEASED, Point.SOURCE_READ, Point.SEGMENT_WRITTEN, Point.OBJECT_BEFORE_RENAME)
"""Where nothing is durable that was not at the point before."""
BEFORE_COPIED = POINTS["archive"][: POINTS["archive"].index(Point.COPY_BEFORE_COMMIT)]
IN_THE_MIDDLE = (Point.SEGMENT_WRITTEN, Point.SEGMENT_PUT, Point.MANIFEST_PUT, Point.COMMIT_PUT)
"""Where a bundle comes by once for each of its tables: there it is killed with half of them done."""


@pytest.mark.long
@pytest.mark.parametrize("at_main", ["", AT_MAIN], ids=["plain", "parted"])
@pytest.mark.parametrize("more", [False, True])
def test_killed_at_every_step_to_the_archive(tiers: Tiers, *, more: bool, at_main: str) -> None:
    """What left Main is whole in the archive: a reader sees every row of it once, and no row at Main refers to one that went.

    `more`: killed at each point that there is, and on arrival at the first, third and last table, too.
    """
    aged = {"age": "at", "core": "30 days", "main": "60 days"}
    policies = [{"name": t, **aged} if t != "q" else {"name": t} for t in TABLES]
    config = tierkeeper_toml(tiers, policies, query_timeout="5 seconds")
    keeper = open_keeper(load(config, tiers.environment, tiers.home), environment=tiers.environment)
    hop = Hop(config, tiers.environment, "p", "main", "archive", datetime(2024, 6, 1, tzinfo=UTC), batch_rows=120)
    with closing(tiers.core.connect("oracle")) as core, closing(tiers.main.connect("oracle")) as main:
        core.execute(MAKE)
        main.execute(at_main.encode())
        keeper.setup(apply=True)
        main.execute(FILL.format(n=36))

        def run(point: Point | None = None, nth: int = 1) -> None:
            process, wire = start_hop(hop, At(point, nth) if point else None)
            process.join(60)
            ended = process.exitcode == 0 and [wire.recv(), wire.recv()]
            assert process.exitcode == (-signal.SIGKILL if point else 0), (point, nth, ended)
            if point is None:
                assert str(ended[1][1]).startswith("referenced: 1 group"), ended
            wire.close()
            assert sum((rows(main) - original).values()) == 0
            if point in BEFORE_COPIED:
                assert rows(main) == original
                return
            table = next(asked)
            assert told(keeper, table) == known[table], (point, nth, table)

        original, asked = rows(main), cycle(TABLES)
        known = {t: sorted(map(tuple, main.execute(f"SELECT * FROM {t}".encode()).fetchall()), key=str) for t in TABLES}
        for point in POINTS["archive"]:
            if point is not Point.FORGOTTEN and (more or point not in AS_BEFORE):
                for nth in (1, 2, 3, 4) if more and point in IN_THE_MIDDLE else (2 if point in IN_THE_MIDDLE else 1,):
                    run(point, nth)
        # A child comes to a bundle whose copy is proven: it must be undone, whole.
        run(Point.COPIED)
        stays = main.execute("SELECT p FROM c WHERE id = (SELECT c FROM g WHERE id = 77)").fetchone()
        main.execute("INSERT INTO q SELECT 999, 'late', last FROM p WHERE id <> %s ORDER BY at LIMIT 1", stays)
        late = main.execute("SELECT * FROM q WHERE id = 999").fetchall()
        known["q"] = sorted([*known["q"], *map(tuple, late)], key=str)
        original = original + (rows(main) - original)
        for point in (Point.UNDO_ABORTED, Point.UNDO_BEFORE_COMMIT, Point.UNDONE):
            run(point)
        run(Point.FORGOTTEN)
        run()
        assert {t: told(keeper, t) for t in TABLES} == known
        assert keeper.archive_verify().ok
        assert main.execute("SELECT id FROM p").fetchall() == [stays]


SAMPLE = (Point.MARKER_OPEN, Point.DELETED)


@pytest.mark.parametrize(
    ("more", "make"),
    [
        (False, MAKE),
        *(pytest.param(more, m, marks=pytest.mark.long) for more, m in ((True, MAKE), (False, PARTED), (True, PARTED))),
    ],
)
def test_killed_at_every_step_back_to_core(tiers: Tiers, *, more: bool, make: str) -> None:
    """Core's foreign keys delete, refuse and set to NULL what they like: no row is lost, no orphan is anywhere."""
    aged = {"age": "at", "core": "30 days"}
    config = tierkeeper_toml(tiers, [{"name": t, **aged} if t != "q" else {"name": t} for t in TABLES], query_timeout="5 seconds")
    keeper = open_keeper(load(config, tiers.environment, tiers.home), environment=tiers.environment)
    begun = datetime(2025, 1, 1, tzinfo=UTC)
    hop = Hop(config, tiers.environment, "p", "main", "core", begun, batch_rows=40, where="id % 2 = 0")
    with closing(tiers.core.connect("oracle")) as core, closing(tiers.main.connect("oracle")) as main:
        core.execute(
            make.replace("DELETE CASCADE", "DELETE CASCADE DEFERRABLE")
            .replace("REFERENCES c;", "REFERENCES c DEFERRABLE;")
            .encode()
        )
        keeper.setup(apply=True)
        main.execute(FILL.format(n=40))

        def run(point: Point | None = None) -> None:
            process, wire = start_hop(hop, At(point) if point else None)
            process.join(60)
            ended = process.exitcode == 0 and [wire.recv(), wire.recv()]
            assert process.exitcode == (-signal.SIGKILL if point else 0), (point, ended)
            assert point is not None or ended[1][1] == "complete", ended
            wire.close()
            assert (rows(core) | rows(main)) == original
            table = next(asked)
            if more or point is Point.COPIED:
                assert seen(keeper, table) == sum(1 for r in original if r.startswith(table)), (point, table)

        original, asked = rows(main), cycle(TABLES)
        for point in POINTS["core"] if more else SAMPLE:
            if point is not Point.FORGOTTEN:
                run(point)
        # A row of a bundle whose copy is proven is changed: it must be undone, whole.
        run(Point.COPIED)
        for point in (Point.UNDO_ABORTED, Point.UNDO_BEFORE_COMMIT, Point.UNDONE) if more else (Point.UNDO_BEFORE_COMMIT,):
            before = rows(main)
            main.execute("UPDATE q SET note = note || '!'")
            original = original - (before - rows(main)) + (rows(main) - before)
            process, wire = start_hop(hop, At(point))
            process.join(60)
            assert process.exitcode == -signal.SIGKILL, point
            wire.close()
            assert not original - (rows(core) | rows(main)) and not rows(main) - original
        if more:
            run(Point.FORGOTTEN)
        run()
        assert rows(core) + rows(main) == original
        ids = [[r[0] for r in conn.execute("SELECT id FROM p ORDER BY id").fetchall()] for conn in (core, main)]
        assert ids == [list(range(2, 41, 2)), list(range(1, 41, 2))]


def told(keeper: Keeper, table: str) -> list[tuple[object, ...]]:
    """The rows that a reader sees."""
    for _ in range(5):
        with suppress(NotNow):  # an honest answer on a busy machine
            return sorted((tuple(r.values()) for r in keeper.query(f"SELECT * FROM {table}").to_pylist()), key=str)
    raise AssertionError(table)
