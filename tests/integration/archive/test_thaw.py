"""Whole segments go back to Main: every row exactly once at every instant, killed anywhere, under readers and writers."""

import json
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

import processes
from support import eventually, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.results import ThawResult
from tierkeeper.kernel.units import Age
from vault import EVENTS, House, day

POINTS: Sequence[Point] = (
    Point.LEASED,
    Point.LEDGER_OPEN,
    Point.MARKER_OPEN,
    Point.SOURCE_READ,
    Point.COPY_BEFORE_COMMIT,
    Point.COPIED,
    Point.WAITED,
    Point.DELETE_BEFORE_COMMIT,
    Point.DELETED,
    Point.THAW_SAID,
    Point.DONE,
    Point.FORGOTTEN,
)
DAILY = {(Point.COPIED, False), (Point.THAW_SAID, True)}
MATRIX = [(point, lost) for point in POINTS for lost in (False, True)]
THAW = ["archive", "thaw", "public.events", "--until", "2024-02-01", "--json"]
MONTH = Age.parse("30 days", "test")
CONTENT = "SELECT count(*), md5(string_agg(e::text, '|' ORDER BY id)) FROM public.events AS e"


def execute(house: House, statement: str, tier: str = "main") -> Sequence[Any]:
    link = {"main": house.tiers.main, "core": house.tiers.core, "archive": house.tiers.catalog}[tier]
    with closing(link.connect("app")) as conn:
        cur = conn.execute(statement.encode())
        return cur.fetchall() if cur.description else []


def settle(house: House) -> None:
    """As if a longest reader had passed since the segments came."""
    execute(house, "UPDATE tierkeeper.ledger SET state = 'forgotten' WHERE state = 'done'", "archive")


def thaw(house: House, **more: Any) -> ThawResult:
    asked = {"until": day(31), "hold": MONTH, **more}
    return house.keeper.archive_thaw(EVENTS, **asked)


@pytest.fixture
def frozen(house: House) -> tuple[House, Sequence[Any]]:
    """The house with two segments whose readers have ended, and what Main's table held before."""
    before = execute(house, CONTENT)
    for number in (5, 9):
        assert house.archive(number) == 0
    settle(house)
    return house, before


def policy(house: House, at: datetime) -> Keeper:
    """A keeper, on the day `at`, of a policy by which all of it belongs in the archive."""
    policies = [{"name": "public.kinds", "mode": "mirror"}, {"name": "public.events", "age": "at", "main": "30 days"}]
    tierkeeper_toml(house.tiers, policies, query_timeout="1 second")
    return open_keeper(load(house.config, {}, house.tiers.home), environment=house.tiers.environment, clock=FixedDay(at))


def test_rows_come_back_bit_for_bit_and_count_once(frozen: tuple[House, Sequence[Any]]) -> None:
    house, before = frozen
    first, second = house.segments()
    plan = thaw(house, dry_run=True)
    assert (plan.applied, plan.rows, len(plan.segments)) == (False, first["rows"] + second["rows"], 2)
    assert len(house.online()) == 2000 - plan.rows, "a plan changes nothing"
    one = thaw(house, until=None, segment=str(first["id"]))
    assert (one.segments, one.rows, one.stopped_because) == ([str(first["id"])], first["rows"], "complete")
    house.nothing_is_lost_or_doubled()
    assert thaw(house).segments == [str(second["id"])]
    assert execute(house, CONTENT) == before
    assert house.keeper.query("SELECT count(*) AS n FROM public.events").to_pylist() == [{"n": 2000}]
    assert house.keeper.archive_list() == []
    verified = house.keeper.archive_verify()
    assert (verified.ok, verified.strays, verified.segments) == (True, [], 0)


def test_files_go_when_no_reader_can_need_them(frozen: tuple[House, Sequence[Any]]) -> None:
    house, _ = frozen
    thaw(house)
    folders = [house.tiers.store / name for name in ("segment", "key")]
    assert [len(list(f.iterdir())) for f in folders] == [2, 2]
    execute(house, "UPDATE tierkeeper.outlived SET since = since - interval '2 seconds'", "archive")
    assert house.keeper.archive_run(EVENTS, day(1)).notes == []
    assert [len(list(f.iterdir())) for f in folders] == [0, 0]
    assert house.keeper.archive_verify().ok


def test_a_run_by_policy_leaves_what_was_thawed_until_its_time_is_over(frozen: tuple[House, Sequence[Any]]) -> None:
    house, before = frozen
    today = datetime(2024, 6, 1, tzinfo=UTC)
    keeper = policy(house, today)
    thawed = keeper.archive_thaw(EVENTS, until=day(5), hold=MONTH)
    assert thawed.held_until == today + MONTH.span
    execute(house, "UPDATE tierkeeper.ledger SET state = 'forgotten'")
    plan = keeper.plan_move(EVENTS, "main", "archive", explain=True)
    assert plan.rows == 2000 - 2 * thawed.rows - (house.segments()[1]["rows"] - thawed.rows)
    assert {s.reason: s.rows for s in plan.stays or []} == {"thawed: came back from the archive for a while": thawed.rows}
    assert any("were thawed, and stay until" in note for note in plan.notes)
    assert keeper.archive_run().runs[0].rows == plan.rows
    assert len(house.online()) == thawed.rows
    settle(house)
    late = policy(house, thawed.held_until)
    assert late.archive_run().runs[0].rows == thawed.rows
    assert house.online() == []
    settle(house)
    assert thaw(house).rows == 2000
    assert execute(house, CONTENT) == before


@pytest.mark.parametrize(("point", "lost"), [m if m in DAILY else pytest.param(*m, marks=pytest.mark.long) for m in MATRIX])
def test_a_kill_at_any_step_and_a_lost_catalog_end_where_an_undisturbed_run_does(
    frozen: tuple[House, Sequence[Any]], point: Point, lost: bool
) -> None:
    house, before = frozen
    if point is Point.FORGOTTEN:
        assert thaw(house, until=day(5)).rows
        execute(house, "UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '1 minute', reader_seconds = 0")
    assert processes.command(THAW, house.tiers.environment, die_at=point).returncode == -9
    if lost:
        house.keeper.archive.sweep(0)  # what may go by then is gone
        house.lose_the_catalog()
        rebuilt = house.keeper.archive_rebuild()
        assert rebuilt.ok, rebuilt
        settle(house)
    assert house.keeper.query("SELECT count(*) AS n, sum(id) AS s FROM public.events").to_pylist() == [
        {"n": 2000, "s": 2_001_000}
    ], "in the middle of it"
    ended = processes.command(THAW, house.tiers.environment)
    assert ended.returncode in (0, 2), ended.stdout
    if ended.returncode == 2:  # the killed run had brought everything
        assert "no segment of it holds such rows" in json.loads(ended.stdout)["error"]["cause"]
        house.keeper.thawing.settle([EVENTS])
    assert execute(house, CONTENT) == before
    assert house.keeper.query("SELECT count(*) AS n, sum(id) AS s FROM public.events").to_pylist() == [
        {"n": 2000, "s": 2_001_000}
    ]
    assert house.keeper.archive_verify().ok


def test_an_erase_leaves_the_key_of_what_a_killed_thaw_took_out(frozen: tuple[House, Sequence[Any]]) -> None:
    """I8: the store has no word of it yet, and a catalog that is made again counts the segment."""
    house, before = frozen
    assert processes.command(THAW, house.tiers.environment, die_at=Point.DELETED).returncode == -9
    with suppress(NotNow):  # or it would end what was begun first
        house.keeper.archive_erase(EVENTS, where="id < 0")
    house.lose_the_catalog()
    assert house.keeper.archive_rebuild().ok
    assert processes.command(THAW, house.tiers.environment).returncode == 0
    assert execute(house, CONTENT) == before


def test_what_a_killed_thaw_left_is_settled_by_the_next_run_to_the_archive(frozen: tuple[House, Sequence[Any]]) -> None:
    house, _ = frozen
    assert processes.command(THAW, house.tiers.environment, die_at=Point.COPIED).returncode == -9
    assert house.archive(12) == 0
    house.nothing_is_lost_or_doubled()
    assert not any(d < day(12) for (d,) in execute(house, "SELECT at FROM public.events"))


def test_readers_see_every_row_once_all_the_while(frozen: tuple[House, Sequence[Any]]) -> None:
    house, _ = frozen
    over, wrong, right = threading.Event(), list[object](), list[int]()

    def ask() -> None:
        while not over.is_set():
            try:
                answer = house.keeper.query("SELECT count(*) AS n, sum(id) AS s FROM public.events").to_pylist()
            except NotNow:
                continue  # an honest answer on a busy machine
            except TierkeeperError as error:
                wrong.append(error)
            else:
                right.append(1) if answer == [{"n": 2000, "s": 2_001_000}] else wrong.append(answer)

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for die_at in (Point.DELETED, Point.COPIED, None):
            processes.command(THAW, house.tiers.environment, die_at=die_at)
        assert eventually(lambda: len(right) > 3)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(house.online()) == 2000


def test_it_waits_for_a_reader_who_lacks_the_rows_at_main(frozen: tuple[House, Sequence[Any]]) -> None:
    house, before = frozen
    with closing(house.tiers.main.connect("app")) as reader, reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT count(*) FROM public.events").fetchone() == (len(house.online()),)
        with pytest.raises(NotNow, match="waiting for a reader at main"):
            thaw(house)
        assert {s["state"] for s in house.segments()} == {"sealed"}, "whoever reads Main as it was finds them in the archive"
    assert thaw(house).recovered == 1
    assert execute(house, CONTENT) == before


def test_writers_meet_a_guard_until_the_rows_are_theirs(frozen: tuple[House, Sequence[Any]]) -> None:
    house, _ = frozen
    assert processes.command(THAW, house.tiers.environment, die_at=Point.COPIED).returncode == -9
    (other,) = execute(house, "SELECT id FROM public.events ORDER BY at DESC LIMIT 1")[0]
    (oldest,) = execute(house, "SELECT id FROM public.events ORDER BY at LIMIT 1")[0]
    with pytest.raises(psycopg.errors.ObjectInUse, match="tierkeeper is moving these rows here"):
        execute(house, f"UPDATE public.events SET kind = kind WHERE id = {oldest}")
    execute(house, f"DELETE FROM public.events WHERE id = {other}")
    assert processes.command(THAW, house.tiers.environment).returncode == 0
    execute(house, "UPDATE tierkeeper.ledger SET state = 'forgotten'")
    execute(house, f"DELETE FROM public.events WHERE id = {oldest}")
    asked = {r["id"] for r in house.keeper.query("SELECT id FROM public.events").to_pylist()}
    assert asked == set(house.online()) == house.everything - {oldest, other}


def test_a_key_that_is_there_already_keeps_the_segment_where_it_is(frozen: tuple[House, Sequence[Any]]) -> None:
    house, _ = frozen
    archived = house.archived()[0]
    execute(house, "CREATE TABLE public.copy AS TABLE public.events")
    execute(house, f"UPDATE public.copy SET id = {archived} WHERE id = (SELECT min(id) FROM public.copy)")
    execute(house, f"INSERT INTO public.events SELECT * FROM public.copy WHERE id = {archived}")
    there = sorted(house.online())
    with pytest.raises(Failed, match=rf"already \(Key \(id\)=\({archived}\) already exists"):
        thaw(house)
    assert sorted(house.online()) == there
    assert sum(s["rows"] for s in house.segments() if s["state"] == "sealed") == 2001 - len(there)


def test_a_segment_that_is_damaged_at_its_last_page_changes_nothing(frozen: tuple[House, Sequence[Any]]) -> None:
    house, _ = frozen
    path = house.tiers.store / "segment" / house.segments()[0]["sha256"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    there = sorted(house.online())
    with pytest.raises(Failed, match="its bytes are not what was written"):
        thaw(house)
    assert sorted(house.online()) == there
    assert [s["state"] for s in house.segments()] == ["sealed", "sealed"]


def test_a_table_that_has_changed_since_gets_its_rows_as_today_or_not_at_all(frozen: tuple[House, Sequence[Any]]) -> None:
    house, _ = frozen
    for tier in ("core", "main"):
        execute(house, "ALTER TABLE public.events ADD COLUMN later int DEFAULT 7", tier)
        execute(house, "ALTER TABLE public.events ADD COLUMN twice int GENERATED ALWAYS AS (2 * id) STORED", tier)
    house.keeper.setup(apply=True)
    execute(house, "DROP TRIGGER tierkeeper_copy_in_flight ON public.events")  # as a table has none that is put in its place
    first, second = house.segments()
    execute(house, "ALTER TABLE public.events ADD CONSTRAINT late CHECK (id > 100) NOT VALID")
    with pytest.raises(Failed, match='violates check constraint "late"') as refused:
        thaw(house, until=None, segment=str(first["id"]))
    assert ("archive restore --segment" in refused.value.remedy, "--where" in refused.value.remedy) == (True, False)
    execute(house, "ALTER TABLE public.events DROP CONSTRAINT late")
    assert thaw(house, until=None, segment=str(first["id"])).rows == first["rows"]
    came = execute(house, "SELECT count(*) FROM public.events WHERE later IS NULL AND twice = 2 * id")
    assert came == [(first["rows"],)], "they have none, as a query says, and not the default of today"
    execute(house, "UPDATE tierkeeper.ledger SET state = 'forgotten'")
    execute(house, "ALTER TABLE public.events DROP COLUMN kind")
    there = sorted(house.online())
    with pytest.raises(Failed, match="Main has no column for its 'kind'"):
        thaw(house, until=None, segment=str(second["id"]))
    assert sorted(house.online()) == there


def test_what_cannot_be_is_refused_and_changes_nothing(frozen: tuple[House, Sequence[Any]]) -> None:
    house, _ = frozen
    for arguments, place in (
        (["public.events"], "--since, --until, --segment"),
        (["public.events", "--until", "2020-01-01"], "table public.events"),
        (["public.events", "--segment", "nonsense"], "segment nonsense"),
        (["public.elsewhere", "--until", "2030-01-01"], "public.elsewhere"),
        (["public.events", "--until", "2030-01-01", "--for", "ever"], "--for"),
    ):
        ended = processes.command(["archive", "thaw", *arguments, "--json"], house.tiers.environment)
        assert (ended.returncode, json.loads(ended.stdout)["error"]["place"]) == (2, place)
    with pytest.raises(UsageError):
        thaw(house, until=day(1))
    house.nothing_is_lost_or_doubled()


def test_it_waits_for_readers_that_a_segment_came_too_lately_for(frozen: tuple[House, Sequence[Any]]) -> None:
    house, before = frozen
    execute(house, "UPDATE tierkeeper.ledger SET state = 'done', settled_at = clock_timestamp()", "archive")
    began = time.monotonic()
    assert len(thaw(house).segments) == 2
    assert time.monotonic() - began > 1, "query.timeout"
    assert execute(house, CONTENT) == before
