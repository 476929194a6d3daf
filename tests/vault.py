"""Tiers with an archive whose catalog can be lost; its oracle counts the user's rows, wherever they are."""

import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import processes
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName

EVENTS = TableName("public", "events")
POLICY = ({"name": "public.kinds", "mode": "mirror"}, {"name": "public.events", "age": "at", "core": "30 days"})
SEGMENTS = "SELECT * FROM tierkeeper.segment ORDER BY position"
FORGOTTEN = {"verified_at"}
"""What the store does not know of a segment: when it was read back."""


def day(number: int) -> datetime:
    return datetime(2024, 1, number, tzinfo=UTC)


def _config(tiers: Tiers) -> Path:
    return tierkeeper_toml(tiers, POLICY, query_timeout="1 second")


class House:
    """Two thousand events in Main, and a catalog that can be lost."""

    def __init__(self, tiers: Tiers, cluster: EmbeddedPostgres) -> None:
        self.tiers = tiers
        self._cluster = cluster
        self.config = _config(tiers)
        self.everything = set(range(1, 2001))

    @property
    def keeper(self) -> Keeper:
        return open_keeper(load(self.config, {}, self.tiers.home), environment=self.tiers.environment)

    def archive(self, number: int, die_at: Point | None = None) -> int:
        arguments = [
            "move",
            "public.events",
            "--from",
            "main",
            "--to",
            "archive",
            "--before",
            f"{day(number):%Y-%m-%d}",
            "--json",
        ]
        return processes.command(arguments, self.tiers.environment, die_at=die_at).returncode

    def rebuild(self, *more: str, die_at: Point | None = None) -> processes.Ended:
        return processes.command(["archive", "rebuild", "--json", *more], self.tiers.environment, die_at=die_at)

    def lose_the_catalog(self) -> None:
        name = self.tiers.catalog.url.rpartition("/")[2].partition("?")[0]
        self._cluster.drop_database(name)
        self._cluster.create_database(name)

    def segments(self) -> list[dict[str, Any]]:
        with closing(self.tiers.catalog.connect("test")) as conn:
            cur = conn.execute(SEGMENTS)
            names = [c.name for c in cur.description or ()]
            return [{n: v for n, v in zip(names, row, strict=True) if n not in FORGOTTEN} for row in cur.fetchall()]

    def chain(self) -> Sequence[Any]:
        with closing(self.tiers.catalog.connect("test")) as conn:
            return conn.execute("SELECT position, manifest FROM tierkeeper.chain").fetchall()

    def online(self) -> list[int]:
        with closing(self.tiers.main.connect("oracle")) as conn:
            return [int(r[0]) for r in conn.execute("SELECT id FROM public.events").fetchall()]

    def archived(self, *more: str) -> list[int]:
        out = self.tiers.home / f"out-{time.monotonic_ns()}.parquet"
        ended = processes.command(["archive", "restore", "public.events", "--to", str(out), *more], self.tiers.environment)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return self.ids_in(out)

    def ids_in(self, file: Path) -> list[int]:
        """Of a restored .parquet."""
        return [int(i) for i in pq.read_table(file).column("id").to_pylist()]

    def nothing_is_lost_or_doubled(self) -> None:
        ids = self.online() + self.archived()
        assert len(ids) == len(set(ids)), "a row is there twice"
        assert set(ids) == self.everything
        assert self.keeper.query("SELECT count(*) AS n, sum(id) AS s FROM public.events").to_pylist() == [
            {"n": 2000, "s": 2_001_000}
        ]


def furnish(tiers: Tiers) -> None:
    """Two thousand events in Main, nothing archived."""
    with closing(tiers.core.connect("app")) as core:
        core.execute("TRUNCATE public.events")
    open_keeper(load(_config(tiers), {}, tiers.home), environment=tiers.environment).setup(apply=True)


def furnish_segments(tiers: Tiers) -> None:
    """Two segments besides."""
    furnish(tiers)
    for number in (5, 9):
        keeper = open_keeper(load(_config(tiers), {}, tiers.home), environment=tiers.environment)
        keeper.move(EVENTS, "main", "archive", before=day(number))
