"""Shapes and DDL against real servers' catalogs: what is read is what is there, and what is written recreates it."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from support import Tiers
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import shapes
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import Connection, transaction

LONG = "ü" * 31 + "x"  # 63 bytes
ODD = TableName('Odd "S', "my 'ta%ble")
ODD_TYPES = f"""
CREATE SCHEMA "Odd ""S";
CREATE SCHEMA ext;
CREATE EXTENSION citext SCHEMA ext;
CREATE TYPE public.mood AS ENUM ('sad', 'o''k', 'ha\\ppy', 'ünï $make$');
CREATE DOMAIN public.positive AS int NOT NULL CONSTRAINT "is it" CHECK (VALUE > 0);
CREATE DOMAIN "Odd ""S"."my dom" AS public.mood;
CREATE DOMAIN public.many AS public.positive[];
CREATE COLLATION public.plain (PROVIDER = libc, LOCALE = 'C');
CREATE TYPE public."comp t" AS (a int, b text COLLATE public.plain, c public.mood[], d "Odd ""S"."my dom");
CREATE TYPE public.floats AS RANGE (SUBTYPE = float8, MULTIRANGE_TYPE_NAME = public."f multi");
CREATE TABLE "Odd ""S"."my 'ta%ble" (
    "a b" int GENERATED ALWAYS AS IDENTITY, "ключ" text COLLATE "C", "{LONG}" numeric(10,2) DEFAULT 7, m public.mood,
    ma public.mood[], d public.positive, da public.many, dd "Odd ""S"."my dom", c public."comp t", ca public."comp t"[],
    f public.floats, fm public."f multi", ci ext.citext, cia ext.citext[], cc char(3), vb varbit(7), ch "char", bp bpchar,
    ts timestamptz(3), i interval day to second(2), gone int, cx text COLLATE public.plain, at date,
    PRIMARY KEY ("ключ", "a b"), CHECK ("a b" < 1000)
);
ALTER TABLE "Odd ""S"."my 'ta%ble" DROP COLUMN gone;
INSERT INTO "Odd ""S"."my 'ta%ble" ("ключ", m, ma, d, da, dd, c, ca, f, fm, ci, cia, cc, ch, ts, at) VALUES
    ('k', 'ha\\ppy', '{{"o''k",sad}}', 1, '{{1,2}}', 'sad', '(1,x,"{{sad}}",sad)', '{{"(2,y,{{}},sad)"}}', '[1,2)', '{{[1,2)}}',
     'A', '{{B}}', 'x', 'c', 'infinity', '2024-02-29');
"""


@pytest.fixture
def core(tiers: Tiers) -> Iterator[Connection]:
    with closing(tiers.core.connect("test")) as conn:
        yield conn


@pytest.fixture
def main(tiers: Tiers) -> Iterator[Connection]:
    with closing(tiers.main.connect("test")) as conn:
        yield conn


@pytest.fixture(scope="module")
def shared(cluster: EmbeddedPostgres) -> Iterator[Connection]:
    """One database for the tests that take back all they do."""
    cluster.create_database("shapes")
    with closing(cluster.link("core", "shapes").connect("test")) as conn:
        yield conn
    cluster.drop_database("shapes")


@pytest.fixture
def scratch(shared: Connection) -> Iterator[Connection]:
    """A connection in a transaction that never commits, names coming out as in `link.transaction`."""
    shared.execute("BEGIN; SET LOCAL search_path = pg_catalog")
    yield shared
    shared.execute("ROLLBACK")


def test_odd_names_and_types_round_trip(core: Connection, main: Connection) -> None:
    core.execute(ODD_TYPES.encode())
    shape = shapes.read(core, ODD)
    for statement in shape.ddl:
        main.execute(statement.encode())
    assert shapes.read(main, ODD) == shape
    assert shapes.read(main, ODD).ddl == shape.ddl
    copy = b'COPY "Odd ""S"."my \'ta%ble" TO STDOUT'
    with core.cursor().copy(copy) as out:
        rows = b"".join(bytes(block) for block in out)
    with main.cursor().copy(copy.replace(b"TO STDOUT", b"FROM STDIN")) as into:
        into.write(rows)
    with main.cursor().copy(copy) as out:
        assert b"".join(bytes(block) for block in out) == rows
    assert rows.count(b"\n") == 1


def test_what_a_table_needs_is_left_alone_where_it_is_there(scratch: Connection) -> None:
    scratch.execute(ODD_TYPES.encode())
    shape, needs = shapes.read_with_objects(scratch, ODD)
    for made in needs[:-1]:
        scratch.execute(made.sql.encode())
    assert shapes.read(scratch, ODD) == shape
    assert (needs[-1].kind, needs[-1].schema, needs[-1].name) == ("table", ODD.schema, ODD.name)


def test_several_tables_are_read_at_once_in_a_look(tiers: Tiers) -> None:
    """As each by itself; those that cannot be moved are told by themselves, and later changes in the next look."""
    names = [TableName("public", n) for n in ("one", "two", "keyless", "missing")]
    with closing(tiers.core.connect("test")) as conn:
        conn.execute("CREATE TABLE public.one (id int PRIMARY KEY, at date); CREATE TABLE public.keyless (a int)")
        conn.execute("CREATE TABLE public.two (a text PRIMARY KEY, b int UNIQUE NOT NULL)")
        conn.execute("CREATE TABLE public.child (id int PRIMARY KEY REFERENCES public.one)")
        alone = [shapes.read(conn, n) for n in names[:2]]
    with looking(names):
        with closing(tiers.core.connect("test")) as conn:
            assert [shapes.read(conn, n) for n in names[:2]] == alone
            conn.execute("ALTER TABLE public.two ADD c int")
            for name, cause in zip(names[2:], ["neither a primary key", "does not exist"], strict=True):
                with pytest.raises(UsageError, match=cause):
                    shapes.read(conn, name)
        with closing(tiers.core.connect("test")) as conn:
            assert shapes.read(conn, names[1]) == alone[1]
    with closing(tiers.core.connect("test")) as conn:
        assert shapes.read(conn, names[1]).column("c") is not None


def test_columns_say_what_lies_under_domains_and_in_arrays(scratch: Connection) -> None:
    scratch.execute(ODD_TYPES.encode())
    found = {c.name: (c.type, c.base, c.kind, c.element, c.element_kind) for c in shapes.read(scratch, ODD).columns}
    assert found["d"] == ("public.positive", "int4", "d", None, None)
    assert found["da"] == ("public.many", "public._positive", "d", "int4", "d")
    assert found["dd"] == ('"Odd ""S"."my dom"', "public.mood", "d", None, None)
    assert found["ca"] == ('public."comp t"[]', 'public."_comp t"', "b", 'public."comp t"', "c")
    assert found["ts"] == ("timestamp(3) with time zone", "timestamptz", "b", None, None)
    assert found[LONG][0] == "numeric(10,2)"


def test_it_reads_in_the_callers_transaction(shared: Connection) -> None:
    with pytest.raises(ZeroDivisionError), transaction(shared) as cur:
        cur.execute("CREATE TABLE public.new (id int PRIMARY KEY)")
        assert shapes.read(shared, TableName("public", "new")).key == ("id",)
        raise ZeroDivisionError
    assert not shapes.exists(shared, TableName("public", "new"))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        ("CREATE TABLE public.t (a int NOT NULL, b int NOT NULL, c int, PRIMARY KEY (b, a))", ("b", "a")),
        ("CREATE TABLE public.t (a int NOT NULL, b int NOT NULL, UNIQUE (b) INCLUDE (a))", ("b",)),
        ("CREATE TABLE public.t (a int, b int NOT NULL, UNIQUE (a), UNIQUE (b))", ("b",)),
    ],
)
def test_the_key(scratch: Connection, make: str, key: tuple[str, ...]) -> None:
    scratch.execute(make.encode())
    assert shapes.read(scratch, TableName("public", "t")).key == key


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        ("CREATE TABLE public.t (a int)", "neither a primary key"),
        ("CREATE TABLE public.t (a int UNIQUE)", "neither a primary key"),
        ("CREATE TABLE public.t (a int NOT NULL UNIQUE DEFERRABLE)", "neither a primary key"),
        ("CREATE TABLE public.t (a int NOT NULL); CREATE UNIQUE INDEX ON public.t (a) WHERE a > 0", "neither a primary key"),
        ("CREATE TABLE public.t (a int NOT NULL); CREATE UNIQUE INDEX ON public.t ((a + 1))", "neither a primary key"),
        ("CREATE TABLE public.t (a int) PARTITION BY RANGE (a)", "neither a primary key"),
        ("CREATE VIEW public.t AS SELECT 1 AS a", "a view"),
        (
            "CREATE TABLE public.t (a int PRIMARY KEY); CREATE FOREIGN DATA WRAPPER far;"
            "CREATE SERVER far FOREIGN DATA WRAPPER far; CREATE FOREIGN TABLE public.u () INHERITS (public.t) SERVER far",
            "foreign table public.u holds rows",
        ),
        ("CREATE TABLE public.o (a int); CREATE TABLE public.t (a int PRIMARY KEY, o public.o)", "row type of another table"),
        ('CREATE TABLE public."T" (a int PRIMARY KEY)', "does not exist"),
    ],
)
def test_what_cannot_be_moved_is_refused_by_name(scratch: Connection, make: str, cause: str) -> None:
    scratch.execute(make.encode())
    with pytest.raises(UsageError, match=cause) as error:
        shapes.read(scratch, TableName("public", "t"))
    assert error.value.place.startswith("table public.t")
    assert error.value.remedy


def test_a_name_of_more_than_63_bytes_is_not_cut_to_another_tables(scratch: Connection) -> None:
    scratch.execute(f'CREATE TABLE public."{LONG}" (a int PRIMARY KEY)'.encode())
    assert shapes.read(scratch, TableName("public", LONG)).key == ("a",)
    with pytest.raises(UsageError, match="does not exist"):
        shapes.read(scratch, TableName("public", LONG + "x"))


def test_the_wrong_case_gets_a_hint(scratch: Connection) -> None:
    scratch.execute('CREATE TABLE public."Flights" (a int PRIMARY KEY)')
    with pytest.raises(UsageError, match=r'Did you mean public\."Flights"'):
        shapes.read(scratch, TableName("public", "flights"))


@pytest.mark.parametrize("schema", ["tierkeeper", "pg_catalog", "information_schema"])
def test_our_own_and_postgres_tables_are_refused(scratch: Connection, schema: str) -> None:
    with pytest.raises(UsageError, match="not yours to move"):
        shapes.read(scratch, TableName(schema, "pg_class"))


def test_who_would_see_a_delete(scratch: Connection) -> None:
    scratch.execute("""
        CREATE TABLE public.t (id int PRIMARY KEY, parent int REFERENCES public.t ON DELETE SET NULL);
        CREATE TABLE public.child (t int REFERENCES public.t ON DELETE CASCADE);
        CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
        CREATE TRIGGER on_delete AFTER DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
        CREATE TRIGGER on_insert AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
        CREATE TRIGGER off AFTER DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
        ALTER TABLE public.t DISABLE TRIGGER off;
        CREATE PUBLICATION every FOR ALL TABLES;
        CREATE PUBLICATION inserts FOR TABLE public.t WITH (publish = 'insert');
    """)
    shape = shapes.read(scratch, TableName("public", "t"))
    assert shape.delete_triggers == ("trigger on_delete",)
    notes = shapes.publications_and_slots(scratch, shape.name)
    assert [n for n in notes if n.startswith("publication")] == [
        "publication every sends the deletes from public.t to its subscribers"
    ]


@pytest.mark.parametrize(
    ("type_", "good"),
    [
        ("date", True),
        ("timestamp(0)", True),
        ("timestamptz", True),
        ("public.day", True),
        ("int", False),
        ("time", False),
        ("public.timestamptz", False),
    ],
)
def test_the_age_column(scratch: Connection, type_: str, good: bool) -> None:
    scratch.execute("CREATE DOMAIN public.day AS date; CREATE TYPE public.timestamptz AS ENUM ('x')")
    scratch.execute(f"CREATE TABLE public.t (id int PRIMARY KEY, at {type_})".encode())
    shape = shapes.read(scratch, TableName("public", "t"))
    outcome: Callable[[], None] = lambda: shapes.check_age_column(shape, "at")  # noqa: E731
    if good:
        outcome()
    else:
        with pytest.raises(UsageError, match="'at' is of type"):
            outcome()
    with pytest.raises(UsageError, match="no column 'when'"):
        shapes.check_age_column(shape, "when")


def test_the_mover_s_own_guard_is_no_surprise(tiers: Tiers) -> None:
    with closing(tiers.core.connect("test")) as conn:
        conn.execute("CREATE SCHEMA tierkeeper; CREATE TABLE public.t (id int PRIMARY KEY)")
        for schema in ("tierkeeper", "public"):
            conn.execute(f"CREATE FUNCTION {schema}.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'".encode())
            trigger = f"CREATE TRIGGER {schema}_watch BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION {schema}.f()"
            conn.execute(trigger.encode())
        assert shapes.read(conn, TableName("public", "t")).delete_triggers == ("trigger public_watch",)
