"""The second opinion finds what was planted, whatever form the rows come in."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import csv, parquet

from tierkeeper.demo import oracle
from tierkeeper.demo.oracle import Original
from tierkeeper.kernel.errors import Failed


@pytest.fixture(scope="module")
def original() -> Original:
    return Original.load()


@pytest.fixture(scope="module")
def march(original: Original) -> Original:
    """A small original: a planted fault is found in it in a tenth of the time."""
    return Original(original.month(2013, 3))


def _with(table: pa.Table, at: int, **values: object) -> pa.Table:
    """`table` with row `at` altered."""
    row = table.slice(at, 1)
    for name, value in values.items():
        index = row.schema.get_field_index(name)
        row = row.set_column(index, row.schema.field(index), pa.array([value], row.schema.field(index).type))
    return pa.concat_tables([table.slice(0, at), row, table.slice(at + 1)])


def test_all_rows_in_parts_and_in_any_order_are_right(original: Original) -> None:
    table = original.table
    parts = [table.slice(300_000), table.slice(0, 5).take([4, 2, 0, 1, 3]), table.slice(5, 299_995)]
    assert original.lost_and_doubled(parts) == (0, 0)


def test_nothing_found_is_everything_lost(original: Original) -> None:
    assert original.lost_and_doubled([]) == (336_776, 0)


def test_a_lost_row(march: Original) -> None:
    assert march.lost_and_doubled([march.table.slice(1)]) == (1, 0)


def test_a_doubled_row_across_tiers(march: Original) -> None:
    assert march.lost_and_doubled([march.table, march.table.slice(77, 1)]) == (0, 1)


def test_three_times_is_two_too_many(march: Original) -> None:
    one = march.table.slice(77, 1)
    assert march.lost_and_doubled([march.table, one, one]) == (0, 2)


@pytest.mark.parametrize(
    "change", [{"tailnum": "N00000"}, {"tailnum": None}, {"tailnum": ""}, {"dep_time": None}, {"minute": 16}], ids=str
)
def test_an_altered_row_is_lost(march: Original, change: dict[str, object]) -> None:
    assert march.lost_and_doubled([_with(march.table, 0, **change)]) == (1, 0)


def test_an_old_version_beside_the_right_one_is_doubled(march: Original) -> None:
    stale = _with(march.table.slice(0, 1), 0, dep_delay=99)
    assert march.lost_and_doubled([march.table, stale]) == (0, 1)


def test_a_key_nobody_had_is_one_too_many(march: Original) -> None:
    assert march.lost_and_doubled([_with(march.table, 0, flight=9_999)]) == (1, 1)


def test_one_lost_and_another_doubled_do_not_cancel_out(march: Original) -> None:
    assert march.lost_and_doubled([march.table.slice(1), march.table.slice(1, 1)]) == (1, 1)


def test_months_are_utc_and_add_up(original: Original) -> None:
    counts = original.counts_per_month()
    assert counts[0] == ("2013-01", 26_865)
    assert counts[-1] == ("2014-01", 88)
    assert sum(n for _, n in counts) == 336_776
    assert original.month(2013, 12).num_rows == dict(counts)["2013-12"]


def test_a_month_matches_itself_alone(original: Original, march: Original) -> None:
    rows = march.table
    assert original.month_matches(rows, 2013, 3)
    assert not original.month_matches(rows, 2013, 4)
    assert not original.month_matches(rows.slice(1), 2013, 3)
    assert not original.month_matches(pa.concat_tables([rows, rows.slice(0, 1)]), 2013, 3)
    assert not original.month_matches(_with(rows, 3, arr_time=1), 2013, 3)


def test_files_and_wider_types_are_read_back(original: Original, march: Original, tmp_path: Path) -> None:
    rows = march.table
    csv.write_csv(rows, tmp_path / "m.csv")
    parquet.write_table(rows, tmp_path / "m.parquet")
    shuffled = rows.select(list(reversed(rows.column_names)))
    wide = shuffled.set_column(shuffled.column_names.index("flight"), "flight", shuffled["flight"].cast(pa.int64())).set_column(
        0, "time_hour", pc.local_timestamp(shuffled["time_hour"])
    )
    for table in (oracle.read_file(tmp_path / "m.csv"), oracle.read_file(tmp_path / "m.parquet"), wide):
        assert original.month_matches(table, 2013, 3)


@pytest.mark.parametrize("text", ["year,month\n2013,1\n", "nothing of the kind"])
def test_rows_of_something_else_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(Failed, match="not rows of flights"):
        oracle.read_file(tmp_path / "m.csv")
