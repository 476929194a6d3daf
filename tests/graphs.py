"""Tables that foreign keys join, at either end of a hop: a keeper over them, and the application's own view of its rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.results import MoveResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.request import Bounds
from tierkeeper.postgres.link import Connection

BEFORE: Final = datetime(2024, 6, 1, tzinfo=UTC)
REST: Final = 0.15
"""Where nothing runs at once, rows rest for a moment."""
MOVED: Final = {"age": "at", "core": "30 days", "main": "60 days"}


@dataclass
class House:
    """Core and Main with the application's connections, and a keeper."""

    tiers: Tiers
    core: Connection
    main: Connection
    keeper: Keeper
    tables: Sequence[str]

    def move(self, table: str = "orders", source: Tier = "core", destination: Tier = "main", **more: Any) -> MoveResult:
        if destination != "core":
            more.setdefault("before", BEFORE)
        return self.keeper.move(TableName("public", table), source, destination, **more)

    def rows(self, tier: str, table: str) -> list[str]:
        """Each with its values in the order of the columns' names; none where there is no such table."""
        conn = {"core": self.core, "main": self.main}[tier]
        if conn.execute("SELECT to_regclass(%s)", [f"public.{table}"]).fetchone() == (None,):
            return []
        columns = self.core.execute(
            "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute WHERE attrelid = to_regclass(%s) "
            "AND attnum > 0 AND NOT attisdropped", [f"public.{table}"]).fetchone()  # fmt: skip
        assert columns is not None
        return sorted(str(r) for r in conn.execute(f"SELECT {columns[0]} FROM public.{table}".encode()).fetchall())

    def counts(self, tier: str) -> list[int]:
        return [len(self.rows(tier, t)) for t in self.tables]

    def everywhere(self) -> dict[str, list[str]]:
        """The rows of both tiers, doubled ones twice."""
        return {t: sorted(self.rows("core", t) + self.rows("main", t)) for t in self.tables}

    def one(self, conn: Connection, statement: str) -> Any:
        row = conn.execute(statement.encode()).fetchone()
        return row[0] if row else None

    def seen(self) -> list[int]:
        """How many rows of each table a reader is told."""
        parts = ", ".join(f"(SELECT count(*) FROM {t}) AS {t}" for t in self.tables)
        reader = open_keeper(self.keeper._settings, environment=self.tiers.environment)
        for _ in range(20):
            with suppress(NotNow):  # an honest answer on a busy machine
                return [int(n) for n in reader.query(f"SELECT {parts}").to_pylist()[0].values()]
        raise AssertionError(parts)


@contextmanager
def house(
    tiers: Tiers,
    policies: Sequence[Mapping[str, str]],
    tables: Sequence[str],
    *,
    make: str,
    fill: str = "",
    filled: Tier = "core",
    at_main: str = "",
    batch_rows: int = 25_000,
) -> Iterator[House]:
    """`make` is run in Core, `at_main` at Main before the setup, and `fill` in one of them, with constraints deferred."""
    settings = load(tierkeeper_toml(tiers, policies, query_timeout="10 seconds"), tiers.environment, tiers.home)
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        core.execute(make.encode())
        main.execute(at_main.encode())
        keeper = open_keeper(settings, environment=tiers.environment, batch_rows=batch_rows)
        keeper._bounds = Bounds(REST / 2, batch_rows)
        if filled == "main":
            keeper.setup(apply=True)
        filling = core if filled == "core" else main
        with filling.transaction():
            filling.execute("SET CONSTRAINTS ALL DEFERRED")
            filling.execute(fill.encode())
        try:
            yield House(tiers, core, main, keeper, tables)
        finally:
            faults.disarm()


def on(point: Point, deed: Callable[[], object], times: int = 1) -> list[object]:
    """Does `deed` the first `times` that `point` is reached; what it gave is in the list then."""
    did: list[object] = []

    def hook(reached: Point) -> None:
        if reached is point and len(did) < times:
            did.append(None)
            did[-1] = deed()

    faults.arm(hook)
    return did


def refused(conn: Connection, *statements: str) -> str:
    """What Postgres says to one who commits `statements`; nothing if it takes them."""
    try:
        with conn.transaction():
            for statement in statements:
                conn.execute(statement.encode())
    except psycopg.Error as error:
        return f"{error.sqlstate} {error.diag.message_primary}"
    return ""
