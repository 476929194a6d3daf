"""What is said of tiers, tables, services and files."""

from datetime import datetime

from pydantic import Field

from tierkeeper.kernel.results.base import FaultResult, Result
from tierkeeper.kernel.results.spending import CostResult, CostTotal, ForecastResult


class CheckItem(Result):
    """One thing that was looked at, and found good."""

    place: str
    finding: str


class CheckResult(Result):
    """`check`: everything that was looked at. Faults are an error document instead."""

    ok: bool
    checks: list[CheckItem]
    notes: list[str] = Field(default=[], description="true, harmless, and worth knowing")


class SetupStep(Result):
    """One step of a setup: where, what, and the SQL or file it comes to."""

    tier: str
    action: str
    sql: str = ""
    table: str = Field(default="", description="the table that it is for; the steps of one table are made together, or not")


class TrustedResult(Result):
    """An authority that was pinned: from now on it alone vouches for the tier's server at this host."""

    tier: str
    host: str
    sha256: str = Field(description="the fingerprint of its certificate, 64 hexadecimal digits")
    file: str = Field(description="where it lies; delete the file to believe it no longer")
    replaced: str | None = Field(default=None, description="the fingerprint of the one that was pinned before")


class SetupResult(Result):
    """`setup`: the plan, and whether it was applied. An empty plan means nothing is missing."""

    applied: bool
    steps: list[SetupStep]
    notes: list[str] = Field(default=[])
    trusted: list[TrustedResult] = Field(default=[], description="authorities that were confirmed and pinned before all else")
    waiting: list[str] = Field(default=[], description="tables for which nothing was done; the others went on")
    errors: list[FaultResult] = Field(default=[], description="why they wait")


class TierStatus(Result):
    """One tier as it is now."""

    used_bytes: int | None = Field(description="as the provider counts it; null where the tier does not answer")
    quota_bytes: int
    share: float | None = Field(description="used / quota")
    healthy: bool
    read_only: bool | None = None
    egress_bytes_this_month: int | None = Field(
        default=None, description="what tierkeeper received from its database; null: not known"
    )
    egress_budget_bytes: int | None = Field(default=None, description="its provider's monthly budget, where there is one")
    cause: str | None = Field(default=None, description="why it is not healthy, or what to look at although it is")
    remedy: str | None = None
    forecast: ForecastResult | None = Field(default=None, description="when it is full")
    cost: CostResult | None = Field(default=None, description="what it costs this month")


class TableStatus(Result):
    """One table of the policy. Row counts are the servers' estimates, except the archive's; null: no such table there."""

    mode: str = Field(description='"move" or "mirror"; "none": no [[tables]] entry names it, but rows of it are below Core')
    core_rows_estimate: int | None = None
    main_rows_estimate: int | None = None
    archive_rows: int | None = None
    in_flight: int | None = Field(default=None, description="batches that an interrupted move left; the next run settles them")
    conflicts: list[str] = Field(default=[], description="keys that are in Core and in Main; Core's row counts")
    cause: str | None = Field(
        default=None, description="why `query` refuses it: rows of it have moved, and its entry says otherwise"
    )
    remedy: str | None = None


class DrillStatus(Result):
    """How the last restore drill went."""

    at: datetime
    ok: bool
    segments: int
    restored: int
    wrong: list[str] = Field(default=[], description="what a new machine would be stopped by")


class ReadingStatus(Result):
    """How far the archive's segments were read back whole, to prove that they still can be."""

    segments: int
    unread: int = Field(description="never read back since they were written")
    oldest_read_at: datetime | None = Field(description="when that segment was read whose reading is longest ago")
    stalest_at: datetime | None = Field(default=None, description="the longest that any segment was not read, or written")
    first_written_at: datetime | None = Field(default=None, description="when the oldest segment was written")
    drill: DrillStatus | None = Field(default=None, description="null where there was none yet")


class StatusResult(Result):
    """`status`."""

    tiers: dict[str, TierStatus]
    tables: dict[str, TableStatus]
    archive: ReadingStatus | None = Field(default=None, description="null where the archive's catalog does not answer")
    cost: CostTotal | None = Field(default=None, description="of all tiers")
    undelivered: dict[str, str] = Field(default={}, description="targets of alerts that did not get the last one, and why")


class HealthItem(Result):
    """One service or tier that was asked."""

    name: str
    healthy: bool
    latency_seconds: float | None = None
    cause: str | None = None
    remedy: str | None = None
    service: str | None = Field(default=None, description="as [[balance.services]] names it; null: a tier, or the store")
    backend: str | None = Field(default=None, description="host:port; null where it speaks of the service as a whole")


class HealthResult(Result):
    """`IntelligentLoadBalancer.test_health_checks`."""

    ok: bool
    checks: list[HealthItem]


class InitResult(Result):
    """`init`: the file that was written, the variables it refers to, and those that still have to be set."""

    file: str
    found: list[str]
    missing: list[str]


class QueryFile(Result):
    """`query --output FILE`: without a file, `query --json` prints a list of objects, one for each row."""

    output: str
    rows: int
    bytes: int
