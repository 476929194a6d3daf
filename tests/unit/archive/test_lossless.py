"""Which columns stay native, and how the others become text."""

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierkeeper.archive import restore
from tierkeeper.archive.lossless import arrow_schema, carry
from tierkeeper.archive.model import Contents, Manifest, parse_document
from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.tables import Column, TableName, TableShape, UsedType
from tierkeeper.postgres import rows


def shape(*columns: Column) -> TableShape:
    return TableShape(TableName("public", "t"), columns, (columns[0].name,))


NATIVE = ["int2", "int4", "int8", "float4", "float8", "bool", "text", "varchar"]
TEXT = [
    "numeric",
    "bpchar",
    "char",
    "name",
    "uuid",
    "jsonb",
    "interval",
    "date",
    "timestamptz",
    "bytea",
    "oid",
    "public.int4",
    "citext",
]


TIMES = ["date", "timestamp", "timestamptz"]


@pytest.mark.parametrize("base", NATIVE)
def test_native_types_travel_as_they_are(base: str) -> None:
    (plain,) = carry(shape(Column("a", base, base)), "at", age_is_native=True)
    (domain,) = carry(shape(Column("a", "public.d", base, kind="d")), "at", age_is_native=True)
    assert plain.native
    assert domain.native
    assert plain.type == domain.type
    assert (plain.expression, domain.expression) == ('"a"', f'"a"::pg_catalog.{base}')


@pytest.mark.parametrize("base", TEXT)
def test_everything_else_goes_through_its_output_function(base: str) -> None:
    (carried,) = carry(shape(Column('a "b"', base, base)), "at", age_is_native=True)
    assert not carried.native
    assert carried.type == pa.string()
    called = 'CASE pg_catalog.num_nulls("a ""b""") WHEN 0 THEN pg_catalog.concat("a ""b""") END'
    assert carried.expression == (called if base in TIMES else '"a ""b"""'), "COPY calls it; of times it must be text before that"


def test_xml_goes_as_the_text_that_it_is() -> None:
    xml, array = carry(shape(Column("x", "xml", "xml"), Column("a", "xml[]", "_xml", element="xml")), "at", age_is_native=True)
    assert xml.expression == 'CASE pg_catalog.num_nulls("x") WHEN 0 THEN pg_catalog.concat("x"::pg_catalog.text) END'
    assert array.expression == 'CASE pg_catalog.num_nulls("a") WHEN 0 THEN pg_catalog.concat("a"::pg_catalog.text[]) END'


@pytest.mark.parametrize(
    ("base", "type_"), [("date", pa.date32()), ("timestamp", pa.timestamp("us")), ("timestamptz", pa.timestamp("us", "UTC"))]
)
def test_the_age_alone_is_a_native_time_and_only_where_it_fits(base: str, type_: pa.DataType) -> None:
    both = shape(Column("at", base, base), Column("other", base, base))
    assert arrow_schema(carry(both, "at", age_is_native=True)).types == [type_, pa.string()]
    assert arrow_schema(carry(both, "at", age_is_native=False)).types == [pa.string(), pa.string()]


SCHEMA = pa.schema({
    "s": pa.string(), "i": pa.int64(), "f": pa.float64(), "g": pa.float32(), "b": pa.bool_(), "d": pa.date32(),
    "t": pa.timestamp("us"),
})  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False),
            st.none() | st.floats(width=32, allow_nan=False),
            st.none() | st.booleans(),
            st.none() | st.dates(),
            st.none() | st.datetimes() | st.datetimes().map(lambda t: t.replace(microsecond=0)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_csv_gives_back_every_bit(values: list[tuple[object, ...]]) -> None:
    batch = pa.RecordBatch.from_arrays(
        [pa.array(list(c), f.type) for c, f in zip(zip(*values, strict=True), SCHEMA, strict=True)], schema=SCHEMA
    )
    for written in (rows.to_csv(batch), rows.to_copy(batch)):
        back = rows.from_csv(written, SCHEMA)
        assert back.equals(batch)
        assert [str(v) for v in back.column(2)] == [str(v) for v in batch.column(2)]  # -0.0 equals 0.0, but prints its sign


def test_what_a_file_says_of_itself_survives_and_damage_is_named() -> None:
    from uuid import uuid4

    columns = Column("at", "date", "date", collation=None), Column("e", "public.mood", "public.mood", kind="e", category="E")
    types = (UsedType("e", TableName("public", "mood"), "an enum"),)
    table = TableShape(TableName("s", "t"), columns, ("at", "e"), ddl=("CREATE TYPE …", "CREATE TABLE …"), types=types)
    contents = Contents(uuid4(), table, "at", True, {"TimeZone": "UTC"})
    back = Contents.from_json(contents.to_json(), "x")
    assert (back, back.shape.ddl, back.shape.types, back.schema_hash) == (contents, table.ddl, types, contents.schema_hash)
    for bad in (b"", b"{}", b"[]", contents.to_json().replace(b'"version":1', b'"version":3')):
        with pytest.raises(Failed):
            Contents.from_json(bad, "x")
    with pytest.raises(Failed, match="is no manifest"):
        parse_document(Manifest, {"format": "tierkeeper manifest", "version": 2}, "x")


def test_a_file_that_does_not_say_what_its_types_mean_is_read_as_before() -> None:
    """Its manifest has the hash of such a file, and `verify` compares them."""
    from uuid import UUID

    columns = Column("at", "date", "date", collation=None), Column("e", "public.mood", "public.mood", kind="e", category="E")
    table = TableShape(TableName("s", "t"), columns, ("at", "e"), ddl=("CREATE TYPE …", "CREATE TABLE …"))
    written = Contents(UUID(int=0), table, "at", True, {"TimeZone": "UTC"}).to_json().replace(b',"types":[]', b"")
    assert b"types" not in written
    back = Contents.from_json(written, "x")
    assert (back.shape.columns, back.shape.types) == (columns, ())
    assert back.schema_hash == "676dfa0dbfd0c97da7f0cb5350f0125f722fd84cbf97b223a603a15055224315"
    mood = UsedType("e", TableName("public", "mood"), "an enum")
    since, other = (replace(back, shape=replace(table, types=(replace(mood, meaning=m),))) for m in ("an enum", "(a integer)"))
    assert restore.fit(back, since), "its rows go with those of one that says it"
    assert restore.fit(since, replace(since, age_is_native=False))
    assert not restore.fit(since, other)
    assert not restore.fit(back, replace(since, shape=replace(since.shape, key=("e",))))
