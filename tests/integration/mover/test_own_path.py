"""What is the user's finds its own names: triggers, checks, index functions and conditions written without a schema."""

import time
from contextlib import closing

import pytest

from hop import Hop, open_hop
from support import Tiers
from tierkeeper.kernel.tables import TableName

T = TableName("public", "t")
MAKE = "CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz NOT NULL, x text);"
FILL = "INSERT INTO public.t SELECT i, '2024-01-01'::timestamptz + i * interval '1 hour', 'x' || i FROM generate_series(1, 10) i;"
LOG = """
CREATE TABLE public.log (n int);
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO log VALUES (1); RETURN NULL; END $$;
CREATE FUNCTION public.helper(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION public.fine(v text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN helper(v); END';
"""
AFTER = "CREATE {} TRIGGER noted AFTER {} ON public.t {} FOR EACH ROW EXECUTE FUNCTION public.note();"


def logged(hop: Hop, tier: str) -> object:
    conn = hop.core if tier == "core" else hop.main
    row = conn.execute("SELECT count(*) FROM public.log").fetchone()
    return row and row[0]


@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_triggers_that_name_no_schema_fire(tiers: Tiers, deferred: str) -> None:
    kind = "CONSTRAINT" if deferred else ""
    with open_hop(tiers) as hop:
        hop.core.execute(f"{LOG}{MAKE}{FILL}{AFTER.format(kind, 'DELETE', deferred)}".encode())
        hop.main.execute(f"{LOG}{MAKE}{AFTER.format(kind, 'INSERT', deferred)}".encode())
        assert hop.move(T).rows == 10
        assert (logged(hop, "core"), logged(hop, "main")) == (10, 10)


def test_checks_and_index_functions_that_name_no_schema_are_asked(tiers: Tiers) -> None:
    with open_hop(tiers) as hop:
        for conn in (hop.core, hop.main):
            conn.execute(f"{LOG}{MAKE}".encode())
            conn.execute("ALTER TABLE public.t ADD CHECK (public.fine(x)); CREATE INDEX ON public.t (public.fine(x))")
        hop.core.execute(FILL.encode())
        assert hop.move(T).rows == 10
        time.sleep(1.1)
        assert hop.keeper.move(T, "main", "core", where="true").rows == 10
        assert hop.core.execute("SELECT count(*) FROM public.t").fetchone() == (10,)


@pytest.mark.long
def test_a_condition_means_what_it_means_in_the_roles_own_sessions(tiers: Tiers) -> None:
    """`citext = 'x'` ignores case where the extension's schema is in the path, and compares as text where it is not."""
    with open_hop(tiers) as hop:
        hop.core.execute("CREATE EXTENSION citext; CREATE TABLE public.t (id int PRIMARY KEY, at date, x citext, r regclass)")
        hop.core.execute("INSERT INTO public.t SELECT i, '2024-01-01', CASE WHEN i < 4 THEN 'BOB' ELSE 'eve' END, 't'::regclass"
                         " FROM generate_series(1, 10) i")  # fmt: skip
        stays = hop.core.execute("SELECT array_agg(id ORDER BY id) FROM public.t WHERE NOT x <> 'bob'").fetchone()
        assert stays == ([1, 2, 3],)
        assert hop.keeper.plan_move(T, "core", "main", where="x <> 'bob'").rows == 7
        assert hop.keeper.move(T, "core", "main", where="x <> 'bob'").rows == 7
        assert hop.core.execute("SELECT array_agg(id ORDER BY id) FROM public.t").fetchone() == stays
        assert hop.main.execute("SELECT count(*) FROM public.t WHERE r::text IN ('t', 'public.t')").fetchone() == (7,)
        time.sleep(1.1)
        assert hop.keeper.move(T, "main", "archive", where="x = 'EVE'").rows == 7


@pytest.mark.long
def test_an_erase_asks_the_condition_so_too(tiers: Tiers) -> None:
    with open_hop(tiers) as hop:
        hop.core.execute("CREATE EXTENSION citext; CREATE TABLE public.t (id int PRIMARY KEY, at date, x citext)")
        hop.core.execute("INSERT INTO public.t SELECT i, '2024-01-01', CASE WHEN i < 4 THEN 'BOB' ELSE 'eve' END"
                         " FROM generate_series(1, 10) i")  # fmt: skip
        hop.keeper.setup(apply=True)
        for tier in ("core", "main", "archive"):
            if tier == "main":
                hop.move(T)
            elif tier == "archive":
                time.sleep(1.1)
                hop.keeper.move(T, "main", "archive")
            told = hop.keeper.archive_erase(T, where="x = 'bob'", dry_run=True)
            assert sum(told.rows.values()) == 3


def test_a_copy_is_taken_back_under_such_triggers(tiers: Tiers) -> None:
    with open_hop(tiers) as hop:
        hop.core.execute(f"{LOG}{MAKE}{FILL}".encode())
        hop.core.execute("CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''never''; END'")
        hop.core.execute("CREATE TRIGGER no BEFORE DELETE ON public.t FOR EACH ROW EXECUTE FUNCTION public.no()")
        hop.main.execute(f"{LOG}{MAKE}{AFTER.format('', 'INSERT OR DELETE', '')}".encode())
        with pytest.raises(Exception, match="never"):
            hop.move(T)
        assert hop.main.execute("SELECT count(*) FROM public.t").fetchone() == (0,)
        assert logged(hop, "main") == 20
        with closing(tiers.core.connect("app")) as core:
            assert core.execute("SELECT count(*) FROM public.t").fetchone() == (10,)
