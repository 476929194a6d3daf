"""Every type of Postgres from Core to Main, the archive and back, bit for bit, or refused by its column's name (I3, I10).

The oracle asks the servers themselves: each value's own text and, where it means the same on every server, its binary form.
"""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hop import Hop, T, open_hop
from support import Tiers
from tierkeeper.kernel.errors import Exit, Failed, Faults, UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.postgres.link import Connection

BATTERY = Path(__file__).parents[1].joinpath("every_type.sql").read_text(encoding="utf-8")
TABLE = TableName('odd "schema', "All, types")
LOCAL = ("A", "C", "R", "E")  # categories whose binary form may name types by their object ids; enums and ranges follow suit


def bits(conn: Connection, table: str) -> list[tuple[Any, ...]]:
    """Every row: of each column its text, and its binary form where that names no types."""
    columns = conn.execute(
        "SELECT format('concat(%1$I)', attname) || ', ' || format('%1$I IS NULL', attname)"
        " || CASE WHEN typcategory <> ALL (%s) AND typtype = 'b' AND typname !~ '^reg' AND typsend <> 0"
        "    THEN format(', encode(%%s(%%I), ''hex'')', typsend::regproc, attname) ELSE '' END"
        " FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname".replace("%1$I", "%%1$I"),
        [list(LOCAL), table],
    )
    query = f"SELECT {', '.join(str(c[0]) for c in columns)} FROM {table} ORDER BY id"
    return conn.execute(query.encode()).fetchall()


def test_every_type_comes_to_main_to_the_archive_and_back(tiers: Tiers) -> None:
    with open_hop(tiers, [TABLE]) as hop:
        _battery(hop)


def _battery(hop: Hop) -> None:
    hop.core.execute(BATTERY.encode())
    name = str(TABLE)
    hop.core.execute(f"UPDATE {name} SET at = '1999-12-31 23:59:59.999999+00' WHERE at > now()".encode())
    before = bits(hop.core, name)
    hop.main.execute("CREATE TYPE public.pair AS (a int4, b text); CREATE TYPE public.other AS ENUM ('x')")
    assert hop.move(TABLE).rows == 4
    assert (bits(hop.main, name), bits(hop.core, name)) == (before, [])
    oids = "SELECT oid FROM pg_type WHERE typname IN ('Mood', 'pair', 'nest') ORDER BY typname"
    assert not {*hop.core.execute(oids)} & {*hop.main.execute(oids)}

    time.sleep(1.1)  # it rests at Main for query.timeout
    assert hop.move(TABLE, "main", "archive").rows == 4
    assert bits(hop.main, name) == []
    assert hop.keeper.archive_restore(TABLE, to="public.back").rows == 4
    assert bits(hop.main, "public.back") == before
    hop.main.execute("UPDATE public.back SET f8 = 0 WHERE f8 = '-0'")
    assert bits(hop.main, "public.back") != before

    time.sleep(1.1)  # and in the archive
    assert hop.keeper.archive_thaw(TABLE, until=datetime.max.replace(tzinfo=UTC), hold=Age.parse("1 day", "test")).rows == 4
    assert bits(hop.main, name) == before


def test_a_table_of_plain_types_keeps_even_a_nan_s_own_bits(hop: Hop) -> None:
    hop.core.execute("CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, x float8, y float4)")
    hop.core.execute(
        "INSERT INTO t VALUES (1, '2024-01-01', 'inf'::float8 - 'inf'::float8, 'inf'::float4 - 'inf'::float4),"
        " (2, '2024-01-01', 'NaN', 'NaN')"
    )
    before = bits(hop.core, "t")
    assert before[0] != before[1]
    assert hop.move().rows == 2
    assert bits(hop.main, "t") == before


XML = """
CREATE DOMAIN public.page AS xml;
CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, x xml, d public.page, a xml[], da public.page[]);
INSERT INTO t SELECT id, '2024-01-01', x, x, ARRAY[x, NULL, 'plain'], ARRAY[[x, x]]
FROM (VALUES
    (1, '<?xml version="1.0" encoding="UTF-8"?><a b="ü &quot;\\"/>'::xml),
    (2, '<?xml version="1.1" encoding="ISO-8859-1" standalone="yes"?><a>ö</a>'),
    (3, E'<?xml version="1.0"?>\\n<a/>'), (4, 'text alone'), (5, ''), (6, NULL)
) AS given (id, x)
"""


def test_xml_keeps_its_declaration_on_every_hop(hop: Hop) -> None:
    """I4: Postgres's output leaves it out, in text and in binary, so that no comparison of what it gives out could tell."""
    said = "SELECT id, x::text, d::text, a::text[]::text, da::text[]::text FROM {} ORDER BY id"
    hop.core.execute(XML.encode())
    before = hop.core.execute(said.format("t").encode()).fetchall()
    assert "ISO-8859-1" in str(before[1])
    assert hop.move().rows == 6
    assert hop.main.execute(said.format("t").encode()).fetchall() == before

    time.sleep(1.1)
    assert hop.move(T, "main", "archive").rows == 6
    assert hop.keeper.archive_restore(T, to="public.back").rows == 6
    assert hop.main.execute(said.format("back").encode()).fetchall() == before

    time.sleep(1.1)
    assert hop.keeper.archive_thaw(T, until=datetime.max.replace(tzinfo=UTC), hold=Age.parse("1 day", "test")).rows == 6
    assert hop.main.execute(said.format("t").encode()).fetchall() == before


def test_xml_that_is_given_out_without_its_declaration_is_refused(hop: Hop) -> None:
    hop.core.execute(
        'CREATE TYPE boxed AS (n int4, x xml); CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, "the col" boxed[])'
    )
    hop.core.execute("INSERT INTO t VALUES (1, '2024-01-01')")
    refused(hop, "the col")


NAMESAKES = (
    ("CREATE TYPE {} AS (a int4, b int4)", "CREATE TYPE {} AS (b int4, a int4)"),
    ("CREATE TYPE {} AS (a timestamp)", "CREATE TYPE {} AS (a timestamptz)"),
    ("CREATE DOMAIN {} AS timestamptz", "CREATE DOMAIN {} AS timestamp"),
    ("CREATE DOMAIN {} AS numeric", "CREATE DOMAIN {} AS numeric(5, 1)"),
    ("CREATE DOMAIN {} AS int4", "CREATE DOMAIN {} AS date"),
    ("CREATE TYPE {} AS RANGE (SUBTYPE = float8)", "CREATE TYPE {} AS RANGE (SUBTYPE = float4)"),
    ("CREATE TYPE {} AS ENUM ('a', 'b')", "CREATE TYPE {} AS ENUM ('b', 'a')"),
    ("CREATE DOMAIN {} AS text", "CREATE TYPE {} AS ENUM ('a')"),
    ("CREATE TYPE {0}_part AS (a int4, b int4); CREATE TYPE {0} AS (i {0}_part[])", "CREATE TYPE {}_part AS (b int4, a int4)"),
)


def test_a_namesake_that_means_something_else_is_refused(hop: Hop) -> None:
    """The values are the same bits or the same text in both, so that no comparison of the rows could tell."""
    for i, (core, main) in enumerate(NAMESAKES):
        hop.core.execute(core.format(f"t{i}").encode())
        hop.main.execute(main.format(f"t{i}").encode())
    columns = ", ".join(f'"col {i}" t{i}' for i in range(len(NAMESAKES)))
    hop.core.execute(f"CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, {columns})".encode())
    hop.core.execute("INSERT INTO t VALUES (1, '2024-01-01')")
    refused(hop, *(f"col {i}" for i in range(len(NAMESAKES))))


NARROWER = (
    ("numeric(9, 2)", "numeric(9, 1)"), ("timestamptz", "timestamp"), ("interval", "interval day"), ("json", "jsonb"),
    ("bit varying(9)", "bit(9)"), ("numeric[]", "numeric(5, 1)[]"), ("varchar(9)", "text"), ("char(4)", "varchar(3)"),
)  # fmt: skip
WIDENED = (
    ("numeric", "numeric(5, 1)"), ("varchar(9)", "varchar(3)"), ("text", "char(4)"), ("float8", "float4"),
    ("timestamptz", "timestamptz(0)"), ("time", "time(0)"), ("int8", "int4"),
)  # fmt: skip


def test_a_column_at_main_that_would_cut_values_is_widened_where_that_loses_nothing(hop: Hop) -> None:
    for conn, which in ((hop.core, 0), (hop.main, 1)):
        columns = ", ".join(f'"col {i}" {pair[which]}' for i, pair in enumerate(WIDENED))
        conn.execute(f"CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, {columns})".encode())
    row = "(1, '2024-01-01', 1.25, 'longer', 'blanks  ', 0.1, '2024-01-01 00:00:00.5+00', '00:00:00.5', 1 << 40)"
    hop.core.execute(f"INSERT INTO t VALUES {row.replace('1 << 40', '1099511627776')}".encode())
    wanted = hop.core.execute("SELECT t::text FROM t").fetchall()
    hop.move()
    assert hop.main.execute("SELECT t::text FROM t").fetchall() == wanted


def test_a_column_at_main_that_would_cut_values_is_refused(hop: Hop) -> None:
    for conn, which in ((hop.core, 0), (hop.main, 1)):
        columns = ", ".join(f'"col {i}" {pair[which]}' for i, pair in enumerate(NARROWER))
        conn.execute(f"CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, {columns})".encode())
    hop.core.execute("INSERT INTO t VALUES (1, '2024-01-01')")
    refused(hop, *(f"col {i}" for i in range(len(NARROWER))))


def test_a_type_that_nobody_reads_back_is_refused(hop: Hop) -> None:
    for type_ in ("pg_node_tree", "gtsvector[]"):
        hop.core.execute(f'CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, "the col" {type_})'.encode())
        hop.core.execute("INSERT INTO t VALUES (1, '2024-01-01')")
        refused(hop, "the col")
        hop.core.execute("DROP TABLE t")


def test_an_extension_that_main_cannot_have_is_refused(hop: Hop) -> None:
    hop.core.execute('CREATE EXTENSION hstore; CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, "the col" hstore[])')
    hop.core.execute("INSERT INTO t VALUES (1, '2024-01-01')")
    hop.core.execute(
        "SET allow_system_table_mods = on; UPDATE pg_extension SET extname = 'of_this_server' WHERE extname = 'hstore'"
    )
    refused(hop, "the col")


def refused(hop: Hop, *columns: str) -> None:
    """By their names, in the plan and in the move, and nothing is there afterwards that was not before."""
    things = "SELECT oid FROM pg_class UNION ALL SELECT oid FROM pg_type UNION ALL SELECT oid FROM pg_namespace"
    before = [set(conn.execute(things)) for conn in (hop.core, hop.main)]
    for deed in (hop.plan, hop.move):
        with pytest.raises((UsageError, Faults)) as error:
            deed()
        found = error.value.errors if isinstance(error.value, Faults) else [error.value]
        assert error.value.exit_code == Exit.USAGE
        assert all(any(f"'{c}'" in str(e) for e in found) for c in columns)
    assert [set(conn.execute(things)) for conn in (hop.core, hop.main)] == before
    assert hop.core.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_values_that_have_only_a_text_form_travel(hop: Hop) -> None:
    """An access list has no binary form, and names of objects have other object ids elsewhere: also inside an array."""
    hop.core.execute("CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, a aclitem[], r regclass[])")
    hop.core.execute("INSERT INTO t SELECT 1, '2024-01-01', '{postgres=r*w/postgres}', ARRAY['t'::regclass, 'pg_class']")
    before = bits(hop.core, "t")
    assert hop.move().rows == 1
    assert bits(hop.main, "t") == before
    assert hop.main.execute("SELECT r[1] = 't'::regclass FROM t").fetchone() == (True,)


def test_generated_identity_and_dropped_columns_keep_their_values(hop: Hop) -> None:
    hop.core.execute(
        "CREATE TABLE t (gone int4, id int4 GENERATED ALWAYS AS IDENTITY (START 7) PRIMARY KEY, at date NOT NULL, gone_too text,"
        " n int4, twice int4 GENERATED ALWAYS AS (n * 2) STORED, other int4 GENERATED BY DEFAULT AS IDENTITY (START 5));"
        "ALTER TABLE t DROP gone, DROP gone_too; INSERT INTO t (at, n) VALUES ('2024-01-01', 4), ('2024-01-01', NULL)"
    )
    hop.main.execute(
        "CREATE TABLE t (twice int4, x int4, other int4, id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at date, n int4);"
        "ALTER TABLE t DROP x"
    )
    before = bits(hop.core, "t")
    assert hop.move().rows == 2
    assert bits(hop.main, "t") == before


def test_what_core_generates_comes_back_and_another_value_is_found(hop: Hop) -> None:
    """I3: it is not sent, Core makes it again, and what that is counts in the comparison."""
    hop.core.execute(
        "CREATE TABLE t (id int4 GENERATED ALWAYS AS IDENTITY (START 7) PRIMARY KEY, at date NOT NULL, n int4,"
        ' "twice n" int4 GENERATED ALWAYS AS (n * 2) STORED, x text);'
        "INSERT INTO t (at, n, x) VALUES ('2024-01-01', 4, 'x'), ('2024-01-01', NULL, NULL)"
    )
    before = bits(hop.core, "t")
    assert hop.move().rows == 2
    time.sleep(1.1)  # it rests at Main for query.timeout
    hop.main.execute('UPDATE t SET "twice n" = 9 WHERE n = 4')
    with pytest.raises(Failed, match="'twice n' there is generated"):
        hop.keeper.move(T, "main", "core", where="true")
    assert (bits(hop.core, "t"), hop.counts()) == ([], (0, 2))

    hop.main.execute('UPDATE t SET "twice n" = 8 WHERE n = 4')
    assert hop.keeper.move(T, "main", "core", where="true").rows == 2
    assert (bits(hop.core, "t"), hop.counts()) == (before, (2, 0))


def test_a_domain_comes_without_checks_that_call_the_users_functions(hop: Hop) -> None:
    """Its values were checked where they come from."""
    hop.core.execute(
        "CREATE FUNCTION fine(int4) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 0';"
        "CREATE DOMAIN d AS int4 CHECK (fine(VALUE)) CONSTRAINT below CHECK (VALUE < 100);"
        "CREATE TABLE t (id int4 PRIMARY KEY, at date NOT NULL, x d); INSERT INTO t VALUES (1, '2024-01-01', 5)"
    )
    assert hop.move().rows == 1
    assert hop.main.execute("SELECT conname FROM pg_constraint WHERE contypid = 'd'::regtype").fetchall() == [("below",)]


MOOD = (
    "CREATE TYPE mood AS ENUM ('b', 'a'); CREATE FUNCTION shout(mood) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'LOUD' $$;"
    "CREATE CAST (mood AS text) WITH FUNCTION shout(mood)"
)


PLAIN_KEY = f"""
CREATE TYPE pair AS (a int4, b text);
{MOOD};
CREATE TABLE t (
    a text COLLATE "C", b text COLLATE "C.utf8", c mood, d char(3), e pair, f bytea, g numeric[], h int4range, i timestamptz,
    j interval,
    k jsonb, l inet, m float8, at date NOT NULL DEFAULT '2024-01-01', id serial,
    PRIMARY KEY (a, b, c, d, e, f, g, h, i, j, k, l, m)
);
INSERT INTO t VALUES
('a', 'é', 'a', 'x', '(1,)', '\\x00', '{{NaN,1.0}}', 'empty', 'infinity', 'infinity', '{{"a": 1.0}}', '1.2.3.4', 'NaN'),
('a', 'Z', 'b', 'x ', '(1,x)', '', '[0:0]={{2}}', '[1,)', '4713-01-01 BC', '1 day', '[]', '::1/64', '-0'),
('', 'z', 'a', '', '(,)', '''', '{{}}', '(,)', 'epoch', '0', 'null', '10/8', '-Infinity'),
('B', '', 'b', '%s', '(2,")")', 'b', '{{NULL}}', '[1,2)', '2024-01-01', '-1 month', '1.50', '0/0', 1e-300);
"""
EXTENDED_KEY = """
CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION hstore;
CREATE TABLE t (a citext, b ltree, c hstore, d "char", at date NOT NULL DEFAULT '2024-01-01', id serial,
    PRIMARY KEY (d, a, b, c));
INSERT INTO t VALUES ('a', 'x.y', 'a=>1', ''), ('B', 'x', 'b=>NULL', 'x'), ('c', '', '', 'x'), ('c', 'X', 'c=>2', 'x');
"""


@pytest.mark.parametrize("make", [PLAIN_KEY, EXTENDED_KEY], ids=["plain", "extended"])
def test_any_key_moves_in_batches_and_shows_its_conflicts(tiers: Tiers, make: str) -> None:
    with open_hop(tiers, batch_rows=2) as hop:
        hop.core.execute(make.encode())
        before = bits(hop.core, "t")
        assert hop.move().rows == 4
        (taken,) = hop.main.execute("SELECT t.*::text FROM t LIMIT 1").fetchone() or ()
        assert bits(hop.main, "t") == before

        hop.core.execute("INSERT INTO t SELECT (%s::t).*", [taken])
        again = hop.move()
        assert (again.rows, len(again.conflicts)) == (0, 1)
        hop.main.execute("SELECT set_config('tierkeeper.mover', 'on', false)")  # its rest is not over
        hop.main.execute("DELETE FROM t WHERE t.*::text = %s", [taken])
        assert hop.move().rows == 1
        assert bits(hop.main, "t") == before
