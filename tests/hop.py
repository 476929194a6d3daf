"""One table on its way between Core and Main through the keeper, as the command line goes it."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from support import LONGEST_READER, Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel import faults
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.limits import BATCH_ROWS
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.results import MovePlan, MoveResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection

T = TableName("public", "t")
BEFORE = datetime(2024, 6, 1, tzinfo=UTC)
MAKE = "CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz NOT NULL, v text); CREATE INDEX ON public.t (at)"
FILL = "INSERT INTO public.t SELECT i, '2024-01-01', 'v' || i FROM generate_series(1, 100) AS i"
"""A hundred old rows, for a table with the columns that MAKE gives it."""


class Killed(BaseException):
    """What a kill leaves, without a process of its own: nothing is settled on the way out."""


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


@contextmanager
def open_filled(tiers: Tiers) -> Iterator[Hop]:
    """The hundred rows in Core, and the protocol's tables in both tiers. A reader has time enough for a busy machine."""
    with open_hop(tiers, query_timeout="10 seconds") as opened:
        opened.core.execute(MAKE)
        opened.core.execute(FILL)
        opened.keeper.setup(apply=True)
        try:
            yield opened
        finally:
            faults.disarm()


def killed(hop: Hop, point: Point, source: Tier = "core", destination: Tier = "main") -> None:
    """A move that ends at `point`, and settles nothing on its way out."""

    def die(reached: Point) -> None:
        if reached is point:
            raise Killed

    faults.arm(die)
    with suppress(Killed):
        hop.move(source=source, destination=destination)
    faults.disarm()
