"""What is asked of many tables at once is what each would have said by itself; and nothing is changed by what is known so."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import fitness, pacing, width
from tierkeeper.postgres import shapes
from tierkeeper.postgres.keeping import looking
from tierkeeper.postgres.link import Connection, transaction
from tierkeeper.quotas import partitions
from tierkeeper.setup import observe
from tierkeeper.setup.model import DestinationTable
from tierkeeper.tiers.usage import table_size

ZOO = """
CREATE SCHEMA "Odd ""S";
CREATE TYPE public.mood AS ENUM ('sad', 'ok');
CREATE COLLATION public.mine (LOCALE = 'C');
CREATE DOMAIN public.named AS text COLLATE public.mine CHECK (VALUE <> '') NOT NULL;
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
CREATE TABLE public.parent (id int PRIMARY KEY, at date, m public.mood[]);
CREATE TABLE public.child (
    id int PRIMARY KEY, at timestamptz, up int REFERENCES public.parent ON DELETE CASCADE, name public.named,
    self int REFERENCES public.child ON DELETE SET NULL
);
CREATE INDEX ON public.child (at);
ALTER TABLE public.child ADD COLUMN later text DEFAULT 'missing';
CREATE TABLE "Odd ""S".child (b int NOT NULL, a text COLLATE public.mine NOT NULL, UNIQUE (b, a));
CREATE TABLE public.tree (id int, at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE public.leaf PARTITION OF public.tree FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE public.other PARTITION OF public.tree DEFAULT;
CREATE TRIGGER b_watch AFTER DELETE ON public.tree FOR EACH ROW EXECUTE FUNCTION public.f();
CREATE TRIGGER a_watch AFTER DELETE ON public.leaf FOR EACH ROW EXECUTE FUNCTION public.f();
CREATE TRIGGER c_watch AFTER DELETE ON public.parent FOR EACH ROW EXECUTE FUNCTION public.f();
CREATE RULE gone AS ON DELETE TO public.parent DO ALSO NOTHING;
CREATE TABLE public.points (tree int, at timestamptz, FOREIGN KEY (tree, at) REFERENCES public.tree);
CREATE TABLE public.keyless (id int);
CREATE VIEW public.shown AS SELECT 1 AS id;
CREATE TABLE public.base (id int PRIMARY KEY, at date);
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere;
CREATE FOREIGN TABLE public.far (id int NOT NULL, at date) INHERITS (public.base) SERVER elsewhere;
CREATE PUBLICATION every FOR TABLE public.parent, public.leaf;
CREATE PUBLICATION lonely FOR TABLE public.child;
ALTER TABLE public.parent ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE UNLOGGED TABLE public.fast (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at date, body text);
INSERT INTO public.parent SELECT n FROM generate_series(1, 100) AS n;
INSERT INTO public.tree SELECT n, timestamptz '2020-06-01' FROM generate_series(1, 3000) AS n;
"""
_PUBLIC = ("parent", "child", "tree", "leaf", "other", "keyless", "shown", "base", "fast", "Child", "none")
NAMES = [*(TableName("public", n) for n in _PUBLIC), TableName('Odd "S', "child"), TableName("pg_catalog", "pg_class")]


@pytest.fixture
def zoo(tiers: Tiers) -> Iterator[Tiers]:
    """A table of every kind in Core."""
    with closing(tiers.core.connect("test")) as conn:
        conn.execute(ZOO.encode())
        conn.execute("SELECT pg_stat_force_next_flush()")  # lest the rows be counted anew between two looks
        conn.execute("ANALYZE public.parent, public.tree")
    yield tiers


def everything_there(conn: Connection, name: TableName) -> DestinationTable:
    """What a destination has of a table, and of all that the table needs."""
    return observe.destination_table(conn, name, shapes.read_with_objects(conn, name)[1], tier="main")


def kept(conn: Connection, name: TableName) -> object:
    """What the server keeps for a table; in which order it tells of the parts does not matter."""
    *sums, correlations = pacing.kept_of(conn, name) or (None,)
    return sums, sorted(correlations or (), key=str)


QUESTIONS: list[Callable[[Connection, TableName], object]] = [
    observe.source_table,
    everything_there,
    lambda conn, name: observe.destination_table(conn, name, tier="main"),
    lambda conn, name: shapes.read(conn, name, tier="core").ddl,
    shapes.publications_and_slots,
    table_size,
    fitness.look,
    kept,
    width._toasted,
    partitions._partitioned,
]


def answer(question: Callable[[Connection, TableName], object], conn: Connection, name: TableName) -> object:
    try:
        return question(conn, name)
    except UsageError as error:
        return str(error)


def test_together_is_as_each_by_itself(zoo: Tiers) -> None:
    with closing(zoo.core.connect("test")) as conn:
        alone = {name: [answer(q, conn, name) for q in QUESTIONS] for name in NAMES}
    with looking(NAMES), closing(zoo.core.connect("test")) as conn:
        together = {name: [answer(q, conn, name) for q in QUESTIONS] for name in NAMES}
    for name in NAMES:
        for question, one, other in zip(QUESTIONS, alone[name], together[name], strict=True):
            assert one == other, f"{name}: {question}"
    answers = {name.name: told for name, told in alone.items() if name.schema == "public"}
    assert [name for name, told in answers.items() if isinstance(told[0], str)] == ["keyless", "shown", "base", "Child", "none"]
    assert "far holds rows of it" in str(answers["base"][0])
    tree, leaf = answers["tree"], answers["leaf"]
    assert tree[5] != leaf[5], "nothing would be compared if all tables said the same"
    assert (tree[9], leaf[9]) == (True, None)


def test_a_tree_is_told_with_what_its_parts_have(zoo: Tiers) -> None:
    names = [TableName("public", name) for name in ("leaf", "tree", "parent")]
    with looking(names), closing(zoo.core.connect("test")) as conn:
        leaf, tree, parent = (shapes.read(conn, name) for name in names)
        bytes_of = {name.name: size.heap_bytes for name in names if (size := table_size(conn, name)) is not None}
    assert tree.delete_triggers == ("trigger a_watch", "trigger b_watch"), "those that a partition has from its table count once"
    assert leaf.delete_triggers == ("trigger a_watch", "trigger b_watch")
    assert parent.delete_triggers == ("rule gone", "trigger c_watch")
    assert bytes_of["tree"] == bytes_of["leaf"] > 10 * bytes_of["parent"] > 0


def test_nothing_is_written_by_what_a_look_knows(tiers: Tiers) -> None:
    """A move within a look would decide by answers of a moment ago: it ends before its first write."""
    with closing(tiers.core.connect("app")) as core:
        core.execute(
            "CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz NOT NULL);"
            "INSERT INTO public.t SELECT n, now() - interval '90 days' FROM generate_series(1, 50) AS n"
        )
    policy = {"name": "public.t", "age": "at", "core": "30 days"}
    keeper = open_keeper(load(tierkeeper_toml(tiers, [policy]), {}, tiers.home), environment=tiers.environment)
    table = TableName("public", "t")
    keeper.setup(apply=True)
    with looking([table]):
        assert keeper.plan_move(table, "core", "main").rows == 50
        with pytest.raises(Failed, match="about to write"):
            keeper.move(table, "core", "main")
        with closing(tiers.core.connect("app")) as core, transaction(core, read_only=True) as cur:
            assert cur.execute("SELECT count(*) FROM public.t").fetchone() == (50,)
    assert keeper.move(table, "core", "main").rows == 50
