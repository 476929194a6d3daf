"""The guard of copies in flight, switched off for a while: a row of Core's does not go on the word of a copy that anybody may
have changed (I1, I3). The oracle counts the application's own rows and never reads the schema `tierkeeper`.
"""

from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from hop import FILL, Hop, killed, open_filled, open_hop
from support import Tiers
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.faults import Point

ALL = [(i, f"v{i}") for i in range(1, 101)]
TREE = """
CREATE TABLE public.t (id int, at timestamptz NOT NULL, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE public.t_old PARTITION OF public.t FOR VALUES FROM ('2023-01-01') TO ('2025-01-01')
"""
DELETE = "DELETE FROM public.t WHERE id = 8"
AS_RESTORED = "ALTER TABLE public.{0} DISABLE TRIGGER ALL; ALTER TABLE public.{0} ENABLE TRIGGER ALL"
"""What pg_restore --disable-triggers does: a trigger for every session comes back as one for sessions of origin."""
OFF = {
    "off": f"ALTER TABLE public.t DISABLE TRIGGER ALL; {DELETE}",
    "origin": f"{AS_RESTORED.format('t')}; SET session_replication_role = replica; {DELETE}; RESET session_replication_role",
    "and-on-again": "ALTER TABLE public.t DISABLE TRIGGER tierkeeper_copy_in_flight; "
    f"{DELETE}; ALTER TABLE public.t ENABLE ALWAYS TRIGGER tierkeeper_copy_in_flight",
}


@pytest.fixture
def hop(tiers: Tiers) -> Iterator[Hop]:
    with open_filled(tiers) as opened:
        yield opened


def rows(conn: "psycopg.Connection[tuple[object, ...]]") -> list[tuple[object, ...]]:
    return conn.execute("SELECT id, v FROM public.t ORDER BY id").fetchall()


@pytest.mark.parametrize("how", [pytest.param(how, marks=() if how == "and-on-again" else pytest.mark.long) for how in OFF])
def test_beside_a_running_move(hop: Hop, how: str) -> None:
    def act(reached: Point) -> None:
        if reached is Point.COPIED:
            hop.main.execute(OFF[how].encode())

    faults.arm(act)
    with pytest.raises(NotNow, match="was off or altered in"):
        hop.move()
    faults.disarm()
    assert (rows(hop.core), rows(hop.main)) == (ALL, [])
    hop.move()
    assert (rows(hop.core), rows(hop.main)) == ([], ALL)


@pytest.mark.long
def test_before_the_next_run_which_puts_it_back(hop: Hop) -> None:
    killed(hop, Point.COPIED)
    hop.main.execute(OFF["origin"].encode())
    with pytest.raises(NotNow, match="was off or altered in"):
        hop.move()
    assert (rows(hop.core), rows(hop.main)) == (ALL, [])


def test_that_of_a_partition_is_found_and_put_back(tiers: Tiers) -> None:
    with open_hop(tiers) as hop:
        for conn in (hop.core, hop.main):
            conn.execute(TREE)
        hop.core.execute(FILL)
        hop.keeper.setup(apply=True)
        assert not hop.plan().setup
        hop.main.execute(AS_RESTORED.format("t_old").encode())
        assert [step.action for step in hop.plan().setup][:1] == ["guard the rows of public.t_old while a copy is in flight"]
        assert any("guard the rows of public.t_old" in note for note in hop.keeper.check().notes)

        def act(reached: Point) -> None:
            if reached is Point.COPIED:
                hop.main.execute("SET session_replication_role = replica")
                with suppress(psycopg.errors.ObjectInUse):
                    hop.main.execute(DELETE)
                hop.main.execute("RESET session_replication_role")

        faults.arm(act)
        hop.move()
        faults.disarm()
        assert (rows(hop.core), rows(hop.main)) == ([], ALL)
        assert not hop.plan().setup
