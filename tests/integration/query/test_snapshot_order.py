"""I2 depends on the order in which the tiers' snapshots are taken: here a batch really moves before and after each of them."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from support import TiersFactory, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.query.runner import FastDoor

EVENTS = TableName("public", "events")
POLICY = ({"name": "public.kinds", "mode": "mirror"}, {"name": "public.events", "age": "at", "core": "30 days"})
START = datetime(2024, 1, 1, tzinfo=UTC)


def moving(move_one: Callable[[], None]) -> Callable[..., object]:
    """`FastDoor._reading`, with a batch moved before the snapshot is taken and another one after it."""
    reading = FastDoor._reading

    @contextmanager
    def between(self: FastDoor, conn: Connection, link: Link) -> Iterator[psycopg.Cursor]:
        move_one()
        with reading(self, conn, link) as cur:
            move_one()
            yield cur

    return between


def test_each_row_once_though_a_batch_moves_between_any_two_snapshots(
    make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiers = make_tiers(core="events")
    config = tierkeeper_toml(tiers, POLICY, query_timeout="60 seconds")
    keeper = open_keeper(load(config, {}, tiers.home), environment=tiers.environment)
    keeper.setup(apply=True)
    keeper.move(EVENTS, "core", "main", before=START + timedelta(days=20))
    with closing(tiers.main.connect("test")) as main:  # the rows' rest at Main is over
        main.execute("UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '61 seconds'")
    moved: list[int] = []

    def move_one() -> None:
        moved.append(keeper.move(EVENTS, "main", "archive", before=START + timedelta(days=len(moved) + 1)).rows)

    monkeypatch.setattr(FastDoor, "_reading", moving(move_one))
    found = keeper.query("select count(*) as n, sum(id) as s, count(distinct id) as d from events").to_pylist()
    assert moved == [23, 24, 24, 24, 24, 24]
    assert found == [{"n": 2000, "s": 2001000, "d": 2000}]
