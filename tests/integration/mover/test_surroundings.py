"""What stands around a table (policies, triggers, rules, constraints, publications, odd names): moved intact, or refused."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from hop import Hop, open_hop
from support import Tiers
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Link

MAKE = "CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz NOT NULL, x text);"
FILL = "INSERT INTO public.t SELECT i, '2024-01-01'::timestamptz + i * interval '1 hour', 'x' || i FROM generate_series(1, 10) i;"
LOG = "CREATE TABLE public.log (n int);"


def function(body: str) -> str:
    return f"CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$;"


BEFORE_ROW = "CREATE TRIGGER odd BEFORE {} ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();"
AFTER_ROW = "CREATE TRIGGER odd AFTER {} ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();"
AFTER_ALL = "CREATE TRIGGER odd AFTER {} ON public.t FOR EACH STATEMENT EXECUTE FUNCTION public.f();"
DEFERRED = (
    "CREATE CONSTRAINT TRIGGER odd AFTER {} ON public.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.f();"
)
NOTE = "INSERT INTO public.log VALUES (1); RETURN NULL;"
BACK = "INSERT INTO t VALUES (OLD.id, OLD.at, OLD.x); RETURN NULL;"
MORE = "INSERT INTO public.t SELECT NEW.id + 1000, NEW.at, 'more' WHERE NEW.id < 1000; RETURN NEW;"

REFUSED = {
    "rule instead, Core": ("CREATE RULE odd AS ON DELETE TO public.t DO INSTEAD NOTHING", "", "rule odd"),
    "rule also, Core": (LOG + "CREATE RULE odd AS ON DELETE TO t DO ALSO INSERT INTO log VALUES (old.id)", "", "rule odd"),
    "rule instead, Main": ("", "CREATE RULE odd AS ON DELETE TO public.t DO INSTEAD NOTHING", "rule odd"),
    "unlogged, Main": ("", "ALTER TABLE public.t SET UNLOGGED", "unlogged"),
    "no identity": ("ALTER TABLE t REPLICA IDENTITY NOTHING; CREATE PUBLICATION odd FOR TABLE t", "", "publication odd"),
    "no primary key": (
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ALTER id SET NOT NULL, ADD UNIQUE (id); CREATE PUBLICATION odd FOR TABLE t", "",
        "publication odd",
    ),
    "no identity, Main": (
        "", "ALTER TABLE t REPLICA IDENTITY NOTHING; CREATE PUBLICATION odd FOR TABLES IN SCHEMA public", "publication odd"
    ),
    "subscription": (
        "", "CREATE SUBSCRIPTION odd CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE);"
        "INSERT INTO pg_subscription_rel SELECT oid, 't'::regclass, 'r', NULL FROM pg_subscription WHERE subname = 'odd'",
        "subscription odd",
    ),
}  # fmt: skip
STOPPED = {
    "swallowed": (function("RETURN NULL;") + BEFORE_ROW.format("INSERT"), "trigger or rule"),
    "swallowed, always": (
        function("RETURN NULL;") + BEFORE_ROW.format("INSERT") + "ALTER TABLE t ENABLE ALWAYS TRIGGER odd", "trigger or rule"
    ),
    "changed": (function("NEW.x := 'other'; RETURN NEW;") + BEFORE_ROW.format("INSERT"), "trigger or rule"),
    "doubled": (function(MORE) + AFTER_ROW.format("INSERT"), "10 rows sent, 20 kept"),
    "changed later": (
        function("UPDATE public.t SET x = 'z' WHERE id = NEW.id; RETURN NULL;") + DEFERRED.format("INSERT"),
        "UPDATE of public.t refused",
    ),
    "raised": (function("RAISE 'not here';") + AFTER_ALL.format("INSERT"), r"not here \(in the function f\(\)\)"),
    "check": ("ALTER TABLE public.t ADD CONSTRAINT \"it's %s\" CHECK (id < 5)", "it's %s"),
    "check not valid": ("ALTER TABLE public.t ADD CONSTRAINT odd CHECK (id < 5) NOT VALID", "odd"),
    "exclusion": ("CREATE EXTENSION btree_gist; ALTER TABLE t ADD CONSTRAINT odd EXCLUDE USING gist (x WITH =, at WITH =);"
                  "INSERT INTO t VALUES (99, '2024-01-01 05:00Z', 'x5')", "odd"),
}  # fmt: skip
CORE_STOPPED = {
    "raised": function("RAISE 'never';") + BEFORE_ROW.format("DELETE"),
    "raised later": function("RAISE 'never';") + DEFERRED.format("DELETE"),
    "kept": function("RETURN NULL;") + BEFORE_ROW.format("DELETE"),
    "brought back": function(BACK) + AFTER_ROW.format("DELETE"),
    "brought back later": function(BACK) + DEFERRED.format("DELETE"),
    "brought back elsewhere, and quietly": function(f"BEGIN {BACK} EXCEPTION WHEN division_by_zero THEN END; RETURN NULL;")
    + AFTER_ROW.format("DELETE"),
}
MOVED = {
    "replica only": (
        "", function("RETURN NULL;") + BEFORE_ROW.format("INSERT") + "ALTER TABLE t ENABLE REPLICA TRIGGER odd", 0
    ),
    "rule on insert": ("", "CREATE RULE odd AS ON INSERT TO public.t DO INSTEAD NOTHING", 0),
    "insert watched": ("", LOG + function(NOTE) + AFTER_ALL.format("INSERT"), 1),
    "delete watched": (LOG + function(NOTE) + AFTER_ROW.format("DELETE"), "", 10),
    "published whole": ("ALTER TABLE t REPLICA IDENTITY FULL; CREATE PUBLICATION odd FOR TABLE t", "", 0),
    "unique, not null": (
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ALTER id SET NOT NULL, ADD UNIQUE NULLS NOT DISTINCT (id)", "", 0
    ),
    "counted": ("", "CREATE SEQUENCE s; ALTER TABLE t ALTER id SET DEFAULT nextval('s')", 0),
}  # fmt: skip
NOTES = {
    "rule on insert": "rule odd at main does not see",
    "insert watched": "trigger odd at main fires",
    "delete watched": "trigger odd fires",
    "published whole": "publication odd sends the deletes",
    "counted": "sequence of column id at main",
}


def remake(hop: Hop, core: str, main: str) -> None:
    """The table in both tiers and nothing of the case before."""
    for conn, more in ((hop.core, FILL + core), (hop.main, main)):
        conn.execute("UPDATE pg_subscription SET subenabled = false; DELETE FROM pg_subscription_rel")
        conn.execute("DROP SUBSCRIPTION IF EXISTS odd")
        conn.execute(
            "DROP PUBLICATION IF EXISTS odd; DROP EXTENSION IF EXISTS btree_gist CASCADE; DROP SEQUENCE IF EXISTS s CASCADE"
        )
        conn.execute("DROP TABLE IF EXISTS public.t, public.log CASCADE; DROP FUNCTION IF EXISTS public.f CASCADE")
        conn.execute(MAKE)
        for statement in more.split(";;"):
            conn.execute(statement.encode())


@pytest.fixture
def over(hop: Hop) -> Iterator[Hop]:
    """May write where only Postgres does, to stand in for another server's subscription."""
    for conn in (hop.core, hop.main):
        conn.execute("SET allow_system_table_mods = on; SET client_min_messages = error")
    yield hop
    remake(hop, "", "")


def test_what_would_lose_or_double_rows_is_refused_in_the_plan(over: Hop) -> None:
    for case, (core, main, cause) in REFUSED.items():
        remake(over, core, main.replace("NONE);", "NONE);;"))
        for deed in (over.plan, over.move):
            with pytest.raises(UsageError, match=cause) as error:
                deed()
            assert "public.t" in error.value.place, case
        assert over.counts() == (10, 0), case


def test_what_refuses_rows_at_main_leaves_them_in_core_and_is_named(over: Hop) -> None:
    for case, (main, cause) in STOPPED.items():
        remake(over, "", main)
        _, there = over.counts()
        with pytest.raises(Failed, match=cause) as error:
            over.move()
        assert "public.t" in error.value.place, case
        assert over.counts() == (10, there), case
        assert over.main.execute("SELECT count(*) FROM tierkeeper.ledger WHERE state = 'copied'").fetchone() == (0,), case


def test_what_keeps_rows_in_core_leaves_no_copy_at_main(over: Hop) -> None:
    for case, core in CORE_STOPPED.items():
        remake(over, core, "")
        with pytest.raises(Failed, match=r"never|10 rows stay|wrote 10 rows to the table itself") as error:
            over.move()
        assert error.value.place == "public.t (core)", case
        assert over.counts() == (10, 0), case


def test_what_only_looks_on_is_noted_and_moves(over: Hop) -> None:
    for case, (core, main, logged) in MOVED.items():
        remake(over, core, main)
        notes = " ".join(over.plan().notes)
        assert NOTES.get(case, "") in notes, case
        assert over.move().rows == 10, case
        assert over.counts() == (0, 10), case
        seen = [n for n in over.counts("public.log") if n is not None]
        assert seen == ([logged] if logged else []), case


def test_a_plain_role_sees_every_row_or_moves_none(tiers: Tiers) -> None:
    """I1: rows that a policy hides are an error, never skipped; the owner whom it does not bind moves them all."""
    role = f"plain_{uuid4().hex[:8]}"
    with open_hop(tiers) as hop:
        hop.core.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'word'".encode())
        try:
            for conn, database in ((hop.core, tiers.core), (hop.main, tiers.main)):
                name = database.parameters["dbname"]
                conn.execute(f"GRANT ALL ON DATABASE {name} TO {role}; GRANT ALL ON SCHEMA public TO {role}; {MAKE}".encode())
                conn.execute(f"ALTER TABLE t OWNER TO {role}; ALTER TABLE t ENABLE ROW LEVEL SECURITY".encode())
                conn.execute("CREATE POLICY half ON t USING (id % 2 = 0)")
            hop.core.execute(FILL)

            def of(link: Link) -> Link:
                user = f"{link.parameters['user']}:{link.parameters['password']}@"
                return replace(link, url=link.url.replace(user, f"{role}:word@"))

            with open_hop(replace(tiers, core=of(tiers.core), main=of(tiers.main))) as plain:
                for conn, tier in ((hop.core, "core"), (hop.main, "main")):
                    conn.execute("ALTER TABLE t FORCE ROW LEVEL SECURITY")
                    for deed in (plain.plan, plain.move):
                        with pytest.raises(UsageError, match="row level security") as error:
                            deed()
                        assert error.value.place == f"public.t ({tier})"
                    conn.execute("ALTER TABLE t NO FORCE ROW LEVEL SECURITY")
                assert hop.counts() == (10, 0)
                assert plain.move().rows == 10
            assert hop.counts() == (0, 10)
        finally:
            for conn in (hop.core, hop.main):
                conn.execute(f"DROP OWNED BY {role} CASCADE".encode())
            hop.core.execute(f"DROP ROLE {role}".encode())


def test_a_writer_in_replica_role_does_not_pass_the_guard(hop: Hop) -> None:
    """As a subscription's worker writes, and a restore without triggers."""
    hop.core.execute(MAKE + FILL)
    assert hop.move().rows == 10
    with closing(hop.tiers.main.connect("app")) as app:
        app.execute("SET session_replication_role = replica")
        for deed in ("UPDATE t SET x = 'lost' WHERE id = 1", "DELETE FROM t WHERE id = 1", "TRUNCATE t"):
            with pytest.raises(psycopg.errors.ObjectInUse):
                app.execute(deed.encode())


LONG = "ß" * 31 + "x"
ODD = (
    TableName(LONG, LONG),
    TableName("public", "order"),
    TableName('a "b".c', "100% %s {0} of 'it'"),
    TableName("Public", "order"),
)


def test_a_table_may_be_called_what_our_own_statements_call_things(tiers: Tiers) -> None:
    name = TableName("public", "piece")
    with open_hop(tiers, [name]) as hop:
        hop.core.execute("CREATE TABLE public.piece (id int PRIMARY KEY, at date, page int, rows text)")
        hop.core.execute("INSERT INTO public.piece SELECT i, '2024-01-01', NULL, 'r' FROM generate_series(1, 5000) i")
        assert hop.move(name).rows == 5000
        assert hop.main.execute("SELECT count(DISTINCT id) FROM public.piece").fetchone() == (5000,)


def test_names_that_need_quotes_go_all_the_way(tiers: Tiers) -> None:
    """The same name in two schemas, keywords, capitals, dots, quotes, percent signs, and 63 bytes of them."""
    with open_hop(tiers, ODD) as hop:
        for number, name in enumerate(ODD):
            parts = {
                "schema": psycopg.sql.Identifier(name.schema), "table": psycopg.sql.Identifier(name.schema, name.name),
                "type": psycopg.sql.Identifier(name.schema, f"{name.name[:20]} Typ.%"), "long": psycopg.sql.Identifier(LONG),
                "key": psycopg.sql.Identifier(f'PK "é" % {number}'),
            }  # fmt: skip
            hop.core.execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {schema}").format(**parts))
            hop.core.execute(psycopg.sql.SQL("""CREATE TYPE {type} AS ENUM ('it''s', '%', '"')""").format(**parts))
            hop.core.execute(
                psycopg.sql.SQL(
                    'CREATE TABLE {table} ("user" int, "a.b" {type}[], {long} text, at date,'
                    ' "%s" int CONSTRAINT "1 %" CHECK ("%s" > 0), "Q""q" text, CONSTRAINT {key} PRIMARY KEY ("user", {long}))'
                ).format(**parts)
            )
            hop.core.execute(
                psycopg.sql.SQL(
                    "INSERT INTO {table} SELECT i, ARRAY['it''s', '\"']::{type}[], {n}, '2024-01-01', i"
                    " FROM generate_series(1, 3) i"
                ).format(**parts, n=psycopg.sql.Literal(f"table {number}"))
            )
        for name in ODD:
            assert hop.move(name).rows == 3
        time.sleep(1.1)  # they rest at Main for query.timeout
        for number, name in enumerate(ODD[:3]):
            assert hop.move(name, "main", "archive").rows == 3
            assert hop.keeper.archive_restore(name, to=f"back.b{number}").rows == 3
            found = hop.main.execute(f'SELECT "user", "{LONG}", "a.b"::text FROM back.b{number}'.encode())
            assert sorted(found) == [(i, f"table {number}", '{it\'s,"\\""}') for i in (1, 2, 3)]
