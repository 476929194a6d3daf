"""A tier that was put back from an older backup, or is another one: no answer without its rows, and a word of it everywhere."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from hop import Hop, T, killed, open_filled
from support import Tiers
from tierkeeper.kernel.errors import Failed, Faults, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.units import Age
from tierkeeper.mover.destination import PostgresDestination

COUNT = "SELECT count(*) AS n FROM public.t"


@pytest.fixture
def hop(tiers: Tiers) -> Iterator[Hop]:
    with open_filled(tiers) as opened:
        yield opened


def count(hop: Hop) -> int:
    return int(hop.keeper.query(COUNT).to_pylist()[0]["n"])


def archived(hop: Hop) -> None:
    hop.main.execute("UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '1 hour'")
    if not hop.counts()[1]:
        hop.move()
        hop.main.execute("UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '1 hour'")
    assert hop.move(source="main", destination="archive").rows == 100
    with closing(hop.tiers.catalog.connect("person")) as catalog:
        catalog.execute("UPDATE tierkeeper.ledger SET state = 'forgotten' WHERE state = 'done'")


def check_told(hop: Hop, tier: str, match: str) -> None:
    """By the reader, by `check` and by `status`."""
    with pytest.raises(Failed, match=match) as told:
        hop.keeper.query(COUNT)
    assert told.value.place == f"tiers.{tier}"
    with pytest.raises(Faults) as found:
        hop.keeper.check()
    assert match in "; ".join(e.cause for e in found.value.errors if e.place == f"tiers.{tier}")
    line = hop.keeper.status().tiers[tier]
    assert (line.healthy, match in (line.cause or "")) == (False, True)


def test_a_main_that_was_put_back(hop: Hop) -> None:
    hop.move()
    assert count(hop) == 100
    assert hop.keeper.check().ok
    hop.main.execute("DELETE FROM tierkeeper.ledger; DELETE FROM public.t")
    check_told(hop, "main", "put back from an older backup")


def test_a_main_that_was_made_again(hop: Hop) -> None:
    """Such as from a dump of the schema public alone, taken before the move: nothing is left there that remembers."""
    hop.move()
    hop.main.execute("DROP SCHEMA tierkeeper CASCADE; DROP TABLE public.t")
    with pytest.raises(UsageError, match="the tierkeeper schema is missing"):
        hop.keeper.query(COUNT)
    match = "put back from an older backup"
    with pytest.raises(Faults) as found:
        hop.keeper.check()
    assert match in "; ".join(e.cause for e in found.value.errors if e.place == "tiers.main")
    assert match in (hop.keeper.status().tiers["main"].cause or "")


def test_a_main_that_was_put_back_amid_a_batch(hop: Hop) -> None:
    """It knows of the batch's intent, and its copy is gone."""
    hop.move()
    hop.main.execute("UPDATE tierkeeper.ledger SET state = 'open', settled_at = NULL, copy_xid = NULL; DELETE FROM public.t")
    check_told(hop, "main", "put back from an older backup")


@pytest.mark.parametrize(("tier", "source", "destination"), [("archive", "main", "archive"), ("core", "main", "core")])
def test_a_tier_behind_main_that_was_put_back(hop: Hop, tier: str, source: Tier, destination: Tier) -> None:
    hop.move()
    hop.main.execute("UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '1 hour'")
    assert hop.move(source=source, destination=destination).rows == 100
    assert count(hop) == 100
    assert hop.keeper.check().ok
    with hop.tiers.catalog.connect("person") as catalog:
        if tier == "archive":
            catalog.execute("TRUNCATE tierkeeper.ledger CASCADE")
        else:
            hop.core.execute("DELETE FROM tierkeeper.ledger; DELETE FROM public.t")
    check_told(hop, tier, "put back from an older backup")
    if tier == "archive":
        keys = sorted((hop.tiers.store / "key").rglob("*"))
        with pytest.raises(Failed, match="put back from an older backup"):
            hop.keeper.archive_erase(T, where="true")
        assert sorted((hop.tiers.store / "key").rglob("*")) == keys


def test_a_catalog_of_before_a_thaw(hop: Hop) -> None:
    """The chain is as long as before: a segment that leaves adds nothing to it. A writer's token leaves the files, too."""
    archived(hop)
    thawed = hop.keeper.archive_thaw(T, hold=Age.parse("30 days", "test"))
    assert (thawed.rows, count(hop), hop.keeper.archive_verify().ok) == (100, 100, True)
    with hop.tiers.catalog.connect("person") as catalog:
        catalog.execute(
            "UPDATE tierkeeper.segment SET state = 'sealed', removal_object = NULL; DELETE FROM tierkeeper.outlived;"
            " DELETE FROM tierkeeper.thaw; DELETE FROM tierkeeper.marker"
        )
    match = "archive was put back from an older backup"
    check_told(hop, "archive", match)
    assert "the catalog counts it still" in "; ".join(hop.keeper.archive_verify().damaged)
    with pytest.raises(Failed, match=match):
        hop.move(source="main", destination="archive")
    assert hop.counts() == (0, 100)


def test_a_main_of_before_an_archive_run_does_not_archive_its_rows_again(hop: Hop) -> None:
    hop.move()
    hop.main.execute("UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '1 hour'; CREATE TABLE before AS TABLE t")
    archived(hop)
    assert hop.keeper.check().ok
    hop.main.execute("DELETE FROM tierkeeper.marker; INSERT INTO public.t SELECT * FROM before WHERE id > 1")
    with closing(hop.tiers.catalog.connect("person")) as catalog:
        catalog.execute("UPDATE tierkeeper.ledger SET state = 'done', settled_at = settled_at - interval '1 hour'")
    assert count(hop) == 100  # one came to Main after its backup, and is in the archive alone
    match = "main was put back from an older backup"
    with pytest.raises(Faults) as found:
        hop.keeper.check()
    (told,) = [e for e in found.value.errors if e.place == "tiers.main"]
    assert match in told.cause
    with pytest.raises(Failed, match=match):
        hop.move(source="main", destination="archive")
    assert [s.rows for s in hop.keeper.archive_list()] == [100]
    hop.main.execute("DELETE FROM public.t")
    hop.main.execute(told.remedy.rpartition("say so in main: ")[2].encode())
    assert hop.keeper.check().ok
    assert hop.move(source="main", destination="archive").rows == 0
    assert count(hop) == 100


def test_a_main_of_amid_an_archive_run_does_not_archive_its_rows_again(hop: Hop) -> None:
    """Its backup has the batch's intent, which a run that came across it may have given up."""
    hop.move()
    hop.main.execute("UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '1 hour'; CREATE TABLE before AS TABLE t")
    archived(hop)
    hop.main.execute("UPDATE tierkeeper.marker SET state = 'aborted'; INSERT INTO public.t TABLE before")
    match = "main was put back from an older backup"
    with pytest.raises(Faults, match=match):
        hop.keeper.check()
    hop.main.execute("UPDATE tierkeeper.marker SET state = 'open'")
    with pytest.raises(Faults, match=match) as found:
        hop.keeper.check()
    with pytest.raises(Failed, match=match):
        hop.move(source="main", destination="archive")
    assert [s.rows for s in hop.keeper.archive_list()] == [100]
    hop.main.execute("DELETE FROM public.t")
    (told,) = [e for e in found.value.errors if e.place == "tiers.main"]
    hop.main.execute(told.remedy.rpartition("say so in main: ")[2].encode())
    assert hop.keeper.check().ok
    assert count(hop) == 100


@pytest.mark.parametrize("point", [Point.COPIED, Point.DELETED])
def test_a_core_that_lost_its_schema_with_a_copy_in_flight(hop: Hop, point: Point) -> None:
    """Its markers are gone, and with them what says whether the copy counts."""
    killed(hop, point)
    hop.core.execute("DROP SCHEMA tierkeeper CASCADE")
    hop.keeper.setup(apply=True)
    with pytest.raises(Failed, match="came from another database") as told:
        hop.keeper.query(COUNT)
    assert told.value.place == "tiers.core"


def test_another_core_is_told_of_before_it_moves(hop: Hop) -> None:
    hop.move()
    hop.core.execute("UPDATE tierkeeper.tier SET id = gen_random_uuid()")
    hop.core.execute("INSERT INTO public.t VALUES (1000, '2024-01-01', 'of another'); ALTER TABLE public.t ADD COLUMN more int")
    match = "this is not the database that rows of public.t came from"
    with pytest.raises(Faults) as found:
        hop.keeper.check()
    assert match in "; ".join(e.cause for e in found.value.errors)
    assert match in (hop.keeper.status().tiers["core"].cause or "")
    with pytest.raises(Failed, match=match):
        hop.move()
    with pytest.raises(Failed, match=match):
        hop.keeper.setup(apply=True)
    assert hop.counts() == (1, 100)
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'public.t'::regclass AND attname = 'more'"
    assert hop.main.execute(columns).fetchone() == (0,)


def test_a_withdrawal_leaves_what_was_copied_meanwhile(hop: Hop) -> None:
    """I1: who saw no marker may act on it when the copy, and even the delete, are long done."""
    killed(hop, Point.DELETED)
    with closing(hop.tiers.main.connect("mover")) as conn:
        main = PostgresDestination(conn, "main", "core", 1)
        (row,) = main.unsettled()
        assert not main.withdraw(row.batch.id)
    assert hop.counts() == (0, 100)
    assert hop.move().recovered == 1
    assert (count(hop), hop.counts()) == (100, (0, 100))
