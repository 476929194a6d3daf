"""A table that changes at Core between two runs: Main follows, or the table waits and the others go on.

The oracle is a twin of the table in Core that keeps every row and gets the same DDL: what Postgres makes of its rows is what a
reader must see of all rows, wherever they lie. It never reads the schema `tierkeeper`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

import processes
from support import Tiers, TiersFactory, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import Faults, InFlight, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point, arm, disarm
from tierkeeper.kernel.results import SetupResult, SetupStep
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection

THINGS = TableName("public", "things")
FIRST, SECOND = datetime(2024, 1, 11, tzinfo=UTC), datetime(2024, 1, 21, tzinfo=UTC)
TYPES = "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN level AS int CHECK (VALUE < 100)"
DDL = """
CREATE TABLE {0} (
    id int PRIMARY KEY, at timestamptz(3) NOT NULL, name varchar(8) NOT NULL, code char(3), small smallint, tiny smallint, f real,
    price numeric(8,2), m mood, l level, gone text NOT NULL DEFAULT 'g'
);
"""
FILL = """
INSERT INTO {0} (id, at, name, code, small, f, price, m, l) SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 day',
    'n' || i, chr(97 + i % 26), i, i / 10.0, i / 4.0, 'good', i
FROM generate_series({1}) i
"""


@dataclass
class Place:
    """Three tiers, a keeper, and the application's own connections."""

    tiers: Tiers
    keeper: Keeper
    reader: Keeper  # with more patience than a busy machine asks for
    core: Connection
    main: Connection

    def drift(self, ddl: str, table: str = "things") -> None:
        """The same change for the table and its twin; `{0}` stands for the name."""
        for name in (table, f"{table}_twin") if "{0}" in ddl else (table,):
            self.core.execute(ddl.format(name).encode())

    def move(self, before: datetime, table: str = "things") -> int:
        return self.keeper.move(TableName("public", table), "core", "main", before=before).rows

    def steps(self, table: str = "things") -> list[SetupStep]:
        steps = self.keeper.plan_move(TableName("public", table), "core", "main", before=SECOND).setup
        return [s for s in steps if "tierkeeper.followed" not in s.sql]

    def wanted(self, columns: str, table: str = "things") -> list[tuple[object, ...]]:
        shown = ", ".join(f"{c.strip()}::text" for c in columns.split(","))
        self.core.execute("SET TimeZone = 'UTC'")
        return self.core.execute(f"SELECT {shown} FROM {table}_twin ORDER BY id".encode()).fetchall()

    def seen(self, columns: str, table: str = "things") -> list[tuple[object, ...]]:
        """Every row through the fast door, as text, in the order of its id."""
        found = self.reader.query(f"select id, {columns} from {table}").to_pylist()
        return [tuple(None if v is None else str(v) for v in list(r.values())[1:]) for r in sorted(found, key=lambda r: r["id"])]

    def count(self, query: str) -> object:
        row = self.main.execute(query.encode()).fetchone()
        return row[0] if row else None

    def columns(self, table: str) -> list[tuple[object, ...]]:
        query = "SELECT attnum, attname, atttypid FROM pg_attribute WHERE attrelid = %s::regclass"
        return self.main.execute(query, [table]).fetchall()


@contextmanager
def built(tiers: Tiers, tables: Sequence[str]) -> Iterator[Place]:
    """Thirty rows in each of `tables`, the first nine of them in Main and rested."""
    policy = [{"name": f"public.{t}", "age": "at", "core": "30 days"} for t in tables]
    config = tierkeeper_toml(tiers, policy, query_timeout="1 minute")
    reader = open_keeper(load(config, {}, tiers.home), environment=tiers.environment)
    config = tierkeeper_toml(tiers, policy, query_timeout="1 second")
    keeper = open_keeper(load(config, {}, tiers.home), environment=tiers.environment)
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        core.execute(TYPES)
        for t in tables:
            core.execute(DDL.format(t).encode())
            core.execute(FILL.format(t, "1, 30").encode())
            core.execute(f"CREATE TABLE {t}_twin (LIKE {t} INCLUDING ALL); INSERT INTO {t}_twin TABLE {t}".encode())
        keeper.setup(apply=True)
        made = Place(tiers, keeper, reader, core, main)
        assert [made.move(FIRST, t) for t in tables] == [9] * len(tables)
        time.sleep(1.1)
        yield made


@pytest.fixture
def place(make_tiers: TiersFactory) -> Iterator[Place]:
    with built(make_tiers(), ["things"]) as made:
        yield made


FOLLOWED = {
    "added": (
        "ALTER TABLE {0} ADD note text, ADD five int NOT NULL DEFAULT 5, ADD made date NOT NULL DEFAULT now(),"
        " ADD tags text[] DEFAULT '{{\"a,b\",NULL}}'",
        "five, made", ["add column 'note'", "add column 'five'", "add column 'made'", "add column 'tags'"],
    ),
    "each_its_own": (
        "ALTER TABLE {0} ADD n int GENERATED ALWAYS AS IDENTITY, ADD u uuid NOT NULL DEFAULT gen_random_uuid(),"
        " ADD twice int GENERATED ALWAYS AS (id * 2) STORED", "name", ["add column 'n'", "add column 'u'", "add column 'twice'"],
    ),
    "dropped": ("ALTER TABLE {0} DROP gone, ALTER name DROP NOT NULL, ALTER small SET NOT NULL", "name, small",
                ["let 'name'", "let 'gone'"]),
    "widened": (
        "ALTER TABLE {0} ALTER id TYPE bigint, ALTER name TYPE text, ALTER small TYPE int, ALTER f TYPE float8,"
        " ALTER price TYPE numeric(12,4), ALTER at TYPE timestamptz, ALTER code TYPE char(6)", "name, small, price",
        ["lock public.", "widen"],
    ),
    "renamed": ("ALTER TABLE {0} RENAME name TO title", "title", ["lock public.", "rename column 'name'"]),
    "renamed_and_given": (
        "ALTER TABLE {0} RENAME name TO title; ALTER TABLE {0} ADD name varchar(8)", "title, name",
        ["lock public.", "rename column 'name'", "add column 'name'"],
    ),
}  # fmt: skip


UNCLEAR = ("added", "widened", "renamed", "renamed_and_given")  # until Main follows there is no right answer to give


def test_main_follows_and_a_reader_sees_what_core_would_have(make_tiers: TiersFactory) -> None:
    with built(make_tiers(), list(FOLLOWED)) as place:
        for table, (ddl, columns, actions) in FOLLOWED.items():
            place.drift(ddl, table)
            if table in UNCLEAR:
                with pytest.raises(UsageError, match="tierkeeper setup --apply"):
                    place.reader.query(f"select {columns} from {table}")
            steps = place.steps(table)
            assert [s.action.startswith(a) for s, a in zip(steps, actions, strict=True)] == [True] * len(actions), steps
            assert place.move(SECOND, table) == 10
            assert place.seen(columns, table) == place.wanted(columns, table)
            (audited,) = place.main.execute(
                "SELECT detail FROM tierkeeper.audit WHERE verb = 'setup' AND kind = 'intent' ORDER BY id DESC LIMIT 1"
            ).fetchall()
            assert {s.sql for s in steps} <= set(audited[0]["sql"])  # type: ignore[call-overload]
        assert place.keeper.setup(apply=False).steps == []


def test_what_was_dropped_at_core_stays_to_be_seen_at_main(place: Place) -> None:
    place.drift("ALTER TABLE {0} DROP gone")
    place.move(SECOND)
    assert place.main.execute("SELECT gone, count(*) FROM things GROUP BY 1 ORDER BY 1").fetchall() == [("g", 9), (None, 10)]
    assert "gone" not in place.reader.query("select * from things").column_names  # what Core says are the columns


def test_an_enum_and_a_domain_that_allow_more(place: Place) -> None:
    place.drift("ALTER TYPE mood ADD VALUE 'great' BEFORE 'good'")
    place.drift("ALTER DOMAIN level DROP CONSTRAINT level_check")
    place.drift("UPDATE {0} SET m = 'great', l = 1000 WHERE id = 15")
    assert place.move(SECOND) == 10
    assert place.seen("m, l") == place.wanted("m, l")
    place.core.execute("ALTER TYPE mood RENAME VALUE 'bad' TO 'worse'")
    with pytest.raises(UsageError, match="it may have been renamed"):
        place.move(SECOND)
    with pytest.raises(UsageError, match="it may have been renamed"):
        place.keeper.plan_move(THINGS, "main", "core", where="id < 5")


WAITING = {
    "narrowed": ("ALTER TABLE {0} ALTER name TYPE varchar(4)", "'name' is of type"),
    "changed": ("ALTER TABLE {0} ALTER small TYPE text", "'small' is of type"),
    "swapped": (
        "ALTER TABLE {0} RENAME small TO x; ALTER TABLE {0} RENAME tiny TO small; ALTER TABLE {0} RENAME x TO tiny",
        "there is another column 'small' here",
    ),
    "dropped_and_added": ("ALTER TABLE {0} DROP price; ALTER TABLE {0} ADD price numeric(8,2)", "added another of that name"),
    "another_key": ("ALTER TABLE {0} DROP CONSTRAINT {0}_pkey; ALTER TABLE {0} ADD PRIMARY KEY (id, name)", "the key is"),
    "gone": ("ALTER TABLE {0} RENAME TO new_{0}", "Core calls it public.new_gone now"),
}


@pytest.mark.long
def test_tables_that_wait_change_nothing_and_keep_no_other(make_tiers: TiersFactory) -> None:
    with built(make_tiers(), [*WAITING, "other"]) as place:
        before = {table: place.columns(table) for table in WAITING}
        for table, (ddl, _) in WAITING.items():
            place.drift(ddl, table)
        place.drift("ALTER TABLE {0} ADD note text", "other")
        ended = processes.command(
            ["setup", "--apply", "--config", str(place.tiers.home / "tierkeeper.toml"), "--json"], place.tiers.environment
        )
        done = SetupResult.model_validate_json(ended.stdout)
        assert ended.returncode == 1
        assert done.waiting == [f"public.{table}" for table in WAITING]
        for table in WAITING:
            with pytest.raises(TierkeeperError) as raised:
                place.move(SECOND, table)
            assert isinstance(raised.value, UsageError | Faults)
        causes = " ".join(e.cause for e in done.errors)
        assert [cause for _, cause in WAITING.values() if cause not in causes] == []
        ran = place.keeper.quota()
        assert {m.table for m in ran.moves} == {"public.other"}
        assert len(ran.errors) >= len(WAITING)
        assert place.count("SELECT count(*) FROM other WHERE note IS NULL") == 30
        for table in WAITING:
            assert place.columns(table) == before[table]
            assert place.count(f"SELECT count(*) FROM {table}") == 9
        for table, column in (("swapped", "small"), ("dropped_and_added", "price")):  # by name and type Main would seem to fit
            with pytest.raises(UsageError, match="Core's table was changed"):
                place.reader.query(f"select {column} from {table}")


@pytest.fixture
def hook() -> Iterator[Callable[[Callable[[Point], None]], None]]:
    yield arm
    disarm()


def test_a_rewrite_waits_for_copies_in_flight_and_settles_them(place: Place, hook: Callable[..., None]) -> None:
    """I1, I4: a rewrite gives each row another xmin, by which alone a copy is known; an undo would then find nothing."""

    def die(point: Point) -> None:
        if point is Point.COPIED:
            raise KeyboardInterrupt

    hook(die)
    with pytest.raises(KeyboardInterrupt):
        place.move(SECOND)
    hook(lambda _: None)
    place.drift("ALTER TABLE {0} ALTER id TYPE bigint")
    with pytest.raises(InFlight, match="in flight, or too young"):
        place.keeper.plan_move(THINGS, "core", "main", before=SECOND)
    with pytest.raises(NotNow):
        place.keeper.setup(apply=True)
    assert place.count(
        "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'things'::regclass AND attname = 'id'"
    ) == ("integer")
    assert place.move(SECOND) == 10  # settles first: Core's columns are not those that were read, so that the copy is undone
    assert place.seen("name") == place.wanted("name")
    assert place.count("SELECT count(*) FROM things") == 19


def test_a_rewrite_that_would_fill_main_waits_and_what_rewrites_nothing_goes_on(make_tiers: TiersFactory) -> None:
    """I9: ALTER TYPE writes the table anew beside itself, which a Main near its quota has no room for."""
    with built(make_tiers(), ["wider", "longer"]) as place:
        place.main.execute(
            "INSERT INTO wider (id, at, name, gone) SELECT i, '2020-01-01', 'x', 'g' FROM generate_series(1000, 40000) i"
        )
        place.main.execute("VACUUM ANALYZE wider")
        place.drift("ALTER TABLE {0} ALTER small TYPE integer", "wider")
        place.drift("ALTER TABLE {0} ALTER name TYPE text", "longer")
        used, large = (
            int(str(place.count(f"SELECT {size}")))
            for size in ("pg_database_size(current_database())", "pg_total_relation_size('wider')")
        )
        policy = [{"name": f"public.{t}", "age": "at", "core": "30 days"} for t in ("wider", "longer")]
        before = place.columns("wider")
        for room, waits in ((large // 2, True), (large * 2, False)):
            toml = tierkeeper_toml(place.tiers, policy, quotas={"main": f"{(used + room) // 1000}kB"})
            house = open_keeper(load(toml, {}, place.tiers.home), environment=place.tiers.environment)
            done = house.setup(apply=True)
            assert [(str(e.place), "too little to widen 'small'" in e.cause) for e in done.errors] == (
                [("tiers.main, table public.wider", True)] if waits else []
            )
            assert (place.columns("wider") == before) is waits
        type_of = "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'longer'::regclass AND attname = 'name'"
        assert place.count(type_of) == "text"
        assert place.count("SELECT count(*) FROM wider") == 9 + 39001


def test_rows_that_a_reader_may_still_mistake_keep_a_rewrite_waiting(place: Place) -> None:
    assert place.move(SECOND) == 10
    place.main.execute("UPDATE tierkeeper.ledger SET reader_seconds = 3600 WHERE state = 'done'")  # they read for an hour
    place.drift("ALTER TABLE {0} ALTER id TYPE bigint")
    with pytest.raises(InFlight):
        place.move(SECOND)
    place.main.execute("UPDATE tierkeeper.ledger SET reader_seconds = 0 WHERE state = 'done'")
    assert place.move(SECOND) == 0
    assert place.seen("name") == place.wanted("name")


def test_the_lock_is_taken_before_the_look(place: Place) -> None:
    """A batch that opens between the plan and the deed is seen, and its copy cannot begin before the end."""
    place.drift("ALTER TABLE {0} ALTER id TYPE bigint")
    lock = next(s for s in place.steps() if s.action.startswith("lock"))
    place.main.execute(
        "INSERT INTO tierkeeper.ledger (batch, source, schema_name, table_name, age, cutoff, predicate, state)"
        " VALUES (gen_random_uuid(), 'core', 'public', 'things', 'at', now(), 'false', 'open')"
    )
    with closing(place.tiers.main.connect("setup")) as conn, pytest.raises(Exception, match="in flight, or too young"):
        conn.execute(lock.sql.encode())
    place.main.execute("DELETE FROM tierkeeper.ledger WHERE predicate = 'false'")
    with closing(place.tiers.main.connect("setup")) as conn, conn.transaction():
        conn.execute(lock.sql.encode())
        place.main.execute("SET lock_timeout = '50ms'")
        with pytest.raises(Exception, match="lock timeout"):
            place.main.execute("INSERT INTO things (id, at, name) VALUES (99, now(), 'x')")


@pytest.mark.parametrize("point", [Point.TABLE_ALTERED, Point.TABLE_SET_UP])
def test_killed_while_main_follows_a_rerun_ends_where_it_would_have(place: Place, point: Point) -> None:
    place.drift(
        "ALTER TABLE {0} RENAME name TO title; ALTER TABLE {0} ALTER id TYPE bigint; ALTER TABLE {0} ADD five int DEFAULT 5"
    )
    command = ["setup", "--apply", "--config", str(place.tiers.home / "tierkeeper.toml"), "--json"]
    processes.command(command, place.tiers.environment, die_at=point)
    assert place.count("SELECT count(*) FROM things") == 9
    assert place.move(SECOND) == 10
    assert place.seen("title, five") == place.wanted("title, five")
