"""Two tiers with the protocol's tables and a table of things to move, and a mover between them."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from hop import Hop, open_hop
from support import Tiers
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.lease import Lease
from tierkeeper.mover.model import Selection
from tierkeeper.mover.runner import Mover
from tierkeeper.mover.source import Source
from tierkeeper.mover.worker import Pace
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection
from tierkeeper.postgres.statements import load

TABLE = TableName("public", "events")
CUTOFF = datetime(2024, 6, 1, tzinfo=UTC)
MAKE = "CREATE TABLE public.events (id bigint PRIMARY KEY, at timestamptz, body text NOT NULL)"
GUARD = """
CREATE TRIGGER guard BEFORE UPDATE OR DELETE ON public.events
FOR EACH ROW EXECUTE FUNCTION tierkeeper.refuse_copy_in_flight();
ALTER TABLE public.events ENABLE ALWAYS TRIGGER guard
"""
FILL = """
INSERT INTO public.events
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', 'body ' || i FROM generate_series(1, {rows}) AS i
"""

Row = tuple[int, str | None, str]


@dataclass
class Pair:
    """Core and Main, each with a connection of the application's own: the oracle counts rows through these alone."""

    tiers: Tiers
    core: Connection
    main: Connection

    def rows(self, conn: Connection) -> list[Row]:
        return conn.execute("SELECT id, at::text, body FROM public.events ORDER BY id").fetchall()  # type: ignore[return-value]

    def everywhere(self) -> list[Row]:
        """The rows of both tiers, doubled ones twice."""
        return sorted(self.rows(self.core) + self.rows(self.main), key=lambda r: r[0])


@pytest.fixture
def pair(tiers: Tiers) -> Iterator[Pair]:
    schema = load("tierkeeper.postgres", "schema.sql")
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        for conn in (core, main):
            for statement in schema.values():
                conn.execute(statement)
            conn.execute(MAKE)
        main.execute(GUARD)
        core.execute(FILL.format(rows=1_000))
        yield Pair(tiers, core, main)


Move = Callable[..., object]


@pytest.fixture
def mover(pair: Pair) -> Iterator[Callable[..., Mover]]:
    """`mover(batch_rows=100)`: a mover with connections of its own, as a new process would have."""
    opened: list[Connection] = []

    def make(batch_rows: int = 100, limit: int | None = None, longest_reader_seconds: float = 0.2) -> Mover:
        source, destination = pair.tiers.core.connect("mover"), pair.tiers.main.connect("mover")
        opened.extend((source, destination))
        return Mover(
            Source(pair.tiers.core, source, "core"),
            PostgresDestination(destination, "main", "core", longest_reader_seconds),
            Lease(destination, "test"),
            pace=Pace(batch_rows, longest_reader_seconds, limit, group=4, patience_seconds=0.1),
            clock=SystemClock(),
            progress=lambda *_: None,
            stop=lambda: None,
            refresh_parents=lambda: None,
            rests=lambda _: None,
        )

    yield make
    for conn in opened:
        conn.close()


@pytest.fixture
def selection(pair: Pair) -> Callable[..., Selection]:
    def make(where: str | None = None) -> Selection:
        return Selection(shapes.read(pair.core, TABLE), "at", CUTOFF, where)

    return make


@pytest.fixture
def hop(tiers: Tiers) -> Iterator[Hop]:
    with open_hop(tiers) as opened:
        yield opened
