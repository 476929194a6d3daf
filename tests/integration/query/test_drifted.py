"""Tables altered around a reader: older segments under today's columns, and a rewrite under its snapshot."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.query import core as at_core
from tierkeeper.query import runner

THINGS = TableName("public", "things")
DDL = """
CREATE TABLE things (
    id int PRIMARY KEY, at timestamptz(3) NOT NULL, name varchar(8), code char(3), small smallint, f real, price numeric(8,2),
    wide numeric(39,2)
);
INSERT INTO things
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 day', 'n' || i, chr(96 + i), i, i / 4.0, i / 4.0, i
FROM generate_series(1, 20) i;
CREATE TABLE twin (LIKE things INCLUDING ALL); INSERT INTO twin TABLE things;
"""
DRIFT = """
ALTER TABLE {0} RENAME name TO title; ALTER TABLE {0} RENAME at TO made; ALTER TABLE {0} ADD name text;
ALTER TABLE {0} ALTER id TYPE bigint, ALTER title TYPE text, ALTER code TYPE char(6), ALTER small TYPE bigint,
    ALTER f TYPE double precision, ALTER price TYPE numeric(12,4), ALTER wide TYPE numeric(41,4), ALTER made TYPE timestamptz;
UPDATE {0} SET name = 'new ' || id WHERE id > 15;
"""
COLUMNS = "id, title, name, code, small, f, price, wide"


def day(number: int) -> datetime:
    return datetime(2024, 1, number, tzinfo=UTC)


def keepers(tiers: Tiers, age: str) -> tuple[Keeper, Keeper]:
    """The one that moves, and a reader with more patience than a busy machine asks for."""
    made = []
    for timeout in ("1 second", "1 minute"):
        config = tierkeeper_toml(tiers, [{"name": "public.things", "age": age, "core": "30 days"}], query_timeout=timeout)
        made.append(open_keeper(load(config, {}, tiers.home), environment=tiers.environment))
    return made[0], made[1]


@pytest.fixture
def spread(make_tiers: TiersFactory) -> Iterator[Tiers]:
    """Five rows in the archive, five in Main, ten in Core; the twin has all."""
    tiers = make_tiers()
    with closing(tiers.core.connect("app")) as core:
        core.execute(DDL)
    mover, _ = keepers(tiers, "at")
    mover.setup(apply=True)
    assert mover.move(THINGS, "core", "main", before=day(12)).rows == 10
    time.sleep(1.1)
    assert mover.move(THINGS, "main", "archive", before=day(7)).rows == 5
    yield tiers


def test_older_segments_are_read_by_todays_columns(spread: Tiers) -> None:
    with closing(spread.core.connect("app")) as core:
        for name in ("things", "twin"):
            core.execute(DRIFT.format(name).encode())
        mover, reader = keepers(spread, "made")
        assert mover.move(THINGS, "core", "main", before=day(15)).rows == 3
        wanted = core.execute(
            "SELECT id, title, name, concat(code), small, f, price, wide::text FROM twin ORDER BY id"
        ).fetchall()
    assert [tuple(r.values()) for r in reader.query(f"select {COLUMNS} from things order by id").to_pylist()] == wanted
    assert reader.query("select count(*) as n from things where made < '2024-01-07'").to_pylist() == [{"n": 5}]
    assert reader.query("select title from things where made = '2024-01-03'").to_pylist() == [{"title": "n2"}]
    time.sleep(1.1)
    assert mover.move(THINGS, "main", "archive", before=day(12)).rows == 5
    assert [tuple(r.values()) for r in reader.query(f"select {COLUMNS} from things order by id").to_pylist()] == wanted
    with pytest.raises(UsageError, match="its column 'id' of type integer is of type bigint since"):
        mover.archive_restore(THINGS, to="back")
    segment = mover.archive_list(THINGS)[0].segment
    assert mover.archive_restore(THINGS, to="back", segment=segment).rows == 5


def test_a_table_that_is_rewritten_under_a_readers_snapshot_is_refused(spread: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """I2: to a snapshot from before the rewrite the table is empty, and the reader would miss its rows without a word."""
    _, reader = keepers(spread, "at")
    lock, describe = runner._lock_at_main, at_core.describe
    for link, module, name, real in ((spread.main, runner, "_lock_at_main", lock), (spread.core, at_core, "describe", describe)):
        with closing(link.connect("app")) as app, monkeypatch.context() as patch:

            def rewritten(*args: Any, app: Any = app, real: Any = real) -> Any:
                app.execute("ALTER TABLE things ALTER small TYPE int")
                return real(*args)

            patch.setattr(module, name, rewritten)
            with pytest.raises(NotNow, match="was rewritten just when it was to be read"):
                reader.query("select count(small) as n from things")
            app.execute("ALTER TABLE things ALTER small TYPE smallint")
    assert reader.query("select count(small) as n from things").to_pylist() == [{"n": 20}]


def test_a_reader_keeps_a_rewrite_out_once_it_has_looked(spread: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    _, reader = keepers(spread, "at")
    lock = runner._lock_at_main

    def then_altered(*args: Any) -> None:
        lock(*args)
        with closing(spread.main.connect("app")) as app:
            app.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                app.execute("ALTER TABLE things ALTER small TYPE int")

    monkeypatch.setattr(runner, "_lock_at_main", then_altered)
    assert reader.query("select count(small) as n from things").to_pylist() == [{"n": 20}]
