"""A table that is replaced or written anew under a copy in flight: nothing lost, nothing twice (I1, I2, I3, I4).

The oracle counts the application's own rows and never reads the schema `tierkeeper`.
"""

from collections.abc import Iterator

import psycopg
import pytest

from hop import FILL, Hop, killed, open_filled, open_hop
from support import Tiers
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.kernel.faults import Point

ALL = [(i, f"v{i}") for i in range(1, 101)]
AGAIN = "CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz NOT NULL, v text)"
SWAP = """
CREATE TABLE public.t2 (LIKE public.t INCLUDING ALL); INSERT INTO public.t2 SELECT * FROM public.t;
DROP TABLE public.t; ALTER TABLE public.t2 RENAME TO t
"""
REPLACED = {"dropped": "DROP TABLE public.t", "made-again": f"DROP TABLE public.t; {AGAIN}", "swapped": SWAP}
REWRITTEN = {
    "column": "ALTER TABLE public.t ADD COLUMN zz uuid DEFAULT gen_random_uuid()",
    "type": "ALTER TABLE public.t ALTER COLUMN v TYPE text USING v || ''",
    "vacuum-full": "VACUUM FULL public.t",
}
EVERY = [
    pytest.param(statement, id=name, marks=pytest.mark.long if name in ("made-again", "type") else ())
    for name, statement in {**REPLACED, **REWRITTEN}.items()
]


@pytest.fixture
def hop(tiers: Tiers) -> Iterator[Hop]:
    with open_filled(tiers) as opened:
        yield opened


def rows(conn: "psycopg.Connection[tuple[object, ...]]") -> list[tuple[object, ...]]:
    there = conn.execute("SELECT to_regclass('public.t') IS NOT NULL").fetchone() == (True,)
    return conn.execute("SELECT id, v::text FROM public.t ORDER BY id").fetchall() if there else []


def read(hop: Hop) -> list[tuple[int, str]]:
    answer = hop.keeper.query("SELECT id, v FROM public.t ORDER BY id").to_pylist()
    return [(one["id"], one["v"]) for one in answer]


@pytest.mark.parametrize("statement", EVERY)
def test_beside_a_running_move(hop: Hop, statement: str) -> None:
    """I3: right before the delete the copy's table is looked at once more."""

    def act(reached: Point) -> None:
        if reached is Point.COPIED:
            hop.main.execute(statement.encode())

    faults.arm(act)
    with pytest.raises(NotNow, match="while rows were on their way into it"):
        hop.move()
    faults.disarm()
    assert rows(hop.core) == ALL
    assert rows(hop.main) == []
    assert read(hop) == ALL


@pytest.mark.parametrize("statement", EVERY)
def test_before_the_next_run(hop: Hop, statement: str) -> None:
    """I2: until the next run has settled it, a reader that could not tell the copy from rows that count is refused."""
    killed(hop, Point.COPIED)
    hop.main.execute(statement.encode())
    with pytest.raises(NotNow, match="could not be told from rows that count"):
        read(hop)
    with pytest.raises(NotNow, match="while rows were on their way into it"):
        hop.move()
    assert rows(hop.core) == ALL
    assert rows(hop.main) == []
    assert read(hop) == ALL


@pytest.mark.parametrize("statement", [SWAP, REWRITTEN["column"]], ids=["swapped", "column"])
def test_a_row_that_core_has_changed_since(hop: Hop, statement: str) -> None:
    """I4: what is left of its old version counts for nobody, and is named."""
    killed(hop, Point.COPIED)
    hop.main.execute("INSERT INTO public.t VALUES (500, '2024-01-01', 'of Main alone')")
    hop.main.execute(statement.encode())
    hop.core.execute("UPDATE public.t SET v = 'new' WHERE id = 7")
    now = [(i, "new" if i == 7 else v) for i, v in ALL]
    with pytest.raises(NotNow):
        hop.move()
    assert rows(hop.core) == now
    assert rows(hop.main) == [(7, "v7"), (500, "of Main alone")]
    assert read(hop) == [*now, (500, "of Main alone")]
    assert hop.keeper.status().tables["public.t"].conflicts


def test_a_row_that_core_has_deleted_since(hop: Hop) -> None:
    """I4: which of Main's rows it was nobody can tell; the error says how to end it, and that ends it."""
    killed(hop, Point.COPIED)
    hop.main.execute("INSERT INTO public.t VALUES (500, '2024-01-01', 'of Main alone')")
    hop.main.execute(REWRITTEN["column"].encode())
    hop.core.execute("DELETE FROM public.t WHERE id = 7")
    left = [row for row in ALL if row[0] != 7]
    with pytest.raises(Failed, match="1 of the 100 rows") as told:
        hop.move()
    assert len(rows(hop.main)) == 101
    hop.main.execute("DELETE FROM public.t WHERE id = 7")
    statement = told.value.remedy.split("there: ")[1].split(";")[0]
    hop.main.execute(statement.encode())
    assert hop.move().rows == 99
    assert (rows(hop.core), rows(hop.main)) == ([], [*left, (500, "of Main alone")])
    assert read(hop) == [*left, (500, "of Main alone")]


def test_a_part_that_is_detached_under_a_copy(tiers: Tiers) -> None:
    with open_hop(tiers, query_timeout="10 seconds") as hop:
        for conn in (hop.core, hop.main):
            conn.execute(
                "CREATE TABLE public.t (id int, at timestamptz NOT NULL, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)"
            )
            conn.execute("CREATE TABLE public.t_24 PARTITION OF public.t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')")
            conn.execute("CREATE TABLE public.t_rest PARTITION OF public.t DEFAULT")
        hop.core.execute(FILL)
        hop.keeper.setup(apply=True)

        def act(reached: Point) -> None:
            if reached is Point.COPIED:
                hop.main.execute("ALTER TABLE public.t DETACH PARTITION public.t_24")

        faults.arm(act)
        with pytest.raises(NotNow, match="replaced by another"):
            hop.move()
        faults.disarm()
        assert rows(hop.core) == ALL
        assert read(hop) == ALL


def test_another_part_may_come_meanwhile(tiers: Tiers) -> None:
    """What has nothing of the copy may be attached, made or rewritten."""
    with open_hop(tiers, query_timeout="10 seconds") as hop:
        for conn in (hop.core, hop.main):
            conn.execute(
                "CREATE TABLE public.t (id int, at timestamptz NOT NULL, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)"
            )
            conn.execute("CREATE TABLE public.t_24 PARTITION OF public.t FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')")
        hop.core.execute(FILL)
        hop.keeper.setup(apply=True)

        def act(reached: Point) -> None:
            if reached is Point.COPIED:
                hop.main.execute(
                    "CREATE TABLE public.t_25 PARTITION OF public.t FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')"
                )

        faults.arm(act)
        assert hop.move().rows == 100
        faults.disarm()
        assert (rows(hop.core), rows(hop.main), read(hop)) == ([], ALL, ALL)
