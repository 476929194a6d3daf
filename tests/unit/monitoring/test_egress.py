"""What came from each tier, summed up so that telling it twice counts once."""

import json
import stat
from datetime import date
from pathlib import Path
from threading import Thread
from uuid import UUID, uuid4

import pytest

from tierkeeper.kernel.limits import BOARD_EGRESS_SHARE, BOARD_FRESH_SECONDS, BOARD_METERED_FRESH_SECONDS
from tierkeeper.monitoring.egress import Egress, Share, fresh_seconds, month_of, total

DAY = date(2026, 3, 31)


def test_sums_outlive_the_process_and_are_told_until_main_knows(tmp_path: Path) -> None:
    Egress(tmp_path).add(DAY, {"core": 100, "main": 0})
    Egress(tmp_path).add(DAY, {"core": 20, "main": 3})
    egress = Egress(tmp_path)
    assert {(s.tier, s.bytes) for s in egress.unsent()} == {("core", 120), ("main", 3)}
    assert egress.unsent_bytes == 123
    told = egress.unsent()
    Egress(tmp_path).add(DAY, {"core": 5})  # while Main is told
    egress.told(told)
    assert [(s.tier, s.bytes) for s in egress.unsent()] == [("core", 125)]
    assert egress.unsent_bytes == 5
    assert stat.S_IMODE((tmp_path / "egress.json").stat().st_mode) == 0o600


def test_several_at_once_lose_nothing(tmp_path: Path) -> None:
    def one() -> None:
        for _ in range(20):
            Egress(tmp_path).add(DAY, {"core": 1})

    threads = [Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [s.bytes for s in Egress(tmp_path).shares()] == [80]


def test_a_month_is_what_all_machines_received_in_it_once() -> None:
    here, there = uuid4(), uuid4()
    first = date(2026, 3, 1)
    mains = [Share(DAY, "core", here, 70), Share(DAY, "core", there, 5), Share(date(2026, 4, 1), "core", there, 1000)]
    own = [Share(DAY, "core", here, 100), Share(first, "core", here, 1), Share(date(2026, 2, 28), "core", here, 1000)]
    assert total(mains, own, "core", date(2026, 3, 15)) == 106
    assert total(mains, own, "main", date(2026, 3, 15)) == 0
    assert month_of(date(2026, 12, 31)) == (date(2026, 12, 1), date(2027, 1, 1))


@pytest.mark.parametrize(
    "damage", ['{"writer": "', f'{{"writer": "{UUID(int=1)}", "days": {{"2026-06-01": {{"core": [1e999, 0]}}}}}}', "[" * 100_000]
)
def test_a_damaged_file_begins_anew_as_another_machine(tmp_path: Path, damage: str) -> None:
    """Else Main, which keeps the larger figure, would not see what comes now."""
    egress = Egress(tmp_path)
    egress.add(DAY, {"core": 100})
    (before,) = egress.shares()
    (tmp_path / "egress.json").write_text(damage)
    egress.add(DAY, {"core": 7})
    (after,) = egress.shares()
    assert (after.bytes, after.writer != before.writer) == (7, True)


def test_old_days_leave_this_machine(tmp_path: Path) -> None:
    egress = Egress(tmp_path)
    egress.add(date(2024, 1, 1), {"core": 1})
    egress.add(DAY, {"core": 1})
    assert list(json.loads((tmp_path / "egress.json").read_text())["days"]) == ["2026-03-31"]


def test_without_a_lasting_disk_it_is_remembered_for_the_run() -> None:
    egress = Egress(None)
    egress.add(DAY, {"core": 4})
    egress.told(egress.unsent())
    assert (egress.unsent(), [s.bytes for s in egress.shares()]) == ([], [4])


def test_a_page_that_is_looked_at_all_month_leaves_the_budget_to_others() -> None:
    budget = 5 * 10**9
    assert fresh_seconds([(10**9, None), (0, 0)]) == BOARD_FRESH_SECONDS
    assert fresh_seconds([(8_000, budget)]) == BOARD_METERED_FRESH_SECONDS
    for sent in (8_000, 100_000, 3_000_000):
        looks = 31 * 86_400 / fresh_seconds([(sent, budget), (1, None)])
        assert looks * sent <= BOARD_EGRESS_SHARE * budget * 1.001
