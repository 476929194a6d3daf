"""What a statement is split into: columns, conditions and ages of each scan, and what is refused."""

from datetime import UTC, datetime

import pytest

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.query.model import AgeRange, ColumnFacts, Facts, PgType, Plan, TableFacts
from tierkeeper.query.plan import managed_tables, plan
from tierkeeper.query.scans import scan_sql
from tierkeeper.query.statement import parse

FLIGHTS, MIRROR = TableName("public", "flights"), TableName("public", "airlines")
POLICIES = {FLIGHTS: TablePolicy(FLIGHTS, age="at"), MIRROR: TablePolicy(MIRROR, mode="mirror")}


def facts(text_order: str = "bytes") -> Facts:
    kinds = {
        "id": PgType("int8"), "at": PgType("timestamptz"), "tail": PgType("text", order=text_order), "n": PgType("int4"),  # type: ignore[arg-type]
        "raw": PgType("opaque", declared="jsonb"), "Fare": PgType("numeric", 10, 2),
    }  # fmt: skip
    columns = tuple(ColumnFacts(name, kind.declared or kind.kind, kind) for name, kind in kinds.items())
    carriers = (ColumnFacts("code", "text", PgType("text", order="bytes")),)
    return Facts({FLIGHTS: TableFacts(FLIGHTS, columns), MIRROR: TableFacts(MIRROR, carriers)}, {}, bytewise=True, utf8=True)


def planned(sql: str, text_order: str = "bytes") -> Plan:
    return plan(parse(sql), facts(text_order), POLICIES)


def conditions(sql: str) -> tuple[str, ...]:
    return planned(sql).scans[0].predicate


def test_only_moved_tables_are_managed() -> None:
    assert managed_tables(parse("select * from flights, airlines, other"), POLICIES) == (FLIGHTS,)
    assert managed_tables(parse("select * from airlines"), POLICIES) == ()


def test_a_scan_has_the_columns_that_are_needed() -> None:
    assert [c.name for _, c in planned('select n from flights where "Fare" > 1').scans[0].columns] == ["n", "Fare"]
    assert planned("select count(*) from flights").scans[0].columns == ()
    assert scan_sql(planned("select count(*) from flights").scans[0]) == 'SELECT true AS none FROM "public"."flights"'


def test_simple_conditions_go_down_and_others_stay() -> None:
    assert conditions("select n from flights where n > 5 and tail = 'it''s' and n + 1 = 3 and (id = 1 or n = 2)") == (
        '"n" > 5', "\"tail\" = 'it''s'::pg_catalog.text",
    )  # fmt: skip
    assert conditions("select n from flights where n in (1, -2) and raw is not null") == (
        '("n" = 1 OR "n" = -2)',
        '"raw" IS NOT NULL',
    )
    assert conditions("select n from flights where not n > 5 or n = 1") == ()
    assert conditions("select n from flights where n not in (1) and id not between 1 and 2") == ()


def test_nothing_goes_below_the_empty_side_of_an_outer_join() -> None:
    left = planned("select 1 from airlines a left join flights f on a.code = f.tail where f.n is null and a.code = 'x'")
    assert [s.predicate for s in left.scans] == [("\"code\" = 'x'::pg_catalog.text",), ()]
    full = planned("select 1 from airlines a full join flights f on a.code = f.tail where f.n = 1 and a.code = 'x'")
    assert [s.predicate for s in full.scans] == [(), ()]


def test_ages_are_bounded_by_what_the_conditions_leave() -> None:
    day = datetime(2013, 10, 1, tzinfo=UTC)
    later = datetime(2013, 10, 5, 12, tzinfo=UTC)
    for where, ages in {
        "at >= '2013-10-01'": AgeRange(day, None),
        "'2013-10-01' >= at": AgeRange(None, day),
        "at > '2013-10-01' and at < '2013-10-05 14:00+02' and n = 1": AgeRange(day, later),
        "at between '2013-10-01' and '2013-10-05 12:00'": AgeRange(day, later),
        "at in ('2013-10-05 12:00Z', '2013-10-01')": AgeRange(day, later),
        "at <> '2013-10-01'": AgeRange(),
        "at > '2013-10-01' or n = 1": AgeRange(),
    }.items():
        assert planned(f"select n from flights where {where}").scans[0].ages == ages, where


def test_ranges_meet_at_their_ends_and_the_unknown_meets_all() -> None:
    a, b = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)
    assert AgeRange(b, None).meets(a, b)
    assert not AgeRange(b, None).meets(a, a)
    assert not AgeRange(None, a).meets(b, b)
    assert AgeRange(b, b).meets(None, None)


def test_a_linguistic_collation_orders_nothing_here() -> None:
    for sql in (
        "select tail from flights order by tail",
        "select max(tail) from flights",
        "select n from flights where tail > 'a'",
    ):
        planned(sql)
        with pytest.raises(UsageError, match='COLLATE "C"'):
            planned(sql, "other")
    planned("select tail from flights where tail = 'a' order by tail collate \"C\"", "other")
    planned("select tail, count(*) from flights group by tail", "other")


def test_an_opaque_value_is_only_shown() -> None:
    assert planned("select raw from flights").outputs[0].type.kind == "opaque"
    for sql in ("raw = '{}'", "raw is distinct from null", "raw in ('{}')", "raw || 'x' = 'y'", "coalesce(raw, '{}') is null"):
        with pytest.raises(UsageError, match=r"jsonb|opaque"):
            planned(f"select n from flights where {sql}")


def test_a_table_read_through_a_subquery_is_held() -> None:
    assert planned("select n from flights, airlines").streams
    assert not planned("with a as (select n from flights) select * from a").streams
    assert not planned("select n from flights where n in (select 1)").streams


def test_the_confirmation_writes_out_every_type() -> None:
    made = planned('select sum(n) + 1 as x from flights f where "Fare" * 2 > n').confirmation
    assert made == (
        'SELECT (((sum("f"."n"))::pg_catalog.int8 + 1))::pg_catalog.int8 AS "x" FROM "public"."flights" AS "f" '
        'WHERE ((("f"."Fare" * 2))::pg_catalog.numeric > "f"."n")'
    )
