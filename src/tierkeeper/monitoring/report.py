"""Makes of what was measured and of its history what the user is told. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tierkeeper.kernel import results as r
from tierkeeper.kernel.errors import TierkeeperError
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.tables import TableName
from tierkeeper.monitoring.model import Activity, Details, Figures, Measured, activity


@dataclass(frozen=True)
class Kept:
    """The history by tier and table: samples and what they say was done."""

    samples: Mapping[tuple[Tier, TableName | None], Sequence[Figures]]
    days: Mapping[tuple[Tier, TableName | None], Sequence[Activity]]

    @classmethod
    def of(cls, samples: Iterable[Figures]) -> "Kept":
        """`samples` in the order of time."""
        by_thing: dict[tuple[Tier, TableName | None], list[Figures]] = {}
        for sample in samples:
            by_thing.setdefault((sample.tier, sample.table), []).append(sample)
        done: dict[tuple[Tier, TableName | None], list[Activity]] = {}
        for one in activity(sample for of_one in by_thing.values() for sample in of_one):
            done.setdefault((one.tier, one.table), []).append(one)
        return cls(by_thing, done)

    def curve(self, tier: Tier, table: TableName | None) -> list[r.UsageSample]:
        return [r.UsageSample(at=s.at, bytes=s.bytes) for s in self.samples.get((tier, table), ())]

    def done(self, tier: Tier, table: TableName | None) -> list[r.UsageDay]:
        found = self.days.get((tier, table), ())
        return [
            r.UsageDay(day=a.day, reads=a.reads, writes=a.writes, cache_hits=a.cache_hits, cache_reads=a.cache_reads)
            for a in found
        ]


@dataclass(frozen=True)
class Egress:
    """What was received from a tier's database this month, and its provider's budget."""

    received_bytes: int | None
    budget_bytes: int | None


def tier_usage(
    tier: Tier,
    quota_bytes: int,
    measured: Measured | None,
    error: TierkeeperError | None,
    kept: Kept,
    *,
    egress: Egress,
    policy: Collection[TableName],
    only: TableName | None,
) -> r.TierUsage:
    """What is said of a tier; of its tables only `only`, where that is given. Those of the `policy` come first."""
    told = None if error is None else r.ErrorResult(place=error.place, cause=error.cause, remedy=error.remedy)
    known = r.TierUsage(
        quota_bytes=quota_bytes,
        error=told,
        samples=kept.curve(tier, None),
        days=kept.done(tier, None),
        egress_bytes_this_month=egress.received_bytes,
        egress_budget_bytes=egress.budget_bytes,
    )
    if measured is None:
        return known
    names = sorted(measured.tables, key=lambda n: (n not in policy, -measured.tables[n].bytes, n))
    tables = {
        str(name): _table(measured.tables[name], measured.details.get(name), kept, of_policy=name in policy)
        for name in names
        if only in (None, name)
    }
    return known.model_copy(update={**_whole(measured), "tables": tables})


def _whole(measured: Measured) -> dict[str, object]:
    """A tier's own figures; its database's are not known where it does not answer, and only the store does."""
    found: dict[str, object] = {}
    if measured.tier is not None:
        same = ("bytes", "wal_bytes", "reads", "writes", "cache_hits", "cache_reads", "stats_reset")
        found |= {name: getattr(measured.tier, name) for name in same}
    if measured.database_bytes:
        found |= {
            name: getattr(measured, name) for name in ("database_bytes", "system_bytes", "own_bytes", "other_databases_bytes")
        }
        found["tables_bytes"] = max(0, measured.database_bytes - measured.system_bytes - measured.own_bytes)
    found["slots"] = [
        r.UsageSlot(name=s.name, kind=s.kind, active=s.active, pinned_wal_bytes=s.pinned_wal_bytes, wal_status=s.wal_status)
        for s in measured.slots
    ]
    if measured.statements is not None:
        found["slow_statements"] = [
            r.SlowStatement(text=s.text, calls=s.calls, seconds=round(s.seconds, 3), rows=s.rows) for s in measured.statements
        ]
    return found


def _table(figures: Figures, details: Details | None, kept: Kept, *, of_policy: bool) -> r.TableUsage:
    counted = {} if details is None else {name: getattr(details, name) for name in Details.__dataclass_fields__}
    names = ("bytes", "heap_bytes", "toast_bytes", "index_bytes", "dead_bytes", "reusable_bytes", "rows", "parts")
    sizes = {name: getattr(figures, name) for name in (*names, "cache_hits", "cache_reads")}
    return r.TableUsage(
        **sizes,
        **counted,
        of_policy=of_policy,
        samples=kept.curve(figures.tier, figures.table),
        days=kept.done(figures.tier, figures.table),
    )
