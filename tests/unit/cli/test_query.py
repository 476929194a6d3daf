"""The forms of an answer."""

import contextlib
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tierkeeper.kernel.errors import Exit

Cli = Callable[..., Any]

ANSWER = pa.table(
    {
        "n": pa.array([1, None]),
        "text": pa.array(["a\x1b[2J", ""]),
        "sum": pa.array([Decimal("1.50"), Decimal("2.00")], pa.decimal128(6, 2)),
        "list": pa.array([[1, 2], None], pa.list_(pa.int64())),
    }
)


@pytest.fixture(autouse=True)
def answered(keeper: Any) -> Any:
    keeper.answer = ANSWER
    return keeper


def test_a_table_for_a_person(cli: Cli) -> None:
    ran = cli("query", "select 1")
    assert "\x1b" not in ran.out
    assert "NULL" in ran.out
    assert "2 rows" in ran.out


def test_json_is_a_list_of_objects(cli: Cli) -> None:
    for argv in (["--json"], ["--format", "json"]):
        ran = cli("query", "select 1", *argv)
        assert ran.document[0] == {"n": 1, "text": "a\x1b[2J", "sum": 1.5, "list": [1, 2]}
        assert ran.document[1]["n"] is None


def test_csv_tells_null_from_empty(cli: Cli) -> None:
    lines = cli("query", "select 1", "--format", "csv").out.splitlines()
    assert lines[0] == '"n","text","sum","list"'
    assert lines[2] == ',"","2.00",'


def test_a_file_holds_the_answer_and_is_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    ran = cli("query", "select 1", "--output", str(file), "--json")
    assert ran.document == {"output": str(file), "rows": 2, "bytes": file.stat().st_size}
    assert pq.read_table(file).equals(ANSWER)
    assert cli("query", "select 1", "--output", str(file)).code == Exit.USAGE
    assert cli("query", "select 1", "--output", str(tmp_path / "x.json")).code == 0
    assert json.loads((tmp_path / "x.json").read_text())[1]["sum"] == 2.0


def test_an_answer_that_has_no_form_leaves_no_file(cli: Cli, answered: Any, tmp_path: Path) -> None:
    answered.answer = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert cli("query", "select 1", "--output", str(tmp_path / "x.json")).code == Exit.USAGE
    assert not (tmp_path / "x.json").exists()


def test_json_and_another_format_contradict_each_other(cli: Cli, answered: Any) -> None:
    assert cli("query", "select 1", "--json", "--format", "csv").code == Exit.USAGE
    assert not answered.opened


def test_parquet_goes_into_a_pipe_but_not_to_a_terminal(cli: Cli, answered: Any, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    with file.open("w") as pipe, contextlib.redirect_stdout(pipe):
        assert cli("query", "select 1", "--format", "parquet").code == 0
    assert pq.read_table(file).equals(ANSWER)
    answered.opened.clear()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with contextlib.redirect_stdout(Terminal()):
        assert cli("query", "select 1", "--format", "parquet").code == Exit.USAGE
    assert not answered.opened
