"""Whether Main's columns and a segment's ages are those that a statement means, decided without a server."""

import pytest

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import Followed, FollowedColumn, TableName
from tierkeeper.query.history import ages_of, check_in_step
from tierkeeper.query.model import AgeRange, ColumnFacts, PgType, Scan

NAME = TableName("public", "t")


def followed(**former: tuple[str, ...]) -> Followed:
    return Followed(9, tuple(FollowedColumn(i, n, "text", f) for i, (n, f) in enumerate(former.items(), 1)))


KNOWN = followed(id=(), title=("name",), name=())


def scan(number: int = 2, oid: int = 9) -> Scan:
    column = ColumnFacts("title", "text", PgType("text"), number)
    return Scan("s", NAME, (("c0", column),), (), "title", AgeRange(), oid)


def test_main_must_be_in_step_by_number_and_type() -> None:
    check_in_step(scan(), {"title": "text"}, KNOWN)
    check_in_step(scan(), {"title": "text"}, None)
    for wrong, types in (
        (scan(3), {"title": "text"}),
        (scan(2, 10), {"title": "text"}),
        (scan(), {}),
        (scan(), {"title": "int"}),
    ):
        with pytest.raises(UsageError, match="tierkeeper setup --apply"):
            check_in_step(wrong, types, KNOWN)


def test_ages_of_another_column_bound_nothing() -> None:
    assert [ages_of(scan(), age, KNOWN) for age in ("title", "name", "", "other")] == [True, True, True, False]
