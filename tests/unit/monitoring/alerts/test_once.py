"""A full tier rings once, however many runs found no room there, and nobody misses what is graver or another thing."""

from datetime import UTC, datetime, timedelta

import pytest

from tierkeeper.kernel.series import Sample
from tierkeeper.monitoring.alerts.conditions import judge
from tierkeeper.monitoring.alerts.facts import Facts, Fault, Run, TierFacts
from tierkeeper.monitoring.alerts.model import Kind
from tierkeeper.quotas.room import StoreRoom

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
QUOTA = 1_000_000


class Noon:
    def now(self, _ask: object = None) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def kinds(
    share: float, *, firing: tuple[tuple[str, str], ...] = (), others: tuple[Fault, ...] = (), stuck: bool = True
) -> list[str]:
    used = int(share * QUOTA)
    full = StoreRoom(QUOTA, lambda: used, list, Noon()).full(used, QUOTA)  # type: ignore[arg-type]
    assert full is not None
    of_quota = Fault(full.place, full.cause, full.remedy)
    by_audit = Fault("public.events to archive", f"tiers.archive: {full.cause} (2026-03-01 04:00 UTC)", "")
    samples = tuple(Sample(NOW - timedelta(minutes=5 * i), used) for i in range(40, 0, -1))
    archive = TierFacts("archive", QUOTA, used, read_only=False, slots=(), samples=samples)
    runs = {
        "quota": Run(DAY, NOW, faults=(*((of_quota,) if stuck else ()), *others)),
        "archive": Run(DAY, NOW, faults=(by_audit,) if stuck else ()),
    }
    return sorted(f"{c.kind.value}: {c.subject}" for c in judge(Facts(NOW, (archive,), runs), 0.85, firing).conditions)


@pytest.mark.parametrize(("share", "rings"), [(1.01, "breached: archive"), (0.9, "migration failed: quota: tiers.archive")])
def test_it_rings_once(share: float, rings: str) -> None:
    assert kinds(share) == [rings]
    assert kinds(share, firing=(tuple(rings.split(": ", 1)),)) == [rings]  # type: ignore[arg-type]


def test_what_rings_goes_on_where_the_tier_gets_fuller() -> None:
    assert kinds(1.01, firing=((Kind.MIGRATION_FAILED, "archive: public.events to archive"),)) == [
        "migration failed: archive: public.events to archive"
    ]


def test_another_failure_rings_beside_it() -> None:
    assert kinds(1.01, others=(Fault("public.u", "a trigger refuses it", "Change it"),)) == [
        "breached: archive",
        "migration failed: quota: public.u",
    ]


def test_where_no_move_was_stopped_nothing_is_covered() -> None:
    assert kinds(0.9, stuck=False) == ["approaching: archive"]
