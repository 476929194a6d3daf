"""The quota manager on real servers: what it moves, what it leaves, and what it says about it. Sizes are scaled down.

Each database weighs about 8 MB before a row is in it; a filled `logs` adds 10 MB.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support import REST_SECONDS, Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import Exit, Failed, Faults, TierkeeperError, UsageError
from tierkeeper.kernel.results import QuotaResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.quotas import runner
from tierkeeper.quotas.early import Ahead
from tierkeeper.quotas.room import StoreRoom
from tierkeeper.tiers.usage import directory_bytes, measure

LOGS = {"name": "public.logs", "age": "at", "core": "100 years"}
OLD_LOGS = {**LOGS, "core": "30 days"}

MAKE = """
CREATE TABLE public.{table} (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text);
INSERT INTO public.{table}
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 minute', repeat(md5(i::text), 10)
FROM generate_series(1, {rows}) AS i;
VACUUM ANALYZE public.{table};
"""


@dataclass
class House:
    """Three tiers, the application's connections to Core and Main, and a keeper of any configuration of them."""

    tiers: Tiers
    core: Connection
    main: Connection

    def keeper(self, *tables: Mapping[str, str], core: str = "500MB", tiers: Tiers | None = None, **more: Any) -> Keeper:
        chosen = tiers or self.tiers
        quotas, clock = {"core": core, **more.pop("quotas", {})}, more.pop("clock", None)
        file = tierkeeper_toml(chosen, tables, quotas=quotas, **more)
        return open_keeper(load(file, {}, chosen.home), environment=chosen.environment, batch_rows=10_000, clock=clock)

    def make(self, table: str, rows: int = 20_000) -> None:
        for statement in MAKE.format(table=table, rows=rows).strip().split(";\n"):
            self.core.execute(statement.removesuffix(";").encode())

    def ids(self, conn: Connection, table: str = "logs") -> list[int]:
        return [r[0] for r in conn.execute(f"SELECT id FROM public.{table} ORDER BY id".encode()).fetchall()]  # type: ignore[misc]

    def size(self) -> int:
        (size,) = self.core.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
        assert isinstance(size, int)
        return size


@pytest.fixture
def house(tiers: Tiers) -> Iterator[House]:
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        yield House(tiers, core, main)


def early(result: QuotaResult) -> int:
    return sum(m.rows for m in result.moves if m.to == "main")


def told(result: QuotaResult) -> str:
    return "\n".join([*(f"{e.place}: {e.cause} {e.remedy}" for e in result.errors), *result.notes])


def test_rows_leave_early_down_to_stop_at_the_oldest_first(house: House) -> None:
    house.make("logs", rows=30_000)
    keeper = house.keeper(LOGS, core="21MB")
    planned = keeper.quota(dry_run=True)
    (would,) = planned.choices
    assert (would.table, would.tier, would.to, would.early) == ("public.logs", "core", "main", True)
    assert not planned.moves
    assert len(house.ids(house.core)) == 30_000
    result = keeper.quota()
    assert result.errors == []
    assert house.size() < 0.74 * 21_000_000, "not only below 85 %, where the next rows would begin it again"
    stayed, left = house.ids(house.core), house.ids(house.main)
    assert sorted(stayed + left) == list(range(1, 30_001))
    assert max(left) < min(stayed)
    assert 0 < early(result) < 22_000, "not more than it needs to come down to 70 %"
    assert {(c.table, c.early) for c in result.choices} == {("public.logs", True)}
    assert sum(c.rows for c in result.choices) == early(result)
    assert "rows leave from 85% on" in result.choices[0].why
    assert 0.5 < would.rows / early(result) < 2, "the dry run said about as many"
    again = keeper.quota()
    assert early(again) == 0


def test_rows_younger_than_the_least_age_stay_however_full_it_is(house: House) -> None:
    """The newest rows are from 2024-01-14: of those that are old enough to leave early fewer are there than should."""
    house.make("logs")
    now = datetime.now(UTC)
    days = (now - datetime(2024, 1, 4, tzinfo=UTC)).days
    keeper = house.keeper({**LOGS, "core_min": f"{days} days"}, core="12MB")
    (would,) = keeper.quota(dry_run=True).choices
    assert 3_000 < would.rows < 6_000, "three days of 1440 rows each, by the planner's statistics"
    result = keeper.quota()
    (youngest,) = house.main.execute("SELECT max(at) FROM public.logs").fetchone() or (now,)
    assert youngest < now - timedelta(days=days)
    assert 0 < early(result) == 20_000 - len(house.ids(house.core)) <= would.rows * 1.1
    assert f"no row younger than {days} days leaves core early" in told(result)


def test_of_two_tables_the_colder_rows_leave(house: House) -> None:
    house.make("logs", rows=10_000)
    house.make("young", rows=10_000)
    house.core.execute(
        "UPDATE public.young SET at = now() - i * interval '1 minute' FROM generate_series(1, 10000) i WHERE id = i"
    )
    house.core.execute("VACUUM (FULL, ANALYZE) public.young")
    result = house.keeper(LOGS, {**LOGS, "name": "public.young"}, core="17MB").quota()
    assert result.errors == []
    assert {c.table for c in result.choices} == {"public.logs"}
    assert len(house.ids(house.core, "young")) == 10_000
    assert house.size() < 0.85 * 17_000_000


def test_growth_that_is_coming_makes_room_before_it_is_there(house: House) -> None:
    """At two thirds of the quota nothing would leave; with a flood on its way the rows go that it takes to hold it."""
    house.make("logs")
    keeper = house.keeper(LOGS, core="30MB")
    assert keeper.quota(dry_run=True).choices == []
    keeper.setup(apply=True)
    before = house.size()
    manager = keeper.quota_manager(ahead=lambda tier: Ahead(coming_bytes=16_000_000 if tier == "core" else 0))
    result = manager.run(dry_run=False)
    assert result.errors == []
    assert "coming before the next run" in result.choices[0].why
    assert house.size() < before
    assert sorted(house.ids(house.core) + house.ids(house.main)) == list(range(1, 20_001))


def test_below_start_at_nothing_leaves_early(house: House) -> None:
    house.make("logs", rows=1_000)
    result = house.keeper(LOGS, core="16MB").quota()
    assert (result.moves, result.choices, result.notes, result.errors) == ([], [], [], [])
    assert len(house.ids(house.core)) == 1_000


@pytest.mark.parametrize(
    "policy", [{"name": "public.logs", "age": "at"}, {"name": "public.logs", "age": "at", "main": "9 years"}]
)
def test_a_table_whose_policy_names_no_age_for_core_stays_there(house: House, policy: dict[str, str]) -> None:
    house.make("logs")
    result = house.keeper(policy, core="10MB").quota()
    assert early(result) == 0
    assert len(house.ids(house.core)) == 20_000
    (still,) = result.stays_full
    assert still.over_quota
    assert still.cause.startswith("core stays at ")
    assert "no policy lets rows leave public.logs (" in still.cause
    assert "core = … under [[tables]]" in still.remedy


@pytest.mark.long
def test_space_that_does_not_come_back_is_no_reason_to_move_more(house: House) -> None:
    """I9: a lock of the application keeps VACUUM out, so that the size does not fall; then rows stay."""
    house.make("logs")
    house.keeper(LOGS).setup(apply=True)
    with closing(house.tiers.core.connect("app")) as application:
        application.execute("BEGIN")
        application.execute("LOCK TABLE public.logs IN ROW EXCLUSIVE MODE")  # as any writer does: it lets the mover work
        began = time.monotonic()
        first = house.keeper(LOGS, core="16MB").quota()
        moved = early(first)
        second = house.keeper(LOGS, core="16MB").quota()
        assert time.monotonic() - began < 30
        application.execute("ROLLBACK")
    assert moved > 0
    assert early(second) == 0
    assert "holds a lock on it" in told(second)
    third = house.keeper(LOGS, core="16MB").quota()
    assert house.size() < 0.85 * 16_000_000
    assert len(house.ids(house.main)) == moved + early(third) < 15_000
    assert sorted(house.ids(house.core) + house.ids(house.main)) == list(range(1, 20_001))


@pytest.mark.long
def test_an_old_snapshot_is_named_and_nothing_is_rewritten_for_it(house: House) -> None:
    house.make("logs")
    house.keeper(OLD_LOGS).setup(apply=True)
    with closing(house.tiers.core.connect("report")) as report:
        report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM public.logs")
        result = house.keeper(OLD_LOGS).quota()
        report.execute("COMMIT")
    assert early(result) == 20_000
    assert {r.method for r in result.reclaimed} <= {"VACUUM"}
    assert "still seen by an old snapshot" in told(result)
    after = house.keeper(OLD_LOGS).quota()
    assert house.size() < 10_000_000
    assert "did not come back" not in told(after)


def test_one_table_that_cannot_move_keeps_no_other_from_moving(house: House) -> None:
    house.make("logs", rows=500)
    house.core.execute("CREATE TABLE public.keyless (at timestamptz)")
    house.core.execute("CREATE TABLE public.ageless (id int PRIMARY KEY, at text)")
    result = house.keeper(
        *({"name": f"public.{name}", "age": "at", "core": "30 days"} for name in ("keyless", "ageless", "absent")), OLD_LOGS
    ).quota()
    assert early(result) == 500
    assert [e.remedy != "" for e in result.errors] == [True] * 3
    for name in ("keyless", "ageless", "absent"):
        assert f"public.{name}" in told(result)


def test_the_first_run_of_all_makes_what_is_missing_and_finds_no_fault(house: House) -> None:
    """Before the first move Main has no such table: nothing to archive there, and no error."""
    house.make("logs", rows=500)
    policy = {**OLD_LOGS, "main": "31 days"}
    keeper = house.keeper(policy)
    planned = keeper.quota(dry_run=True)
    assert planned.errors == []
    assert [(p.from_, p.rows) for p in planned.plans] == [("core", 500)]
    assert house.main.execute("SELECT to_regclass('public.logs'), to_regclass('tierkeeper.audit')").fetchone() == (None, None)
    assert keeper.archive_run().runs == []
    result = keeper.quota()
    assert result.errors == []
    assert [(m.from_, m.to, m.rows) for m in result.moves] == [("core", "main", 500), ("main", "archive", 500)]
    assert [(c.tier, c.early) for c in result.choices] == [("core", False), ("main", False)]
    assert all(c.bytes > 500 * 320 for c in result.choices), "what the rows take there, not what their segment does"


def test_with_main_away_nothing_changes(house: House) -> None:
    house.make("logs", rows=500)
    away = replace(house.tiers, main=Link("main", "postgresql://u@127.0.0.1:1/x"))
    with pytest.raises(Faults) as raised:
        house.keeper(OLD_LOGS, tiers=away).quota()
    assert raised.value.exit_code == Exit.NOT_NOW
    assert len(house.ids(house.core)) == 500


def test_swapped_tiers_are_found_before_anything_moves(house: House) -> None:
    house.make("logs", rows=500)
    house.keeper(OLD_LOGS).setup(apply=True)
    swapped = replace(house.tiers, core=house.tiers.main, main=house.tiers.core)
    for dry_run in (True, False):
        with pytest.raises(Faults, match="seem to be swapped") as raised:
            house.keeper(OLD_LOGS, tiers=swapped).quota(dry_run)
        assert all(isinstance(e, UsageError) for e in raised.value.errors)
    assert len(house.ids(house.core)) == 500


def test_a_read_only_main_takes_no_row(house: House) -> None:
    """Core's own switch is passed, for rows leave it; where they would arrive it is obeyed (I9)."""
    house.make("logs", rows=500)
    house.keeper(OLD_LOGS).setup(apply=True)
    for conn in (house.core, house.main):
        conn.execute(f'ALTER DATABASE "{conn.info.dbname}" SET default_transaction_read_only = on'.encode())
    keeper = house.keeper(OLD_LOGS)
    acts: list[Callable[[], object]] = [
        keeper.quota,
        lambda: keeper.setup(apply=True),
        lambda: keeper.move(TableName("public", "logs"), "core", "main"),
    ]
    for act in acts:
        with pytest.raises(TierkeeperError) as raised:
            act()
        assert (raised.value.place, raised.value.exit_code) == ("tiers.main", Exit.NOT_NOW)
    assert len(house.ids(house.core)) == 500
    house.main.execute("SET default_transaction_read_only = off")
    house.main.execute(f'ALTER DATABASE "{house.main.info.dbname}" RESET default_transaction_read_only'.encode())
    assert early(house.keeper(OLD_LOGS).quota()) == 500, "a read-only Core is rescued"


def test_a_full_archive_takes_no_row_and_loses_none(house: House) -> None:
    house.make("logs", rows=500)
    policy = {**OLD_LOGS, "main": "31 days"}
    keeper = house.keeper(policy)
    assert sum(m.rows for m in keeper.quota().moves if m.to == "archive") == 500
    stored = sorted(p.name for p in house.tiers.store.rglob("*"))
    house.core.execute("INSERT INTO public.logs SELECT i, '2024-01-01', 'x' FROM generate_series(30001, 30100) i")
    full = house.keeper(policy, quotas={"archive": "1kB"}).quota()
    assert house.ids(house.main) == list(range(30_001, 30_101)), "Core's rows went on"
    assert "tiers.archive: it uses" in told(full)
    assert "nothing in it is deleted" in told(full)
    assert 'archive = "' in told(full), "it proposes what to forget"
    assert sorted(p.name for p in house.tiers.store.rglob("*")) == stored
    time.sleep(REST_SECONDS)
    assert sum(m.rows for m in keeper.quota().moves if m.to == "archive") == 100


def test_a_run_of_the_archiver_stops_at_the_quota(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The segment that has no room is not put: the rows stay at Main, the store as it was, and a later run takes them."""
    house.make("logs", rows=3_000)
    policy = {**OLD_LOGS, "main": "31 days"}
    house.keeper(OLD_LOGS).quota()
    time.sleep(REST_SECONDS)
    bounded = house.keeper(policy, quotas={"archive": "20kB"})
    with pytest.raises(Failed, match="the next segment takes") as raised:
        bounded.archive_run()
    assert raised.value.place == "tiers.archive"
    assert house.ids(house.main) == list(range(1, 3_001))
    assert not any((house.tiers.store / "segment").rglob("*.*")) or bounded.archive_list() == []
    time.sleep(REST_SECONDS)
    weighed = list[int]()
    monkeypatch.setattr(StoreRoom, "weigh", lambda _, segment_bytes: weighed.append(segment_bytes))
    stored = directory_bytes(house.tiers.store)
    assert sum(r.rows for r in house.keeper(policy).archive_run().runs) == 3_000
    assert house.ids(house.main) == []
    grown = directory_bytes(house.tiers.store) - stored
    assert grown <= sum(weighed) < grown + 2_000 * len(weighed), "all that is put is weighed, manifests and keys too"


def test_with_the_store_away_core_is_relieved_all_the_same(house: House) -> None:
    house.make("logs", rows=500)
    policy = {**OLD_LOGS, "main": "31 days"}
    house.keeper(policy).setup(apply=True)
    store = house.tiers.store
    shutil.rmtree(store, ignore_errors=True)
    store.write_text("not a folder")
    result = house.keeper(policy).quota()
    assert house.ids(house.main) == list(range(1, 501))
    assert result.tiers["archive"].used_bytes_before is None
    assert [e.place for e in result.errors] == [f"store {store}"], "said once, not once a table"
    store.unlink()
    time.sleep(REST_SECONDS)
    assert sum(m.rows for m in house.keeper(policy).quota().moves if m.to == "archive") == 500


def test_a_full_main_sends_to_the_archive_early_and_gives_its_space_back(house: House) -> None:
    house.make("logs")
    policy = {**OLD_LOGS, "main": "100 years"}
    keeper = house.keeper(policy)
    assert early(keeper.quota()) == 20_000
    time.sleep(REST_SECONDS)
    result = house.keeper(policy, quotas={"main": "16MB"}).quota()
    archived = sum(m.rows for m in result.moves if m.to == "archive")
    assert archived > 0
    assert len(house.ids(house.main)) == 20_000 - archived
    used = result.tiers["main"].used_bytes_after
    assert used is not None
    assert used < 0.85 * 16_000_000
    assert {r.tier for r in result.reclaimed} == {"main"}
    assert "tail compaction" in {r.method for r in result.reclaimed}


def test_a_size_that_never_falls_empties_no_table(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else fills the server: a quarter of the rows shows it, and the others stay."""
    house.make("logs")
    monkeypatch.setattr(runner, "measure", lambda conn, profile: replace(measure(conn, profile), used_bytes=15_900_000))
    result = house.keeper(LOGS, core="16MB").quota()
    assert early(result) == 5_000
    assert "they do not seem to be what fills it" in told(result)
    assert house.ids(house.core) == list(range(5_001, 20_001))


def test_looks_for_pressure_empty_no_table_either(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are a hundred in a day. What did not help is tried again once the tier has grown, or by the daily run."""
    house.make("logs", rows=2_000)
    used = [15_000_000]
    monkeypatch.setattr(runner, "measure", lambda conn, profile: replace(measure(conn, profile), used_bytes=used[0]))
    keeper = house.keeper(LOGS, core="16MB")
    first = keeper.quota_if_pressed()
    assert first is not None
    assert early(first) > 0
    assert keeper.quota_if_pressed() is None
    used[0] += 500_000
    assert keeper.quota_manager().pressed({"core": 15_000_000}) is not None
    assert len(house.ids(house.core)) + len(house.ids(house.main)) == 2_000


def test_the_least_age_is_by_the_clock_of_the_server(house: House) -> None:
    """The machine that the manager runs on may believe what it likes."""

    class Fast(SystemClock):
        def now(self, server: Callable[[], datetime] | None = None) -> datetime:
            return super().now(server) + timedelta(days=0 if server else 4000)

    house.make("logs", rows=2_000)
    days = (datetime.now(UTC) - datetime(2023, 12, 1, tzinfo=UTC)).days
    keeper = house.keeper({**LOGS, "core_min": f"{days} days"}, core="9MB", clock=Fast())
    assert early(keeper.quota()) == 0
    assert len(house.ids(house.core)) == 2_000


def test_what_leaves_with_other_rows_counts_with_them_and_gives_its_space_back(house: House) -> None:
    """The rows that have an age are small; those that refer to them, and follow them, fill Core."""
    house.make("notes", rows=6_000)
    house.core.execute("CREATE TABLE public.heads (id bigint PRIMARY KEY, at timestamptz NOT NULL)")
    house.core.execute("INSERT INTO public.heads SELECT id / 6, min(at) FROM public.notes GROUP BY 1")
    house.core.execute("ALTER TABLE public.notes ADD head bigint REFERENCES public.heads")
    house.core.execute("UPDATE public.notes SET head = id / 6")
    house.core.execute("CREATE INDEX ON public.notes (head)")
    house.core.execute("VACUUM (FULL, ANALYZE) public.notes")
    quota = int(house.size() / 0.9)
    result = house.keeper({**LOGS, "name": "public.heads"}, {"name": "public.notes"}, core=str(quota)).quota()
    assert result.errors == []
    assert house.size() < 0.85 * quota, told(result)
    assert {c.table for c in result.choices} == {"public.heads"}
    assert "public.notes" in {r.table for r in result.reclaimed}
    assert sorted(house.ids(house.core, "notes") + house.ids(house.main, "notes")) == list(range(1, 6_001))
