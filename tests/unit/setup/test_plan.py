"""What setup decides, without a server."""

from dataclasses import replace

import pytest

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import Column, TableName, TableShape
from tierkeeper.postgres.ddl import SchemaObject
from tierkeeper.setup import plan
from tierkeeper.setup.model import DestinationTable, ForeignKey, OwnSchema, SourceTable

NAME = TableName("public", "t")
PARENT = TableName("public", "p")
SHAPE = TableShape(NAME, (Column("id", "bigint", "int8", not_null=True), Column("at", "date", "date")), ("id",))
OBJECTS = (
    SchemaObject("schema", "", "public", "S"),
    SchemaObject("extension", "ext", "citext", "E"),
    SchemaObject("table", "public", "t", "T"),
)
NOTHING = OwnSchema(there=False, relations=frozenset(), functions={}, roles=frozenset())
POLICY = TablePolicy(NAME, "move", age="at")


def actions(
    there: DestinationTable, policy: TablePolicy = POLICY, source: TableShape = SHAPE, fk: ForeignKey | None = None
) -> list[str]:
    parents = {PARENT: TableShape(PARENT, (), ("a", "b"))}
    table = SourceTable(source, OBJECTS, (fk,) if fk else ())
    return [s.action for s in plan.table_steps("main", policy, table, there, parents)]


def test_only_main_keeps_audit_lease_and_guard() -> None:
    made = {tier: {s.action for s in plan.own_steps(tier, NOTHING, {})} for tier in ("core", "main", "archive")}
    only_main = {"create tierkeeper.audit", "create tierkeeper.lease", "create function tierkeeper.refuse_copy_in_flight"}
    assert only_main <= made["main"]
    assert not only_main & (made["core"] | made["archive"])
    assert "create tierkeeper.ledger" in made["archive"]


def test_further_relations_are_made_once() -> None:
    there = OwnSchema(there=True, relations=frozenset({"segment"}), functions={}, roles=frozenset({"archive"}))
    steps = plan.own_steps("archive", there, {"segment": "A", "scrub": "B"})
    assert ("create tierkeeper.scrub", "B") in {(s.action, s.sql) for s in steps}
    assert not any("segment" in s.action or "schema" in s.action for s in steps)


def test_a_mirrored_table_gets_no_guard_and_no_age_index() -> None:
    assert actions(DestinationTable(None), TablePolicy(NAME, "mirror")) == [
        "create schema public",
        "create extension citext",
        "create table public.t",
        "write down the columns of public.t as Core has them",
    ]


def test_no_index_where_the_key_begins_with_the_age() -> None:
    by_age = TableShape(NAME, SHAPE.columns, ("at", "id"))
    assert any("index" in a for a in actions(DestinationTable(None)))
    assert not any("index" in a for a in actions(DestinationTable(None), source=by_age))


@pytest.mark.parametrize(("columns", "wanted"), [(("b", "a"), True), (("a",), False)])
def test_foreign_keys_follow_only_to_the_key_of_a_mirror(columns: tuple[str, ...], wanted: bool) -> None:
    fk = ForeignKey("fk", PARENT, columns, columns, full=False)
    assert any("foreign key fk" in a for a in actions(DestinationTable(None), fk=fk)) is wanted
    stranger = ForeignKey("fk", TableName("public", "q"), columns, columns, full=False)
    assert not any("foreign key" in a for a in actions(DestinationTable(None), fk=stranger))


def test_an_extension_in_another_schema_is_told() -> None:
    there = DestinationTable(None, present=frozenset({("extension", "public", "citext"), ("schema", "", "public")}))
    with pytest.raises(UsageError, match='ALTER EXTENSION "citext" SET SCHEMA "ext"'):
        actions(there)


def test_names_are_quoted_in_every_statement() -> None:
    odd = TableName('s"', "t; DROP")
    shape = TableShape(odd, (Column("at", "date", "date"), Column('k"', "int", "int4", not_null=True)), ('k"',))
    fk = ForeignKey('f"', PARENT, ("at", 'k"'), ("a", "b"), full=True)
    table = SourceTable(shape, (), (fk,))
    parents = {PARENT: TableShape(PARENT, (), ("a", "b"))}
    there = DestinationTable(shape)
    text = "\n".join(s.sql for s in plan.table_steps("main", TablePolicy(odd, "move", age="at"), table, there, parents))
    assert 'CREATE INDEX ON "s"""."t; DROP" ("at")' in text
    assert (
        'ALTER TABLE "s"""."t; DROP" ADD CONSTRAINT "f""" FOREIGN KEY ("at", "k""")'
        ' REFERENCES "public"."p" ("a", "b") MATCH FULL DEFERRABLE NOT VALID'
    ) in text
    assert text.count('ON "s"""."t; DROP"') == 3


def test_steps_are_planned_once() -> None:
    steps = plan.own_steps("core", NOTHING, {})
    assert plan.once([*steps, *steps]) == tuple(steps)


def test_a_role_that_may_make_no_temporary_tables_at_main_is_told_beforehand() -> None:
    """A conflict, which may come at any time, is looked up with one."""
    barred = replace(NOTHING, refuses_temp_in="main")
    error = plan.may_not_begin("main", barred)
    assert error is not None
    assert "GRANT TEMP ON DATABASE main" in error.remedy
    assert plan.may_not_begin("core", barred) is plan.may_not_begin("main", NOTHING) is None
