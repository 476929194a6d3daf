"""Streams of rows whose server ends the session: what was read counts, what was not is told as something that passes."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from support import Tiers
from tierkeeper.kernel.errors import NotNow
from tierkeeper.postgres.arrow import snapshot_reader, stream_error
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
