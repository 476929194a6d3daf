"""One table with its rows spread over Core, Main and an archive, and the same rows in one Postgres: the oracle."""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pyarrow.compute as pc

from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.ports import ScanSegment
from tierkeeper.kernel.tables import TableName, TableShape
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import PINNED, Connection, Link
from tierkeeper.postgres.statements import load
from tierkeeper.query.runner import FastDoor

READINGS = TableName("public", "readings")
POLICIES = (TablePolicy(READINGS, age="at"), TablePolicy(TableName("public", "sites"), mode="mirror"))
DDL = """
CREATE DOMAIN code AS char(5);
CREATE DOMAIN phrase AS text;
CREATE TABLE readings (
    id bigint, at timestamptz NOT NULL, site varchar(8) COLLATE "C", word text, small smallint, n int, big bigint,
    price numeric(12,2), rate numeric(8,4), f double precision, f4 real, ok boolean, day date, ts timestamp, u uuid,
    extra jsonb,
    fixed char(5) GENERATED ALWAYS AS (left(word, 4)::char(5)) STORED,
    code code GENERATED ALWAYS AS (left(word, 2)::char(5)) STORED,
    said phrase GENERATED ALWAYS AS (word) STORED,
    raw bytea GENERATED ALWAYS AS (decode(repeat('6170', abs(small)), 'hex')) STORED,
    lex tsvector GENERATED ALWAYS AS (to_tsvector('simple'::regconfig, word)) STORED, PRIMARY KEY (id)
);
CREATE TABLE sites (site text PRIMARY KEY, name text, since date);
"""
COLUMNS = ["id", "at", "site", "word", "small", "n", "big", "price", "rate", "f", "f4", "ok", "day", "ts", "u", "extra"]
MADE = ["fixed", "code", "said", "raw", "lex"]
"""Columns that Postgres makes of the others: what may be taken for text, and is another type to a function of that name."""
START = datetime(2013, 1, 1, tzinfo=UTC)


def rows(count: int = 300) -> list[tuple[Any, ...]]:
    """Rows with nulls, ties, negative numbers, odd texts and special floats; the same every time."""
    chance = random.Random(7)  # noqa: S311 - the same rows every time
    maybe = lambda v: None if chance.random() < 0.1 else v  # noqa: E731
    words = ["apple", "Apple", "äpfel", "b_c", "b%c", "b\\c", "", "zebra", "it's", "Z", "naïve"]
    made = []
    for i in range(count):
        at = START + timedelta(hours=29 * i, microseconds=chance.randrange(10**6))
        money, rate = chance.randrange(-(10**6), 10**6) / 100, chance.randrange(1, 10**5) / 10000
        odd = chance.choice([0.1, -2.5, 1e10, 3.0, float("nan"), float("inf")])
        made.append((
            i, at, maybe(chance.choice(["EWR", "JFK", "LGA"])), maybe(chance.choice(words)), maybe(chance.randrange(-9, 9)),
            maybe(chance.randrange(-1000, 1000)), maybe(chance.randrange(-(10**12), 10**12)), maybe(f"{money:.2f}"),
            maybe(f"{rate:.4f}"), maybe(odd), maybe(chance.choice([0.5, 1.25, -3.0])), maybe(chance.random() < 0.5),
            maybe(at.date()), maybe(at.replace(tzinfo=None)), maybe(UUID(int=chance.getrandbits(128))), '{"a": 1}',
        ))  # fmt: skip
    return made


@dataclass
class MemoryArchive:
    """Segments in the archive's lossless form, in memory. Keeps what was read of them."""

    held: dict[str, tuple[ScanSegment, pa.Table]] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    shape: TableShape = field(default_factory=lambda: TableShape(READINGS, (), ()))

    def add(self, table: pa.Table, state: str = "forgotten") -> ScanSegment:
        ages = [v for v in table.column("at").to_pylist() if v is not None]
        segment = ScanSegment(f"s{len(self.held)}", uuid4(), state, table.num_rows, min(ages), max(ages))  # type: ignore[arg-type]
        self.held[segment.id] = segment, table
        return segment

    def segments(self, catalog_cursor: Any, table: TableName) -> list[ScanSegment]:
        assert table == READINGS
        catalog_cursor.execute("SELECT 1")
        return [s for s, _ in self.held.values()]

    @contextmanager
    def open(self, segment_id: str) -> Iterator["MemorySegment"]:
        self.reads.append(segment_id)
        yield MemorySegment(self.held[segment_id][1], self.shape)


@dataclass(frozen=True)
class MemorySegment:
    """A segment as one of a version that wrote no columns' numbers down."""

    rows: pa.Table
    shape: TableShape

    def batches(self, columns: Sequence[str], min_age: datetime | None, max_age: datetime | None) -> Iterator[pa.RecordBatch]:
        del min_age, max_age  # a reader may be given more than it asked for
        yield from self.rows.select(list(columns)).to_batches(max_chunksize=16)

    def bounds(self, column: str) -> tuple[str, str] | None:
        if not pa.types.is_integer(self.rows.schema.field(column).type):
            return None
        ends = pc.min_max(self.rows.column(column)).as_py()
        return str(ends["min"]), str(ends["max"])


@dataclass
class World:
    """Links to the tiers and the oracle."""

    core: Link
    main: Link
    catalog: Link
    oracle: Link
    archive: MemoryArchive

    def door(self, timeout_seconds: float = 30) -> FastDoor:
        return FastDoor(self.core, self.main, self.catalog, POLICIES, timeout_seconds=timeout_seconds, archive=self.archive)


def insert(conn: Connection, some: Sequence[tuple[Any, ...]]) -> None:
    with conn.cursor() as cur, cur.copy(f"COPY readings ({','.join(COLUMNS)}) FROM STDIN") as copy:
        for row in some:
            copy.write_row(row)


def archived(conn: Connection, where: str) -> pa.Table:
    """Rows as the archive keeps them: natives natively, the rest as text."""
    with conn.transaction():
        for name, value in PINNED.items():
            conn.execute("SELECT set_config(%s, %s, true)", [name, value])
        native = {"id", "at", "site", "word", "small", "n", "big", "f", "f4", "ok"}
        shown = ", ".join(c if c in native else f"{c}::text" for c in COLUMNS)
        shown += "".join(f", CASE num_nulls({c}) WHEN 0 THEN concat({c}) END" for c in MADE)
        found = conn.execute(f"SELECT {shown} FROM readings WHERE {where} ORDER BY at").fetchall()
    types = {
        "id": pa.int64(), "at": pa.timestamp("us", "UTC"), "small": pa.int16(), "n": pa.int32(), "big": pa.int64(),
        "f": pa.float64(),
        "f4": pa.float32(), "ok": pa.bool_(),
    }  # fmt: skip
    return pa.table({c: pa.array([r[i] for r in found], types.get(c, pa.string())) for i, c in enumerate(COLUMNS + MADE)})


def set_up(conn: Connection) -> None:
    """The `tierkeeper` schema's tables that a reader looks at."""
    statements = load("tierkeeper.postgres", "schema.sql")
    for name in ("schema", "marker", "ledger", "conflict", "horizon", "compared"):
        conn.execute(statements[name])


def build(cluster: EmbeddedPostgres, name: str, count: int = 300) -> World:
    """A world with the newest rows in Core, the middle ones in Main, the oldest in two segments."""
    links = {}
    for tier in ("core", "main", "catalog", "oracle"):
        cluster.create_database(f"{name}_{tier}")
        links[tier] = cluster.link("archive" if tier == "catalog" else tier, f"{name}_{tier}")
    everything, archive = rows(count), MemoryArchive()
    third = count // 3
    parts = {"core": everything[2 * third :], "main": everything[third : 2 * third], "oracle": everything}
    for tier, link in links.items():
        with closing(link.connect("test")) as conn:
            set_up(conn)
            if tier == "catalog":
                continue
            conn.execute(DDL)
            insert(conn, parts[tier])
            conn.execute(
                "INSERT INTO sites VALUES ('EWR', 'Newark', '1928-10-01'), ('JFK', 'Kennedy', '1948-07-01'), ('HPN', NULL, NULL)"
            )
            conn.execute("CREATE TABLE elsewhere (x int, y text)")
            conn.execute("INSERT INTO elsewhere VALUES (1, 'one'), (2, NULL)")
            conn.execute("ANALYZE")
            if tier == "oracle":
                archive.shape = replace(shapes.read(conn, READINGS), oid=0)
                archive.add(archived(conn, f"id < {third // 2}"))
                archive.add(archived(conn, f"id >= {third // 2} AND id < {third}"))
    return World(**links, archive=archive)
