"""Which types hold all values of another: neither less nor, by a wrong reading of a modifier, more."""

import pytest

from tierkeeper.kernel.tables import Column
from tierkeeper.kernel.widening import Widening, widening

BASES = {
    "smallint": "int2", "integer": "int4", "bigint": "int8", "real": "float4", "double precision": "float8", "text": "text",
    "character varying": "varchar", "character": "bpchar", "numeric": "numeric", "bit varying": "varbit",
    "timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp", "date": "date", "bit": "bit",
}  # fmt: skip


def column(type_: str) -> Column:
    bare = " ".join(type_.replace("(", " (").split(" ")[:1]) if "timestamp" in type_ else type_.partition("(")[0]
    if bare == "timestamp":
        bare = "timestamp with time zone" if "with time" in type_ else "timestamp without time zone"
    return Column("c", type_, BASES[bare])


@pytest.mark.parametrize(("old", "new", "how"), [
    ("smallint", "integer", Widening("number")), ("smallint", "bigint", Widening("number")),
    ("real", "double precision", Widening("number")),
    ("character varying(5)", "character varying(6)", Widening("same")), ("character varying(5)", "text", Widening("same")),
    ("character varying(5)", "character varying", Widening("same")), ("character varying", "text", Widening("same")),
    ("character(3)", "character(5)", Widening("pad", 5)), ("character(3)", "text", Widening("strip")),
    ("character(3)", "character varying(3)", Widening("strip")),
    ("numeric(10,2)", "numeric(12,2)", Widening("same")), ("numeric(10,2)", "numeric", Widening("same")),
    ("numeric(10,2)", "numeric(12,4)", Widening("digits", 4)),
    ("timestamp(3) with time zone", "timestamp with time zone", Widening("same")),
    ("timestamp(3) with time zone", "timestamp(6) with time zone", Widening("same")),
    ("bit varying(3)", "bit varying", Widening("same")), ("date", "date", Widening("same")),
])  # fmt: skip
def test_wider(old: str, new: str, how: Widening) -> None:
    assert widening(column(old), column(new)) == how
    if old != new:
        back = widening(column(new), column(old))
        assert back is None or ({column(old).base, column(new).base} == {"varchar", "text"} and "(" not in old + new)


@pytest.mark.parametrize(("old", "new"), [
    ("numeric(10,2)", "numeric(10,3)"), ("numeric(10,2)", "numeric(12,1)"), ("numeric", "numeric(38,10)"),
    ("integer", "real"), ("bigint", "double precision"), ("integer", "numeric"), ("text", "character varying(99)"),
    ("character varying", "character varying(99)"), ("character(5)", "character varying(3)"),
    ("timestamp without time zone", "timestamp with time zone"), ("bit(3)", "bit(4)"), ("date", "timestamp with time zone"),
])  # fmt: skip
def test_not_wider(old: str, new: str) -> None:
    assert widening(column(old), column(new)) is None


def test_domains_and_arrays_are_not_looked_into() -> None:
    old, new = Column("c", "public.d", "int4", kind="d"), Column("c", "bigint", "int8")
    assert widening(old, new) is None
    assert widening(Column("c", "integer[]", "_int4", element="int4"), Column("c", "bigint[]", "_int8", element="int8")) is None
