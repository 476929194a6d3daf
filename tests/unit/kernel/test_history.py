"""Which column of an older segment is today's, decided without a server: by number, by written-down names, or not at all."""

import pytest

from tierkeeper.kernel.errors import Failed
from tierkeeper.kernel.history import Chosen, choose
from tierkeeper.kernel.tables import Column, Followed, FollowedColumn, TableName, TableShape
from tierkeeper.kernel.widening import Widening

NAME = TableName("public", "t")
SAME = Widening("same")


def shape(oid: int, **columns: int) -> TableShape:
    return TableShape(NAME, tuple(Column(n, "text", "text", number=i) for n, i in columns.items()), ("id",), oid=oid)


def followed(**former: tuple[str, ...]) -> Followed:
    return Followed(9, tuple(FollowedColumn(i, n, "text", f) for i, (n, f) in enumerate(former.items(), 1)))


def chosen(wanted: str, segment: TableShape, main: TableShape, known: Followed | None) -> Chosen:
    return choose(wanted, segment, main, known, "segment s")


TODAY = shape(7, id=1, title=2, name=3)
KNOWN = followed(id=(), title=("name",), name=())


def test_by_number_a_renamed_column_is_found_and_its_old_name_is_free() -> None:
    old = shape(7, id=1, name=2)
    assert chosen("title", old, TODAY, KNOWN) == Chosen("name", SAME)
    assert chosen("name", old, TODAY, KNOWN) == Chosen(None, SAME)
    assert chosen("name", TODAY, TODAY, KNOWN) == Chosen("name", SAME)


@pytest.mark.parametrize(("wanted", "segment", "known"), [
    ("title", shape(7, id=1, name=2), followed(id=(), title=(), name=())),  # a rename that nobody wrote down
    ("name", shape(7, id=1, name=2), followed(id=(), title=(), name=())),
    ("name", shape(7, id=1, name=2), None),
    ("name", shape(6, id=1, name=2), KNOWN),  # of a table that was made anew: title's, or name's
    ("title", shape(6, id=1, name=2), KNOWN),
    ("name", shape(0, id=0, name=0), KNOWN),  # a segment without numbers
])  # fmt: skip
def test_what_cannot_be_told_is_refused(wanted: str, segment: TableShape, known: Followed | None) -> None:
    with pytest.raises(Failed, match="its column 'name' is not known to be"):
        chosen(wanted, segment, TODAY, known)


def test_of_a_table_made_anew_names_count_where_each_had_one_column() -> None:
    main = shape(8, id=1, body=2, more=3)
    known = followed(id=(), body=("text",), more=())
    for oid in (7, 0):
        assert chosen("body", shape(oid, id=1, text=4), main, known) == Chosen("text", SAME)
        assert chosen("body", shape(oid, id=1, body=4), main, None) == Chosen("body", SAME)
        assert chosen("more", shape(oid, id=1, body=4), main, known) == Chosen(None, SAME)


def test_a_type_that_would_lose_something_is_named() -> None:
    segment = TableShape(NAME, (Column("id", "double precision", "float8", number=1),), ("id",), oid=7)
    main = TableShape(NAME, (Column("id", "integer", "int4", number=1),), ("id",), oid=7)
    with pytest.raises(Failed, match="segment s: its column 'id' is of type double precision, which integer does not hold"):
        chosen("id", segment, main, None)
