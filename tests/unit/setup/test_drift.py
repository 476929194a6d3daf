"""How Main follows a table that changed at Core, decided without a server."""

from dataclasses import replace

import pytest

from tierkeeper.kernel.errors import InFlight, UsageError
from tierkeeper.kernel.tables import Column, Followed, FollowedColumn, TableName, TableShape
from tierkeeper.setup import drift
from tierkeeper.setup.model import DestinationTable, SourceTable

NAME = TableName("public", "t")
ID = Column("id", "bigint", "int8", not_null=True, number=1)
AT = Column("at", "date", "date", number=2)
BODY = Column("body", "character varying(5)", "varchar", number=3)
OLD = Column("old", "integer", "int4", not_null=True, number=4)
BASE = (ID, AT, BODY, OLD)
NEW = Column("new", "text", "text", number=5)


def shape(*columns: Column, key: tuple[str, ...] = ("id",), oid: int = 7) -> TableShape:
    return TableShape(NAME, columns, key, oid=oid)


def known(*columns: Column, relation: int = 7) -> Followed:
    return Followed(relation, tuple(FollowedColumn(c.number, c.name, c.type) for c in columns))


def between(core: TableShape, main: TableShape | None = None, followed: Followed | None = None, **more: object) -> drift.Drift:
    main = shape(*BASE) if main is None else main
    there = DestinationTable(main, followed=followed or known(*BASE), **more)  # type: ignore[arg-type]
    return drift.between("main", SourceTable(core, ()), there)


def sql_of(found: drift.Drift) -> list[str]:
    assert not found.faults, found.faults
    return [s.sql for s in found.steps]


LOCK = "SELECT tierkeeper.require_quiet('public', 't')"
ALTER = 'ALTER TABLE "public"."t" '


def named(column: Column, name: str) -> Column:
    return replace(column, name=name)


def test_a_table_in_step_asks_for_nothing_whatever_the_order_of_its_columns() -> None:
    assert sql_of(between(shape(*BASE), shape(*reversed(BASE)))) == []


def test_an_added_column_has_null_in_the_rows_that_are_there() -> None:
    assert sql_of(between(shape(*BASE, NEW))) == [ALTER + 'ADD COLUMN "new" text']
    (step,) = between(shape(*BASE, replace(NEW, not_null=True))).steps
    assert step.sql.endswith('ADD COLUMN "new" text')
    assert "NULL in the rows that are there" in step.action


def test_an_added_column_has_the_value_that_core_gave_its_rows() -> None:
    source = SourceTable(shape(*BASE, NEW), (), present_values={"new": "it's"})
    (step,) = drift.between("main", source, DestinationTable(shape(*BASE), followed=known(*BASE))).steps
    assert step.sql == (ALTER + "ADD COLUMN \"new\" text DEFAULT 'it''s'::text;\n" + ALTER + 'ALTER COLUMN "new" DROP DEFAULT')


def test_a_column_of_a_domain_is_added_under_the_lock() -> None:
    """Its check makes Postgres rewrite the table."""
    column = replace(NEW, kind="d", type="public.d")
    assert sql_of(between(shape(*BASE, column))) == [LOCK, ALTER + 'ADD COLUMN "new" public.d']


def test_a_dropped_column_stays_and_takes_null() -> None:
    assert sql_of(between(shape(ID, AT, BODY))) == [ALTER + 'ALTER COLUMN "old" DROP NOT NULL']
    assert sql_of(between(shape(ID, AT, BODY), shape(ID, AT, BODY, replace(OLD, not_null=False)))) == []


def test_not_null_that_core_dropped_is_dropped_and_one_that_it_made_is_not() -> None:
    assert sql_of(between(shape(ID, AT, BODY, replace(OLD, not_null=False)))) == [ALTER + 'ALTER COLUMN "old" DROP NOT NULL']
    assert sql_of(between(shape(ID, AT, replace(BODY, not_null=True), OLD))) == []


def test_a_column_that_core_never_had_must_not_want_a_value() -> None:
    (fault,) = between(shape(ID, AT, BODY), followed=known(ID, AT, BODY)).faults
    assert "NOT NULL and the rows have no such column" in fault.cause


def test_all_wider_types_come_in_one_statement_under_the_lock() -> None:
    wider = replace(BODY, type="text", base="text", collation='pg_catalog."C"')
    found = between(shape(ID, AT, wider, replace(OLD, type="bigint", base="int8")), size_bytes=5_000_000)
    assert sql_of(found) == [LOCK, ALTER + 'ALTER COLUMN "body" TYPE text COLLATE pg_catalog."C", ALTER COLUMN "old" TYPE bigint']
    assert "lock public.t against everybody" in found.steps[0].action
    assert "up to 5.0 MB more" in found.steps[1].action


@pytest.mark.parametrize(("type_", "base"), [("smallint", "int2"), ("text", "text"), ("real", "float4")])
def test_a_narrower_or_another_type_waits(type_: str, base: str) -> None:
    (fault,) = between(shape(ID, AT, BODY, replace(OLD, type=type_, base=base))).faults
    assert f"of type integer, and {type_} where" in fault.cause


def test_a_rename_is_told_by_the_columns_number() -> None:
    found = between(shape(ID, named(AT, "day"), BODY, OLD))
    assert sql_of(found) == [LOCK, ALTER + 'RENAME COLUMN "at" TO "day"']
    assert found.now(["at", "id"]) == {"day", "id"}


def test_a_renamed_key_is_the_same_key() -> None:
    assert sql_of(between(shape(named(ID, "key"), AT, BODY, OLD, key=("key",))))[1:] == [ALTER + 'RENAME COLUMN "id" TO "key"']


def test_a_rename_and_a_new_column_of_the_old_name() -> None:
    found = between(shape(ID, AT, named(BODY, "title"), OLD, named(NEW, "body")))
    assert sql_of(found) == [LOCK, ALTER + 'RENAME COLUMN "body" TO "title"', ALTER + 'ADD COLUMN "body" text']


def test_renames_that_follow_each_other_come_in_their_order() -> None:
    found = between(shape(ID, named(AT, "body"), named(BODY, "text"), OLD))
    assert sql_of(found)[1:] == [ALTER + 'RENAME COLUMN "body" TO "text"', ALTER + 'RENAME COLUMN "at" TO "body"']


def test_a_rename_that_main_has_already_is_no_step() -> None:
    assert sql_of(between(shape(ID, AT, named(BODY, "text"), OLD), shape(ID, AT, named(BODY, "text"), OLD))) == []


def test_swapped_names_and_a_name_with_a_history_wait() -> None:
    swapped = between(shape(ID, AT, replace(named(BODY, "old")), replace(named(OLD, "body"))))
    assert ["another column 'old' here" in swapped.faults[0].cause, "another column 'body' here" in swapped.faults[1].cause] == [
        True, True,
    ]  # fmt: skip
    taken = between(shape(ID, AT, named(BODY, "old")))
    assert "Core renamed the column 'body' to 'old', and there is another" in taken.faults[0].cause


def test_a_column_dropped_and_added_again_waits_until_somebody_says_what_it_is() -> None:
    (fault,) = between(shape(ID, AT, BODY, replace(OLD, number=5))).faults
    assert "dropped the column 'old' and added another of that name" in fault.cause
    assert "DELETE FROM tierkeeper.followed WHERE schema_name = 'public' AND table_name = 't'" in fault.remedy


def test_without_memory_a_rename_is_never_guessed() -> None:
    renamed = shape(ID, AT, named(BODY, "text"), OLD)
    shifted = known(ID, AT, replace(BODY, number=4), replace(OLD, number=5))
    for followed in (None, known(*BASE, relation=8), shifted):
        found = drift.between("main", SourceTable(renamed, ()), DestinationTable(shape(*BASE), followed=followed))
        (fault,) = found.faults
        assert "nothing tells whether a column was renamed" in fault.cause


def test_a_table_made_anew_follows_where_names_alone_are_clear() -> None:
    anew = known(*BASE, relation=8)
    assert sql_of(between(shape(*BASE, NEW), followed=anew)) == [ALTER + 'ADD COLUMN "new" text']
    assert sql_of(between(shape(ID, AT, BODY), followed=anew)) == [ALTER + 'ALTER COLUMN "old" DROP NOT NULL']


def test_a_restored_core_with_fewer_numbers_is_not_taken_for_renames() -> None:
    """A dump numbers anew and leaves out what was dropped: by numbers alone each column behind it would seem renamed."""
    before = known(ID, replace(BODY, number=3), replace(OLD, number=4))
    restored = shape(ID, replace(BODY, number=2), replace(OLD, number=3))
    assert not drift.trusted(restored, before)
    assert sql_of(between(restored, shape(ID, BODY, OLD), before)) == []


@pytest.mark.parametrize(("core", "waits"), [
    ((ID, named(AT, "day"), BODY, OLD), True),
    ((ID, AT, replace(BODY, type="text", base="text"), OLD), True),
    ((*BASE, NEW), False),
    ((ID, AT, BODY), False),
])  # fmt: skip
def test_what_would_hide_a_copy_waits_while_one_is_in_flight(core: tuple[Column, ...], waits: bool) -> None:
    faults = between(shape(*core), in_flight=2).faults
    assert [isinstance(f, InFlight) for f in faults] == [True] * waits


def test_another_key_and_a_generated_column_wait() -> None:
    (key,) = between(shape(*BASE, key=("id", "old"))).faults
    assert "the key is (id), and (id, old)" in key.cause
    (generated,) = between(shape(*BASE), shape(ID, AT, replace(BODY, generated=True), OLD)).faults
    assert "is generated" in generated.cause


def test_names_are_remembered_with_those_that_they_had() -> None:
    first = known(*BASE)
    (step,) = drift.remember("main", shape(*BASE), None)
    assert "('public', 't', 7, 1, 'id', 'bigint', " in step.sql
    assert drift.remember("main", shape(*BASE), first) == []
    (step,) = drift.remember("main", shape(ID, AT, named(BODY, "text"), OLD), first)
    assert "3, 'text', 'character varying(5)', ARRAY['body']" in step.sql or "'{body}'" in step.sql
    once = Followed(7, (FollowedColumn(1, "b", "t", ("a",)),))
    column = Column("c", "t", "t", number=1)
    (step,) = drift.remember("main", shape(column), once)
    assert "{a,b}" in step.sql or "'a','b'" in step.sql.replace(" ", "")


def test_a_table_that_core_lacks_now_is_told_by_what_became_of_it() -> None:
    error = UsageError("tiers.core, table public.t", "it does not exist", "Correct the name")
    assert drift.gone("main", NAME, None, None, error) is error
    assert "Core calls it public.u now" in drift.gone("main", NAME, known(*BASE), TableName("public", "u"), error).cause
    assert "gone from Core, and main keeps its history" in drift.gone("main", NAME, known(*BASE), None, error).cause
