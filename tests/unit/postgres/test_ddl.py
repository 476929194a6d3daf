"""Rendering of DDL, without a server."""

from dataclasses import replace

import pytest

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import Column, TableName, TableShape
from tierkeeper.postgres import ddl
from tierkeeper.postgres.ddl import PgType

TABLE = TableName("public", "t")
SHAPE = TableShape(TABLE, (Column("a", "public.e", "public.e", not_null=True),), ("a",))
ENUM = PgType(
    oid=1, schema="public", name="e", kind="e", category="E", parts=[], extension=None, labels=["x"], domain_of=None,
    not_null=False, collation=None, checks=[], relation_kind=None, attributes=[], range_of=None, canonical=False, collations=[],
)  # fmt: skip


def test_parts_come_before_what_they_make_up() -> None:
    domain = replace(ENUM, oid=2, name="d", kind="d", domain_of="public.e", parts=[1], not_null=True, checks=["CHECK (true)"])
    composite = replace(ENUM, oid=3, schema="other", name="c", kind="c", relation_kind="c", parts=[2], attributes=["f public.d"])
    made = [(o.kind, o.name) for o in ddl.assemble(SHAPE, {3: composite, 2: domain, 1: ENUM}, [], columns={"a": 3})]
    assert made == [("schema", "public"), ("type", "e"), ("type", "d"), ("schema", "other"), ("type", "c"), ("table", "t")]


def test_a_type_of_an_extension_brings_the_extension_and_nothing_else() -> None:
    member = replace(ENUM, extension=["ext", "citext"], parts=[99])
    assert [(o.kind, o.schema, o.name) for o in ddl.assemble(SHAPE, {1: member}, [], columns={"a": 1})][:2] == [
        ("schema", "", "ext"),
        ("extension", "ext", "citext"),
    ]


def test_the_quotes_around_a_block_are_not_in_it() -> None:
    statement = ddl.assemble(SHAPE, {1: replace(ENUM, labels=["$make$", "it's", "$make_$"])}, [], columns={"a": 1})[1].sql
    tag = statement.split()[1]
    assert statement.count(tag) == 2
    assert "'it''s'" in statement


@pytest.mark.parametrize(
    ("type_", "why"),
    [
        (replace(ENUM, kind="c", relation_kind="r"), "row type of another table"),
        (replace(ENUM, kind="r", canonical=True), "function of its own"),
        (replace(ENUM, kind="b", category="U"), "written in C"),
    ],
)
def test_types_that_cannot_be_made_elsewhere_are_refused(type_: PgType, why: str) -> None:
    with pytest.raises(UsageError, match=why) as error:
        ddl.assemble(SHAPE, {1: type_}, [], columns={"a": 1})
    assert error.value.place == "table public.t, column 'a'"


def test_a_table_of_its_columns_and_key_alone() -> None:
    columns = [Column('a"', "int", "int4", not_null=True), Column("b", "text", "text", collation='pg_catalog."C"')]
    assert ddl.table_statement(TableName("s", "t"), columns, ['a"']) == (
        'CREATE TABLE "s"."t" (\n    "a""" int NOT NULL,\n    "b" text COLLATE pg_catalog."C",\n    PRIMARY KEY ("a""")\n)'
    )
