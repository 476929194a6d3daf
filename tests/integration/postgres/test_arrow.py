"""Streams of rows whose server ends the session: what was read counts, what was not is told as something that passes."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from faultproxy import FaultProxy
from support import Tiers
from tierkeeper.archive.digest import ContentDigest
from tierkeeper.kernel.errors import NotNow
from tierkeeper.postgres import arrow
from tierkeeper.postgres.arrow import in_order, snapshot_reader, stream_error
from tierkeeper.postgres.link import transaction

if TYPE_CHECKING:
    import pyarrow as pa

MANY = "SELECT g, repeat('x', 300) AS v FROM generate_series(1, 100000) g"
"""More bytes than a link holds underway: a session that ends amid them has rows left to send."""


@contextmanager
def reading(tiers: Tiers, query: str) -> Iterator["pa.RecordBatchReader"]:
    with closing(tiers.core.connect("test")) as conn, transaction(conn, isolation="repeatable read", read_only=True) as cur:
        snapshot = str(cur.execute("SELECT pg_export_snapshot()").fetchall()[0][0])
        with snapshot_reader(tiers.core, snapshot, query, purpose="probe") as reader:
            yield reader


def end_the_session(tiers: Tiers) -> None:
    with closing(tiers.core.connect("test")) as conn:
        ended = conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'tierkeeper probe'"
        )
        assert ended.fetchall() == [(True,)]


def test_rows_that_were_read_count_whatever_becomes_of_the_session(tiers: Tiers) -> None:
    with reading(tiers, "SELECT 1 AS one") as reader:
        assert reader.read_all().to_pylist() == [{"one": 1}]
        end_the_session(tiers)


def test_the_first_error_is_the_one_that_is_told(tiers: Tiers) -> None:
    with pytest.raises(ZeroDivisionError), reading(tiers, MANY) as reader:
        reader.read_next_batch()
        end_the_session(tiers)
        raise ZeroDivisionError


def test_rows_that_stop_coming_are_asked_for_again(tiers: Tiers) -> None:
    with reading(tiers, MANY) as reader:
        reader.read_next_batch()
        end_the_session(tiers)
        with pytest.raises(OSError) as stopped:
            reader.read_all()
    assert type(stream_error("tiers.core", str(stopped.value))) is NotNow


@pytest.mark.parametrize(("indexed", "sorts"), [(True, False), (False, True)])
def test_rows_come_in_order_from_an_index_where_there_is_one(tiers: Tiers, indexed: bool, sorts: bool) -> None:
    """Postgres would sort a million rows on its disk: of isfinite() it knows nothing."""
    with closing(tiers.core.connect("test")) as conn:
        conn.execute(
            "CREATE TABLE aged AS SELECT '2013-01-01'::timestamptz + g * interval '1 s' AS at, g AS id, repeat('x', 60) AS v"
            " FROM generate_series(1, 200000) g"
        )
        if indexed:
            conn.execute("ALTER TABLE aged ADD PRIMARY KEY (at, id)")
        conn.execute("ANALYZE aged")
        query = sql.SQL("SELECT * FROM public.aged WHERE isfinite(at) ORDER BY at, id")
        with transaction(conn, read_only=True) as cur:
            assert [name for name, _ in arrow._columns_of(cur, query)] == ["at", "id", "v"]
            plan = "".join(row[0] for row in cur.execute(sql.SQL("EXPLAIN {}").format(query)).fetchall())
    assert ("Sort" in plan) == sorts


ODD_VALUES = """
SELECT i::int2 AS i2, (i * 65535)::int4 AS i4, i * 281474976710655 AS i8, i % 3 = 0 AS b,
    CASE i % 11 WHEN 0 THEN '-0' WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' WHEN 4 THEN 1.401298464e-45
        ELSE ((random() - 0.5) * 10.0 ^ (random() * 70 - 35))::float4 END::float4 AS f4,
    CASE i % 13 WHEN 0 THEN '-0' WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' WHEN 4 THEN 5e-324
        WHEN 5 THEN 1.7976931348623157e308 ELSE (random() - 0.5) * 10.0::float8 ^ (random() * 600 - 300) END::float8 AS f8,
    CASE abs(i) % 13 WHEN 0 THEN '' WHEN 1 THEN NULL WHEN 2 THEN '"' WHEN 3 THEN E'\\r\\n,\\n' WHEN 4 THEN E'\\\\.'
        WHEN 5 THEN '\\N' WHEN 6 THEN ' é€😀 ' WHEN 7 THEN 'NULL' WHEN 8 THEN E'\\t"",' WHEN 9 THEN repeat('x"', 200000)
        WHEN 10 THEN E'\\x1f"\\x1e\\x1e,\\n\\x1f' WHEN 11 THEN E'\\x1e' ELSE i::text END AS t,
    CASE i % 5 WHEN 0 THEN NULL ELSE '"' || i END::varchar(9) AS v,
    '0001-01-01'::date + (i + 32768) * 55 AS d,
    timestamp '0001-01-01' + (i + 32768) * interval '55 days 1 microsecond' AS ts,
    CASE i % 4 WHEN 0 THEN timestamptz '9999-12-31 23:59:59.999999+00' WHEN 1 THEN timestamptz '1969-12-31 23:59:59.999999+00'
        ELSE timestamptz '2013-01-01 00:00+00' + i * interval '1.5 milliseconds' END AS tz
FROM generate_series(-32768, 32767, 17) AS i
"""


SMALL = "SELECT 1 AS one"


def test_copied_rows_are_bit_for_bit_those_of_the_driver(tiers: Tiers) -> None:
    """What the archive reads is proven by reading it back; that it was read rightly, two decoders have to agree on."""
    with closing(tiers.core.connect("test")) as conn:
        conn.execute("CREATE TABLE odd AS " + ODD_VALUES)
    query, found = sql.SQL("SELECT * FROM public.odd ORDER BY i2"), []
    with closing(tiers.core.connect("test")) as conn, transaction(conn, isolation="repeatable read", read_only=True) as cur:
        snapshot = str(cur.execute("SELECT pg_export_snapshot()").fetchall()[0][0])
        for read in (in_order(cur, query, "x"), snapshot_reader(tiers.core, snapshot, query._obj, purpose="probe")):
            with read as reader:
                digest = ContentDigest(reader.schema)
                for batch in reader:
                    digest.update(batch.replace_schema_metadata(None))
            found.append((digest.rows, digest.hexdigest()))
    assert found[0] == found[1]
    assert found[0][0] == 3856


def test_who_stops_amid_the_rows_leaves_no_thread_and_a_connection_that_serves(tiers: Tiers) -> None:
    threads = threading.active_count()
    with closing(tiers.core.connect("test")) as conn:
        with (
            pytest.raises(ZeroDivisionError),
            transaction(conn, isolation="repeatable read", read_only=True) as cur,
            in_order(cur, sql.SQL(MANY), "x") as reader,
        ):
            reader.read_next_batch()
            raise ZeroDivisionError
        assert threading.active_count() == threads
        assert conn.execute("SELECT 1").fetchall() == [(1,)]


def test_rows_that_stop_coming_into_the_archive_are_told_with_their_place(tiers: Tiers) -> None:
    with (
        closing(tiers.core.connect("probe")) as conn,
        pytest.raises(NotNow) as told,
        transaction(conn, read_only=True) as cur,
        in_order(cur, sql.SQL(MANY), "the place") as reader,
    ):
        reader.read_next_batch()
        end_the_session(tiers)
        reader.read_all()
    assert told.value.place == "the place"


def test_one_query_after_another_is_sorted_or_not_as_if_it_were_the_first(tiers: Tiers) -> None:
    with closing(tiers.core.connect("test")) as conn:
        for name, key in (("keyed", ", PRIMARY KEY (id)"), ("unkeyed", "")):
            conn.execute(f"CREATE TABLE {name} (id int, v text{key})".encode())
            conn.execute(f"INSERT INTO {name} SELECT g, repeat('x', 60) FROM generate_series(1, 50000) g".encode())
            conn.execute(f"ANALYZE {name}".encode())
        with transaction(conn, read_only=True) as cur:
            for name in ("keyed", "unkeyed", "keyed", "unkeyed"):
                query = sql.SQL("SELECT * FROM public.{} ORDER BY id").format(sql.SQL(name))
                arrow._columns_of(cur, sql.SQL(query.as_string(conn)))
                ((can_sort,),) = cur.execute("SELECT current_setting('enable_sort')").fetchall()
                assert can_sort == ("off" if name == "keyed" else "on"), name


@pytest.mark.parametrize("query", [SMALL, "SELECT g FROM generate_series(1, 100000) g", MANY])
def test_what_the_server_sent_is_counted_though_the_driver_hides_its_socket(tiers: Tiers, query: str) -> None:
    """Also what it receives beside the rows: of a small answer that is nearly all, and it is no look at the whole catalog."""
    with FaultProxy(int(tiers.core.parameters["port"])) as proxy:
        link = proxy.link(tiers.core)
        with closing(tiers.core.connect("test")) as conn, transaction(conn, isolation="repeatable read", read_only=True) as cur:
            snapshot = str(cur.execute("SELECT pg_export_snapshot()").fetchall()[0][0])
            with snapshot_reader(link, snapshot, query, purpose="probe") as reader:
                reader.read_all()
        sent = proxy.passed_bytes["to_client"]
        assert link.received.so_far == pytest.approx(sent, rel=0.1)
        assert sent < 10_000 or query != SMALL
