"""One table on its way from Core to Main through the keeper, as the command line goes it."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from support import LONGEST_READER, Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.limits import BATCH_ROWS
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.results import MovePlan, MoveResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection

T = TableName("public", "t")
BEFORE = datetime(2024, 6, 1, tzinfo=UTC)


@dataclass
class Hop:
    """Core and Main with the application's connections, and a keeper over them and an archive."""

    tiers: Tiers
    core: Connection
    main: Connection
    keeper: Keeper

    def move(self, table: TableName = T, source: Tier = "core", destination: Tier = "main") -> MoveResult:
        return self.keeper.move(table, source, destination, before=BEFORE)

    def plan(self, table: TableName = T) -> MovePlan:
        return self.keeper.plan_move(table, "core", "main", before=BEFORE)

    def counts(self, table: str = "public.t") -> tuple[Any, Any]:
        """The rows of `table` in Core and in Main, None where it is not."""
        return tuple(
            None if conn.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,)
            else conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()[0]  # type: ignore[index]
            for conn in (self.core, self.main)
        )  # type: ignore[return-value] # fmt: skip


@contextmanager
def open_hop(
    tiers: Tiers, tables: Sequence[TableName] = (T,), batch_rows: int = BATCH_ROWS, query_timeout: str = LONGEST_READER
) -> Iterator[Hop]:
    """A policy for `tables`, each with the age `at`; text forms of values come whole to the application's connections."""
    config = tierkeeper_toml(
        tiers, [{"name": str(n), "age": "at", "core": "30 days", "main": "60 days"} for n in tables], query_timeout=query_timeout
    )
    settings = load(config, tiers.environment, tiers.home)
    keeper = open_keeper(settings, environment=tiers.environment, batch_rows=batch_rows)
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        for conn in (core, main):
            conn.execute("SET extra_float_digits = 3; SET TimeZone = 'UTC'; SET bytea_output = hex")
        yield Hop(tiers, core, main, keeper)
