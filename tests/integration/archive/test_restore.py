"""Restore: a table, a range of time, one segment, into a new table or a file; whole or not at all."""

import csv
from collections.abc import Callable
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archive_bench import Bench
from tierkeeper.archive.catalog import Catalog
from tierkeeper.archive.keyed import Keys
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import binary, rows

EVENTS = TableName("public", "events")


@pytest.fixture
def archived(small: Bench) -> Bench:
    """Three segments whose ages overlap, and a batch that is copied only: its row still counts in Main."""
    small.main.execute(
        "INSERT INTO events SELECT timestamptz '2013-01-01' + g * interval '1 hour', g, 'x' || g FROM generate_series(10, 500) g"
    )
    small.move("events", "at", "id % 3 = 0")
    small.move("events", "at", "id % 3 = 1 AND id <> 4")
    small.move("events", "at", "id % 3 = 2")
    small.copy(small.batch("events", "at", "id = 4"))
    return small


def test_a_table_comes_back_whole_beside_the_first(archived: Bench) -> None:
    result = archived.archive.restore(EVENTS, to="back", target=archived.tiers.main)
    assert (result.rows, result.segments, result.table, result.to) == (494, 3, "public.events", "back")
    assert archived.rows("(TABLE events EXCEPT TABLE back) UNION ALL (TABLE back EXCEPT TABLE events)") == archived.rows(
        "SELECT * FROM events WHERE id = 4"
    )
    assert archived.rows("SELECT conname FROM pg_constraint WHERE conrelid = 'back'::regclass AND contype = 'p'")


def test_a_range_includes_since_and_excludes_until(archived: Bench) -> None:
    since, until = datetime(2013, 1, 2, tzinfo=UTC), datetime(2013, 1, 3, tzinfo=UTC)
    result = archived.archive.restore(EVENTS, to="part", target=archived.tiers.main, since=since, until=until)
    assert result.rows == 24
    assert archived.rows("SELECT min(at), max(at) FROM part") == archived.rows(
        "SELECT min(at), max(at) FROM events WHERE at >= '2013-01-02' AND at < '2013-01-03'"
    )


def test_one_segment_and_an_empty_range(archived: Bench) -> None:
    segment = Catalog(archived.tiers.catalog).segments()[1]
    result = archived.archive.restore(EVENTS, to="one", target=archived.tiers.main, segment=str(segment.id))
    assert (result.rows, result.segments) == (segment.rows, 1)
    far = datetime(2020, 1, 1, tzinfo=UTC)
    assert archived.archive.restore(EVENTS, to="none", target=archived.tiers.main, since=far).rows == 0
    assert archived.rows("SELECT count(*) FROM none") == [(0,)]


def test_rows_with_these_keys_alone(archived: Bench) -> None:
    """Of three segments whose ages overlap and whose keys are mixed; the row with 4 counts in Main."""
    keys = Keys.parse(["10", "[11]", "12", "4", "9999"])
    selection = archived.archive.selected(EVENTS, keys=keys)
    result = archived.archive.restore(EVENTS, to="few", target=archived.tiers.main, selected=lambda: selection)
    assert (result.rows, archived.rows("SELECT id FROM few ORDER BY id")) == (3, [(10,), (11,), (12,)])
    before = datetime(2013, 1, 1, 12, tzinfo=UTC)
    some = archived.archive.selected(EVENTS, until=before, keys=keys)
    assert sum(batch.num_rows for batch in some.batches()) == 2, "and of these ages"
    for wrong, said in (("ten", "'ten' is no value of its column 'id'"), ("[1, 2]", "2 values are given"), ("[1", "no JSON")):
        with pytest.raises(UsageError, match=said):
            archived.archive.selected(EVENTS, keys=Keys.parse([wrong]))


KEYED = "k uuid, n numeric(6, 2), c char(4), d date, s timestamp, at timestamptz, b boolean, t text"
"""One of each kind that goes in a form of its own; the age's is another than that of a time beside it."""
ROW = "('00000000-0000-0000-0000-00000000000a', 1.50, 'ab', '2013-02-03', '2013-01-01 00:00:00.25', '2013-01-01', true, '[x')"


def test_a_key_of_many_types_is_found_as_a_person_writes_it(bench: Bench) -> None:
    bench.main.execute(f"CREATE TABLE events ({KEYED}, PRIMARY KEY (k, n, c, d, s, at, b, t))".encode())
    bench.main.execute(f"INSERT INTO events VALUES {ROW}, {ROW.replace('0a', '0b')}".encode())
    bench.move("events", "at")
    bench.move("events", "s", "t <> ''")
    written = (
        '["00000000-0000-0000-0000-00000000000A", 1.50, "ab", "2013-02-03", "2013-01-01T00:00:00.250",'
        ' "2013-01-01T01:00:00+01:00", true, "[x"]'
    )
    for segment in Catalog(bench.tiers.catalog).segments():
        found = bench.archive.selected(EVENTS, segment=str(segment.id), keys=Keys.parse([written]))
        assert [batch.column("k").to_pylist() for batch in found.batches()] == [["00000000-0000-0000-0000-00000000000a"]]
        other = bench.archive.selected(EVENTS, segment=str(segment.id), keys=Keys.parse([written.replace("true", "false")]))
        assert list(other.batches()) == []


def test_csv_keeps_null_and_empty_apart(archived: Bench) -> None:
    path = archived.tiers.home / "out.csv"
    result = archived.archive.restore(EVENTS, to=str(path), target=archived.tiers.main)
    assert result.rows == 494
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open(newline="") as file:
        assert len(list(csv.reader(file))) == 495
    archived.main.execute("CREATE TABLE loaded (LIKE events)")
    with archived.main.cursor() as cur, cur.copy("COPY loaded FROM STDIN (FORMAT csv, HEADER)") as stream:
        stream.write(path.read_bytes())
    assert archived.rows("SELECT count(*) FROM (TABLE events EXCEPT TABLE loaded) x") == [(1,)]


def test_parquet_is_plain_and_equal(archived: Bench) -> None:
    path = archived.tiers.home / "out.parquet"
    assert archived.archive.restore(EVENTS, to=str(path), target=archived.tiers.main).rows == 494
    table = pq.read_table(path)
    assert sorted(table["id"].to_pylist()) == [r[0] for r in archived.rows("SELECT id FROM events WHERE id <> 4 ORDER BY id")]
    assert table["what"].null_count == 1


def test_what_exists_is_never_touched(archived: Bench) -> None:
    taken = archived.tiers.home / "taken.csv"
    taken.write_text("mine")
    for to in ("events", str(taken)):
        with pytest.raises(UsageError, match="exists already"):
            archived.archive.restore(EVENTS, to=to, target=archived.tiers.main)
    assert taken.read_text() == "mine"
    assert archived.rows("SELECT count(*) FROM events") == [(495,)]
    for to in (f"{archived.tiers.home}/out.xlsx", f"{archived.tiers.home}/no/such/folder/x.csv"):
        with pytest.raises((UsageError, Failed)):
            archived.archive.restore(EVENTS, to=to, target=archived.tiers.main)
    with pytest.raises(UsageError, match="no segment of it counts"):
        archived.archive.restore(TableName("public", "never"), to="x", target=archived.tiers.main)
    assert sorted(p.name for p in archived.tiers.home.iterdir() if p.name != ".config") == ["taken.csv"]


@pytest.mark.parametrize("to", ["back", "back.csv", "back.parquet"])
def test_damage_in_the_last_segment_leaves_nothing_behind(archived: Bench, to: str) -> None:
    path = archived.tiers.store / Catalog(archived.tiers.catalog).segments(states=("sealed",))[-1].object_key
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    target = to if to == "back" else str(archived.tiers.home / to)
    with pytest.raises(Failed):
        archived.archive.restore(EVENTS, to=target, target=archived.tiers.main)
    assert archived.rows("SELECT to_regclass('back')") == [(None,)]
    assert [p.name for p in archived.tiers.home.iterdir()] == [".config"]


def test_rows_that_the_table_keeps_otherwise_are_refused(archived: Bench) -> None:
    """The read-back compares: a server that changes a value on its way in does not pass."""
    archived.main.execute("""
        CREATE FUNCTION public.lie() RETURNS event_trigger LANGUAGE plpgsql AS $f$ BEGIN
            IF to_regclass('public.back') IS NOT NULL AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'liar') THEN
                CREATE FUNCTION public.liar() RETURNS trigger LANGUAGE plpgsql AS
                    'BEGIN IF NEW.id = 33 THEN NEW.what := ''lie''; END IF; RETURN NEW; END';
                CREATE TRIGGER liar BEFORE INSERT ON public.back FOR EACH ROW EXECUTE FUNCTION public.liar();
            END IF;
        END $f$""")
    archived.main.execute(
        "CREATE EVENT TRIGGER lie ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION public.lie()"
    )
    with pytest.raises(Failed, match="differs from the archive"):
        archived.archive.restore(EVENTS, to="back", target=archived.tiers.main)
    assert archived.rows("SELECT to_regclass('back')") == [(None,)]


def test_nothing_is_visible_before_the_commit(archived: Bench) -> None:
    seen: list[object] = []

    def look(point: Point) -> None:
        if point is Point.RESTORE_BEFORE_COMMIT:
            seen.append(archived.rows("SELECT to_regclass('back')"))

    faults.arm(look)
    try:
        archived.archive.restore(EVENTS, to="back", target=archived.tiers.main)
    finally:
        faults.disarm()
    assert seen == [[(None,)]]


def test_negative_zero_and_the_processors_own_nan_come_back(bench: Bench) -> None:
    bench.main.execute("CREATE TABLE f (at date, id int8 PRIMARY KEY, x float8, y float4)")
    bench.main.execute(
        "INSERT INTO f VALUES ('2013-01-01', 1, 'inf'::float8 - 'inf'::float8, '-0'), ('2013-01-02', 2, '-0', 'NaN')"
    )
    bench.move("f", "at")
    assert bench.archive.restore(TableName("public", "f"), to="g", target=bench.tiers.main).rows == 2
    assert bench.rows("SELECT id, x::text, y::text FROM g ORDER BY id") == [(1, "NaN", "-0"), (2, "-0", "NaN")]


def test_what_goes_in_its_types_own_form_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """uuid, jsonb and times, in domains too, NULL or not; and a value that comes to be another on the way is seen."""
    bench.main.execute("CREATE DOMAIN token AS uuid; CREATE DOMAIN settings AS jsonb")
    bench.main.execute("CREATE TABLE forms (at date, id uuid PRIMARY KEY, t token, all_of_it jsonb NOT NULL, more settings)")
    bench.main.execute("ALTER TABLE forms ADD seen timestamptz, ADD plain timestamp(3), ADD day date")
    bench.main.execute(
        "INSERT INTO forms SELECT '2013-01-01', md5(g::text)::uuid, CASE WHEN g % 3 > 0 THEN md5('t' || g)::uuid END,"
        """ jsonb_build_object('n', g, 'é', '"\\,' || chr(10)), CASE WHEN g % 2 > 0 THEN to_jsonb(repeat('x', g)) END,"""
        " now() + g * g * '1 day 0.1 seconds'::interval, '2000-02-29'::timestamp - g * '1 year 1 millisecond'::interval,"
        " '2000-01-01'"
        " FROM generate_series(1, 300) g"
    )
    bench.main.execute(
        "UPDATE forms SET seen = '-infinity', plain = '4714-11-24 00:00:00.25 BC', day = 'infinity'"
        """ WHERE all_of_it @> '{"n": 7}';"""
        "UPDATE forms SET seen = NULL, plain = '294276-12-31 23:59:59.999', day = '4713-01-01 BC'"
        """ WHERE all_of_it @> '{"n": 8}'"""
    )
    before = bench.rows("SELECT f::text FROM forms f ORDER BY id")
    bench.move("forms", "at")
    monkeypatch.setattr(rows, "to_copy", None)  # they do not go as text
    assert bench.archive.restore(TableName("public", "forms"), to="whole", target=bench.tiers.main).rows == len(before)
    assert bench.rows("SELECT w::text FROM whole w ORDER BY id") == before
    to_binary = binary.to_binary
    ((token,),) = bench.rows("SELECT t FROM whole WHERE all_of_it @> '{\"n\": 7}'")
    for sent, other in ((b'"n": 7,', b'"n": 8,'), (token.bytes, bytes(16))):
        monkeypatch.setattr(binary, "to_binary", lambda *of, pair=(sent, other): bytes(to_binary(*of)).replace(*pair))
        with pytest.raises(Failed, match="differs from the archive"):
            bench.archive.restore(TableName("public", "forms"), to="wrong", target=bench.tiers.main)
        assert bench.rows("SELECT to_regclass('public.wrong')") == [(None,)]


def test_names_with_dots_and_quotes_come_back(bench: Bench) -> None:
    bench.main.execute('CREATE TABLE "T.x" (a int4, "a.b" int4, "a.b.c" text, "%s" text, "{0}" date, PRIMARY KEY ("a.b", a))')
    bench.main.execute("""INSERT INTO "T.x" VALUES (1, 2, 'x', 'y', '2013-01-01'), (3, 4, NULL, '', '2013-01-02')""")
    bench.move('"T.x"', "{0}")
    assert bench.archive.restore(TableName("public", "T.x"), to='"B.x"', target=bench.tiers.main).rows == 2
    assert bench.rows('TABLE "B.x" EXCEPT TABLE "T.x"') == []
    (segment,) = bench.archive.segments()
    with bench.archive.scan().open(str(segment.id)) as content:
        (batch,) = content.batches(["a", "%s"], None, None)
    assert batch.to_pylist() == [{"a": 1, "%s": "y"}, {"a": 3, "%s": ""}]


def test_a_column_added_between_segments_is_named(archived: Bench) -> None:
    archived.main.execute("ALTER TABLE events ADD COLUMN more int4")
    archived.main.execute("INSERT INTO events VALUES ('2015-01-01', 1000, 'y', 7)")
    archived.move("events", "at", "id = 1000")
    with pytest.raises(UsageError, match="columns changed"):
        archived.archive.restore(EVENTS, to="back", target=archived.tiers.main)
    new = archived.archive.restore(EVENTS, to="back", target=archived.tiers.main, since=datetime(2015, 1, 1, tzinfo=UTC))
    assert new.rows == 1
    assert archived.rows("SELECT more FROM back") == [(7,)]


def test_a_type_that_means_something_else_by_now_takes_no_value(bench: Bench) -> None:
    """Of a pair whose halves changed places a value is the same text, and reads back as such."""
    pairs = TableName("public", "pairs")
    made = "CREATE TYPE {} AS (low int4, high int4)", "CREATE TYPE {} AS (high int4, low int4)"
    bench.main.execute(made[0].format("pair").encode())
    bench.main.execute("CREATE TABLE pairs (at date NOT NULL, id int4 PRIMARY KEY, p pair[])")
    bench.main.execute("INSERT INTO pairs VALUES ('2013-01-01', 1, '{\"(1,2)\"}'), ('2013-01-02', 2, NULL)")
    bench.move("pairs", "at", "id = 1")
    bench.main.execute("CREATE TABLE mine (LIKE pairs INCLUDING ALL)")
    bench.main.execute("ALTER TYPE pair DROP ATTRIBUTE low, ADD ATTRIBUTE low int4")
    before = bench.rows("SELECT relname FROM pg_class WHERE relname !~ '^pg_' ORDER BY 1")
    place = r"\(main\), column 'p': its type public.pair is \(high integer, low integer\) there, and was \(low integer, high"
    for to, on_conflict in (("back", None), ("mine", "skip")):
        with pytest.raises(UsageError, match=place):
            bench.archive.restore(pairs, to=to, target=bench.tiers.main, on_conflict=on_conflict)
    assert bench.rows("SELECT relname FROM pg_class WHERE relname !~ '^pg_' ORDER BY 1") == before
    assert bench.rows("SELECT count(*) FROM mine") == [(0,)]
    bench.move("pairs", "at", "id = 2")
    with pytest.raises(UsageError, match=r"'p' has the type public.pair, which was \(low .* and is \(high"):
        bench.archive.restore(pairs, to=str(bench.tiers.home / "pairs.csv"), target=bench.tiers.main)
    bench.main.execute("ALTER TYPE pair DROP ATTRIBUTE high, ADD ATTRIBUTE high int4")
    first = str(Catalog(bench.tiers.catalog).segments()[0].id)
    assert bench.archive.restore(pairs, to="back", target=bench.tiers.main, segment=first).rows == 1
    assert bench.rows("SELECT (p[1]).low, (p[1]).high FROM back") == [(1, 2)]


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_segments_with_and_without_ages_bc_come_back_as_one_table(bench: Bench, kind: str) -> None:
    bench.main.execute(f"CREATE TABLE old (at {kind} NOT NULL, id int4 PRIMARY KEY)".encode())
    bench.main.execute(
        "INSERT INTO old VALUES ('0044-03-15 12:30:00 BC', 1), ('0001-01-01', 2), ('1969-12-31 23:59:59.999999', 3),"
        " ('2000-02-29 10:00:10.5', 4)"
    )
    bench.move("old", "at", "id = 1")
    bench.move("old", "at", "id > 1")
    bench.main.execute("CREATE TABLE loaded (LIKE old)")
    assert bench.archive.restore(TableName("public", "old"), to="back", target=bench.tiers.main).rows == 4
    path = bench.tiers.home / "old.csv"
    assert bench.archive.restore(TableName("public", "old"), to=str(path), target=bench.tiers.main).rows == 4
    with bench.main.cursor() as cur, cur.copy("COPY loaded FROM STDIN (FORMAT csv, HEADER)") as stream:
        stream.write(path.read_bytes())
    for made in ("back", "loaded"):
        assert bench.rows(f"(TABLE old EXCEPT TABLE {made}) UNION ALL (TABLE {made} EXCEPT TABLE old)") == []


def test_tierkeepers_own_schema_takes_no_restored_table(archived: Bench) -> None:
    with pytest.raises(UsageError, match="own"):
        archived.archive.restore(EVENTS, to="tierkeeper.back", target=archived.tiers.main)


def test_a_line_that_looks_like_copys_end_comes_back(bench: Bench) -> None:
    bench.main.execute("CREATE TABLE t (at date, id int4 PRIMARY KEY, x text)")
    bench.main.execute(
        "INSERT INTO t VALUES ('2013-01-01', 1, E'a\\n\\\\.\\nb'), ('2013-01-01', 2, E'\\\\.'), ('2013-01-01', 3, E'\\r\\n')"
    )
    bench.move("t", "at")
    assert bench.archive.restore(TableName("public", "t"), to="u", target=bench.tiers.main).rows == 3
    assert bench.rows("TABLE t EXCEPT TABLE u") == []


@pytest.mark.parametrize(
    "value", ["plain", " two  blanks ", r"\N", r"\.", "NULL", "a\tb", "a,b", 'a"b', "a\nb", "a\rb", "", "'", "é😀"]
)
def test_texts_come_back_with_as_few_quotes_as_they_need(bench: Bench, value: str) -> None:
    bench.main.execute("CREATE TABLE t (at timestamptz, id int4 PRIMARY KEY, x text)")
    bench.main.execute("INSERT INTO t VALUES ('1905-01-01 00:00:01', 1, NULL), ('2013-01-01 01:02:03', 2, %s)", (value,))
    bench.move("t", "at")
    assert bench.archive.restore(TableName("public", "t"), to="u", target=bench.tiers.main).rows == 2
    assert bench.rows("TABLE t EXCEPT TABLE u") == []


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_killed_restore_leaves_no_rows_in_the_clear(archived: Bench, ending: str) -> None:
    """I6: what is not finished has no name, so that nothing is left of it when the process is gone."""
    folder, seen = archived.tiers.home / "out", list[object]()
    folder.mkdir()

    def look(point: Point) -> None:
        if point is Point.RESTORE_BEFORE_COMMIT:
            seen.append(list(folder.iterdir()))

    faults.arm(look)
    try:
        assert archived.archive.restore(EVENTS, to=f"{folder}/x.{ending}", target=archived.tiers.main).rows == 494
    finally:
        faults.disarm()
    assert seen == [[]]
    assert [(p.name, p.stat().st_mode & 0o777) for p in folder.iterdir()] == [(f"x.{ending}", 0o600)]


def test_a_file_that_holds_another_value_is_not_kept(archived: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    to_csv, write_table = rows.to_csv, pq.ParquetWriter.write_table
    monkeypatch.setattr(rows, "to_csv", lambda batch: to_csv(batch).replace(b'"x33"', b'"x34"'))
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda self, table: write_table(self, table.slice(0, len(table) - 1)))
    for name in ("out.csv", "out.parquet"):
        with pytest.raises(Failed, match="differs from the archive"):
            archived.archive.restore(EVENTS, to=str(archived.tiers.home / name), target=archived.tiers.main)
        assert not (archived.tiers.home / name).exists()


@pytest.mark.parametrize(
    "wrong", [lambda batch: batch.take([1, 0, *range(2, len(batch))]), lambda batch: batch.slice(1)], ids=["swapped", "lost"]
)
def test_a_table_that_holds_other_rows_is_not_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[pa.RecordBatch], pa.RecordBatch]
) -> None:
    """Whether its rows go in binary, as text does and numbers, or as text, as xml does."""
    to_copy, to_binary = rows.to_copy, binary.to_binary
    monkeypatch.setattr(rows, "to_copy", lambda batch: to_copy(wrong(batch)))
    monkeypatch.setattr(binary, "to_binary", lambda batch, types: to_binary(wrong(batch), types))
    for name, kind in (("in_binary", "text"), ("as_text", "xml")):
        bench.main.execute(f"CREATE TABLE {name} (at date, id int4 PRIMARY KEY, x {kind})".encode())
        bench.main.execute(f"INSERT INTO {name} SELECT '2013-01-01', g, g::text::{kind} FROM generate_series(1, 500) g".encode())
        bench.move(name, "at")
        with pytest.raises(Failed, match="differs from the archive"):
            bench.archive.restore(TableName("public", name), to="wrong", target=bench.tiers.main)
        assert bench.rows("SELECT to_regclass('public.wrong')") == [(None,)]
