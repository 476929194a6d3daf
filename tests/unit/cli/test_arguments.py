"""Arguments are judged before anything is opened."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tierkeeper.cli import arguments
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TIERS, Tier


def test_rows_move_one_tier_down_at_a_time_or_back_to_core() -> None:
    allowed = []
    for from_ in TIERS:
        for to in TIERS:
            try:
                arguments.hop(from_, to)
            except UsageError as error:
                assert error.remedy
            else:
                allowed.append((from_, to))
    expected: list[tuple[Tier, Tier]] = [("core", "main"), ("main", "core"), ("main", "archive")]
    assert allowed == expected


def test_a_cutoff_is_an_instant_or_an_age() -> None:
    assert arguments.cutoff("2013-10-01", None) == (datetime(2013, 10, 1, tzinfo=UTC), None)
    age = arguments.cutoff(None, "30 days")[1]
    assert age is not None and age.seconds == 30 * 86_400
    assert arguments.cutoff(None, None) == (None, None)
    for before, older_than in (("2013-10-01", "1 day"), ("yesterweek", None), (None, "soon")):
        with pytest.raises(UsageError):
            arguments.cutoff(before, older_than)


def test_nothing_lies_in_an_empty_window() -> None:
    assert arguments.window("2013-01-01", "2013-02-01T00:00:00+01:00")[1] == datetime(2013, 1, 31, 23, tzinfo=UTC)
    with pytest.raises(UsageError, match="--until"):
        arguments.window("2013-02-01", "2013-02-01")


def test_a_target_is_a_table_or_a_new_file(tmp_path: Path) -> None:
    for good in ("restored.flights", "flights", '"Odd"."Name"', "x.parquet", f"{tmp_path}/x.csv"):
        assert arguments.target(good) == good
    (tmp_path / "there.csv").touch()
    for wrong in ("a b", "./x.txt", "dir/table", "x.txt", "t.json", f"{tmp_path}/no/x.csv", f"{tmp_path}/there.csv"):
        with pytest.raises(UsageError, match="--to"):
            arguments.target(wrong)
