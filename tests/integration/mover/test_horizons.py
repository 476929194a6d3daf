"""What a run does beside its first copies: no row leaves Core before it is through."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from hop import FILL, Hop, open_filled
from support import Tiers, eventually
from tierkeeper.kernel.errors import TierkeeperError


@pytest.fixture
def filled(tiers: Tiers) -> Iterator[Hop]:
    with open_filled(tiers) as opened:
        yield opened


def test_no_row_leaves_core_before_its_horizon_is_durable(filled: Hop) -> None:
    """I2: a reader asks Main for a table alone that Core says was looked at."""
    filled.core.execute("BEGIN; LOCK TABLE tierkeeper.horizon IN SHARE MODE")
    copied = "SELECT count(*) > 0 FROM tierkeeper.ledger WHERE state = 'copied'"
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(filled.move)
        try:
            assert eventually(lambda: filled.main.execute(copied).fetchone() == (True,))
            time.sleep(0.3)  # as long as a delete takes many times over
            assert filled.counts()[0] == 100
        finally:
            filled.core.execute("COMMIT")
        assert moving.result().rows == 100
    assert filled.counts() == (0, 100)


def test_a_horizon_that_core_refuses_keeps_every_row_there(filled: Hop) -> None:
    """I1, I5: what was copied meanwhile is taken back, and the next run begins anew."""
    filled.core.execute("""
        CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER no BEFORE INSERT OR UPDATE ON tierkeeper.horizon FOR EACH ROW EXECUTE FUNCTION public.no()
    """)
    with pytest.raises(TierkeeperError, match="no"):
        filled.move()
    assert filled.counts() == (100, 0)
    filled.core.execute("DROP TRIGGER no ON tierkeeper.horizon")
    assert filled.move().rows == 100
    assert filled.counts() == (0, 100)


def test_a_key_that_core_got_back_is_noted_by_the_look_beside(filled: Hop) -> None:
    """I2: what came since the last horizon is looked for while earlier batches are settled."""
    assert filled.move().rows == 100
    filled.core.execute(FILL.replace("(1, 100)", "(7, 7)"))
    assert list(filled.move().conflicts) == ["7"]
    assert filled.counts() == (1, 100)
