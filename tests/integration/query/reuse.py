"""A table whose old rows lie below Core, movers that do not wait, and readers that have time."""

from contextlib import closing
from dataclasses import dataclass

from hop import Hop, T
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.mover.request import Bounds
from tierkeeper.postgres.link import Connection
from tierkeeper.query.runner import FastDoor

OLD, NEW = "2024-01-02", "2024-09-01"
"""Ages before and behind hop.BEFORE: what moves and what stays."""
KINDS = {
    "bigint": ("id bigint", "{}"),
    "text": ("id text", "'key {}'"),
    "uuid": ("id uuid", "'00000000-0000-4000-8000-00000000000{}'"),
    "numeric": ("id numeric", "{}.0"),
    "two": ("a text, b int", "'site', {}"),
    "time": ("id int, hour timestamptz", "{}, '2024-01-01 05:00:00.25+00'"),
}


READER = 30.0
"""Readers have time on a busy machine; for the movers a row has rested after a moment."""


@dataclass
class House(Hop):
    """Movers for which a longest reader's time is a moment, and a reader that has more."""

    reader: Keeper

    def settled(self) -> None:
        """As if the longest reader's time had passed twice since the rows came."""
        for link in (self.tiers.core, self.tiers.main, self.tiers.catalog):
            with closing(link.connect("test")) as conn:
                conn.execute("UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '1 minute', reader_seconds = 0")

    def archive(self) -> int:
        self.settled()
        return self.move(source="main", destination="archive").rows

    def door(self) -> FastDoor:
        links = self.tiers.core, self.tiers.main, self.tiers.catalog
        return FastDoor(*links, [TablePolicy(T, age="at")], timeout_seconds=READER, archive=self.reader.archive.scan())


def house_of(tiers: Tiers, core: Connection, main: Connection, *more: str) -> House:
    tables = [{"name": f"public.{t}", "age": "at", "core": "30 days", "main": "60 days"} for t in ("t", *more)]
    config = tierkeeper_toml(tiers, tables)
    keepers = [open_keeper(load(config, tiers.environment, tiers.home), environment=tiers.environment) for _ in range(2)]
    keepers[0]._bounds = Bounds(0.1, batch_rows=100)
    keepers[1]._bounds = Bounds(READER)
    return House(tiers, core, main, *keepers)


def make(hop: House, kind: str = "bigint", rows: int = 4) -> str:
    """A table of `rows` old rows, all of which are at Main now; returns a key's form."""
    columns, form = KINDS[kind]
    names = ", ".join(c.split()[0] for c in columns.split(", "))
    hop.core.execute(f"CREATE TABLE t ({columns}, at date NOT NULL, body text, PRIMARY KEY ({names}))")
    for i in range(1, rows + 1):
        hop.core.execute(f"INSERT INTO t VALUES ({form.format(i)}, '{OLD}', 'old')")
    hop.keeper.setup(apply=True)
    assert hop.move().rows == rows
    return form


def bodies(hop: House, where: str = "true") -> list[str]:
    return sorted(r["body"] for r in hop.reader.query(f"SELECT body FROM t WHERE {where}").to_pylist())


def count(hop: House) -> int:
    return int(hop.reader.query("SELECT count(*) AS n FROM t").to_pylist()[0]["n"])
