"""Which facts ring: each kind of the list, by the figures that it should ring at and those that it should not."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tierkeeper.kernel.series import Sample
from tierkeeper.monitoring.alerts.conditions import judge
from tierkeeper.monitoring.alerts.facts import Away, Expiry, Facts, Fault, Forecast, Job, Run, TierFacts
from tierkeeper.monitoring.alerts.model import Condition, Judged, Kind, Severity
from tierkeeper.monitoring.model import Slot

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
CORE = TierFacts(
    "core", 500_000_000, 100_000_000, read_only=False, slots=(), forecast=Forecast(None), pauses_after_days=7, read_at=NOW
)
WELL = Facts(
    NOW,
    (CORE,),
    {name: Run(DAY, NOW) for name in ("quota", "archive", "scrub", "drill")},
    (),
    (),
)


def judged(facts: Facts, firing: Collection[tuple[str, str]] = ()) -> Judged:
    return judge(facts, 0.85, firing)


def only(facts: Facts) -> Condition:
    (one,) = judged(facts).conditions
    return one


def of_core(**changes: object) -> Facts:
    return replace(WELL, tiers=(replace(CORE, **changes),))  # type: ignore[arg-type]


def steady(share: float) -> tuple[Sample, ...]:
    return tuple(Sample(NOW - timedelta(minutes=5 * i), int(share * CORE.quota_bytes)) for i in range(20, 0, -1))


def test_where_all_is_well_nothing_rings_and_all_is_known() -> None:
    assert judged(WELL) == Judged(())


def test_approaching_names_figures_and_what_to_do() -> None:
    one = only(of_core(used_bytes=440_000_000, samples=steady(0.88)))
    assert (one.kind, one.severity, one.subject) == (Kind.APPROACHING, Severity.WARNING, "core")
    assert "440.0 MB of its quota of 500.0 MB are used (88%)" in one.cause
    assert "`tierkeeper quota`" in one.remedy
    assert one.figures == {"used_bytes": 440_000_000, "quota_bytes": 500_000_000, "share": 0.88}


def test_breached_is_urgent_and_covers_approaching_and_forecast() -> None:
    found = judged(of_core(used_bytes=505_000_000, samples=steady(1.01), forecast=Forecast(NOW + DAY)))
    assert [(c.kind, c.severity) for c in found.conditions] == [(Kind.BREACHED, Severity.URGENT)]
    assert {(Kind.APPROACHING, "core"), (Kind.FORECAST, "core")} <= found.unsaid


def test_a_peak_is_no_breach() -> None:
    assert judged(of_core(used_bytes=600_000_000, samples=steady(0.5))).conditions == ()


@pytest.mark.parametrize(
    ("share", "days", "read_only", "severity"),
    [
        (0.7, 5.0, False, Severity.WARNING),
        (0.7, 1.5, False, Severity.SERIOUS),
        (0.7, 8.0, False, None),  # too far away to act on
        (0.5, 1.5, False, None),  # not low: of an empty tier a slope says little
        (0.7, 1.5, True, None),  # it is read-only already, which is another alert
        (0.7, None, False, None),
    ],
)
def test_a_forecast_rings_where_space_is_low_too(
    share: float, days: float | None, read_only: bool, severity: Severity | None
) -> None:
    full_at = None if days is None else NOW + days * DAY
    forecast = Forecast(full_at, NOW + DAY, None, "public.events")
    facts = of_core(used_bytes=int(share * 5e8), samples=steady(share), forecast=forecast, read_only=read_only)
    found = [c for c in judged(facts).conditions if c.kind is Kind.FORECAST]
    assert [c.severity for c in found] == ([] if severity is None else [severity])
    if found:
        assert found[0].hold_seconds >= 3600
        assert "public.events grows most" in found[0].cause
        assert "between 2026-03-02 and never" in found[0].cause


def test_read_only_is_urgent() -> None:
    one = only(of_core(read_only=True))
    assert (one.kind, one.severity) == (Kind.READ_ONLY, Severity.URGENT)
    assert "default_transaction_read_only = off" in one.remedy


def test_a_slot_rings_by_what_it_keeps() -> None:
    kept = (("lively", True, 30_000_000), ("dead", False, 70_000_000), ("it's", False, 300_000_000), ("unread", False, None))
    slots = tuple(Slot(name, "physical", active, pinned_wal_bytes) for name, active, pinned_wal_bytes in kept)
    found = judged(of_core(slots=slots)).conditions
    assert [(c.subject, c.severity) for c in found] == [("core/dead", Severity.WARNING), ("core/it's", Severity.SERIOUS)]
    assert "nobody reads it" in found[0].cause
    assert "pg_drop_replication_slot('it''s')" in found[1].remedy


@pytest.mark.parametrize(
    ("days", "severity"), [(4.9, None), (5.1, Severity.WARNING), (6.1, Severity.SERIOUS), (8, Severity.SERIOUS)]
)
def test_a_project_that_nobody_reads_is_about_to_pause(days: float, severity: Severity | None) -> None:
    facts = of_core(read_at=NOW - days * DAY, read_cause="connection refused")
    assert [c.severity for c in judged(facts).conditions] == ([] if severity is None else [severity])
    if severity is not None:
        assert only(facts).kind is Kind.PAUSING
        assert "connection refused" in only(facts).cause
        assert only(facts).what == "the project of core is about to be paused", "it answers, so it is not yet"
        assert "look that `tierkeeper run` runs" in only(facts).remedy
        assert only(facts).hold_seconds == 3600, "a machine that was off reads at once when it is back"


@pytest.mark.parametrize(("days", "severity"), [(4.9, None), (5.1, Severity.WARNING), (9.0, Severity.SERIOUS)])
def test_a_project_that_is_not_kept_awake_is_about_to_pause_by_its_history(days: float, severity: Severity | None) -> None:
    facts = of_core(read_at=NOW - days * DAY, kept_awake=False)
    assert [c.severity for c in judged(facts).conditions] == ([] if severity is None else [severity])
    if severity is not None:
        one = only(facts)
        assert one.what == "the project of core is about to be paused", "it answers, so it is not yet"
        assert f"no row there was read or written, as far as the history goes, for {days:.1f} days" in one.cause
        assert "keep_awake = false under [tiers.core]" in one.remedy
    for kept_awake in (True, False):
        away = of_core(read_at=NOW - 9 * DAY, kept_awake=kept_awake, away=Away("refused", "Look"))
        (paused,) = [c for c in judged(away).conditions if c.kind is Kind.PAUSING]
        assert (paused.what, "restore the project" in paused.remedy) == ("core may be paused by now", True)


def test_a_tier_that_does_not_pause_or_is_not_kept_awake_does_not_ring() -> None:
    assert judged(of_core(read_at=None)).conditions == ()
    assert judged(of_core(read_at=NOW - 30 * DAY, pauses_after_days=None)).conditions == ()


def test_a_tier_that_is_away_says_nothing_of_itself() -> None:
    away = TierFacts("core", 500_000_000, away=Away("connection refused", "Start it"))
    found = judged(replace(WELL, tiers=(away,)))
    assert [c.kind for c in found.conditions] == [Kind.AWAY]
    kinds = (Kind.APPROACHING, Kind.BREACHED, Kind.FORECAST, Kind.READ_ONLY, Kind.SLOT)
    assert found.unsaid == {(kind, "core") for kind in kinds}


def test_a_failed_move_is_urgent_and_keeps_its_remedy() -> None:
    fault = Fault("public.events", "a trigger refuses it", "Change the trigger")
    one = only(replace(WELL, runs={**WELL.runs, "quota": Run(DAY, NOW, faults=(fault,))}))
    assert (one.kind, one.severity, one.subject) == (Kind.MIGRATION_FAILED, Severity.URGENT, "quota: public.events")
    assert one.remedy.startswith("Change the trigger")


@pytest.mark.parametrize(
    ("name", "kind"), [("quota", Kind.MIGRATION_FAILED), ("scrub", Kind.SCRUB_OVERDUE), ("drill", Kind.DRILL_FAILED)]
)
def test_a_run_that_does_not_come_rings_half_a_period_late(name: str, kind: Kind) -> None:
    def late(days: float, *, ever: bool = True) -> list[Kind]:
        at = NOW - days * DAY
        return [
            c.kind for c in judged(replace(WELL, runs={**WELL.runs, name: Run(2 * DAY, at if ever else None, at)})).conditions
        ]

    assert late(2.9) == []
    assert late(3.1) == [kind]
    assert only(replace(WELL, runs={**WELL.runs, name: Run(2 * DAY, NOW - 4 * DAY)})).hold_seconds == 3600
    assert late(3.1, ever=False) == [kind]


@pytest.mark.parametrize(
    ("minutes", "every"), [(1, "every minute"), (15, "every 15 minutes"), (60, "every hour"), (180, "every 3 hours")]
)
def test_a_run_that_takes_longer_than_its_period_is_at_work_and_not_late(minutes: int, every: str) -> None:
    def late(hours: float) -> list[str]:
        run = Run(timedelta(minutes=minutes), NOW - timedelta(hours=hours))
        return [c.cause for c in judged(replace(WELL, runs={**WELL.runs, "quota": run})).conditions]

    assert late(5.9) == []
    assert [every in cause for cause in late(6.1)] == [True]


@pytest.mark.parametrize(
    ("ok_days", "due_days", "late"),
    [(15, 7.1, True), (13, 13.1, False), (7.2, 7.1, True), (None, 7.1, True), (0.2, 0.1, False)],
)
def test_a_job_that_missed_two_of_its_times_is_late(ok_days: float | None, due_days: float, late: bool) -> None:
    """Whatever came between: of one that runs every hour a few hours say nothing, of a weekly one a week does not."""
    ok_at = None if ok_days is None else NOW - ok_days * DAY
    job = Job(NOW - due_days * DAY, 7 * DAY, NOW - 20 * DAY, ok_at, "tiers.main: it is locked")
    found = judged(replace(WELL, jobs={"archive": job}))
    assert [(c.kind, c.subject, c.hold_seconds) for c in found.conditions] == [(Kind.JOB_LATE, "archive", 3600)] * late
    if late:
        (one,) = found.conditions
        never = "it never went well in 20.0 days" if ok_days is None else f"it last went well {ok_days:.1f} days ago"
        assert one.cause == f"{never}, and is due every 7 days; the last try: tiers.main: it is locked"
        assert "`tierkeeper archive run`" in one.remedy
        assert 'archive = "off"' in one.remedy


def test_a_run_that_is_late_by_what_it_left_is_told_once() -> None:
    job = Job(NOW - 1.1 * DAY, DAY, NOW - 20 * DAY, NOW - 3 * DAY)
    one = only(replace(WELL, runs={**WELL.runs, "quota": Run(DAY, NOW - 3 * DAY)}, jobs={"quota": job}))
    assert one.kind == Kind.MIGRATION_FAILED
    assert (Kind.JOB_LATE, "jobs") in judged(replace(WELL, jobs=None)).unsaid


def test_a_failed_drill_and_damage_ring() -> None:
    runs = {**WELL.runs, "drill": Run(90 * DAY, NOW, faults=(Fault("the archive", "one is damaged", ""),))}
    facts = replace(WELL, runs=runs, damage=(Fault("the store", "1 of 9 objects are wrong", ""),))
    assert {c.kind for c in judged(facts).conditions} == {Kind.DRILL_FAILED, Kind.DAMAGED}
    assert all("`tierkeeper archive" in c.remedy for c in judged(facts).conditions)
    assert all("; then" not in c.remedy for c in judged(facts).conditions if c.kind is Kind.DRILL_FAILED)


@pytest.mark.parametrize(
    ("days", "severity"), [(15, None), (13, Severity.WARNING), (2, Severity.SERIOUS), (-1, Severity.SERIOUS)]
)
def test_what_expires_rings_in_time(days: float, severity: Severity | None) -> None:
    token = Expiry("this machine's token", NOW + days * DAY, "Make another", 14 * DAY)
    facts = replace(WELL, served=(token,))
    assert [c.severity for c in judged(facts).conditions] == ([] if severity is None else [severity])
    if severity is not None:  # by its date, which stays true where nobody can ask any more
        assert only(facts).what == f"this machine's token {'has expired' if days < 0 else f'expires on {token.at:%Y-%m-%d}'}"


def test_a_home_server_that_is_away_silences_no_other_certificate() -> None:
    core = Expiry("the certificate of core's server", NOW + DAY, "Renew it", 14 * DAY)
    found = judged(replace(WELL, expiries=(core,), served=None))
    assert [(c.subject, c.scope) for c in found.conditions] == [(core.what, "expiries")]
    assert (Kind.EXPIRING, "home server") in found.unsaid
    assert (Kind.EXPIRING, "expiries") not in found.unsaid
    token = Expiry("this machine's token", NOW + DAY, "Make another", 14 * DAY)
    assert only(replace(WELL, served=(token,))).scope == "home server"


def test_what_could_not_be_had_is_unsaid() -> None:
    found = judged(Facts(NOW))
    assert found.conditions == ()
    assert {(Kind.EXPIRING, "expiries"), (Kind.DAMAGED, "archive"), (Kind.SCRUB_OVERDUE, "scrub")} <= found.unsaid
