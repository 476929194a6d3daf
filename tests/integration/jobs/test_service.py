"""The schedule and the queue against a real Main: what runs when, and what becomes of it where something fails."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from faultproxy import FaultProxy
from hosted import Hosted
from jobs_processes import HURRY
from support import Tiers, eventually, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.jobs.memory import Memory
from tierkeeper.jobs.model import Job
from tierkeeper.jobs.start import start
from tierkeeper.kernel.clock import FixedDay
from tierkeeper.kernel.errors import Exit, Failed, NotNow, UsageError
from tierkeeper.kernel.ports import ABANDONED, Stop
from tierkeeper.kernel.results import MoveResult, Result, RunEvent

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FAR_AHEAD = datetime(2999, 1, 1, tzinfo=UTC)


@dataclass
class Bench:
    """Jobs that note when they run, on one set of tiers."""

    tiers: Tiers
    ran: list[str] = field(default_factory=list)
    told: list[RunEvent] = field(default_factory=list)
    tables: Sequence[Mapping[str, str]] = ()

    def job(self, name: str, does: Callable[[], Result | None] = lambda: None, *, watches: bool = False) -> Job:
        def run(keeper: Keeper) -> Result | None:
            self.ran.append(name)
            return does()

        return Job(name, run, watches=watches)

    def events(self, kind: str) -> list[RunEvent]:
        return [e for e in self.told if e.event == kind]

    def start(
        self,
        role: Literal["run", "once", "worker"],
        jobs: Sequence[Job],
        stop: Callable[[], str | None] = lambda: None,
        schedule: str = "",
        beside: Mapping[str, Callable[[Stop], None]] | None = None,
    ) -> Exit:
        config = tierkeeper_toml(self.tiers, self.tables, extra=f"[schedule]\n{schedule}")
        settings = load(config, self.tiers.environment, config.parent)
        environment = self.tiers.environment
        return start(
            role, settings, tell=self.told.append, stop=stop, jobs=jobs, timing=HURRY, environment=environment, beside=beside
        )

    def make_due(self, *jobs: str) -> None:
        with closing(self.tiers.main.connect("test")) as conn:
            conn.execute("UPDATE tierkeeper.schedule SET due_at = %s WHERE job = ANY (%s)", (LONG_AGO, list(jobs)))


@dataclass
class Background:
    ended: list[Exit | Exception] = field(default_factory=list)
    reason: str | None = None


@contextmanager
def in_background(
    bench: Bench, role: Literal["run", "worker"], jobs: Sequence[Job], beside: Mapping[str, Callable[[Stop], None]] | None = None
) -> Iterator[Background]:
    """A process of `role`, as a thread; it is told to end behind the block."""
    mine = Background()

    def serve() -> None:
        try:
            mine.ended.append(bench.start(role, jobs, lambda: mine.reason, beside=beside))
        except Exception as error:  # noqa: BLE001 - the test looks at it
            mine.ended.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield mine
    finally:
        mine.reason = "stopped"
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def bench(tiers: Tiers) -> Bench:
    return Bench(tiers)


def test_jobs_that_are_due_at_once_use_the_same_connections(bench: Bench) -> None:
    seen = list[str]()

    def look() -> None:
        with closing(bench.tiers.core.connect("usage")) as conn:
            seen.append(conn.info.get_parameters()["application_name"])

    jobs = [bench.job(name, look, watches=True) for name in ("usage", "alerts", "keep_awake")]
    assert bench.start("once", jobs) is Exit.DONE
    assert seen == ["tierkeeper jobs"] * 3
    with closing(bench.tiers.core.connect("oracle")) as conn:
        named = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tierkeeper jobs'"
        )
        assert eventually(lambda: conn.execute(named).fetchone() == (0,)), "they outlived the process's work"


def test_once_runs_what_is_due_and_makes_up_for_a_missed_year_once(bench: Bench) -> None:
    jobs = [bench.job("quota"), bench.job("archive"), bench.job("usage", watches=True), bench.job("scrub")]
    off = 'scrub = "off"'
    assert bench.start("once", jobs, schedule=off) is Exit.DONE
    assert bench.ran == ["usage"]  # the schedule of the others begins now
    bench.make_due("quota", "archive", "usage")
    assert bench.start("once", jobs, schedule=off) is Exit.DONE
    assert bench.start("once", jobs, schedule=off) is Exit.DONE
    assert sorted(bench.ran) == ["archive", "quota", "usage", "usage"]
    (quota,) = [e for e in bench.events("job") if e.job == "quota"]
    assert quota.due_at is not None
    assert quota.due_at.hour == 3
    assert quota.ok
    assert bench.events("ended")[-1].next.keys() == {"quota", "archive", "usage"}


def test_once_goes_on_watching_for_as_long_as_a_job_takes(bench: Bench) -> None:
    """Its timer does not call it again meanwhile; and nobody else takes it for dead."""
    other, seen = Bench(bench.tiers), list[int]()

    def fails() -> None:
        raise NotNow("tiers.core", "it is away", "Wait")

    def takes_long() -> None:
        assert eventually(lambda: bench.ran.count("alerts") > 2)
        with pytest.raises(NotNow, match="another run holds it"):
            other.start("once", [])
        seen.append(bench.ran.count("alerts"))

    jobs = [bench.job("alerts", fails, watches=True), bench.job("quota", takes_long)]
    bench.start("once", jobs)
    bench.make_due("quota", "alerts")
    bench.ran.clear()
    bench.start("once", jobs)
    assert len(seen) == 1


def test_a_job_that_fails_is_told_and_tried_again_and_keeps_no_other(bench: Bench) -> None:
    failures = iter([NotNow("tiers.core", "it is away", "Wait"), Failed("t", "it broke", "Mend it"), ValueError("a secret")])

    def fails() -> None:
        if (error := next(failures, None)) is not None:
            raise error

    def is_refused() -> None:
        raise UsageError("tables.x", "it is not there", "Correct it")

    jobs = [bench.job("quota", fails), bench.job("archive", is_refused), bench.job("scrub")]
    bench.start("once", jobs)
    bench.make_due("quota", "archive", "scrub")
    with in_background(bench, "run", jobs):
        assert eventually(lambda: bench.ran.count("quota") == 4)
    assert sorted(set(bench.ran)) == ["archive", "quota", "scrub"]
    assert bench.ran.count("archive") == bench.ran.count("scrub") == 1
    told = [(e.attempt, e.ok, e.error and e.error.cause, e.again_at is not None) for e in bench.events("job") if e.job == "quota"]
    unexpected = "an unexpected ValueError: this is a fault of tierkeeper"
    assert told == [
        (1, False, "it is away", True),
        (2, False, "it broke", True),
        (3, False, unexpected, True),
        (4, True, None, False),
    ]
    assert "a secret" not in str(bench.told)


def test_a_job_that_has_not_gone_well_for_two_of_its_times_rings_until_it_has(bench: Bench) -> None:
    """The archiver's own lateness: its work leaves no trace where nothing was old enough."""
    errors = iter([Failed("public.events", "a trigger refuses it", "Change it")])

    def fails_once() -> None:
        if (error := next(errors, None)) is not None:
            raise error

    jobs = [replace(bench.job("archive", fails_once), again=False), bench.job("usage", watches=True)]
    began = datetime.now(UTC)
    assert late(bench, began + 30 * DAY) == [], "nobody has had it on a schedule"
    bench.start("once", jobs)
    bench.make_due("archive")
    assert bench.start("once", jobs) is Exit.FAILED
    assert late(bench, began) == []
    assert late(bench, began + 22 * DAY) == ["the last try: public.events: a trigger refuses it"]
    assert late(bench, began + 22 * DAY, schedule='archive = "off"') == []
    bench.make_due("archive")
    assert bench.start("once", jobs, schedule='archive = "0 3 * * *"') is Exit.DONE
    assert late(bench, began) == []
    assert late(bench, began + 22 * DAY) == ["no try since then has come to its end"]


def late(bench: Bench, now: datetime, schedule: str = "") -> list[str]:
    """Why jobs are late by a look at `now`, an hour and more after one that found the same."""
    config = tierkeeper_toml(bench.tiers, extra=f"[schedule]\n{schedule}")
    settings = load(config, bench.tiers.environment, config.parent)
    for at in (now, now + timedelta(hours=2)):
        keeper = open_keeper(settings, environment=bench.tiers.environment, clock=FixedDay(at))
        keeper.alerts()
    return [a.cause.partition("; ")[2] for a in keeper.alert_status().alerts if (a.kind, a.state) == ("job late", "firing")]


def test_parts_that_are_nobodys_are_passed_over_and_no_error(bench: Bench) -> None:
    """One of a run that is over, one in another version; what is in the queue of another version is left to those who read it."""
    bench.tables = [{"name": "public.rows", "age": "at", "core": "30 days"}]
    bench.start("once", [])
    document = {
        "version": 1, "table": ["public", "rows"], "hop": ["core", "main"], "age": "at", "cutoff": LONG_AGO.isoformat(),
        "origin": None, "lease": "public.rows core <-> main", "holder": "host/another/1/2/3", "batch_rows": 100, "sharers": 2,
        "budgets": [], "ranges": [],
    }  # fmt: skip
    with closing(bench.tiers.core.connect("test")) as core:
        core.execute("CREATE TABLE public.rows (id bigint PRIMARY KEY, at timestamptz NOT NULL)")
    with closing(bench.tiers.main.connect("test")) as conn:
        conn.execute("SET search_path = tierkeeper_jobs")
        rows = [("parts 1", document), ("parts 1", {**document, "version": 7}), ("parts 7", {**document, "version": 7})]
        for queue, one in rows:
            conn.execute(
                "INSERT INTO procrastinate_jobs (queue_name, task_name, args) VALUES (%s, 'part', %s)",
                (queue, json.dumps({"document": one})),
            )
        with in_background(bench, "worker", []) as worker:
            assert eventually(lambda: len(bench.events("part")) == 2)
        assert worker.ended == [Exit.DONE]
        assert conn.execute("SELECT queue_name, status FROM procrastinate_jobs").fetchall() == [("parts 7", "todo")]
    assert sorted((e.ok, e.error, e.told) for e in bench.events("part")) == [
        (None, None, "it is written in version 7, and this process reads 1. Have the same tierkeeper on all machines;"
         " the run's own process moves these rows"),
        (None, None, "its run is over. What it left is cut anew by the next"),
    ]  # fmt: skip


def test_a_job_that_waits_for_its_next_try_keeps_no_other_from_running(bench: Bench) -> None:
    """With the store away for days the archiver is tried again and again; the quota manager shares its lock, and goes on."""
    away = NotNow("tiers.archive", "it is away", "Wait")
    errors = iter([away])

    def is_away_once() -> None:
        if (error := next(errors, None)) is not None:
            raise error

    jobs = [replace(bench.job("archive", is_away_once), lock="moves"), replace(bench.job("quota"), lock="moves")]
    bench.start("once", jobs)
    bench.make_due("archive")
    with closing(bench.tiers.main.connect("test")) as conn:
        conn.execute("SET search_path = tierkeeper_jobs")
        conn.execute("CREATE FUNCTION in_an_hour() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
                     " NEW.scheduled_at = now() + interval '1 hour'; RETURN NEW; END$$")  # fmt: skip
        conn.execute("CREATE TRIGGER t BEFORE UPDATE ON procrastinate_jobs FOR EACH ROW"
                     " WHEN (NEW.status = 'todo' AND OLD.status = 'doing') EXECUTE FUNCTION in_an_hour()")  # fmt: skip
        assert bench.start("once", jobs) is Exit.NOT_NOW
        bench.make_due("quota", "archive")
        until = time.monotonic() + 10
        bench.start("once", jobs, lambda: "it hangs" if time.monotonic() > until else None)
        assert bench.ran == ["archive", "quota"]
        assert time.monotonic() < until
        conn.execute("UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 day' WHERE status = 'todo'")  # wrong
        assert bench.start("once", jobs) is Exit.DONE
        assert conn.execute("SELECT lock FROM procrastinate_jobs WHERE task_name = 'archive'").fetchall() == [("moves",)]
    assert bench.ran == ["archive", "quota", "archive"]


def test_a_clock_that_was_ahead_for_a_moment_stops_no_job(bench: Bench) -> None:
    jobs = [bench.job("quota"), bench.job("usage"), bench.job("alerts", watches=True)]
    bench.start("once", jobs)
    memory = Memory(bench.tiers.main)
    for job in jobs:
        memory.handled(job.name, FAR_AHEAD)
    bench.ran.clear()
    bench.start("once", jobs)
    assert sorted(bench.ran) == ["alerts", "quota", "usage"]
    bench.start("once", jobs)
    assert bench.ran.count("quota") == 1, "it is remembered from then on"


def test_one_leads_and_another_takes_over(bench: Bench) -> None:
    other = Bench(bench.tiers)
    with in_background(bench, "run", [bench.job("usage", watches=True)]) as leader:
        assert eventually(lambda: bool(bench.events("leads")))
        with pytest.raises(NotNow, match="another run holds it"):
            other.start("once", [])
        with in_background(other, "run", [other.job("usage", watches=True)]) as standing:
            assert eventually(lambda: bool(other.events("stands by")))
            assert other.ran == []
            leader.reason = "stopped"
            assert eventually(lambda: bool(other.events("leads")))
            assert leader.ended == [Exit.DONE]
    assert standing.ended == [Exit.DONE]


def test_while_main_is_away_it_watches_and_then_goes_on(bench: Bench) -> None:
    """Also where Main was away when it began."""
    behind = bench.tiers
    with FaultProxy(int(behind.main.parameters["port"])) as proxy:
        bench.tiers = replace(behind, main=proxy.link(behind.main))
        jobs = [bench.job("usage", watches=True), bench.job("quota")]
        bench.start("once", jobs)
        proxy.refuse()
        with pytest.raises(NotNow):
            bench.start("once", jobs)
        assert bench.ran == ["usage", "usage"]
        with in_background(bench, "run", jobs) as leader:
            assert eventually(lambda: len(bench.ran) == 3 and bool(bench.events("away")))
            proxy.heal()
            assert eventually(lambda: bool(bench.events("leads")))
            proxy.refuse()
            assert eventually(lambda: len(bench.events("away")) == 2)
            Memory(behind.main).handled("nothing", LONG_AGO)  # it is there for others
            proxy.heal()
            assert eventually(lambda: len(bench.events("leads")) == 2)
            assert leader.ended == []
    assert leader.ended == [Exit.DONE]


def test_one_that_stands_by_watches_where_main_went_away_with_whoever_led(bench: Bench) -> None:
    """They may share a machine. Within a lease's time the leader may watch still, and then nobody is told twice."""
    behind = bench.tiers
    with FaultProxy(int(behind.main.parameters["port"])) as proxy:
        other = Bench(replace(behind, main=proxy.link(behind.main)))
        with in_background(bench, "run", []) as leader:
            assert eventually(lambda: bool(bench.events("leads")))
            with in_background(other, "run", [other.job("alerts", watches=True), other.job("quota")]) as standing:
                assert eventually(lambda: bool(other.events("stands by")))
                proxy.refuse()
                assert eventually(lambda: bool(other.events("away")))
                assert other.ran == []
                assert eventually(lambda: other.ran == ["alerts"])
                proxy.heal()
                assert eventually(lambda: len(other.events("stands by")) == 2)
                leader.reason = "stopped"
                assert eventually(lambda: bool(other.events("leads")))
    assert (leader.ended, standing.ended) == ([Exit.DONE], [Exit.DONE])


def test_a_job_that_is_told_to_end_goes_on_the_next_time(bench: Bench) -> None:
    asked: list[str] = []

    def ends_when_asked() -> MoveResult:
        if asked:
            return moved("complete")
        asked.append("stopped")
        time.sleep(0.3)
        return moved("stopped")

    jobs = [bench.job("quota", ends_when_asked)]
    bench.start("once", jobs)
    bench.make_due("quota")
    assert bench.start("once", jobs, lambda: asked[0] if asked else None) is Exit.NOT_NOW
    with closing(bench.tiers.main.connect("test")) as conn:
        rows = conn.execute("SELECT scheduled_at < now() - interval '1 day' FROM tierkeeper_jobs.procrastinate_jobs")
        assert rows.fetchall() == [(True,)], "it is due whatever this machine's clock says"
    assert bench.start("once", jobs) is Exit.DONE
    assert [(e.ok, e.attempt) for e in bench.events("job")] == [(False, 1), (True, 2)]


def test_what_goes_on_beside_the_schedule_is_begun_again_and_ends_with_it(bench: Bench) -> None:
    began, ended = list[float](), list[str | None]()

    def balance(stop: Stop) -> None:
        began.append(time.monotonic())
        if len(began) == 1:
            raise UsageError("balance.services[0].listen", "the port is taken", "Free it")
        if len(began) == 2:
            raise ValueError("a fault of ours")
        while stop() is None:
            time.sleep(0.01)
        ended.append(stop())

    with in_background(bench, "run", [bench.job("usage", watches=True)], {"balance": balance}) as running:
        assert eventually(lambda: len(began) == 3 and bool(bench.ran), 30), (began, bench.ran, bench.told)
        assert [(e.told, e.error and e.error.remedy) for e in bench.events("balance")] == [
            ("balance.services[0].listen: the port is taken; it is tried again, and the schedule goes on", "Free it"),
            ("an unexpected ValueError: this is a fault of tierkeeper; it is tried again", None),
        ]
    assert (ended, running.ended) == (["stopped"], [Exit.DONE])


def test_a_schedule_that_cannot_begin_leaves_what_is_beside_it_for_the_next(bench: Bench) -> None:
    reasons = list[str | None]()

    def balance(stop: Stop) -> None:
        while stop() is None:
            time.sleep(0.01)
        reasons.append(stop())

    main = bench.tiers.main
    wrong = replace(main, url=main.url.replace("://postgres:", "://postgres:not"))
    with in_background(Bench(replace(bench.tiers, main=wrong)), "run", [], {"balance": balance}) as running:
        assert eventually(lambda: bool(running.ended))
    assert getattr(running.ended[0], "exit_code", None) is Exit.USAGE
    assert reasons == [ABANDONED]


def moved(stopped_because: str) -> MoveResult:
    return MoveResult(table="t", from_="core", to="main", batches=0, rows=0, bytes=0, seconds=0, stopped_because=stopped_because)


def test_a_job_that_kills_its_workers_is_given_up(bench: Bench) -> None:
    jobs = [bench.job("quota")]
    bench.start("once", jobs)
    with closing(bench.tiers.main.connect("test")) as conn:
        conn.execute("SET search_path = tierkeeper_jobs")
        conn.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, args, status, priority)"
            """ VALUES ('work', 'quota', 'quota', '{"timestamp": 0}', 'doing', -9)"""
        )
        bench.start("once", jobs)
        assert bench.ran == []

        conn.execute("UPDATE procrastinate_jobs SET status = 'doing', priority = -8")
        bench.start("once", jobs)
        assert bench.ran == ["quota"]


def test_the_queue_works_through_a_transaction_pooler(supabase_free: Hosted, tiers: Tiers) -> None:
    """For an owner who is no superuser, and nothing of it is left in the pooler's sessions."""
    bench = Bench(replace(tiers, main=replace(supabase_free.pooled, tier="main")))
    jobs = [bench.job("quota")]
    bench.start("once", jobs)
    bench.make_due("quota")
    assert bench.start("once", jobs) is Exit.DONE
    assert bench.ran == ["quota"]
    assert supabase_free.leaks(bench.tiers.main) == []
