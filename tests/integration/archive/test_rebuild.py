"""The archive's catalog is lost: the store alone gives it back, and what an interrupted run left is settled by Main (I8).

The oracle counts the user's rows: each is in Main or in the archive, once.
"""

import signal
import time
from contextlib import closing, suppress

import pytest

from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, Faults, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point
from vault import EVENTS, House, day

REACHED = [
    Point.SEGMENT_PUT,
    Point.MANIFEST_PUT,
    Point.COPIED,
    Point.DELETE_BEFORE_COMMIT,
    Point.DELETED,
    Point.DONE,
    Point.COMMIT_PUT,
]


def test_a_lost_catalog_comes_back_as_it_was(house: House) -> None:
    for number in (5, 7, 9):
        assert house.archive(number) == 0
        time.sleep(1.1)  # two longest readers later the first one's marker is dropped
    assert house.archive(12, Point.MANIFEST_PUT) == -signal.SIGKILL
    assert house.archive(14) == 0
    kept, listed, end = house.segments(), house.keeper.archive_list(), house.chain()
    house.lose_the_catalog()
    house.keeper.setup(apply=True)
    with pytest.raises(Failed, match="that archive knows nothing of") as refused:
        house.keeper.archive_run(EVENTS, day(16))
    assert "archive rebuild" in refused.value.remedy
    result = house.keeper.archive_rebuild()
    assert (result.ok, result.segments, result.rows, result.undone) == (True, 4, 311, 0)
    assert house.segments() == kept
    assert house.keeper.archive_list() == listed
    assert house.chain() == end
    house.nothing_is_lost_or_doubled()
    assert house.keeper.archive_verify().ok
    assert house.archive(18) == 0
    assert house.keeper.archive_verify().ok, "the chain goes on"
    house.nothing_is_lost_or_doubled()
    with pytest.raises(UsageError, match="knows segments or batches already"):
        house.keeper.archive_rebuild()


def test_a_main_that_is_put_back_after_it_was_made_again_is_told_of(house: House) -> None:
    """Its backup's newest marker may have a place far up in the ledger that was lost, where batches were undone."""
    with closing(house.tiers.catalog.connect("test")) as catalog:
        catalog.execute("SELECT setval(pg_get_serial_sequence('tierkeeper.ledger', 'seq'), 100)")
    assert house.archive(5) == 0
    house.lose_the_catalog()
    assert house.rebuild().returncode == 0
    assert house.keeper.check().ok
    with closing(house.tiers.main.connect("test")) as main:
        main.execute("CREATE TABLE backup AS TABLE events; CREATE TABLE markers AS TABLE tierkeeper.marker")
        main.execute("DELETE FROM tierkeeper.marker")
        assert_put_back(house)
        main.execute("INSERT INTO tierkeeper.marker TABLE markers")
        assert house.archive(9) == 0
        house.nothing_is_lost_or_doubled()
        main.execute("DELETE FROM tierkeeper.marker; INSERT INTO tierkeeper.marker TABLE markers")
        main.execute("TRUNCATE events; INSERT INTO events TABLE backup")
    assert_put_back(house)
    assert house.archive(9) == 1


def assert_put_back(house: House) -> None:
    with pytest.raises(Faults, match="main was put back from an older backup"):
        house.keeper.check()


@pytest.mark.parametrize("point", [p if p is Point.DELETED else pytest.param(p, marks=pytest.mark.long) for p in REACHED])
def test_what_an_interrupted_run_left_is_settled_by_main(house: House, point: Point) -> None:
    """I1 and I5: at whatever step the mover died, and the catalog with it."""
    assert house.archive(5) == 0
    assert house.archive(9, point) == -signal.SIGKILL
    house.lose_the_catalog()
    ended = house.rebuild()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    moved = point in (Point.DELETED, Point.DONE, Point.COMMIT_PUT)
    assert len(house.keeper.archive_list()) == 1 + moved
    house.nothing_is_lost_or_doubled()
    assert house.archive(9) == 0
    assert house.keeper.archive_verify().ok
    house.nothing_is_lost_or_doubled()


@pytest.mark.parametrize("point", [pytest.param(Point.REBUILD_SETTLED, marks=pytest.mark.long), Point.REBUILD_BEFORE_COMMIT])
def test_killed_while_it_is_made_again(house: House, point: Point) -> None:
    assert house.archive(5) == 0
    assert house.archive(9, Point.COPIED) == -signal.SIGKILL
    house.lose_the_catalog()
    assert house.rebuild(die_at=point).returncode == -signal.SIGKILL
    assert house.keeper.archive_list() == []
    assert house.rebuild().returncode == 0
    house.nothing_is_lost_or_doubled()
    assert house.keeper.archive_verify().ok


def test_a_mover_that_is_paused_meanwhile_can_delete_no_more(house: House) -> None:
    """I1: its copy is proven and its delete not begun when the catalog is made again, as if nothing were under way."""
    assert house.archive(5) == 0

    def lose_and_rebuild(point: Point) -> None:
        if point is Point.COPIED:
            faults.disarm()
            house.lose_the_catalog()
            assert house.rebuild().returncode == 0

    faults.arm(lose_and_rebuild)
    try:
        with suppress(TierkeeperError):  # or it begins anew by itself
            house.keeper.move(EVENTS, "main", "archive", before=day(9))
    finally:
        faults.disarm()
    house.nothing_is_lost_or_doubled()
    assert house.archive(9) == 0
    house.nothing_is_lost_or_doubled()


def test_what_only_a_lost_main_could_tell_is_unsure_and_kept(house: House) -> None:
    assert house.archive(5) == 0
    assert house.archive(9, Point.DELETED) == -signal.SIGKILL
    house.lose_the_catalog()
    with_main = house.config.read_text()
    house.config.write_text(with_main.replace(house.tiers.main.url, "postgresql://u:x@127.0.0.1:1/gone"))
    with pytest.raises(NotNow, match=r"tiers\.main"):
        house.keeper.archive_rebuild()
    result = house.keeper.archive_rebuild(without_main=True)
    assert (result.ok, result.segments, len(result.unsure)) == (False, 1, 1)
    (unsure,) = [s for s in house.keeper.archive_list() if s.state == "unsure"]
    assert result.unsure[0].startswith(unsure.segment)
    assert len(house.archived()) == 95, "it counts for nobody"
    assert sorted(house.archived("--segment", unsure.segment)) == list(range(96, 192))
    assert house.keeper.archive_verify().ok


def test_a_store_that_is_not_whole_says_what_it_lacks(house: House) -> None:
    for number in (5, 9, 12):
        assert house.archive(number) == 0
    one, two, three = house.segments()
    house.lose_the_catalog()
    (house.tiers.store / "manifest" / two["manifest"]).unlink()
    (house.tiers.store / three["key_object"]).write_bytes(b"nonsense")
    ended = house.rebuild()
    assert ended.returncode == 1
    assert [s["id"] for s in house.segments()] == [one["id"], three["id"]]
    assert f"{two['id']}: its manifest" in ended.stdout
    assert f"{three['id']}: its key is gone" in ended.stdout
    assert "manifest number 2" in ended.stdout
    assert house.keeper.archive_verify().ok is False


def test_an_older_store_is_refused_by_who_remembers(house: House) -> None:
    for number in (5, 9):
        assert house.archive(number) == 0
    _, newest = house.segments()
    house.lose_the_catalog()
    for key in (newest["commit_object"], "manifest/" + newest["manifest"]):
        (house.tiers.store / key).unlink()
    with pytest.raises(Failed, match="an older state was put back"):
        house.keeper.archive_rebuild()
    assert house.keeper.archive_list() == []


def test_without_a_key_nothing_is_made(house: House) -> None:
    assert house.archive(5) == 0
    house.lose_the_catalog()
    for path in (house.tiers.home / ".config" / "tierkeeper").glob("*.key"):
        path.unlink()
    with pytest.raises(UsageError, match="there is no archive key"):
        house.keeper.archive_rebuild()
    assert not list((house.tiers.home / ".config" / "tierkeeper").glob("*.key"))
