"""Samples that wait on this machine: nothing is lost, nothing grows without bound, nobody else reads them."""

import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from tierkeeper.kernel.errors import NotNow
from tierkeeper.monitoring.model import Figures
from tierkeeper.monitoring.spool import Samples, Spool

START = datetime(2026, 3, 1, tzinfo=UTC)


def sample(minute: int) -> Figures:
    return Figures("core", None, START + timedelta(minutes=minute), 1000 + minute)


def minutes(figures: Sequence[Figures]) -> list[int]:
    return [int((f.at - START).total_seconds() // 60) for f in figures]


def filled(folder: Path, count: int) -> Spool:
    spool = Spool(folder)
    for minute in range(count):
        spool.add([sample(minute)])
    return spool


class Main:
    """What has been handed over; it may go away after some."""

    def __init__(self, stays_for: int = 10**6) -> None:
        self.got: list[Figures] = []
        self.stays_for = stays_for

    def __call__(self, lines: Sequence[Samples]) -> None:
        if len(self.got) >= self.stays_for:
            raise NotNow("tiers.main", "it went away", "wait")
        self.got += [s for samples in lines for s in samples]


def test_it_is_sent_in_order_and_once(tmp_path: Path) -> None:
    spool, main = filled(tmp_path / "state", 5), Main()
    assert minutes(spool.read()) == [0, 1, 2, 3, 4]
    assert spool.send(main) == 5
    assert minutes(main.got) == [0, 1, 2, 3, 4]
    assert spool.send(main) == 0
    assert spool.is_empty
    assert spool.read() == []


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    filled(tmp_path / "state", 1)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert {stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "state").iterdir()} == {0o600}


def test_what_main_did_not_take_stays_and_new_samples_queue_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tierkeeper.monitoring.spool.SPOOL_SENT", 2)
    spool, main = filled(tmp_path, 5), Main(stays_for=2)
    with pytest.raises(NotNow):
        spool.send(main)
    spool.add([sample(5)])
    assert minutes(spool.read()) == [0, 1, 2, 3, 4, 5]
    again = Main()
    assert spool.send(again) == 6
    assert minutes(again.got) == [0, 1, 2, 3, 4, 5]  # Main knows the first two already, by their keys


def test_a_torn_line_says_nothing_and_spoils_no_other(tmp_path: Path) -> None:
    spool = filled(tmp_path, 2)
    with (tmp_path / "samples.jsonl").open("ab") as file:
        file.write((tmp_path / "samples.jsonl").read_bytes()[:40])
    spool.add([sample(2)])
    with (tmp_path / "samples.jsonl").open("ab") as file:
        file.write(b"[" * 100_000 + b'\n{"v":1,"samples":[["co')
    assert minutes(spool.read()) == [0, 1, 2]


def test_a_full_spool_is_thinned_and_keeps_the_newest_and_the_oldest(tmp_path: Path) -> None:
    limit = 10_000
    spool = Spool(tmp_path, limit_bytes=limit)
    for minute in range(400):
        spool.add([sample(minute)])
        assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= limit
    left = minutes(spool.read())
    assert left == sorted(set(left))
    assert (left[0], left[-1]) == (0, 399)
    assert left[-20:] == list(range(380, 400))
    assert max(later - earlier for earlier, later in pairwise(left)) < 100, "the time before is covered, more coarsely"


def test_a_sample_that_comes_while_others_are_sent_is_not_removed_with_them(tmp_path: Path) -> None:
    spool, seen = filled(tmp_path, 3), list[int]()

    def main(lines: Sequence[Samples]) -> None:
        if not seen:
            Thread(target=spool.add, args=([sample(3)],)).run()
        seen.extend(minutes([s for samples in lines for s in samples]))

    spool.send(main)
    assert seen == [0, 1, 2, 3]
    assert spool.is_empty


def test_two_do_not_send_at_once(tmp_path: Path) -> None:
    spool, inner = filled(tmp_path, 3), list[int]()

    def main(lines: Sequence[Samples]) -> None:
        inner.append(Spool(tmp_path).send(Main()))

    assert spool.send(main) == 3
    assert inner == [0]
