"""Every result has a form for a person."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from tierkeeper.cli.render_rows import render
from tierkeeper.cli.render_usage import sparkline
from tierkeeper.kernel import results as r

NOW = datetime(2014, 1, 1, tzinfo=UTC)
MOVE = r.MoveResult(
    table="public.t",
    from_="core",
    to="main",
    batches=3,
    rows=12_000,
    bytes=1_500_000,
    seconds=2.0,
    stopped_because="complete",
    cutoff=NOW,
    recovered=1,
    conflicts=["(1)", "(2)"],
)
PLAN = r.MovePlan(
    table="public.t",
    from_="core",
    to="main",
    cutoff=NOW,
    rows=5,
    batches=1,
    setup=[r.SetupStep(tier="main", action="make table public.t")],
    notes=["a trigger fires on DELETE"],
)
SEGMENT = {"segment": "s-1", "table": "public.t", "rows": 7, "bytes": 900, "min_age": NOW, "max_age": None, "state": "done"}
DETAIL = {
    "sha256": "ab",
    "key_id": "k",
    "schema_hash": "h",
    "columns": {"id": "integer"},
    "source": "main",
    "batch": "b",
    "created_at": NOW,
}
DEMO_TIER = r.DemoTier(rows_before=10, rows_after=4, bytes_before=100, bytes_after=40, quota_bytes=50)
DEMO = r.DemoResult(
    tiers={"core": DEMO_TIER, "main": DEMO_TIER, "archive": DEMO_TIER},
    lost=0,
    doubled=1,
    segments=2,
    verified=True,
    restored_rows=3,
    restore_matches=True,
    query_matches=True,
    today=NOW,
    seconds={"quota": 2.0, "core_to_main": 1.0},
)

CURVE = [r.UsageSample(at=NOW, bytes=20_000_000), r.UsageSample(at=NOW.replace(hour=5), bytes=21_400_000)]
DAYS = [r.UsageDay(day=NOW.date(), reads=90, writes=3, cache_hits=1, cache_reads=1)]
USAGE = r.UsageResult(
    at=NOW,
    tiers={
        "core": r.TierUsage(
            bytes=21_400_000,
            quota_bytes=500_000_000,
            database_bytes=21_400_000,
            tables_bytes=14_000_000,
            system_bytes=7_400_000,
            own_bytes=0,
            cache_hits=98,
            cache_reads=2,
            slots=[r.UsageSlot(name="left", kind="physical", active=False, pinned_wal_bytes=9000)],
            slow_statements=[r.SlowStatement(text="SELECT ?", calls=4, seconds=0.01, rows=4)],
            egress_bytes_this_month=4_000_000_000,
            egress_budget_bytes=5_000_000_000,
            samples=CURVE,
            days=DAYS,
            tables={"public.t": r.TableUsage(bytes=14_000_000, rows=7, estimated=True, of_policy=True, samples=CURVE, days=DAYS)},
        ),
        "main": r.TierUsage(
            quota_bytes=10_000_000_000,
            error=r.ErrorResult(place="tiers.main", cause="the server is away", remedy="Start it"),
        ),
        "archive": r.TierUsage(bytes=0, quota_bytes=1, tables={"public.t": r.TableUsage(bytes=5, parts=2, of_policy=True)}),
    },
    recorded=r.RecordResult(at=NOW, where="spool", samples=3),
)


def shown(result: object, width: int = 160) -> str:
    page = io.StringIO()
    console = Console(file=page, width=width, color_system=None)
    for part in render(result):
        console.print(part)
    return page.getvalue()


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (MOVE, ["12,000 rows", "3 batches", "1.5 MB", "6,000 rows/s", "2014-01-01", "complete", "2 keys in both tiers"]),
        (PLAN, ["would move", "5 rows", "make table public.t", "a trigger fires", "Nothing was changed"]),
        ([PLAN], ["Would move", "public.t"]),
        ([], ["Nothing there"]),
        ([r.SegmentResult(**SEGMENT)], ["s-1", "900 B", "1 segment, 7 rows"]),
        (r.SegmentDetail(**SEGMENT, **DETAIL), ["s-1", "integer", "encrypted"]),
        (r.ArchiveRunResult(runs=[MOVE], segments=["s-1"]), ["12,000 rows archived in 1 segment"]),
        (r.ArchiveRunResult(runs=[]), ["No table has a policy"]),
        (
            r.VerifyResult(segments=2, checked=2, damaged=["s-1: tag"], missing=["s-2"], ok=False),
            ["damaged  s-1: tag", "missing  s-2", "2 findings, 2 segments read"],
        ),
        (
            r.VerifyResult(segments=60, checked=2, damaged=[], missing=[], strays=["key/0: left"], unread=9, ok=True),
            ["stray  key/0: left", "2 segments read back", "58 others looked for; 9 of all never read back"],
        ),
        (
            r.StatusResult(tiers={}, tables={}, archive=r.ReadingStatus(segments=9, unread=2, oldest_read_at=NOW)),
            ["7 of 9 archived segments read back whole since written, the longest ago"],
        ),
        (DEMO, ["inside its quota", "✓ lost 0", "✗ doubled 1", "3 rows restored"]),
        (
            r.StatusResult(
                tiers={
                    "core": r.TierStatus(
                        used_bytes=490_000_000,
                        quota_bytes=500_000_000,
                        share=0.98,
                        healthy=True,
                        cause="98% of its quota is used",
                        remedy="Run tierkeeper quota",
                    ),
                    "main": r.TierStatus(
                        used_bytes=None, quota_bytes=10**10, share=None, healthy=False, cause="no route", remedy="Start it"
                    ),
                },
                tables={
                    "public.t": r.TableStatus(mode="move", core_rows_estimate=12, archive_rows=3, in_flight=2, conflicts=["(1)"])
                },
            ),
            [
                "490.0 MB",
                " 98%",
                "98% of its quota is used",
                "no route",
                "core     Run tierkeeper quota",
                "main     Start it",
                "~12",
                "2 interrupted batches",
                "1 key in Core and in Main",
            ],
        ),
        (r.StatusResult(tiers={}, tables={}), ["no table has a policy"]),
        (
            r.QuotaResult(
                dry_run=False,
                tiers={
                    "core": r.QuotaTier(used_bytes_before=500, used_bytes_after=300, quota_bytes=1000, counted="this database")
                },
                moves=[MOVE],
                reclaimed=[
                    r.Reclaim(
                        tier="core",
                        table="t",
                        relation="t_pkey",
                        method="VACUUM FULL",
                        bytes_before=500,
                        bytes_after=300,
                        seconds=1.0,
                    )
                ],
                errors=[r.FaultResult(place="public.u", cause="locked", remedy="Run again")],
            ),
            ["300 B", "30%", "this database", "t_pkey", "VACUUM FULL", "public.u: locked", "Run again"],
        ),
        (r.SetupResult(applied=True, steps=[]), ["Nothing is missing"]),
        (
            r.SetupResult(
                applied=False,
                steps=[
                    r.SetupStep(tier="main", action="create schema tierkeeper", sql="CREATE SCHEMA tierkeeper"),
                    r.SetupStep(tier="main", action="write down that this is main", sql="INSERT INTO tierkeeper.tier …"),
                    r.SetupStep(tier="main", action="create table public.t", sql="CREATE TABLE t (\n  a int\n)"),
                ],
            ),
            [
                "main     make what is missing of tierkeeper's own schema (2 steps",
                "         CREATE TABLE t (\n           a int\n",
            ],
        ),
        (r.VerifyResult(segments=0, checked=0, damaged=[], missing=[], ok=True), ["holds no segment yet"]),
        (r.InitResult(file="tierkeeper.toml", found=["A"], missing=["B"]), ["tierkeeper.toml is written", "missing  B"]),
        (
            r.HealthResult(ok=False, checks=[r.HealthItem(name="api", healthy=False, cause="gone", remedy="Look")]),
            ["gone. Look", "1 of 1"],
        ),
        (r.CheckResult(ok=True, checks=[r.CheckItem(place="p", finding="f")], notes=["n"]), ["note  n", "1 thing looked at"]),
        (USAGE, ["core  21.4 MB of 500.0 MB", "▁█ 20.0 MB … 21.4 MB, last 21.4 MB", "t (locked)", "98.0% of pages"]),
        (
            USAGE,
            ["core sent 4.0 GB of 5.0 GB", "pins 9.0 kB of log, and nobody reads it", "SELECT ?", "2.5 ms"],
        ),
        (USAGE, ["the server is away", "Start it", "main  - of 10.0 GB", "3 samples wait on this machine", "90"]),
        (r.QueryFile(output="x.csv", rows=1, bytes=10), ["1 row written to x.csv"]),
        (
            r.RestoreResult(table="t", to="u", rows=2, skipped=2, segments=1, seconds=1, notes=["the sequence"]),
            ["2 rows of t", "0 inserted, 2 skipped, 0 replaced", "the sequence"],
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_a_person_sees(result: object, words: list[str]) -> None:
    page = shown(result)
    assert [word for word in words if word not in page] == []


def test_what_the_database_says_cannot_steer_the_terminal() -> None:
    assert "\x1b" not in shown(MOVE.model_copy(update={"stopped_because": "\x1b]0;owned\x07"}))


def test_a_segment_s_id_can_be_copied_from_a_narrow_terminal() -> None:
    name = "03e6e47c-11ca-4ee9-a98b-f758b3766538"
    assert name in shown([r.SegmentResult(**{**SEGMENT, "segment": name})], width=80)


def test_a_curve_shows_its_shape_and_its_gaps() -> None:
    at = [NOW.replace(hour=h) for h in range(10)]
    rising = [r.UsageSample(at=when, bytes=100 + i) for i, when in enumerate(at)]
    assert sparkline(rising, 10) == "▁▂▃▃▄▅▆▆▇█"
    assert sparkline([*rising[:3], *rising[-2:]], 5) == "▂▃  █"
    assert sparkline([r.UsageSample(at=when, bytes=5) for when in at], 4) == "▁▁▁▁"
    assert (sparkline([]), sparkline(rising[:1])) == ("", "▁")
    assert len(sparkline(rising, 4)) == 4


@pytest.mark.parametrize("over", [True, False])
def test_a_run_that_leaves_a_tier_over_its_quota_ends_with_why_and_what_to_do_and_with_no_tick(over: bool) -> None:
    still = r.StaysFull(
        tier="core", used_bytes=218, quota_bytes=100, over_quota=over, cause="core stays at", remedy="Run it later"
    )
    page = shown(r.QuotaResult(dry_run=False, tiers={}, stays_full=[still]))
    assert ("✓" in page, "✗ core stays at" in page) == (not over, over)
    assert "core stays at" in page
    assert "Run it later" in page


def test_a_proposal_is_not_followed_by_a_line_that_nothing_costs_less() -> None:
    change = r.CutoffChange(
        table="t", core_days=1, main_days=None, proposed_core_days=9, proposed_main_days=None, reads=0,
        reads_in_core=None, proposed_reads_in_core=None,
    )  # fmt: skip
    page = shown(r.OptimiseResult(feasible=True, optimal=True, promise=0.9, currency="USD", changes=[change]))
    assert "these cost least" in page
    assert "costs less" not in page


@pytest.mark.parametrize(
    ("reason", "is_shown"), [("Main has the history: it is locked", True), ("there is no history yet", False)]
)
def test_why_a_forecast_is_not_known_now_is_told_and_that_none_is_there_yet_is_no_news(reason: str, is_shown: bool) -> None:
    forecast = r.ForecastResult(
        confidence="none", reason=reason, earliest=None, likely=None, bytes_per_day=0, net_bytes_per_day=0, history_days=0
    )
    cost = r.CostResult(
        currency="USD", so_far=0, month=0, storage=0, egress=0, requests=0, fixed=0, egress_bytes=None, known_since=None
    )
    tier = r.TierStatus(used_bytes=1, quota_bytes=2, share=0.5, healthy=True, read_only=False, forecast=forecast, cost=cost)
    assert (reason in " ".join(shown(r.StatusResult(tiers={"core": tier}, tables={}), width=200).split())) is is_shown


def test_a_run_of_the_archiver_that_could_not_go_on_ends_without_a_tick() -> None:
    fault = r.FaultResult(place="tiers.archive", cause="it is full", remedy="Give it more room")
    page = shown(r.ArchiveRunResult(runs=[MOVE], errors=[fault]))
    assert "archived in" in page
    assert "✓" not in page
    assert "✓" in shown(r.ArchiveRunResult(runs=[MOVE]))


def test_a_history_that_cannot_be_read_is_not_one_without_samples() -> None:
    bare = r.UsageResult(at=NOW, tiers={"core": r.TierUsage(quota_bytes=1)})
    assert "nothing was recorded yet" in shown(bare)
    locked = r.ErrorResult(place="tiers.main", cause="somebody locks tierkeeper.usage there", remedy="Try again")
    told = shown(bare.model_copy(update={"history": locked}))
    assert ("nothing was recorded yet" in told, "somebody locks tierkeeper.usage there. Try again" in told) == (False, True)
