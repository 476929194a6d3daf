"""Old partitions go once they are empty, and not before nobody can miss or want one (I1, I2, I4, I7).

The oracle asks for the application's rows through its own table; it never reads the schema `tierkeeper`, but for the audit.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel import faults
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.results import QuotaResult
from tierkeeper.postgres.link import Connection

TODAY = datetime(2024, 7, 1, tzinfo=UTC)  # so that "30 days" ends with the first of June
MAKE = """
CREATE TABLE public.t (id bigint, at timestamptz, region text, body text, PRIMARY KEY (id, at, region)) PARTITION BY RANGE (at);
CREATE TABLE public.t_jan PARTITION OF public.t FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE public.t_feb PARTITION OF public.t FOR VALUES FROM ('2024-02-01') TO ('2024-05-01') PARTITION BY LIST (region);
CREATE TABLE public.t_feb_eu PARTITION OF public.t_feb FOR VALUES IN ('eu');
CREATE TABLE public.t_feb_rest PARTITION OF public.t_feb DEFAULT;
CREATE TABLE public.t_may PARTITION OF public.t FOR VALUES FROM ('2024-05-01') TO ('2024-06-01');
CREATE TABLE public.t_june PARTITION OF public.t FOR VALUES FROM ('2024-06-01') TO ('2024-07-01');
INSERT INTO public.t
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 hour', (ARRAY['eu', 'us', 'asia'])[1 + i % 3], md5(i::text)
FROM generate_series(1, 4300) AS i
"""
Row = tuple[int, str, str, str]


@dataclass
class House:
    """Three tiers, the application's connections to Core and Main, and a keeper that may drop partitions."""

    tiers: Tiers
    core: Connection
    main: Connection

    def keeper(self, *tables: str, **more: Any) -> Keeper:
        policy = {"age": "at", "core": "30 days", "drop_partitions": True, **more}
        policies = [{"name": f"public.{table}", **policy} for table in tables or ("t",)]
        settings = load(tierkeeper_toml(self.tiers, policies), {}, self.tiers.home)
        return open_keeper(settings, environment=self.tiers.environment, clock=FixedDay(TODAY))

    def rows(self, conn: Connection, table: str = "public.t") -> list[Row]:
        if conn.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            return []
        found = conn.execute(f"SELECT id, at::text, region, body FROM {table} ORDER BY 1, 2, 3".encode())
        return [(int(str(i)), str(at), str(region), str(body)) for i, at, region, body in found]

    def everything(self) -> list[Row]:
        return sorted(self.rows(self.core) + self.rows(self.main))

    def partitions(self, conn: Connection | None = None) -> list[str]:
        found = (conn or self.core).execute("SELECT relid::text FROM pg_partition_tree('public.t') WHERE level > 0 ORDER BY 1")
        return [str(name) for (name,) in found]


@pytest.fixture
def house(tiers: Tiers) -> Iterator[House]:
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        for conn in (core, main):
            conn.execute("SET TimeZone = 'UTC'")
            conn.execute("SET lock_timeout = '20s'")
        core.execute(MAKE.encode())
        made = House(tiers, core, main)
        made.keeper().setup(apply=True)
        yield made
    faults.disarm()


def dropped(result: QuotaResult) -> list[str]:
    return sorted(r.relation for r in result.reclaimed if r.method == "partition drop")


def at(point: Point, deed: Callable[[], object]) -> None:
    """The first time that the keeper gets to `point`, `deed` happens."""
    waiting = [deed]

    def hook(reached: Point) -> None:
        if reached is point and waiting:
            waiting.pop()()

    faults.arm(hook)


def test_old_partitions_go_when_their_rows_have_left(house: House) -> None:
    """Whole ones, with all below them; what the policy keeps stays, and so does every row. It is told and recorded."""
    original = house.rows(house.core)
    shown = house.keeper().quota(dry_run=True)
    assert "dropped once they are empty: public.t_jan, public.t_feb, public.t_may" in " ".join(shown.notes)
    assert house.rows(house.core) == original
    done = house.keeper().quota()
    assert (done.errors, done.notes) == ([], [])
    assert dropped(done) == ["public.t_feb", "public.t_jan", "public.t_may"]
    assert house.partitions() == ["t_june"]
    assert house.everything() == original
    assert house.keeper().query("SELECT count(*) AS n FROM public.t")["n"][0].as_py() == 4300
    trail = house.main.execute(
        "SELECT subject, array_agg(kind ORDER BY id), bool_or(detail ->> 'bound' LIKE 'FOR VALUES FROM%')"
        " FROM tierkeeper.audit WHERE verb = 'drop partition' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert trail == [(f"public.{name}", ["intent", "outcome"], True) for name in ("t_feb", "t_jan", "t_may")]
    assert dropped(house.keeper().quota()) == []


def test_nothing_is_dropped_that_nobody_asked_for(house: House) -> None:
    before = house.partitions()
    done = house.keeper(drop_partitions=False).quota()
    assert (dropped(done), house.partitions()) == ([], before)
    hint = " ".join(house.keeper(drop_partitions=False).quota(dry_run=True).notes)
    assert "public.t_jan" in hint
    assert "drop_partitions = true" in hint


def test_a_row_that_comes_late_is_kept_with_its_partition(house: House) -> None:
    """I1: between the look and the lock a writer puts a row into the partition that is about to go."""
    original = house.rows(house.core)
    late = (9999, "2024-01-15 00:00:00+00", "eu", "late")

    def write() -> None:
        house.core.execute("INSERT INTO public.t VALUES (9999, '2024-01-15', 'eu', 'late')")

    at(Point.DROP_RECORDED, write)
    done = house.keeper().quota()
    assert house.everything() == sorted([*original, late])
    assert dropped(done) == ["public.t_feb", "public.t_may"]
    assert "t_jan" in house.partitions()
    faults.disarm()
    assert dropped(house.keeper().quota()) == ["public.t_jan"]
    assert house.everything() == sorted([*original, late])


def test_a_writer_that_is_not_through_keeps_the_partition(house: House) -> None:
    """Its lock is waited for shortly, and the table's other writers are not held up behind that wait."""
    with closing(house.tiers.core.connect("app")) as writer:

        def write() -> None:
            writer.execute("BEGIN")
            writer.execute("INSERT INTO public.t VALUES (9999, '2024-01-15', 'eu', 'late')")

        at(Point.DROP_RECORDED, write)
        done = house.keeper().quota()
        assert "its old partition public.t_jan stays: the application holds a lock on it" in " ".join(done.notes)
        writer.execute("COMMIT")
    assert (9999, "2024-01-15 00:00:00+00", "eu", "late") in house.rows(house.core)


def test_an_older_reader_keeps_the_partitions_that_it_may_look_into(house: House) -> None:
    """I2: a snapshot from before the move sees every row in Core; of a dropped partition it would see none, and no error."""
    with closing(house.tiers.core.connect("app")) as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM pg_class")
        done = house.keeper().quota()
        assert sum(m.rows for m in done.moves) == 3647
        assert reader.execute("SELECT count(*) FROM public.t").fetchone() == (4300,)
        assert dropped(done) == []
        assert "its old partition public.t_jan stays: an old snapshot still sees rows that it had" in " ".join(done.notes)
        reader.execute("COMMIT")
    assert dropped(house.keeper().quota()) == ["public.t_feb", "public.t_jan", "public.t_may"]


TO = "CREATE TABLE public.{0}_x PARTITION OF public.{0} FOR VALUES"
STAY = {
    "by_list": ("LIST (region)", f"{TO} IN ('eu')", None),
    "by_hash": ("HASH (id)", f"{TO} WITH (MODULUS 1, REMAINDER 0)", None),
    "by_another": ("RANGE (id)", f"{TO} FROM (0) TO (999)", None),
    "by_several": ("RANGE (at, id)", f"{TO} FROM ('2024-01-01', 0) TO ('2024-02-01', 0)", None),
    "by_an_expression": ("RANGE ((at AT TIME ZONE 'UTC'))", f"{TO} FROM ('2024-01-01') TO ('2024-02-01')", None),
    "defaulted": ("RANGE (at)", "CREATE TABLE public.{0}_x PARTITION OF public.{0} DEFAULT", None),
    "catch_all": ("RANGE (at)", f"{TO} FROM (MINVALUE) TO ('2024-02-01')", None),
    "endless": ("RANGE (at)", f"{TO} FROM ('2024-01-01') TO (MAXVALUE)", None),
    "infinite": ("RANGE (at)", f"{TO} FROM ('-infinity') TO ('infinity')", None),
    "too_young": ("RANGE (at)", f"{TO} FROM ('2024-01-01') TO ('2024-06-01 00:00:00.000001+00')", None),
    "in_a_view": (
        "RANGE (at)",
        f"{TO} FROM ('2024-01-01') TO ('2024-02-01'); CREATE VIEW public.v AS SELECT * FROM public.{{0}}_x",
        "view public.v depends on table public.in_a_view_x",
    ),
    "published": (
        "RANGE (at)",
        f"{TO} FROM ('2024-01-01') TO ('2024-02-01');"
        "CREATE PUBLICATION p FOR TABLE ONLY public.{0}_x WITH (publish = 'insert')",
        "the publication p names it",
    ),
}
"""How each is partitioned, its only partition, and what is said of that."""


@pytest.mark.long
def test_partitions_that_somebody_may_want_stay(house: House) -> None:
    """Those that take new rows or late ones of any age, and those that something else in the database needs."""
    for name, (by, make, _) in STAY.items():
        columns = "id bigint NOT NULL, at timestamptz NOT NULL, region text NOT NULL"
        key = "" if "((" in by else ", UNIQUE (id, at, region)"
        house.core.execute(
            f"CREATE TABLE public.{name} ({columns}{key}) PARTITION BY {by}; {make.format(name)};"
            f"INSERT INTO public.{name} VALUES (1, '2024-01-03', 'eu')".encode()
        )
    done = house.keeper(*STAY).quota()
    assert dropped(done) == []
    assert [e.place for e in done.errors] == ["tiers.core, table public.by_an_expression"]
    for name, (_, _, said) in STAY.items():
        left = house.core.execute(f"SELECT count(*) FROM public.{name}_x".encode()).fetchone()
        assert left == (int(name == "by_an_expression"),), name
        assert said is None or said in " ".join(done.notes), name


def test_bounds_are_read_as_the_ages_type(house: House) -> None:
    house.core.execute("SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'")
    for type_ in ("timestamp", "date"):
        house.core.execute(
            f"CREATE TABLE public.{type_}s (id bigint, at {type_}, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);"
            f"CREATE TABLE public.{type_}_bc PARTITION OF public.{type_}s FOR VALUES FROM ('0044-01-01 BC') TO ('0043-01-01 BC');"
            f"CREATE TABLE public.{type_}_old PARTITION OF public.{type_}s FOR VALUES FROM ('2024-05-01') TO ('2024-06-01');"
            f"CREATE TABLE public.{type_}_new PARTITION OF public.{type_}s DEFAULT".encode()
        )
    done = house.keeper("timestamps", "dates").quota()
    assert dropped(done) == ["public.date_bc", "public.date_old", "public.timestamp_bc", "public.timestamp_old"]


def test_a_main_that_the_mover_feeds_keeps_a_place_for_late_rows(house: House) -> None:
    """There an old partition goes only beside a DEFAULT one: else the next late row of Core's could not arrive."""
    late = (9999, "2024-01-15 00:00:00+00", "eu", "late")
    house.core.execute("TRUNCATE public.t")
    house.main.execute(b"DROP TABLE public.t; " + MAKE.partition("INSERT")[0].encode())
    keeper = house.keeper(main="31 days")
    keeper.setup(apply=True)
    done = keeper.quota()
    assert (done.errors, dropped(done)) == ([], ["public.t_feb", "public.t_jan", "public.t_may"]), "those of Core"
    assert "CREATE TABLE … PARTITION OF public.t DEFAULT takes such rows" in " ".join(done.notes)
    for conn in (house.core, house.main):
        conn.execute("CREATE TABLE public.t_rest PARTITION OF public.t DEFAULT")
        conn.execute("SET TimeZone = 'UTC'")
    assert dropped(keeper.quota()) == ["public.t_feb", "public.t_jan"], "of May Main may still get rows"
    house.core.execute("INSERT INTO public.t VALUES (%s, %s, %s, %s)", list(late))
    assert house.keeper().quota().errors == []
    assert house.rows(house.main, "public.t_rest") == [late]
    assert house.keeper().query("SELECT count(*) AS n FROM public.t")["n"][0].as_py() == 1


def test_a_partition_that_is_attached_or_detached_meanwhile_is_none_of_ours(house: House) -> None:
    def detach() -> None:
        house.core.execute("ALTER TABLE public.t DETACH PARTITION public.t_jan")

    original = house.rows(house.core)
    at(Point.DROP_RECORDED, detach)
    done = house.keeper().quota()
    assert dropped(done) == ["public.t_feb", "public.t_may"]
    assert house.rows(house.core, "public.t_jan") == []
    assert house.core.execute("SELECT to_regclass('public.t_jan') IS NOT NULL").fetchone() == (True,)
    assert house.everything() == original


def test_writers_and_readers_beside_the_drop(house: House) -> None:
    """Nobody misses a row: rows of today, late ones of January that find their partition or are refused, and long readers."""
    original, stop = house.rows(house.core), threading.Event()
    wrote: list[Row] = []
    refused: list[str] = []
    pairs: list[tuple[object, object]] = []

    def write() -> None:
        with closing(house.tiers.core.connect("app")) as conn:
            for i in range(100_000, 200_000):
                day = "2024-01-15" if i % 30 == 0 else "2024-06-15"
                row = (i, f"{day} 00:00:00+00", "eu", "x")
                try:
                    conn.execute("INSERT INTO public.t VALUES (%s, %s, %s, %s)", list(row))
                except psycopg.errors.CheckViolation:
                    refused.append(day)
                else:
                    wrote.append(row)
                if stop.wait(0.003):
                    return

    def read() -> None:
        with closing(house.tiers.core.connect("app")) as conn:
            while not stop.wait(0.05):
                conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                first = conn.execute("SELECT count(*) FROM public.t WHERE at < '2024-06-01'").fetchone()
                stop.wait(0.03)
                pairs.append((first, conn.execute("SELECT count(*) FROM public.t WHERE at < '2024-06-01'").fetchone()))
                conn.execute("COMMIT")

    threads, gone, keeper = [threading.Thread(target=t) for t in (write, read)], list[str](), house.keeper()
    for thread in threads:
        thread.start()
    try:
        while (len(gone) < 2 or len(pairs) <= 5) and len(wrote) < 5_000:
            gone += dropped(keeper.quota())
            floor = len(wrote)
            answer = keeper.query("SELECT count(*) AS n FROM public.t")["n"][0].as_py()
            assert len(original) + floor <= answer <= len(original) + len(wrote) + 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(gone) >= 2
    assert set(refused) <= {"2024-01-15"}, "a young row found no partition"
    assert [pair for pair in pairs if pair[0] != pair[1]] == [], "a snapshot lost rows"
    assert len(pairs) > 5
    assert house.everything() == sorted([*original, *wrote])
