"""SIGKILL at every durable step of a move of rows that foreign keys join, then the same command again (I1 to I5).

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

import signal
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime
from itertools import cycle

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
INSERT INTO p SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour' FROM generate_series(1, 120) AS i;
INSERT INTO c SELECT i, '2024-01-01', 1 + i % 120 FROM generate_series(1, 240) AS i;
INSERT INTO g SELECT i, '2024-01-01', 1 + i % 240 FROM generate_series(1, 480) AS i;
INSERT INTO q SELECT i, 'note', nullif(1 + i % 240, 7) FROM generate_series(1, 240) AS i;
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


def test_killed_at_every_step(tiers: Tiers) -> None:
    policies = [{"name": f"public.{t}", "age": "at", "core": "30 days"} if t != "q" else {"name": t} for t in TABLES]
    config = tierkeeper_toml(tiers, policies)
    keeper = open_keeper(load(config, tiers.environment, tiers.home), environment=tiers.environment)
    hop = Hop(config, tiers.environment, "p", "core", "main", datetime(2024, 6, 1, tzinfo=UTC), batch_rows=120)
    with closing(tiers.core.connect("oracle")) as core, closing(tiers.main.connect("oracle")) as main:
        core.execute(MAKE)
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
        for point in POINTS["main"]:
            if point not in (Point.MIRRORED, Point.FORGOTTEN):
                run(point)
        # A child comes to a bundle whose copy is proven: it must be undone, whole.
        run(Point.COPIED)
        parent = core.execute("SELECT max(id) FROM p WHERE id IN (SELECT id FROM p ORDER BY at LIMIT 3)").fetchone()
        core.execute("INSERT INTO q SELECT 999, 'late', last FROM p WHERE id = %s", parent)
        original = rows(core) + (original - rows(core))
        for point in (Point.UNDO_ABORTED, Point.UNDO_BEFORE_COMMIT, Point.UNDONE):
            run(point)
        run()
        assert rows(core) + rows(main) == original
        left = core.execute("SELECT array_agg(id) FROM p").fetchone()
        assert left == (core.execute("SELECT array_agg(p) FROM c WHERE id = (SELECT c FROM g WHERE id = 77)").fetchone() or ())
