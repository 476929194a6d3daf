"""The history on Main: what stays of it, and what two writers make of it. The oracle is the list of samples that went in."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Thread

import pytest

from support import Tiers
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.limits import EGRESS_SENT_BYTES
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring import history
from tierkeeper.monitoring.history import History
from tierkeeper.monitoring.model import Figures, activity
from tierkeeper.postgres.link import Connection
from tierkeeper.setup import observe, runner
from tierkeeper.setup.plan import own_steps

NOW = datetime(2026, 6, 15, 12, 30, tzinfo=UTC)
EVENTS = TableName("public", "events")
MB = 10**6
LOCKED_SECONDS = 2.0  # far less than a lock may be waited for


@pytest.fixture
def main(tiers: Tiers) -> Iterator[Connection]:
    """Main, with what setup makes there."""
    with closing(tiers.main.connect("test")) as conn:
        runner.apply_steps(conn, own_steps("main", observe.own_schema(conn), {}))
        yield conn


@pytest.fixture
def history_of(tiers: Tiers) -> Callable[..., History]:
    def make(folder: Path | None = None, now: datetime = NOW) -> History:
        def prepare() -> None:
            with closing(tiers.main.connect("test")) as conn:
                runner.apply_steps(conn, own_steps("main", observe.own_schema(conn), {}))

        return History(tiers.main, tiers.state if folder is None else folder, FixedDay(now), prepare)

    return make


def sample(at: datetime, size: int, table: TableName | None = None, **more: int | datetime | None) -> Figures:
    return Figures("core", table, at, size, **more)  # type: ignore[arg-type]


def rows(main: Connection, query: str = "SELECT at, bytes FROM tierkeeper.usage ORDER BY at") -> list[tuple[datetime, int]]:
    return [(at.astimezone(UTC), size) for at, size in main.execute(query.encode()).fetchall()]


def settle(main: Connection, now: datetime) -> None:
    """Thins until nothing more goes."""
    from tierkeeper.postgres.link import transaction

    before = None
    while before != (state := main.execute("SELECT count(*), sum(grain) FROM tierkeeper.usage").fetchone()):
        before = state
        with transaction(main) as cur:
            history.thin(cur, now)


def sawtooth(begin: datetime, end: datetime, minutes: int, period_hours: int) -> list[Figures]:
    """Grows by 1 MB a sample, and falls at each period's end."""
    found, size, at, reads = [], 100 * MB, begin, 0
    while at < end:
        size = 100 * MB if found and (at - begin) % timedelta(hours=period_hours) < timedelta(minutes=minutes) else size + MB
        reads += 10
        found.append(sample(at, size, reads=reads, writes=0, cache_hits=0, cache_reads=0))
        at += timedelta(minutes=minutes)
    return found


def falls(series: Sequence[tuple[datetime, int]]) -> list[tuple[datetime, int, datetime, int]]:
    return [(*one, *other) for one, other in pairwise(series) if other[1] < one[1] - MB]


def test_it_makes_its_tables_and_gives_back_what_it_was_given(history_of: Callable[..., History], tiers: Tiers) -> None:
    kept = history_of()
    assert kept.series("core") == []
    whole = sample(NOW, 5, reads=1, writes=2, stats_reset=NOW - timedelta(days=1), wal_bytes=7)
    table = sample(NOW, 3, EVENTS, heap_bytes=2, parts=1)
    assert kept.record([whole, table]).where == "main"
    assert kept.record([whole, table]).where == "main", "the same instant twice is one"
    assert kept.samples(every=True) == [whole, table]
    assert [(s.at, s.bytes) for s in kept.series("core")] == [(NOW, 5)]
    assert [(s.at, s.bytes) for s in kept.series("core", EVENTS)] == [(NOW, 3)]
    assert kept.series("main") == []
    assert kept.series("core", since=NOW + timedelta(seconds=1)) == []
    assert not (tiers.state / "samples.jsonl").exists()


def test_old_samples_are_thinned_and_every_fall_keeps_both_its_ends(main: Connection, history_of: Callable[..., History]) -> None:
    samples = sawtooth(NOW - timedelta(days=6), NOW, 20, 31)
    history_of().record(samples)
    settle(main, NOW)
    there = {(s.at, s.bytes) for s in samples}
    left = rows(main)
    assert set(left) <= there, "exact rows: nothing is averaged"
    assert falls(left) == falls([(s.at, s.bytes) for s in samples])
    assert len(falls(left)) == 4
    young = NOW - timedelta(days=2)
    fine = [s.at for s in samples if s.at >= young.replace(minute=0)]
    assert [at for at, _ in left if at >= young.replace(minute=0)] == fine, "two days are kept whole"
    coarse = [at for at, _ in left if at < young.replace(minute=0)]
    hours = {at.replace(minute=0) for at in coarse}
    assert len(hours) == 4 * 24
    assert len(coarse) - len(hours) <= 2 * 4
    (before,) = main.execute("SELECT count(*) FROM tierkeeper.usage").fetchone() or (0,)
    settle(main, NOW)
    assert main.execute("SELECT count(*) FROM tierkeeper.usage").fetchone() == (before,), "a second run finds nothing to do"


def test_it_does_not_matter_in_how_many_runs_it_is_thinned(
    main: Connection, history_of: Callable[..., History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daily grain, too; each run ends anywhere, in the middle of an hour or of a fall."""
    samples = sawtooth(NOW - timedelta(days=64), NOW - timedelta(days=57), 60, 31)
    monkeypatch.setattr(history, "USAGE_THINNED", 7)
    kept = history_of()
    for begin in range(0, len(samples), 50):
        kept.record(samples[begin : begin + 50])
    settle(main, NOW)
    left = rows(main)
    assert falls(left) == falls([(s.at, s.bytes) for s in samples])
    daily = [at for at, _ in left if at < NOW - timedelta(days=61)]
    assert len({at.date() for at in daily}) + 2 * 3 >= len(daily) >= 3


def test_what_jumps_about_does_not_fill_main(main: Connection, history_of: Callable[..., History]) -> None:
    dice = random.Random(1)  # noqa: S311 - no secret
    begin = NOW - timedelta(days=4)
    samples = [sample(begin + timedelta(minutes=i), dice.randrange(MB, 100 * MB)) for i in range(24 * 60)]
    kept = history_of()
    kept.record(samples)
    settle(main, NOW)
    assert len(rows(main)) <= 25 * (1 + 2 * history.USAGE_FALLS_KEPT)
    deepest = max(falls([(s.at, s.bytes) for s in samples]), key=lambda f: f[1] - f[3])
    assert deepest in falls(rows(main))


def test_counters_say_the_same_after_thinning(main: Connection, history_of: Callable[..., History]) -> None:
    """A reset between two samples that would both go keeps its ends, so that no day's sum changes."""
    samples = sawtooth(NOW - timedelta(days=4), NOW, 20, 10**4)
    samples = [
        sample(s.at, 5, reads=s.reads if i < 50 else (s.reads or 0) - samples[49].reads, writes=0, cache_hits=0, cache_reads=0)  # type: ignore[operator]
        for i, s in enumerate(samples)
    ]
    kept = history_of()
    kept.record(samples)
    before = activity(samples)
    settle(main, NOW)
    assert len(rows(main)) < len(samples) * 0.75
    after = kept.activity("core")
    assert sum(a.reads for a in after) == sum(a.reads for a in before)
    assert [(a.day, a.reads) for a in after] == [(a.day, a.reads) for a in before]


def test_the_oldest_are_forgotten(main: Connection, history_of: Callable[..., History]) -> None:
    history_of().record([sample(NOW - timedelta(days=d), 1) for d in (0, 1000, 1094, 1096, 2000)])
    settle(main, NOW)
    assert [(NOW - at).days for at, _ in rows(main)] == [1094, 1000, 0]


def test_a_machine_whose_clock_is_ahead_has_nothing_forgotten(main: Connection, history_of: Callable[..., History]) -> None:
    """What it says of the time is its own; how old the others' samples are Main's clock says."""
    samples = [sample(NOW - timedelta(minutes=5 * i), i) for i in range(100)] + [sample(NOW - timedelta(days=1000), 1)]
    kept = history_of()
    kept.received(NOW.date(), {"core": EGRESS_SENT_BYTES})
    assert kept.record(samples).where == "main"
    ahead = NOW + timedelta(days=5 * 365)
    kept.received(ahead.date(), {"core": EGRESS_SENT_BYTES})
    for minutes in range(3):
        assert kept.record([sample(ahead + timedelta(minutes=minutes), 1)]).where == "main"
    assert {at for at, _ in rows(main)} >= {s.at for s in samples}
    days = main.execute("SELECT day FROM tierkeeper.egress").fetchall()
    assert (NOW.date(),) in days


def test_two_writers_at_once_lose_and_double_nothing(
    main: Connection, history_of: Callable[..., History], tmp_path: Path
) -> None:
    samples = sawtooth(NOW - timedelta(days=4), NOW, 20, 31)

    def write(mine: Sequence[Figures], folder: Path) -> None:
        kept = history_of(folder)
        for begin in range(0, len(mine), 12):
            assert kept.record(mine[begin : begin + 12]).where == "main"

    threads = [Thread(target=write, args=(samples[i::2], tmp_path / str(i))) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(main, NOW)
    assert falls(rows(main)) == falls([(s.at, s.bytes) for s in samples])
    assert {at.replace(minute=0) for at, _ in rows(main)} == {s.at.replace(minute=0) for s in samples}


def test_egress_of_all_machines_is_summed_and_told_once(
    main: Connection, history_of: Callable[..., History], tmp_path: Path
) -> None:
    march = date(2026, 3, 31)
    here, there = history_of(tmp_path / "a"), history_of(tmp_path / "b")
    here.received(march, {"core": 30_000_000})
    there.received(march, {"core": 5})
    assert here.egress("core", march) == 30_000_000, "what another machine has not told yet nobody knows"
    assert there.egress("core", march) == 30_000_005
    there.record([sample(NOW, 1)])
    assert here.egress("core", march) == 30_000_005
    here.received(march, {"core": 20_000_000})
    here.record([sample(NOW, 2)])
    assert history_of(tmp_path / "c").egress("core", march) == 50_000_005
    assert history_of(tmp_path / "c").egress("core", date(2026, 4, 1)) == 0
    assert history_of(tmp_path / "c").egress("main", march) == 0


def test_a_host_without_a_disk_tells_main_at_once(main: Connection, tiers: Tiers) -> None:
    for _ in range(2):
        History(tiers.main, None, FixedDay(NOW), lambda: None).received(NOW.date(), {"core": 7})
    assert History(tiers.main, None, FixedDay(NOW), lambda: None).egress("core", NOW.date()) == 14


def test_a_look_at_a_history_that_somebody_locks_does_not_wait(history_of: Callable[..., History], tiers: Tiers) -> None:
    assert history_of().record([sample(NOW, 5)]).where == "main"
    with closing(tiers.main.connect("locks")) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE tierkeeper.usage, tierkeeper.egress IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        kept = history_of()
        assert kept.samples("core") == []
        assert kept.egress("core", NOW.date()) is None
        assert history_of().egress("core", NOW.date()) is None
        with pytest.raises(NotNow, match="lock"):
            history_of().received(NOW.date(), {"core": EGRESS_SENT_BYTES})
        assert time.monotonic() - began < LOCKED_SECONDS
        other.execute("ROLLBACK")
    assert len(history_of().samples("core")) == 1
