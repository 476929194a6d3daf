import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName

NAMES = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=15)


@given(NAMES, NAMES)
def test_what_is_shown_reads_back(schema: str, name: str) -> None:
    table = TableName(schema, name)
    assert TableName.parse(str(table), "") == table


def test_names_as_sql_has_them() -> None:
    assert TableName.parse("Flights", "") == TableName("public", "flights")
    assert TableName.parse('"odd schema"."my ""table"""', "") == TableName("odd schema", 'my "table"')


@pytest.mark.parametrize(
    "text", ["", "a.b.c", "a b", '"open', "a.", ".a", "1a", '"a\x00b"', "x" * 64, '"' + "é" * 32 + '"', "a;drop"]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(UsageError):
        TableName.parse(text, "tables.name")
