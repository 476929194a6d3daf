"""Space on real servers: what comes back of a table by each method, and what each method leaves alone."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import psycopg
import pytest

from support import DatabaseFactory, eventually
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.quotas import compact, reindex
from tierkeeper.quotas.look import Facts, facts
from tierkeeper.quotas.reclaim import Reclaimed, Reclaimer
from tierkeeper.tiers.space import WORTH_BYTES
from tierkeeper.tiers.tier import Tier

ROWS = 60_000
TABLE = TableName("public", "logs")
MAKE = f"""
CREATE TABLE public.logs (id bigint PRIMARY KEY, at timestamptz NOT NULL, tag uuid, body text)
    WITH (autovacuum_enabled = off);  -- a run is to find all that was deleted
CREATE INDEX logs_at ON public.logs (at);
CREATE INDEX logs_tag ON public.logs (tag);
INSERT INTO public.logs
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 minute', md5(i::text)::uuid, repeat(md5(i::text), 4)
FROM generate_series(1, {ROWS}) AS i;
"""
PATTERNS = {
    "newest": f"id > {ROWS // 2}",
    "oldest": f"id <= {ROWS // 2}",
    "random half": "hashint8(id) % 2 = 0",
    "all but a few": "id % 50 <> 0",
}


@dataclass
class Space:
    """A database with a table of the application's, and the application's own view of it."""

    link: Link
    app: Connection
    quota_bytes: int = 500_000_000
    stop: Callable[[], str | None] = field(default=lambda: None)
    table: TableName = TABLE

    def delete(self, condition: str) -> None:
        self.app.execute(f"DELETE FROM public.logs WHERE {condition}".encode())

    def contents(self) -> object:
        """Every value of every row, as one figure, and how many rows there are."""
        statement = b"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM public.logs AS t"
        return self.app.execute(statement).fetchone()

    def used(self) -> int:
        (size,) = self.app.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
        assert isinstance(size, int)
        return size

    def table_bytes(self) -> int:
        (size,) = self.app.execute("SELECT pg_total_relation_size('public.logs')").fetchone() or (0,)
        assert isinstance(size, int)
        return size

    def reclaim(self, *, may_rewrite: bool = False) -> Reclaimed:
        tier = Tier("core", self.link, self.quota_bytes)
        with closing(self.link.connect("vacuum")) as conn:
            clock, seconds = SystemClock(), 1.0
            reclaimer = Reclaimer(
                conn, tier, self.table, may_rewrite=may_rewrite, longest_reader_seconds=seconds, clock=clock, stop=self.stop
            )
            done = reclaimer.run()
        assert done is not None
        return done

    def invalid(self) -> list[str]:
        found = self.app.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1").fetchall()
        return [str(name) for (name,) in found]

    def least_bytes(self) -> int:
        """What a VACUUM FULL leaves: nothing gives back more. Taken last, for it changes the table."""
        self.app.execute("VACUUM FULL public.logs")
        return self.table_bytes()


@pytest.fixture
def space(database_factory: DatabaseFactory) -> Iterator[Space]:
    link = Link("core", database_factory("space"), insecure=True)
    with closing(link.connect("app")) as app:
        app.execute(MAKE.encode())
        yield Space(link, app)


def methods(done: Reclaimed) -> dict[str, str]:
    return {f.relation: f.method for f in done.figures}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_space_comes_back_whichever_rows_left(space: Space, pattern: str) -> None:
    """Within a quarter of what VACUUM FULL leaves, without its lock and its disk, and no value changed."""
    full = space.used()
    space.delete(PATTERNS[pattern])
    contents = space.contents()
    done = space.reclaim()
    assert done.unreturned_bytes == 0
    assert done.notes == []
    assert space.contents() == contents
    assert methods(done)["heap"] == ("VACUUM" if pattern == "newest" else "tail compaction")
    assert methods(done)["logs_tag"] == "REINDEX CONCURRENTLY"
    fell, left = full - space.used(), space.table_bytes()
    assert fell > 0.35 * sum(f.bytes_before for f in done.figures)
    assert left < 1.25 * space.least_bytes()


def test_a_full_table_does_not_grow(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: whatever the estimate said, a chunk that finds no room in front is taken back."""
    monkeypatch.setattr(compact, "CHUNK_ROWS", 200)
    space.app.execute("VACUUM (ANALYZE) public.logs")
    pages, contents = _facts(space).heap.pages, space.contents()
    with closing(space.link.connect("vacuum")) as conn:
        done = compact.Compaction(conn, TABLE, SystemClock(), lambda: None, 10**9).run(0, ROWS / pages)
    assert done.ended == "its front is full"
    assert done.moved_rows == 0
    assert _facts(space).heap.pages <= pages + 20
    assert space.contents() == contents


def test_a_second_run_finds_nothing_to_do(space: Space) -> None:
    space.delete(PATTERNS["random half"])
    space.reclaim()
    size = space.table_bytes()
    again = space.reclaim()
    assert set(methods(again).values()) <= {"VACUUM"}
    assert space.table_bytes() == size


def test_the_prediction_is_what_a_rewrite_leaves(space: Space) -> None:
    """The pure plan's figures, measured: a rewrite's size and each index's."""
    space.delete(PATTERNS["oldest"])
    space.app.execute("VACUUM (ANALYZE, INDEX_CLEANUP ON) public.logs")
    with closing(space.link.connect("vacuum")) as conn:
        before = facts(conn, TABLE)
        space.app.execute("VACUUM (FULL, ANALYZE) public.logs")
        after = facts(conn, TABLE)
    assert before is not None
    assert after is not None
    assert before.heap.lean_pages == pytest.approx(after.heap.pages, rel=0.05)
    for old, new in zip(before.indexes, after.indexes, strict=True):
        assert old.lean_bytes(1.0) == pytest.approx(new.size_bytes, rel=0.1, abs=50_000)
        assert new.dead_bytes(1.0) == 0


def test_names_with_percent_signs_get_their_space_back_too(space: Space) -> None:
    space.delete(PATTERNS["oldest"])
    contents = space.contents()
    space.app.execute('ALTER TABLE public.logs RENAME id TO "i%d"')
    space.app.execute('ALTER TABLE public.logs RENAME TO "lo%s"')
    space.table = TableName("public", "lo%s")
    assert methods(space.reclaim())["heap"] == "tail compaction"
    space.app.execute('ALTER TABLE public."lo%s" RENAME TO logs')
    assert space.contents() == contents


def test_equal_keys_and_other_access_methods_are_rebuilt_by_what_the_heap_lost(space: Space) -> None:
    space.app.execute("ALTER TABLE public.logs ADD kind int")
    space.app.execute("UPDATE public.logs SET kind = id % 3")
    space.app.execute("CREATE INDEX logs_kind ON public.logs (kind)")
    space.app.execute("CREATE INDEX logs_hash ON public.logs USING hash (tag)")
    space.app.execute("VACUUM FULL public.logs")
    space.delete(PATTERNS["all but a few"])
    done = space.reclaim()
    assert methods(done)["logs_hash"] == "REINDEX CONCURRENTLY"
    assert space.table_bytes() < space.least_bytes() + WORTH_BYTES


UNTOUCHABLE = {
    "its trigger noisy fires on UPDATE": [
        "CREATE FUNCTION noise() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''noticed''; END'",
        "CREATE TRIGGER noisy BEFORE UPDATE ON public.logs FOR EACH ROW EXECUTE FUNCTION noise()",
    ],
    "its rule deaf rewrites an UPDATE": ["CREATE RULE deaf AS ON UPDATE TO public.logs DO INSTEAD NOTHING"],
    "the publication news would send its updates": ["CREATE PUBLICATION news FOR TABLE public.logs"],
    "its generated column half would be computed again": [
        "ALTER TABLE public.logs ADD half bigint GENERATED ALWAYS AS (id / 2) STORED"
    ],
    "its constraint late was never validated": ["ALTER TABLE public.logs ADD CONSTRAINT late CHECK (id < 0) NOT VALID"],
    "its setting vacuum_truncate keeps VACUUM": ["ALTER TABLE public.logs SET (vacuum_truncate = off)"],
}  # fmt: skip


@pytest.mark.parametrize("why", UNTOUCHABLE)
def test_rows_that_somebody_watches_are_not_moved(space: Space, why: str) -> None:
    """The refusal shows what a rewrite would take; with it allowed, the space comes back all the same."""
    for statement in UNTOUCHABLE[why]:
        space.app.execute(statement.encode())
    space.delete(PATTERNS["oldest"])
    versions = "SELECT count(*), sum(hashtextextended(t.xmin::text || t.ctid::text, 0)) FROM public.logs AS t"
    before = space.app.execute(versions.encode()).fetchone()
    done = space.reclaim()
    assert space.app.execute(versions.encode()).fetchone() == before
    (note,) = done.notes
    assert why in note.replace("Its", "its").replace("The p", "the p")
    assert "VACUUM FULL gives back about" in note
    assert "in use at its peak" in note
    assert "locked against readers and writers for about 1 s: allow it with --allow-rewrite" in note
    assert done.unreturned_bytes > 1_000_000
    allowed = space.reclaim(may_rewrite=True)
    assert methods(allowed)["heap"] == "VACUUM FULL"
    assert (allowed.notes, allowed.unreturned_bytes) == ([], 0)
    left = space.table_bytes()
    assert left <= 1.01 * space.least_bytes()


def test_toast_comes_back_by_a_rewrite_alone(space: Space) -> None:
    space.app.execute("ALTER TABLE public.logs ALTER body SET STORAGE external")
    space.app.execute("UPDATE public.logs SET body = repeat(md5(id::text), 80) WHERE id % 15 = 0")
    space.app.execute("VACUUM FULL public.logs")
    space.delete(f"id % 60 <> 0 AND id % 15 = 0 OR id <= {ROWS // 2}")
    contents = space.contents()
    done = space.reclaim()
    assert methods(done)["heap"] == "tail compaction"
    (told,) = re.findall(r"TOAST can only be rewritten; VACUUM FULL gives back about ([0-9.]+) MB", " ".join(done.notes))
    assert done.unreturned_bytes == 0, "no later run gives it back, unless it is allowed"
    allowed = space.reclaim(may_rewrite=True)
    assert methods(allowed)["TOAST"] == "VACUUM FULL"
    assert allowed.unreturned_bytes == 0
    (toast,) = (f.bytes_before - f.bytes_after for f in allowed.figures if f.relation == "TOAST")
    assert toast == pytest.approx(float(told) * 1e6, rel=0.1), "what the compaction gave back is not told again"
    assert space.contents() == contents


def test_scratch_space_is_weighed_against_the_quota(space: Space) -> None:
    """I9: an index that would take the tier over its quota while it is built anew stays as it is."""
    space.app.execute("ALTER TABLE public.logs SET (vacuum_truncate = off)")
    space.delete(PATTERNS["oldest"])
    space.quota_bytes = space.used() + 1_000_000
    refused = space.reclaim()
    assert "REINDEX CONCURRENTLY" not in methods(refused).values()
    assert "make room first, or allow a higher peak with --allow-rewrite" in refused.notes[-1]
    space.quota_bytes += 10_000_000
    assert methods(space.reclaim())["logs_tag"] == "REINDEX CONCURRENTLY"


def _facts(space: Space) -> Facts:
    with closing(space.link.connect("vacuum")) as conn:
        found = facts(conn, TABLE)
    assert found is not None
    return found


def test_a_slot_that_nobody_reads_bars_what_writes(space: Space) -> None:
    space.app.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
    try:
        space.delete(PATTERNS["oldest"])
        done = space.reclaim()
    finally:
        space.app.execute("SELECT pg_drop_replication_slot('forgotten')")
    assert set(methods(done).values()) <= {"VACUUM"}
    assert "The replication slot forgotten is not read" in done.notes[0]
    assert space.reclaim().unreturned_bytes == 0


def test_rows_on_the_move_are_not_touched(space: Space) -> None:
    """A batch is known by its rows' versions: its read, until the delete; its copy, until it is forgotten."""
    space.delete(PATTERNS["oldest"])
    space.app.execute("CREATE SCHEMA tierkeeper")
    space.app.execute("CREATE TABLE tierkeeper.marker (schema_name text, table_name text, state text)")
    space.app.execute("INSERT INTO tierkeeper.marker VALUES ('public', 'logs', 'open')")
    done = space.reclaim()
    assert "heap" not in {r for r, m in methods(done).items() if m != "VACUUM"}
    assert "on the move" in " ".join(done.notes)
    space.app.execute("UPDATE tierkeeper.marker SET state = 'moved'")
    assert methods(space.reclaim())["heap"] == "tail compaction"


@pytest.mark.long
def test_a_writer_holds_nothing_up_and_is_not_held_up(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its transaction lasts the tail cannot be cut, so that nothing is moved for it; its row is passed over."""
    monkeypatch.setattr(reindex, "WAIT_EXTRA_SECONDS", 0)
    space.delete(PATTERNS["oldest"])
    contents = space.contents()
    with closing(space.link.connect("app")) as writer:
        writer.execute("BEGIN")
        writer.execute(f"SELECT FROM public.logs WHERE id = {ROWS} FOR UPDATE".encode())
        done = space.reclaim()
        monkeypatch.setattr("tierkeeper.quotas.reclaim.can_be_cut", lambda *_: True)
        beside = space.reclaim()
        writer.execute("ROLLBACK")
    assert "holds a lock on it" in done.notes[0]
    assert "its emptied tail could not be cut" in beside.notes[0]
    assert done.unreturned_bytes > 0
    assert space.contents() == contents
    assert space.reclaim().unreturned_bytes == 0


def test_a_request_to_stop_ends_it_between_two_chunks(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def stop() -> str | None:
        nonlocal asked
        asked += 1
        return "stopped" if asked > 3 else None

    space.delete(PATTERNS["oldest"])
    contents, space.stop = space.contents(), stop
    done = space.reclaim()
    assert "tail compaction stopped: stopped" in done.notes[0]
    assert "REINDEX CONCURRENTLY" not in methods(done).values()
    assert space.contents() == contents
    space.stop = lambda: None
    monkeypatch.setattr(compact, "WAL_SHARE", 0)
    monkeypatch.setattr("tierkeeper.quotas.reclaim.WAL_SHARE", 0.00001)
    assert "as much WAL as one run may" in space.reclaim().notes[0]
    monkeypatch.setattr("tierkeeper.quotas.reclaim.WAL_SHARE", 0.5)
    assert space.reclaim().unreturned_bytes == 0


def test_wal_is_paced(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(compact, "WAL_BYTES_PER_SECOND", 500_000)
    monkeypatch.setattr(SystemClock, "sleep", lambda _, seconds: rests.append(seconds))
    space.delete(PATTERNS["oldest"])
    space.reclaim()
    assert sum(rests) > 3, "megabytes of WAL at half a megabyte a second"
    assert max(rests) <= compact.PACE_SECONDS


def test_an_ordinary_owner_on_a_read_only_database(space: Space) -> None:
    """As a hosted tier beyond its quota is: no superuser, and every new session read-only."""
    space.delete(PATTERNS["oldest"])
    contents = space.contents()
    name = space.app.info.dbname
    space.app.execute(f"CREATE ROLE \"{name}_owner\" LOGIN PASSWORD 'secret'".encode())
    try:
        space.app.execute(f'ALTER TABLE public.logs OWNER TO "{name}_owner"'.encode())
        space.app.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
        own = psycopg.conninfo.conninfo_to_dict(space.link.url)
        url = f"postgresql://{name}_owner:secret@{own['host']}:{own['port']}/{name}"
        owner = Space(Link("core", url, insecure=True), space.app)
        done = owner.reclaim()
        assert methods(done)["heap"] == "tail compaction"
        assert methods(done)["logs_tag"] == "REINDEX CONCURRENTLY"
        assert (done.notes, done.unreturned_bytes) == ([], 0)
        assert space.contents() == contents
    finally:
        space.app.execute("SET default_transaction_read_only = off")
        space.app.execute(f'ALTER TABLE public.logs OWNER TO "{space.app.info.user}"'.encode())
        space.app.execute(f'DROP ROLE "{name}_owner"'.encode())


def test_a_role_that_may_not_vacuum_is_told_so(space: Space) -> None:
    name = space.app.info.dbname
    space.app.execute(f"CREATE ROLE \"{name}_guest\" LOGIN PASSWORD 'secret'".encode())
    try:
        space.app.execute(f'GRANT SELECT, UPDATE, DELETE ON public.logs TO "{name}_guest"'.encode())
        space.app.execute("ANALYZE public.logs")
        space.delete(PATTERNS["oldest"])
        own = psycopg.conninfo.conninfo_to_dict(space.link.url)
        url = f"postgresql://{name}_guest:secret@{own['host']}:{own['port']}/{name}"
        done = Space(Link("core", url, insecure=True), space.app).reclaim()
        assert "permission denied to vacuum" in " ".join(done.notes)
    finally:
        space.app.execute(f'DROP OWNED BY "{name}_guest"'.encode())
        space.app.execute(f'DROP ROLE "{name}_guest"'.encode())


def test_an_index_that_an_interrupted_rebuild_left_is_dropped_and_no_other(space: Space) -> None:
    """A rebuild that waits for a reader is cancelled after its time, and cleaned up; a foreign invalid index stays."""
    space.app.execute("INSERT INTO public.logs SELECT -1 - i, now(), NULL, 'twice' FROM generate_series(1, 2) AS i")
    with pytest.raises(psycopg.errors.UniqueViolation):
        space.app.execute("CREATE UNIQUE INDEX CONCURRENTLY the_users_own ON public.logs (body) WHERE id < 0")
    space.app.execute("CREATE INDEX logs_ta ON public.logs (tag)")
    space.app.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.logs_ta'::regclass")
    with closing(space.link.connect("app")) as reader, closing(space.link.connect("vacuum")) as conn:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM public.logs")
        pid = conn.info.backend_pid
        rebuilding = threading.Thread(target=_rebuild, args=(conn,))
        rebuilding.start()
        assert eventually(lambda: space.invalid() != ["logs_ta", "the_users_own"])
        space.app.execute("SELECT pg_terminate_backend(%s)", [pid])
        rebuilding.join()
        reader.execute("COMMIT")
    assert space.invalid() == ["logs_ta", "logs_tag_ccnew", "the_users_own"]
    done = space.reclaim()
    assert "logs_tag_ccnew, left by an interrupted REINDEX, was dropped" in done.notes[0]
    assert space.invalid() == ["logs_ta", "the_users_own"]


def _rebuild(conn: Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        conn.execute("REINDEX INDEX CONCURRENTLY public.logs_tag")


def test_a_rebuild_waits_for_no_reader_without_end(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the reader has its lock, what is half built cannot be dropped: the next run does it."""
    monkeypatch.setattr(reindex, "WAIT_EXTRA_SECONDS", 0.2)

    def rebuild(stop: Callable[[], str | None]) -> str | None:
        with closing(space.link.connect("vacuum")) as conn:
            return reindex.reindex(conn, TABLE, "logs_tag", size_bytes=1, longest_reader_seconds=0.3, stop=stop)

    with closing(space.link.connect("app")) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM pg_class")
        assert "an older transaction did not end" in str(rebuild(lambda: None))
        assert space.invalid() == []
        reader.execute("SELECT count(*) FROM public.logs")
        assert rebuild(lambda: "asked to stop") == "asked to stop"
        assert space.invalid() == ["logs_tag_ccnew"]
        reader.execute("COMMIT")
    space.reclaim()
    assert space.invalid() == []


def test_what_somebody_else_rebuilds_is_left_alone(space: Space) -> None:
    with closing(space.link.connect("app")) as reader, closing(space.link.connect("app")) as conn:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM public.logs")
        rebuilding = threading.Thread(target=lambda: conn.execute("REINDEX INDEX CONCURRENTLY public.logs_tag"))
        rebuilding.start()
        assert eventually(lambda: space.invalid() == ["logs_tag_ccnew"])
        with closing(space.link.connect("vacuum")) as other:
            began = time.monotonic()
            assert reindex.clean(other, TABLE) == []
            assert time.monotonic() - began < 5, "whoever waits for this lock holds up the application behind it"
        reader.execute("COMMIT")
        rebuilding.join()
    assert space.invalid() == []
