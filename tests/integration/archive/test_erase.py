"""`archive erase`: what matches is gone from every tier for good, and nothing else is, killed anywhere and under readers."""

import json
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import processes
from support import eventually
from tierkeeper.archive.replacing import Replacer, all_stay
from tierkeeper.archive.thaw import SegmentVault
from tierkeeper.kernel.errors import Failed, Fenced, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.ports import Frozen
from tierkeeper.kernel.results import EraseResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.objectstore.directory import DirectoryStore
from vault import EVENTS, House

WHERE = "id % 10 = 3 OR id = 1"
GONE = {i for i in range(1, 2001) if i % 10 == 3 or i == 1}
POINTS: Sequence[Point] = (
    Point.DELETE_BEFORE_COMMIT,
    Point.DELETED,
    Point.SEGMENT_WRITTEN,
    Point.SEGMENT_PUT,
    Point.MANIFEST_PUT,
    Point.REPLACE_BEFORE_COMMIT,
    Point.REPLACED,
    Point.REPLACEMENT_SAID,
    Point.KEY_DESTROYED,
)
DAILY = {(Point.REPLACED, True), (Point.KEY_DESTROYED, False)}
MATRIX = [(point, lost) for point in POINTS for lost in (False, True)]
CONTENT = "SELECT e::text FROM public.events AS e ORDER BY id"


def execute(house: House, statement: str, tier: str = "main") -> Sequence[Any]:
    link = {"main": house.tiers.main, "core": house.tiers.core, "archive": house.tiers.catalog}[tier]
    with closing(link.connect("app")) as conn:
        cur = conn.execute(statement.encode())
        return cur.fetchall() if cur.description else []


def asked(house: House) -> set[int]:
    rows = [r["id"] for r in house.keeper.query("SELECT id FROM public.events").to_pylist()]
    assert len(rows) == len(set(rows))
    return set(rows)


def keys(house: House) -> set[str]:
    return {path.name for path in (house.tiers.store / "key").iterdir()}


def erase(house: House, where: str = WHERE, *, dry_run: bool = False) -> EraseResult:
    return house.keeper.archive_erase(EVENTS, where=where, dry_run=dry_run)


@pytest.fixture
def three(filled: House) -> House:
    """Two segments, the rest in Main but for the newest hundred, which are in Core."""
    execute(filled, "UPDATE tierkeeper.ledger SET state = 'forgotten' WHERE state = 'done'", "archive")
    with closing(filled.tiers.main.connect("app")) as main, closing(filled.tiers.core.connect("app")) as core:
        cur = main.execute("SELECT * FROM public.events ORDER BY at DESC, id DESC LIMIT 100")
        rows, columns = cur.fetchall(), [c.name for c in cur.description or ()]
        marks = ", ".join(["%s"] * len(columns))
        core.cursor().executemany(f"INSERT INTO public.events ({', '.join(columns)}) VALUES ({marks})".encode(), rows)
        main.execute("DELETE FROM public.events WHERE id = ANY (%s)", [[r[columns.index("id")] for r in rows]])
    assert asked(filled) == filled.everything
    return filled


def test_matching_rows_go_from_every_tier_and_no_other_row_is_touched(three: House) -> None:
    restored = "SELECT e::text FROM public.before AS e ORDER BY id"
    three.keeper.archive_restore(EVENTS, to="public.before")
    before = [r for r in execute(three, restored) if int(r[0][1:].split(",")[0]) not in GONE]
    plan = erase(three, dry_run=True)
    assert asked(three) == three.everything, "a plan changes nothing"
    assert (plan.applied, sum(plan.rows.values()), len(plan.segments)) == (False, len(GONE), 2)
    assert all(rows > 0 for rows in plan.rows.values())
    done = erase(three)
    assert (done.rows, done.keys_destroyed, done.notes) == (plan.rows, 2, [])
    assert done.files_left <= 2
    assert asked(three) == three.everything - GONE
    three.keeper.archive_restore(EVENTS, to="public.after")
    assert execute(three, restored.replace("before", "after")) == before
    verified = three.keeper.archive_verify()
    assert (verified.ok, verified.segments, verified.strays) == (True, 2, [])
    again = erase(three)
    assert (sum(again.rows.values()), again.segments, again.keys_destroyed) == (0, {}, 0)
    three.lose_the_catalog()
    rebuilt = three.keeper.archive_rebuild()
    assert (rebuilt.ok, rebuilt.segments) == (True, 2)
    assert asked(three) == three.everything - GONE
    assert three.keeper.archive_verify().ok


def test_no_copy_of_an_old_segment_opens_any_more(three: House) -> None:
    """Whoever copied the store before has the files; the wrapped keys were copied with them only if they were taken, too."""
    store, ring = DirectoryStore(three.tiers.store), three.keeper.archive.reader
    old = three.keeper.archive.segments(EVENTS)
    manifests = [store.get(s.manifest_key) for s in old]
    assert all(ring.data_key(s) for s in old)
    erase(three)
    for segment, manifest in zip(old, manifests, strict=True):
        assert store.head(segment.key_object) is None
        assert store.get(segment.manifest_key) == manifest, "the chain is whole"
        told = ring.manifest(segment)
        assert "ranges" not in told.summary, "what it says of values is sealed with the key that is gone"
    assert not {s.id for s in old} & {s.id for s in three.keeper.archive.segments(EVENTS)}


def test_what_a_killed_run_to_the_archive_left_opens_no_more_either(filled: House) -> None:
    """Its rows came to the archive by the next run, and its own segment is known to nobody."""
    before = keys(filled)
    assert filled.archive(15, die_at=Point.MANIFEST_PUT) < 0
    (stray,) = keys(filled) - before
    held = erase(filled)
    assert (held.ok, held.keys_left) == (False, 1), "its batch may be under way still"
    assert "archive run" in " ".join(held.notes)
    assert stray in keys(filled)
    assert filled.archive(15) == 0
    time.sleep(1.1)
    done = erase(filled)
    assert (done.ok, done.keys_left, stray in keys(filled)) == (True, 0, False)
    assert asked(filled) == filled.everything - GONE
    assert filled.keeper.archive_verify().ok


@pytest.mark.parametrize("which", [0, 1], ids=["in the middle of the chain", "at its end"])
def test_a_key_that_only_a_lost_manifest_knew_is_kept(filled: House, which: int) -> None:
    """A catalog that was made again without it lacks a segment, which comes back with it. One has no commit object either."""
    lost = filled.keeper.archive.segments(EVENTS)[which]
    gone = [lost.manifest_key, *([lost.commit_object or ""] if which == 0 else [])]
    kept = {filled.tiers.store / key: (filled.tiers.store / key).read_bytes() for key in gone}
    for path in kept:
        path.unlink()
    filled.lose_the_catalog()
    with closing(filled.tiers.main.connect("app")) as main:
        main.execute("DELETE FROM tierkeeper.marker")
    next(filled.tiers.home.rglob("archive-checkpoint.json")).unlink()  # this machine is a new one
    filled.keeper.archive_rebuild()
    assert lost.id not in [s.id for s in filled.keeper.archive.segments(EVENTS)]
    assert filled.keeper.archive_erase(EVENTS, where="false").keys_left == 1
    for path, content in kept.items():
        path.write_bytes(content)
    filled.lose_the_catalog()
    assert filled.keeper.archive_rebuild().ok
    assert sorted(filled.online() + filled.archived()) == sorted(filled.everything)


def test_a_segment_of_which_all_goes_leaves_an_empty_one(three: House) -> None:
    done = erase(three, "true")
    assert sum(done.rows.values()) == 2000
    assert asked(three) == set()
    assert [s.rows for s in three.keeper.archive_list()] == [0, 0]
    assert three.keeper.archive_verify().ok
    three.lose_the_catalog()
    assert three.keeper.archive_rebuild().ok
    assert asked(three) == set()


def test_a_locked_file_stays_unreadable_until_its_lock_ends(three: House) -> None:
    store, (old, _) = DirectoryStore(three.tiers.store), three.keeper.archive.segments(EVENTS)
    store.lock(old.object_key, datetime.now(UTC) + timedelta(days=1))
    assert erase(three).keys_destroyed == 2
    assert three.keeper.archive.sweep(0) is not None
    assert store.head(old.object_key) is not None
    assert three.keeper.archive_verify().ok


@pytest.mark.parametrize(("point", "lost"), [m if m in DAILY else pytest.param(*m, marks=pytest.mark.long) for m in MATRIX])
def test_a_kill_at_any_step_and_a_lost_catalog_end_where_an_undisturbed_run_does(three: House, point: Point, lost: bool) -> None:
    command = ["archive", "erase", "public.events", "--where", WHERE, "--json"]
    assert processes.command(command, three.tiers.environment, die_at=point).returncode == -9
    left = asked(three)
    assert left >= three.everything - GONE, "no other row is touched"
    if lost:
        three.keeper.archive.sweep(0)
        three.lose_the_catalog()
        assert three.keeper.archive_rebuild().ok
        assert asked(three) >= three.everything - GONE
    ended = processes.command(command, three.tiers.environment)
    assert ended.returncode == 0, ended.stdout
    assert asked(three) == three.everything - GONE
    verified = three.keeper.archive_verify()
    assert verified.ok, verified
    assert len(list((three.tiers.store / "key").iterdir())) - sum(s.startswith("key/") for s in verified.strays) == 2


def test_readers_see_all_that_stays_once_all_the_while(three: House) -> None:
    over, wrong, right = threading.Event(), list[object](), list[int]()
    stays = sum(three.everything - GONE)

    def ask() -> None:
        question = "SELECT count(*) AS n, sum(id) AS s FROM public.events WHERE NOT (id % 10 = 3 OR id = 1)"
        while not over.is_set():
            try:
                answer = three.keeper.query(question).to_pylist()
            except NotNow:
                continue  # its segment's key was destroyed under it, or the machine is busy
            except TierkeeperError as error:
                wrong.append(error)
            else:
                right.append(1) if answer == [{"n": 2000 - len(GONE), "s": stays}] else wrong.append(answer)

    readers = [threading.Thread(target=ask) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for digit in (3, 13, 1):
            erase(three, f"id % 20 = {digit}" if digit > 1 else "id = 1")
        assert eventually(lambda: len(right) > 3)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert asked(three) == three.everything - GONE


@pytest.mark.parametrize("hop", ["main", "archive", "thaw"])
def test_a_row_on_its_way_is_erased_or_the_run_says_try_again(three: House, hop: str) -> None:
    """What is copied in the next tier counts in this one, and must not come back from there."""
    down = ["move", "public.events", "--from", "core", "--to", "main", "--before", "2030-01-01"]
    again = {
        "main": down,
        "archive": ["move", "public.events", "--from", "main", "--to", "archive", "--before", "2024-01-12"],
        "thaw": ["archive", "thaw", "public.events", "--until", "2024-01-12"],
    }[hop]
    assert processes.command(again, three.tiers.environment, die_at=Point.COPIED).returncode == -9
    with pytest.raises(NotNow, match=r"on (its|their) way"):
        erase(three)
    assert asked(three) >= three.everything - GONE
    assert processes.command(again, three.tiers.environment).returncode == 0
    for link in (three.tiers.main, three.tiers.catalog):
        with closing(link.connect("app")) as conn:  # as if a longest reader had passed
            conn.execute("UPDATE tierkeeper.ledger SET state = 'forgotten' WHERE state = 'done'")
    erase(three)
    assert asked(three) == three.everything - GONE
    assert GONE & (set(three.online()) | {r[0] for r in execute(three, "SELECT id FROM public.events", "core")}) == set()
    assert three.keeper.archive_verify().ok


def test_rows_that_come_up_meanwhile_are_met_by_another_pass(three: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at Core and the one at Main such a row goes up, by a run that nothing holds back."""
    vault, moved = three.keeper.archive.vault, list[int]()
    going_up = execute(three, "SELECT id FROM public.events WHERE id % 10 = 3 ORDER BY id LIMIT 2")

    def erasable(found: SegmentVault, table: TableName) -> list[Frozen]:
        if asked(three) != three.everything and not moved:
            moved.extend(r[0] for r in going_up)
            source = f"unnest(ARRAY{moved}) AS id"
            execute(three, f"INSERT INTO public.events (id, at, kind) SELECT id, now(), 'a' FROM {source}", "core")
        return original(found, table)

    original = type(vault).erasable
    monkeypatch.setattr(type(vault), "erasable", erasable)
    erase(three)
    assert moved
    assert GONE & {r[0] for r in execute(three, "SELECT id FROM public.events", "core")} == set()
    assert asked(three) == three.everything - GONE


def test_a_segment_that_came_a_moment_ago_is_not_replaced_before_its_readers_have_ended(filled: House) -> None:
    """A reader's snapshot of Main may still have its rows, and would count those of the new one as well."""
    execute(filled, "UPDATE tierkeeper.ledger SET state = 'done', settled_at = clock_timestamp()", "archive")
    with pytest.raises(Fenced):
        filled.keeper.archive.replacer.replace(filled.keeper.archive.segments(EVENTS)[0], all_stay, 0)
    assert asked(filled) == filled.everything
    began = time.monotonic()
    erase(filled)
    assert time.monotonic() - began > 0.5, "query.timeout, less what has passed"
    assert asked(filled) == filled.everything - GONE
    assert filled.keeper.archive_verify().ok


def test_a_replacement_whose_key_another_erase_takes_for_left_behind_counts_for_nothing(
    three: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is in the store, and the catalog does not know it yet: nothing tells it from what a killed run leaves."""
    replacer, exchange = three.keeper.archive.replacer, Replacer._exchange

    def behind_another(self: Replacer, *rest: Any) -> None:
        monkeypatch.undo()
        assert three.keeper.archive_erase(EVENTS, where="false").keys_destroyed == 1
        exchange(self, *rest)

    monkeypatch.setattr(Replacer, "_exchange", behind_another)
    with pytest.raises(Fenced, match="an erase has taken the key"):
        replacer.replace(three.keeper.archive.segments(EVENTS)[0], all_stay, 0)
    verified = three.keeper.archive_verify()
    assert (verified.ok, verified.segments) == (True, 2)
    assert sorted(three.online() + three.archived()) == sorted(i for i in three.everything if i <= 1900)


def test_bad_input_changes_nothing(three: House) -> None:
    for where, said in (
        ("nonsense = 1", "does not exist"),
        ("id = 1; DROP TABLE events", "--where"),
        ("generate_series(1, 2) = id", "set-returning"),
        ("count(*) > 1", "aggregate"),
        ("ctid = '(0,1)'", "does not exist"),
        ("id = 'x'", "invalid input syntax"),
    ):
        ended = processes.command(["archive", "erase", "public.events", "--where", where, "--json"], three.tiers.environment)
        error = json.loads(ended.stdout)["error"]
        assert ended.returncode == 2
        assert said in error["place"] + error["cause"]
    with pytest.raises(UsageError, match="no \\[\\[tables\\]\\] entry moves this table"):
        three.keeper.archive_erase(TableName("public", "kinds"), where="true")
    execute(three, "CREATE TABLE public.child (id bigint REFERENCES public.events ON DELETE CASCADE)", "core")
    with pytest.raises(UsageError, match="would delete or change rows of it there"):
        erase(three)
    execute(three, "DROP TABLE public.child; CREATE TABLE public.child (id bigint REFERENCES public.events)", "core")
    execute(three, "INSERT INTO public.child SELECT id FROM public.events WHERE id % 10 = 3 LIMIT 1", "core")
    with pytest.raises(Failed, match="other rows refer to these"):
        erase(three)
    assert asked(three) == three.everything


def test_rows_that_a_trigger_keeps_are_not_said_to_be_gone(three: House) -> None:
    body = "BEGIN UPDATE public.events SET at = at WHERE id = OLD.id; RETURN NULL; END"
    execute(three, f"CREATE FUNCTION public.soft() RETURNS trigger LANGUAGE plpgsql AS $${body}$$", "core")
    execute(three, "CREATE TRIGGER soft BEFORE DELETE ON public.events FOR EACH ROW EXECUTE FUNCTION public.soft()", "core")
    with pytest.raises(Failed, match="rows stay in spite of the delete"):
        erase(three)
    assert asked(three) == three.everything
    execute(
        three, "DROP TRIGGER soft ON public.events; CREATE RULE soft AS ON DELETE TO public.events DO INSTEAD NOTHING", "core"
    )
    with pytest.raises(Failed, match="rows stay in spite of the delete"):
        erase(three)
