"""What is said of how full and how busy the tiers are, now and over time."""

from datetime import date, datetime
from typing import Literal

from pydantic import Field

from tierkeeper.kernel.results.base import ErrorResult, FaultResult, Result


class UsageSample(Result):
    """A figure at an instant."""

    at: datetime
    bytes: int


class UsageDay(Result):
    """What was done on a day (UTC), from how the server's counters grew."""

    day: date
    reads: int = Field(description="rows that scans and indexes gave")
    writes: int = Field(description="rows that were inserted, updated or deleted")
    cache_hits: int = Field(description="pages that the server had in its memory")
    cache_reads: int = Field(description="pages that it had not")


class UsageSlot(Result):
    """A replication slot, which keeps log for its reader beside the database's own size."""

    name: str
    kind: str
    active: bool
    pinned_wal_bytes: int | None = Field(description="null where it keeps nothing")
    wal_status: str | None = None


class SlowStatement(Result):
    """A statement without any value in it, since the statistics began."""

    text: str
    calls: int
    seconds: float
    rows: int


class TableUsage(Result):
    """A table in one tier, with its partitions and children. The archive has `bytes`, `rows` and `parts` (segments) alone."""

    bytes: int
    heap_bytes: int | None = None
    toast_bytes: int | None = None
    index_bytes: int | None = None
    dead_bytes: int | None = Field(default=None, description="estimate: deleted rows that no VACUUM has met")
    reusable_bytes: int | None = Field(default=None, description="estimate: free within the files, which stay as large")
    rows: int | None = Field(default=None, description="the server's estimate; the archive's is exact")
    parts: int | None = None
    scan_reads: int | None = Field(default=None, description="rows that scans gave; these counters grow until they are reset")
    index_reads: int | None = None
    inserts: int | None = None
    updates: int | None = None
    deletes: int | None = None
    cache_hits: int | None = None
    cache_reads: int | None = None
    estimated: bool = Field(default=False, description="it is locked: its size is what it was when last vacuumed or analysed")
    of_policy: bool = Field(description="a [[tables]] entry names it; else it is one of the largest beside those")
    samples: list[UsageSample] = Field(default=[], description="all its bytes over time, oldest first")
    days: list[UsageDay] = Field(default=[])


class TierUsage(Result):
    """A tier now and over time. Figures are null where it does not answer; `error` says why."""

    bytes: int | None = Field(default=None, description="as the provider counts; the archive's is what its store holds")
    quota_bytes: int
    database_bytes: int | None = Field(default=None, description="its database; of the archive its catalog's")
    tables_bytes: int | None = Field(default=None, description="of that, what is the application's")
    system_bytes: int | None = Field(default=None, description="of that, the system catalogs")
    own_bytes: int | None = Field(default=None, description="of that, the schema tierkeeper")
    other_databases_bytes: int | None = Field(default=None, description="what the provider counts beside it")
    wal_bytes: int | None = Field(default=None, description="log on disk; null where the role may not see it (pg_monitor)")
    reads: int | None = None
    writes: int | None = None
    cache_hits: int | None = None
    cache_reads: int | None = None
    stats_reset: datetime | None = None
    slots: list[UsageSlot] = Field(default=[])
    slow_statements: list[SlowStatement] | None = Field(default=None, description="null without pg_stat_statements")
    egress_bytes_this_month: int | None = Field(
        default=None, description="what tierkeeper received from its database; null: not known"
    )
    egress_budget_bytes: int | None = Field(default=None, description="its provider's monthly budget, where there is one")
    samples: list[UsageSample] = Field(default=[], description="`bytes` over time, oldest first")
    days: list[UsageDay] = Field(default=[])
    tables: dict[str, TableUsage] = Field(default={})
    error: ErrorResult | None = None


class RecordResult(Result):
    """`usage --record`: where a sample of everything went, and what could not be measured."""

    at: datetime
    where: Literal["main", "spool", "nowhere"] = Field(description="Main, or this machine until Main is back")
    samples: int
    sent: int = Field(default=0, description="samples that had waited on this machine and are in Main now")
    errors: list[FaultResult] = Field(default=[])


class UsageResult(Result):
    """`usage`."""

    at: datetime
    tiers: dict[str, TierUsage]
    history: ErrorResult | None = Field(default=None, description="why Main's samples are not among these; null: they are")
    recorded: RecordResult | None = None
